use mail_parser::{Address, HeaderValue, MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;
use crate::address::Mailbox;
use crate::id::{DeliveryId, MessageId};
use crate::verp::{ReturnPath, VerpKey};

/// Every promise about lines that the module makes.
fn assert_clean(octets: &[u8], limit: usize) {
    let mut rest = octets;
    while let Some(end) = rest.iter().position(|&octet| matches!(octet, b'\r' | b'\n')) {
        assert!(rest[end..].starts_with(b"\r\n"), "bare CR or LF: {}", rest.escape_ascii());
        assert!(end <= limit, "line of {end}: {}", rest[..end].escape_ascii());
        rest = &rest[end + 2..];
    }
    assert!(rest.len() <= limit);
    assert!(octets.iter().all(|&octet| octet != 0), "NUL");
}

fn parse_with_header(headers: &Headers) -> mail_parser::Message<'_> {
    MessageParser::new().parse(headers.as_bytes()).expect("a header was written")
}

fn subject(value: &str) -> String {
    let mut headers = Headers::new();
    headers.text("Subject", value).unwrap();
    String::from_utf8(headers.into_bytes()).unwrap()
}

#[test]
fn writes_plain_and_encoded_text() {
    let rows = [
        ("Hello", "Subject: Hello\r\n"),
        ("", "Subject:\r\n"),
        ("Grüße", "Subject: =?UTF-8?B?R3LDvMOfZQ==?=\r\n"),
        ("A grüner Apfel am Baum", "Subject: =?UTF-8?Q?A_gr=C3=BCner_Apfel_am_Baum?=\r\n"),
        (
            "looks =?UTF-8?Q?encoded?=",
            "Subject: =?UTF-8?B?bG9va3MgPT9VVEYtOD9RP2VuY29kZWQ/PQ==?=\r\n",
        ),
    ];
    for (value, expected) in rows {
        assert_eq!(subject(value), expected, "{value}");
    }
    let long = subject("word ".repeat(40).trim_end());
    assert!(long.lines().count() > 2 && long.lines().all(|line| line.len() <= 78), "{long}");
}

#[test]
fn refuses_what_could_begin_another_field() {
    let mut headers = Headers::new();
    for bad in
        ["a\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\u{7f}", "a\u{85}b", "a\u{2028}b", "\u{1b}["]
    {
        let fault = headers.text("Subject", bad).unwrap_err();
        assert!(matches!(fault, HeaderFault::Control { .. }), "{bad:?}: {fault}");
        assert!(headers.tokens("X-A", bad).is_err());
        assert!(headers.parameters("Content-Type", "a/b", &[("name", bad)]).is_err());
        let mailbox = Mailbox::parse("a@b.example").unwrap();
        let address = AddressField { name: bad, mailbox: &mailbox };
        assert!(headers.addresses("To", &[address]).is_err());
    }
    for bad in ["", "Bad Name", "Bad:Name", "Bad\r\nName", "Bäd", &"x".repeat(77)] {
        let fault = headers.text(bad, "x").unwrap_err();
        assert!(matches!(fault, HeaderFault::Name { .. }), "{bad:?}");
    }
    let too_long = headers.tokens("List-Unsubscribe", &format!("<https://{}>", "x".repeat(1_000)));
    assert!(matches!(too_long, Err(HeaderFault::TooLong { .. })));
    let huge = headers.text("Subject", &"x ".repeat(40_000));
    assert!(matches!(huge, Err(HeaderFault::TooLong { .. })));
    assert!(matches!(headers.tokens("X-A", "ü"), Err(HeaderFault::NotAscii { .. })));
    assert_eq!(headers, Headers::new(), "a refused field leaves nothing behind");
}

#[test]
fn writes_addresses() {
    let mailbox = Mailbox::parse("user@example.com").unwrap();
    let rows = [
        ("", "To: user@example.com\r\n"),
        ("John Doe", "To: John Doe <user@example.com>\r\n"),
        ("Doe, John", "To: \"Doe, John\" <user@example.com>\r\n"),
        ("J. \"X\" \\", "To: \"J. \\\"X\\\" \\\\\" <user@example.com>\r\n"),
        ("Jörg", "To: =?UTF-8?B?SsO2cmc=?= <user@example.com>\r\n"),
    ];
    for (name, expected) in rows {
        let mut headers = Headers::new();
        headers.addresses("To", &[AddressField { name, mailbox: &mailbox }]).unwrap();
        assert_eq!(String::from_utf8_lossy(headers.as_bytes()), expected);
    }
}

#[test]
fn writes_parameters() {
    for (value, expected) in [
        ("a.txt", "filename=a.txt"),
        ("a b;c.txt", "filename=\"a b;c.txt\""),
        ("a\"b\\.txt", "filename=\"a\\\"b\\\\.txt\""),
        ("", "filename=\"\""),
        ("\u{fc}.txt", "filename*=UTF-8''%C3%BC.txt"),
        ("=?utf-8?B?eA==?=", "filename*=UTF-8''%3D%3Futf-8%3FB%3FeA%3D%3D%3F%3D"),
    ] {
        let mut headers = Headers::new();
        headers.parameters("X-A", "attachment", &[("filename", value)]).unwrap();
        let written = String::from_utf8(headers.into_bytes()).unwrap();
        assert_eq!(written.replace("\r\n ", " "), format!("X-A: attachment; {expected}\r\n"));
    }
}

#[test]
fn dates_and_message_ids() {
    assert_eq!(date(Timestamp::EPOCH), "Thu, 1 Jan 1970 00:00:00 +0000");
    assert_eq!(date(Timestamp::from_secs(1_795_245_379)), "Sat, 21 Nov 2026 07:16:19 +0000");
    let domain = Domain::parse("example.com").unwrap();
    let paths = ReturnPath::new(
        Domain::parse("bounces.example.com").unwrap(),
        vec![VerpKey::new(&[7; 16]).unwrap()],
    )
    .unwrap();
    let id = message_id(&paths.names(MessageId(1), DeliveryId(2)), &domain);
    let left = id.strip_prefix('<').unwrap().strip_suffix("@example.com>").unwrap();
    assert_eq!(paths.decode_name(left).unwrap().message, MessageId(1));
}

#[test]
fn quoted_printable_examples() {
    let rows = [
        ("plain\nlines\r\nof\rtext", "plain\r\nlines\r\nof\r\ntext"),
        ("a=b", "a=3Db"),
        ("end \nend\t", "end=20\r\nend=09"),
        (".\n..\n.a", "=2E\r\n=2E.\r\n=2Ea"),
        ("From me", "=46rom me"),
        ("é", "=C3=A9"),
        ("\0", "=00"),
        ("\n\n", "\r\n\r\n"),
        ("\r\r\n\n", "\r\n\r\n\r\n"),
        ("", ""),
    ];
    for (text, expected) in rows {
        let mut out = Vec::new();
        quoted_printable(text, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{text:?}");
    }
    for length in 70..160 {
        let mut out = Vec::new();
        quoted_printable(&"x".repeat(length), &mut out);
        assert_clean(&out, 76);
        quoted_printable(&format!("{} ", "x".repeat(length)), &mut out);
        assert_clean(&out[..], 160);
    }
}

/// Text without controls: what a header can carry.
fn header_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,200}",
        "[ -~\u{a0}-\u{24f}\u{4e00}-\u{4e20}\u{1f600}-\u{1f640}\t]{0,120}",
        "[a-z]{300,1200}",
        "([a-z]{1,12} ){1,60}[a-z]",
        "\\PC{0,100}",
    ]
    .prop_filter("no separators", |text| !text.contains(['\u{2028}', '\u{2029}']))
}

proptest! {
    #[test]
    fn text_fields_read_back(value in header_text()) {
        let mut headers = Headers::new();
        headers.text("Subject", &value).unwrap();
        headers.text("X-After", "still here").unwrap();
        assert_clean(headers.as_bytes(), 998);
        prop_assert!(headers.as_bytes().is_ascii());
        let message = parse_with_header(&headers);
        prop_assert_eq!(message.headers().len(), 2);
        prop_assert_eq!(message.subject().unwrap_or(""), value);
        for line in headers.as_bytes().split(|&octet| octet == b'\n') {
            if line.windows(2).any(|pair| pair == b"=?") {
                prop_assert!(line.len() <= 77, "{}", line.escape_ascii());
            }
        }
    }

    #[test]
    fn address_fields_read_back(
        names in prop::collection::vec(header_text(), 1..6),
    ) {
        let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        let mailbox = Mailbox::parse("some.body+tag@example.com").unwrap();
        let fields: Vec<_> =
            names.iter().map(|name| AddressField { name, mailbox: &mailbox }).collect();
        let mut headers = Headers::new();
        headers.addresses("To", &fields).unwrap();
        headers.text("X-After", "still here").unwrap();
        assert_clean(headers.as_bytes(), 998);
        let message = parse_with_header(&headers);
        prop_assert_eq!(message.headers().len(), 2);
        let Some(Address::List(list)) = message.to() else { panic!("no addresses") };
        prop_assert_eq!(list.len(), names.len());
        for (found, name) in list.iter().zip(&names) {
            prop_assert_eq!(found.address.as_deref(), Some("some.body+tag@example.com"));
            prop_assert_eq!(found.name.as_deref().unwrap_or(""), name);
        }
    }

    #[test]
    fn parameters_read_back(value in header_text()) {
        let mut headers = Headers::new();
        headers
            .parameters("Content-Disposition", "attachment", &[("x-n", "1"), ("filename", &value)])
            .unwrap();
        headers.text("X-After", "still here").unwrap();
        assert_clean(headers.as_bytes(), 998);
        let message = parse_with_header(&headers);
        let HeaderValue::ContentType(found) = message.parts[0].headers[0].value() else {
            panic!("not read as parameters")
        };
        prop_assert_eq!(found.attribute("x-n"), Some("1"));
        prop_assert_eq!(found.attribute("filename").unwrap_or(""), value);
    }

    #[test]
    fn bodies_read_back(
        text in prop_oneof![
            "[ -~\t\r\n.=\u{e9}]{0,300}", "(\\.?[a-z ]{0,100}\n){0,6}", "\\PC{0,200}", "(?s).{0,100}",
        ],
    ) {
        let part_texts = [text.clone(), format!("<p>{text}</p>\n")];
        for encoding in [TransferEncoding::QuotedPrintable, TransferEncoding::Base64] {
            let multipart = Multipart::new(b"seed");
            let mut headers = Headers::new();
            headers.tokens("MIME-Version", "1.0").unwrap();
            multipart.content_type(&mut headers, "alternative").unwrap();
            let mut octets = headers.into_bytes();
            octets.extend_from_slice(b"\r\n");
            for (subtype, text) in ["text/plain", "text/html"].iter().zip(&part_texts) {
                let mut part = Headers::new();
                part.parameters("Content-Type", subtype, &[("charset", "utf-8")]).unwrap();
                part.tokens("Content-Transfer-Encoding", encoding.name()).unwrap();
                multipart.open_part(&part, &mut octets);
                encoding.encode_text(text, &mut octets);
            }
            multipart.close(&mut octets);
            assert_clean(&octets, 78);
            prop_assert!(octets.is_ascii());
            let message = MessageParser::new().parse(&octets).unwrap();
            let normal = |text: &str| {
                text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
            };
            prop_assert_eq!(message.parts.len(), 3);
            for (part, text) in message.parts[1..].iter().zip(&part_texts) {
                prop_assert_eq!(part.text_contents().unwrap_or(""), normal(text));
                prop_assert_eq!(part.content_type().unwrap().ctype(), "text");
            }
        }
    }

    #[test]
    fn texts_cut_after_a_line_encode_the_same(lines in prop::collection::vec("[ -~\u{e9}]{0,90}\n", 0..6)) {
        let mut whole = Vec::new();
        quoted_printable(&lines.concat(), &mut whole);
        let mut pieces = Vec::new();
        for line in &lines {
            quoted_printable(line, &mut pieces);
        }
        prop_assert_eq!(whole, pieces);
    }
}
