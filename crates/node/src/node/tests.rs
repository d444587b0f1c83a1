use super::*;

/// A node in a folder of its own that can reach nobody.
fn alone() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\n\
                helo = \"m1.sender.example\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
                [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
                [http]\nlisten = []\n";
    let config = Config::parse(text, "test.toml", folder.path()).unwrap();
    (Node::start(config).unwrap(), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_loop_panics_is_known_to_have_ended() {
    let (node, _folder) = alone();

    let questions = node.questions();
    assert!(questions.sizes().await.is_some());
    let ended = node.ended();
    let early = tokio::time::timeout(Duration::from_millis(50), node.ended()).await;
    assert!(early.is_err(), "it has not ended");
    let _ = node.inputs.send(Input::Ask(Box::new(|_| panic!("for this test"))));
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(questions.sizes().await.is_none());
    node.shutdown().await;
}

/// What was accepted a moment ago and still waits for its first attempt is in memory, with all that it says of its
/// recipient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_forgotten_is_not_kept_in_memory_for_first_attempts() {
    use crate::intake::{SingleMessage, StreamName};
    let (node, _folder) = alone();
    let intake = node.intake();
    let stream = StreamName {
        affinity: "default".into(),
        priority: mail::id::Priority::Normal,
        tenant: String::new(),
    };
    let gone = mail::address::Mailbox::parse("gone@one.example").unwrap();
    let content = b"From: news@sender.example\r\nTo: gone@one.example\r\n\r\nDear gone\r\n";
    let message = SingleMessage {
        sender: String::new(),
        recipients: vec![gone.clone()],
        content: content.to_vec(),
    };
    intake.submit(&stream, message, None).await.unwrap();
    // Nobody answers where it asks for names: the attempt is far away.
    assert_eq!(node.contents().fresh_octets(), content.len());
    let author =
        crate::nondeliverables::Author { who: "test".into(), why: "to see what happens".into() };
    let erased = node.nondeliverables().forget(&gone, author).await.unwrap();
    assert_eq!(erased.waiting, 1);
    assert_eq!(node.contents().fresh_octets(), 0);
    node.shutdown().await;
}

/// A general level that is set with `clear` holds everywhere; without, it says where it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_general_level_tells_what_it_does_not_reach_or_clears_it() {
    use rules::{Level, LevelChange, LevelScope, LevelSubject};
    let (node, _folder) = alone();
    let questions = node.questions();
    let source = mail::id::SourceId(1);
    let particular =
        LevelScope { subject: LevelSubject::Source(source), rule: Some("google".to_owned()) };
    let everything = LevelScope { subject: LevelSubject::Everything, rule: None };
    let set =
        |scope: &LevelScope, level| LevelChange::set(scope.clone(), level, None, questions.now());
    let boost = set(&particular, Level::Boost);
    let boost = questions.decide_level(boost, "ann", "sale").await.unwrap().number;
    let calm = questions.decide_level(set(&everything, Level::Slow), "ann", "x").await.unwrap();
    let named: Vec<_> = calm.not_reached.iter().map(|one| (&one.scope, one.decision)).collect();
    assert_eq!((named, calm.cleared.len()), (vec![(&particular, Some(boost))], 0));
    let cleared = set(&everything, Level::Slow);
    let cleared = questions.decide_level_with(cleared, "ann", "x", true).await.unwrap();
    assert_eq!((cleared.not_reached.len(), cleared.cleared), (0, vec![boost]));
    let held = questions.levels().await.unwrap().in_force;
    assert_eq!(held.of("google", source).0, Level::Slow);
    let gmail = LevelScope { rule: Some("gmail".to_owned()), ..everything };
    let fault = questions.decide_level(set(&gmail, Level::Slow), "ann", "x").await.unwrap_err();
    assert!(fault.to_string().contains("did you mean google"), "{fault}");
    node.shutdown().await;
}

#[test]
fn a_full_budget_of_the_generic_rule_names_who_shares_it() {
    use engine::WaitReason;
    use engine::event::{QuotaLimit, QuotaWait};
    let waits = |scope: &str, rule: &str| {
        let text = format!(
            "schema_version = 1\n[[rule]]\nname = \"own\"\nmask = \"mx.a.example\"\nmax_connections = 1\n\
             [[rule]]\nname = \"rest\"\nmask = \"*\"\nscope = \"{scope}\"\nmax_connections = 10\n"
        );
        let file = rules::parse_local("own.toml", text.as_bytes()).unwrap();
        let file = rules::RuleFile::combine(Some(&file), rules::shipped());
        let set = RuleSet::compile(&file, &rules::Levels::default(), 1);
        let wait = QuotaWait {
            until: None,
            limit: QuotaLimit::Hour,
            rule: rule.into(),
            source: None,
            figure: 2_500,
            used: 2_500,
        };
        let waiting = Waiting { reason: WaitReason::Quota { wait }, until: Timestamp::NEVER };
        WaitingExplained::new(&waiting, &set).smallest_change.unwrap()
    };
    assert!(waits("source", "rest").contains("every host without a rule of its own"));
    assert!(waits("source", "rest").contains("above 2,500"));
    assert!(!waits("source", "own").contains("without a rule of its own"));
    assert!(!waits("path", "rest").contains("without a rule of its own"));
}
