use std::sync::Arc;

use mail::verp::{Verp, VerpKey};
use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;

mod hostile;

fn settings() -> Arc<SenderSettings> {
    let domain = Domain::parse("bounces.example.com").unwrap();
    Arc::new(SenderSettings {
        return_path: ReturnPath::new(domain, vec![VerpKey::new(&[9; 32]).unwrap()]).unwrap(),
        dkim: DkimKeys::default(),
        unsubscribe_base: Some("https://mail.example.com/".into()),
        unsubscribe_mailto: None,
        feedback_sender: "mailweir".into(),
        output_limit: OUTPUT_LIMIT,
    })
}

fn spec() -> TemplateSpec {
    TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@example.com".into() },
        subject: "Hello {{ name }}".into(),
        html: Some("<p>Dear {{ name }},</p>\n<p>static line</p>\n".into()),
        text: Some("Dear {{ name }},\nstatic line\n".into()),
        ..TemplateSpec::default()
    }
}

fn compile(spec: TemplateSpec) -> Result<Template, TemplateFault> {
    Template::compile(&ContentSpec::Template(spec), settings())
}

fn input(merge_json: &str) -> RenderInput<'_> {
    RenderInput {
        message_id: MessageId(123),
        delivery: DeliveryId(4),
        recipient: "user@example.org",
        merge_json,
        now: Timestamp::from_secs(1_795_245_379),
    }
}

fn render(spec: TemplateSpec, merge_json: &str) -> Result<Prepared, RenderFault> {
    compile(spec).unwrap().render(&input(merge_json))
}

fn assert_clean(content: &[u8]) {
    let mut rest = content;
    while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
        assert!(rest[end..].starts_with(b"\r\n") && end <= 998, "{}", content.escape_ascii());
        rest = &rest[end + 2..];
    }
    assert!(rest.is_empty(), "ends without CRLF: {}", content.escape_ascii());
    assert!(content.is_ascii() && !content.contains(&0));
}

#[test]
fn a_message_has_every_promised_field() {
    let prepared = render(spec(), r#"{"name":"Jörg <b>"}"#).unwrap();
    assert_clean(&prepared.content);
    assert!(!prepared.eight_bit && !prepared.smtputf8);
    let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
    assert_eq!(message.subject(), Some("Hello Jörg <b>"));
    assert_eq!(message.from().unwrap().first().unwrap().name(), Some("Shop"));
    assert_eq!(message.to().unwrap().first().unwrap().address(), Some("user@example.org"));
    assert_eq!(message.date().unwrap().to_timestamp(), 1_795_245_379);
    assert_eq!(message.header_raw("X-Mailweir-Id").map(str::trim), Some("m123"));
    assert_eq!(message.header_raw("Feedback-ID").map(str::trim), Some("d4:::mailweir"));
    assert_eq!(
        message.body_html(0).unwrap(),
        "<p>Dear Jörg &lt;b&gt;,</p>\r\n<p>static line</p>\r\n"
    );
    assert_eq!(message.body_text(0).unwrap(), "Dear Jörg <b>,\r\nstatic line\r\n");
    let paths = &settings().return_path;
    let expected = |purpose| Ok(Verp { purpose, message: MessageId(123), delivery: DeliveryId(4) });
    assert_eq!(paths.decode(&prepared.envelope_sender), expected(Purpose::Bounce));
    let (left, right) = message.message_id().unwrap().split_once('@').unwrap();
    assert_eq!(right, "example.com");
    assert_eq!(paths.decode_name(left), expected(Purpose::MessageId));
    let unsubscribe: Vec<&str> =
        message.header_raw("List-Unsubscribe").unwrap().split_ascii_whitespace().collect();
    let token = unsubscribe[0].strip_prefix("<https://mail.example.com/u/").unwrap();
    assert_eq!(
        paths.decode_name(token.strip_suffix(">,").unwrap()),
        expected(Purpose::Unsubscribe)
    );
    let address = unsubscribe[1].strip_prefix("<mailto:").unwrap();
    let address = address.strip_suffix("?subject=unsubscribe>").unwrap();
    assert_eq!(paths.decode(address), expected(Purpose::Unsubscribe));
    assert_eq!(
        message.header_raw("List-Unsubscribe-Post").map(str::trim),
        Some("List-Unsubscribe=One-Click")
    );
    for absent in ["Auto-Submitted", "Bcc", "Return-Path", "Received", "DKIM-Signature"] {
        assert!(message.header(absent).is_none(), "{absent}");
    }
    let again = render(spec(), r#"{"name":"Jörg <b>"}"#).unwrap();
    assert_eq!(again, prepared, "one input, one output");
}

#[test]
fn syntax_errors_name_part_line_and_column() {
    let rows = [
        ("line\n  {{ name", Part::Html, 2),
        ("{% if %}", Part::Html, 1),
        ("\n\n{% nonsense %}", Part::Html, 3),
        ("a\n{{ name | no_such_filter }}", Part::Html, 2),
        ("{{ name | upper | no_such_filter(1) }}", Part::Html, 1),
        ("{{ customer.name | no_such_filter }}", Part::Html, 1),
        ("{% if name is no_such_test %}x{% endif %}", Part::Html, 1),
        ("a {% include 'text' %}", Part::Html, 1),
        ("\n{%- extends 'text' %}", Part::Html, 2),
        ("{% from 'text' import x %}", Part::Html, 1),
    ];
    for (html, part, line) in rows {
        let fault = compile(TemplateSpec { html: Some(html.into()), ..spec() }).expect_err(html);
        assert_eq!((&fault.part, fault.line), (&part, line), "{html:?}: {fault}");
    }
    // In a branch that is entered for some recipients only it is found when it runs; then it says where.
    let html = "{% if name == 'x' %}\n{{ name | no_such_filter }}{% endif %}";
    let template = compile(TemplateSpec { html: Some(html.into()), ..spec() }).unwrap();
    let fault = template.render(&input(r#"{"name":"x"}"#)).unwrap_err();
    assert!(matches!(fault, RenderFault::Template { line: 2, .. }), "{fault}");
    let fault = compile(TemplateSpec { html: Some("ü {{ }}".into()), ..spec() }).unwrap_err();
    assert_eq!(fault.line, 1);
    assert!(fault.column >= 3, "{fault}");
}

#[test]
fn an_undefined_or_null_variable_fails_the_recipient() {
    for html in [
        "x\n{{ missing }}",
        "x\n{{ missing|upper }}",
        "x\n{% if missing %}a{% endif %}",
        "x\n{{ name.missing }}",
        "x\n{% for a in missing %}{% endfor %}",
        "x\n{{ nothing }}",
        "x\n{% if true %}{{ nothing }}{% endif %}",
    ] {
        let spec = TemplateSpec { html: Some(html.into()), ..spec() };
        let fault = render(spec, r#"{"name":"x","nothing":null}"#).unwrap_err();
        let RenderFault::Undefined { part: Part::Html, line: 2, variable } = &fault else {
            panic!("{html}: {fault}")
        };
        assert!(html.contains(variable.as_str()) && variable.len() > 3, "{html}: {variable}");
    }
    let fault = render(spec(), "").unwrap_err();
    assert_eq!(
        fault.to_string(),
        "subject, line 1: the variable name is not defined for this recipient"
    );
    let defaulted = TemplateSpec {
        subject: "{{ missing|default('friend') }}".into(),
        html: Some("{% if missing is defined %}a{% else %}b{% endif %}".into()),
        text: None,
        ..spec()
    };
    assert!(render(defaulted, "").is_ok());
}

#[test]
fn required_variables_are_those_without_a_default() {
    let template = compile(TemplateSpec {
        subject: "{{ first }} {{ email }}".into(),
        html: Some(
            "{{ a|default('x') }}{{ b|upper }}{% for i in range(3) %}{{ c.d }}{% endfor %}{% if e is \
             defined %}{{ e }}{% endif %}{{ unsubscribe_url }}"
                .into(),
        ),
        text: Some("{{ second }}".into()),
        ..spec()
    })
    .unwrap();
    assert_eq!(template.required_variables(), ["b", "c", "first", "second"]);
    let places: Vec<String> =
        template.required_places().iter().map(|(name, part)| format!("{name} {part}")).collect();
    assert_eq!(places, ["b html", "c html", "first subject", "second text"]);
}

#[test]
fn merge_data_cannot_begin_a_header_field() {
    for bad in ["a\\r\\nBcc: x@y.example", "a\\nb", "a\\rb", "a\\u0000b", "a\\u2028b", "a\\u0085"] {
        let json = format!(r#"{{"name":"{bad}"}}"#);
        let fault = render(spec(), &json).unwrap_err();
        assert!(matches!(fault, RenderFault::Header { part: Part::Subject, .. }), "{bad}: {fault}");
        let header = HeaderSpec { name: "X-Campaign".into(), value: "{{ name }}".into() };
        let spec = TemplateSpec { subject: "fixed".into(), headers: vec![header], ..spec() };
        assert!(matches!(render(spec, &json), Err(RenderFault::Header { .. })));
    }
    let body_only = TemplateSpec { subject: "fixed".into(), ..spec() };
    let prepared = render(body_only, r#"{"name":"a\r\n.\r\n\u0000--=_mw"}"#).unwrap();
    assert_clean(&prepared.content);
    let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
    assert_eq!(message.parts.len(), 3);
    assert_eq!(message.body_text(0).unwrap(), "Dear a\r\n.\r\n\0--=_mw,\r\nstatic line\r\n");
}

#[test]
fn markers_in_merge_data_stay_data() {
    let prepared =
        render(spec(), r#"{"name":"{{ email }}{% for x in y %}${7*7}<%= 1 %>"}"#).unwrap();
    let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
    assert_eq!(message.subject(), Some("Hello {{ email }}{% for x in y %}${7*7}<%= 1 %>"));
}

#[test]
fn a_template_cannot_run_away() {
    let rows = [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(30000) %}{{ 'x' * 100 }}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
    ];
    for html in rows {
        let spec = TemplateSpec { html: Some(html.into()), ..spec() };
        let fault = render(spec, r#"{"name":"x"}"#).unwrap_err();
        assert!(
            matches!(fault, RenderFault::Template { .. } | RenderFault::TooLarge { .. }),
            "{html}: {fault}"
        );
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(OUTPUT_LIMIT));
    let spec = TemplateSpec { subject: "fixed".into(), ..spec() };
    assert_eq!(render(spec, &large), Err(RenderFault::TooLarge { limit: OUTPUT_LIMIT }));
}

#[test]
fn impossible_contents_are_refused_at_once() {
    let header = |name: &str, value: &str| HeaderSpec { name: name.into(), value: value.into() };
    let bad_address = AddressSpec { name: String::new(), address: "nobody".into() };
    let rows = [
        TemplateSpec { from: bad_address.clone(), ..spec() },
        TemplateSpec { reply_to: Some(bad_address), ..spec() },
        TemplateSpec { subject: "two\nlines".into(), ..spec() },
        TemplateSpec { html: None, text: None, ..spec() },
        TemplateSpec { headers: vec![header("Bcc", "x")], ..spec() },
        TemplateSpec { headers: vec![header("DKIM-Signature", "x")], ..spec() },
        TemplateSpec { headers: vec![header("Content-Type", "x")], ..spec() },
        TemplateSpec { headers: vec![header("Bad Name", "x")], ..spec() },
        TemplateSpec { headers: vec![header("X-A", "a\r\nb")], ..spec() },
        TemplateSpec { headers: vec![header("X-A", "a"), header("x-a", "b")], ..spec() },
        TemplateSpec {
            feedback_id: FeedbackLabel { campaign: "a:b".into(), ..FeedbackLabel::default() },
            ..spec()
        },
        TemplateSpec {
            attachments: vec![Attachment {
                name: "../etc/passwd".into(),
                content_type: "text/plain".into(),
                content: vec![],
                content_id: None,
            }],
            ..spec()
        },
    ];
    for spec in rows {
        let shown = format!("{spec:?}");
        assert!(compile(spec).is_err(), "{shown}");
    }
}

#[test]
fn attachments_and_pictures_are_parts() {
    let attachment = |name: &str, id: Option<&str>| Attachment {
        name: name.into(),
        content_type: "image/png".into(),
        content: (0..=255).collect(),
        content_id: id.map(str::to_owned),
    };
    let spec = TemplateSpec {
        attachments: vec![
            attachment("Übersicht 2026.png", None),
            attachment("a.png", Some("pic@1")),
        ],
        ..spec()
    };
    let prepared = render(spec, r#"{"name":"x"}"#).unwrap();
    assert_clean(&prepared.content);
    let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let names: Vec<_> = message
        .attachments()
        .map(|part| {
            assert_eq!(part.contents(), all);
            part.attachment_name().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["a.png", "Übersicht 2026.png"]);
    assert!(message.body_html(0).unwrap().contains("Dear x"));
}

#[test]
fn the_senders_own_unsubscribe_link() {
    let own = |url: &str, one_click| TemplateSpec {
        unsubscribe: Unsubscribe::Own { url: url.into(), one_click },
        html: Some("<a href=\"{{ unsubscribe_url }}\">x</a>".into()),
        ..spec()
    };
    let content = |spec| {
        let prepared = render(spec, r#"{"name":"x","id":"77"}"#)?;
        Ok::<_, RenderFault>(String::from_utf8(prepared.content.to_vec()).unwrap())
    };
    let with = content(own("https://shop.example/u?c={{ id }}", true)).unwrap();
    assert!(
        with.contains("List-Unsubscribe: <https://shop.example/u?c=3D77>")
            || with.contains("<https://shop.example/u?c=77>"),
        "{with}"
    );
    assert!(with.contains("List-Unsubscribe-Post"));
    assert!(
        !content(own("https://shop.example/u?c={{ id }}", false))
            .unwrap()
            .contains("List-Unsubscribe-Post")
    );
    for bad in [
        "http://shop.example/{{ id }}",
        "javascript:{{ id }}",
        "https://x.example/ {{ id }}",
        "https://é.example/{{ id }}",
        "https://x.example/>{{ id }}",
    ] {
        assert!(
            matches!(content(own(bad, true)), Err(RenderFault::UnsubscribeUrl { .. })),
            "{bad}"
        );
    }
    let none = TemplateSpec { unsubscribe: Unsubscribe::None, ..spec() };
    assert!(!content(none).unwrap().contains("List-Unsubscribe"));
}

#[test]
fn the_configured_mailbox_takes_unsubscriptions() {
    let with = SenderSettings {
        unsubscribe_mailto: Some("un+sub%1@example.com".into()),
        ..SenderSettings::clone(&settings())
    };
    let template = Template::compile(&ContentSpec::Template(spec()), Arc::new(with)).unwrap();
    let content = template.render(&input(r#"{"name":"x"}"#)).unwrap().content;
    let text = String::from_utf8(content.to_vec()).unwrap().replace("\r\n ", "");
    let field = text.lines().find(|line| line.starts_with("List-Unsubscribe: ")).unwrap();
    let (_, mailto) = field.split_once("<mailto:").unwrap();
    let token = mailto.strip_prefix("un%2Bsub%251@example.com?subject=unsubscribe%20").unwrap();
    let token = token.strip_suffix('>').unwrap();
    // The token names message and delivery, as that of the link does.
    assert!(field.contains(&format!("/u/{token}>")), "{field}");
}

#[test]
fn fields_that_mean_nothing_are_refused_in_unsubscribe() {
    let read = serde_json::from_str::<Unsubscribe>;
    let own = |one_click| Unsubscribe::Own { url: "https://x.example/".into(), one_click };
    assert_eq!(read(r#"{"mode":"managed"}"#).unwrap(), Unsubscribe::Managed);
    assert_eq!(read(r#"{"mode":"own","url":"https://x.example/"}"#).unwrap(), own(false));
    for content in [Unsubscribe::Managed, Unsubscribe::None, own(true)] {
        let text = serde_json::to_string(&content).unwrap();
        assert_eq!(serde_json::from_str::<Unsubscribe>(&text).unwrap(), content);
    }
    for (bad, wanted) in [
        (
            r#"{"mode":"own","url":"https://x.example/","one_clik":true}"#,
            "unknown field `one_clik`",
        ),
        (r#"{"mode":"managed","one_click":true}"#, "mode \"own\" alone"),
        (r#"{"mode":"none","colour":1}"#, "unknown field `colour`"),
        (r#"{"mode":"own"}"#, "needs a url"),
        (r#"{"mode":"mail"}"#, "unknown variant `mail`"),
    ] {
        let fault = read(bad).unwrap_err().to_string();
        assert!(fault.contains(wanted), "{bad}: {fault}");
    }
}

#[test]
fn a_single_message_is_sent_as_it_is() {
    let message = b"Return-Path: <x@y.example>\r\nFrom: a@example.com\r\nBcc: secret@example.net\r\nSubject: hi\r\n\r\n.dot\r\n\xc3\xa9\r\n";
    let template =
        Template::compile(&ContentSpec::single_message(message.to_vec()), settings()).unwrap();
    let prepared = template.render(&input("")).unwrap();
    let text = String::from_utf8(prepared.content.to_vec()).unwrap();
    assert!(prepared.eight_bit && !prepared.smtputf8);
    assert!(text.ends_with("\r\n\r\n.dot\r\né\r\n"), "{text}");
    for absent in ["Return-Path", "Bcc", "List-Unsubscribe"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    for present in ["Date: ", "Message-ID: <i-", "From: a@example.com", "X-Mailweir-Id: m123"] {
        assert_eq!(text.matches(present).count(), 1, "{present}: {text}");
    }
    let complete = b"From: a@example.com\nDate: Thu, 1 Jan 1970 00:00:00 +0000\nMessage-ID: <own@example.com>\n\nbare\rlines\n";
    let spec = ContentSpec::single_message(complete.to_vec());
    let content = Template::compile(&spec, settings()).unwrap().render(&input("")).unwrap().content;
    assert_clean(&content);
    let text = String::from_utf8(content.to_vec()).unwrap();
    assert!(
        text.contains("Message-ID: <own@example.com>\r\n")
            && text.ends_with("\r\n\r\nbare\r\nlines\r\n")
    );
    for bad in [
        &b"no field here\r\n\r\n"[..],
        b"From: a@b.example\r\nFrom: c@d.example\r\n\r\n",
        b"X: \0\r\n\r\n",
        b"From: a@b.example\r\n\r\nbo\0dy\r\n",
    ] {
        assert!(Template::compile(&ContentSpec::single_message(bad.to_vec()), settings()).is_err());
    }
    for (octets, end, fits) in [
        (998, "\r\n", true),
        (999, "\r\n", false),
        (998, "\n", true),
        (999, "\n", false),
        (999, "", false),
    ] {
        let message = format!("From: a@example.com\r\n\r\n{}{end}", "x".repeat(octets));
        let spec = ContentSpec::single_message(message.into_bytes());
        match Template::compile(&spec, settings()) {
            Ok(_) => assert!(fits, "{octets} {end:?}"),
            Err(fault) => assert_eq!((fits, fault.line), (false, 3), "{octets} {end:?}: {fault}"),
        }
    }
}

#[test]
fn eml_files_become_templates_or_stay_as_they_are() {
    let merged = b"From: Shop <news@example.com>\r\nTo: x@example.com\r\nSubject: =?UTF-8?Q?F=C3=BCr_{{_name_}}?=\r\n\
        X-Campaign: spring\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\nDear {{ name }}\r\n--b\r\nContent-Type: text/html\r\n\r\n<b>{{ name }}</b>\r\n--b--\r\n";
    let spec = ContentSpec::from_eml(merged).unwrap();
    let ContentSpec::Template(template) = &spec else { panic!("{spec:?}") };
    assert_eq!(template.subject, "Für {{ name }}");
    assert_eq!(
        template.headers,
        [HeaderSpec { name: "X-Campaign".into(), value: "spring".into() }]
    );
    assert_eq!(ContentSpec::decode(&spec.encode()), Ok(spec.clone()));
    let prepared =
        Template::compile(&spec, settings()).unwrap().render(&input(r#"{"name":"Jo"}"#)).unwrap();
    let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
    assert_eq!(message.subject(), Some("Für Jo"));
    assert!(message.body_text(0).unwrap().starts_with("Dear Jo"));

    let plain = b"From: news@example.com\r\nTo: list@example.com\r\nMessage-ID: <1@x>\r\nSubject: same\r\n\r\nfor all\r\n";
    let spec = ContentSpec::from_eml(plain).unwrap();
    assert_eq!(ContentSpec::decode(&spec.encode()), Ok(spec.clone()));
    let prepared = Template::compile(&spec, settings()).unwrap().render(&input("")).unwrap();
    let text = String::from_utf8(prepared.content.to_vec()).unwrap();
    assert!(
        text.contains("To: user@example.org\r\n") && !text.contains("list@example.com"),
        "{text}"
    );
    assert!(!text.contains("<1@x>") && text.contains("List-Unsubscribe-Post"), "{text}");

    assert_eq!(ContentSpec::from_eml(b"Subject: no from\r\n\r\nx"), Err(ContentFault::NoFrom));
    assert!(ContentSpec::from_eml(b"").is_err());
    assert!(ContentSpec::decode(b"raw {}").is_err());
}

#[test]
fn messages_are_signed() {
    let mut settings = Arc::unwrap_or_clone(settings());
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let key = crate::dkim::DkimKeyText { domain: "example.com".into(), selector: "s1".into(), pem };
    settings.dkim = DkimKeys::load([&key]).unwrap();
    let template = Template::compile(&ContentSpec::Template(spec()), Arc::new(settings)).unwrap();
    let prepared = template.render(&input(r#"{"name":"x"}"#)).unwrap();
    assert!(prepared.content.starts_with(b"DKIM-Signature: v=1; a=ed25519-sha256;"));
    let head = String::from_utf8(prepared.content.to_vec()).unwrap().replace("\r\n\t", "");
    assert!(head.contains(
        "h=from:from:to:subject:date:message-id:mime-version:content-type:list-unsubscribe:list-unsubscribe-post:feedback-id;"
    ), "{head}");
}

/// A template that is put together from pieces gives what the engine gives.
fn by_both_ways(source: &str, json: &str) -> (String, String) {
    let spec = |html: String| TemplateSpec {
        html: Some(html),
        text: None,
        subject: "s".into(),
        ..TemplateSpec { from: spec().from, ..TemplateSpec::default() }
    };
    // A comment that prints nothing sends the text to the engine.
    let plain = render(spec(source.to_owned()), json).unwrap();
    let engine = render(spec(format!("{source}{{# #}}")), json).unwrap();
    // The encoding may differ, as the comment counts for its choice.
    let body = |prepared: Prepared| {
        let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
        message.body_html(0).unwrap().trim_end_matches("\r\n").to_owned()
    };
    (body(plain), body(engine))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_and_engine_agree(
        literals in prop::collection::vec("[a-z =.<>&'\n\r\u{e9}]{0,100}", 2..6),
        value in "\\PC{0,60}[\r\n]?",
        number: i64,
        other in prop_oneof![Just("1.5"), Just("true"), Just("[1,\"a\"]"), Just("18446744073709551615")],
        with_other: bool,
    ) {
        let names = ["value", "number", "other", "value", "number"];
        let mut source = String::new();
        for (literal, name) in literals.iter().zip(names) {
            source.push_str(literal);
            if name != "other" || with_other {
                source.push_str(&format!("{{{{ {name} }}}}"));
            }
        }
        let json = format!(
            "{{\"value\":{},\"number\":{number},\"other\":{other},\"unused\":[{{}}]}}",
            serde_json::to_string(&value).unwrap()
        );
        let (plain, engine) = by_both_ways(&source, &json);
        prop_assert_eq!(plain, engine);
    }

    #[test]
    fn any_merge_data_gives_a_clean_message_or_a_fault(name in "(?s).{0,80}", json in "\\PC{0,40}") {
        let template = compile(spec()).unwrap();
        let data = serde_json::json!({ "name": name }).to_string();
        match template.render(&input(&data)) {
            Ok(prepared) => {
                assert_clean(&prepared.content);
                let message = MessageParser::new().parse(&prepared.content[..]).unwrap();
                prop_assert_eq!(message.headers().len(), 11);
                prop_assert_eq!(message.subject().unwrap(), format!("Hello {name}"));
            }
            Err(fault) => prop_assert!(matches!(fault, RenderFault::Header { .. }), "{}", fault),
        }
        let _ = template.render(&input(&json));
    }
}

/// Prints what a render costs: `cargo test --release -- --ignored --nocapture render_speed`.
#[test]
#[ignore = "a measurement, not a check"]
fn render_speed() {
    let line =
        "<p style=\"margin:0\">Some words of a campaign that is sent to everybody, 2026.</p>\n";
    let body = |marker: &str| format!("{}{marker}{}", line.repeat(12), line.repeat(12));
    let rows = [
        ("plain variables", "<p>Dear {{ first }} {{ last }},</p>\n"),
        ("engine", "<p>{% if vip %}Dear {{ first|upper }}{% endif %},</p>\n"),
    ];
    for (name, marker) in rows {
        let template = compile(TemplateSpec {
            subject: "News for {{ first }}".into(),
            html: Some(body(marker)),
            text: None,
            ..spec()
        })
        .unwrap();
        let json =
            r#"{"first":"Johanna","last":"Doe","vip":"yes","code":"X-12345","city":"Paris"}"#;
        let rounds = 100_000;
        let begun = std::time::Instant::now();
        let mut octets = 0;
        for number in 0..rounds {
            let input = RenderInput { message_id: MessageId(number), ..input(json) };
            octets += template.render(&input).unwrap().content.len();
        }
        let spent = begun.elapsed().as_secs_f64() * 1e6 / rounds as f64;
        println!("{name}: {spent:.2} us for a message of {} octets", octets / rounds as usize);
    }
}
