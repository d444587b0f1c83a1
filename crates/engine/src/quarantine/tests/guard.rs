//! The outage guard on the virtual clock.

use core::time::Duration;

use mail::time::Timestamp;

use super::support::*;
use crate::quarantine::*;

/// Outcomes a second apart, "unknown" with this probability in per mille; a generator of our own, so that
/// the test is the same everywhere.
struct Provider {
    guard: OutageGuard,
    now: Timestamp,
    random: u64,
    alerts: Vec<GuardAlert>,
}

impl Provider {
    fn new() -> Self {
        let guard = OutageGuard::new(GuardSettings::default());
        Self { guard, now: START, random: 1, alerts: Vec::new() }
    }

    fn answer(&mut self, count: u32, permille: u64) -> u32 {
        for answered in 1..=count {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let unknown = (self.random >> 33) % 1_000 < permille;
            self.now = self.now + Duration::from_secs(1);
            if let Some(alert) = self.guard.observe("big.example", self.now, unknown) {
                self.alerts.push(alert);
                return answered;
            }
        }
        count
    }

    fn warmed(permille: u64) -> Self {
        let mut provider = Self::new();
        for _ in 0..10 {
            provider.answer(1_000, permille);
            provider.now = provider.now + DAY;
        }
        assert_eq!(provider.alerts, [], "usual for it");
        provider
    }
}

#[test]
fn a_sudden_jump_is_held_until_it_calms_down() {
    for (usual, sudden) in [(5, 300), (20, 500), (80, 700), (100, 1_000)] {
        let mut provider = Provider::warmed(usual);
        provider.answer(10_000, usual);
        let began = provider.now;
        let needed = provider.answer(1_000, sudden);
        assert!(needed <= 200, "{usual} to {sudden} per mille took {needed}");
        let [GuardAlert::Tripped { hold: 1, provider: name, doubted_since, sudden_permille, .. }] =
            &provider.alerts[..]
        else {
            panic!("{:?}", provider.alerts)
        };
        assert_eq!(&**name, "big.example");
        // At most two blocks before the first false reply are doubted with the rest.
        assert!(began.since(*doubted_since) <= Duration::from_secs(100), "{doubted_since}");
        assert!(*sudden_permille >= 200);
        assert_eq!(provider.guard.hold_of("big.example"), Some(1));
        assert_eq!(provider.answer(3_000, sudden), 3_000, "it is told once");
        let calm = provider.answer(1_000, usual);
        assert!(calm <= 250, "calm after {calm}");
        let Some(GuardAlert::CalmedDown { hold: 1, held, .. }) = provider.alerts.last() else {
            panic!("{:?}", provider.alerts)
        };
        assert!(*held >= u64::from(3_000 * sudden as u32 / 1_000 * 9 / 10), "{held}");
        assert_eq!(provider.guard.hold_of("big.example"), None);
        provider.answer(5_000, usual);
        assert_eq!(provider.alerts.len(), 2);
        let usual_at = |alert: &GuardAlert| match alert {
            GuardAlert::Tripped { usual_permille, .. } => *usual_permille,
            GuardAlert::CalmedDown { .. } => panic!("{alert:?}"),
        };
        provider.answer(1_000, sudden);
        let (first, second) = (usual_at(&provider.alerts[0]), usual_at(&provider.alerts[2]));
        assert!(first.abs_diff(second) <= 12, "an outage is no part of what is usual: {second}");
    }
}

#[test]
fn a_provider_with_many_unknown_users_is_not_ill() {
    for permille in [0, 10, 50, 100, 150, 300] {
        let mut provider = Provider::warmed(permille);
        provider.answer(20_000, permille);
        assert_eq!(provider.alerts, [], "{permille}");
    }
}

#[test]
fn without_history_nothing_is_sudden() {
    let mut provider = Provider::new();
    provider.answer(400, 800);
    assert_eq!(provider.alerts, []);
    let settings = GuardSettings { enabled: false, ..GuardSettings::default() };
    let mut provider = Provider { guard: OutageGuard::new(settings), ..Provider::warmed(10) };
    provider.answer(2_000, 10);
    provider.answer(2_000, 900);
    assert_eq!(provider.alerts, []);
}

#[test]
fn a_person_ends_a_hold() {
    for confirmed in [true, false] {
        let mut provider = Provider::warmed(10);
        provider.answer(1_000, 600);
        assert!(provider.guard.end(1, confirmed));
        assert!(!provider.guard.end(1, confirmed), "once");
        provider.answer(1_000, 600);
        // What a person confirmed is not sudden any more; what was dismissed goes on being false.
        assert_eq!(provider.alerts.len(), if confirmed { 1 } else { 2 });
        let expected = if confirmed { None } else { Some(2) };
        assert_eq!(provider.guard.hold_of("big.example"), expected);
    }
}

#[test]
fn a_restart_forgets_neither_history_nor_holds() {
    let mut provider = Provider::warmed(10);
    provider.answer(1_000, 10);
    let days = provider.guard.changed_days();
    assert!(provider.guard.changed_days().is_empty(), "told once");
    let total: u32 = days.iter().map(|day| day.total).sum();
    assert!(days.len() <= 2 && total >= 1_000, "{days:?}");
    let mut again = OutageGuard::new(GuardSettings::default());
    again.restore(days, [(7, "ill.example".into())], 9);
    assert_eq!(again.hold_of("ill.example"), Some(7));
    provider.guard = again;
    provider.answer(1_000, 600);
    let Some(GuardAlert::Tripped { hold, .. }) = provider.alerts.first() else { panic!() };
    assert_eq!(*hold, 10, "no number is used twice");
}

#[test]
fn the_memory_is_bounded_and_holds_stay_in_it() {
    let settings = GuardSettings { providers: 100, ..GuardSettings::default() };
    let mut guard = OutageGuard::new(settings);
    guard.restore([], [(1, "ill.example".into())], 1);
    for number in 0..10_000_u64 {
        let at = START + Duration::from_secs(number);
        guard.observe(&format!("p{number}.example"), at, false);
        assert!(guard.providers() <= 100);
    }
    assert_eq!(guard.hold_of("ill.example"), Some(1));
    assert!(guard.providers() >= 50, "not more is forgotten than needed");
}
