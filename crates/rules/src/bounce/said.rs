//! What the remote server itself said, within all that is reported of it.
//!
//! A diagnostic text often quotes: `host mx.example said: 550 no such user (in reply to RCPT TO
//! command)`. The words around the quotation are of the server that reports, and those of a link are of
//! a web site (`see https://example.org/blocked/spam`). Neither is why the mail was not taken. So rules
//! are asked about the quotation first ([`heart`]), and about the paths of links only when
//! neither the words nor the codes say why ([`without_links`]).
//!
//! Both take folded text and time linear in it, and never panic.

use core::ops::Range;

/// Where that stands which the remote server said, without the words of the server that reports it: in `host mx.example said:
/// 550 no such user` from `550` on. The whole text where nothing is quoted, and where the words before
/// the quotation say that it is about the sender, because that is the point then.
pub(super) fn heart(folded: &str) -> Range<usize> {
    const SENDER: [&str; 15] = [
        "after mail from",
        "sender address",
        "sender was rejected",
        "sender rejected",
        "sender verif",
        "verifying sender",
        "for sender",
        "of the sender",
        "callout to",
        "callback",
        "verify <*",
        "verify *",
        "return path",
        "return-path",
        "reverse path",
    ];
    /// What the reporting server adds behind the quotation.
    const BEHIND: [&str; 4] =
        ["giving up on ", "[hostname=", "#smtp#", "i'm not going to try again"];
    let octets = folded.as_bytes();
    let start = memchr::memchr2_iter(b'4', b'5', octets)
        .rfind(|at| begins_quotation(octets, *at))
        .unwrap_or(0);
    let before = &octets[..start];
    let of_sender = |words: &&str| memchr::memmem::find(before, words.as_bytes()).is_some();
    if start == 0 || SENDER.iter().any(of_sender) {
        return 0..folded.len();
    }
    let quoted = &folded[start..];
    let ends =
        BEHIND.iter().filter_map(|words| memchr::memmem::find(quoted.as_bytes(), words.as_bytes()));
    start..start + ends.min().unwrap_or(quoted.len())
}

/// Whether a quoted reply begins at `at`: a reply code with words behind it and a mark of quotation, or
/// `said`, before it.
fn begins_quotation(octets: &[u8], at: usize) -> bool {
    let rest = &octets[at..];
    let code = matches!(rest, [_, one, two, b' ' | b'-', ..] if one.is_ascii_digit() && two.is_ascii_digit());
    // A code alone is not what was said.
    if !code || rest.len() <= 10 {
        return false;
    }
    match &octets[..at] {
        [.., b':' | b';' | b'\'' | b'"' | b'('] => true,
        [head @ .., b' '] => matches!(head, [.., b':' | b';' | b'>']) || head.ends_with(b" said"),
        _ => false,
    }
}

/// Puts the text without the paths of its links into `out`, which is emptied first. The host of a link stays:
/// the name of a block list is a reason. Answers whether there was anything to leave out.
pub(super) fn without_links(out: &mut String, text: &str) -> bool {
    out.clear();
    let mut rest = text;
    while let Some(path) = next_path(rest) {
        out.push_str(&rest[..path]);
        let length = rest[path..].find(ends_link).unwrap_or(rest.len() - path);
        rest = &rest[path + length..];
    }
    if out.is_empty() {
        return false;
    }
    out.push_str(rest);
    true
}

/// Where the path of the first link begins, which is never empty.
fn next_path(text: &str) -> Option<usize> {
    let octets = text.as_bytes();
    memchr::memchr_iter(b'/', octets).find(|at| {
        let before = &octets[..*at];
        let Some(next) = octets.get(at + 1).filter(|next| !next.is_ascii_whitespace()) else {
            return false;
        };
        if *next == b'/' || before.ends_with(b"/") {
            return false;
        }
        // A host stands before it, named or left out.
        let host = before.iter().rev().take_while(|octet| {
            octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b':' | b'_')
        });
        let start = at - host.count();
        before.ends_with(b"#domain#")
            || octets[..start].ends_with(b"://")
            || octets[start..].starts_with(b"www.")
    })
}

fn ends_link(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '>' | '<' | '"' | '\'' | ')' | ']' | ',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_quotation_is_the_heart() {
        for (text, want) in [
            ("550 no such user here", "550 no such user here"),
            (
                "host #domain# said: 550 no such user (in reply to rcpt to command)",
                "550 no such user (in reply to rcpt to command)",
            ),
            ("remote host said: 550 no such user giving up on #ip#.", "550 no such user "),
            (
                "remote server returned '550 5.1.1 no such user [hostname=#domain#]'",
                "550 5.1.1 no such user ",
            ),
            ("remote server returned an error -> 550 5.1.1 no such user", "550 5.1.1 no such user"),
            ("permanent failure (*:550 no such user)", "550 no such user)"),
            (
                "sender address rejected: host said: 550 no such user",
                "sender address rejected: host said: 550 no such user",
            ),
            (
                "cannot verify <*>: remote said 550 no such user",
                "cannot verify <*>: remote said 550 no such user",
            ),
            (
                "verification of the sender failed: 550 no such user",
                "verification of the sender failed: 550 no such user",
            ),
            ("rejected for 550 reasons of ours", "rejected for 550 reasons of ours"),
            ("said: 550 no", "said: 550 no"),
            ("", ""),
        ] {
            assert_eq!(&text[heart(text)], want, "{text}");
        }
    }

    #[test]
    fn links_lose_their_paths() {
        let mut out = String::new();
        for (text, want) in [
            (
                "no such user, see https://a.example/blocked?spam=1 or (http://b.example:8080/x).",
                "no such user, see https://a.example or (http://b.example:8080).",
            ),
            ("see www.a.example/full and #domain#/full", "see www.a.example and #domain#"),
            ("user/mailbox unknown", ""),
            ("/var/mail/user: full", ""),
            ("see https://a.example/", ""),
            ("http://", ""),
        ] {
            let changed = without_links(&mut out, text);
            assert_eq!((changed, &*out), (!want.is_empty(), want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_only_leaves_out(text in "[a5: /.'\\-é#w<)]{0,40}(://|www\\.|#domain#/|said: 550 )?[a5: /é>]{0,40}") {
            let _ = &text[heart(&text)];
            let mut out = String::new();
            if without_links(&mut out, &text) {
                prop_assert!(out.len() < text.len());
            }
        }
    }
}
