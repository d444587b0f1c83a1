//! What servers of many kinds and languages say, by the shipped rules, and what may stand around it.

use mail::failure::{FailureType, Reason};

use super::super::*;

/// The replies of the file with the reason that a reader gives; `None` where only Hard would be wrong.
fn replies() -> Vec<(Option<Reason>, String)> {
    let mut reason = None;
    let mut all = Vec::new();
    for line in include_str!("replies.txt").lines() {
        if let Some(title) = line.strip_prefix("= ") {
            reason = Reason::ALL.into_iter().find(|reason| reason.word() == title);
            assert!(reason.is_some() || title == "Not Hard", "{title}");
        } else if !line.is_empty() && !line.starts_with("# ") {
            all.push((reason, line.replace("\\n", "\n")));
        }
    }
    all
}

/// What is wrong with the verdict on a text for which a reader gives this reason.
fn fault(reason: Option<Reason>, text: &str) -> Option<String> {
    let verdict = BounceRules::shipped().classify(&Evidence::reply(text, ""));
    let hard = verdict.failure_type == FailureType::Hard;
    let same = |wanted: Reason| match wanted {
        // Of a deferral the two say the same: not now.
        Reason::Refused if text.starts_with('4') => {
            matches!(verdict.reason, Reason::Refused | Reason::Unreachable)
        }
        Reason::AccountDisabled => {
            matches!(verdict.reason, Reason::AccountDisabled | Reason::InactiveUser)
        }
        wanted => verdict.reason == wanted,
    };
    let right = match reason {
        None => !hard,
        Some(Reason::UserUnknown) => same(Reason::UserUnknown) && hard,
        Some(wanted @ Reason::AccountDisabled) => same(wanted),
        Some(wanted) => same(wanted) && !hard,
    };
    (!right).then(|| {
        format!("{text:?}: {} {} by {}", verdict.failure_type, verdict.reason, verdict.rule)
    })
}

#[test]
fn replies_come_out_as_a_reader_takes_them() {
    let replies = replies();
    assert!(replies.len() > 300, "{}", replies.len());
    let faults: Vec<String> =
        replies.iter().filter_map(|(reason, text)| fault(*reason, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A reply as other servers report it.
type Dress = fn(&str) -> String;

/// What stands around a reply, between its lines and behind it.
const DRESSES: [Dress; 15] = [
    |said| {
        format!(
            "host mx1.foo.example[192.0.2.9] said: {} (in reply to RCPT TO command)",
            one_line(said)
        )
    },
    |said| {
        format!(
            "host mx1.foo.example [192.0.2.9]\n    SMTP error from remote mail server after RCPT TO:<jo@bar.example>:\n    {said}"
        )
    },
    |said| {
        format!(
            "SMTP error from remote mail server after end of data: host mx1.foo.example [192.0.2.9]: {said}"
        )
    },
    |said| format!("smtp; {said}"),
    |said| {
        format!("... while talking to mx1.foo.example.:\n>>> RCPT To:<jo@bar.example>\n<<< {said}")
    },
    |said| {
        format!(
            "192.0.2.9 does not like recipient.\nRemote host said: {said}\nGiving up on 192.0.2.9."
        )
    },
    |said| format!("192.0.2.9 failed after I sent the message.\nRemote host said: {said}"),
    |said| {
        format!(
            "mx1.foo.example\nRemote Server returned '{} [Hostname=AB1.foo.example]'",
            one_line(said)
        )
    },
    |said| format!("Remote server returned an error -> {}", one_line(said)),
    |said| format!("{said} [AbC12xyz.4F2]"),
    |said| format!("{said} (id 1qXyZ2-0004Xy-Jk)"),
    |said| format!("{said} See https://help.foo.example/policy/spam/blocked?full=1&user=unknown"),
    |said| {
        format!("{said}; for details visit http://www.foo.example/mailbox-full/unknown-user.html")
    },
    |said| said.replace(' ', "  ").replace('\n', "\r\n"),
    |said| in_two_lines(said),
];

fn one_line(said: &str) -> String {
    said.replace('\n', " ")
}

/// A reply of one line as one of two.
fn in_two_lines(said: &str) -> String {
    let words: Vec<&str> = said.split(' ').collect();
    let (code, middle) = (words[0], words.len() / 2);
    match said.contains('\n') || middle < 1 {
        true => said.to_owned(),
        false => format!(
            "{code}-{}\n{code} {}",
            words[1..=middle].join(" "),
            words[middle + 1..].join(" ")
        ),
    }
}

#[test]
fn what_stands_around_a_reply_changes_nothing() {
    let coded = |text: &str| text.len() > 10 && text.as_bytes()[..3].iter().all(u8::is_ascii_digit);
    let mut faults = Vec::new();
    for (reason, text) in replies().iter().filter(|(_, text)| coded(text)) {
        // Deferrals are told by their first digit, which the dress hides from the reader of this test.
        if text.starts_with('4') {
            continue;
        }
        faults.extend(DRESSES.iter().filter_map(|dress| fault(*reason, &dress(text))));
    }
    assert!(faults.is_empty(), "{} of them:\n{}", faults.len(), faults.join("\n"));
}

/// A rule is Hard only if it is one of these, each of which says in plain words or by its code that there is
/// no such recipient, or that his account is closed for good.
#[test]
fn few_rules_are_hard() {
    let hard: Vec<&str> = shipped_bounce_rules()
        .rules()
        .iter()
        .filter(|rule| rule.failure_type == FailureType::Hard)
        .map(|rule| &*rule.name)
        .collect();
    assert_eq!(
        hard,
        [
            "yahoo-mailbox-disabled",
            "microsoft-recipient-denied",
            "microsoft-no-such-recipient",
            "facebook-unknown",
            "vade-unknown",
            "account-closed",
            "user-unknown",
            "user-unknown-in-other-languages",
            "address-rejected",
            "mailbox-unavailable",
            "status-1-1",
            "status-1-3",
        ]
    );
}
