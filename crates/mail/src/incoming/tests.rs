//! Tests of reading mail: cases in text files, bad input, and random damage.
//!
//! A case is a line `=== name`, the lines expected (`kind recipient status reply ~ words of the
//! diagnostic`, `-` for what is missing, or only the kind), a line `---`, and the mail.

use proptest::prelude::*;

use super::*;

mod hostile;
mod variants;

const BOUNCES: &str = include_str!("tests/bounces.txt");
const OTHERS: &str = include_str!("tests/others.txt");
const SERVERS: &str = include_str!("tests/servers.txt");
const LANGUAGES: &str = include_str!("tests/languages.txt");
const OLDER: &str = include_str!("tests/older.txt");
const ORDINARY: &str = include_str!("tests/ordinary.txt");

/// Name, expected lines and octets of every case.
fn cases() -> Vec<(&'static str, Vec<&'static str>, &'static str)> {
    cases_of(&[BOUNCES, SERVERS, OLDER, LANGUAGES, OTHERS, ORDINARY])
}

/// Those of some files.
fn cases_of(files: &[&'static str]) -> Vec<(&'static str, Vec<&'static str>, &'static str)> {
    let mut out = Vec::new();
    for text in files {
        for case in text.split("=== ").skip(1) {
            let (name, rest) = case.split_once('\n').unwrap();
            let (wanted, mail) = rest.split_once("\n---\n").unwrap();
            out.push((name, wanted.lines().collect(), mail));
        }
    }
    out
}

/// What was found, in the form in which it is expected, without the diagnostics.
fn found(mail: &IncomingMail) -> Vec<String> {
    if mail.reports.is_empty() {
        return vec![mail.kind.to_string()];
    }
    let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    mail.reports
        .iter()
        .map(|one| {
            format!(
                "{} {} {} {}",
                one.kind,
                one.recipient.as_deref().unwrap_or("-"),
                or(one.status.map(|status| status.to_string())),
                or(one.reply.map(|reply| reply.to_string()))
            )
        })
        .collect()
}

/// The faults of one case; none where it is as expected.
fn faults(name: &str, wanted: &[&str], octets: &[u8]) -> Vec<String> {
    let mail = read(octets);
    let plain: Vec<&str> =
        wanted.iter().map(|line| line.split(" ~").next().unwrap().trim()).collect();
    let found = found(&mail);
    if found != plain {
        return vec![format!("{name}: wanted {plain:?}, found {found:?}: {:?}", mail.reports)];
    }
    let mut faults = Vec::new();
    for (line, report) in wanted.iter().zip(&mail.reports) {
        let words = line.split_once("~ ").map_or("", |(_, words)| words);
        if !report.diagnostic.contains(words) {
            faults.push(format!("{name}: {words:?} is not in {:?}", report.diagnostic));
        }
    }
    faults
}

#[test]
fn reads_every_case() {
    let faults: Vec<String> = cases()
        .into_iter()
        .flat_map(|(name, wanted, mail)| faults(name, &wanted, mail.as_bytes()))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn reads_every_case_with_other_line_ends_and_a_mailbox_line() {
    let mut all = Vec::new();
    for (name, wanted, mail) in cases() {
        let crlf = mail.replace('\n', "\r\n");
        all.extend(faults(name, &wanted, crlf.as_bytes()));
        if !mail.starts_with("From ") {
            let mailbox = format!("From MAILER-DAEMON Mon Mar  3 10:00:00 2025\n{mail}");
            all.extend(faults(name, &wanted, mailbox.as_bytes()));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn reads_texts_in_other_transfer_encodings() {
    let mut all = Vec::new();
    let single = |mail: &str| {
        // A header that ends with a line of blanks is not found by its empty line.
        !mail.contains("Content-Type: multipart")
            && !mail.contains("\n \n")
            && mail.split("\n\n").next().unwrap().contains("From")
            && !mail.contains("\n\nFrom: ")
            && !mail.contains("Content-Transfer-Encoding")
    };
    for (name, wanted, mail) in cases().into_iter().filter(|(_, _, mail)| single(mail)) {
        let (header, body) = mail.split_once("\n\n").unwrap();
        let quoted: String = body
            .bytes()
            .map(|octet| match octet {
                b'\n' => "\n".to_owned(),
                b'=' | 0x80.. | 0x1b => format!("={octet:02X}"),
                b'e' => "=65=\n".to_owned(),
                _ => char::from(octet).to_string(),
            })
            .collect();
        let encoded = format!("{header}\nContent-Transfer-Encoding: quoted-printable\n\n{quoted}");
        all.extend(faults(name, &wanted, encoded.as_bytes()));
        let encoded =
            format!("{header}\nContent-Transfer-Encoding: base64\n\n{}", base64(body.as_bytes()));
        all.extend(faults(name, &wanted, encoded.as_bytes()));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// Base64 in lines of 76 characters.
fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for (at, group) in octets.chunks(3).enumerate() {
        let bits = group.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
        if at % 19 == 18 {
            out.push('\n');
        }
    }
    out
}

#[test]
fn keeps_what_is_left_of_our_message() {
    let (_, _, mail) =
        cases().into_iter().find(|(name, ..)| *name == "postfix, with a folded reply").unwrap();
    let read = read(mail.as_bytes());
    let returned = read.returned.unwrap();
    assert_eq!(returned.message_ids, ["i-a-b@sender.example"]);
    assert_eq!(
        (returned.subject.as_str(), returned.to),
        ("Offers", vec!["ann@shop.example".into()])
    );
    assert_eq!(read.reports[0].remote_mta, "mail.shop.example");
    assert_eq!(read.reports[0].reporting_mta, "mx.example.net");
    assert_eq!(read.to, ["news@sender.example"]);
    assert!(read.header.contains("\nAuto-Submitted: auto-replied\n"), "{}", read.header);
    assert!(
        read.header.ends_with("report-type=delivery-status; boundary=\"ABC.1/mx.example.net\"\n"),
        "{}",
        read.header
    );
    assert!(read.text.contains("This is the mail system") && !read.text.contains("Offers"));
}

#[test]
fn takes_what_is_left_of_a_mail_that_was_cut() {
    for (name, _, mail) in cases() {
        for end in (0..mail.len()).step_by(37) {
            let cut = read(&mail.as_bytes()[..end]);
            assert!(cut.reports.len() <= 10, "{name}, {end}");
        }
    }
    let (_, _, mail) =
        cases().into_iter().find(|(name, ..)| *name == "postfix, with a folded reply").unwrap();
    let end = mail.find("--ABC.1/mx.example.net\nContent-Description: Undelivered").unwrap();
    assert_eq!(found(&read(&mail.as_bytes()[..end])), ["bounce ann@shop.example 5.1.1 550"]);
}

#[test]
fn bounds_nesting() {
    let mut mail =
        String::from("Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure notice\n");
    for level in 0..1000 {
        mail.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=\"b{level}x\"\n\n--b{level}x\n"
        ));
    }
    mail.push_str("Content-Type: text/plain\n\n<ann@shop.example>: 550 unknown\n");
    let read = read(mail.as_bytes());
    assert!(read.limits_hit.contains(&Limit::Depth), "{:?}", read.limits_hit);
    // Mails within mails, as deep.
    let mut mail = String::new();
    for _ in 0..1000 {
        mail.push_str("Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure notice\nContent-Type: message/rfc822\n\n");
    }
    let _ = super::read(mail.as_bytes());
}

#[test]
fn bounds_a_bounce_of_fifty_megabytes() {
    let mut mail = b"Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: news@sender.example\nSubject: failure notice\n\nHi. This is the qmail-send program.\n\n<ann@shop.example>:\nRemote host said: 550 5.1.1 unknown\n\n--- Below this line is a copy of the message.\n\n".to_vec();
    mail.resize(50 << 20, b'a');
    let read = read(&mail);
    assert_eq!(found(&read), ["bounce ann@shop.example 5.1.1 550"]);
    assert!(read.limits_hit.contains(&Limit::Octets));
    assert!(read.text.len() <= BODY_MAXIMUM);
}

#[test]
fn bounds_a_header_of_a_megabyte() {
    let long = format!("X-Long: {}\n", "a ".repeat(1 << 19));
    let mail = format!(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure notice\n{long}\n<ann@shop.example>:\n550 5.1.1 unknown user\n"
    );
    assert_eq!(found(&read(mail.as_bytes())), ["bounce ann@shop.example 5.1.1 550"]);
    let many = format!("From: a@b.example\n{}\nbody", "X-A: b\n".repeat(40_000));
    let read = read(many.as_bytes());
    assert!(read.limits_hit.contains(&Limit::Fields));
}

#[test]
fn bounds_a_bounce_of_ten_thousand_recipients() {
    let head = "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure notice\n";
    let mut machine = format!(
        "{head}Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx\n"
    );
    let mut text = format!("{head}\nThe following addresses failed:\n\n");
    for number in 0..10_000 {
        machine.push_str(&format!(
            "\nFinal-Recipient: rfc822; u{number}@x.example\nAction: failed\nStatus: 5.1.1\n"
        ));
        text.push_str(&format!("<u{number}@x.example>: 550 no\n"));
    }
    for mail in [machine, text] {
        let read = read(mail.as_bytes());
        assert!(
            read.reports.len() <= RECIPIENTS_MAXIMUM && read.reports.len() > 500,
            "{}",
            read.reports.len()
        );
        assert!(
            read.limits_hit.iter().any(|limit| matches!(limit, Limit::Recipients | Limit::Text)),
            "{:?}",
            read.limits_hit
        );
    }
}

#[test]
fn reads_wrong_labels_and_nul_octets() {
    let mail = b"Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure\0 notice\nContent-Type: text/plain; charset=utf-16\n\n<ann@shop.example>:\n550 5.1.1 un\0known \xff\xfe user\n";
    let read = read(mail);
    assert_eq!(found(&read), ["bounce ann@shop.example 5.1.1 550"]);
    assert!(!read.reports[0].diagnostic.contains('\0'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn survives_random_damage(
        case in 0_usize..500,
        edits in proptest::collection::vec((any::<u16>(), any::<u8>(), 0_u8..5), 0..40),
    ) {
        let cases = cases();
        let (_, _, mail) = &cases[case % cases.len()];
        let mut octets = mail.as_bytes().to_vec();
        for (place, octet, edit) in edits {
            if octets.is_empty() {
                break;
            }
            let at = usize::from(place) % octets.len();
            match edit {
                0 => octets[at] = octet,
                1 => octets.insert(at, octet),
                2 => {
                    octets.remove(at);
                }
                3 => octets.truncate(at),
                _ => {
                    let copy = octets[at..].to_vec();
                    octets.truncate(at + 200);
                    octets.extend_from_slice(&copy);
                }
            }
        }
        let read = read(&octets);
        for report in &read.reports {
            prop_assert!(report.diagnostic.len() < 20_000);
        }
    }

    #[test]
    fn survives_random_octets(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&octets);
        let mut mail = b"Return-Path: <>\nFrom: MAILER-DAEMON@x\nSubject: failure notice\n\n".to_vec();
        mail.extend_from_slice(&octets);
        let _ = read(&mail);
        let text = String::from_utf8_lossy(&octets);
        let _ = (codes::find(&text, true), address::next(&text, 0), html::text(&text), notice::read(&text));
    }
}
