use jiff::civil::time;
use proptest::prelude::*;

use super::*;

/// Central Europe, without the machine's database.
fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn schedule(hour: i8, minute: i8, place: u16) -> SyncSchedule {
    let at = Some(time(hour, minute, 0, 0));
    SyncSchedule { at, zone: zone(), jitter: Duration::from_secs(1_800), place }
}

fn at(text: &str) -> Timestamp {
    let moment: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_micros(moment.as_microsecond().try_into().unwrap())
}

fn contact(text: &str) -> SyncHistory {
    SyncHistory { last_contact: Some(at(text)), ..SyncHistory::default() }
}

#[test]
fn daily_at_local_time_over_every_change_of_the_clocks() {
    let day = |from: &str, schedule: SyncSchedule| {
        let next = schedule.next(at(from), &contact(from)).unwrap();
        next.to_string()
    };
    for (from, schedule, wanted) in [
        // Winter and summer: 06:00 local is 05:00 and 04:00 UTC.
        ("2026-01-10T12:00:00Z", schedule(6, 0, 0), "2026-01-11T05:00:00Z"),
        ("2026-07-10T12:00:00Z", schedule(6, 0, 0), "2026-07-11T04:00:00Z"),
        // The nights in which clocks change: 23 and 25 hours.
        ("2026-03-28T05:00:00Z", schedule(6, 0, 0), "2026-03-29T04:00:00Z"),
        ("2026-10-24T04:00:00Z", schedule(6, 0, 0), "2026-10-25T05:00:00Z"),
        // A time that does not exist is the one after the gap; one that exists twice is the first.
        ("2026-03-28T12:00:00Z", schedule(2, 30, 0), "2026-03-29T01:30:00Z"),
        ("2026-10-24T12:00:00Z", schedule(2, 30, 0), "2026-10-25T00:30:00Z"),
        ("2026-10-25T00:30:00Z", schedule(2, 30, 0), "2026-10-26T01:30:00Z"),
        // The delay of this client; also over midnight.
        ("2026-01-10T12:00:00Z", schedule(6, 0, 500), "2026-01-11T05:15:00Z"),
        ("2026-01-10T22:50:00Z", schedule(23, 50, 999), "2026-01-10T23:19:58.2Z"),
        ("2026-01-10T23:10:00Z", schedule(23, 50, 999), "2026-01-10T23:19:58.2Z"),
    ] {
        let wanted = at(wanted).to_string();
        assert_eq!(day(from, schedule), wanted, "{from}");
    }
}

#[test]
fn a_down_instance_is_asked_ever_more_rarely_and_daily_at_least() {
    let schedule = schedule(6, 0, 0);
    let start = at("2026-01-10T12:00:00Z");
    let mut history = SyncHistory::default();
    assert_eq!(schedule.next(start, &history), Some(start), "a new client asks at once");
    history.contacted(start);
    // Down for a week, on virtual time.
    let mut now = schedule.next(start, &history).unwrap();
    let first = now;
    let mut asked = Vec::new();
    while now < first + DAY * 7 {
        history.failed(now, None);
        let next = schedule.next(now, &history).unwrap();
        assert!(next > now);
        asked.push((next.since(now).as_secs()) / 60);
        now = next;
    }
    assert_eq!(asked[..11], [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
    assert!(asked.iter().all(|minutes| *minutes <= 360), "{asked:?}");
    assert!(asked.len() < 50, "{}", asked.len());
    // The instance is back: from then on daily.
    history.contacted(now);
    let next = schedule.next(now, &history).unwrap();
    assert!(next.since(now) <= DAY && next.to_string().contains("T05:00:00"), "{next}");
    assert_eq!(history.failures, 0);
}

#[test]
fn the_instance_is_left_alone_as_it_asks_but_not_for_ever() {
    let schedule = schedule(6, 0, 0);
    let now = at("2026-01-10T12:00:00Z");
    for (asked, waits) in [
        (None, 60),
        (Some(10), 60),
        (Some(7_200), 7_200),
        // Beyond the daily moment, and longer than is believed.
        (Some(80_000), 80_000),
        (Some(900_000), 86_400),
        (Some(u64::MAX), 86_400),
    ] {
        let mut history = contact("2026-01-10T05:00:00Z");
        history.failed(now, asked.map(Duration::from_secs));
        let next = schedule.next(now, &history).unwrap();
        assert_eq!(next.since(now).as_secs(), waits, "{asked:?}");
    }
}

#[test]
fn a_clock_that_was_set_does_not_put_a_client_to_sleep() {
    let schedule = schedule(6, 0, 0);
    let now = at("2026-01-10T12:00:00Z");
    let mut failed = SyncHistory::default();
    failed.failed(at("2031-01-01T00:00:00Z"), Some(DAY));
    for (name, history, latest) in [
        ("contact in the future", contact("2031-01-01T00:00:00Z"), Duration::ZERO),
        ("failure in the future", failed, Duration::ZERO),
        ("contact long ago", contact("2020-01-01T00:00:00Z"), Duration::ZERO),
        (
            "the end of time",
            SyncHistory { last_contact: Some(Timestamp::NEVER), ..SyncHistory::default() },
            Duration::ZERO,
        ),
    ] {
        let next = schedule.next(now, &history).unwrap();
        assert!(next <= now + latest, "{name}: {next}");
    }
    // Asked without an answer while the last contact is still to come: with pauses, not without end.
    let mut history = contact("2031-01-01T00:00:00Z");
    history.failed(now, None);
    assert_eq!(schedule.next(now, &history), Some(now + Duration::from_secs(60)));
    let never = SyncSchedule { at: None, ..schedule };
    assert_eq!(never.next(now, &SyncHistory::default()), None);
}

#[test]
fn a_fleet_is_spread_and_each_client_keeps_its_place() {
    let place = |token: &str| SyncSchedule::new(Some(time(6, 0, 0, 0)), zone(), DAY, token).place;
    let mut places: Vec<u16> = (0..200).map(|client| place(&format!("token-{client}"))).collect();
    assert_eq!(places[7], place("token-7"));
    places.sort_unstable();
    places.dedup();
    assert!(places.len() > 150, "{}", places.len());
    // Every quarter of the time has its share.
    for quarter in 0..4 {
        let within = |place: &&u16| (quarter * 250..(quarter + 1) * 250).contains(*place);
        assert!(places.iter().filter(within).count() > 20, "{places:?}");
    }
}

proptest! {
    /// Whatever happened, a client asks within two days and the jitter, and never in a circle without a pause.
    #[test]
    fn the_next_moment_is_never_far(
        now in 0..4_000_000_000_u64,
        contact in proptest::option::of(0..u64::MAX / 2_000_000),
        failure in proptest::option::of(0..u64::MAX / 2_000_000),
        failures in 0..200_u32,
        quiet in proptest::option::of(0..u64::MAX / 2_000_000),
        hour in 0..24_i8,
        place in 0..1_000_u16,
    ) {
        let schedule = schedule(hour, 17, place);
        let now = Timestamp::from_secs(now);
        let history = SyncHistory {
            last_contact: contact.map(Timestamp::from_secs),
            last_failure: failure.map(Timestamp::from_secs),
            failures,
            not_before: quiet.map(Timestamp::from_secs),
        };
        let next = schedule.next(now, &history).unwrap();
        prop_assert!(next <= now + DAY * 2 + schedule.jitter, "{next}");
        // And it comes while the clock goes on, as a client looks at it.
        let looks = (0..=51 * 60).map(|minutes| now + Duration::from_secs(minutes * 60));
        let mut due = looks.filter(|at| schedule.next(*at, &history).unwrap() <= *at);
        prop_assert!(due.next().is_some(), "never asked: {history:?}");
        let mut after = history.clone();
        after.failed(now, None);
        prop_assert!(schedule.next(now, &after).unwrap() > now);
        after.contacted(now);
        prop_assert!(schedule.next(now, &after).unwrap() > now);
    }
}
