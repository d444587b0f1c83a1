use proptest::prelude::*;

use super::*;
use crate::words::TlsPolicy;

const DOMAINS: &str = r#"schema_version = 1
version = "1"

[[rule]]
name = "partner"
mask = ["partner.example", "*.partner.example"]
selector = ["P2026", "p2027"]
relay = ["Gateway.Example:2525", "192.0.2.1:2525", "[2001:db8::1]:2525"]
tls = "required"
matches = ["partner.example", "Mail.Partner.Example"]
matches_not = ["partner.example.net"]

[[rule]]
name = "all"
mask = "*"
sign = false
matches = ["example.org"]
"#;

#[test]
fn the_shipped_rules_are_sound_and_conservative() {
    assert!(!shipped_format_rules().rules().is_empty());
    assert!(!shipped_domain_rules().rules().is_empty());
    for rule in shipped_domain_rules().rules() {
        assert!(rule.treatment.relay.is_empty() && rule.treatment.sign, "{}", rule.to.name);
    }
    let formats = FormatRules::compile(shipped_format_rules());
    let docomo = formats.find("docomo.ne.jp").expect("has a rule");
    assert_eq!(docomo.treatment.subject_charset, Charset::ShiftJis);
    assert_eq!(
        (docomo.treatment.html_charset, docomo.treatment.html_transfer),
        (Charset::ShiftJis, Transfer::Base64)
    );
    assert_eq!(
        (docomo.treatment.text_charset, docomo.treatment.text_transfer),
        (Charset::Iso2022Jp, Transfer::SevenBit)
    );
    assert!(formats.find("gmail.com").is_none());
}

#[test]
fn the_first_rule_wins_and_local_rules_come_first() {
    let file = DomainRuleFile::parse("domains.toml", DOMAINS.as_bytes()).expect("sound");
    let rules = DomainRules::compile(&file);
    let partner = &rules.find("A.PARTNER.example.").expect("matches").treatment;
    assert_eq!(partner.selectors, ["p2026".into(), "p2027".into()]);
    assert_eq!(partner.tls, Some(TlsPolicy::Required));
    let shown: Vec<String> = partner.relay.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["gateway.example:2525", "192.0.2.1:2525", "[2001:db8::1]:2525"]);
    assert!(!rules.find("partner.example.net").expect("the rest").treatment.sign);
    let local =
        DOMAINS.replace("sign = false", "tls = \"opportunistic\"").replace("\"1\"", "\"2\"");
    let local = DomainRuleFile::parse("local.toml", local.as_bytes()).expect("sound");
    let both = DomainRuleFile::combine(Some(&local), &file);
    assert_eq!((&**both.version(), both.rules().len()), ("2+1", 2));
    assert!(DomainRules::compile(&both).find("x.example").expect("the rest").treatment.sign);
    assert!(DomainRules::compile(&DomainRuleFile::combine(None, &file)).find("").is_some());
}

/// `domains.toml:LINE: words` of every fault.
fn faults(text: &str) -> Vec<String> {
    match DomainRuleFile::parse("d", text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn faults_are_found_where_they_are() {
    let cases = [
        ("version = \"1\"", "", "`version` is missing"),
        ("name = \"partner\"", "name = \"all\"", "is taken by the rule in line"),
        ("mask = \"*\"", "mask = [\"a.partner.example\", \"*\"]", "can never win"),
        ("matches_not = [\"partner.example.net\"]", "", "the rule has no `matches_not`"),
        (
            "matches = [\"partner.example\"",
            "matches = [\"other.example\"",
            "does not match its example",
        ),
        (
            "matches_not = [\"partner.example.net\"]",
            "matches_not = [\"x.partner.example\"]",
            "matches its counter-example",
        ),
        ("sign = false\n", "", "the rule does nothing"),
        ("sign = false", "sign = \"no\"", "must be true or false"),
        ("sign = false", "sign = false\nselector = \"x\"", "forbids to sign"),
        ("\"p2027\"", "\"p 2027\"", "is no selector"),
        (":2525\", \"192", ":25\", \"192", "different ports"),
        ("192.0.2.1:2525", "192.0.2.1:0", "is no host with a port"),
        ("192.0.2.1:2525", "not a host", "is no host with a port"),
        ("tls = ", "tsl = ", "unknown key `tsl`"),
        ("\"required\"", "\"always\"", "knows no `always`"),
        ("mask = \"*\"", "mask = []", "empty list"),
        ("mask = \"*\"", "mask = \"jane@example.org\"", "is no domain"),
    ];
    for (from, to, wanted) in cases {
        assert!(DOMAINS.contains(from), "{from}");
        let found = faults(&DOMAINS.replacen(from, to, 1));
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:?}");
    }
    assert_eq!(faults(DOMAINS), Vec::<String>::new());
}

#[test]
fn a_transfer_must_carry_its_character_set() {
    let rule = |fields: &str| {
        let text = format!(
            "schema_version = 1\nversion = \"1\"\n[[rule]]\nname = \"a\"\nmask = \"*\"\nmatches = [\"a.example\"]\n{fields}\n"
        );
        FormatRuleFile::parse("f", text.as_bytes()).map_err(|faults| faults[0].to_string())
    };
    assert!(rule("text_charset = \"iso-2022-jp\"\ntext_transfer = \"7bit\"").is_ok());
    for (fields, wanted) in [
        ("text_charset = \"shift_jis\"\ntext_transfer = \"7bit\"", "cannot carry shift_jis"),
        ("html_transfer = \"7bit\"", "cannot carry utf-8"),
        ("structure = \"text\"\nrelated = true", "cannot be related"),
        ("html_charset = \"utf-7\"", "knows no `utf-7`"),
        ("images_max = 0", "`images_max` is 0"),
    ] {
        let fault = rule(fields).expect_err(wanted);
        assert!(fault.contains(wanted), "{fault}");
    }
}

proptest! {
    /// The index answers as trying every mask in turn does.
    #[test]
    fn find_is_the_first_match(
        masks in prop::collection::vec("[ab*?]{1,3}(\\.[ab*]{1,2})?", 1..8),
        domain in "[ab]{1,3}(\\.[ab]{1,2})?",
    ) {
        let rule = |(number, mask): (usize, &String)| {
            let to = Recipients {
                name: number.to_string().into(),
                provider: "".into(),
                masks: vec![Mask::new(mask)],
                matches: Vec::new(),
                matches_not: Vec::new(),
                notes: "".into(),
                place: Place { file: "f".into(), line: 1, column: 1 },
            };
            Arc::new(RecipientRule { to, treatment: DomainTreatment::default() })
        };
        let file = RecipientRuleFile {
            name: "f".into(),
            version: "1".into(),
            rules: masks.iter().enumerate().map(rule).collect(),
            local: 0,
        };
        let naive = masks.iter().position(|mask| Mask::new(mask).matches(&domain));
        let rules = RecipientRules::compile(&file);
        let found = rules.find(&domain).map(|rule| rule.to.name.to_string());
        prop_assert_eq!(found, naive.map(|number| number.to_string()));
    }

    #[test]
    fn anything_at_all_ends_in_rules_or_faults(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = DomainRuleFile::parse("d", &bytes);
        let _ = FormatRuleFile::parse("f", &bytes);
    }
}
