use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig};
use mail::address::Mailbox;
use node::intake::{Created, Recipient};
use node::node::Node;
use node::prepare::{AddressSpec, ContentSpec, TemplateSpec};
use store::{SqliteOptions, SqliteStore};

use super::*;

/// Two providers with a rule each; `one` takes so many an hour and source.
fn rules(one: u32) -> String {
    format!(
        "schema_version = 1\n\
         [[rule]]\nname = \"one\"\nprovider = \"one\"\nmask = \"mx.one.example\"\nscope = \"source\"\npacing = \"burst\"\n\
         max_connections = 5\nmax_messages_per_connection = 1000\nmessages_per_hour = {one}\nsource_of_figures = \"the test\"\n\
         [[rule]]\nname = \"two\"\nprovider = \"two\"\nmask = \"mx.two.example\"\nscope = \"path\"\npacing = \"burst\"\n\
         max_connections = 5\nmax_messages_per_connection = 1000\nmessages_per_hour = 100000\nsource_of_figures = \"the test\"\n"
    )
}

/// A configuration with two sources, for a name server and MX hosts at a port.
fn config(folder: &Path, one: u32, dns: SocketAddr, port: u16) -> Config {
    std::fs::write(folder.join("mx.toml"), rules(one)).unwrap();
    let text = format!(
        "data_dir = \"data\"\n\
         [[source]]\npublic_id = 1\naddress = \"127.10.210.1\"\nhelo = \"m1.sender.example\"\n\
         [[source]]\npublic_id = 2\naddress = \"127.10.210.2\"\nhelo = \"m2.sender.example\"\n\
         [rules]\nmx = \"mx.toml\"\n[smtp_client]\nport = {port}\ntls_verify = \"never\"\n\
         [dns]\nservers = [\"{dns}\"]\nroute_timeout = \"2s\"\n[safety]\nonly_targets = [\"127.0.0.0/8\"]\n\
         [submission]\nlisten = []\n[http]\nlisten = []\n"
    );
    Config::parse(&text, "test.toml", folder).unwrap_or_else(|fault| panic!("{fault}"))
}

/// What a dry run over a folder finds; `one`: the limit that is tried.
fn simulate<T>(
    folder: &Path,
    config: &Config,
    one: Option<u32>,
    days: u32,
    look: impl FnOnce(Found<'_>, &[String]) -> T,
) -> T {
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let recorded = Recorded::open(&folder.join("data"), Some(config.clone()), now).unwrap();
    let file = one.map(|one| rules::parse_local("tried.toml", rules(one).as_bytes()).unwrap());
    let proposed = ProposedMx { file, ..ProposedMx::default() };
    let simulation = Simulation {
        recorded: &recorded,
        config,
        rules_now: Arc::new(recorded.mx(&ProposedMx::default()).unwrap()),
        rules_then: Arc::new(recorded.mx(&proposed).unwrap()),
        proposed: &proposed,
        until: now,
        since: days_before(now, days),
    };
    let found = simulation.run(&[folder.join("data/delivery.jsonl")]).unwrap();
    let notes = simulation.notes(&found, days);
    look(found, &notes)
}

/// MAIL FROMs of a course up to the end of the window, at each provider.
fn within(tally: &Tally) -> (u64, u64) {
    let told = |name: &str| tally.providers.get(name).map_or(0, |course| course.told().in_window);
    (told("one"), told("two"))
}

/// Sends 200 messages to each of two providers under 60 an hour and source at the first, until no more can go.
async fn record_some(lab: &Lab, config: Config) {
    let node = Node::start(config).unwrap_or_else(|fault| panic!("{fault}"));
    let intake = node.intake();
    let content = ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "Hello".into(),
        text: Some("Nothing to see.\n".into()),
        ..TemplateSpec::default()
    });
    let options = intake.default_options();
    let created = intake.create(options, Some(&content), None).await.unwrap();
    let Created::New(id) = created else { panic!("{created:?}") };
    let recipients = (0..400).map(|number| Recipient {
        line: number + 1,
        mailbox: Mailbox::parse(&format!(
            "person{number}@{}.example",
            if number % 2 == 0 { "one" } else { "two" }
        ))
        .unwrap(),
        merge: String::new(),
    });
    intake.append(id, recipients.collect()).await.unwrap();
    intake.start(id).await.unwrap();
    let begin = Instant::now();
    while intake.counters(id).await.unwrap().sent < 320 {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", intake.counters(id).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.shutdown().await;
    assert_eq!(lab.report().totals.accepted, 320);
}

fn world(folder: &Path) -> (Lab, Config) {
    let provider = |number: u8, name: &str| ProviderConfig {
        name: name.into(),
        domains: vec![format!("{name}.example")],
        mood: Mood::default(),
        mx: vec![MxConfig {
            host: format!("mx.{name}.example"),
            preference: 10,
            addresses: vec![[127, 9, 210, number].into()],
            domains: Vec::new(),
        }],
        ..ProviderConfig::default()
    };
    let providers = vec![provider(1, "one"), provider(2, "two")];
    let lab = Lab::start(LabConfig { providers, ..LabConfig::default() }).unwrap();
    let config = config(folder, 60, lab.dns_address(), lab.port());
    (lab, config)
}

#[test]
fn what_a_real_node_has_sent_is_sent_again_and_other_limits_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, config) = world(folder.path());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(record_some(&lab, config.clone()));
    drop(lab.stop());
    // The same rules: where a limit binds, and where everything goes, the counts are the same to the message. Moments
    // are those of exchangers that take the mean time each: within seconds.
    simulate(folder.path(), &config, None, 1, |found, notes| {
        let counts = &found.record.counts;
        assert_eq!((counts.in_window, counts.malformed, counts.without_due), (320, 0, 0));
        assert_eq!((counts.never_tried, found.record.demand.messages()), (80, 400));
        assert_eq!(within(&found.record.tally), (120, 200));
        for course in [&found.now, &found.then] {
            assert_eq!(within(&course.tally), (120, 200));
            let CourseRun { report, audit, .. } = course;
            assert_eq!((report.waiting, report.sent, report.assumed), (80, 400, 0), "{report:?}");
            assert!(audit.limits_held, "{audit:?}");
            let (ours, theirs) = (course.tally.all.told(), found.record.tally.all.told());
            let moment = |text: &Option<String>| -> f64 {
                let at: jiff::Timestamp = text.as_deref().unwrap().parse().unwrap();
                at.as_microsecond() as f64 / 1e6
            };
            let apart = moment(&ours.first_at) - moment(&theirs.first_at);
            assert!(apart.abs() < 3.0, "{ours:?} {theirs:?}");
        }
        assert!(found.audit.limits_held, "the recorded mail passed nothing: {:?}", found.audit);
        assert!(notes.iter().any(|note| note.contains("without any attempt")), "{notes:?}");
    });
    // Stricter: the recorded mail passed the limit by 40 at each source; the tried course does not.
    simulate(folder.path(), &config, Some(20), 1, |found, _| {
        assert_eq!(within(&found.then.tally), (40, 200));
        assert_eq!((found.then.report.waiting, found.then.report.sent), (160, 400));
        assert!(found.then.audit.limits_held);
        let passed: Vec<_> = found.audit.budgets.iter().filter(|one| !one.held).collect();
        assert_eq!(passed.len(), 2);
        for budget in passed {
            assert_eq!((budget.limit_per_hour, budget.maximum, budget.over), (20, 60, 40));
            assert!(budget.first_passed.is_some());
        }
        // 200 at 40 an hour: the last goes in the fifth hour.
        let waited = found.then.tally.providers["one"].told().waited;
        assert!((14_400.0..16_000.0).contains(&waited.longest_seconds), "{waited:?}");
        assert_eq!(found.now.tally.providers["two"].told().in_window, 200);
    });
    // Wider: what waited goes too.
    simulate(folder.path(), &config, Some(1_000), 1, |found, _| {
        assert_eq!((found.then.report.waiting, found.then.report.sent), (0, 400));
        assert_eq!(found.then.tally.providers["one"].told().in_window, 200);
        assert!(found.audit.limits_held && found.then.audit.limits_held);
    });
}

/// A data folder of a node that has never run, and a log of these lines.
fn written(folder: &Path, lines: &str) -> Config {
    let config = config(folder, 60, ([127, 0, 0, 1], 53).into(), 25);
    drop(SqliteStore::open(&folder.join("data"), SqliteOptions::default()).unwrap());
    std::fs::write(folder.join("data/delivery.jsonl"), lines).unwrap();
    config
}

/// An attempt so many seconds ago.
fn line(message: u64, ago: u64, more: &str) -> String {
    let now = node::clock::read_clocks().wall / 1_000_000;
    let started = (now - ago) * 1_000_000;
    let at = Timestamp::from_micros(started + 20_000);
    format!(
        "{{\"at\":\"{at}\",\"started_at\":\"x\",\"started_micros\":{started},\"message\":\"m{message}\",\"delivery\":\"d1\",\
         \"recipient\":\"a@one.example\",\"source\":1,\"target\":\"127.9.210.1\",\"mx_host\":\"mx.one.example\",\"rule\":\"one\",\
         \"rules_version\":1,\"attempt\":1,{more}}}\n"
    )
}

const SENT: &str = "\"outcome\":\"sent\",\"stage\":\"content\",\"reply\":\"250 ok\"";

#[test]
fn lines_of_other_versions_and_broken_ones_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let newer = format!("{SENT},\"due_micros\":1,\"colour\":\"blue\"");
    let lines = [
        line(1, 9 * 86_400, SENT),
        line(2, 100, SENT),
        line(3, 90, &newer),
        "garbage\n".to_owned(),
        line(4, 80, SENT).replace("\"source\":1,", ""),
        "{\"at\":\"x\",\"message\":\"m5\",\"delivery\":\"d1\",\"recipient\":\"a@x.org\",\"mx_host\":\"\",\"attempt\":1,\"outcome\":\"failed\"}\n".to_owned(),
        line(6, 70, SENT).trim_end().trim_end_matches('}').to_owned(),
    ];
    let config = written(folder.path(), &lines.concat());
    simulate(folder.path(), &config, Some(20), 7, |found, notes| {
        let counts = &found.record.counts;
        assert_eq!((counts.lines, counts.in_window, counts.before_window), (6, 2, 1));
        assert_eq!((counts.malformed, counts.not_started, counts.without_due), (2, 1, 1));
        assert!(counts.faulty_lines[0].contains("delivery.jsonl:4: "), "{counts:?}");
        assert!(counts.faulty_lines[1].contains(":5: started_micros without"), "{counts:?}");
        assert_eq!((found.record.demand.messages(), found.then.report.sent), (2, 2));
        let said = notes.join("\n");
        assert!(said.contains("2 lines could not be read"), "{said}");
        assert!(said.contains("do not say since when"), "{said}");
    });
    simulate(folder.path(), &config, Some(20), 30, |_, notes| {
        assert!(notes[0].contains("asked for (30 days)"), "{notes:?}");
    });
}

#[test]
fn refusals_and_tries_are_followed_by_message() {
    let folder = tempfile::tempdir().unwrap();
    let deferred = "\"outcome\":\"deferred\",\"stage\":\"rcpt-to\",\"reply\":\"452 4.2.2 Mailbox of a@one.example is full\"";
    let gone = "\"outcome\":\"failed\",\"stage\":\"rcpt-to\",\"reply\":\"550-5.1.1 gone / 550 5.1.1 User unknown\"";
    let broken = "\"outcome\":\"deferred\",\"note\":\"the conversation ended before an answer\"";
    let second = line(1, 3_000, SENT).replace("\"attempt\":1", "\"attempt\":2");
    let lines = [
        line(1, 7_000, deferred),
        line(2, 6_990, gone),
        line(3, 6_980, broken),
        line(3, 6_979, SENT),
        second,
        // Not at its end.
        line(4, 60, deferred),
    ];
    let config = written(folder.path(), &lines.concat());
    simulate(folder.path(), &config, None, 1, |found, _| {
        let recorded = found.record.tally.all.told();
        assert_eq!((recorded.mail_froms, recorded.sent), (6, 2));
        let report = &found.now.report;
        assert_eq!((report.sent, report.failed, report.waiting, report.assumed), (3, 1, 1, 1));
        assert_eq!(found.now.tally.all.told().mail_froms, 7);
    });
}

#[test]
fn an_empty_log_is_said_and_another_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), "");
    simulate(folder.path(), &config, Some(20), 1, |found, notes| {
        assert_eq!(found.then.report, ReplayReport::default());
        assert!(found.then.audit.limits_held);
        assert_eq!(notes, ["nothing of this time is in the delivery log"]);
    });
    std::fs::write(folder.path().join("data/delivery.jsonl"), "a,b\n1,2\n").unwrap();
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let recorded = Recorded::open(&folder.path().join("data"), Some(config.clone()), now).unwrap();
    let rules = Arc::new(recorded.mx(&ProposedMx::default()).unwrap());
    let simulation = Simulation {
        recorded: &recorded,
        config: &config,
        rules_now: Arc::clone(&rules),
        rules_then: rules,
        proposed: &ProposedMx::default(),
        until: now,
        since: days_before(now, 1),
    };
    let Err(fault) = simulation.run(&[folder.path().join("data/delivery.jsonl")]) else { panic!() };
    assert!(fault.to_string().contains("delivery.jsonl:1"), "{fault}");
}

#[test]
fn the_report_fits_a_hundred_columns() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a-rather-long-name-of-a-rule-for-a-provider";
    let lines: String = (0..100).map(|number| line(number, 7_000 + number, SENT)).collect();
    let config = written(folder.path(), &lines);
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let recorded = Recorded::open(&folder.path().join("data"), Some(config.clone()), now).unwrap();
    let tried = rules(20).replace("name = \"one\"", &format!("name = \"{long}\""));
    let file = Some(rules::parse_local("tried.toml", tried.as_bytes()).unwrap());
    let proposed = ProposedMx { file, ..ProposedMx::default() };
    let simulation = Simulation {
        recorded: &recorded,
        config: &config,
        rules_now: Arc::new(recorded.mx(&ProposedMx::default()).unwrap()),
        rules_then: Arc::new(recorded.mx(&proposed).unwrap()),
        proposed: &proposed,
        until: now,
        since: days_before(now, 1),
    };
    let found = simulation.run(&[folder.path().join("data/delivery.jsonl")]).unwrap();
    let answer = simulation.answer(found, 1, Some("tried.toml".into()), None, None);
    let text = text::report(&answer);
    for wanted in ["passed 1 limit of the tried rules", "400 %", "tried: 100 sent", "hour from"] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
    let tables = text.lines().filter(|line| !line.starts_with("note: "));
    for line in tables {
        assert!(line.trim_end().chars().count() <= 100, "{line}\n{text}");
    }
}
