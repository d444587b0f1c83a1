//! KumoMTA.

use super::*;

const SHAPING: &str = r#"
["default"]
connection_limit = 12
max_connection_rate = "100/min"
max_message_rate = "100/s"
max_deliveries_per_connection = 80
max_ready = 2000
idle_timeout = "60s"
connect_timeout = "30s"
data_dot_timeout = "5 minutes"
ehlo_timeout = "2m"
enable_tls = "Opportunistic"
enable_mta_sts = true
colour = "green"

[["default".automation]]
regex = ["too many connections", '^421 4\.7\.0 .*rate']
action = ["Suspend", { SetConfig = { name = "connection_limit", value = 1 } }, "BounceTenant"]
trigger = { Threshold = "5/hr" }
duration = "15 minutes"

[provider."google"]
match = [{ MXSuffix = ".google.com" }, { MXSuffix = ".googlemail.com" }]
provider_connection_limit = 5
connection_limit = 3
max_deliveries_per_connection = 50
enable_tls = "RequiredInsecure"
automation = [
  { regex = '4\.7\.28', action = { SetConfig = { name = "max_message_rate", value = "1/minute" } }, trigger = "Immediate", duration = "1h" },
  { regex = '(?<!x)y', action = "Suspend", duration = "1h" },
]

[provider."google".sources."ip-2"]
provider_connection_limit = 1
max_message_rate = "500/hour"

[provider."nobody"]
connection_limit = 4

["corp.example"]
mx_rollup = false
connection_limit = "local:4"
max_message_rate = "1,000/hour,max_burst=10"
additional_message_rate_throttles = { tenants = "100/hour" }
max_connection_rate = "10/hour"
smtp_auth_plain_password = "do not tell"

["lost.example"]
connection_limit = 2
enable_tls = "Required"

["yahoo.com".sources."ip-9"]
connection_limit = 2
"#;

#[test]
fn a_shaping_file_becomes_rules() {
    let found = imported(Dialect::Kumomta, &[file("shaping.toml", SHAPING)]);
    for (host, source, wanted) in [
        ("gmail-smtp-in.l.google.com", 1, ("google", 5, 50, 2_500)),
        ("gmail-smtp-in.l.google.com", 2, ("google-from-ip-2", 1, 50, 500)),
        ("mx2.corp.example", 1, ("corp.example", 4, 80, 100)),
        ("mx.anything.example", 1, ("default", 10, 80, 2_500)),
        // The shipped rule goes on, above the imported generic one.
        ("mta5.am0.yahoodns.net", 1, ("yahoo", 10, 20, 2_500)),
    ] {
        let (name, connections, per_connection, per_hour) = limits(&found, host, source);
        assert_eq!((name.as_str(), connections, per_connection, per_hour), wanted, "{host}");
    }
    let mx = found.mx.as_deref().unwrap();
    for wanted in [
        "pacing = \"even\"",
        "connections_per_minute = 100",
        "min_interval = \"6m\"",
        "scope = \"path\"",
        "connect_timeout = \"30s\"",
        "data_timeout = \"5m\"",
        "timeout = \"2m\"",
        "source_of_figures = \"imported from KumoMTA: shaping.toml:22:11\"",
    ] {
        assert!(mx.contains(wanted), "{wanted}\n{mx}");
    }
    assert!(found.domains.as_deref().unwrap().contains("mask = \"lost.example\""));
    assert_eq!(found.unknown_domains, ["lost.example"]);
    assert!(found.config.as_deref().unwrap().contains("[smtp_client]\nidle_timeout = \"1m\""));
    let all = serde_json::to_string(&found.report).unwrap();
    assert!(!all.contains("do not tell"), "a secret is in the report");
}

#[test]
fn the_report_says_what_differs() {
    let found = imported(Dialect::Kumomta, &[file("shaping.toml", SHAPING)]);
    for (directive, verdict, part) in [
        ("default.connection_limit", "differs", "KEPT at the shipped 10"),
        ("default.max_message_rate", "differs", "sliding hour"),
        ("default.max_message_rate", "differs", "KEPT at the shipped 2,500"),
        ("default.max_ready", "not taken", "ready queue"),
        ("default.colour", "not taken", "known here"),
        ("[default]", "differs", "scope `path`"),
        ("default.automation.action", "differs", "never fails mail"),
        ("default.automation.trigger", "differs", "within the duration (15m)"),
        ("provider.google.match", "differs", "all MX hosts"),
        ("provider.google.connection_limit", "not taken", "provider_connection_limit"),
        ("provider.google.enable_tls", "differs", "tls_verify"),
        ("[provider.nobody]", "not taken", "has no `match`"),
        ("provider.nobody.connection_limit", "not taken", "has no `match`"),
        ("\"corp.example\".connection_limit", "differs", "local:"),
        ("\"corp.example\".mx_rollup", "differs", "share the limits"),
        ("\"corp.example\".max_message_rate", "not taken", "with a name"),
        ("\"corp.example\".additional_message_rate_throttles", "differs", "shares the name"),
        ("\"corp.example\".max_connection_rate", "differs", "a pause between"),
        ("\"lost.example\".connection_limit", "not taken", "--mx lost.example"),
        ("\"lost.example\".enable_tls", "taken", "domain rule"),
        ("\"yahoo.com\".sources.ip-9.connection_limit", "not taken", "--source ip-9"),
    ] {
        let (found, words) = words_of(&found, directive);
        assert_eq!(found, verdict, "{directive}: {words}");
        assert!(words.contains(part), "{directive}: {words}");
    }
    // The second pattern of google looks behind, which our patterns cannot.
    let refused = found.report.entries.iter().find(|entry| entry.value.contains("?<!x")).unwrap();
    assert_eq!(refused.verdict, ImportVerdict::NotTaken);
    assert!(refused.words.contains("no regular expression"), "{}", refused.words);
}

#[test]
fn automation_becomes_reactions() {
    let found = imported(Dialect::Kumomta, &[file("shaping.toml", SHAPING)]);
    let text = found.reactions.unwrap();
    let reactions = ReactionFile::parse("r", text.as_bytes()).unwrap();
    let all: Vec<String> = reactions
        .rules()
        .iter()
        .map(|rule| {
            format!("{} {} {} {}", rule.masks.len(), rule.hits, rule.scope, rule.effect.words())
        })
        .collect();
    assert_eq!(
        all,
        [
            "2 1 source-at-provider slow to 1 messages a minute",
            "0 5 source-at-provider suspend",
            "0 5 source-at-provider 1 connection",
        ],
        "{text}"
    );
}

#[test]
fn keys_may_be_quoted_dotted_and_in_line() {
    let plain = "[\"corp.example\"]\nconnection_limit = 3\nmax_deliveries_per_connection = 7\n";
    for text in [
        "\"corp.example\".connection_limit = 3\n'corp.example'.max_deliveries_per_connection = 7\n",
        "\"corp.example\" = { connection_limit = 3, max_deliveries_per_connection = 7 }\n",
        "[\"corp.example\"]\n\"connection_limit\" = 0x3\nmax_deliveries_per_connection = 0_7\n"
            .replace("0_7", "7")
            .as_str(),
    ] {
        let one = imported(Dialect::Kumomta, &[file("a", plain)]);
        let other = imported(Dialect::Kumomta, &[file("a", text)]);
        assert_eq!(
            limits(&one, "mx1.corp.example", 1),
            limits(&other, "mx1.corp.example", 1),
            "{text}"
        );
        assert_eq!(limits(&other, "mx1.corp.example", 1).1, 3, "{text}");
        assert_eq!(other.report.entries.len(), 3);
    }
}

#[test]
fn a_later_file_overrides_an_earlier_one() {
    let first = "[\"corp.example\"]\nconnection_limit = 3\nmax_deliveries_per_connection = 7\n";
    let second = "[\"corp.example\"]\nconnection_limit = 2\n";
    let found = imported(Dialect::Kumomta, &[file("a", first), file("b", second)]);
    assert_eq!(limits(&found, "mx1.corp.example", 1), ("corp.example".to_owned(), 2, 7, 2_500));
    assert_eq!(
        lines(&found),
        [
            "1 differs [\"corp.example\"]",
            "2 not taken \"corp.example\".connection_limit",
            "3 taken \"corp.example\".max_deliveries_per_connection",
            "1 taken [\"corp.example\"]",
            "2 taken \"corp.example\".connection_limit",
        ]
    );
    let base = format!("{second}replace_base = true\n");
    let found = imported(Dialect::Kumomta, &[file("a", first), file("b", &base)]);
    assert_eq!(limits(&found, "mx1.corp.example", 1), ("corp.example".to_owned(), 2, 100, 2_500));
}

#[test]
fn domains_behind_the_same_hosts_share_a_rule_and_it_is_said() {
    let text = "[\"gmail.com\"]\nconnection_limit = 3\n[\"shop.example\"]\nconnection_limit = 9\n";
    let found = imported(Dialect::Kumomta, &[file("a", text)]);
    assert_eq!(limits(&found, "aspmx.l.google.com", 1).1, 3);
    let (verdict, words) = words_of(&found, "\"shop.example\".connection_limit");
    assert_eq!(verdict, "not taken");
    assert!(words.contains("a:1:2"), "{words}");
}

#[test]
fn a_figure_beyond_a_published_one_is_named() {
    let text = "[\"orange.fr\"]\nconnection_limit = 20\n[\"comcast.net\"]\nconnection_limit = 5\n";
    let found = imported(Dialect::Kumomta, &[file("a", text)]);
    let (verdict, words) = words_of(&found, "\"orange.fr\".connection_limit");
    assert_eq!(verdict, "differs");
    assert!(words.contains("passes the 2"), "{words}");
    // What stays below keeps the ceiling for higher levels.
    assert!(found.mx.unwrap().contains("published_max_connections = 25"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each key of a file is in the report once, on its line, whatever it is.
    #[test]
    fn every_directive_is_in_the_report(
        tables in proptest::collection::vec(
            (
                prop_oneof![
                    Just("default".to_owned()),
                    "[a-z]{1,5}\\.example",
                    Just("gmail.com".to_owned()),
                    Just("corp.example".to_owned()),
                ],
                proptest::collection::btree_map(
                    prop_oneof![
                        "[a-z_]{1,12}",
                        Just("connection_limit".to_owned()),
                        Just("max_message_rate".to_owned()),
                        Just("max_deliveries_per_connection".to_owned()),
                        Just("enable_tls".to_owned()),
                    ],
                    prop_oneof![
                        (0_u64..5_000).prop_map(|number| number.to_string()),
                        (1_u64..5_000).prop_map(|number| format!("\"{number}/hour\"")),
                        Just("\"Required\"".to_owned()),
                        Just("[1, 2]".to_owned()),
                        Just("true".to_owned()),
                    ],
                    0..6,
                ),
            ),
            0..6,
        )
    ) {
        let mut text = String::new();
        let mut wanted: Vec<u32> = Vec::new();
        let mut line = 0;
        let mut seen = std::collections::BTreeSet::new();
        for (name, keys) in tables {
            if !seen.insert(name.clone()) {
                continue;
            }
            line += 1;
            wanted.push(line);
            text += &format!("[\"{name}\"]\n");
            for (key, value) in keys {
                if key == "sources" || key == "automation" {
                    continue;
                }
                line += 1;
                wanted.push(line);
                text += &format!("{key} = {value}\n");
            }
        }
        let imported = imported(Dialect::Kumomta, &[file("a", &text)]);
        let mut found: Vec<u32> =
            imported.report.entries.iter().map(|entry| entry.place.line).collect();
        found.sort_unstable();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn slashes_around_a_pattern_are_its_delimiters() {
    let text = r#"
["gmail.com"]
connection_limit = 3
[["gmail.com".automation]]
regex = ['/TSS04/', '/too many .* from/i', 'a/b']
action = "Suspend"
duration = "1h"
"#;
    let found = imported(Dialect::Kumomta, &[file("shaping.toml", text)]);
    let reactions = found.reactions.as_deref();
    let reactions = reactions.unwrap_or_else(|| panic!("{:?}", found.report.entries));
    assert!(reactions.contains(r#"text = ["TSS04", "too many .* from", "a/b"]"#), "{reactions}");
    assert!(!reactions.contains("/TSS04"), "an example with slashes would hide it: {reactions}");
    let (verdict, words) = words_of(&found, "\"gmail.com\".automation.regex");
    assert!(verdict == "differs" && words.contains("delimiters"), "{words}");
}

#[test]
fn no_shipped_rule_is_loosened_by_what_is_said_of_all_hosts() {
    let text = "[\"default\"]\nconnection_limit = 50\nmax_message_rate = \"100/s\"\nmax_deliveries_per_connection = 5\n\
                [\"default\".sources.\"ip-1\"]\nconnection_limit = 90\n\
                [\"yahoo.com\"]\nconnection_limit = 5\n";
    let found = imported(Dialect::Kumomta, &[file("shaping.toml", text)]);
    let local = crate::parse_local("mx.toml", found.mx.as_deref().unwrap().as_bytes()).unwrap();
    let combined = RuleFile::combine(Some(&local), crate::shipped());
    let set = RuleSet::compile(&combined, &Levels::all(Level::Normal), 1);
    let before = RuleSet::compile(crate::shipped(), &Levels::all(Level::Normal), 1);
    let source = mail::id::SourceId(1);
    for (id, rule) in before.rules() {
        if &*rule.name == "yahoo" {
            continue;
        }
        let limits = before.limits(id, source);
        let now = set.limits(set.id_of(&rule.name).unwrap(), source);
        assert!(now.max_connections <= limits.max_connections, "{}", rule.name);
        assert!(now.messages_per_hour <= limits.messages_per_hour, "{}", rule.name);
        let per_connection = limits.max_messages_per_connection;
        assert!(now.max_messages_per_connection <= per_connection, "{}", rule.name);
    }
    assert_eq!(limits(&found, "aspmx.l.google.com", 1).1, 5, "a source's default comes first");
    let (verdict, words) = words_of(&found, "default.sources.ip-1.connection_limit");
    assert!(verdict == "not taken" && words.contains("every shipped rule"), "{words}");
    let lost = found.report.notes.iter().find(|note| note.contains("shipped rule yahoo"));
    let lost = lost.unwrap_or_else(|| panic!("{:?}", found.report.notes));
    assert!(lost.contains("hard max_messages_per_connection 20, now none"), "{lost}");
}
