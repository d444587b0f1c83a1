use engine::work::{DeliveryOptions, DeliveryState};
use engine::{Affinity, Source};
use mail::route::MxHost;
use quota::NodeId;
use rules::Levels;

use super::*;

const START: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;

fn at(second: u64) -> Timestamp {
    Timestamp::from_secs(START + second)
}

fn rules(per_hour: u32) -> Arc<RuleSet> {
    let text = format!(
        "schema_version = 1\n[[rule]]\nname = \"rest\"\nmask = \"*\"\nscope = \"source\"\npacing = \"burst\"\n\
         max_connections = 10\nmax_messages_per_connection = 100\nmessages_per_hour = {per_hour}\n"
    );
    let file = rules::parse("rules.toml", text.as_bytes()).unwrap();
    Arc::new(RuleSet::compile(&file, &Levels::default(), 1))
}

fn delivery(id: u64, validity: Duration) -> Delivery {
    Delivery {
        id: DeliveryId(id),
        state: DeliveryState::Running,
        options: DeliveryOptions { validity, ..DeliveryOptions::default() },
        started_at: Some(at(0)),
        wave_ends: Vec::new(),
    }
}

fn refused(code: u16, text: &str) -> Answer {
    Answer::Refused { stage: Stage::RcptTo, reply: Reply::line(code, text) }
}

/// Messages for a.example that arrive at a second, with what is said of them.
fn arrive(demand: &mut Demand, second: u64, count: u32, answers: &[Answer]) {
    let numbers: Vec<u16> = answers.iter().map(|answer| demand.answer(answer.clone())).collect();
    let script = demand.script(&numbers);
    let (domain, delivery) = (demand.domain("a.example"), DeliveryId(1));
    demand.add(DemandRow { domain, delivery, arrived_at: at(second), attempts: 0, script, count });
}

/// Replays, and answers the report with the seconds and the waits of all MAIL FROMs, in their order.
fn run(demand: &Demand, per_hour: u32, validity: Duration) -> (ReplayReport, Vec<(f64, f64)>) {
    let rules = rules(per_hour);
    let owner = Owner { node: NodeId(1), incarnation: 1 };
    let ruling = Arc::clone(&rules) as _;
    let ledger = Ledger::restore(quota::Settings::default(), ruling, owner, at(0), []);
    let source = Source {
        id: SourceId(1),
        weight: 1,
        include_domains: vec![],
        exclude_domains: vec![],
        ipv6: false,
    };
    let affinity = Affinity { name: "default".into(), sources: vec![SourceId(1)] };
    let route = Arc::new(MxRoute {
        hosts: vec![MxHost {
            preference: 10,
            name: "mx.a.example".into(),
            addresses: vec!["198.18.0.1".parse().unwrap()],
        }],
        port: 25,
        lmtp: false,
        relay: false,
        tls: None,
        valid_until: Timestamp::NEVER,
    });
    let input = ReplayInput {
        begin: at(0),
        until: at(HOUR),
        tail: Duration::from_secs(10 * 86_400),
        ledger,
        owner,
        sources: Sources::new(vec![source], vec![affinity]).unwrap(),
        source_limits: BTreeMap::new(),
        rules,
        bounce: BounceRules::shipped(),
        reactions: ReactionRules::shipped(),
        settings: Settings::default(),
        routes: BTreeMap::from([("a.example".into(), route)]),
        latencies: BTreeMap::new(),
        latency: Latency::default(),
        deliveries: vec![delivery(1, validity)],
        demand,
    };
    let seconds = |at: Timestamp| at.as_micros() as f64 / 1e6 - START as f64;
    let mut seen = Vec::new();
    let report = send_again(input, &mut |started| {
        let wait = started.at.since(started.due).as_secs_f64();
        seen.push((seconds(started.at), wait));
    });
    seen.sort_by(|one, other| one.0.total_cmp(&other.0));
    (report, seen)
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

#[test]
fn mail_goes_when_it_arrived_where_no_limit_is_in_the_way() {
    let mut demand = Demand::default();
    for second in [5, 600, 3_000] {
        arrive(&mut demand, second, 20, &[Answer::Taken]);
    }
    let (report, seen) = run(&demand, 10_000, WEEK);
    assert_eq!((report.sent, report.failed, report.expired, report.waiting), (60, 0, 0, 0));
    assert_eq!((report.assumed, report.left.len()), (0, 0));
    assert_eq!(seen.len(), 60);
    assert!(seen.iter().all(|(_, wait)| *wait < 2.0), "{seen:?}");
    assert!(seen[0].0 >= 5.0 && seen[59].0 >= 3_000.0 && seen[59].0 < 3_002.0);
}

#[test]
fn a_limit_holds_in_every_hour_and_makes_mail_wait() {
    let mut demand = Demand::default();
    arrive(&mut demand, 1, 250, &[Answer::Taken]);
    let (report, seen) = run(&demand, 100, WEEK);
    assert_eq!((report.sent, report.waiting), (250, 150));
    for (place, (begin, _)) in seen.iter().enumerate() {
        let within = seen[place..].iter().take_while(|(at, _)| at - begin < 3_600.0).count();
        assert!(within <= 100, "{within} from {begin}");
    }
    assert!(seen[249].1 > 7_000.0, "the last waited two hours: {:?}", seen[249]);
}

#[test]
fn what_its_validity_does_not_outlast_expires() {
    let mut demand = Demand::default();
    arrive(&mut demand, 1, 250, &[Answer::Taken]);
    let (report, seen) = run(&demand, 100, Duration::from_secs(2 * HOUR));
    assert_eq!((report.sent, report.expired, seen.len()), (200, 50, 200));
    assert_eq!(report.left, []);
}

#[test]
fn what_was_answered_is_answered_again() {
    let mut demand = Demand::default();
    let full = refused(452, "4.2.2 Mailbox of jane@example.com is full");
    arrive(&mut demand, 1, 3, &[full.clone(), Answer::Taken]);
    arrive(&mut demand, 1, 2, &[refused(550, "5.1.1 User unknown")]);
    // Not at its end when the record ended.
    arrive(&mut demand, 1, 1, &[full]);
    let (report, seen) = run(&demand, 10_000, WEEK);
    assert_eq!((report.sent, report.failed, report.assumed), (4, 2, 1));
    assert_eq!(seen.len(), 3 * 2 + 2 + 2);
    // The second try comes by the schedule, an hour later, and waits for nothing else.
    let second: Vec<_> = seen.iter().filter(|(at, _)| *at > 60.0).collect();
    assert_eq!(second.len(), 4);
    assert!(second.iter().all(|(at, wait)| (3_600.0..4_000.0).contains(at) && *wait < 2.0));
}

#[test]
fn conversations_that_break_spend_a_try_and_go_on() {
    let mut demand = Demand::default();
    arrive(&mut demand, 1, 1, &[Answer::Broken, refused(421, "4.7.0 later"), Answer::Taken]);
    arrive(&mut demand, 1, 1, &[Answer::NoAnswer, Answer::Taken]);
    let (report, seen) = run(&demand, 10_000, WEEK);
    assert_eq!((report.sent, report.assumed, seen.len()), (2, 0, 5));
}

#[test]
fn rows_become_coarser_and_never_earlier_and_no_message_is_lost() {
    let mut demand = Demand::with_rows(100);
    let mut first = u64::MAX;
    for number in 0..5_000_u64 {
        let arrived_at = Timestamp::from_micros(START * 1_000_000 + number * 1_234_567);
        let (domain, script) = (demand.domain("a.example"), demand.script(&[0]));
        demand.add(DemandRow {
            domain,
            delivery: DeliveryId(1),
            arrived_at,
            attempts: 0,
            script,
            count: 1,
        });
        first = first.min(arrived_at.as_micros());
    }
    assert!(demand.rows().count() <= 100);
    assert_eq!((demand.messages(), demand.bounds().grain_micros), (5_000, 300_000_000));
    assert!(demand.rows().all(|row| row.arrived_at.as_micros() >= first));
    assert!(demand.rows().all(|row| row.arrived_at.as_micros() % 300_000_000 == 0));
}

#[test]
fn answers_that_differ_in_their_variable_parts_are_one_and_too_many_become_plain() {
    let mut demand = Demand::default();
    let one = demand.answer(refused(550, "5.1.1 <a@x.org> unknown"));
    assert_eq!(demand.answer(refused(550, "5.1.1 <b@x.org> unknown")), one);
    let letters = |number: u32| -> String {
        (0..4).map(|place| char::from(b'a' + (number / 26_u32.pow(place) % 26) as u8)).collect()
    };
    for number in 0..5_000 {
        demand.answer(refused(450, &format!("4.2.0 {}", letters(number))));
    }
    assert!(demand.bounds().simplified > 0);
    let plain = demand.answer(refused(450, "4.2.0 something quite new"));
    let script = demand.script(&[plain]);
    assert_eq!(demand.answer_of(script, 0), Some(&refused(450, "4.0.0 deferred")));
    assert_eq!(demand.answer_of(script, 1), None);
}
