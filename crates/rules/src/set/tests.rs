use proptest::prelude::*;

use super::*;
use crate::file::shipped;
use crate::{parse, parse_local};

fn rules(text: &str, levels: &Levels) -> RuleSet {
    let text = format!(
        "schema_version = 1\n{text}\n[[rule]]\nname = \"default\"\nmask = \"*\"\n\
         max_connections = 10\nmax_messages_per_connection = 100\nmessages_per_hour = 2500\n"
    );
    match parse("f.toml", text.as_bytes()) {
        Ok(file) => RuleSet::compile(&file, levels, 3),
        Err(faults) => panic!("{}", faults.iter().map(Diagnostic::render).collect::<String>()),
    }
}

use crate::Diagnostic;

#[test]
fn the_most_particular_level_wins() {
    let levels = Levels {
        default: Level::Slow,
        per_source: BTreeMap::from([(SourceId(2), Level::Fast), (SourceId(3), Level::Fast)]),
        per_rule: BTreeMap::from([("b".to_owned(), Level::Boost), ("c".to_owned(), Level::Boost)]),
        ..Levels::default()
    };
    let set = rules(
        "[[rule]]\nname = \"a\"\nmask = \"a\"\n[[rule]]\nname = \"b\"\nmask = \"b\"\n",
        &levels,
    );
    let (a, b) = (set.id_of("a").unwrap(), set.id_of("b").unwrap());
    assert_eq!(set.level(a, SourceId(1)), Level::Slow);
    assert_eq!(set.level(a, SourceId(2)), Level::Fast);
    assert_eq!(set.level(b, SourceId(2)), Level::Boost);
    assert_eq!(set.limits(a, SourceId(2)).messages_per_hour, 5_000);
    assert_eq!(set.limits(b, SourceId(9)).messages_per_hour, 20_000);
    assert_eq!(set.unknown_rules(), ["c"]);
    assert_eq!((set.version(), set.rules().count(), set.generic_id()), (3, 3, RuleId(2)));
}

/// Connections at every level.
fn connections(rule: &str) -> [u32; 6] {
    let rule = format!("[[rule]]\nname = \"a\"\nmask = \"a\"\n{rule}\n");
    Level::ALL.map(|level| {
        let set = rules(&rule, &Levels::all(level));
        set.limits(RuleId(0), SourceId(1)).max_connections
    })
}

#[test]
fn figures_at_levels() {
    // slow, normal, fast, very-fast, boost, custom
    for (rule, want) in [
        ("", [3, 10, 14, 20, 28, 10]),
        ("max_connections = 2\nhard = [\"max_connections\"]", [1, 2, 2, 2, 2, 2]),
        ("max_connections = 5\npublished_max_connections = 9", [1, 5, 7, 9, 9, 5]),
        ("published_max_connections = 12", [3, 10, 12, 12, 12, 10]),
        ("max_connections = 60", [19, 60, 84, 100, 100, 60]),
        ("max_connections = 150", [49, 100, 100, 100, 100, 150]),
        ("max_connections = 150\nscope = \"rule\"", [49, 150, 211, 300, 424, 150]),
        ("max_connections = 5\nlevels.boost.max_connections = 6", [1, 5, 7, 10, 6, 5]),
        ("levels.slow.max_connections = 2", [2, 10, 14, 20, 28, 10]),
        ("max_connections = 5\nlevels.boost.max_connections = 500", [1, 5, 7, 10, 100, 5]),
    ] {
        assert_eq!(connections(rule), want, "{rule}");
    }
}

#[test]
fn what_the_generic_rule_says_is_inherited_level_by_level() {
    let text = "schema_version = 1
[[rule]]
name = \"a\"
mask = \"a\"
[[rule]]
name = \"default\"
mask = \"*\"
max_connections = 10
messages_per_hour = 3000
hard = [\"messages_per_hour\"]
connections_per_minute = 60
min_interval = \"50ms\"
timeout = \"1m\"
tls = \"opportunistic\"
pacing = \"even\"
levels.fast.max_connections = 11
";
    let file = parse("f.toml", text.as_bytes()).unwrap();
    let set = RuleSet::compile(&file, &Levels::all(Level::Fast), 1);
    assert_eq!(
        set.limits(RuleId(0), SourceId(1)),
        Limits {
            max_connections: 11,
            max_messages_per_connection: 100,
            messages_per_hour: 3_000,
            connections_per_minute: Some(60),
            min_interval: Some(Duration::from_millis(50)),
        }
    );
    let rule = set.rule(RuleId(0));
    assert_eq!((rule.tls, rule.pacing), (TlsPolicy::Opportunistic, Pacing::Even));
    assert_eq!(rule.timeouts, Timeouts { other: Duration::from_secs(60), ..Timeouts::default() });
}

#[test]
fn explains_each_figure() {
    let levels = Levels {
        per_source: BTreeMap::from([(SourceId(2), Level::VeryFast)]),
        ..Levels::default()
    };
    let set = rules(
        "[[rule]]\nname = \"a\"\nprovider = \"A Mail\"\nmask = [\"*.b\", \"*.a\"]\nsources = \"1-4\"\n\
         max_connections = 5\npublished_max_connections = 8\nmax_messages_per_connection = 50\n\
         source_of_figures = \"their page\"\nconfidence = \"high\"\n",
        &levels,
    );
    assert_eq!(
        set.explain("mx.a", SourceId(2)).to_string(),
        "mx.a from s2: rule a (A Mail), f.toml:2:1, version 3
  first rule that matches: mask *.a, sources 1-4
  level very-fast (set for this source), scope source, pacing staircase, tls default
  max_connections = 8: 5 stated by this rule (f.toml:7:19), × 2 at level very-fast, rounded down to 10, held to 8: a hard figure of this rule that no level passes
  max_messages_per_connection = 50: 50 stated by this rule (f.toml:9:31)
  messages_per_hour = 10,000: no published figure: 2,500 inherited from the generic rule (f.toml:18:21), × 4 at level very-fast, rounded down to 10,000
  figures from: their page (confidence high)"
    );
    let slow = RuleSet::compile(shipped(), &Levels::all(Level::Slow), 1);
    let text = slow.explain("a.google.com", SourceId(1)).to_string();
    assert!(text.contains("50 stated by this rule"), "{text}");
    assert!(text.contains(", at most 10 at level slow"), "{text}");
    assert!(text.contains("× 0.33 at level slow, rounded down to 1"), "{text}");
    // The words and the figures say the same as the limits.
    let explained = set.explain("mx.a", SourceId(2));
    assert_eq!(explained.limits, set.limits(set.find("mx.a", SourceId(2)), SourceId(2)));
    assert_eq!(explained.figures[0].value, u64::from(explained.limits.max_connections));
    assert_eq!(explained.figures[0].cap, Some(AppliedCap { limit: 8, reason: CapReason::Rule }));
}

#[test]
fn find_ignores_case_and_a_final_dot_and_respects_sources() {
    let set = rules(
        "[[rule]]\nname = \"a\"\nmask = \"*.A.example\"\nsources = \"2\"\n[[rule]]\nname = \"b\"\n\
         mask = \"*.a.example\"\n",
        &Levels::default(),
    );
    let name = |host, source| &*set.rule(set.find(host, SourceId(source))).name;
    assert_eq!(name("MX.a.Example.", 2), "a");
    assert_eq!(name("MX.a.Example.", 1), "b");
    assert_eq!(name("a.example", 2), "default");
    assert_eq!(name("", 2), "default");
    assert_eq!(name("\u{130}.ü.a.example", 2), "a");
    assert_eq!(name(&"x.".repeat(100_000), 2), "default");
}

#[test]
fn twenty_thousand_rules_are_no_burden() {
    let mut text = String::from("schema_version = 1\n");
    for number in 0..19_999 {
        text += &format!(
            "[[rule]]\nname='r{number}'\nmask='*.p{number}.example'\nmatches=['mx.p{number}.example']\n"
        );
    }
    let file = parse_local("f.toml", text.as_bytes()).unwrap();
    let set = RuleSet::compile(&file, &Levels::default(), 1);
    for number in (0..19_999).step_by(97) {
        let found = set.find(&format!("mx1.p{number}.example"), SourceId(1));
        assert_eq!(found, RuleId(number));
    }
}

/// The definition: the first rule of which a mask matches and which is for the source.
fn naive(set: &RuleSet, host: &str, source: SourceId) -> RuleId {
    set.rules()
        .find(|(_, rule)| {
            rule.sources.contains(source) && rule.masks.iter().any(|mask| mask.matches(host))
        })
        .map(|(id, _)| id)
        .unwrap()
}

/// Rules with unchecked masks: shadowed ones too, which a file may not have.
fn any_rules() -> impl Strategy<Value = RuleSet> {
    let mask = "[ab.?*]{1,5}".prop_map(|text| Mask::new(&text));
    let sources = prop_oneof![
        Just(SourceSet::all()),
        (0_u32..4).prop_map(|id| SourceSet::parse(&id.to_string()).unwrap()),
    ];
    let rule = (proptest::collection::vec(mask, 1..4), sources);
    proptest::collection::vec(rule, 0..12).prop_map(|chosen| {
        let template = shipped().rules()[0].clone();
        let mut all: Vec<Arc<WrittenRule>> = chosen
            .into_iter()
            .map(|(masks, sources)| {
                Arc::new(WrittenRule { masks, sources, ..WrittenRule::clone(&template) })
            })
            .collect();
        all.push(Arc::clone(shipped().generic().unwrap()));
        RuleSet::compile(&RuleFile::new("f".into(), all), &Levels::default(), 1)
    })
}

/// The lines of a rule with any figures.
fn any_figures() -> impl Strategy<Value = String> {
    let number = |most: u64| prop::option::of(1..=most);
    (number(10_000), number(1_000_000), number(100_000_000), number(10_000), number(10_000))
        .prop_map(|(connections, per_connection, hourly, published, boost)| {
            let line = |key: &str, value: Option<u64>| {
                value.map_or_else(String::new, |value| format!("{key} = {value}\n"))
            };
            let published = published.map(|published| published.max(connections.unwrap_or(0)));
            let boost = boost.map(|boost| boost.min(published.unwrap_or(boost)));
            line("max_connections", connections)
                + &line("max_messages_per_connection", per_connection)
                + &line("messages_per_hour", hourly)
                + &line("published_max_connections", published)
                + &line("levels.boost.max_connections", boost)
        })
}

proptest! {
    #[test]
    fn find_is_the_naive_first_match(
        set in any_rules(),
        hosts in proptest::collection::vec("[abAB.]{0,7}", 1..20),
        source in 0_u32..5,
    ) {
        for host in &hosts {
            prop_assert_eq!(
                set.find(host, SourceId(source)),
                naive(&set, host, SourceId(source)),
                "{}", host
            );
        }
    }

    #[test]
    fn limits_never_reach_zero_nor_pass_a_cap(figures in any_figures()) {
        let text = format!("[[rule]]\nname = \"a\"\nmask = \"a\"\n{figures}");
        for level in Level::ALL {
            let set = rules(&text, &Levels::all(level));
            let limits = set.limits(RuleId(0), SourceId(1));
            prop_assert!(limits.max_connections >= 1);
            prop_assert!(limits.max_messages_per_connection >= 1);
            prop_assert!(limits.messages_per_hour >= 1);
            prop_assert!(level == Level::Custom || limits.max_connections <= 100);
            let cap = set.rules[0].written.cap(Figure::MaxConnections).unwrap_or(u64::MAX);
            prop_assert!(u64::from(limits.max_connections) <= cap);
            let explained = set.explain("a", SourceId(1));
            for figure in &explained.figures {
                prop_assert!(figure.value >= 1);
            }
        }
    }

    #[test]
    fn accepted_files_have_no_rule_that_cannot_win(
        masks in proptest::collection::vec("[ab?*]{1,4}", 1..6),
    ) {
        let mut text = String::from("schema_version = 1\n");
        for (number, mask) in masks.iter().enumerate() {
            text += &format!("[[rule]]\nname = \"r{number}\"\nmask = \"{mask}\"\n");
        }
        let covered = (1..masks.len()).any(|late| {
            masks[..late].iter().any(|early| Mask::new(early).covers(&Mask::new(&masks[late])))
        });
        let unclean = masks.iter().any(|mask| mask.contains("**"));
        let generic_early = masks[..masks.len() - 1].iter().any(|mask| mask == "*");
        prop_assert_eq!(
            parse_local("f.toml", text.as_bytes()).is_ok(),
            !covered && !unclean && !generic_early
        );
    }
}

#[test]
fn levels_are_read_and_explanations_written_as_data() {
    let text =
        "default = \"slow\"\nper_source = { 2 = \"very-fast\" }\nper_rule = { google = \"boost\" }";
    let levels: Levels = toml::from_str(text).unwrap();
    assert_eq!(levels.per_source, BTreeMap::from([(SourceId(2), Level::VeryFast)]));
    assert!(toml::from_str::<Levels>("defualt = \"slow\"").is_err());
    let set = RuleSet::compile(shipped(), &levels, 5);
    let written = toml::to_string(&set.explain("smtp-in.orange.fr", SourceId(2))).unwrap();
    for line in [
        "rule = \"orange\"",
        "level = \"very-fast\"",
        "level_origin = \"source\"",
        "reason = \"rule\"",
        "figure = \"messages_per_hour\"",
        "connect = \"30s\"",
        "version = 5",
    ] {
        assert!(written.lines().any(|have| have == line), "{line} in:\n{written}");
    }
    assert!(written.contains("place = \"rules/mx.toml:"), "{written}");
}
