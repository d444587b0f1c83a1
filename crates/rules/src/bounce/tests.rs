use std::sync::Arc;

use mail::failure::{FailureType, Reason};
use mail::reply::EnhancedStatus;

use super::*;

mod wording;

/// What the checker says about a file with these rules, with the advice behind it.
fn faults(rules: &str) -> Vec<String> {
    let text = format!("schema_version = 1\nversion = \"1\"\n{rules}");
    let faults = BounceRuleFile::parse("f.toml", text.as_bytes()).err().unwrap_or_default();
    faults.iter().map(|fault| format!("{fault} [{}]", fault.help)).collect()
}

/// A set of these rules.
fn set(rules: &str) -> Arc<BounceRules> {
    let text = format!("schema_version = 1\nversion = \"1\"\n{rules}");
    let file = BounceRuleFile::parse("f.toml", text.as_bytes()).unwrap();
    Arc::new(BounceRules::compile(&file))
}

#[test]
fn the_shipped_rules_have_no_fault() {
    if let Err(faults) = BounceRuleFile::parse("rules/bounce.toml", SHIPPED_BOUNCE_TOML) {
        let shown: Vec<String> =
            faults.iter().map(|fault| format!("{fault} [{}]", fault.help)).collect();
        panic!("{}", shown.join("\n"));
    }
}

/// Type and reason by the shipped rules.
fn judged(text: &str) -> (FailureType, Reason) {
    let verdict = BounceRules::shipped().classify(&Evidence::reply(text, ""));
    (verdict.failure_type, verdict.reason)
}

#[test]
fn the_six_samples_of_the_reference_come_out_as_stated() {
    for (text, kind, reason) in [
        ("550 5.1.1 ... User is unknown {mx003}", FailureType::Hard, Reason::UserUnknown),
        ("550 5.2.2 user quota exceeded", FailureType::Soft, Reason::MailboxFull),
        (
            "550 5.7.1 : Recipient address rejected: Inactive MailBox, not poped for more than 6 months",
            FailureType::Soft,
            Reason::InactiveUser,
        ),
        ("DNS query failed for 'ourdan.com'", FailureType::Soft, Reason::InvalidDomain),
        (
            "Inbound e-mail bounce (rule 'Feedback_loop_Hotmail' has matched this bounce)",
            FailureType::Soft,
            Reason::Refused,
        ),
        (
            "421 4.16.55 [TS01] Messages from x.x.x.x temporarily deferred due to excessive user complaints",
            FailureType::Soft,
            Reason::Unreachable,
        ),
    ] {
        assert_eq!(judged(text), (kind, reason), "{text}");
    }
}

#[test]
fn a_deferral_is_never_hard() {
    assert_eq!(
        judged("450 4.1.1 <jane@example.com>: user unknown"),
        (FailureType::Soft, Reason::UserUnknown)
    );
    // A status code of class 4 softens too, wherever the reply code is lost.
    let evidence = Evidence {
        status: Some(EnhancedStatus::new(4, 1, 1)),
        diagnostic: "user unknown",
        ..Evidence::default()
    };
    let verdict = BounceRules::shipped().classify(&evidence);
    assert_eq!(verdict.failure_type, FailureType::Soft);
}

#[test]
fn who_is_unknown_decides() {
    for (text, kind, reason) in [
        (
            "host mx.example.com[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)",
            FailureType::Hard,
            Reason::UserUnknown,
        ),
        (
            "host mx.example.com[192.0.2.1] said: 550 User unknown (in reply to MAIL FROM command)",
            FailureType::Soft,
            Reason::Refused,
        ),
        (
            "Connected to 192.0.2.1 but sender was rejected.\nRemote host said: 550 unknown user",
            FailureType::Soft,
            Reason::Refused,
        ),
        (
            "550-Verification failed for <a@example.net>\n550-Response: 550 5.1.1 User unknown\n550 Sender verify failed",
            FailureType::Soft,
            Reason::Refused,
        ),
        ("421 Too many unknown recipients", FailureType::Soft, Reason::Unreachable),
        ("535 5.7.8 Invalid user name or password", FailureType::Soft, Reason::Refused),
        ("550 No PTR record found for your address", FailureType::Soft, Reason::Refused),
        ("550 Absenderadresse existiert nicht", FailureType::Soft, Reason::Refused),
    ] {
        assert_eq!(judged(text), (kind, reason), "{text}");
    }
}

#[test]
fn the_body_is_asked_when_the_diagnostic_says_nothing() {
    let rules = BounceRules::shipped();
    let evidence = Evidence {
        diagnostic: "qzx",
        body: "Hello,\nthe mailbox of jane@example.com is\nfull.",
        ..Evidence::default()
    };
    assert_eq!(rules.classify(&evidence).reason, Reason::MailboxFull);
    // The cache asks the diagnostic alone first, and must come to the same.
    let mut judge = BounceJudge::new(Arc::clone(&rules));
    for evidence in [evidence, Evidence { diagnostic: "550 user unknown", ..evidence }] {
        for _ in 0..2 {
            assert_eq!(judge.judge(&evidence, &()).verdict, rules.classify(&evidence));
        }
    }
    let nothing = rules.classify(&Evidence { diagnostic: "qzx", ..Evidence::default() });
    assert_eq!((nothing.reason, &*nothing.rule), (Reason::NotDefined, "none"));
    assert_eq!(nothing.status, QualificationStatus::ToQualify);
}

const TWO: &str = r#"
[[rule]]
name = "full"
text = ["Quota", "MAILBOX vóll"]
unless = ["sending"]
reason = "Mailbox full"
before = ["other"]
matches = ["552 5.2.2 over quota", "mailbox voll"]
matches_not = ["550 sending quota"]
[[rule]]
name = "other"
mask = "*.a.example"
reply = ["5"]
status = ["x.2.2"]
reason = "Refused"
deferred = "Unreachable"
action = "stop-delivery"
matches = ["552 5.2.2 zzz"]
[[rule]]
name = "subject"
subject = ["automatic reply", "\\bfailure\\b"]
header = ["^x-loop:"]
arrives = "asynchronous"
reason = "Error ignored"
matches = [{ subject = "AUTOMATIC reply: x", header = "X-Loop: 1" }]
matches_not = [{ subject = "automatic reply", text = "x" }]
[[rule]]
name = "rest"
reply = "5"
last_resort = true
guess = true
reason = "Refused"
matches = ["550 zzz"]
"#;

#[test]
fn every_condition_must_hold() {
    assert_eq!(faults(TWO), [""; 0]);
    let rules = set(TWO);
    let judge = |text: &str, provider: &str| {
        let verdict = rules.classify(&Evidence::reply(text, provider));
        format!(
            "{} {} {} {} {}",
            verdict.rule, verdict.failure_type, verdict.reason, verdict.status, verdict.action
        )
    };
    for (text, provider, want) in [
        ("552 5.2.2 over QUOTA", "", "full Soft Mailbox full Keep retry"),
        ("Mailbox Voll", "", "full Soft Mailbox full Keep retry"),
        ("552 5.2.2 sending quota", "mx.a.example", "other Soft Refused Keep stop-delivery"),
        ("552 5.2.2 sending quota", "mx.b.example", "rest Soft Refused To qualify give-up"),
        ("452 4.2.2 zzz", "", "none Soft Not defined To qualify retry"),
        ("zzz", "", "none Soft Not defined To qualify give-up"),
    ] {
        assert_eq!(judge(text, provider), want, "{text} {provider}");
    }
}

#[test]
fn a_person_comes_first_and_the_cache_changes_nothing() {
    let mut judge = BounceJudge::new(set(TWO));
    let said = Qualification {
        reason: Reason::UserUnknown,
        failure_type: FailureType::Hard,
        status: QualificationStatus::Keep,
    };
    let text = "552 5.2.2 over quota of jane@example.com";
    let key = Key::of(&normalise(text));
    for _ in 0..2 {
        let judged = judge.judge(&Evidence::reply(text, ""), &());
        assert_eq!((judged.key, &*judged.verdict.rule), (key, "full"));
        let people = |asked: &Key| (*asked == key).then_some(said);
        let judged = judge.judge(&Evidence::reply(text, ""), &people);
        assert_eq!(judged.normalised, "552 5.2.2 over quota of *");
        assert_eq!((judged.verdict.reason, judged.verdict.action), (said.reason, Action::GiveUp));
        let overruled = judged.overruled.expect("the rules speak too");
        assert_eq!((overruled.reason, &*overruled.rule), (Reason::MailboxFull, "full"));
        // What is still to be qualified has not been qualified.
        let open = |_: &Key| Some(Qualification { status: QualificationStatus::ToQualify, ..said });
        assert_eq!(
            judge.judge(&Evidence::reply(text, ""), &open).verdict.reason,
            Reason::MailboxFull
        );
        // The same text under other codes and of another provider is another question.
        let coded = Evidence { reply: Some(450), ..Evidence::reply("zzz", "mx.a.example") };
        assert_eq!(judge.judge(&coded, &()).verdict.reason, Reason::NotDefined);
        let coded = Evidence { reply: Some(550), ..coded };
        assert_eq!(&*judge.judge(&coded, &()).verdict.rule, "rest");
    }
}

#[test]
fn local_rules_come_before_shipped_ones() {
    let text = "schema_version = 1\nversion = \"9\"\n[[rule]]\nname = \"ours\"\ntext = \"user unknown\"\nreason = \"Refused\"\nmatches = [\"550 user unknown\"]\nmatches_not = [\"x\"]\n";
    let local = BounceRuleFile::parse("l.toml", text.as_bytes()).unwrap();
    let both = BounceRuleFile::combine(Some(&local), shipped_bounce_rules());
    assert_eq!(both.rules().len(), shipped_bounce_rules().rules().len() + 1);
    let verdict = BounceRules::compile(&both).classify(&Evidence::reply("550 User unknown", ""));
    assert_eq!((verdict.reason, &*verdict.rule), (Reason::Refused, "ours"));
    assert!(verdict.version.starts_with("9+"), "{}", verdict.version);
}

#[test]
fn faults_have_their_place() {
    let rule = |lines: &str| {
        format!("[[rule]]\nname = \"a\"\ntext = \"user\"\nreason = \"Refused\"\n{lines}")
    };
    let good = "matches = \"a user\"\nmatches_not = \"b\"\n";
    for (rules, want) in [
        (rule(good), vec![]),
        (
            rule(&format!("{good}reson = 1")),
            vec!["f.toml:9:1: unknown key `reson` [did you mean `reason`?]"],
        ),
        (
            rule(&format!("{good}guess = true")),
            vec![
                "f.toml:9:9: `guess` without `last_resort` [a guess stands behind everything that is known: add `last_resort = true`]",
            ],
        ),
        (
            rule(&format!("{good}type = \"hard-ish\"")),
            vec!["f.toml:9:8: `type` knows no `hard-ish` [write one of Hard, Soft, Ignored]"],
        ),
        (
            rule(&format!("{good}reply = \"x\"")),
            vec![
                "f.toml:9:9: `x` in `reply` is no pattern of codes [write a code or its first digits, such as \"550\" or \"4\"]",
            ],
        ),
        (
            rule(&format!("{good}guess = 1")),
            vec!["f.toml:9:9: `guess` must be true or false, not a whole number []"],
        ),
        (
            rule(&format!("{good}before = \"z\"")),
            vec![
                "f.toml:9:10: no later rule is called `z` [name rules that stand behind this one, or drop the entry]",
            ],
        ),
        (
            rule("matches = \"b\"\nmatches_not = \"my user\"\n"),
            vec![
                "f.toml:7:11: rule `a` does not match its example `b` [mend the patterns or the example]",
                "f.toml:8:15: rule `a` matches its counter-example `my user` [make the patterns narrower, add `unless`, or mend the counter-example]",
            ],
        ),
        (
            rule(""),
            vec![
                "f.toml:3:1: the rule has no `matches_not` [give a text that looks alike but means something else]",
                "f.toml:3:1: the rule has no `matches` [give at least one text, as a server sends it, that this rule is for]",
            ],
        ),
        (
            rule(&format!("{good}unless = [\"x(\"]")),
            vec![
                "f.toml:9:11: a pattern of rule `a` is no regular expression: unclosed group [patterns are regular expressions of linear time: no look-around, no back-references, no classes beyond ASCII]",
            ],
        ),
        (
            rule(&format!("{good}unless = [\"(?:a[\\\\w.]{{99}}){{99}}\"]")),
            vec![
                "f.toml:9:11: a pattern of rule `a` is too large when compiled [patterns are regular expressions of linear time: no look-around, no back-references, no classes beyond ASCII]",
            ],
        ),
        (
            rule(good) + &rule(good).replace("\"a\"", "\"b\""),
            vec![
                "f.toml:13:11: `a user` goes to rule `a` in line 3, which shadows `b` [put the particular rule before the general one, or mend the example]",
            ],
        ),
        (
            rule(good) + &rule(good),
            vec![
                "f.toml:10:8: rule name `a` is taken by the rule in line 3 [names are unique: verdicts and logs use them]",
                "f.toml:13:11: `a user` goes to rule `a` in line 3, which shadows `a` [put the particular rule before the general one, or mend the example]",
            ],
        ),
        (
            rule(good)
                + "[[rule]]\nname = \"b\"\ntext = \"a\"\nreason = \"User unknown\"\nmatches = \"za\"\nmatches_not = \"b\"\n",
            vec![
                "f.toml:7:11: `a user` is claimed by rule `b` in line 9 too, as User unknown [if `a` comes first on purpose, add `before = [\"b\"]` to it]",
            ],
        ),
        (
            "[[rule]]\nname = \"A b\"\nreason = \"Refused\"\nmatches = \"x\"\n".to_owned(),
            vec![
                "f.toml:3:1: the rule has no condition [say when it holds: mask, reply, status, text, subject, body, header]",
                "f.toml:4:8: `name` is not a short name [use 1 to 64 lower-case letters, digits, `-`, `_` and `.`]",
            ],
        ),
    ] {
        assert_eq!(faults(&rules), want, "{rules}");
    }
}

#[test]
fn faults_of_the_file_itself() {
    let parse = |text: &str| -> Vec<String> {
        let faults = BounceRuleFile::parse("f.toml", text.as_bytes()).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    };
    assert_eq!(parse(""), ["f.toml:1:1: the file is empty"]);
    assert_eq!(
        parse("x = 1\n"),
        [
            "f.toml:1:1: `schema_version` is missing",
            "f.toml:1:1: `version` is missing",
            "f.toml:1:1: unknown key `x`",
            "f.toml:1:6: the file has no rule",
        ]
    );
    assert!(parse("schema_version = 1\nrule = [").first().unwrap().contains("not TOML"));
}
