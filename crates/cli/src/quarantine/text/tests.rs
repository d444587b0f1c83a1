use serde_json::json;

use super::*;

#[test]
fn an_explanation_says_what_each_entry_did() {
    let answer = json!({
        "address": "ada@one.example", "state": "Quarantined", "reason": "Mailbox full",
        "refused": "the address is quarantined: Mailbox full", "known": true,
        "since": "2026-11-21T07:16:19.042Z", "until": "2026-12-21T07:16:19.042Z",
        "errors": { "Mailbox full": 3 }, "last_error_at": "2026-11-21T07:16:19.042Z", "cause": "e3",
        "entries": [
            { "entry": "e1", "at": "2026-11-10T07:00:00.000Z", "failure": null, "current": false,
              "verdict": "delivered: the count began anew" },
            { "entry": "e3", "at": "2026-11-21T07:16:19.042Z", "current": true,
              "verdict": "error 3 of 3: quarantined",
              "failure": { "reply": "452 4.2.2 over\nquota\u{7}", "rule": "full", "by_person": true,
                  "text": "8d54d1a1ff4b73384faf3ebcce8b625b", "reason": "Mailbox full" } },
        ],
        "deeds": [{ "deed": "a1", "at": "2026-11-09T00:00:00.000Z", "what": "release",
            "reason": null, "who": "boss", "why": "called" }],
    });
    let text = explained(&answer);
    for wanted in [
        "ada@one.example is quarantined: mailbox full\n",
        "  until:      2026-12-21T07:16:19Z\n",
        "  errors:     Mailbox full 3\n",
        "delivered: the count began anew (over)",
        "452 4.2.2 over quota\\u{7}",
        "2026-11-21 07:16",
        "a person",
        "text 8d54d1a1ff4b73384faf3ebcce8b625b: Mailbox full\n",
        "called",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let short = shown(&answer);
    assert!(short.contains("2 entries recorded"), "{short}");
    assert!(!short.contains("452"), "{short}");
}

#[test]
fn a_difference_is_told_before_it_is_made() {
    let change = json!({ "address": "a@b.example",
        "before": { "state": "Quarantined", "reason": "User unknown" },
        "after": { "state": "Valid", "reason": null } });
    let preview = json!({ "applied": false, "task": null, "difference": {
        "addresses": 1, "entries": 2_000, "examples": vec![change; 30],
        "states": [{ "from": "Quarantined", "to": "Valid", "addresses": 12_345 }] } });
    let text = outcome(&preview);
    assert!(text.starts_with("1 address looked at, 2,000 entries would change\n"), "{text}");
    assert_eq!(text.matches("a@b.example").count(), 20, "{text}");
    assert!(text.contains("... and 12,325 more"), "{text}");
    assert!(text.ends_with("Nothing was changed. With --apply it is done.\n"), "{text}");
    let nothing = json!({ "task": null, "difference": { "addresses": 0, "entries": 0 } });
    assert!(outcome(&nothing).contains("no address would change its state"));
    assert_eq!(outcome(&json!({ "task": 7, "done": true })), "done by task 7\n");
    assert!(outcome(&json!({ "task": 7, "done": false })).contains("goes on by itself"));
}

#[test]
fn lists_say_what_they_leave_out() {
    let one = json!({ "address": "a@b.example", "state": "Denylisted", "reason": null,
        "since": null, "until": null });
    let text = addresses(&json!({ "addresses": [one], "more": true }));
    assert!(text.contains("a@b.example") && text.contains("--limit shows more"), "{text}");
    assert_eq!(addresses(&json!({ "addresses": [] })), "no such addresses");
    let hold = json!({ "hold": 2, "provider": "big", "doubted_since": "2026-11-21T07:00:00.000Z",
        "usual_permille": 15, "sudden_permille": 620, "end": null, "who": "", "why": "" });
    let text = alerts(&json!({ "holds": [hold] }));
    assert!(text.contains("1.5 %") && text.contains("62.0 %") && text.contains("held back"));
}
