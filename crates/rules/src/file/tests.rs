use mail::id::SourceId;

use super::*;
use crate::{Levels, RuleSet, Stated, parse, parse_local};

/// Limits of a shipped rule at every level: connections, per connection, per hour.
fn at_every_level(host: &str) -> [(u32, u32, u32); 6] {
    Level::ALL.map(|level| {
        let rules = RuleSet::compile(shipped(), &Levels::all(level), 1);
        let limits = rules.limits(rules.find(host, SourceId(1)), SourceId(1));
        (limits.max_connections, limits.max_messages_per_connection, limits.messages_per_hour)
    })
}

#[test]
fn the_shipped_rules_have_no_fault() {
    let text = include_bytes!("../../../../rules/mx.toml");
    let faults = parse("rules/mx.toml", text).err().unwrap_or_default();
    let rendered: String = faults.iter().map(|fault| fault.render() + "\n\n").collect();
    assert_eq!(rendered, "");
    assert!(shipped().rules().len() >= 280, "{} rules", shipped().rules().len());
    let generic = shipped().generic().unwrap();
    for figure in &Figure::ALL[..3] {
        assert!(generic.figures.get(*figure).is_some(), "the generic rule states {figure}");
    }
}

#[test]
fn the_shipped_rules_say_where_figures_come_from_and_give_examples() {
    let rules = RuleSet::compile(shipped(), &Levels::default(), 1);
    for rule in shipped().rules() {
        let name = &rule.name;
        assert!(!rule.source_of_figures.is_empty(), "{name} has no source_of_figures");
        let has_figure = Figure::ALL.iter().any(|figure| rule.figures.get(*figure).is_some());
        assert_eq!(has_figure, rule.confidence != Confidence::None, "confidence of {name}");
        assert!(!rule.matches.is_empty(), "{name} has no example");
        assert!(rule.is_generic() || !rule.matches_not.is_empty(), "{name} has no counter-example");
        for host in &rule.matches {
            assert_eq!(&rules.rule(rules.find(host, SourceId(1))).name, name, "{host}");
        }
        for host in &rule.matches_not {
            assert_ne!(&rules.rule(rules.find(host, SourceId(1))).name, name, "{host}");
        }
        // Every mask is tried by an example of its own, so none of them is a slip of the pen.
        for mask in &rule.masks {
            assert!(rule.matches.iter().any(|host| mask.matches(host)), "{name}: {mask}");
        }
    }
}

#[test]
fn only_the_generic_rule_carries_the_hourly_base() {
    let hourly: Vec<(&str, u64)> = shipped()
        .rules()
        .iter()
        .filter_map(|rule| Some((&*rule.name, rule.figures.get(Figure::MessagesPerHour)?.value)))
        .collect();
    assert_eq!(
        hourly,
        [("simply_com", 18_000), ("qq", 4_000), ("netease", 4_000), ("default", 2_500)]
    );
}

#[test]
fn shipped_figures_at_every_level() {
    // slow, normal, fast, very-fast, boost, custom
    assert_eq!(
        at_every_level("gmail-smtp-in.l.google.com"),
        [
            (1, 10, 250),
            (5, 50, 2_500),
            (7, 50, 5_000),
            (10, 50, 10_000),
            (14, 50, 20_000),
            (5, 50, 2_500)
        ]
    );
    assert_eq!(
        at_every_level("mail.example.org"),
        [
            (3, 10, 250),
            (10, 100, 2_500),
            (14, 100, 5_000),
            (20, 100, 10_000),
            (28, 100, 20_000),
            (10, 100, 2_500)
        ]
    );
    assert_eq!(
        at_every_level("mta7.am0.yahoodns.net"),
        [
            (3, 10, 250),
            (10, 20, 2_500),
            (14, 20, 5_000),
            (20, 20, 10_000),
            (28, 20, 20_000),
            (10, 20, 2_500)
        ]
    );
    assert_eq!(
        at_every_level("smtp-in.orange.fr"),
        [
            (1, 10, 250),
            (2, 100, 2_500),
            (2, 100, 5_000),
            (2, 100, 10_000),
            (2, 100, 20_000),
            (2, 100, 2_500)
        ]
    );
    assert_eq!(
        at_every_level("mx1.qq.com"),
        [(1, 8, 400), (4, 8, 4_000), (5, 8, 4_000), (8, 8, 4_000), (11, 8, 4_000), (4, 8, 4_000)]
    );
}

#[test]
fn shipped_hard_caps() {
    let connections = |host| at_every_level(host).map(|(connections, _, _)| connections);
    assert_eq!(connections("mx1a1.comcast.net"), [8, 25, 25, 25, 25, 25]);
    assert_eq!(connections("cxr.mx.a.cloudfilter.net"), [1, 5, 7, 10, 10, 5]);
    assert_eq!(connections("eu-smtp-inbound-2.mimecast.com"), [3, 10, 10, 10, 10, 10]);
    assert_eq!(connections("x.olc.protection.outlook.com"), [1, 5, 7, 10, 14, 5]);
    let hourly = |host| at_every_level(host).map(|(_, _, hourly)| hourly);
    assert_eq!(hourly("mx1.mxmail.netease.com"), [400, 4_000, 4_000, 4_000, 4_000, 4_000]);
}

#[test]
fn neighbours_that_depend_on_the_order() {
    let rules = RuleSet::compile(shipped(), &Levels::default(), 1);
    for (host, name) in [
        ("cxr.mx.a.cloudfilter.net", "cox"),
        ("mx.a.cloudfilter.net", "cloudfilter_platform"),
        ("mx1-00360101.gslb.pphosted.com", "yousee"),
        ("mx0a-00123456.pphosted.com", "proofpoint"),
        ("mxbiz1.qq.com", "tencent_exmail"),
        ("mx3.qq.com", "qq"),
        ("qiye163mx01.mxmail.netease.com", "netease_qiye"),
        ("163mx01.mxmail.netease.com", "netease"),
        ("mx.pec.aruba.it", "aruba_pec"),
        ("mx.aruba.it", "aruba"),
        ("mx.tt.xion.oxcs.net", "talktalk"),
        ("mx01.oxcs.net", "ox_cloud"),
        ("google.com", "default"),
        ("gmail-smtp-in.l.google.com.evil.example", "default"),
    ] {
        assert_eq!(&*rules.rule(rules.find(host, SourceId(9))).name, name, "{host}");
    }
}

const SHIPPED: &str = r#"
schema_version = 1
[[rule]]
name = "google"
mask = "*.google.com"
max_connections = 5
[[rule]]
name = "default"
mask = "*"
max_connections = 10
max_messages_per_connection = 100
messages_per_hour = 2500
"#;

fn names(file: &RuleFile) -> Vec<&str> {
    file.rules().iter().map(|rule| &*rule.name).collect()
}

#[test]
fn local_rules_come_first_and_replace_by_name() {
    let shipped = parse("shipped.toml", SHIPPED.as_bytes()).unwrap();
    assert_eq!(RuleFile::combine(None, &shipped), shipped);
    let local = r#"
schema_version = 1
[[rule]]
name = "ours"
mask = "*.our-partner.example"
max_connections = 3
[[rule]]
name = "google"
mask = "*.google.com"
max_connections = 2
[[rule]]
name = "everything-else"
mask = "*"
max_connections = 4
"#;
    let local = parse_local("local.toml", local.as_bytes()).unwrap();
    let both = RuleFile::combine(Some(&local), &shipped);
    assert_eq!(names(&both), ["ours", "google", "everything-else"]);
    assert_eq!(both.name(), "local.toml + shipped.toml");
    let rules = RuleSet::compile(&both, &Levels::default(), 7);
    let limits = |host| rules.limits(rules.find(host, SourceId(1)), SourceId(1));
    assert_eq!(limits("a.google.com").max_connections, 2);
    // What the local generic rule leaves open is the shipped one's.
    assert_eq!(limits("x.example").max_connections, 4);
    assert_eq!(limits("x.example").messages_per_hour, 2_500);
    assert_eq!(&*rules.rule(rules.find("a.google.com", SourceId(1))).place.file, "local.toml");
}

#[test]
fn local_rules_alone_get_the_shipped_generic_rule() {
    let local = "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"*.a.example\"\n";
    assert!(parse("local.toml", local.as_bytes()).is_err());
    let local = parse_local("local.toml", local.as_bytes()).unwrap();
    assert_eq!(local.generic(), None);
    let rules = RuleSet::compile(&local, &Levels::default(), 1);
    let limits = rules.limits(rules.find("mx.a.example", SourceId(1)), SourceId(1));
    assert_eq!((limits.max_connections, limits.messages_per_hour), (10, 2_500));
}

#[test]
fn the_gentler_cap_counts() {
    let text = r#"
schema_version = 1
[[rule]]
name = "a"
mask = "*"
max_connections = 5
published_max_connections = 9
hard = ["max_connections", "min_interval"]
min_interval = "2s"
"#;
    let file = parse("a.toml", text.as_bytes()).unwrap();
    let rule = &file.rules()[0];
    assert_eq!(rule.cap(Figure::MaxConnections), Some(5));
    assert_eq!(rule.cap(Figure::MinInterval), Some(2_000));
    assert_eq!(rule.cap(Figure::MessagesPerHour), None);
    let place = Place { file: "a.toml".into(), line: 6, column: 19 };
    assert_eq!(rule.figures.get(Figure::MaxConnections), Some(&Stated { value: 5, place }));
}
