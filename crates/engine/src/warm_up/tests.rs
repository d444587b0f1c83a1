use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use mail::id::SourceId;
use mail::time::Timestamp;
use quota::{Ledger, NodeId, Owner, PathKey, TokenAnswer, TokenRequest, WarmUpCaps};
use rules::{Level, LevelChange, LevelDecisions, LevelScope, LevelSubject, Levels, RuleSet};

use super::*;

const FIRST: Day = Day(20_800);

fn plan(goal: u32) -> WarmUpPlan {
    WarmUpPlan::new(SourceId(3), FIRST, goal)
}

fn fine(sent: u64) -> (Tally, PooledComplaints) {
    (Tally { sent, ..Tally::default() }, PooledComplaints { complaints: 0, sent })
}

fn put_off(sent: u64, deferred: u64) -> (Tally, PooledComplaints) {
    (Tally { sent, deferred, ..Tally::default() }, PooledComplaints { complaints: 0, sent })
}

fn history(days: &[(u32, (Tally, PooledComplaints))]) -> Vec<(Day, Tally, PooledComplaints)> {
    days.iter().map(|(day, (tally, pooled))| (FIRST.plus(*day), *tally, *pooled)).collect()
}

/// The published schedule of 20 an hour times 1.4 a day, of its days 0 to 11.
#[test]
fn the_schedule_is_the_published_one() {
    let plan = plan(100_000);
    let hours: Vec<u32> = (0..12).map(|age| plan.per_hour(age)).collect();
    assert_eq!(hours, [20, 28, 39, 55, 77, 108, 151, 211, 295, 413, 579, 810]);
    let schedule = plan.schedule();
    let first = schedule[0].caps.as_ref().unwrap();
    assert_eq!(
        (first.per_hour, first.per_day, first.provider_per_day),
        (Some(20), Some(480), Some(240))
    );
    // The volume is reached on the 17th day; from then on nothing is capped.
    let reached = schedule.iter().find(|day| day.reaches_goal).unwrap();
    assert_eq!((reached.age, reached.day), (16, FIRST.plus(16)));
    assert_eq!(reached.caps.as_ref().unwrap().per_day, Some(4_356 * 24));
    assert!(schedule.last().unwrap().caps.is_none() && schedule.len() == 18);
    assert_eq!(FIRST.to_string(), "2026-12-13");
    for day in (0..40_000).map(Day) {
        assert_eq!(Day::parse(&day.to_string()), Some(day));
    }
    for bad in
        ["", "2026-2-30", "2026-02-30", "2026-13-01", "2026-12-00", "1969-12-31", "2026-12-01 "]
    {
        assert_eq!(Day::parse(bad), None, "{bad}");
    }
}

#[test]
fn only_days_with_good_mail_count() {
    let mut plan = plan(100_000);
    plan.providers.insert("rackspace".into(), 99);
    let state = |days: &[(u32, (Tally, PooledComplaints))], today: u32| {
        plan.state(&history(days), FIRST.plus(today))
    };
    let age = |days: &[(u32, (Tally, PooledComplaints))], today| state(days, today).age;
    assert_eq!(age(&[], 5), 0, "nothing was sent");
    assert_eq!(age(&[(0, fine(400)), (1, fine(600))], 2), 2);
    assert_eq!(age(&[(0, fine(400)), (1, fine(600))], 1), 1, "today is not over");
    assert_eq!(age(&[(0, fine(400)), (3, fine(600))], 4), 2, "days without mail do not count");
    // At the guard, but too few to be sure: the day does not count.
    assert_eq!(age(&[(0, fine(400)), (1, put_off(7, 2))], 2), 1);
    // Surely over it: two days back.
    let days = [(0, fine(400)), (1, fine(600)), (2, fine(900)), (3, put_off(500, 500))];
    assert_eq!(age(&days, 4), 1);
    let told = state(&days, 4);
    assert_eq!(told.days[3].why, "back by 2 days: put off 50 % of 1000 (guard 20 %)");
    assert_eq!(told.caps.as_ref().unwrap().line("rackspace"), Some(99));
    assert_eq!(told.caps.unwrap().line("google"), Some(28 * 24 / 2));
    assert_eq!(told.reached_on, Some(FIRST.plus(4 + 15)));
    // Silence.
    let days: Vec<_> = (0..10).map(|day| (day, fine(400))).collect();
    assert_eq!(age(&days, 39), 10);
    assert_eq!(age(&days, 40), 0, "30 days are over");
    let mut resumed = days.clone();
    resumed.push((45, fine(100)));
    assert_eq!(age(&resumed, 46), 1);
    assert!(state(&resumed, 46).days.last().unwrap().why.starts_with("as new after 30 days"));
    // A pause: nothing counts, but a breach still does.
    let mut paused = plan.clone();
    paused.pause(FIRST.plus(1));
    paused.resume(FIRST.plus(3));
    let days: Vec<_> = (0..4).map(|day| (day, fine(400))).collect();
    assert_eq!(paused.state(&history(&days), FIRST.plus(4)).age, 2);
    paused.pause(FIRST.plus(4));
    assert!(paused.state(&history(&days), FIRST.plus(4)).paused);
}

#[test]
fn a_source_that_has_reached_its_volume_is_warm_until_it_is_silent() {
    let plan = plan(1_000);
    let days: Vec<_> = (0..6).map(|day| (day, fine(400))).collect();
    let state = plan.state(&history(&days), FIRST.plus(6));
    assert!(state.warm && state.caps.is_none() && state.reached_on.is_none());
    assert!(plan.state(&history(&days), FIRST.plus(60)).caps.is_some());
}

/// The counts of a day are kept for 45 days; what they were worth is kept for ever.
#[test]
fn the_age_of_a_source_outlives_the_counts_of_its_days() {
    let mut slow = plan(100_000);
    slow.growth_percent = 110;
    let goal = slow.schedule().iter().find(|day| day.reaches_goal).unwrap().age;
    assert!(goal > 45, "{goal}");
    let mut whole: Vec<(Day, Tally, PooledComplaints)> = Vec::new();
    let mut kept = whole.clone();
    let mut settled = slow.clone();
    // Mail on every day until it is warm and a little longer, then twice a week, then never.
    let has_mail = |day: u32| day < 70 || (day < 200 && day % 7 < 2);
    for day in 0..240 {
        let today = FIRST.plus(day);
        let (one, all) = (settled.state(&kept, today), slow.state(&whole, today));
        assert_eq!((one.age, one.warm, &one.caps), (all.age, all.warm, &all.caps), "day {day}");
        assert_eq!(one.warm, day > goal && day <= 197 + 30, "day {day}: age {}", one.age);
        if day < 230 {
            assert_eq!(one.days.last(), all.days.last(), "what is shown is not settled yet");
        }
        if has_mail(day) {
            let (tally, pooled) = fine(400);
            whole.push((today, tally, pooled));
            kept.push((today, tally, pooled));
        }
        settled.settle(&kept, Day(today.0 - 40));
        kept.retain(|(of, ..)| *of >= Day(today.0 - 45));
    }
    assert!(!settled.settle(&kept, FIRST), "nothing is settled twice");
    let text = serde_json::to_string(&settled).unwrap();
    assert_eq!(serde_json::from_str::<WarmUpPlan>(&text).unwrap(), settled);
    assert!(!serde_json::to_string(&slow).unwrap().contains("past"));
}

#[test]
fn figures_that_cannot_be_meant_are_refused() {
    assert_eq!(plan(100_000).check(), Ok(()));
    let with = |change: fn(&mut WarmUpPlan)| {
        let mut plan = plan(100_000);
        change(&mut plan);
        plan.check().unwrap_err().to_string()
    };
    assert_eq!(
        with(|plan| plan.growth_percent = 100),
        "the growth in percent is 101 to 300, not 100"
    );
    assert_eq!(with(|plan| plan.goal_per_day = 0), "the volume per day is 1 to 1000000000, not 0");
    assert_eq!(
        with(|plan| {
            plan.growth_percent = 101;
            plan.goal_per_day = 1_000_000_000;
        }),
        "at this growth the volume is not reached in 400 days"
    );
}

/// Guards are decided only where one can be sure.
#[test]
fn guards_need_evidence() {
    let normal = Guards::of(Level::Normal).unwrap();
    let verdicts = |sent, deferred, unknown, complaints| {
        let tally = Tally { sent, deferred, unknown_users: unknown, ..Tally::default() };
        let readings = normal.read(&tally, &PooledComplaints { complaints, sent });
        readings.map(|one| one.verdict)
    };
    use GuardVerdict::{Breached, Kept, Open};
    assert_eq!(verdicts(0, 0, 0, 0), [Open; 3]);
    assert_eq!(verdicts(10, 0, 0, 0), [Open, Open, Open]);
    assert_eq!(verdicts(100, 0, 0, 0), [Open, Kept, Kept]);
    // A greylisting server, and a list of three with one who is not there.
    assert_eq!(verdicts(0, 1, 0, 0), [Open, Open, Open]);
    assert_eq!(verdicts(2, 17, 0, 0), [Open, Open, Open]);
    assert_eq!(verdicts(2, 0, 1, 0), [Open, Open, Open]);
    assert_eq!(verdicts(2, 18, 0, 0), [Open, Breached, Open]);
    assert_eq!(verdicts(2_000, 0, 0, 0), [Kept; 3]);
    assert_eq!(verdicts(2_000, 1_000, 200, 20), [Breached, Breached, Breached]);
    let tally = Tally { sent: 790, deferred: 210, ..Tally::default() };
    let one = normal.read(&tally, &PooledComplaints::default())[1];
    assert_eq!(
        (one.verdict, one.to_string().as_str()),
        (Open, "put off 21 % of 1000 (guard 20 %)")
    );
    assert!((one.sure - 0.2146).abs() < 1e-3, "{one:?}");
    assert!((one.low - 0.1859).abs() < 1e-3 && (one.high - 0.2363).abs() < 1e-3, "{one:?}");
}

/// A change before the first attempt of its day.
fn changed_at(at: Timestamp) -> LastChange {
    LastChange { at, before: Tally::default() }
}

fn evidence<'a>(
    level: Level,
    changed: Option<u32>,
    days: &'a [(Day, Tally, PooledComplaints)],
) -> LevelEvidence<'a> {
    let changed = changed.map(|day| changed_at(FIRST.plus(day).start()));
    LevelEvidence { source: SourceId(3), rule: "google", level, changed, fell: None, days }
}

#[test]
fn proposals_follow_the_record() {
    let good: Vec<_> = (0..40).map(|day| (day, fine(5_000))).collect();
    let good = history(&good);
    let at = |day: u32| FIRST.plus(day).start() + Duration::from_secs(43_200);
    let of = |level, changed, days: &[_], day: u32| {
        let proposal = propose(&evidence(level, changed, days), at(day));
        (proposal.step, proposal.to, proposal.why)
    };
    let up = |level, changed, day| of(level, changed, &good[..=day as usize], day);
    assert_eq!(up(Level::Slow, None, 1).2, "2 days with mail; a raise needs 3");
    assert_eq!(up(Level::Slow, None, 3).0, Move::Raise);
    assert_eq!(up(Level::Slow, None, 3).1, Level::Normal);
    assert_eq!(up(Level::Normal, None, 10).2, "10 days of history; fast needs 30");
    assert_eq!(
        (up(Level::Normal, None, 35).0, up(Level::Normal, None, 35).1),
        (Move::Raise, Level::Fast)
    );
    let soon = up(Level::Fast, Some(35), 36);
    assert!(soon.0 == Move::Hold && soon.2.contains("48 hours"), "{soon:?}");
    assert_eq!(up(Level::Fast, Some(33), 36).1, Level::VeryFast);
    assert_eq!(up(Level::VeryFast, None, 39).0, Move::Hold);
    assert_eq!(up(Level::Custom, None, 39).0, Move::Hold);
    // A block ten days ago keeps from very fast.
    let mut blocked = good.clone();
    blocked[29].1.blocked = 100;
    assert_eq!(
        of(Level::Fast, None, &blocked, 39).2,
        "blocked on 2027-01-11; very-fast needs 14 days without"
    );
    // One bad day is enough to fall, whatever the week was.
    let mut bad = good.clone();
    bad[39] = (FIRST.plus(39), put_off(1_000, 1_000).0, put_off(1_000, 1_000).1);
    for (level, to) in [
        (Level::Boost, Level::VeryFast),
        (Level::VeryFast, Level::Fast),
        (Level::Fast, Level::Normal),
        (Level::Normal, Level::Slow),
    ] {
        let found = propose(&evidence(level, Some(38), &bad), at(39));
        assert_eq!((found.step, found.to), (Move::Lower, to));
        assert!(found.confidence > 0.975, "{found:?}");
    }
    assert_eq!(of(Level::Slow, None, &bad, 39).0, Move::Hold);
    // Few messages: nobody can be sure of one complaint in a thousand.
    let few: Vec<_> = (0..40).map(|day| (day, fine(50))).collect();
    let few = of(Level::Normal, None, &history(&few), 39);
    assert!(few.0 == Move::Hold && few.2.contains("too little is known"), "{few:?}");
}

/// Asks every hour of one day, at Boost from its start, and carries out every fall. `put_off(hour)` of the
/// 1,000 attempts of an hour are put off, and as many complaints come as `complained(hour)` says.
fn hourly(put_off: fn(u32) -> u64, complained: fn(u32) -> u64) -> Vec<(u32, Level)> {
    let (mut level, mut fell) = (Level::Boost, None);
    let mut changed = changed_at(FIRST.plus(6).start());
    let mut days = history(&(0..6).map(|day| (day, fine(5_000))).collect::<Vec<_>>());
    let mut falls = Vec::new();
    // The day after is asked too: its first hours must not judge the day before once more.
    for hour in 0..40 {
        let now = FIRST.plus(6).start() + Duration::from_secs(3_600 * u64::from(hour + 1) - 1);
        let day = Day::of(now);
        if days.last().is_none_or(|last| last.0 != day) {
            days.push((day, Tally::default(), PooledComplaints::default()));
        }
        let today = days.last_mut().unwrap();
        let deferred = put_off(hour);
        today.1.add(&Tally { sent: 1_000 - deferred, deferred, ..Tally::default() });
        today.2.sent += 1_000 - deferred;
        today.2.complaints += complained(hour);
        let before = today.1;
        let (source, rule, changed_then) = (SourceId(3), "google", Some(changed));
        let days = &days;
        let evidence = LevelEvidence { source, rule, level, changed: changed_then, fell, days };
        let proposal = propose(&evidence, now);
        if proposal.step == Move::Lower && proposal.from != proposal.to {
            fell = Some((now, level));
            level = proposal.to;
            changed = LastChange { at: now, before };
            falls.push((hour, level));
        }
    }
    falls
}

/// A guard is breached once by the same figures, however often is asked.
#[test]
fn one_bad_hour_costs_one_level() {
    // 30 % of the day so far; an hour later it is still 22 %.
    let one = |hour: u32| if hour == 2 { 900 } else { 0 };
    assert_eq!(hourly(|_| 0, |_| 0), []);
    assert_eq!(hourly(one, |_| 0), [(2, Level::VeryFast)]);
    // What goes on being bad goes on falling.
    assert_eq!(
        hourly(|hour| if hour >= 2 { 900 } else { 0 }, |_| 0),
        [(2, Level::VeryFast), (3, Level::Fast), (4, Level::Normal), (5, Level::Slow)]
    );
    // Complaints that trickle in over the day are about mail of the level that was lost.
    let trickle = |hour: u32| if (9..24).contains(&hour) { 40 } else { 0 };
    assert_eq!(hourly(|_| 0, trickle), [(9, Level::VeryFast)]);
    // Those that do not end in a day are about the new one too.
    let endless = |hour: u32| if hour >= 9 { 40 } else { 0 };
    assert_eq!(hourly(|_| 0, endless), [(9, Level::VeryFast), (33, Level::Fast)]);
}

/// A provider of the month: what it does with `asked` messages at the pace of a level.
struct Provider {
    complains_from: u64,
}

/// A month on the virtual clock: the production ledger under the plan's caps and the level's limits, full demand,
/// proposals carried out as they come.
struct Month {
    uses: Vec<(u64, u64)>,
    levels: Vec<(Timestamp, Level)>,
    ages: Vec<u32>,
    warm_on: Option<u32>,
}

fn month(provider: &Provider, start: Level, goal: u32, days: u32) -> Month {
    let path = PathKey { source: SourceId(3), target: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)) };
    let scope = LevelScope { subject: LevelSubject::Source(SourceId(3)), rule: None };
    let compile = |levels: &Levels| Arc::new(RuleSet::compile(rules::shipped(), levels, 1));
    let mut decisions = LevelDecisions::default();
    let configured = Levels::all(start);
    let owner = Owner { node: NodeId(1), incarnation: 1 };
    let begin = FIRST.start();
    let mut ledger =
        Ledger::restore(quota::Settings::default(), compile(&configured), owner, begin, []);
    let plan = plan(goal);
    let mut fell = None;
    let mut record: Vec<(Day, Tally, PooledComplaints)> = Vec::new();
    let mut month =
        Month { uses: Vec::new(), levels: vec![(begin, start)], ages: Vec::new(), warm_on: None };
    for number in 0..days {
        let today = FIRST.plus(number);
        let state = plan.state(&record, today);
        month.ages.push(state.age);
        if state.warm && month.warm_on.is_none() {
            month.warm_on = Some(number);
        }
        let caps = state.caps.map(|mut caps| {
            // All demand is at one provider here.
            caps.provider_per_day = None;
            BTreeMap::from([(SourceId(3), caps)])
        });
        let caps = WarmUpCaps { sources: caps.unwrap_or_default() };
        ledger.replace_warm_up(today.start(), Arc::new(caps));
        let mut sent = 0;
        let mut now = today.start();
        while now < today.plus(1).start() {
            let request = TokenRequest {
                path,
                mx_host: "mx.google.com",
                want: 500,
                source_limit: None,
                caps: &[],
            };
            match ledger.ask_tokens(now, &request) {
                TokenAnswer::Granted(lot) => {
                    month.uses.push((now.as_micros(), lot.count.into()));
                    sent += u64::from(lot.count);
                    now = now + Duration::from_secs(20);
                }
                TokenAnswer::Wait(wait) => {
                    now = wait.until.unwrap().max(now + Duration::from_secs(1))
                }
            }
            let _ = ledger.take_journal();
        }
        let excess = sent.saturating_sub(provider.complains_from);
        let deferred = excess.min(sent);
        let tally = Tally { sent: sent - deferred, deferred, ..Tally::default() };
        let pooled = PooledComplaints { complaints: excess / 50, sent: tally.sent };
        record.push((today, tally, pooled));
        let now = today.plus(1).start() + Duration::from_secs(60);
        let level = decisions.over(&configured, now).of("google", SourceId(3)).0;
        let changed = decisions.all().last().map(|one| changed_at(one.at));
        let (source, rule, days) = (SourceId(3), "google", record.as_slice());
        let evidence = LevelEvidence { source, rule, level, changed, fell, days };
        let proposal = propose(&evidence, now);
        if proposal.step == Move::Lower {
            fell = Some((now, proposal.from));
        }
        if proposal.step != Move::Hold {
            let change = LevelChange::set(scope.clone(), proposal.to, None, now);
            decisions.decide(change, "planner", &proposal.why, now).unwrap();
            month.levels.push((now, proposal.to));
            ledger.replace_rules(now, compile(&decisions.over(&configured, now)));
        }
    }
    month
}

/// The most in any span, as the outside judge counts it.
fn densest(uses: &[(u64, u64)], span: u64) -> u64 {
    let (mut most, mut sum, mut oldest) = (0, 0, 0);
    for (at, count) in uses {
        sum += count;
        while uses[oldest].0 + span <= *at {
            sum -= uses[oldest].1;
            oldest += 1;
        }
        most = most.max(sum);
    }
    most
}

#[test]
fn a_month_with_a_provider_that_accepts_ever_more() {
    let month = month(&Provider { complains_from: u64::MAX }, Level::Slow, 20_000, 45);
    // 20,000 a day are allowed at age 12 (1,134 an hour), so the 13 days before it must have counted.
    assert_eq!(month.warm_on, Some(13), "{:?}", month.ages);
    assert!(month.ages.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{:?}", month.ages);
    // Slow would allow 250 an hour; the caps of the first days were tighter, those later wider.
    let day = 86_400_000_000;
    let first = FIRST.start().as_micros();
    let of_day = |number: u64| {
        let in_day = |at: u64| (number * day..(number + 1) * day).contains(&(at - first));
        month.uses.iter().filter(|(at, _)| in_day(*at)).map(|(_, count)| count).sum::<u64>()
    };
    assert!(of_day(0) <= 480 && of_day(0) >= 440, "{}", of_day(0));
    assert!(of_day(1) <= 672 && of_day(1) > of_day(0), "{}", of_day(1));
    let first_day: Vec<_> = month.uses.iter().filter(|(at, _)| at - first < day).copied().collect();
    assert!(densest(&first_day, 3_600_000_000) <= 20);
    // Raised step by step, never twice in 48 hours, and no further than very fast.
    let steps: Vec<Level> = month.levels.iter().map(|(_, level)| *level).collect();
    assert_eq!(steps, [Level::Slow, Level::Normal, Level::Fast, Level::VeryFast]);
    assert!(month.levels.windows(2).skip(1).all(|pair| pair[1].0 - pair[0].0 >= RAISE_PAUSE));
    assert!(densest(&month.uses, 3_600_000_000) <= 10_000);
}

#[test]
fn a_month_with_a_provider_that_complains_above_a_volume() {
    // At Fast, 5,000 an hour, it puts off and complains about what is beyond 100,000 a day.
    let month = month(&Provider { complains_from: 100_000 }, Level::Normal, 20_000, 60);
    let steps: Vec<Level> = month.levels.iter().map(|(_, level)| *level).collect();
    assert_eq!(steps[..3], [Level::Normal, Level::Fast, Level::Normal], "{steps:?}");
    // The fall came at once, on the day after the raise.
    assert_eq!(month.levels[2].0 - month.levels[1].0, Duration::from_secs(86_400));
    assert!(!steps.contains(&Level::VeryFast) && !steps.contains(&Level::Slow), "{steps:?}");
    let raises: Vec<Timestamp> = month
        .levels
        .windows(2)
        .filter(|pair| pair[1].1 > pair[0].1)
        .map(|pair| pair[1].0)
        .collect();
    // What was lost is not asked for again for a fortnight: no swinging to and fro.
    assert!(raises.windows(2).all(|pair| pair[1] - pair[0] >= FALL_MEMORY), "{raises:?}");
    assert!((2..=3).contains(&raises.len()), "{raises:?}");
}
