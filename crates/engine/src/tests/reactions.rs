//! What follows from reaction rules: suspension, slowing, fewer connections, recovery.

use core::time::Duration;
use std::sync::Arc;

use mail::attempt::{EndCause, Stage, Verdict};
use mail::reply::Reply;
use mail::time::Timestamp;
use rules::reaction::{ReactionFile, ReactionRules};

use super::harness::{Answer, Bench, RowState, START, accept, route, rules, sources};
use crate::event::Event;
use crate::reactions::{About, KeptReactions, ReactionOrder};
use crate::reason::WaitReason;
use crate::work::{DeliveryOptions, FinalState};
use crate::{Engine, Settings};

const MINUTE: Duration = Duration::from_secs(60);

/// One rule with these lines, hit by `slow down`.
fn reaction(lines: &str) -> Arc<ReactionRules> {
    let text = format!(
        "schema_version = 1\nversion = \"t1\"\n[[rule]]\nname = \"r\"\ntext = \"slow down\"\nsource = \"test\"\nmatches = [\"421 slow down\"]\nmatches_not = [\"550 no\"]\n{lines}\n"
    );
    let file = ReactionFile::parse("reactions.toml", text.as_bytes()).unwrap();
    Arc::new(ReactionRules::compile(&file))
}

fn bench(lines: &str) -> Bench {
    let mut bench = Bench::simple("");
    bench.engine.handle(bench.now, Event::ReactionRulesReplaced(reaction(lines)));
    bench
}

/// Refuses until then, with these words at RCPT TO.
fn refuses_until(bench: &mut Bench, seconds: u64, words: &'static str) {
    let end = Timestamp::from_secs(START + seconds);
    bench.exchanger = Box::new(move |now, _, _| match now < end {
        true => Answer::Reply(Stage::RcptTo, Reply::line(451, words)),
        false => accept(),
    });
}

/// Messages begun between two times after the start, in seconds.
fn begun(bench: &Bench, from: u64, to: u64) -> usize {
    let within = |at: &Timestamp| (START + from..START + to).contains(&at.as_secs());
    bench.begun.iter().filter(|(at, ..)| within(at)).count()
}

const SUSPENDS: &str = "hits = 2\nwithin = \"1m\"\nscope = \"path\"\naction = \"suspend\"\nfor = \"10m\"\nrecovery = { steps = 9, every = \"1m\" }";

#[test]
fn a_suspended_path_is_left_alone_and_comes_back_in_steps() {
    let mut bench = bench(SUSPENDS);
    refuses_until(&mut bench, 5, "slow down");
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 30_000);
    bench.run(MINUTE);
    let last = bench.begun.last().unwrap().0;
    assert!(last.as_secs() < START + 2, "two refusals, and what was on the wire: {last}");
    assert!(bench.begun.len() < 8, "what was not begun came back: {}", bench.begun.len());
    let waiting = bench.why(*ids.last().unwrap());
    assert!(
        matches!(&waiting.reason, WaitReason::Suspended { by } if by.rule == "r" && by.version == "t1"),
        "{waiting:?}"
    );
    assert!((START + 600..START + 602).contains(&waiting.until.as_secs()), "{}", waiting.until);
    assert!(waiting.reason.smallest_change().unwrap().contains("stat reaction lift R1"));
    let paths = bench.engine.paths_of("a.example", bench.now);
    assert_eq!(paths[0].reactions, ["R1 r@t1"]);
    assert_eq!(
        paths[0].held_by_reaction.as_ref(),
        Some(&waiting),
        "the path says what its mail says"
    );
    assert_eq!(bench.kept.in_force.len(), 1);
    assert_eq!(bench.kept.in_force[0].times, 1);
    assert!(bench.attempts.iter().any(|one| one.reaction.as_deref() == Some("R1 r@t1")));

    bench.run(MINUTE * 9);
    assert_eq!(begun(&bench, 2, 600), 0, "not one while it was suspended");
    bench.run(MINUTE * 15);
    // 100,000 an hour are 1,667 a minute: a tenth more with each step.
    let steps: Vec<usize> =
        (0..9).map(|step| begun(&bench, 602 + step * 60, 656 + step * 60)).collect();
    for (step, count) in steps.iter().enumerate() {
        let want = 1_500 * (step + 1) / 10;
        assert!((want * 9 / 10..=want * 11 / 10).contains(count), "{step}: {count}, {steps:?}");
    }
    assert!(bench.kept.in_force.is_empty(), "it is over");
    assert_eq!(bench.kept.ended.len(), 1);
}

#[test]
fn another_path_takes_over_and_a_better_host_is_not_gone_round() {
    let mut bench = Bench::new(rules(""), sources(&[1]), Settings::default());
    bench.engine.handle(bench.now, Event::ReactionRulesReplaced(reaction(SUSPENDS)));
    bench.routes.insert(
        "a.example".into(),
        route(&[
            (10, "mx1.a.example", &["192.0.2.1", "192.0.2.2"]),
            (20, "mx2.a.example", &["192.0.2.3"]),
        ]),
    );
    bench.exchanger = Box::new(|_, plan, _| match plan.path.target.to_string().as_str() {
        "192.0.2.1" => Answer::Reply(Stage::RcptTo, Reply::line(451, "slow down")),
        _ => accept(),
    });
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 2_000);
    bench.run(MINUTE * 5);
    assert!(bench.sent() > 1_900, "{}", bench.sent());
    let to = |bench: &Bench, last: &str| {
        bench.begun.iter().filter(|one| one.2.to_string() == last).count()
    };
    assert!(to(&bench, "192.0.2.1") < 80, "{}", to(&bench, "192.0.2.1"));

    // Now the other one, too: the backup is no way round.
    bench.exchanger = Box::new(|_, plan, _| match plan.path.target.to_string().as_str() {
        "192.0.2.3" => accept(),
        _ => Answer::Reply(Stage::RcptTo, Reply::line(451, "slow down")),
    });
    bench.queue(delivery, "a.example", 200);
    bench.run(MINUTE);
    assert_eq!(to(&bench, "192.0.2.3"), 0);
}

#[test]
fn what_a_server_says_instead_of_a_greeting_is_heard() {
    let mut bench =
        bench("stage = \"connect\"\nscope = \"source\"\naction = \"suspend\"\nfor = \"10m\"");
    bench.door = Box::new(|_, _| Err(EndCause::Refused { reply: Reply::line(421, "slow down") }));
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 5);
    bench.run(MINUTE);
    // The bench ends conversations at the stage of nothing asked.
    assert_eq!(bench.kept.in_force.len(), 0);
    let rules =
        reaction("stage = \"between\"\nscope = \"source\"\naction = \"suspend\"\nfor = \"10m\"");
    bench.engine.handle(bench.now, Event::ReactionRulesReplaced(rules));
    bench.run(MINUTE * 5);
    assert!(matches!(bench.kept.in_force[0].about, About::Source { .. }));
}

#[test]
fn a_421_to_any_command_of_a_message_is_heard() {
    for stage in [Stage::MailFrom, Stage::RcptTo, Stage::Data, Stage::Content] {
        let mut bench = bench("scope = \"path\"\naction = \"suspend\"\nfor = \"10m\"");
        bench.exchanger =
            Box::new(move |_, _, _| Answer::Last(stage, Reply::line(421, "slow down")));
        let delivery = bench.plain(1);
        bench.queue(delivery, "a.example", 5);
        bench.run(MINUTE);
        assert_eq!(bench.kept.in_force.len(), 1, "{stage}");
        assert!(matches!(bench.kept.in_force[0].about, About::Path { .. }), "{stage}");
        // No attempt is counted but where the content was refused, and the log has the reply.
        let attempt = &bench.attempts[0];
        let refused =
            matches!(&attempt.verdict, Some(Verdict::Refused { stage: at, .. }) if *at == stage);
        assert!(refused, "{stage}: {:?}", attempt.verdict);
    }
}

#[test]
fn a_figure_caps_the_flow_and_rises_again() {
    let lines = "scope = \"source-at-provider\"\naction = \"slow\"\nmessages_per_minute = 30\nfor = \"5m\"\nrecovery = { steps = 4, every = \"1m\" }";
    let mut bench = bench(lines);
    refuses_until(&mut bench, 1, "slow down");
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 20_000);
    bench.run(MINUTE * 20);
    for minute in 1..4 {
        let count = begun(&bench, minute * 60 + 5, minute * 60 + 65);
        assert!((27..=31).contains(&count), "minute {minute}: {count}");
    }
    assert!(begun(&bench, 310, 360) > 200, "the first step");
    assert!(bench.kept.in_force.is_empty());
}

#[test]
fn one_message_a_minute_needs_no_waiting_connection() {
    let lines = "scope = \"path\"\naction = \"slow\"\nmessages_per_minute = 1\nfor = \"30m\"";
    let mut bench = bench(lines);
    refuses_until(&mut bench, 1, "slow down");
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 1_000);
    bench.run(MINUTE * 10 + MINUTE / 2);
    let count = begun(&bench, 5, 600);
    assert!((8..=11).contains(&count), "{count}");
    assert!(matches!(bench.why(*ids.last().unwrap()).reason, WaitReason::Slowed { .. }));
}

#[test]
fn connections_are_closed_down_to_the_lower_number() {
    let lines = "scope = \"source-at-provider\"\naction = \"fewer-connections\"\nconnections = 2\nfor = \"10m\"";
    let mut bench = bench(lines);
    bench.latency = Duration::from_millis(400);
    let refuse_from = Timestamp::from_secs(START + 30);
    let refuse_to = Timestamp::from_secs(START + 31);
    bench.exchanger = Box::new(move |now, _, _| match now >= refuse_from && now < refuse_to {
        true => Answer::Reply(Stage::RcptTo, Reply::line(451, "slow down")),
        false => accept(),
    });
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 20_000);
    bench.run(Duration::from_secs(25));
    assert_eq!(bench.engine.sizes().1, 10, "as many as the MX rule allows");
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.engine.sizes().1, 2);
    bench.run(MINUTE * 8);
    assert_eq!(bench.engine.sizes().1, 2);
    bench.run(MINUTE * 12);
    assert_eq!(bench.engine.sizes().1, 10, "back to the full number");
}

#[test]
fn a_lower_level_gives_its_figures() {
    let mut bench = bench("scope = \"path\"\naction = \"lower-level\"\nlevels = 1\nfor = \"20m\"");
    refuses_until(&mut bench, 1, "slow down");
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 50_000);
    bench.run(MINUTE * 11);
    // Slow is a tenth of 100,000 an hour.
    let count = begun(&bench, 60, 660);
    assert!((1_500..=1_680).contains(&count), "{count}");
}

#[test]
fn a_suspended_delivery_does_not_hold_others() {
    let mut bench = bench(
        "scope = \"delivery\"\naction = \"suspend\"\nfor = \"10m\"\nrecovery = { steps = 1, every = \"1m\" }",
    );
    bench.exchanger = Box::new(|now, _, message| {
        let early = now < Timestamp::from_secs(START + 60);
        match early && message.delivery.0 == 1 {
            true => Answer::Reply(Stage::RcptTo, Reply::line(451, "slow down")),
            false => accept(),
        }
    });
    let (one, other) = (bench.plain(1), bench.plain(2));
    let held = bench.queue(one, "a.example", 300);
    bench.run(Duration::from_secs(2));
    bench.queue(other, "a.example", 300);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 300, "the other one");
    assert!(matches!(bench.why(held[299]).reason, WaitReason::Suspended { .. }));
    bench.run(Duration::from_secs(3 * 3_600));
    assert_eq!(bench.sent(), 600);
}

#[test]
fn a_slowed_delivery_keeps_its_figure() {
    let mut bench =
        bench("scope = \"delivery\"\naction = \"slow\"\nmessages_per_minute = 6\nfor = \"30m\"");
    refuses_until(&mut bench, 1, "slow down");
    let one = bench.plain(1);
    bench.queue(one, "a.example", 1_000);
    bench.run(MINUTE * 20);
    let count = begun(&bench, 60, 1_200);
    assert!((100..=116).contains(&count), "{count}");
}

#[test]
fn hits_in_a_row_begin_anew_with_a_message_that_is_taken() {
    let lines = "hits = 3\nwithin = \"1h\"\nin_a_row = true\nscope = \"delivery\"\naction = [\"stop-delivery\", \"alert\"]";
    for (every, stopped) in [(2, false), (1, true)] {
        let one_at_a_time = "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1";
        let mut bench = Bench::simple(one_at_a_time);
        bench.engine.handle(bench.now, Event::ReactionRulesReplaced(reaction(lines)));
        bench.exchanger = Box::new(move |_, _, message| match message.id.0.is_multiple_of(every) {
            true => Answer::Reply(Stage::RcptTo, Reply::line(451, "slow down")),
            false => accept(),
        });
        let delivery = bench.plain(1);
        bench.queue(delivery, "a.example", 50);
        bench.run(MINUTE);
        assert_eq!(!bench.stopped.is_empty(), stopped, "every {every}");
    }
}

#[test]
fn of_a_stream_nothing_is_stopped_but_somebody_is_told() {
    let lines =
        "hits = 3\nwithin = \"1h\"\nscope = \"delivery\"\naction = [\"stop-delivery\", \"alert\"]";
    let mut bench = bench(lines);
    refuses_until(&mut bench, 60, "slow down");
    let options = DeliveryOptions { stream: true, ..Default::default() };
    let delivery = bench.delivery(1, options);
    bench.queue(delivery, "a.example", 50);
    bench.run(MINUTE);
    assert!(bench.stopped.is_empty());
    assert!(bench.kept.in_force[0].effect.alert);
}

#[test]
fn people_lift_and_prolong_and_it_is_written_down() {
    let mut bench = bench(SUSPENDS);
    refuses_until(&mut bench, 5, "slow down");
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 200);
    bench.run(MINUTE);
    let order =
        |order| Event::ReactionOrdered { id: 1, order, who: "ann".into(), why: "asked".into() };
    let until = Timestamp::from_secs(START + 1_800);
    bench.engine.handle(bench.now, order(ReactionOrder::HoldUntil(until)));
    bench.run(MINUTE * 20);
    assert_eq!(begun(&bench, 5, 1_260), 0);
    assert_eq!(bench.kept.in_force[0].until, until);
    bench.engine.handle(bench.now, order(ReactionOrder::Lift));
    bench.run(MINUTE);
    assert!(begun(&bench, 1_260, 1_265) > 150, "lifted is lifted");
    let ended = &bench.kept.ended[0];
    let what: Vec<&str> = ended.changes.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(what.len(), 2);
    assert_eq!((what[1], ended.changes[1].who.as_str()), ("lifted", "ann"));
    // Nobody is there any more.
    bench.engine.handle(bench.now, order(ReactionOrder::Lift));
    bench.run(MINUTE);
    assert_eq!(bench.kept.ended.len(), 1);
}

#[test]
fn it_survives_a_restart_and_other_rules() {
    let mut bench = bench(SUSPENDS);
    refuses_until(&mut bench, 5, "slow down");
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 3_000);
    bench.run(MINUTE);
    // Other rules do not touch what is in force.
    bench.engine.handle(bench.now, Event::ReactionRulesReplaced(ReactionRules::none()));
    bench.run(MINUTE);
    assert_eq!(bench.kept.in_force.len(), 1);
    // What was kept, in a process that knows nothing else.
    let kept = bench.kept.clone();
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<KeptReactions>(&text).unwrap(), kept);
    let mut second = Bench::new(rules(""), sources(&[1]), Settings::default());
    second.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
    second.now = bench.now;
    second.engine = Engine::new(Settings::default(), sources(&[1]), rules(""), second.now);
    second.engine.handle(second.now, Event::ReactionsRestored(Box::new(kept)));
    let delivery = second.plain(1);
    second.queue(delivery, "a.example", 100);
    second.run(MINUTE * 7);
    assert!(second.begun.is_empty(), "still suspended");
    second.run(MINUTE * 30);
    assert_eq!(second.sent(), 100);
    assert_eq!(second.count(RowState::Final(FinalState::Sent)), 100);
}
