//! What no message may become, whatever a sender, a list or a template hands over.

use bytes::Bytes;
use rules::recipient::{FormatTreatment, Transfer};
use smtp::client::{ClientEvent, ClientSession, ClientSettings, Envelope, Timeouts, TlsMode};

use super::*;

/// The first eleven forms of SMTP smuggling. The rest are about a listener.
const FORMS: [&str; 11] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\n\r.\n\r",
    "\r\r\n.\r\r\n",
    "\r\n \r\n .\r\n",
];

/// What lenient receivers somewhere have taken for the end of a message.
const ENDS: [&[u8]; 11] = [
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\n\r.\n\r",
    b"\r\r\n.\r\r\n",
];

/// Behind a form: what would be a message of somebody else.
const EVIL: &str = "MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nevil\r\n.\r\n";

/// What goes over the wire behind the 354 for a content; `None`: the client does not send it.
fn wire(content: &[u8]) -> Option<Vec<u8>> {
    let now = Timestamp::from_secs(1);
    let mut session = ClientSession::new(
        ClientSettings {
            helo: "we.example".into(),
            tls: TlsMode::Disabled,
            lmtp: false,
            timeouts: Timeouts::default(),
            max_messages: 2,
            pipelining: true,
            chunking: true,
        },
        now,
    );
    let mut pieces = Vec::new();
    for answer in [
        "220 mx\r\n".to_owned(),
        "250-mx\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n".to_owned(),
        String::new(),
        "250 ok\r\n".repeat(2) + "354 go\r\n",
    ] {
        session.receive(now, answer.as_bytes());
        if answer.is_empty() {
            session.enqueue(
                now,
                Envelope {
                    token: 1,
                    sender: "b@we.example".into(),
                    recipient: "user@example.org".into(),
                    content: Bytes::copy_from_slice(content),
                    smtputf8: false,
                    test_only: false,
                    send_before: Timestamp::NEVER,
                },
            );
        }
        let mut piece = Vec::new();
        while let Some(more) = session.next_to_send() {
            piece.extend_from_slice(&more);
        }
        session.written(now, piece.len());
        pieces.push(piece);
        while let Some(event) = session.poll_event() {
            if let ClientEvent::Done { verdict, .. } = event {
                assert!(
                    matches!(verdict, mail::attempt::Verdict::Unsendable { .. }),
                    "{verdict:?}"
                );
                return None;
            }
        }
    }
    let commands = String::from_utf8(pieces[2].clone()).unwrap();
    assert!(commands.starts_with("MAIL FROM:") && commands.lines().count() == 3, "{commands}");
    pieces.pop()
}

/// Whether strict and lenient receivers alike find one end: at the end.
fn assert_one_message(wire: &[u8], what: &str) {
    for end in ENDS {
        let first = wire.windows(end.len()).position(|found| found == end);
        let at_the_end = first.is_none_or(|at| at >= wire.len() - 5);
        assert!(at_the_end, "{what}: {} ends {}", end.escape_ascii(), wire.escape_ascii());
    }
    assert!(wire.ends_with(b"\r\n.\r\n") || wire == b".\r\n", "{what}");
    let mut rest = wire;
    while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
        assert!(rest[end..].starts_with(b"\r\n"), "{what}: {}", wire.escape_ascii());
        rest = &rest[end + 2..];
    }
    assert!(!wire.contains(&0), "{what}");
}

/// Every way in which a text comes into a message, with a body that holds `hostile`.
fn contents_with(hostile: &str) -> Vec<(&'static str, Option<Bytes>)> {
    let head = "From: a@example.com\r\nSubject: s\r\n\r\n";
    let body = format!("before{hostile}{EVIL}");
    let raw = |message: String| {
        let spec = ContentSpec::single_message(message.into_bytes());
        let made = Template::compile(&spec, settings()).ok()?.render(&input("")).unwrap();
        Some(made.content)
    };
    let campaign = || {
        let spec = ContentSpec::from_eml(format!("{head}{body}").as_bytes()).ok()?;
        Some(Template::compile(&spec, settings()).ok()?.render(&input("")).unwrap().content)
    };
    let fixed = TemplateSpec {
        subject: "s".into(),
        html: Some(body.clone()),
        text: Some(body.clone()),
        ..spec()
    };
    let merged = TemplateSpec {
        subject: "s".into(),
        html: Some("<p>{{ name }}".into()),
        text: Some("{{ name }}{# by the engine #}".into()),
        ..spec()
    };
    let data = serde_json::json!({ "name": body }).to_string();
    let plain = FormatTreatment {
        html_transfer: Transfer::EightBit,
        text_transfer: Transfer::EightBit,
        ..FormatTreatment::default()
    };
    let shaped = |spec: &TemplateSpec| {
        let spec = ContentSpec::Template(spec.clone());
        let template = Template::compile_as(&spec, settings(), &plain).unwrap();
        Some(template.render(&input(&data)).unwrap().content)
    };
    vec![
        ("a complete message", raw(format!("{head}{body}"))),
        ("a complete message without a last line end", raw(format!("{head}{body}x"))),
        ("the header of a complete message", raw(format!("X-A: {body}\r\n{head}x\r\n"))),
        ("a complete campaign", campaign()),
        ("fixed texts", Some(render(fixed.clone(), "{}").unwrap().content)),
        ("merge data", Some(render(merged.clone(), &data).unwrap().content)),
        ("fixed texts as they are", shaped(&fixed)),
        ("merge data as it is", shaped(&merged)),
    ]
}

#[test]
fn smuggling_forms_leave_as_one_message() {
    for (number, form) in (1..).zip(FORMS) {
        let mut sent = 0;
        for (way, content) in contents_with(form) {
            let Some(octets) = content.as_deref().and_then(wire) else { continue };
            sent += 1;
            assert_one_message(&octets, &format!("form {number} by {way}"));
        }
        // With NUL it goes only where an encoding carries it; otherwise always.
        let wanted = if form.contains('\0') { 2 } else { 7 };
        assert!(sent >= wanted, "form {number} was sent {sent} times");
    }
}

/// The texts that would break out of a header field.
const BREAKS: [&str; 9] = [
    "a\r\nBcc: x@y.example",
    "a\r\n\r\nbody",
    "a\nBcc: x@y.example",
    "a\rBcc: x@y.example",
    "a\0b",
    "a\u{1b}[2J",
    "a\u{85}Bcc: x@y.example",
    "a\u{2028}Bcc: x@y.example",
    "a\u{7f}",
];

/// A template with `text` in one of its fields.
fn with_field(field: &str, text: &str) -> TemplateSpec {
    let mut made = TemplateSpec { subject: "s".into(), ..spec() };
    let attachment = |name: &str, media: &str, id: Option<&str>| Attachment {
        name: name.into(),
        content_type: media.into(),
        content: b"x".to_vec(),
        content_id: id.map(str::to_owned),
    };
    match field {
        "subject" => made.subject = text.into(),
        "from.name" => made.from.name = text.into(),
        "from.address" => made.from.address = format!("{text}@example.com"),
        "from.domain" => made.from.address = format!("a@{text}"),
        "reply_to.name" => {
            made.reply_to =
                Some(AddressSpec { name: text.into(), address: "r@example.com".into() });
        }
        "reply_to.address" => {
            made.reply_to =
                Some(AddressSpec { name: String::new(), address: format!("{text}@example.com") });
        }
        "to_name" => made.to_name = text.into(),
        "headers.value" => {
            made.headers = vec![HeaderSpec { name: "X-A".into(), value: text.into() }];
        }
        "headers.name" => made.headers = vec![HeaderSpec { name: text.into(), value: "x".into() }],
        "attachment.name" => made.attachments = vec![attachment(text, "text/plain", None)],
        "attachment.content_type" => made.attachments = vec![attachment("a.txt", text, None)],
        "attachment.content_id" => {
            made.attachments = vec![attachment("a.txt", "text/plain", Some(text))];
        }
        "unsubscribe.url" => {
            let url = format!("https://x.example/{text}");
            made.unsubscribe = Unsubscribe::Own { url, one_click: true };
        }
        "feedback.campaign" => made.feedback_id.campaign = text.into(),
        "feedback.customer" => made.feedback_id.customer = text.into(),
        "feedback.mail_type" => made.feedback_id.mail_type = text.into(),
        other => panic!("{other} is no field"),
    }
    made
}

#[test]
fn no_field_of_a_template_begins_another() {
    const FIELDS: [&str; 16] = [
        "subject",
        "from.name",
        "from.address",
        "from.domain",
        "reply_to.name",
        "reply_to.address",
        "to_name",
        "headers.value",
        "headers.name",
        "attachment.name",
        "attachment.content_type",
        "attachment.content_id",
        "unsubscribe.url",
        "feedback.campaign",
        "feedback.customer",
        "feedback.mail_type",
    ];
    // Those that may be templates; the others keep the marker as it is, or refuse it.
    const MERGED: [&str; 5] =
        ["subject", "from.name", "to_name", "headers.value", "unsubscribe.url"];
    for field in FIELDS {
        for text in BREAKS {
            // Stated once: said at once, before any recipient.
            let stated = compile(with_field(field, text));
            let late = ["to_name", "unsubscribe.url"].contains(&field);
            let refused = match stated {
                Err(_) => true,
                Ok(template) => late && template.render(&input(r#"{"name":"x"}"#)).is_err(),
            };
            assert!(refused, "{field}: {text:?}");
            // From a list.
            if MERGED.contains(&field) {
                let data = serde_json::json!({ "name": text, "hostile": text }).to_string();
                for marker in [
                    "{{ hostile }}",
                    "{{ hostile|upper }}",
                    "{% if hostile %}{{ hostile }}{% endif %}",
                ] {
                    let template = compile(with_field(field, marker)).unwrap();
                    assert!(template.render(&input(&data)).is_err(), "{field} {marker}: {text:?}");
                }
            } else if let Ok(template) = compile(with_field(field, "{{ name }}")) {
                let content = template.render(&input(r#"{"name":"x"}"#)).unwrap().content;
                assert_clean(&content);
            }
        }
    }
}

/// What means something inside a field is carried as text and read back as the same text: no second
/// address, no other file name, no field that a reader decodes into two.
#[test]
fn what_is_special_in_a_field_is_text_there() {
    for name in [
        "a, b@x.example",
        "<evil@x.example>",
        "\" <evil@x.example>, \"",
        "a\\",
        "(comment",
        ":;group:",
        "=?utf-8?Q?=0D=0ABcc:_x@y.example?=",
        "=?utf-8?B?DQpCY2M6IHg=?=",
        "{{ 7 * 7 }}",
        "${run{id}}",
        "%0d%0aBcc: x",
        "<script>alert(1)</script>",
        "\u{202e}moc.elpmaxe",
    ] {
        let data = serde_json::json!({ "name": name }).to_string();
        let made = TemplateSpec {
            subject: "{{ name }}".into(),
            to_name: "{{ name }}".into(),
            from: AddressSpec { name: "{{ name }}".into(), address: "news@example.com".into() },
            headers: vec![HeaderSpec { name: "X-A".into(), value: "{{ name }}".into() }],
            ..spec()
        };
        let usual = compile(TemplateSpec {
            headers: vec![HeaderSpec { name: "X-A".into(), value: "x".into() }],
            ..spec()
        });
        let usual = usual.unwrap().render(&input(r#"{"name":"x"}"#)).unwrap();
        let count = MessageParser::new().parse(&usual.content[..]).unwrap().headers().len();
        let prepared = match render(made, &data) {
            Ok(prepared) => prepared,
            Err(fault) => panic!("{name:?}: {fault}"),
        };
        assert_clean(&prepared.content);
        let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
        assert_eq!(message.subject(), Some(name));
        for (field, address) in
            [(message.to(), "user@example.org"), (message.from(), "news@example.com")]
        {
            let all: Vec<_> = field.unwrap().iter().collect();
            assert_eq!(all.len(), 1, "{name:?}");
            assert_eq!(all[0].address(), Some(address), "{name:?}");
            assert_eq!(all[0].name(), Some(name));
        }
        assert_eq!(message.headers().len(), count, "{name:?}");
        let html = message.body_html(0).unwrap();
        assert!(!html.contains("<script>") && !html.contains("<evil"), "{html}");
    }
}

/// Group 32: names of files.
#[test]
fn names_of_files_stay_names() {
    for (name, taken) in [
        ("a.txt", true),
        ("\u{dc}bersicht 2026.pdf", true),
        ("a;b=c.txt", true),
        ("a\".exe", true),
        ("a'b%20c.txt", true),
        ("a.txt\"; filename*0*=utf-8''evil.exe", true),
        ("x; name=\"b.exe", true),
        ("=?utf-8?B?ZXZpbC5leGU=?=", true),
        (&"long ".repeat(40), true),
        ("", false),
        (".", false),
        ("..", false),
        ("../etc/passwd", false),
        ("/etc/passwd", false),
        ("a/b", false),
        ("a\\b", false),
        ("C:\\a.txt", false),
        ("a\r\nX: b", false),
        ("a\0.txt", false),
        ("invoice\u{202e}fdp.exe", false),
    ] {
        let compiled = compile(with_field("attachment.name", name));
        assert_eq!(compiled.is_ok(), taken, "{name:?}: {compiled:?}");
        if let Ok(template) = compiled {
            let content = template.render(&input(r#"{"name":"x"}"#)).unwrap().content;
            assert_clean(&content);
            let message = MessageParser::new().parse(&content[..]).unwrap();
            let found: Vec<_> =
                message.attachments().map(|part| part.attachment_name().unwrap()).collect();
            assert_eq!(found, [name]);
        }
    }
    for (media, taken) in [
        ("text/plain", true),
        ("application/vnd.x+json", true),
        ("multipart/mixed", false),
        ("Multipart/Mixed", false),
        ("message/rfc822", false),
        ("MESSAGE/RFC822", false),
        ("text/plain; charset=x", false),
        ("text/html\r\nX: b", false),
        ("text", false),
        ("/", false),
        ("", false),
    ] {
        let compiled = compile(with_field("attachment.content_type", media));
        assert_eq!(compiled.is_ok(), taken, "{media:?}: {compiled:?}");
    }
}

/// A name in a list cannot end the part of the message in which it stands, in any encoding.
#[test]
fn no_merge_data_ends_its_part() {
    let known = render(spec(), r#"{"name":"x"}"#).unwrap().content;
    let known = String::from_utf8(known.to_vec()).unwrap();
    let (_, rest) = known.split_once("boundary=\"").unwrap();
    let (boundary, _) = rest.split_once('"').unwrap();
    let data = serde_json::json!({
        "name": format!("x\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\nevil\r\n--{boundary}--\r\n")
    });
    let data = data.to_string();
    let spec = TemplateSpec { subject: "fixed".into(), ..spec() };
    for transfer in
        [Transfer::Shorter, Transfer::QuotedPrintable, Transfer::Base64, Transfer::EightBit]
    {
        let format = FormatTreatment {
            html_transfer: transfer,
            text_transfer: transfer,
            ..FormatTreatment::default()
        };
        let spec = ContentSpec::Template(spec.clone());
        let template = Template::compile_as(&spec, settings(), &format).unwrap();
        // The boundary follows from the content, so it is looked for in what this one makes.
        let own = template.render(&input(r#"{"name":"x"}"#)).unwrap().content;
        let own = String::from_utf8(own.to_vec()).unwrap();
        let (_, rest) = own.split_once("boundary=\"").unwrap();
        let data = data.replace(boundary, rest.split('"').next().unwrap());
        match template.render(&input(&data)) {
            Ok(prepared) => {
                let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
                assert_eq!(message.parts.len(), 3, "{transfer:?}");
                assert_ne!(transfer, Transfer::EightBit);
            }
            Err(RenderFault::Template { message, .. }) => {
                assert!(message.contains("would end its part"), "{message}");
                assert_eq!(transfer, Transfer::EightBit);
            }
            Err(other) => panic!("{transfer:?}: {other}"),
        }
    }
}

/// Templates that are made to fill the memory, the stack or the hours of a node. Whether they are refused when they are
/// compiled or with a recipient: it takes no time worth mentioning.
#[test]
fn templates_that_explode() {
    let doubled =
        |times: usize| format!("{{% set a = name %}}{}", "{% set a = a ~ a %}".repeat(times));
    let loops = |body: &str| {
        format!(
            "{{% set n = namespace(v=name) %}}{{% for i in range(100000) %}}{body}{{% endfor %}}{{{{ n.v }}}}"
        )
    };
    let rows: Vec<(&str, String)> = vec![
        ("doubled by ~", doubled(60)),
        ("doubled by +", doubled(60).replace('~', "+")),
        ("doubled by a block", format!("{{% set a = name %}}{}", "{% set a %}{{ a }}{{ a }}{% endset %}".repeat(60))),
        ("doubled by a list", format!("{{% set a = [name] %}}{}{{{{ a|length }}}}", "{% set a = a + a %}".repeat(60)) + "{{ a }}"),
        ("doubled by lists of lists", format!("{{% set a = [name] %}}{}{{{{ a }}}}", "{% set a = [a, a] %}".repeat(60))),
        ("doubled by maps", format!("{{% set a = {{}} %}}{}{{{{ a }}}}", "{% set a = {'x': a, 'y': a} %}".repeat(60))),
        ("doubled in a namespace", loops("{% set n.v = n.v ~ n.v %}")),
        ("doubled by a macro", "{% macro m(s, k) %}{% if k %}{{ m(s ~ s, k - 1) }}{% endif %}{% endmacro %}{{ m('xx', 45) }}".into()),
        ("doubled by joining", format!("{{% set a = name %}}{}", "{% set a = [a, a]|join(a) %}".repeat(60))),
        ("doubled by replacing", format!("{{% set a = 'xxxxxxxx' %}}{}", "{% set a = a|replace('x', a) %}".repeat(10))),
        ("doubled by format", format!("{{% set a = 'x' %}}{}", "{% set a = '%s%s'|format(a, a) %}".repeat(60))),
        ("doubled by a filter of a map", format!("{{% set a = name %}}{}", "{% set a = [a, a]|map('upper')|join %}".repeat(60))),
        ("a text times 10^11", "{{ 'x' * 100000000000 }}".into()),
        ("a text times 10^8, often", "{{ 'x' * 100000000 }}".repeat(300)),
        ("a variable times 10^8", "{{ name * 50000000 }}".into()),
        ("a number times a text", "{{ 100000000 * 'x' }}".into()),
        ("a list times 10^12", "{{ ([1] * 1000000000000)|list|length }}".into()),
        ("a list times 10^12, joined", "{{ ([name] * 1000000000000)|join }}".into()),
        ("10^18 blanks", "{{ 'x'|indent(1000000000000000000) }}".into()),
        ("10^18 blanks by name", "{{ 'x'|indent(width=1000000000000000000, first=true) }}".into()),
        ("many lines of many blanks", "{{ ('\n' * 10000)|indent(10000) }}".into()),
        ("10^18 parts", "{{ [1]|slice(1000000000000000000) }}".into()),
        ("10^18 in a batch", "{{ [1]|batch(1000000000000000000, 'x') }}".into()),
        ("a width of 10^12", "{{ '%1000000000000d'|format(1) }}".into()),
        ("a precision of 10^12", "{{ '%.1000000000000f'|format(1.0) }}".into()),
        ("a width from elsewhere", "{{ '%*d'|format(1000000000, 1) }}".into()),
        ("nothing replaced by much", "{{ ('x' * 100000)|replace('', 'y' * 100000) }}".into()),
        ("nested lists", loops("{% set n.v = [n.v] %}")),
        ("nested maps", loops("{% set n.v = {'x': n.v} %}")),
        ("nested batches", loops("{% set n.v = [n.v]|batch(1)|list %}")),
        ("namespaces within namespaces", loops("{% set x = namespace() %}{% set x.p = n.v %}{% set n.v = x %}")),
        ("a namespace within itself", "{% set n = namespace() %}{% set n.v = n %}{{ n }}".into()),
        ("much work for nothing", format!("{{% set a = name * 1000000 %}}{}", loops("{% set b = a|upper %}"))),
        ("much printed into a block", format!("{{% set a = name * 100000 %}}{}", loops("{% set b %}{{ a }}{% endset %}"))),
        ("brackets", format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000))),
        ("lists", format!("{{{{ {}1{} }}}}", "[".repeat(50_000), "]".repeat(50_000))),
        ("signs", format!("{{{{ {}1 }}}}", "-".repeat(50_000))),
        ("operators", format!("{{{{ 'x'{} }}}}", " ~ 'x'".repeat(50_000))),
        ("filters", format!("{{{{ name{} }}}}", "|upper".repeat(50_000))),
        ("blocks", format!("{}x{}", "{% if name %}".repeat(20_000), "{% endif %}".repeat(20_000))),
        ("choices", format!("{{% if name == 'a' %}}x{}{{% endif %}}", "{% elif name == 'b' %}y".repeat(20_000))),
        ("negations", format!("{{% if {} name %}}x{{% endif %}}", "not ".repeat(50_000))),
        ("conditions", format!("{{% if name{} %}}x{{% endif %}}", " and name".repeat(50_000))),
        ("calls", format!("{{{{ name{} }}}}", "()".repeat(50_000))),
        ("choices in a row", format!("{{{{ {} 2 }}}}", "1 if name else ".repeat(50_000))),
        ("many loops", format!("{}x{}", "{% for a in range(9) %}".repeat(149), "{% endfor %}".repeat(149))),
        ("attributes", format!("{{{{ name{} }}}}", ".a".repeat(50_000))),
    ];
    let check = |what: &str, html: &str| {
        let begun = std::time::Instant::now();
        let made =
            TemplateSpec { html: Some(html.to_owned()), text: None, subject: "s".into(), ..spec() };
        if let Ok(template) = compile(made) {
            let rendered = template.render(&input(r#"{"name":"xxxxxxxx"}"#));
            // What is harmless may come out; it is small then.
            assert!(rendered.is_err() || rendered.unwrap().content.len() < OUTPUT_LIMIT, "{what}");
        }
        assert!(begun.elapsed().as_secs() < 20, "{what} took {:?}", begun.elapsed());
    };
    // On threads with the stack that those of a node have.
    std::thread::scope(|scope| {
        for some in rows.chunks(rows.len().div_ceil(4)) {
            scope.spawn(move || some.iter().for_each(|(what, html)| check(what, html)));
        }
    });
}

/// What senders write is not disturbed by the bounds.
#[test]
fn ordinary_templates_come_out_the_same() {
    let items =
        r#"{"name":"Jo","items":[{"t":"A","p":2,"n":3},{"t":"B","p":1.5,"n":4}],"tags":["x","y"]}"#;
    for (html, wanted) in [
        ("{{ name ~ ', ' ~ tags|join(' & ') }}", "Jo, x &amp; y"),
        (
            "{% set n = namespace(sum=0) %}{% for i in items %}{% set n.sum = n.sum + i.p * i.n %}{% endfor %}{{ n.sum }}",
            "12.0",
        ),
        ("{% for i in items|sort(attribute='p') %}{{ loop.index }}{{ i.t }}{% endfor %}", "1B2A"),
        ("{{ '-' * 5 }}{{ (tags + ['z'])|last }}{{ {'a': 1}.a }}", "-----z1"),
        ("{{ items|map(attribute='t')|join(', ') }} {{ '%05.1f'|format(2.25) }}", "A, B 002.2"),
        ("{{ name if tags|length + 1 > 2 else 'no' }}{{ dict(a=2).a }}", "Jo2"),
        (
            "{% macro m(a, b='!') %}{{ a ~ b }}{% endmacro %}{{ m(name) }}{{ m('x', b='?') }}",
            "Jo!x?",
        ),
        ("{% set a, b = 1, 2 %}{{ a + b }}{{ -a * b }}{{ tags[0] ~ tags[-1] }}", "3-2xy"),
        ("{{ missing|default('d') ~ 'e' }}{{ [3, 1, 2]|sort|first }}{{ 7 // 2 }}", "de13"),
    ] {
        let made =
            TemplateSpec { html: Some(html.into()), text: None, subject: "s".into(), ..spec() };
        let content = render(made, items).unwrap_or_else(|fault| panic!("{html}: {fault}")).content;
        let message = MessageParser::new().parse(&content[..]).unwrap();
        assert_eq!(message.body_html(0).unwrap().trim_end(), wanted, "{html}");
    }
}

/// Group 26: structures of complete messages, as files of campaigns. They are read or refused, in time and without a
/// stack that grows with them.
#[test]
fn odd_structures() {
    let head = "From: a@example.com\r\nSubject: s\r\nMIME-Version: 1.0\r\n";
    let multipart = |boundary: &str| {
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n")
    };
    let text = "Content-Type: text/plain\r\n\r\nDear {{ name }}\r\n";
    let of = |boundary: &str| format!("{head}{}{text}--{boundary}--\r\n", multipart(boundary));
    let deep = |levels: usize, boundary: fn(usize) -> String| {
        let opening: String = (0..levels).map(|level| multipart(&boundary(level))).collect();
        format!("{head}{opening}{text}")
    };
    let within = "Content-Type: message/rfc822\r\n\r\nFrom: a@example.com\r\n".repeat(5_000);
    for (what, message) in [
        ("a boundary of 70", of(&"b".repeat(70))),
        ("a boundary of 71", of(&"b".repeat(71))),
        ("a boundary of 10,000", of(&"b".repeat(10_000))),
        ("a boundary of nothing", of("")),
        ("no boundary", format!("{head}Content-Type: multipart/mixed\r\n\r\n{text}")),
        ("a boundary that never comes", format!("{head}{}", multipart("b").replace("--b", "--c"))),
        ("a boundary at the end", format!("{head}{}{text}--b", multipart("b"))),
        ("1,000 within each other", deep(1_000, |level| format!("b{level}"))),
        ("20,000 within each other", deep(20_000, |level| format!("b{level}"))),
        ("the same boundary 20,000 times", deep(20_000, |_| "b".to_owned())),
        ("messages within messages", format!("{head}{within}\r\n{{{{ name }}}}")),
        (
            "100,000 parts",
            format!("{head}{}{}", multipart("b"), format!("{text}--b\r\n").repeat(100_000)),
        ),
        ("100,000 fields", format!("{head}{}\r\n{{{{ name }}}}", "X-A: b\r\n".repeat(100_000))),
    ] {
        let begun = std::time::Instant::now();
        let read = ContentSpec::from_eml(message.as_bytes());
        if let Ok(spec) = &read {
            // What was read can be sent, or the fault is said at once.
            let _ = Template::compile(spec, settings());
        }
        assert!(begun.elapsed().as_secs() < 20, "{what} took {:?}", begun.elapsed());
    }
}
