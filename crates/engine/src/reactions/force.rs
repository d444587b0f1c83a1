//! One reaction in force: what it is about, what it allows at any moment, and when it ends.
//!
//! What a reaction allows follows from what is kept of it and the time alone, so that nothing has to
//! be written down at the steps of its recovery, and a restart goes on where it was.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use mail::id::{DeliveryId, SourceId};
use mail::mask::Mask;
use mail::time::Timestamp;
use rules::reaction::{Effect, RateCut, ReactionScope, Recovery};
use serde::{Deserialize, Serialize};

/// Changes by people that are kept of one reaction.
const CHANGES_MAX: usize = 16;

/// What a reaction is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "scope")]
pub enum About {
    /// One source at one target.
    Path {
        /// Our side.
        source: SourceId,
        /// Their side.
        target: IpAddr,
    },
    /// One source at the MX hosts that these masks match.
    SourceAtProvider {
        /// Our side.
        source: SourceId,
        /// Masks of MX hosts.
        hosts: Vec<String>,
    },
    /// One delivery.
    Delivery {
        /// Which.
        delivery: DeliveryId,
    },
    /// One source, wherever it sends.
    Source {
        /// Which.
        source: SourceId,
    },
}

impl About {
    /// Its scope.
    #[must_use]
    pub const fn scope(&self) -> ReactionScope {
        match self {
            Self::Path { .. } => ReactionScope::Path,
            Self::SourceAtProvider { .. } => ReactionScope::SourceAtProvider,
            Self::Delivery { .. } => ReactionScope::Delivery,
            Self::Source { .. } => ReactionScope::Source,
        }
    }

    /// Whether a connection from `source` to `target`, whose MX host is `mx_host`, is meant.
    #[must_use]
    pub fn is_about(&self, source: SourceId, target: IpAddr, mx_host: &str) -> bool {
        match self {
            Self::Path { source: one, target: at } => *one == source && *at == target,
            Self::SourceAtProvider { source: one, hosts } => {
                *one == source && hosts.iter().any(|mask| Mask::new(mask).matches(mx_host))
            }
            Self::Source { source: one } => *one == source,
            Self::Delivery { .. } => false,
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { source, target } => write!(out, "source {source} to {target}"),
            Self::SourceAtProvider { source, hosts } => {
                write!(out, "source {source} at {}", hosts.join(", "))
            }
            Self::Delivery { delivery } => write!(out, "delivery {delivery}"),
            Self::Source { source } => write!(out, "source {source}"),
        }
    }
}

/// The figures of the MX rule to which a reaction recovers, as they were when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullFigures {
    /// Messages per hour.
    pub messages_per_hour: u32,
    /// Connections at the same time.
    pub connections: u32,
    /// Connections begun in an hour; the same as messages where the rule has none.
    pub connections_per_hour: u32,
}

/// A change by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionChange {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// What was done: `lifted`, `prolonged until ...`.
    pub what: String,
}

/// A reaction in force, or one that has ended. All that is kept of it, also over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reaction {
    /// Its number; shown as `R7`.
    pub id: u64,
    /// The rule that demanded it.
    pub rule: String,
    /// The version of the rules.
    pub version: String,
    /// What it is about.
    pub about: About,
    /// What it does.
    pub effect: Effect,
    /// When it began.
    pub began: Timestamp,
    /// It holds in full until then; afterwards it recovers.
    pub until: Timestamp,
    /// How.
    pub recovery: Recovery,
    /// Where it recovers to.
    pub full: FullFigures,
    /// The figures of the lower level, where it demands one.
    pub lower: Option<FullFigures>,
    /// Messages an hour that the provider took when it refused, where the rate was cut to a share of them.
    pub refused_at: Option<u32>,
    /// How often its rule demanded it.
    pub times: u32,
    /// The reply that demanded it last, escaped.
    pub heard: String,
    /// Who said it.
    pub mx_host: String,
    /// What people changed, the oldest first.
    pub changes: Vec<ReactionChange>,
    /// When it ended; `None`: it is in force.
    pub ended: Option<Timestamp>,
}

/// What a reaction allows at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Nothing may be sent.
    pub suspended: bool,
    /// Messages an hour, evenly spread; `None`: as many as the MX rule gives.
    pub messages_per_hour: Option<u32>,
    /// Connections at the same time.
    pub connections: Option<u32>,
    /// Connections begun in an hour, evenly spread.
    pub connections_per_hour: Option<u32>,
}

impl Reaction {
    /// What it allows at `now`.
    #[must_use]
    pub fn allowed(&self, now: Timestamp) -> Allowed {
        if self.ended.is_some() {
            return Allowed::default();
        }
        // A step is taken at once when the full time is over, or there would be a step of nothing.
        let step = (now >= self.until).then(|| self.step(now) + 1);
        if self.effect.suspend && step.is_none() {
            return Allowed { suspended: true, ..Allowed::default() };
        }
        let lower = self.lower.as_ref();
        let least = |one: Option<u32>, other: Option<u32>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let rises =
            |floor: Option<u32>, full: u32| floor.map(|floor| self.risen(floor, full, step));
        let fixed_rate = match self.effect.rate {
            Some(RateCut::PerHour(figure)) => Some(figure),
            Some(RateCut::Percent(_)) => None,
            // After a suspension the first step begins at nothing.
            None => self.effect.suspend.then_some(0),
        };
        let fixed_rate = least(fixed_rate, lower.map(|figures| figures.messages_per_hour));
        let connections = least(self.effect.connections, lower.map(|figures| figures.connections));
        Allowed {
            suspended: false,
            messages_per_hour: least(
                rises(fixed_rate, self.full.messages_per_hour),
                self.share_at(step),
            ),
            connections: rises(connections, self.full.connections),
            connections_per_hour: rises(
                self.effect.connections_per_hour,
                self.full.connections_per_hour,
            ),
        }
    }

    /// Steps that are complete at `now`.
    fn step(&self, now: Timestamp) -> u32 {
        let every = self.recovery.every.as_micros().max(1);
        let passed = now.since(self.until).as_micros() / every;
        u32::try_from(passed).unwrap_or(u32::MAX - 1)
    }

    /// A fixed figure at a step: the same more at each, the full figure behind the last.
    fn risen(&self, floor: u32, full: u32, step: Option<u32>) -> u32 {
        let Some(step) = step else { return floor.max(1) };
        let steps = u64::from(self.recovery.steps) + 1;
        let gap = u64::from(full.saturating_sub(floor));
        let more = gap * u64::from(step).min(steps) / steps;
        u32::try_from(u64::from(floor) + more).unwrap_or(u32::MAX).max(1)
    }

    /// A rate that was cut to a share of what was taken: the steps lead back to where it was refused; beyond that each
    /// is twice the one before, for nothing speaks against it any more.
    fn share_at(&self, step: Option<u32>) -> Option<u32> {
        let Some(RateCut::Percent(percent)) = self.effect.rate else { return None };
        let refused = u64::from(self.refused_at?);
        let start = (refused * u64::from(percent) / 100).max(1);
        let Some(step) = step else { return u32::try_from(start).ok() };
        let steps = self.recovery.steps;
        let gap = refused.saturating_sub(start);
        let rate = if step <= steps {
            start + gap * u64::from(step) / u64::from(steps.max(1))
        } else {
            let one = (gap / u64::from(steps.max(1))).max(1);
            let doublings = (step - steps).min(40);
            refused.saturating_add(one.saturating_mul((2 << doublings) - 2))
        };
        Some(u32::try_from(rate).unwrap_or(u32::MAX))
    }

    /// When it ends if nothing else happens.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        if let Some(ended) = self.ended {
            return ended;
        }
        if !self.effect.lasts() {
            return self.until;
        }
        let mut steps = self.recovery.steps;
        if matches!(self.effect.rate, Some(RateCut::Percent(_))) {
            let full = self.full.messages_per_hour;
            // The doublings reach every figure within forty steps.
            while self.share_at(Some(steps + 1)).is_some_and(|rate| rate < full)
                && steps < self.recovery.steps + 40
            {
                steps += 1;
            }
        }
        self.until + self.recovery.every * steps
    }

    /// When what it allows changes next.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Timestamp {
        let ends = self.ends_at();
        if now < self.until {
            return self.until;
        }
        let next = self.until + self.recovery.every * (self.step(now) + 1);
        next.min(ends).max(now + Duration::from_millis(1))
    }

    /// Its name in answers: `R7 google-rate@2026-11-21`.
    #[must_use]
    pub fn cited(&self) -> String {
        format!("R{} {}@{}", self.id, self.rule, self.version)
    }

    /// Notes a change by a person.
    pub(super) fn note(&mut self, change: ReactionChange) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.remove(0);
        }
        self.changes.push(change);
    }
}

/// Spreads messages, or connections, evenly over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gate {
    /// The next may pass then.
    next: Timestamp,
}

/// What a gate may be behind and still catch up: timers are not exact.
const CATCH_UP: Duration = Duration::from_millis(200);

impl Gate {
    /// When the next may pass, if not at `now`.
    pub(super) fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        (self.next > now).then_some(self.next)
    }

    /// One passes, at a rate of `per_hour`.
    pub(super) fn pass(&mut self, now: Timestamp, per_hour: u32) {
        let interval = Duration::from_micros(3_600_000_000 / u64::from(per_hour.max(1)));
        self.next = self.next.max(now.saturating_sub(CATCH_UP)) + interval;
    }

    /// No later than one interval of `per_hour` from now: the rate has risen.
    pub(super) fn risen(&mut self, now: Timestamp, per_hour: u32) {
        let interval = Duration::from_micros(3_600_000_000 / u64::from(per_hour.max(1)));
        self.next = self.next.min(now + interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaction(effect: Effect, lasts: u64, recovery: (u32, u64)) -> Reaction {
        let began = Timestamp::from_secs(1_000_000);
        Reaction {
            id: 1,
            rule: "r".into(),
            version: "v".into(),
            about: About::Source { source: SourceId(1) },
            effect,
            began,
            until: began + Duration::from_secs(lasts),
            recovery: Recovery { steps: recovery.0, every: Duration::from_secs(recovery.1) },
            full: FullFigures {
                messages_per_hour: 11_000,
                connections: 10,
                connections_per_hour: 6_000,
            },
            lower: None,
            refused_at: None,
            times: 1,
            heard: String::new(),
            mx_host: String::new(),
            changes: Vec::new(),
            ended: None,
        }
    }

    /// What is allowed at each of these seconds after the beginning.
    fn rates(one: &Reaction, seconds: &[u64]) -> Vec<Option<u32>> {
        let at = |after: &u64| one.allowed(one.began + Duration::from_secs(*after));
        seconds.iter().map(|after| at(after).messages_per_hour).collect()
    }

    #[test]
    fn a_suspension_recovers_in_equal_steps() {
        let one = reaction(Effect { suspend: true, ..Effect::default() }, 100, (10, 10));
        assert!(one.allowed(one.until.saturating_sub(Duration::from_secs(1))).suspended);
        assert_eq!(
            rates(&one, &[100, 110, 190, 200]),
            [Some(1_000), Some(2_000), Some(10_000), Some(11_000)]
        );
        assert_eq!(one.ends_at() - one.began, Duration::from_secs(200));
        assert_eq!(one.next_change(one.began), one.until);
        assert_eq!(one.next_change(one.until), one.until + Duration::from_secs(10));
    }

    #[test]
    fn a_fixed_rate_and_connections_recover_in_equal_steps() {
        let effect =
            Effect { rate: Some(RateCut::PerHour(600)), connections: Some(1), ..Effect::default() };
        let one = reaction(effect, 60, (9, 60));
        assert_eq!(
            rates(&one, &[0, 59, 60, 119, 120]),
            [Some(600), Some(600), Some(1_640), Some(1_640), Some(2_680)]
        );
        let connections = |after| one.allowed(one.began + Duration::from_secs(after)).connections;
        assert_eq!(
            (connections(0), connections(60), connections(540)),
            (Some(1), Some(1), Some(9))
        );
    }

    #[test]
    fn a_share_goes_back_to_where_it_was_refused_and_then_doubles_its_steps() {
        let effect = Effect { rate: Some(RateCut::Percent(90)), ..Effect::default() };
        let mut one = reaction(effect, 60, (10, 60));
        one.refused_at = Some(3_600);
        assert_eq!(
            rates(&one, &[0, 60, 120, 600, 660, 720, 780]),
            [
                Some(3_240),
                Some(3_276),
                Some(3_312),
                Some(3_600),
                Some(3_672),
                Some(3_816),
                Some(4_104)
            ]
        );
        // 3,600 + 36 (2^n - 2) passes 11,000 at n = 6, with (2^7 - 2).
        assert_eq!(one.ends_at() - one.until, Duration::from_secs(60 * 16));
        let before = one.ends_at().saturating_sub(Duration::from_secs(1));
        assert!(one.allowed(before).messages_per_hour < Some(11_000));
    }

    #[test]
    fn a_gate_lets_through_what_it_says() {
        let mut gate = Gate::default();
        let mut now = Timestamp::from_secs(1_000_000);
        let end = now + Duration::from_secs(3_600);
        let mut passed = 0;
        while now < end {
            match gate.closed_until(now) {
                None => {
                    gate.pass(now, 600);
                    passed += 1;
                }
                Some(until) => now = until,
            }
        }
        assert!((600..=602).contains(&passed), "{passed}");
        gate.pass(now, 1);
        gate.risen(now, 3_600);
        assert!(gate.closed_until(now).unwrap() <= now + Duration::from_secs(1));
    }

    #[test]
    fn masks_decide_where_a_provider_is() {
        let hosts = vec!["*.yahoodns.net".to_owned()];
        let about = About::SourceAtProvider { source: SourceId(2), hosts };
        let target = IpAddr::from([192, 0, 2, 1]);
        assert!(about.is_about(SourceId(2), target, "mta5.am0.YAHOODNS.net"));
        assert!(!about.is_about(SourceId(1), target, "mta5.am0.yahoodns.net"));
        assert!(!about.is_about(SourceId(2), target, "mx.example"));
    }
}
