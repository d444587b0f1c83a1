//! Dry runs over what a real node has recorded: they say what happens when the rules are really put in force.

use std::collections::BTreeMap;

use engine::quarantine::{AddressFilter, Policy, ReasonPolicy, State};
use mail::failure::Reason;
use mail::time::Timestamp;
use mailweir_node::dry_run::{ProposedBounce, Recorded};
use rules::bounce::BounceRuleFile;

use super::*;

/// The lab's words for a recipient that it does not know are no fault of the recipient.
const OTHER: &str = r#"
schema_version = 1
version = "other"
[[rule]]
name = "no-such-user"
text = ['user unknown']
reason = "Refused"
matches = ["550 5.1.1 <a@one.example>: Recipient address rejected: User unknown"]
matches_not = ["550 5.1.1 no"]
"#;

fn now() -> Timestamp {
    Timestamp::from_micros(mailweir_node::clock::read_clocks().wall)
}

/// Where every address stands.
async fn states(node: &Node) -> BTreeMap<String, State> {
    let page = node.nondeliverables().addresses(AddressFilter::default(), 0, 1_000).await.unwrap();
    page.into_iter().map(|(_, one)| (one.address.into(), one.condition.state)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounce_rules_do_what_their_dry_run_says() {
    let world = World::one(110, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let gone: Vec<String> = (0..30).map(|number| format!("unknown{number}@one.example")).collect();
    let mut all: Vec<&str> = gone.iter().map(String::as_str).collect();
    all.push("person@one.example");
    let id = delivery(&intake, addressed(&all)).await;
    assert_eq!(settled(&intake, id).await.failed, 30);
    let before = states(&node).await;
    assert_eq!(before.values().filter(|state| **state == State::Quarantined).count(), 30);
    // It looks while the node works.
    let file = BounceRuleFile::parse("other.toml", OTHER.as_bytes()).unwrap();
    let data = world.path("data");
    let recorded = Recorded::open(&data, Some(world.config()), now()).unwrap();
    let proposed = ProposedBounce { file: Some(file), ..ProposedBounce::default() };
    let trial = recorded.try_bounce(&proposed, Timestamp::EPOCH).unwrap();
    let report = &trial.report;
    assert_eq!(
        (report.entries.judged, report.entries.changed, report.entries.messages),
        (30, 30, 30)
    );
    assert_eq!((report.addresses.freed.addresses, report.addresses.quarantined.addresses), (30, 0));
    assert_eq!((report.texts.looked_at, report.texts.changed), (1, 1));
    assert_eq!(&*report.texts.list[0].host, "mx.one.example");
    assert_eq!(report.texts.list[0].would_be.meaning.reason, Reason::Refused);
    assert!(trial.recorded_from.is_some_and(|from| from <= now()));
    // Nothing has changed, and a window that ends before anything began changes nothing.
    assert_eq!(states(&node).await, before);
    let later = recorded.try_bounce(&proposed, now() + Duration::from_secs(60)).unwrap().report;
    assert_eq!(
        (later.entries.changed, later.entries.older, later.addresses.freed.addresses),
        (0, 30, 0)
    );
    // The same with a policy: three errors, not one.
    let mut policy = Policy::default();
    let lenient = ReasonPolicy { quarantine_at: Some(3), ..*policy.of(Reason::UserUnknown) };
    policy.set(Reason::UserUnknown, lenient);
    let proposed = ProposedBounce { policy: Some(policy), ..ProposedBounce::default() };
    let softer = recorded.try_bounce(&proposed, Timestamp::EPOCH).unwrap().report;
    assert_eq!(softer.addresses.freed.states, [(State::Quarantined, State::WithErrors, 30)]);
    node.shutdown().await;
    // And now in earnest.
    std::fs::write(world.path("other.toml"), OTHER).unwrap();
    let world = world.more("[bounce_rules]\nfile = \"other.toml\"\n");
    let node = world.start();
    eventually("everybody is free", async || {
        states(&node).await.values().all(|state| !state.is_refused()).then_some(())
    })
    .await;
    node.shutdown().await;
}
