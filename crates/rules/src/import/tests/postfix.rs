//! Postfix.

use super::*;

const MAIN: &str = "\
# main.cf
myhostname = mail.sender.example
default_destination_concurrency_limit = 20
smtp_destination_concurrency_limit = $own_limit
own_limit = 10
smtp_connection_reuse_count_limit = 50
initial_destination_concurrency = 2
slow_destination_rate_delay = 5s
slow_destination_concurrency_limit = 4
slow_destination_recipient_limit = 1
lonely_destination_concurrency_limit = 2
minimal_backoff_time = 300s
maximal_backoff_time = 1200s
maximal_queue_lifetime = 3
smtp_connect_timeout = 20s
smtp_data_done_timeout = 600s
smtp_helo_timeout = 60s
smtp_tls_security_level = may
smtp_tls_policy_maps = lmdb:/etc/postfix/tls_policy
transport_maps = hash:/etc/postfix/ways,
    regexp:/etc/postfix/other
smtpd_banner = hello
loop_a = $loop_b
loop_b = ${loop_a}
smtp_bind_address = 192.0.2.10
frobnicate = 1
";

const MASTER: &str = "\
smtp      inet  n       -       y       -       -       smtpd
smtp      unix  -       -       n       -       200     smtp
slow      unix  -       -       n       -       5       smtp
  -o smtp_connect_timeout=5s
  -o { smtp_bind_address = 192.0.2.11 } -o syslog_name=postfix/slow
pickup    unix  n       -       y       60      1       pickup
";

const WAYS: &str = "\
# where mail goes
orange.fr        slow:
wanadoo.fr       slow:
corp.example     slow:
lost.example     slow:
partner.example  smtp:[gateway.partner.example]:587
.below.example   relay:gateway.below.example
bad.example      error:no longer
someone@x.example slow:
";

const TLS: &str = "\
bank.example      secure match=bank.example
.below.example    encrypt
[gateway.partner.example]:587 encrypt
";

fn files() -> Vec<ImportFile> {
    vec![
        file("etc/ways", WAYS),
        file("etc/master.cf", MASTER),
        file("etc/main.cf", MAIN),
        file("etc/tls_policy", TLS),
    ]
}

#[test]
fn the_files_become_rules() {
    let found = imported(Dialect::Postfix, &files());
    for (host, wanted) in [
        ("smtp-in.orange.fr", ("orange", 1, 50, 720)),
        ("mx1.corp.example", ("corp.example", 1, 50, 720)),
        ("mx.anything.example", ("default", 10, 50, 2_500)),
    ] {
        let (name, connections, per_connection, per_hour) = limits(&found, host, 1);
        assert_eq!(
            (name.as_str(), connections, per_connection, per_hour),
            wanted,
            "{host}\n{:?}",
            found.mx
        );
    }
    let mx = found.mx.as_deref().unwrap();
    for wanted in [
        "connect_timeout = \"20s\"",
        "connect_timeout = \"5s\"",
        "data_timeout = \"10m\"",
        "timeout = \"1m\"",
        "tls = \"opportunistic\"",
    ] {
        assert!(mx.contains(wanted), "{wanted}\n{mx}");
    }
    let domains = found.domains.as_deref().unwrap();
    for wanted in [
        "mask = \"partner.example\"\nrelay = \"gateway.partner.example:587\"",
        "mask = \"*.below.example\"\nrelay = \"gateway.below.example:25\"\ntls = \"required\"",
        "mask = \"bank.example\"\ntls = \"required\"",
    ] {
        assert!(domains.contains(wanted), "{wanted}\n{domains}");
    }
    let config = found.config.as_deref().unwrap();
    for wanted in [
        "steps = [\"5m\", \"10m\", \"20m\"]",
        "then_every = \"20m\"",
        "validity = \"3d\"",
        "max_connections_total = 200",
        "address = \"192.0.2.10\"\nhelo = \"mail.sender.example\"",
        "public_id = 4\naddress = \"192.0.2.11\"",
    ] {
        // The numbers 1 and 2 are given to others.
        assert!(config.contains(wanted), "{wanted}\n{config}");
    }
    assert_eq!(found.unknown_domains, ["lost.example"]);
}

#[test]
fn the_report_says_what_differs() {
    let found = imported(Dialect::Postfix, &files());
    for (directive, verdict, part) in [
        (
            "default_destination_concurrency_limit",
            "not taken",
            "smtp_destination_concurrency_limit",
        ),
        ("smtp_destination_concurrency_limit", "differs", "max_connections = 10"),
        ("slow_destination_rate_delay", "differs", "messages_per_hour = 720"),
        ("slow_destination_concurrency_limit", "not taken", "one message at a time"),
        ("slow_destination_recipient_limit", "not taken", "for each recipient"),
        ("lonely_destination_concurrency_limit", "not taken", "no line of a transport table"),
        ("initial_destination_concurrency", "not taken", "step by step"),
        ("minimal_backoff_time", "differs", "message is old"),
        ("loop_a", "not taken", "stands for itself"),
        ("smtpd_banner", "not taken", "does not steer"),
        ("frobnicate", "not taken", "known here"),
        ("slow -o smtp_connect_timeout", "taken", "connect_timeout = 5s"),
        ("slow -o syslog_name", "not taken", "known here"),
        ("pickup", "not taken", "does not send"),
        ("orange.fr", "differs", "the limits of slow"),
        ("lost.example", "not taken", "--mx lost.example"),
        ("partner.example", "taken", "relay"),
        (".below.example", "differs", "MX records"),
        ("bad.example", "not taken", "suppression"),
        ("someone@x.example", "not taken", "address"),
        ("[gateway.partner.example]:587", "not taken", "recipient domain"),
    ] {
        let (found, words) = words_of(&found, directive);
        assert_eq!(found, verdict, "{directive}: {words}");
        assert!(words.contains(part), "{directive}: {words}");
    }
}

#[test]
fn a_file_that_nobody_names_is_a_fault() {
    let faults = import(Dialect::Postfix, &[file("notes", "a b\n")], &options(), &mut no_include)
        .unwrap_err();
    assert!(faults[0].to_string().contains("not clear what this file is"), "{faults:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each parameter, row and service is in the report once, with those that continue on further lines.
    #[test]
    fn every_directive_is_in_the_report(
        parameters in proptest::collection::vec(
            (
                prop_oneof![
                    "[a-z_]{1,20}",
                    "(slow|smtp|default)_destination_(concurrency_limit|rate_delay|recipient_limit)",
                    Just("smtp_helo_timeout".to_owned()),
                    Just("relayhost".to_owned()),
                ],
                "[a-z0-9$]{0,9}",
                any::<bool>(),
            ),
            0..12,
        ),
        rows in proptest::collection::vec(("[a-z.@]{1,9}", "(slow|smtp|error):[a-z]{0,5}"), 0..8),
    ) {
        let (mut main, mut line, mut wanted) = (String::new(), 0_u32, Vec::new());
        for (name, value, goes_on) in parameters {
            line += 1;
            wanted.push(("main.cf".to_owned(), line));
            main += &format!("{name} = {value}\n");
            if goes_on {
                line += 2;
                main += "# between\n  and more\n";
            }
        }
        let mut transport = String::new();
        for (number, (key, value)) in (1_u32..).zip(&rows) {
            wanted.push(("transport".to_owned(), number));
            transport += &format!("{key} {value}\n");
        }
        let files = [file("main.cf", &main), file("transport", &transport)];
        let imported = imported(Dialect::Postfix, &files);
        let mut found: Vec<(String, u32)> = imported
            .report
            .entries
            .iter()
            .map(|entry| (entry.place.file.to_string(), entry.place.line))
            .collect();
        found.sort();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn a_relay_with_a_login_is_warned_of() {
    let main = "relayhost = [relay.example]:587\nsmtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd\n";
    let with = format!("{main}smtp_sasl_auth_enable = yes\n");
    for (text, warned) in
        [(with.as_str(), true), ("relayhost = [relay.example]\nmyhostname = mta.example\n", false)]
    {
        let found = imported(Dialect::Postfix, &[file("main.cf", text)]);
        let (_, words) = words_of(&found, "relayhost");
        assert_eq!(words.contains("cannot log in"), warned, "{words}");
        let note = found.report.notes.iter().any(|note| note.contains("cannot log in"));
        assert_eq!(note, warned);
    }
}
