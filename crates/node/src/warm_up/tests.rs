use std::collections::BTreeMap;

use engine::warm_up::Tally;
use quota::SourceCaps;
use rules::{Level, Levels};

use super::*;
use crate::config::Config;
use crate::node::Node;

/// A node with source 1 at level Fast, in a folder of its own, that can reach nobody.
fn alone() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\n\
                helo = \"m1.sender.example\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
                [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
                [http]\nlisten = []\n[rules]\nlevel = \"fast\"\n";
    let config = Config::parse(text, "test.toml", folder.path()).unwrap();
    (Node::start(config).unwrap(), folder)
}

const BAD: Tally =
    Tally { sent: 500, deferred: 500, unknown_users: 0, blocked: 0, other_failures: 0 };

/// The planner is asked often on one bad day: by the figures of that day one level falls, not all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_figures_cost_one_level_however_often_is_asked() {
    let (node, _folder) = alone();
    let questions = node.questions();
    let today = Day::of(questions.now());
    let tallies = &questions.warm_up.tallies;
    tallies.put(1, "google", today, BAD, Level::Fast);
    let level = async || {
        questions.ask_planner().await.unwrap();
        let rules = questions.rules().await.unwrap();
        rules.levels().of("google", SourceId(1)).0
    };
    assert_eq!(
        (level().await, level().await, level().await),
        (Level::Normal, Level::Normal, Level::Normal)
    );
    // Good mail at the new level changes nothing, bad mail does.
    tallies.put(1, "google", today, Tally { sent: 400, ..Tally::default() }, Level::Normal);
    assert_eq!(level().await, Level::Normal);
    tallies.put(1, "google", today, BAD, Level::Normal);
    assert_eq!((level().await, level().await), (Level::Slow, Level::Slow));
    assert_eq!(questions.warm_up.record().proposals.len(), 2);
    node.shutdown().await;
}

/// A fall that cannot be carried out does not take the record of another along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_is_recorded_whatever_fails_after_it() {
    let (node, _folder) = alone();
    let questions = node.questions();
    let today = Day::of(questions.now());
    // Source 9 is in the configuration no more.
    for source in [1, 9] {
        questions.warm_up.tallies.put(source, "google", today, BAD, Level::Fast);
    }
    let fault = questions.ask_planner().await.unwrap_err();
    assert!(fault.to_string().contains("source \"9\""), "{fault}");
    let record = questions.intake().read(|reads| stored_record(reads)).await.unwrap();
    let kept: Vec<_> =
        record.proposals.iter().map(|one| (one.proposal.source.0, one.decision)).collect();
    assert_eq!(kept, [(1, Some(1))]);
    node.shutdown().await;
}

/// Two approvals of one proposal at the same time make one decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_answered_once() {
    let (node, _folder) = alone();
    let questions = node.questions();
    let now = questions.now();
    questions.warm_up.tallies.put(1, "google", Day::of(now), BAD, Level::Fast);
    let said = questions.judgements(now, &[]).await.unwrap();
    let open = StoredProposal::open(said[0].clone(), now);
    let add = |record: &mut WarmUpRecord| {
        record.add(vec![open]);
        Ok(())
    };
    questions.change_warm_up(add).await.unwrap();
    let approve = || questions.answer_proposal(1, true, "ann", "as planned");
    let (one, other) = tokio::join!(approve(), approve());
    let answers = [one, other].map(|answer| answer.map(|one| one.decision));
    assert!(matches!(answers, [Ok(Some(1)), Err(WarmUpFault::Refused(_))]), "{answers:?}");
    assert_eq!(questions.level_decisions().await.unwrap().all().len(), 1);
    node.shutdown().await;
}

/// Rules that lack the name of a cap which every plan has.
#[test]
fn a_plan_fits_the_rules_that_there_are() {
    let rules = |names: &[&str]| {
        let mut text = "schema_version = 1\n".to_owned();
        for (name, mask) in names
            .iter()
            .map(|name| (*name, format!("*.{name}.example")))
            .chain([("generic", "*".to_owned())])
        {
            text += &format!(
                "[[rule]]\nname = \"{name}\"\nmask = \"{mask}\"\nmax_connections = 6\n\
                 max_messages_per_connection = 50\nmessages_per_hour = 1000\n"
            );
        }
        let file = rules::parse("mx.toml", text.as_bytes()).unwrap();
        RuleSet::compile(&file, &Levels::default(), 1)
    };
    let names = |plan: &WarmUpPlan| plan.providers.keys().cloned().collect::<Vec<_>>();
    let usual = WarmUpPlan::new(SourceId(1), Day(20_800), 1_000);
    assert_eq!(names(&usual), ["rackspace"]);
    let mut plan = usual.clone();
    fit_providers(&mut plan, &rules(&["google"])).unwrap();
    assert!(plan.providers.is_empty());
    let mut plan = usual.clone();
    fit_providers(&mut plan, &rules(&["rackspace"])).unwrap();
    assert_eq!(plan, usual);
    // What the caller named must be there.
    let mut plan = usual;
    plan.providers = BTreeMap::from([("rackspace".into(), 50)]);
    let fault = fit_providers(&mut plan, &rules(&["google"])).unwrap_err();
    assert_eq!(fault.to_string(), "there is no rule \"rackspace\"");

    // A cap whose rule is called otherwise since is an alert until the plan is applied again.
    let caps = SourceCaps {
        per_hour: None,
        per_day: None,
        provider_per_day: None,
        providers: BTreeMap::from([("google".into(), 70), ("yahoo".into(), 80)]),
    };
    let caps = WarmUpCaps { sources: BTreeMap::from([(SourceId(1), caps)]) };
    let now = Timestamp::from_secs(1);
    let found = orphaned_caps(&caps, &rules(&["google"]), now);
    assert_eq!((found.len(), found[0].key.as_str()), (1, "1 yahoo"));
    assert!(found[0].words.contains("source 1 at yahoo holds nothing"), "{found:?}");
    assert!(orphaned_caps(&caps, &rules(&["google", "yahoo"]), now).is_empty());
}
