//! The plan of one source: caps by its age in sending days.

use std::collections::BTreeMap;

use mail::id::SourceId;
use quota::SourceCaps;
use serde::{Deserialize, Serialize};

use super::evidence::{Day, GuardVerdict, Guards, PooledComplaints, Tally};

/// Rackspace takes fewer than 100 messages a day from an address that it does not know.
const RACKSPACE: (&str, u32) = ("rackspace", 99);
/// Days of a schedule that are reckoned, at most.
const SCHEDULE_MOST: u32 = 400;
/// Pauses that are remembered.
const PAUSES_MOST: usize = 100;
/// Days by which a breached guard makes a source younger: about one level, 1.4² = 1.96.
const FALL_DAYS: u32 = 2;

/// How a source is warmed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUpPlan {
    /// The source.
    pub source: SourceId,
    /// Its first day. The caps of that day hold before it too.
    pub start: Day,
    /// Messages a day at which the source is warm.
    pub goal_per_day: u32,
    /// Messages in any hour of the first day; a day has 24 times as many.
    pub first_per_hour: u32,
    /// How the caps grow with each day that counts, in percent: 140 is 1.4 times.
    pub growth_percent: u32,
    /// The most of a day's cap that one provider takes, in percent.
    pub provider_percent: u32,
    /// Caps per day at single providers, by the name of the rule, until the source is warm.
    pub providers: BTreeMap<String, u32>,
    /// After so many days without mail the source is as new.
    pub rewarm_after_days: u32,
    /// Days from, and before, which no day counts. The last may have no end.
    pub pauses: Vec<(Day, Option<Day>)>,
    /// What the days were worth whose counts are not kept any more.
    #[serde(default, skip_serializing_if = "PastDays::is_none")]
    pub past: PastDays,
}

/// What days were worth whose counts are not kept any more: see [`WarmUpPlan::settle`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PastDays {
    /// The days before this one.
    pub before: Day,
    /// The age after them.
    pub age: u32,
    /// The last of them that had mail.
    pub last_mail: Option<Day>,
}

impl PastDays {
    /// Whether no day is settled.
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A figure out of its range.
    #[error("{what} is {least} to {most}, not {value}")]
    Range {
        /// Which.
        what: &'static str,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
        /// What was stated.
        value: u32,
    },
    /// The goal lies beyond the horizon.
    #[error("at this growth the volume is not reached in {SCHEDULE_MOST} days")]
    TooSlow,
    /// Too many providers or pauses.
    #[error("a plan has at most {0} {1}")]
    TooMany(usize, &'static str),
}

/// A day of a schedule, as if every day counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduledDay {
    /// The day.
    pub day: Day,
    /// Sending days before it.
    pub age: u32,
    /// The caps; `None`: the source is warm.
    pub caps: Option<SourceCaps>,
    /// Whether the caps allow the goal.
    pub reaches_goal: bool,
}

/// What a past day did to the age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DayNote {
    /// The day.
    pub day: Day,
    /// The age after it.
    pub age: u32,
    /// What happened.
    pub tally: Tally,
    /// Why it counted or not.
    pub why: String,
}

/// Where a plan stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WarmUpState {
    /// Today.
    pub today: Day,
    /// Sending days that count.
    pub age: u32,
    /// Whether the source is warm: no caps.
    pub warm: bool,
    /// Whether no day counts for now.
    pub paused: bool,
    /// The caps in force; `None`: warm.
    pub caps: Option<SourceCaps>,
    /// The day on which the goal is reached if every day from today counts; `None`: it is.
    pub reached_on: Option<Day>,
    /// The last days that had mail, oldest first.
    pub days: Vec<DayNote>,
}

impl WarmUpPlan {
    /// The usual plan: 20 an hour, times 1.4 a day, half at one provider, fewer than 100 a day at Rackspace, as new
    /// after 30 days of silence.
    #[must_use]
    pub fn new(source: SourceId, start: Day, goal_per_day: u32) -> Self {
        Self {
            source,
            start,
            goal_per_day,
            first_per_hour: 20,
            growth_percent: 140,
            provider_percent: 50,
            providers: BTreeMap::from([(RACKSPACE.0.to_owned(), RACKSPACE.1)]),
            rewarm_after_days: 30,
            pauses: Vec::new(),
            past: PastDays::default(),
        }
    }

    /// Whether every plan has this cap unless somebody says otherwise. Its provider may have no rule of that name.
    #[must_use]
    pub fn is_usual_cap(rule: &str, cap: u32) -> bool {
        (rule, cap) == RACKSPACE
    }

    /// Checks the figures.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn check(&self) -> Result<(), PlanFault> {
        for (what, value, least, most) in [
            ("the volume per day", self.goal_per_day, 1, 1_000_000_000),
            ("the first hour", self.first_per_hour, 1, 1_000_000),
            ("the growth in percent", self.growth_percent, 101, 300),
            ("the share of a provider in percent", self.provider_percent, 1, 100),
            ("the days of silence", self.rewarm_after_days, 1, 365),
        ] {
            if !(least..=most).contains(&value) {
                return Err(PlanFault::Range { what, least, most, value });
            }
        }
        if self.providers.len() > 1_000 {
            return Err(PlanFault::TooMany(1_000, "providers"));
        }
        if self.pauses.len() > PAUSES_MOST {
            return Err(PlanFault::TooMany(PAUSES_MOST, "pauses"));
        }
        if self.goal_age() >= SCHEDULE_MOST {
            return Err(PlanFault::TooSlow);
        }
        Ok(())
    }

    /// Messages in any hour at an age, rounded to the nearest.
    #[must_use]
    pub fn per_hour(&self, age: u32) -> u32 {
        // In millionths, so that days of 1.4 do not lose their fractions.
        const UNIT: u128 = 1_000_000;
        let top = u128::from(u32::MAX) * UNIT;
        let mut figure = u128::from(self.first_per_hour) * UNIT;
        for _ in 0..age.min(SCHEDULE_MOST) {
            figure = (figure * u128::from(self.growth_percent) / 100).min(top);
        }
        u32::try_from((figure + UNIT / 2) / UNIT).unwrap_or(u32::MAX)
    }

    /// Messages in any day at an age.
    #[must_use]
    pub fn per_day(&self, age: u32) -> u32 {
        self.per_hour(age).saturating_mul(24)
    }

    /// The first age whose cap allows the goal; `SCHEDULE_MOST` when none does.
    fn goal_age(&self) -> u32 {
        (0..SCHEDULE_MOST)
            .find(|age| self.per_day(*age) >= self.goal_per_day)
            .unwrap_or(SCHEDULE_MOST)
    }

    /// The caps at an age; `None` after the day that allowed the goal: the source is warm.
    #[must_use]
    pub fn caps(&self, age: u32) -> Option<SourceCaps> {
        if age > self.goal_age() {
            return None;
        }
        let per_day = self.per_day(age);
        let share = u64::from(per_day) * u64::from(self.provider_percent) / 100;
        Some(SourceCaps {
            per_hour: Some(self.per_hour(age)),
            per_day: Some(per_day),
            provider_per_day: Some(u32::try_from(share).unwrap_or(u32::MAX).max(1)),
            providers: self.providers.clone(),
        })
    }

    /// The days up to the first one without caps, if every day counts.
    #[must_use]
    pub fn schedule(&self) -> Vec<ScheduledDay> {
        let goal = self.goal_age();
        let day = |age: u32| ScheduledDay {
            day: self.start.plus(age),
            age,
            caps: self.caps(age),
            reaches_goal: age >= goal,
        };
        (0..=(goal + 1).min(SCHEDULE_MOST)).map(day).collect()
    }

    /// Whether no day counts on this one.
    #[must_use]
    pub fn is_paused_on(&self, day: Day) -> bool {
        self.pauses.iter().any(|(from, to)| *from <= day && to.is_none_or(|to| day < to))
    }

    /// From this day on no day counts; nothing happens where the plan is paused.
    pub fn pause(&mut self, today: Day) {
        if !self.is_paused_on(today) {
            if self.pauses.len() >= PAUSES_MOST {
                self.pauses.remove(0);
            }
            self.pauses.push((today, None));
        }
    }

    /// From this day on days count again.
    pub fn resume(&mut self, today: Day) {
        for (_, to) in &mut self.pauses {
            to.get_or_insert(today);
        }
    }

    /// Takes what the days before `before` were worth into the plan, so that their counts can be forgotten: the age of a
    /// source rests on all its days, its counts are kept for some. Answers whether the plan has changed.
    pub fn settle(&mut self, history: &[(Day, Tally, PooledComplaints)], before: Day) -> bool {
        let (past, _) = self.walk(history, before);
        let changed = past != self.past;
        self.past = past;
        changed
    }

    /// Goes over the days that are not settled and lie before `to`.
    fn walk(
        &self,
        history: &[(Day, Tally, PooledComplaints)],
        to: Day,
    ) -> (PastDays, Vec<DayNote>) {
        let goal = self.goal_age();
        let PastDays { mut before, mut age, last_mail: mut last } = self.past;
        let mut days = Vec::new();
        let first = before.max(self.start);
        let of_plan = history.iter().filter(|(day, ..)| (first..to).contains(day));
        for (day, tally, complaints) in of_plan {
            if tally.attempts() == 0 {
                continue;
            }
            let silent = last.is_some_and(|last| day.since(last) > self.rewarm_after_days);
            if silent {
                age = 0;
            }
            last = Some(*day);
            before = day.plus(1);
            let readings = Guards::WARM_UP.read(tally, complaints);
            let breached = readings.iter().find(|one| one.verdict == GuardVerdict::Breached);
            let reached = readings.iter().find(|one| one.reached());
            let mut why = match (breached, reached) {
                (Some(guard), _) => {
                    age = age.saturating_sub(FALL_DAYS);
                    format!("back by {FALL_DAYS} days: {guard}")
                }
                _ if self.is_paused_on(*day) => "paused: does not count".to_owned(),
                (None, Some(guard)) => format!("does not count: {guard}"),
                (None, None) if tally.sent == 0 => "does not count: nothing was taken".to_owned(),
                (None, None) => {
                    age = (age + 1).min(goal + 1);
                    "counts".to_owned()
                }
            };
            if silent {
                why = format!("as new after {} days of silence; {why}", self.rewarm_after_days);
            }
            days.push(DayNote { day: *day, age, tally: *tally, why });
        }
        (PastDays { before, age, last_mail: last }, days)
    }

    /// Where the plan stands on `today`, after these days. `history` is what the source did each day over all providers, rising
    /// by day, with the complaints of that day; days before the start, days that are settled, and those from `today` on do not count.
    #[must_use]
    pub fn state(&self, history: &[(Day, Tally, PooledComplaints)], today: Day) -> WarmUpState {
        let goal = self.goal_age();
        let (past, mut days) = self.walk(history, today);
        let silent = past.last_mail.is_some_and(|last| today.since(last) > self.rewarm_after_days);
        let age = if silent { 0 } else { past.age };
        let caps = self.caps(age);
        let first = today.max(self.start);
        let reached_on = (age <= goal && caps.is_some()).then(|| first.plus(goal - age));
        if days.len() > 30 {
            days.drain(..days.len() - 30);
        }
        WarmUpState {
            today,
            age,
            warm: caps.is_none(),
            paused: self.is_paused_on(today),
            caps,
            reached_on,
            days,
        }
    }
}
