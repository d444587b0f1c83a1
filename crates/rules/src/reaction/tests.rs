use core::time::Duration;

use super::*;
use crate::bounce::Action;

const FRAME: &str = "schema_version = 1\nversion = \"t\"\n";

/// A rule with these lines, which stand before `source` and the examples.
fn rule(name: &str, lines: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nsource = \"test\"\nmatches = [\"421 4.7.0 slow down\"]\nmatches_not = [\"550 5.1.1 unknown\"]\n{lines}\n"
    )
}

fn faults(text: &str) -> Vec<String> {
    ReactionFile::parse("r.toml", format!("{FRAME}{text}").as_bytes())
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

const SLOW: &str = "text = \"slow down\"\nscope = \"path\"\naction = \"slow\"\nmessages_per_minute = 5\nfor = \"10m\"";

#[test]
fn the_shipped_rules_have_no_fault_and_name_their_sources() {
    let parsed = ReactionFile::parse("rules/reactions.toml", SHIPPED_REACTIONS_TOML);
    let file = match parsed {
        Ok(file) => file,
        Err(faults) => {
            let shown: Vec<String> = faults.iter().map(|fault| fault.render()).collect();
            panic!("{}", shown.join("\n\n"));
        }
    };
    assert!(file.rules().len() >= 40, "{}", file.rules().len());
    for rule in file.rules() {
        assert!(rule.source.len() > 8, "{} cites nothing", rule.name);
    }
    // Whoever 2.2 of the reference names is there.
    for name in ["google-rate", "yahoo-for-good", "exchange-online-banned", "netease-daily-quota"] {
        assert!(ReactionRules::shipped().knows(name), "{name}");
    }
}

#[test]
fn a_rule_is_read_with_its_figures() {
    let lines = format!(
        "{SLOW}\nhits = 2\nwithin = \"1h\"\nstage = [\"mail\", \"rcpt\"]\nin_a_row = true\ngoes_on = true\nrecovery = {{ steps = 4, every = \"30s\" }}"
    );
    let text = format!("{FRAME}{}", rule("one", &lines));
    let file = ReactionFile::parse("r.toml", text.as_bytes()).unwrap();
    let read = &file.rules()[0];
    assert_eq!(read.effect.rate, Some(RateCut::PerHour(300)));
    assert_eq!(read.effect.words(), "slow to 5 messages a minute");
    assert_eq!((read.hits, read.within), (2, Duration::from_secs(3_600)));
    assert_eq!(read.recovery, Recovery { steps: 4, every: Duration::from_secs(30) });
    assert_eq!(read.recovery.words(), "4 steps of 30s");
    assert!(read.in_a_row && read.goes_on);
    assert_eq!(read.stages, [ReactionStage::Mail, ReactionStage::Rcpt]);
}

#[test]
fn without_a_recovery_it_has_ten_steps() {
    assert_eq!(Recovery::usual(Duration::from_secs(600)).every, Duration::from_secs(60));
    assert_eq!(Recovery::usual(Duration::from_secs(86_400)).every, Duration::from_secs(360));
    assert_eq!(Recovery::usual(Duration::from_secs(2)).every, Duration::from_secs(1));
}

#[test]
fn every_fault_has_its_place_and_words() {
    for (lines, want) in [
        ("text = \"slow down\"\naction = \"slow\"\nfor = \"10m\"", "9:10: `slow` without a figure"),
        ("text = \"slow down\"\naction = \"suspend\"", "the rule has no `for`"),
        (
            "text = \"slow down\"\naction = \"alert\"\nfor = \"1h\"",
            "a time for something that does not last",
        ),
        (
            "text = \"slow down\"\naction = \"suspend\"\nfor = \"1h\"\nconnections = 1",
            "a figure of `fewer-connections`",
        ),
        (
            "text = \"slow down\"\naction = \"stop-delivery\"",
            "`stop-delivery` cannot be done to the scope `path`",
        ),
        (
            "text = \"slow down\"\nscope = \"delivery\"\naction = \"fewer-connections\"\nconnections = 1\nfor = \"1h\"",
            "cannot be done to the scope `delivery`",
        ),
        (
            "text = \"slow down\"\nscope = \"delivery\"\naction = \"slow\"\npercent = 50\nfor = \"1h\"",
            "cannot be done to the scope `delivery`",
        ),
        (
            "text = \"slow down\"\naction = \"slow\"\npercent = 100\nfor = \"1h\"",
            "`percent` is not within 1 to 99",
        ),
        (
            "text = \"slow down\"\naction = \"slow\"\npercent = 50\nmessages_per_hour = 9\nfor = \"1h\"",
            "beside another rate",
        ),
        ("text = \"slow down\"\naction = \"panic\"", "`action` knows no `panic`"),
        ("text = \"slow down\"\nstage = \"hello\"\naction = \"alert\"", "`stage` knows no `hello`"),
        ("text = \"slow down\"\naction = \"alert\"\nhits = 0", "`hits` is 0"),
        ("text = \"slow down\"\naction = \"alert\"\nhits = 3", "`hits` without `within`"),
        ("text = \"slow down\"\naction = \"alert\"\nin_a_row = true", "`in_a_row` with one hit"),
        ("text = \"(a\"\naction = \"alert\"", "unclosed group"),
        ("text = \"(?:a[\\\\w.]{99}){99}\"\naction = \"alert\"", "is too large when compiled"),
        ("action = \"alert\"", "the rule has no condition on what was said"),
        ("text = \"slow down\"\naction = \"alert\"\nscop = \"path\"", "unknown key `scop`"),
        ("text = \"other\"\naction = \"alert\"", "does not match its example"),
        ("text = \"slow down|unknown\"\naction = \"alert\"", "matches its counter-example"),
        (
            "text = \"slow down\"\naction = \"suspend\"\nfor = \"1h\"\nrecovery = { steps = 3 }",
            "`recovery` has no `every`",
        ),
    ] {
        let found = faults(&rule("one", lines));
        assert!(found.iter().any(|fault| fault.contains(want)), "{lines}: {found:?}");
    }
    assert!(faults("").iter().any(|fault| fault.contains("the file has no rule")));
    let bare = "[[rule]]\nname = \"bare\"\n";
    for key in ["action", "source", "matches", "matches_not"] {
        let want = format!("the rule has no `{key}`");
        assert!(faults(bare).iter().any(|fault| fault.contains(&want)), "{want}");
    }
}

#[test]
fn a_rule_behind_one_that_takes_its_replies_is_found() {
    let both = format!("{}{}", rule("first", SLOW), rule("second", SLOW));
    let found = faults(&both);
    assert!(found.iter().any(|fault| fault.contains("which shadows `second`")), "{found:?}");
    let twice = format!("{}{}", rule("one", SLOW), rule("one", SLOW));
    assert!(faults(&twice)[0].contains("is taken by the rule in line"), "{:?}", faults(&twice));
}

/// Alone, too: nothing shows it but what is said for other reasons.
#[test]
fn a_rule_that_whatever_is_refused_would_hit_is_found() {
    let act = "scope = \"path\"\naction = \"suspend\"\nfor = \"1h\"";
    for (lines, is_greedy) in [
        ("reply = [\"4\", \"5\"]\nunless = \"^5.* unknown$\"", true),
        ("text = \".\"\nunless = \"^5.* unknown$\"", true),
        (
            "text = \"[a-z]\"\nmask = \"*.big.example\"\nstage = \"mail\"\nunless = \"^5.* unknown$\"",
            true,
        ),
        ("reply = \"4\"\nhits = 20\nwithin = \"10m\"\nin_a_row = true", false),
        ("judged = \"other-path\"\nreply = [\"4\", \"5\"]\nunless = \"unknown\"", false),
        ("text = \"slow down\"", false),
    ] {
        let found = faults(&rule("one", &format!("{lines}\n{act}")));
        assert_eq!(found.len(), usize::from(is_greedy), "{lines}: {found:?}");
        let says = |fault: &String| fault.contains("whatever is refused would count");
        assert!(found.iter().all(says), "{lines}: {found:?}");
    }
}

#[test]
fn a_rule_that_goes_on_may_be_followed_by_a_harder_one_only() {
    let gentle = format!("{SLOW}\nhits = 2\nwithin = \"1h\"\ngoes_on = true");
    let hard = "text = \"slow down\"\nscope = \"path\"\naction = \"suspend\"\nfor = \"1h\"\nhits = 5\nwithin = \"1h\"";
    let good = format!("{}{}", rule("gentle", &gentle), rule("hard", hard));
    assert_eq!(faults(&good), Vec::<String>::new());
    let file = ReactionFile::parse("r.toml", format!("{FRAME}{good}").as_bytes()).unwrap();
    let rules = ReactionRules::compile(&file);
    let said = Said {
        text: "421 slow down",
        mx_host: "mx.example",
        stage: ReactionStage::Mail,
        judged: None,
    };
    let names: Vec<&str> = rules.matching(&said).iter().map(|rule| &**rule.name()).collect();
    assert_eq!(names, ["gentle", "hard"]);
    let pointless = format!("{}{}", rule("gentle", &gentle), rule("again", SLOW));
    let found = faults(&pointless);
    assert!(found.iter().any(|fault| fault.contains("would always come first")), "{found:?}");
}

#[test]
fn conditions_are_all_needed_and_lists_need_one() {
    let lines = "mask = \"*.example\"\nreply = \"4\"\nstatus = \"x.7.*\"\nstage = \"rcpt\"\njudged = [\"retry\", \"other-path\"]\nunless = \"please\"\ntext = \"slow down\"\naction = \"alert\"";
    let text = format!("{FRAME}{}", rule("all", lines).replace("550 5.1.1 unknown", "421 5.1.1 x"));
    let file = ReactionFile::parse("r.toml", text.as_bytes()).unwrap();
    let rules = ReactionRules::compile(&file);
    let good = Said {
        text: "421-4.7.1 SLOW\r\n421-4.7.1  Down",
        mx_host: "mx1.example",
        stage: ReactionStage::Rcpt,
        judged: Some(Action::Retry),
    };
    let hit = |said: &Said<'_>| !rules.matching(said).is_empty();
    // The status of a further line is part of the text.
    assert!(!hit(&good));
    let good = Said { text: "421-4.7.1 please\r\n421 Slow  DOWN", ..good };
    assert!(!hit(&good), "unless");
    let good = Said { text: "421-4.7.1 now\r\n421 Slow  DOWN", ..good };
    assert!(hit(&good));
    for other in [
        Said { text: "521 4.7.1 slow down", ..good },
        Said { text: "421 4.2.1 slow down", ..good },
        Said { text: "421 4.7.1 faster", ..good },
        Said { mx_host: "mx1.example.org", ..good },
        Said { stage: ReactionStage::Mail, ..good },
        Said { judged: Some(Action::GiveUp), ..good },
        Said { judged: None, ..good },
    ] {
        assert!(!hit(&other), "{other:?}");
    }
}

#[test]
fn local_rules_stand_before_others_and_replace_by_name() {
    let file = |name: &str, text: String| ReactionFile::parse(name, text.as_bytes()).unwrap();
    let below = file("below", format!("{FRAME}{}", rule("one", SLOW)));
    let alert = "text = \"slow down\"\naction = \"alert\"";
    let local = file("local", format!("{FRAME}{}", rule("one", alert)));
    let both = ReactionFile::combine(Some(&local), &below);
    assert_eq!((both.rules().len(), both.name()), (1, "local + below"));
    assert!(both.rules()[0].effect.alert);
    assert_eq!(&**both.version(), "t+t");
    assert_eq!(ReactionFile::combine(None, &below), below);
}

#[test]
fn no_text_from_outside_does_harm() {
    let rules = ReactionRules::shipped();
    for text in [
        "",
        "\n\n",
        "5",
        "421",
        "421-",
        "é",
        &"421 slow down ".repeat(100_000),
        &"\u{301}".repeat(5_000),
    ] {
        let said = Said { text, mx_host: "", stage: ReactionStage::Between, judged: None };
        let _ = rules.matching(&said);
    }
}
