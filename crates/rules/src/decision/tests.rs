use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_secs(1_800_000_000);

fn hours(hours: u64) -> Timestamp {
    START + Duration::from_secs(hours * 3_600)
}

fn everything() -> LevelScope {
    LevelScope { subject: LevelSubject::Everything, rule: None }
}

fn source(id: u32) -> LevelScope {
    LevelScope { subject: LevelSubject::Source(SourceId(id)), rule: None }
}

fn set(decisions: &mut LevelDecisions, level: Level, lasts: Option<u64>, at: u64) -> u64 {
    let lasts = lasts.map(|hours| Duration::from_secs(hours * 3_600));
    let change = LevelChange::set(everything(), level, lasts, hours(at));
    decisions.decide(change, "ann", "because", hours(at)).unwrap()
}

fn undo(decisions: &mut LevelDecisions, decision: u64, at: u64) -> Result<u64, DecisionFault> {
    decisions.decide(LevelChange::Undo { decision }, "ann", "mistake", hours(at))
}

fn level(decisions: &LevelDecisions, at: u64) -> Level {
    decisions.over(&Levels::all(Level::Normal), hours(at)).default
}

#[test]
fn boost_ends_by_itself_and_falls_back_to_what_held_before() {
    let mut decisions = LevelDecisions::default();
    assert_eq!(level(&decisions, 0), Level::Normal);
    set(&mut decisions, Level::Fast, None, 1);
    set(&mut decisions, Level::Boost, None, 2);
    assert_eq!((level(&decisions, 2), level(&decisions, 25)), (Level::Boost, Level::Boost));
    assert_eq!(decisions.next_end(hours(3)), Some(hours(26)));
    // Nobody has to be there at the end: who asks later is told.
    assert_eq!(level(&decisions, 26), Level::Fast);
    assert_eq!(decisions.next_end(hours(26)), None);
    assert_eq!(decisions.moments(hours(99)), [hours(1), hours(2), hours(26)]);
    // A decision made meanwhile stays after a shorter one over it.
    set(&mut decisions, Level::Boost, Some(10), 30);
    set(&mut decisions, Level::Slow, Some(2), 31);
    let seen: Vec<Level> = [30, 31, 33, 40].map(|at| level(&decisions, at)).to_vec();
    // At hour 30 the later decision is known already, so ask the history as of then.
    assert_eq!(seen, [Level::Slow, Level::Slow, Level::Boost, Level::Fast]);
    assert_eq!(level(&decisions.as_of(hours(30)), 30), Level::Boost);
}

/// What a fall takes the place of decides how long it holds.
#[test]
fn a_fall_ends_with_boost_unless_something_higher_comes_after_it() {
    let at_google =
        LevelScope { subject: LevelSubject::Source(SourceId(3)), rule: Some("google".to_owned()) };
    for (configured, scope, level, lasts, to, wanted) in [
        // Boost for a day over normal: the fall is over with it.
        (Level::Normal, everything(), Level::Boost, Some(24), Level::VeryFast, Some(hours(24))),
        (Level::Normal, source(3), Level::Boost, Some(24), Level::VeryFast, Some(hours(24))),
        (
            Level::Normal,
            at_google.clone(),
            Level::Boost,
            Some(24),
            Level::VeryFast,
            Some(hours(24)),
        ),
        // Very fast comes after it, from which it fell.
        (Level::VeryFast, everything(), Level::Boost, Some(24), Level::Fast, None),
        (Level::VeryFast, everything(), Level::Boost, Some(24), Level::VeryFast, Some(hours(24))),
        (Level::Custom, everything(), Level::Boost, Some(24), Level::VeryFast, Some(hours(24))),
        // No end, so there is none for the fall.
        (Level::Normal, everything(), Level::Fast, None, Level::Normal, None),
        // Another source's decision says nothing about this one.
        (Level::Fast, source(4), Level::Boost, Some(24), Level::Normal, None),
    ] {
        let mut decisions = LevelDecisions::default();
        let lasts = lasts.map(|hours| Duration::from_secs(hours * 3_600));
        let change = LevelChange::set(scope.clone(), level, lasts, START);
        decisions.decide(change, "ann", "sale", START).unwrap();
        let configured = Levels::all(configured);
        let google = (SourceId(3), "google");
        let found = decisions.end_of_fall(&configured, google, to, START);
        assert_eq!(found, wanted, "{configured:?} {scope} {level} {to}");
        // Whatever it says can be decided, and is never higher afterwards than what would hold without the fall.
        let fall = LevelChange::Set { scope: at_google.clone(), level: to, until: found };
        let mut fallen = decisions.clone();
        fallen.decide(fall, "planner", "a guard", START).unwrap();
        for hour in [0, 12, 24, 99] {
            let of = |all: &LevelDecisions| {
                all.over(&configured, hours(hour)).of("google", SourceId(3)).0
            };
            assert!(of(&fallen) <= of(&decisions), "{scope} {level} {to} {hour}");
        }
    }
    // Just before its end, a fall holds a minute.
    let mut decisions = LevelDecisions::default();
    set(&mut decisions, Level::Boost, Some(1), 0);
    let late = hours(1) + Duration::ZERO;
    let almost = Timestamp::from_micros(late.as_micros() - 1_000_000);
    let end =
        decisions.end_of_fall(&Levels::default(), (SourceId(1), "google"), Level::VeryFast, almost);
    assert_eq!(end, Some(almost + Duration::from_secs(60)));
}

#[test]
fn a_minute_is_accepted_though_the_request_took_a_moment() {
    let mut decisions = LevelDecisions::default();
    let change = LevelChange::set(everything(), Level::Boost, Some(Duration::from_secs(60)), START);
    assert!(decisions.decide(change, "ann", "a test", START + Duration::from_secs(2)).is_ok());
    let change = LevelChange::set(everything(), Level::Boost, Some(Duration::from_secs(5)), START);
    assert!(decisions.decide(change, "ann", "a test", START).is_err());
}

#[test]
fn what_is_undone_can_be_redone() {
    let mut decisions = LevelDecisions::default();
    let fast = set(&mut decisions, Level::Fast, None, 1);
    let slow = set(&mut decisions, Level::Slow, None, 2);
    let first = undo(&mut decisions, slow, 3).unwrap();
    assert_eq!(level(&decisions, 3), Level::Fast);
    assert_eq!(
        undo(&mut decisions, slow, 4),
        Err(DecisionFault::AlreadyUndone { number: slow, by: first })
    );
    undo(&mut decisions, first, 5).unwrap();
    assert_eq!(level(&decisions, 5), Level::Slow);
    undo(&mut decisions, slow, 6).unwrap();
    undo(&mut decisions, fast, 7).unwrap();
    assert_eq!(level(&decisions, 7), Level::Normal);
    assert_eq!(undo(&mut decisions, 99, 8), Err(DecisionFault::Unknown(99)));
    let states: Vec<DecisionStanding> =
        decisions.standings(hours(8)).into_iter().map(|(_, state)| state).collect();
    assert_eq!(
        states,
        [
            DecisionStanding::Undone { by: 6 },
            DecisionStanding::Undone { by: 5 },
            DecisionStanding::Undone { by: 4 },
            DecisionStanding::Done,
            DecisionStanding::Done,
            DecisionStanding::Done,
        ]
    );
}

#[test]
fn scopes_do_not_touch_one_another() {
    let mut decisions = LevelDecisions::default();
    let mut at = |scope: LevelScope, level| {
        decisions.decide(LevelChange::set(scope, level, None, START), "ann", "x", START).unwrap()
    };
    let google = |subject| LevelScope { subject, rule: Some("google".into()) };
    at(everything(), Level::Slow);
    at(source(3), Level::Fast);
    at(google(LevelSubject::Everything), Level::VeryFast);
    at(google(LevelSubject::Source(SourceId(3))), Level::Custom);
    at(google(LevelSubject::Affinity("news".into())), Level::Normal);
    at(LevelScope { subject: LevelSubject::Affinity("news".into()), rule: None }, Level::Fast);
    let mut configured = Levels::all(Level::Normal);
    configured.affinities.insert("news".into(), BTreeSet::from([SourceId(4)]));
    let levels = decisions.over(&configured, START);
    let of = |rule: &str, source| levels.of(rule, SourceId(source)).0;
    assert_eq!(
        [of("x", 9), of("x", 3), of("google", 9), of("google", 3), of("google", 4), of("x", 4)],
        [Level::Slow, Level::Fast, Level::VeryFast, Level::Custom, Level::Normal, Level::Fast]
    );
    let change = LevelChange::AsConfigured { scope: source(3) };
    decisions.decide(change, "ann", "enough", START).unwrap();
    assert_eq!(decisions.over(&configured, START).of("x", SourceId(3)).0, Level::Slow);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let mut decisions = LevelDecisions::default();
    let mut refused = |change: LevelChange, who: &str, why: &str| {
        let fault = decisions.decide(change, who, why, START).unwrap_err().to_string();
        assert!(decisions.all().is_empty());
        fault
    };
    let boost = |lasts| LevelChange::set(everything(), Level::Boost, Some(lasts), START);
    let fine = || LevelChange::set(everything(), Level::Fast, None, START);
    assert_eq!(
        refused(boost(Duration::from_secs(8 * 86_400)), "ann", "x"),
        "boost can be set for a minute to 7 days"
    );
    refused(boost(Duration::from_secs(49)), "ann", "x");
    let endless = LevelChange::Set { scope: everything(), level: Level::Boost, until: None };
    refused(endless, "ann", "x");
    assert_eq!(refused(fine(), "ann", "  "), "say why in 1 to 1000 characters, without line ends");
    refused(fine(), "", "x");
    refused(fine(), "ann", "two\nlines");
    refused(fine(), "ann", &"x".repeat(1_001));
}

#[test]
fn the_history_is_bounded_and_loses_nothing_that_counts() {
    let mut decisions = LevelDecisions::default();
    let first = LevelChange::set(source(1), Level::Fast, None, START);
    decisions.decide(first, "ann", "stays", START).unwrap();
    for turn in 0..3_000 {
        let which = if turn % 2 == 0 { Level::Slow } else { Level::Fast };
        set(&mut decisions, which, None, turn);
        if turn % 3 == 0 {
            let last = decisions.all().last().unwrap().number;
            undo(&mut decisions, last, turn).unwrap();
        }
    }
    assert_eq!(decisions.all().len(), DECISIONS_KEPT);
    assert_eq!(decisions.all()[0].why, "stays");
    let mut full = LevelDecisions::default();
    for id in 0..DECISIONS_KEPT {
        let scope = source(u32::try_from(id).unwrap());
        full.decide(LevelChange::set(scope, Level::Fast, None, START), "ann", "x", START).unwrap();
    }
    let more = LevelChange::set(everything(), Level::Fast, None, START);
    assert_eq!(full.decide(more, "ann", "x", START), Err(DecisionFault::Full));
}

/// Number, level, end in hours, what it undoes.
type Modelled = (u64, Option<Level>, Option<u64>, Option<u64>);

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Against a model that replays the list afresh: undone ones struck out from the end, then the
    /// last that is left and not over.
    #[test]
    fn the_latest_that_counts_holds(
        steps in prop::collection::vec((0_u64..6, prop::option::of(1_u64..48), 0_u64..8, 1_u64..20), 1..40),
    ) {
        let mut decisions = LevelDecisions::default();
        let mut now = 0;
        let mut model: Vec<Modelled> = Vec::new();
        for (kind, lasts, which, pass) in steps {
            now += pass;
            if kind == 5 {
                let Ok(number) = undo(&mut decisions, which + 1, now) else { continue };
                model.push((number, None, None, Some(which + 1)));
            } else {
                let level = Level::ALL[usize::try_from(kind).unwrap()];
                let number = set(&mut decisions, level, lasts, now);
                let lasts = lasts.or((level == Level::Boost).then_some(24));
                model.push((number, Some(level), lasts.map(|lasts| now + lasts), None));
            }
            for ask in [now, now + 10, now + 30] {
                let mut struck: BTreeSet<u64> = BTreeSet::new();
                let mut want = Level::Normal;
                for (number, level, until, undoes) in model.iter().rev() {
                    if struck.contains(number) {
                        continue;
                    }
                    struck.extend(undoes);
                    if let Some(level) = level
                        && until.is_none_or(|until| until > ask)
                    {
                        want = *level;
                        // Undoings stand behind what they undo, so all that matter were met.
                        break;
                    }
                }
                prop_assert_eq!(level(&decisions, ask), want);
            }
        }
    }
}

/// A general decision says where it does not reach, and clears what was decided there when it is told to.
#[test]
fn a_general_decision_knows_what_it_does_not_reach() {
    let now = Timestamp::from_micros(1_000_000_000);
    let at = |subject, rule: Option<&str>| LevelScope { subject, rule: rule.map(str::to_owned) };
    let set = |scope: &LevelScope, level| LevelChange::set(scope.clone(), level, None, now);
    let mut configured = Levels::default();
    configured.affinities.insert("news".to_owned(), [SourceId(1), SourceId(2)].into());
    configured.per_rule.insert("orange".to_owned(), Level::Slow);
    let everything = at(LevelSubject::Everything, None);
    let boosted = at(LevelSubject::Source(SourceId(1)), Some("google"));
    let news = at(LevelSubject::Affinity("news".to_owned()), None);
    let other = at(LevelSubject::Source(SourceId(9)), None);
    let mut decisions = LevelDecisions::default();
    // The first is hidden by the second, and would hold again when that one is undone.
    for (scope, level) in [
        (&boosted, Level::Fast),
        (&boosted, Level::Boost),
        (&news, Level::Fast),
        (&other, Level::Slow),
    ] {
        decisions.decide(set(scope, level), "ann", "sale", now).unwrap();
    }
    let names = |decisions: &LevelDecisions, scope: &LevelScope, level| -> Vec<String> {
        let found = decisions.not_reached(&configured, scope, Some(level), now);
        let line = |one: &NotReached| format!("{} {} {:?}", one.scope, one.level, one.decision);
        found.iter().map(line).collect()
    };
    assert_eq!(
        names(&decisions, &everything, Level::Slow),
        ["source 1 at google boost Some(2)", "affinity news fast Some(3)"],
        "slow where slow is set already is reached"
    );
    assert_eq!(
        names(&decisions, &at(LevelSubject::Source(SourceId(2)), None), Level::Fast),
        ["everything at orange slow None"]
    );
    assert_eq!(names(&decisions, &boosted, Level::Slow), Vec::<String>::new());
    decisions.decide(set(&everything, Level::Slow), "ann", "calm", now).unwrap();
    let cleared = decisions.clear_particular(&configured, &everything, "ann", "calm", now).unwrap();
    assert_eq!(cleared, [1, 2, 3, 4]);
    let left = decisions.not_reached(&configured, &everything, None, now);
    let left: Vec<Option<u64>> = left.iter().map(|one| one.decision).collect();
    assert_eq!(left, [None], "the configuration is left");
    assert_eq!(decisions.over(&configured, now).of("google", SourceId(1)).0, Level::Slow);
}
