//! A whole node on loopback: real store, real sockets, against the lab as the judge.

use std::time::{Duration, Instant};

use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig};
use mail::address::Mailbox;
use mail::id::DeliveryId;
use mailweir_node::config::Config;
use mailweir_node::intake::{Created, Intake, Recipient};
use mailweir_node::node::Node;
use mailweir_node::prepare::{AddressSpec, ContentSpec, TemplateSpec};

/// A lab with two providers on their own addresses.
fn lab_config() -> LabConfig {
    let provider = |name: &str, domain: &str, address: [u8; 4], mood: Mood| ProviderConfig {
        name: name.into(),
        domains: vec![domain.into()],
        mood,
        mx: vec![MxConfig {
            host: format!("mx.{domain}"),
            preference: 10,
            addresses: vec![address.into()],
            domains: Vec::new(),
        }],
        ..ProviderConfig::default()
    };
    LabConfig {
        providers: vec![
            provider("one", "one.example", [127, 9, 1, 1], Mood::default()),
            provider("two", "two.example", [127, 9, 2, 1], Mood::default()),
        ],
        ..LabConfig::default()
    }
}

fn config(lab: &Lab, folder: &std::path::Path, more: &str) -> Config {
    let text = format!(
        r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.21"
helo = "m1.sender.example"
[[source]]
public_id = 2
address = "127.0.0.22"
helo = "m2.sender.example"
[smtp_client]
port = {port}
tls_verify = "never"
[dns]
servers = ["{dns}"]
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
listen = []
[http]
listen = []
{more}
"#,
        port = lab.port(),
        dns = lab.dns_address(),
    );
    match Config::parse(&text, "test.toml", folder) {
        Ok(config) => config,
        Err(fault) => panic!("{fault}"),
    }
}

fn content() -> ContentSpec {
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "Hello {{ first_name }}".into(),
        text: Some("Dear {{ first_name }},\nnothing to see.\n".into()),
        ..TemplateSpec::default()
    })
}

fn recipients(domains: &[&str], count: u64) -> Vec<Recipient> {
    (0..count)
        .map(|number| {
            let domain = domains[(number % domains.len() as u64) as usize];
            let address = format!("person{number}@{domain}");
            Recipient {
                line: number + 1,
                mailbox: Mailbox::parse(&address).unwrap(),
                merge: format!("{{\"first_name\":\"P{number}\"}}"),
            }
        })
        .collect()
}

async fn delivery(intake: &Intake, recipients: Vec<Recipient>) -> DeliveryId {
    let created = intake.create(intake.default_options(), Some(&content()), None).await.unwrap();
    let Created::New(id) = created else { panic!("{created:?}") };
    for batch in recipients.chunks(500) {
        intake.append(id, batch.to_vec()).await.unwrap();
    }
    intake.start(id).await.unwrap();
    id
}

/// Waits until nothing of a delivery is pending, or `patience` is over.
async fn settled(intake: &Intake, id: DeliveryId, patience: Duration) -> store::Counters {
    let begin = Instant::now();
    loop {
        let counters = intake.counters(id).await.unwrap();
        if counters.pending() == 0 || begin.elapsed() > patience {
            return counters;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_arrives_once() {
    let lab = Lab::start(lab_config()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(config(&lab, folder.path(), "")).unwrap();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example", "two.example"], 400)).await;
    let counters = settled(&intake, id, Duration::from_secs(20)).await;
    let groups = node.questions().groups().await.unwrap();
    assert_eq!(counters.sent, 400, "{counters:?} {groups:#?}");
    node.shutdown().await;
    let report = lab.stop();
    assert_eq!(report.duplicates.unique_accepted, 400, "{report:#?}");
    assert_eq!(report.totals.accepted, 400);
    assert!(report.limits_held());
    let log = std::fs::read_to_string(folder.path().join("data/delivery.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 400);
}
