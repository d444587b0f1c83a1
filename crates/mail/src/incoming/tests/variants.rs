//! What happens to mail on its way changes nothing in what is read: marks before the subject, forwarding,
//! quoting, HTML, character sets.

use super::{LANGUAGES, OLDER, SERVERS, base64, cases_of, faults};

/// Every case of one part, with header and body apart.
fn single_parts() -> Vec<(&'static str, Vec<&'static str>, &'static str, &'static str)> {
    cases_of(&[SERVERS, OLDER, LANGUAGES])
        .into_iter()
        .filter(|(_, _, mail)| {
            !mail.contains("Content-Type: multipart")
                && !mail.contains("Content-Transfer-Encoding")
                && !mail.contains("Content-Type: text/html")
        })
        .map(|(name, wanted, mail)| {
            let (header, body) = mail.split_once("\n\n").unwrap();
            (name, wanted, header, body)
        })
        .collect()
}

/// A header without the fields that say what its body is.
fn bare(header: &str) -> String {
    header
        .lines()
        .filter(|line| !line.starts_with("Content-Type") && !line.starts_with('\t'))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// What is expected, without the words of the diagnostic: they may stand in other lines.
fn plain<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    wanted.iter().map(|line| line.split(" ~").next().unwrap()).collect()
}

#[test]
fn marks_before_the_subject() {
    let mut all = Vec::new();
    for (name, wanted, mail) in cases_of(&[SERVERS, OLDER, LANGUAGES]) {
        for mark in ["[SPAM] ", "***SPAM*** ", "[EXTERNAL] ", "Fwd: ", "FW: ", "Re: ", "AW: "] {
            // What looks like an answer has to be a daemon's for certain.
            let header = mail.split("\n\n").next().unwrap().to_ascii_lowercase();
            if matches!(mark, "Re: " | "AW: ") && !header.contains("mailer-daemon@") {
                continue;
            }
            let marked = mail.replacen("\nSubject: ", &format!("\nSubject: {mark}"), 1);
            all.extend(faults(&format!("{mark}{name}"), &wanted, marked.as_bytes()));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn forwarding_as_an_attachment() {
    let mut all = Vec::new();
    for (name, wanted, mail) in cases_of(&[SERVERS, OLDER, LANGUAGES]) {
        for kind in ["message/rfc822", "text/rfc822"] {
            let wrapped = format!(
                "From: Bob <bob@sender.example>\nTo: news@sender.example\nSubject: Fwd: see below\nMIME-Version: 1.0\n\
                 Content-Type: multipart/mixed; boundary=\"w w\"\n\n--w w\nContent-Type: text/plain\n\nFor your files.\n\n\
                 --w w\nContent-Type: {kind}\nContent-Disposition: attachment\n\n{mail}\n--w w--\n"
            );
            all.extend(faults(name, &wanted, wrapped.as_bytes()));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn forwarding_within_the_text() {
    let mut all = Vec::new();
    for (name, wanted, header, body) in single_parts() {
        // Only what a program shows of a header is left of it.
        let shown: String = header
            .lines()
            .filter(|line| {
                ["From:", "Date:", "Subject:", "To:"].iter().any(|it| line.starts_with(it))
            })
            .fold(String::new(), |all, line| all + line + "\n");
        if !header.contains("Return-Path: <>") && !header.contains("X-Failed") {
            let quoted: String = format!("{shown}\n{body}")
                .lines()
                .fold(String::new(), |all, line| all + "> " + line + "\n");
            for (mark, text) in [
                ("---------- Forwarded message ---------", &format!("{shown}\n{body}")),
                ("Begin forwarded message:\n", &quoted),
            ] {
                let mail = format!(
                    "From: Bob <bob@sender.example>\nTo: news@sender.example\nSubject: Fwd: see below\n\
                     Content-Type: text/plain; charset=utf-8\n\nFor your files.\n\n{mark}\n{text}"
                );
                all.extend(faults(name, &plain(&wanted), mail.as_bytes()));
            }
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn html_instead_of_text() {
    let mut all = Vec::new();
    // A name alone is told from other words by its indentation, which HTML loses.
    for (name, wanted, header, body) in
        single_parts().into_iter().filter(|(name, ..)| !name.contains("by local part"))
    {
        let escaped = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let broken = escaped.replace("  ", "&nbsp; ").replace('\n', "<br>\n");
        for html in [format!("<pre>\n{escaped}</pre>"), format!("<div>{broken}</div>")] {
            let mail = format!(
                "{}Content-Type: text/html; charset=utf-8\n\n<html><head><title>mail</title></head><body>{html}</body></html>\n",
                bare(header)
            );
            all.extend(faults(name, &plain(&wanted), mail.as_bytes()));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn other_character_sets() {
    const LABELS: [&str; 14] = [
        "iso-8859-1",
        "iso-8859-2",
        "iso-8859-9",
        "windows-1252",
        "koi8-r",
        "windows-1251",
        "iso-8859-7",
        "windows-1255",
        "windows-1256",
        "iso-2022-jp",
        "shift_jis",
        "gb18030",
        "big5",
        "euc-kr",
    ];
    let (mut all, mut tried) = (Vec::new(), 0);
    for (name, wanted, header, body) in single_parts() {
        for label in LABELS {
            let set = encoding_rs::Encoding::for_label(label.as_bytes()).unwrap();
            let (octets, _, unmappable) = set.encode(body);
            if unmappable || body.is_ascii() && label != "iso-2022-jp" {
                continue;
            }
            tried += 1;
            let mut mail =
                format!("{}Content-Type: text/plain; charset=\"{label}\"\n\n", bare(header))
                    .into_bytes();
            mail.extend_from_slice(&octets);
            all.extend(faults(&format!("{name} in {label}"), &wanted, &mail));
        }
        let utf_16: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mail = format!(
            "{}Content-Type: text/plain; charset=utf-16le\nContent-Transfer-Encoding: base64\n\n{}",
            bare(header),
            base64(&utf_16)
        );
        all.extend(faults(&format!("{name} in UTF-16"), &wanted, mail.as_bytes()));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert!(tried > 60, "{tried}");
}
