use proptest::prelude::*;

use super::*;

/// A rule file that begins properly, with `rules` and a generic rule.
fn file(rules: &str) -> String {
    format!("schema_version = 1\n{rules}\n[[rule]]\nname = \"default\"\nmask = \"*\"\n")
}

/// What `Display` says about every fault, with the advice behind it.
fn faults(text: &str) -> Vec<String> {
    let faults = parse("f.toml", text.as_bytes()).err().unwrap_or_default();
    faults.iter().map(|fault| format!("{fault} [{}]", fault.help)).collect()
}

/// One rule `a` with these lines, at line 2, and a generic rule.
fn faults_of_rule(lines: &str) -> Vec<String> {
    let rule = format!("[[rule]]\nname = \"a\"\nmask = \"*.a.example\"\n{lines}");
    faults(&file(&rule))
}

#[test]
fn reads_every_field() {
    let text = file(
        r#"[[rule]]
name = "a"
provider = "A Mail"
mask = ["*.a.example", "MX?.b.example."]
sources = "1,4-7"
scope = "path"
max_connections = 2
max_messages_per_connection = 20
messages_per_hour = 1_000
connections_per_minute = 30
min_interval = "100ms"
published_max_connections = 4
published_max_messages_per_connection = 20
published_messages_per_hour = 2000
hard = ["max_messages_per_connection", "min_interval"]
connect_timeout = "20s"
data_timeout = "15m"
timeout = "2m"
tls = "required"
pacing = "even"
source_of_figures = "their page"
confidence = "high"
matches = ["mx1.B.example"]
matches_not = ["mx10.b.example"]
domains = ["a.example"]
notes = "x"
[rule.levels.very-fast]
max_connections = 3
"#,
    );
    let file = parse("f.toml", text.as_bytes()).unwrap();
    let rule = &file.rules()[0];
    assert_eq!(rule.masks[1].as_str(), "mx?.b.example");
    assert_eq!(rule.sources.to_string(), "1,4-7");
    assert_eq!((rule.scope, rule.pacing), (crate::Scope::Path, Some(crate::Pacing::Even)));
    assert_eq!(rule.tls, Some(crate::TlsPolicy::Required));
    assert_eq!(rule.timeouts.data, Some(core::time::Duration::from_secs(900)));
    assert_eq!(rule.confidence, crate::Confidence::High);
    assert_eq!(&*rule.matches[0], "mx1.b.example");
    assert_eq!(rule.place.to_string(), "f.toml:2:1");
    let at_level = rule.levels[&crate::Level::VeryFast].get(crate::Figure::MaxConnections).unwrap();
    assert_eq!((at_level.value, at_level.place.line), (3, 29));
    assert_eq!(rule.figures.get(crate::Figure::MessagesPerHour).unwrap().value, 1_000);
}

#[test]
fn every_fault_of_a_field_has_its_place() {
    let ranges = "where nobody published a figure, leave the key out and the generic rule decides";
    for (lines, want) in [
        ("max_conections = 3", "f.toml:5:1: unknown key `max_conections` [did you mean `max_connections`?]".to_owned()),
        ("max_connections = 0", format!("f.toml:5:19: `max_connections` is 0 [allowed: 1 to 10000; {ranges}]")),
        ("max_connections = -0", format!("f.toml:5:19: `max_connections` is 0 [allowed: 1 to 10000; {ranges}]")),
        ("messages_per_hour = -5", format!("f.toml:5:21: `messages_per_hour` is negative [allowed: 1 to 100000000; {ranges}]")),
        ("max_connections = 10001", format!("f.toml:5:19: `max_connections` is not within 1 to 10000 [allowed: 1 to 10000; {ranges}]")),
        ("max_connections = 99999999999999999999999999999999999999999999", format!("f.toml:5:19: `max_connections` is not within 1 to 10000 [allowed: 1 to 10000; {ranges}]")),
        ("max_connections = \"3\"", "f.toml:5:19: `max_connections` must be a whole number, not a text [write a whole number from 1 to 10000, without quotes]".to_owned()),
        ("max_connections = 2.5", "f.toml:5:19: `max_connections` must be a whole number, not a number with a fraction [write a whole number from 1 to 10000, without quotes]".to_owned()),
        ("timeout = \"5 minutes\"", "f.toml:5:11: `timeout`: a duration is a whole number and a unit: 500ms, 30s, 10m, 1h or 5d [allowed: from \"100ms\" to \"1h\"]".to_owned()),
        ("timeout = \"2h\"", "f.toml:5:11: `timeout` is not within from \"100ms\" to \"1h\" [allowed: from \"100ms\" to \"1h\"]".to_owned()),
        ("connect_timeout = 30", "f.toml:5:19: `connect_timeout` must be a duration, not a whole number [write a number and a unit in quotes, from \"100ms\" to \"10m\"]".to_owned()),
        ("tls = \"must\"", "f.toml:5:7: `tls` knows no `must` [write one of default, disabled, opportunistic, required]".to_owned()),
        ("scope = true", "f.toml:5:9: `scope` must be a text, not true or false [write one of source, path, rule]".to_owned()),
        ("sources = \"1, 9-4\"", "f.toml:5:14: `sources`: range `9-4` runs from high to low [list each source once: ids and ranges from low to high, such as \"1,4-7\"]".to_owned()),
        ("sources = \"1-5,3\"", "f.toml:5:16: `sources`: `3` overlaps `1-5` [list each source once: ids and ranges from low to high, such as \"1,4-7\"]".to_owned()),
        ("sources = 3", "f.toml:5:11: `sources` must be a text, not a whole number [write ids and ranges in quotes, such as `sources = \"1,4-7\"`]".to_owned()),
        ("hard = [\"max_connections\"]", "f.toml:5:9: `max_connections` is hard, but this rule states none [state `max_connections` in this rule, or leave it out of `hard`]".to_owned()),
        ("hard = [\"tls\"]", "f.toml:5:9: `hard` knows no figure `tls` [write max_connections, max_messages_per_connection, messages_per_hour, connections_per_minute, min_interval]".to_owned()),
        ("published_max_connections = 3\nmax_connections = 4", "f.toml:6:19: `max_connections` passes the published ceiling 3 [state a figure that is not harder on the provider]".to_owned()),
        ("levels.custom.max_connections = 4", "f.toml:5:8: level `custom` has no figures of its own [at level custom the figures of the rule hold as written; change those]".to_owned()),
        ("levels.bost.max_connections = 4", "f.toml:5:8: unknown key `bost` [did you mean `boost`?]".to_owned()),
        ("hard = [\"max_connections\"]\nmax_connections = 4\n[rule.levels.boost]\nmax_connections = 5", "f.toml:8:19: `max_connections` at level boost passes the hard figure 4 of the rule [no level passes a figure that the provider published or gave]".to_owned()),
        ("hard = [\"min_interval\"]\nmin_interval = \"2s\"\n[rule.levels.boost]\nmin_interval = \"1s\"", "f.toml:8:16: `min_interval` at level boost passes the hard figure 2s of the rule [no level passes a figure that the provider published or gave]".to_owned()),
        ("matches = [\"mx.b.example\"]", "f.toml:5:12: rule `a` does not match its example `mx.b.example` [mend the mask or the example]".to_owned()),
        ("matches_not = [\"x\", \"MX.A.example.\"]", "f.toml:5:21: rule `a` matches its counter-example `mx.a.example.` [make the mask narrower or mend the counter-example]".to_owned()),
        ("matches = [\"*.a.example\"]", "f.toml:5:12: `*.a.example` in `matches` is not the name of an MX host [write a whole host name without wildcards]".to_owned()),
        ("notes = \"a\\u0000b\"", "f.toml:5:9: `notes` holds a control character []".to_owned()),
    ] {
        assert_eq!(faults_of_rule(lines), [want], "{lines}");
    }
}

#[test]
fn faults_of_masks_and_names() {
    let mask_help =
        "[a mask is an MX host name with `*` for any run of characters and `?` for one]";
    let long = "a".repeat(256);
    for (mask, want) in [
        ("\"\"", format!("f.toml:4:8: the mask is empty {mask_help}")),
        ("\"a b\"", format!("f.toml:4:8: ` ` cannot stand in a mask {mask_help}")),
        (
            "\"x@a.example\"",
            format!(
                "f.toml:4:8: `@` cannot stand in a mask: masks are for MX hosts, not for addresses {mask_help}"
            ),
        ),
        (
            "[\"a.example\", \"b..example\"]",
            format!("f.toml:4:22: the mask has an empty label {mask_help}"),
        ),
        (
            "\"**.example\"",
            format!("f.toml:4:8: `**` in a mask means no more than `*` {mask_help}"),
        ),
        (
            "[\"a.example\", \"A.example\"]",
            "f.toml:4:22: mask `a.example` stands twice in this rule [drop one of them]".to_owned(),
        ),
        ("[]", "f.toml:4:8: `mask` is an empty list [name at least one mask]".to_owned()),
        (
            "7",
            "f.toml:4:8: `mask` must be a text or a list of texts, not a whole number []"
                .to_owned(),
        ),
        (&format!("\"{long}\""), "f.toml:4:8: `mask` is longer than 255 characters []".to_owned()),
    ] {
        let text = file(&format!("[[rule]]\nname = \"a\"\nmask = {mask}"));
        assert_eq!(faults(&text), [want], "{mask}");
    }
    let many: Vec<String> = (0..65).map(|number| format!("\"m{number}.example\"")).collect();
    let text = file(&format!("[[rule]]\nname = \"a\"\nmask = [{}]", many.join(",")));
    let found = faults(&text);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("`mask` has more than 64 entries"), "{found:?}");
    assert_eq!(
        faults(&file("[[rule]]\nname = \"Big Mail\"\nmask = \"a\"")),
        [
            "f.toml:3:8: `name` is not a short name [use 1 to 64 lower-case letters, digits, `-`, `_` and `.`; `provider` takes any text]"
        ]
    );
    assert_eq!(
        faults(&file("[[rule]]\nprovider = \"x\"")),
        [
            "f.toml:2:1: the rule has no `mask` [say which MX hosts it is for, such as `mask = \"*.google.com\"`]",
            "f.toml:2:1: the rule has no `name` [give every rule a short unique name, such as `name = \"google\"`]",
        ]
    );
}

#[test]
fn faults_between_rules() {
    let two = |first: &str, second: &str| {
        file(&format!("[[rule]]\nname = \"a\"\n{first}\n[[rule]]\nname = \"b\"\n{second}"))
    };
    let advice = "[put the particular rule before the general one, or drop the mask]";
    assert_eq!(
        faults(&two("mask = \"*.com\"", "mask = [\"x.net\", \"*.A.com\"]")),
        [format!(
            "f.toml:7:18: mask `*.a.com` can never win: `*.com` of rule `a` in line 2 comes first {advice}"
        )]
    );
    // Only some of its sources are taken: no fault.
    assert_eq!(faults(&two("mask = \"*.com\"\nsources = \"1-3\"", "mask = \"*.a.com\"")), [""; 0]);
    // All of them, by two rules together.
    let three = file(
        "[[rule]]\nname = \"a\"\nmask = \"*.com\"\nsources = \"1-3\"\n\
         [[rule]]\nname = \"b\"\nmask = \"*a.com\"\nsources = \"4\"\n\
         [[rule]]\nname = \"c\"\nmask = \"*.a.com\"\nsources = \"2-4\"\nmatches = [\"x.a.com\"]",
    );
    let found = faults(&three);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("f.toml:12:8: mask `*.a.com` can never win"), "{found:?}");
    assert!(
        found[1].starts_with("f.toml:14:12: `x.a.com` goes to rule `a` in line 2"),
        "{found:?}"
    );
    // The masks overlap without one covering the other, and the example is on the wrong side.
    assert_eq!(
        faults(&two(
            "mask = \"mx*.example\"",
            "mask = \"*.b.example\"\nmatches = [\"mx.b.example\"]"
        )),
        [
            "f.toml:8:12: `mx.b.example` goes to rule `a` in line 2, which comes first [put the particular rule before the general one, or mend the example]"
        ]
    );
    assert_eq!(
        faults(
            "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"a\"\n[[rule]]\nname = \"a\"\nmask = \"*\"\n"
        ),
        [
            "f.toml:6:8: rule name `a` is taken by the rule in line 2 [names are unique: levels, logs and answers use them]"
        ]
    );
}

#[test]
fn the_generic_rule_must_be_there_and_last() {
    let rule = |name: &str, mask: &str| format!("[[rule]]\nname = \"{name}\"\nmask = {mask}\n");
    let version = "schema_version = 1\n";
    let missing = "the last rule is not the generic one: it must have the mask `*` and all sources [end the file with a rule that has `mask = \"*\"`; every other rule inherits from it]";
    assert_eq!(
        faults(&format!("{version}{}", rule("a", "\"a\""))),
        [format!("f.toml:2:1: {missing}")]
    );
    let limited = format!("{version}{}sources = \"1\"\n", rule("a", "\"*\""));
    assert_eq!(faults(&limited), [format!("f.toml:2:1: {missing}")]);
    let found = faults(&format!("{version}{}{}", rule("d", "\"*\""), rule("a", "\"a\"")));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("f.toml:4:8: the rule with mask `*` and all sources is not the last")
    );
    assert!(found[1].starts_with("f.toml:7:8: mask `a` can never win"));
}

#[test]
fn faults_of_the_file() {
    let empty = "the file is empty [begin with `schema_version = 1` and a `[[rule]]`]";
    assert_eq!(faults(""), [format!("f.toml:1:1: {empty}")]);
    assert_eq!(faults(" \n\n"), [format!("f.toml:1:1: {empty}")]);
    assert_eq!(
        faults("# nothing\n"),
        [
            "f.toml:1:1: `schema_version` is missing [write `schema_version = 1` at the top]",
            "f.toml:1:10: the file has no rule [write at least one `[[rule]]`]",
        ]
    );
    assert_eq!(
        faults(&file("").replace("= 1", "= 2")),
        [
            "f.toml:1:18: rule files of schema version 2 are not known; this program reads version 1 [use a program as new as the file]"
        ]
    );
    assert_eq!(
        faults("schema_version = 1\nrules = 3\n[rule]\nname = \"a\"\n"),
        [
            "f.toml:2:1: unknown key `rules` [did you mean `rule`?]",
            "f.toml:3:1: `rule` must be a list of tables, not a table [begin every rule with `[[rule]]`, in two pairs of brackets]",
        ]
    );
    let mut bytes = file("").into_bytes();
    bytes.splice(19..19, *b"# caf\xe9\n");
    let found = parse("f.toml", &bytes).unwrap_err();
    assert_eq!(found[0].to_string(), "f.toml:2:6: the file is not UTF-8 from here on");
    let found = parse("f.toml", &vec![b'#'; LARGEST_FILE + 1]).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "f.toml:1:1: the file has 4194305 bytes; at most 4194304 are read"
    );
}

/// Whole files, and single figures and masks, as people and programs have written them; empty: no fault.
#[test]
fn files_of_every_kind() {
    let plain = file("[[rule]]\nname = \"a\"\nmask = \"a.example\"");
    let unix_to_dos = plain.replace('\n', "\r\n");
    for (what, text, wanted) in [
        ("a byte order mark", format!("\u{feff}{plain}"), ""),
        ("CR LF", unix_to_dos, ""),
        ("no line end at the end", plain.trim_end().to_owned(), ""),
        ("CR alone", plain.replace('\n', "\r"), "not TOML"),
        ("NUL", plain.replace("a.example", "a\0.example"), "not TOML"),
        ("NUL alone", "\0".repeat(100), "not TOML"),
        ("a binary", "\u{7f}ELF\u{2}\u{1}".to_owned(), "not TOML"),
        ("HTML", "<html><body>404</body></html>".to_owned(), "not TOML"),
        ("JSON", "{\"rule\": []}".to_owned(), "not TOML"),
        ("half a file", plain[..plain.len() - 20].to_owned(), "not TOML"),
        ("nested tables", format!("{plain}a = {}", "[".repeat(50_000)), "not TOML"),
        ("dots", format!("{}x = 1\n{plain}", "a.".repeat(50_000)), ""),
    ] {
        match parse("f.toml", text.as_bytes()) {
            Ok(_) => assert_eq!(wanted, "", "{what}"),
            Err(found) if what == "dots" => check_places(text.as_bytes(), &found),
            Err(found) => {
                let said = found[0].to_string();
                assert!(!wanted.is_empty() && said.contains(wanted), "{what}: {said}");
                check_places(text.as_bytes(), &found);
            }
        }
    }
    for figure in [
        "0",
        "-0",
        "-1",
        "18446744073709551616",
        "1e308",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "\"10/h\"",
        "\"10\"",
        "2.5",
        "1.0",
        "true",
        "[5]",
        "{}",
        "0x7fffffffffffffff",
        "1979-05-27",
    ] {
        for key in ["messages_per_hour", "max_connections", "max_messages_per_connection"] {
            let found = faults_of_rule(&format!("{key} = {figure}"));
            assert_eq!(found.len(), 1, "{key} = {figure}: {found:?}");
            assert!(found[0].starts_with("f.toml:5:"), "{key} = {figure}: {found:?}");
        }
    }
    for (mask, taken) in [
        ("a.example", true),
        ("A.EXAMPLE", true),
        ("a.example.", true),
        ("*.a?.example", true),
        ("127.*", true),
        ("xn--mller-kva.example", true),
        ("m\u{fc}ller.example", false),
        ("", false),
        (" ", false),
        (".", false),
        ("**", false),
        ("a..example", false),
        ("[a-z].example", false),
        ("(a|b).example", false),
        ("../../etc/passwd", false),
        ("a/b.example", false),
        ("a\\\\b.example", false),
        ("a\\u0000b", false),
        ("a\\u001b[2J", false),
        ("a\u{202e}b", false),
        ("user@a.example", false),
        (&"*".repeat(10_000), false),
        (&"*a".repeat(100), true),
        (&"*a".repeat(5_000), false),
    ] {
        let text = file(&format!("[[rule]]\nname = \"a\"\nmask = \"{mask}\""));
        let found = faults(&text);
        assert_eq!(found.is_empty(), taken, "{mask:?}: {found:?}");
    }
}

#[test]
fn broken_toml_and_other_faults_are_told_together() {
    let text = "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"a\nmax_connections = 0\n\n[[rule]]\nmask = \"*\"\nname = = 3\ntls = \"x\"\n";
    let found = parse("f.toml", text.as_bytes()).unwrap_err();
    let lines: Vec<u32> = found.iter().map(|fault| fault.line).collect();
    assert!(found[0].message.starts_with("not TOML: "), "{found:?}");
    for line in [4, 5, 9, 10] {
        assert!(lines.contains(&line), "line {line} of {found:?}");
    }
}

#[test]
fn repeated_keys_are_faults() {
    let found = faults_of_rule("tls = \"required\"\ntls = \"disabled\"");
    assert_eq!(found, ["f.toml:6:1: not TOML: duplicate key []"]);
}

#[test]
fn shows_the_line_with_the_fault_marked() {
    let text = file("[[rule]]\nname = \"a\"\nmask = \"a\"\nmax_conections = 3");
    let found = parse("rules/own.toml", text.as_bytes()).unwrap_err();
    assert_eq!(
        found[0].render(),
        "error: unknown key `max_conections`
 --> rules/own.toml:5:1
  |
5 | max_conections = 3
  | ^^^^^^^^^^^^^^
  |
  = help: did you mean `max_connections`?"
    );
}

#[test]
fn very_long_lines_are_cut_around_the_fault() {
    let notes = "é".repeat(1_000);
    let text = file(&format!(
        "rule_x = {{ notes = \"{notes}\", a = 1, b = \"{notes}\" }}\n[[rule]]\nname = \"a\"\nmask = \"{notes}\""
    ));
    for fault in parse("f.toml", text.as_bytes()).unwrap_err() {
        assert!(fault.render().len() < 2_000, "{}", fault.render());
    }
}

#[test]
fn the_number_of_faults_is_bounded() {
    let text = file(&"[[rule]]\nmask = \"a\"\n".repeat(300));
    let found = parse("f.toml", text.as_bytes()).unwrap_err();
    assert_eq!(found.len(), MOST_FAULTS + 1);
    assert_eq!(found[MOST_FAULTS].message, "and 100 more faults from here on");
    let garbage = "= ".repeat(RECOVERABLE_FILE);
    assert_eq!(parse("f.toml", garbage.as_bytes()).unwrap_err().len(), 1);
}

#[test]
fn too_many_rules() {
    let mut rules = String::new();
    for number in 0..=MOST_RULES {
        rules += &format!("[[rule]]\nname='{number}'\nmask='{number}.example'\n");
    }
    let found = parse("f.toml", file(&rules).as_bytes()).unwrap_err();
    assert_eq!(found[0].message, "more than 20000 rules");
    assert_eq!(found[0].line, 60_002);
}

#[test]
fn hostile_masks_end_the_check_instead_of_taking_for_ever() {
    let mut rules = String::new();
    for number in 0..6_000 {
        let middle = format!("{number:b}").replace('0', "a").replace('1', "b");
        rules += &format!("[[rule]]\nname='{number}'\nmask='*y{middle}z{}*'\n", "x".repeat(30));
    }
    let found = parse("f.toml", file(&rules).as_bytes()).unwrap_err();
    assert!(found.iter().any(|fault| fault.message.starts_with("too many masks")), "{found:?}");
}

/// Every place must be a place of the file.
fn check_places(bytes: &[u8], faults: &[Diagnostic]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    assert!(!faults.is_empty());
    for fault in faults {
        assert!(fault.line >= 1 && fault.column >= 1, "{fault}");
        let line = lines.get(fault.line as usize - 1).unwrap_or_else(|| panic!("{fault}"));
        assert!(fault.column as usize <= line.chars().count() + 1, "{fault}");
        assert!(fault.render().contains(&format!("{}:{}", fault.line, fault.column)), "{fault}");
    }
}

/// A file in which most of the format occurs.
const SEED: &str = r#"schema_version = 1

[[rule]]
name = "a"
mask = ["*.a.example", "mx?.b.example"]
sources = "1,4-7"
max_connections = 5
hard = ["max_connections"]
timeout = "5m"
tls = "required"
matches = ["mx.a.example"]
matches_not = ["a.example"]
levels.slow.max_connections = 2
[rule.levels.boost]
max_connections = 5

[[rule]]
name = "ü"
mask = """*"""
notes = '''é
'''
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(faults) = parse("f.toml", &bytes) {
            check_places(&bytes, &faults);
        }
    }

    #[test]
    fn fragments_of_toml_never_panic(
        parts in proptest::collection::vec(
            prop::sample::select(vec![
                "schema_version = 1", "\n", "[[rule]]", "[rule]", "[rule.levels]", "name = ", "\"a\"",
                "mask = ", "'*'", "[", "]", "{", "}", "=", "levels", ".", "boost", "max_connections",
                " = 3", "-0", "1e9", "é", "\r\n", "#", "\"\"\"", ",", "1979-05-27", "\u{feff}", "\\u00",
            ]),
            0..40,
        ),
    ) {
        let text = parts.concat();
        if let Err(faults) = parse("f.toml", text.as_bytes()) {
            check_places(text.as_bytes(), &faults);
        }
    }

    #[test]
    fn mutated_files_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..6, any::<u8>()), 1..5),
    ) {
        let mut bytes = SEED.as_bytes().to_vec();
        for (at, cut, byte) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        if let Err(faults) = parse("f.toml", &bytes) {
            check_places(&bytes, &faults);
        }
    }
}
