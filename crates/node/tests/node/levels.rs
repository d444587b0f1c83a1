//! Levels and warm-up caps on the real node: in force at once, across restarts, without losing a count.

use mailweir_node::levels::LevelFault;
use mailweir_node::warm_up::Steering;
use rules::{Level, LevelChange, LevelScope, LevelSubject};

use super::*;

fn everything() -> LevelScope {
    LevelScope { subject: LevelSubject::Everything, rule: None }
}

/// 20 an hour and source at normal.
fn figures() -> String {
    OPEN.replace("\"path\"", "\"source\"").replace("1000000", "20")
}

async fn used(node: &Node) -> u64 {
    let budgets = node.questions().budgets().await.unwrap();
    budgets.into_iter().map(|budget| budget.used_in_window).sum()
}

async fn set(node: &Node, level: Level) -> u64 {
    let questions = node.questions();
    let change = LevelChange::set(everything(), level, None, questions.now());
    questions.decide_level(change, "ann", "a test").await.unwrap().number
}

/// 40 at normal, 40 more at fast, nothing more at slow: what was sent before counts under every level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_is_in_force_at_once_and_loses_no_count() {
    let world = World::one(90, Mood::default()).rules(&figures());
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 300)).await;
    sent(&intake, id, 40).await;
    let version = node.questions().rules().await.unwrap().version();
    let fast = set(&node, Level::Fast).await;
    sent(&intake, id, 80).await;
    assert_eq!((used(&node).await, intake.counters(id).await.unwrap().sent), (80, 80));
    set(&node, Level::Slow).await;
    node.shutdown().await;

    // The next life has the decisions and the counts.
    let node = world.start();
    let intake = node.intake();
    let shown = node.questions().levels().await.unwrap();
    assert_eq!((shown.in_force.default, shown.decisions.len()), (Level::Slow, 2));
    assert!(shown.rules_version > version);
    assert_eq!(used(&node).await, 80);
    // Back to fast, where 80 are all there is; undone too, there are none either.
    let undo = |decision| LevelChange::Undo { decision };
    let questions = node.questions();
    questions.decide_level(undo(2), "bob", "mistake").await.unwrap();
    assert_eq!(questions.levels().await.unwrap().in_force.default, Level::Fast);
    questions.decide_level(undo(fast), "bob", "mistake").await.unwrap();
    // The configuration of these tests says custom.
    assert_eq!(questions.levels().await.unwrap().in_force.default, Level::Custom);
    set(&node, Level::VeryFast).await;
    sent(&intake, id, 160).await;
    assert_eq!(used(&node).await, 160);
    // What is not there cannot have a level.
    let nobody = LevelScope { subject: LevelSubject::Affinity("nobody".into()), rule: None };
    let change = LevelChange::set(nobody, Level::Fast, None, questions.now());
    let fault = questions.decide_level(change, "ann", "x").await.unwrap_err();
    assert!(matches!(fault, LevelFault::Unknown { what: "affinity", .. }), "{fault}");
    world.end(node).await;
}

/// Decisions as the store holds them, with an end so far from now, in seconds.
fn boost_until(now: mail::time::Timestamp, ahead: i64) -> store::Write {
    let until = i64::try_from(now.as_micros()).unwrap() + ahead * 1_000_000;
    let scope = serde_json::json!({ "subject": "everything", "rule": null });
    let one = serde_json::json!({
        "number": 1, "at": 1, "who": "ann", "why": "sale",
        "change": { "set": { "scope": scope, "level": "boost", "until": until } },
    });
    let value = serde_json::json!({ "next": 2, "kept": [one] }).to_string();
    store::Write::PutSetting { key: "level_decisions".into(), value: value.into() }
}

/// Writes into the store of a node that is down.
fn write(world: &World, write: store::Write) {
    let options = store::SqliteOptions::default();
    let mut store = store::SqliteStore::open(&world.config().data_dir, options).unwrap();
    store::Store::apply(&mut store, &[write]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boost_ends_by_itself_whether_the_node_runs_or_not() {
    let world = World::one(91, Mood::default()).rules(&figures());
    let node = world.start();
    let now = node.intake().now();
    node.shutdown().await;
    write(&world, boost_until(now, 5));
    // Started before the end: it holds, and ends while the node runs, although somebody is writing the rule file.
    let node = world.start();
    let level = async || node.questions().rules().await.unwrap().levels().default;
    assert_eq!(level().await, Level::Boost);
    let file = std::fs::read_to_string(world.path("mx.toml")).unwrap();
    world.write_rules("[[rule");
    eventually("the end of boost", async || (level().await == Level::Custom).then_some(())).await;
    assert_eq!(node.questions().levels().await.unwrap().in_force.default, Level::Custom);
    world.write_rules(&file);
    let now = node.intake().now();
    node.shutdown().await;
    write(&world, boost_until(now, -1));
    // Ended while the node was down.
    let node = world.start();
    assert_eq!(node.questions().rules().await.unwrap().levels().default, Level::Custom);
    let shown = node.questions().levels().await.unwrap();
    assert_eq!(shown.decisions[0].standing, rules::DecisionStanding::Ended);
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_plan_caps_its_source_in_this_life_and_the_next() {
    let world = World::one(92, Mood::default()).rules(OPEN);
    let node = world.start();
    let questions = node.questions();
    let today = engine::warm_up::Day::of(questions.now());
    for source in [1, 2] {
        let plan = engine::warm_up::WarmUpPlan {
            providers: std::collections::BTreeMap::new(),
            ..engine::warm_up::WarmUpPlan::new(mail::id::SourceId(source), today, 100_000)
        };
        questions.apply_plan(plan, "ann").await.unwrap();
    }
    let intake = node.intake();
    let (id, first) =
        delivery_with(&intake, intake.default_options(), recipients(&["one.example"], 200)).await;
    sent(&intake, id, 40).await;
    let explained = waits_for(&node, MessageId(first.0 + 199), "warm-up cap").await;
    let detail = explained.waiting.unwrap().detail;
    assert!(detail.contains("20 an hour (20 used)"), "{detail}");
    node.shutdown().await;

    let node = world.start();
    let questions = node.questions();
    waits_for(&node, MessageId(first.0 + 199), "warm-up cap").await;
    let shown = questions.warm_up().await.unwrap();
    assert_eq!(shown.plans.len(), 2);
    assert_eq!(shown.sources[0].used_in_day, 20);
    assert_eq!(node.intake().counters(id).await.unwrap().sent, 40);
    // The planner has counted what became of them.
    assert_eq!(shown.levels[0].tally.sent, 20);
    let first = mail::id::SourceId(1);
    questions.steer_plan(first, Steering::End, "bob").await.unwrap();
    // Who did it is kept, with the plan that held before: applied again, it is in force again.
    let changes = questions.warm_up().await.unwrap().changes;
    let said: Vec<(&str, &str, bool)> =
        changes.iter().map(|one| (&*one.who, &*one.what, one.plan.is_some())).collect();
    assert_eq!(
        said,
        [("ann", "applied", false), ("ann", "applied", false), ("bob", "ended", true)]
    );
    assert_eq!(settled(&node.intake(), id).await.sent, 200);
    world.end(node).await;
}
