//! PowerMTA.

use super::*;

const CONFIG: &str = r#"# a comment
host-name mta.example
smtp-listener 0.0.0.0:25
total-max-smtp-out 3000
frobnicate yes
domain-macro yahoos yahoo.com, $more
<domain-macro more>
  ymail.com
  rocketmail.com
</domain-macro>

<mx-rollup-list default>
  mx *.corp.example corp.rollup
  mx /^x/ x.rollup
</mx-rollup-list>

<smtp-pattern-list backoffs>
  reply /\[TSS04\]/ mode=backoff
  reply /too many connections/ mode=backoff  # often
  reply /back to work/ mode=normal
  reply /(?<=a)b/ mode=backoff
</smtp-pattern-list>

<virtual-mta vmta-1>
  smtp-source-host 192.0.2.1 mta1.example
  <domain yahoo.com>
    max-smtp-out 1
  </domain>
</virtual-mta>
<virtual-mta vmta-2>
  smtp-source-host 192.0.2.2 mta2.example
  cold-virtual-mta vmta-1
</virtual-mta>
<virtual-mta-pool marketing>
  virtual-mta vmta-1
  virtual-mta vmta-2
</virtual-mta-pool>

<domain $yahoos>
  max-smtp-out 20
  max-msg-rate 2000/h
  max-msg-per-connection \
     20
  smtp-pattern-list backoffs
  backoff-max-msg-rate 5/m
  backoff-to-normal-after 2h
  backoff-notify postmaster@example.com
  use-starttls yes
</domain>

<domain corp.rollup>
  max-smtp-out 4
  max-msg-rate unlimited
  require-starttls yes
  dkim-sign no
</domain>

<domain gateway.example>
  route [192.0.2.99]:2525
  max-smtp-out 2
</domain>

<domain *>
  max-smtp-out 2
  max-msg-per-connection 100
  max-connect-rate 30/m
  retry-after 10m,30m
  bounce-after 4d12h
  auth-password hush
  connect-timeout 1m
  use-chunking no
</domain>
"#;

/// Without numbers given to its virtual MTAs, they are counted.
fn unnumbered() -> Imported {
    let options = ImportOptions { sources: BTreeMap::new(), ..options() };
    let found = import(Dialect::Powermta, &[file("config", CONFIG)], &options, &mut no_include);
    let found = found.unwrap_or_else(|faults| panic!("{faults:?}"));
    check(&found);
    found
}

#[test]
fn a_configuration_becomes_rules() {
    let found = unnumbered();
    for (host, source, wanted) in [
        ("mta5.am0.yahoodns.net", 2, ("yahoo", 20, 20, 2_000)),
        ("mta5.am0.yahoodns.net", 1, ("yahoo.com-from-vmta-1", 1, 100, 2_500)),
        ("mx.corp.example", 1, ("corp.rollup", 4, 100, 2_500)),
        ("mx.anything.example", 1, ("default", 2, 100, 2_500)),
    ] {
        let (name, connections, per_connection, per_hour) = limits(&found, host, source);
        assert_eq!(
            (name.as_str(), connections, per_connection, per_hour),
            wanted,
            "{host}\n{:?}",
            found.mx
        );
    }
    let config = found.config.as_deref().unwrap();
    for wanted in [
        "[smtp_client]\nmax_connections_total = 3000\nchunking = false\n",
        "steps = [\"10m\", \"30m\"]",
        "then_every = \"30m\"",
        "validity = \"108h\"",
        "[[source]]\npublic_id = 2\naddress = \"192.0.2.2\"\nhelo = \"mta2.example\"",
        "[[affinity]]\nname = \"marketing\"\nsources = \"1,2\"",
    ] {
        assert!(config.contains(wanted), "{wanted}\n{config}");
    }
    let domains = found.domains.as_deref().unwrap();
    assert!(domains.contains("relay = \"192.0.2.99:2525\""), "{domains}");
    assert!(domains.contains("sign = false"), "{domains}");
    let reactions =
        ReactionFile::parse("r", found.reactions.as_deref().unwrap().as_bytes()).unwrap();
    let [rule] = reactions.rules() else { panic!("{:?}", found.reactions) };
    assert_eq!(rule.effect.words(), "slow to 5 messages a minute");
    assert_eq!((rule.text.len(), rule.matches.len()), (2, 2));
    assert!(!serde_json::to_string(&found.report).unwrap().contains("hush"));
}

#[test]
fn the_report_says_what_differs() {
    let found = unnumbered();
    for (directive, verdict, part) in [
        ("host-name", "not taken", "helo"),
        ("frobnicate", "not taken", "known here"),
        ("domain-macro", "taken", "2 names"),
        ("<domain $yahoos>", "differs", "every domain behind these MX hosts"),
        ("<domain $yahoos> max-msg-rate", "differs", "3,600 seconds"),
        ("<domain $yahoos> backoff-notify", "not taken", "stat alerts"),
        ("<domain $yahoos> backoff-max-msg-rate", "differs", "300 messages an hour"),
        ("<domain corp.rollup> max-msg-rate", "not taken", "unlimited"),
        ("<domain gateway.example> route", "taken", "192.0.2.99:2525"),
        ("<domain gateway.example> max-smtp-out", "not taken", "--mx gateway.example"),
        ("<domain *> retry-after", "differs", "for each message"),
        ("<domain *> use-chunking", "taken", "[smtp_client] chunking = false"),
        ("<virtual-mta vmta-2> cold-virtual-mta", "not taken", "warmup plan --source 2"),
        ("<smtp-pattern-list backoffs>", "taken", "reactions"),
    ] {
        let (found, words) = words_of(&found, directive);
        assert_eq!(found, verdict, "{directive}: {words}");
        assert!(words.contains(part), "{directive}: {words}");
    }
}

#[test]
fn included_files_are_read_inside_the_folder_only() {
    let mut asked = Vec::new();
    let mut include = |name: &str| {
        asked.push(name.to_owned());
        match name {
            "more/domains.conf" => {
                Ok(b"<domain gmail.com>\nmax-smtp-out 3\n</domain>\ninclude again.conf\n".to_vec())
            }
            "again.conf" => Ok(b"include again.conf\ninclude more/domains.conf\n".to_vec()),
            _ => Err(format!("cannot read {name}")),
        }
    };
    let text = "include more/domains.conf\ninclude /etc/passwd\ninclude ../secret\ninclude a/../../b\ninclude *.conf\ninclude gone.conf\ninclude \\\\host\\x\n";
    let found =
        import(Dialect::Powermta, &[file("config", text)], &options(), &mut include).unwrap();
    assert_eq!(asked, ["more/domains.conf", "again.conf", "gone.conf"]);
    assert_eq!(limits(&found, "aspmx.l.google.com", 1).1, 3);
    let taken = |entry: &&ImportEntry| {
        entry.directive == "include" && entry.verdict == ImportVerdict::Taken
    };
    assert_eq!(found.report.entries.iter().filter(taken).count(), 2);
    assert_eq!(found.report.entries.len(), 12);
}

#[test]
fn macros_that_stand_for_themselves_and_explode_are_named() {
    let mut text = String::from(
        "domain-macro a b.example, $c\ndomain-macro c $a\n<domain $a>\nmax-smtp-out 1\n</domain>\n<domain $nobody>\nmax-smtp-out 1\n</domain>\n",
    );
    for level in 0..12 {
        text += &format!("domain-macro m{level} $m{0}, $m{0}\n", level + 1);
    }
    text += "<domain $m0>\nmax-smtp-out 1\n</domain>\n";
    let found = imported(Dialect::Powermta, &[file("config", &text)]);
    assert!(words_of(&found, "<domain $a>").1.contains("stands for itself"));
    assert!(words_of(&found, "<domain $nobody> max-smtp-out").1.contains("no macro $nobody"));
    assert!(words_of(&found, "<domain $m0>").1.contains("deeper"));
    assert_eq!(found.mx, None);
}

#[test]
fn queues_and_repeated_blocks_are_joined() {
    let text = "<domain gmail.com>\nmax-smtp-out 3\n</domain>\n<domain corp.example>\nqueue-to gmail.com\n</domain>\n<domain gmail.com>\nmax-smtp-out 2\n</domain>\n";
    let found = imported(Dialect::Powermta, &[file("config", text)]);
    assert_eq!(limits(&found, "mx1.corp.example", 1).1, 2);
    assert_eq!(limits(&found, "aspmx.l.google.com", 1).1, 2);
    assert_eq!(
        lines(&found),
        [
            "1 differs <domain gmail.com>",
            "2 not taken <domain gmail.com> max-smtp-out",
            "4 differs <domain corp.example>",
            "5 taken <domain corp.example> queue-to",
            "7 taken <domain gmail.com>",
            "8 taken <domain gmail.com> max-smtp-out",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each line that is no comment, no blank one and no closing tag is in the report once.
    #[test]
    fn every_directive_is_in_the_report(
        blocks in proptest::collection::vec(
            (
                prop_oneof![
                    Just("domain gmail.com"), Just("domain *"), Just("domain nowhere.example"),
                    Just("virtual-mta v1"), Just("smtp-pattern-list p"), Just("source 127.0.0.1"),
                    Just("domain-macro m"), Just("virtual-mta-pool p"), Just("bounce-category-patterns"),
                ],
                proptest::collection::vec(
                    prop_oneof![
                        Just("max-smtp-out 4".to_owned()), Just("max-msg-rate 10/m".to_owned()),
                        Just("smtp-pattern-list p".to_owned()), Just("reply /busy/ mode=backoff".to_owned()),
                        Just("backoff-max-msg-rate 1/m".to_owned()), Just("retry-after 10m".to_owned()),
                        Just("# a comment".to_owned()), Just(String::new()),
                        "[a-z-]{1,20}( [a-z0-9]{1,9})?",
                    ],
                    0..6,
                ),
            ),
            0..8,
        ),
        ending in prop_oneof![Just("\n"), Just("\r\n")],
    ) {
        let mut text = String::new();
        let (mut wanted, mut line) = (Vec::new(), 0_u32);
        for (head, lines) in blocks {
            line += 1;
            wanted.push(line);
            text += &format!("<{head}>{ending}");
            for one in lines {
                line += 1;
                if !one.is_empty() && !one.starts_with('#') {
                    wanted.push(line);
                }
                text += &format!("  {one}{ending}");
            }
            line += 1;
            let name = head.split(' ').next().unwrap_or(head);
            text += &format!("</{name}>{ending}");
        }
        let imported = imported(Dialect::Powermta, &[file("config", &text)]);
        let mut found: Vec<u32> =
            imported.report.entries.iter().map(|entry| entry.place.line).collect();
        found.sort_unstable();
        prop_assert_eq!(found, wanted, "{}", text);
    }
}

#[test]
fn what_is_said_of_one_domain_becomes_one_rule() {
    let text = "<domain corp.example>\n  use-starttls yes\n  require-starttls yes\n  dkim-sign no\n  \
                route relay.example\n  max-msg-rate 5/d\n</domain>\n";
    let found = imported(Dialect::Powermta, &[file("config", text)]);
    let domains = found.domains.as_deref().unwrap();
    assert_eq!(domains.matches("[[rule]]").count(), 1, "{domains}");
    for wanted in ["relay = ", "sign = false"] {
        assert!(domains.contains(wanted), "{domains}");
    }
    let all = lines(&found);
    assert!(!all.iter().any(|line| line.contains("another directive")), "{all:#?}");
    // Ours are limits per hour: what is fewer than one an hour is more here, and the report says so.
    let words = &found
        .report
        .entries
        .iter()
        .find(|one| one.directive.contains("max-msg-rate"))
        .unwrap()
        .words;
    assert!(words.contains("MORE than stated"), "{words}");
}

#[test]
fn a_roll_up_that_no_domain_uses_is_no_rule() {
    let list = "<mx-rollup-list>\n  mx *.google.com gmail.rollup\n  mx *.corp.example corp.rollup\n</mx-rollup-list>\n";
    let found = imported(Dialect::Powermta, &[file("config", list)]);
    assert_eq!(found.mx, None);
    assert!(lines(&found).iter().all(|line| line.contains("not taken")), "{:?}", lines(&found));
    let used = format!("{list}<domain corp.rollup>\n  max-smtp-out 3\n</domain>\n");
    let found = imported(Dialect::Powermta, &[file("config", &used)]);
    let said: Vec<(u32, &str)> =
        found.report.entries.iter().map(|one| (one.place.line, one.verdict.words())).collect();
    assert_eq!(said[..3], [(1, "taken"), (2, "not taken"), (3, "taken")]);
    assert!(found.report.entries[1].words.contains("no <domain gmail.rollup>"));
}

#[test]
fn a_relay_with_a_login_is_warned_of() {
    let text = "<domain corp.example>\n  smtp-hosts lookup:relay.example\n  auth-username me\n  auth-password hush\n</domain>\n";
    let found = imported(Dialect::Powermta, &[file("config", text)]);
    let (verdict, words) = words_of(&found, "<domain corp.example> smtp-hosts");
    assert!(verdict == "differs" && words.contains("cannot log in"), "{words}");
    assert!(found.report.notes.iter().any(|note| note.contains("cannot log in")));
}
