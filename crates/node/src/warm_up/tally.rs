//! What became of messages, per source, rule and day: what the planner rests on.
//!
//! **Bounds.** [`DAYS_KEPT`] days; [`ENTRIES_MOST`] entries, beyond which new pairs of source and rule are not
//! counted (the log says so once). Counting is a look-up in a map under a lock that is held for one batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use engine::warm_up::{Day, PooledComplaints, Tally};
use engine::work::{Attempt, Fate, SendMode};
use mail::attempt::{Stage, Verdict};
use mail::failure::Reason;
use mail::id::SourceId;
use mail::time::Timestamp;
use rules::{Level, RuleSet};
use serde::{Deserialize, Serialize};
use store::LedgerRow;

use super::SourceDays;

/// The kind of the rows in the store's table of figures.
pub(crate) const TALLIES: u8 = 4;
/// Days that are kept: level Fast asks for thirty.
pub const DAYS_KEPT: u32 = 45;
/// Entries that are kept: a hundred sources at a hundred providers for a month.
const ENTRIES_MOST: usize = 300_000;
/// The source under which complaints are counted, which name none. No source has this number.
const NO_SOURCE: SourceId = SourceId(0);

/// What is kept of one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct DayCount {
    #[serde(flatten)]
    tally: Tally,
    complaints: u64,
    /// The level under which the last attempt was made; `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<Level>,
    /// What of `tally` happened under the level before it.
    #[serde(skip_serializing_if = "is_nothing")]
    before: Tally,
}

fn is_nothing(tally: &Tally) -> bool {
    *tally == Tally::default()
}

impl DayCount {
    /// Counts what happened under a level; `None`: under one that does not hold any more.
    fn add(&mut self, change: &Tally, level: Option<Level>) {
        if level.is_some_and(|now| self.level.is_some_and(|was| was != now)) {
            self.before = self.tally;
        }
        self.tally.add(change);
        match level {
            Some(_) => self.level = level,
            None => self.before.add(change),
        }
    }
}

type Place = (SourceId, Arc<str>, Day);

#[derive(Debug, Default)]
struct Book {
    counts: BTreeMap<Place, DayCount>,
    changed: BTreeSet<Place>,
    forgotten: Day,
    full: bool,
    /// The version of the rules that counted last, and since when.
    rules: Option<(u64, Timestamp)>,
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct TallyBook {
    book: Mutex<Book>,
}

impl TallyBook {
    /// The counts that the store has.
    pub(crate) fn restore(rows: &[LedgerRow]) -> Self {
        let mut book = Book::default();
        for row in rows {
            // A row of another form counts for nothing: no limit rests on it.
            let Some((source, rule)) = row.key.split_once('/') else { continue };
            let (Ok(source), Ok(day)) = (source.parse(), u32::try_from(row.slot)) else { continue };
            let Ok(count) = serde_json::from_str(&row.extra) else { continue };
            book.counts.insert((SourceId(source), Arc::from(rule), Day(day)), count);
        }
        Self { book: Mutex::new(book) }
    }

    /// Counts what a test says.
    #[cfg(test)]
    pub(super) fn put(&self, source: u32, rule: &str, day: Day, tally: Tally, level: Level) {
        self.with(|book| {
            let place = (SourceId(source), Arc::from(rule), day);
            book.add(place, |count| count.add(&tally, Some(level)));
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts attempts under the rules in force. Dry and test runs, and those that no server gave its word on, count nowhere.
    pub(crate) fn count(
        &self,
        attempts: &[Attempt],
        rules: &RuleSet,
        mode: impl Fn(&Attempt) -> SendMode,
    ) {
        let counted = attempts.iter().filter_map(|attempt| {
            let source = attempt.source?;
            let change = change_of(attempt)?;
            let rule = &attempt.rule;
            let counts = !rule.is_empty() && mode(attempt) == SendMode::Real;
            let place = || (source, Arc::clone(rule), Day::of(attempt.ended_at));
            counts.then(|| (place(), change, attempt.started_at.unwrap_or(attempt.ended_at)))
        });
        let counted: Vec<(Place, Tally, Timestamp)> = counted.collect();
        let Some(last) = attempts.iter().map(|attempt| attempt.ended_at).max() else { return };
        self.with(|book| {
            let since = book.rules_since(rules.version(), last);
            for (place, change, started_at) in counted {
                // An attempt that was on its way when the levels changed was made under the old ones.
                let level = || rules.levels().of(&place.1, place.0).0;
                let level = (started_at >= since).then(level);
                book.add(place, |count| count.add(&change, level));
            }
        });
    }

    /// What of a day's attempts of a source at a rule was made while a level other than this one held.
    pub(crate) fn before(
        &self,
        source: SourceId,
        rule: &Arc<str>,
        day: Day,
        level: Level,
    ) -> Tally {
        self.with(|book| {
            let count = book.counts.get(&(source, Arc::clone(rule), day)).copied();
            count.map_or_else(Tally::default, |count| match count.level {
                Some(last) if last != level => count.tally,
                _ => count.before,
            })
        })
    }

    /// Counts a complaint about mail to the provider of a rule.
    pub(crate) fn complained(&self, rule: &str, day: Day) {
        self.with(|book| {
            book.add((NO_SOURCE, Arc::from(rule), day), |count| count.complaints += 1)
        });
    }

    /// The rows that have changed since the last time.
    pub(crate) fn changed(&self) -> Vec<LedgerRow> {
        self.with(|book| {
            let changed = core::mem::take(&mut book.changed);
            let row = |place: Place| {
                let count = book.counts.get(&place)?;
                let (source, rule, day) = place;
                Some(LedgerRow {
                    kind: TALLIES,
                    key: format!("{}/{rule}", source.0).into(),
                    slot: day.0.into(),
                    value: i64::try_from(count.tally.sent).unwrap_or(i64::MAX),
                    extra: serde_json::to_string(count).unwrap_or_default().into(),
                })
            };
            changed.into_iter().filter_map(row).collect()
        })
    }

    /// These rows could not be stored and are to be handed out again.
    pub(crate) fn not_stored(&self, rows: &[LedgerRow]) {
        self.with(|book| {
            for row in rows {
                let place = row.key.split_once('/').and_then(|(source, rule)| {
                    let day = Day(u32::try_from(row.slot).ok()?);
                    Some((SourceId(source.parse().ok()?), Arc::from(rule), day))
                });
                book.changed.extend(place);
            }
        });
    }

    /// Whether days are to be forgotten: once a day.
    pub(crate) fn is_to_forget(&self, today: Day) -> bool {
        self.with(|book| book.forgotten != Day(today.0.saturating_sub(DAYS_KEPT)))
    }

    /// Forgets days that are too old, once a day; answers the first that stays when it did.
    pub(crate) fn forget_before(&self, today: Day) -> Option<Day> {
        let first = Day(today.0.saturating_sub(DAYS_KEPT));
        self.with(|book| {
            if book.forgotten == first {
                return None;
            }
            book.forgotten = first;
            book.counts.retain(|(.., day), _| *day >= first);
            book.full = false;
            Some(first)
        })
    }

    /// Every source at every rule with mail since a day: all its days there, with the complaints of
    /// that provider over all sources.
    pub(crate) fn pairs(&self, since: Day) -> Vec<(SourceId, Arc<str>, SourceDays)> {
        self.with(|book| {
            let mut pooled: BTreeMap<(&str, Day), PooledComplaints> = BTreeMap::new();
            for ((_, rule, day), count) in &book.counts {
                let of_day = pooled.entry((rule, *day)).or_default();
                of_day.sent += count.tally.sent;
                of_day.complaints += count.complaints;
            }
            let mut pairs: Vec<(SourceId, Arc<str>, SourceDays)> = Vec::new();
            for ((source, rule, day), count) in &book.counts {
                if *source == NO_SOURCE {
                    continue;
                }
                let of_day = pooled.get(&(&**rule, *day)).copied().unwrap_or_default();
                let entry = (*day, count.tally, of_day);
                // Places are in order, so the days of a pair follow one another.
                match pairs.last_mut().filter(|last| last.0 == *source && last.1 == *rule) {
                    Some((.., days)) => days.push(entry),
                    None => pairs.push((*source, Arc::clone(rule), vec![entry])),
                }
            }
            pairs.retain(|(.., days)| days.last().is_some_and(|(day, ..)| *day >= since));
            pairs
        })
    }

    /// The days of a source over all rules, with the complaints of all providers over all sources.
    pub(crate) fn of_source(&self, source: SourceId) -> SourceDays {
        self.with(|book| {
            let mut own: BTreeMap<Day, Tally> = BTreeMap::new();
            let mut pooled: BTreeMap<Day, PooledComplaints> = BTreeMap::new();
            for ((of, _, day), count) in &book.counts {
                let of_day = pooled.entry(*day).or_default();
                of_day.sent += count.tally.sent;
                of_day.complaints += count.complaints;
                if *of == source {
                    own.entry(*day).or_default().add(&count.tally);
                }
            }
            with_complaints(own.into_iter(), &pooled)
        })
    }
}

fn with_complaints(
    days: impl Iterator<Item = (Day, Tally)>,
    pooled: &BTreeMap<Day, PooledComplaints>,
) -> SourceDays {
    days.map(|(day, tally)| (day, tally, pooled.get(&day).copied().unwrap_or_default())).collect()
}

impl Book {
    /// Since when the rules of this version count; `last` is the latest moment that is counted now.
    fn rules_since(&mut self, version: u64, last: Timestamp) -> Timestamp {
        // Nothing is on its way when the program starts.
        let (_, since) = *match self.rules {
            Some((known, _)) if known != version => self.rules.insert((version, last)),
            _ => self.rules.get_or_insert((version, Timestamp::EPOCH)),
        };
        since
    }

    fn add(&mut self, place: Place, change: impl FnOnce(&mut DayCount)) {
        if !self.counts.contains_key(&place) && self.counts.len() >= ENTRIES_MOST {
            if !core::mem::replace(&mut self.full, true) {
                tracing::warn!("the planner counts as many sources and providers as it may");
            }
            return;
        }
        change(self.counts.entry(place.clone()).or_default());
        self.changed.insert(place);
    }
}

/// What an attempt adds; `None`: nothing.
fn change_of(attempt: &Attempt) -> Option<Tally> {
    let mut change = Tally::default();
    match attempt.verdict.as_ref()? {
        Verdict::Sent { .. } => change.sent = 1,
        Verdict::Refused { stage, .. } => {
            if !matches!(stage, Stage::MailFrom | Stage::RcptTo | Stage::Data | Stage::Content) {
                return None;
            }
            let reason = attempt.judgement.as_ref().map(|judgement| judgement.verdict.reason);
            change.blocked = u64::from(reason == Some(Reason::Refused));
            match (reason, attempt.fate) {
                (Some(Reason::UserUnknown), _) => change.unknown_users = 1,
                (_, Fate::Requeued { .. }) => change.deferred = 1,
                (_, Fate::Final(_)) => change.other_failures = 1,
            }
        }
        _ => return None,
    }
    Some(change)
}

#[cfg(test)]
mod tests {
    use engine::warm_up::WarmUpPlan;

    use super::super::WarmUpRecord;
    use super::*;

    fn book() -> TallyBook {
        let book = TallyBook::default();
        let add = |source, rule: &str, day, tally: Tally| {
            book.with(|book| {
                book.add((SourceId(source), Arc::from(rule), Day(day)), |count| {
                    count.tally.add(&tally);
                });
            });
        };
        let sent = |sent| Tally { sent, ..Tally::default() };
        add(1, "google", 100, sent(10));
        add(1, "google", 100, Tally { deferred: 3, ..Tally::default() });
        add(2, "google", 100, sent(30));
        add(1, "yahoo", 101, sent(5));
        book.complained("google", Day(100));
        book
    }

    #[test]
    fn counts_come_back_from_the_store() {
        let first = book();
        let rows = first.changed();
        assert_eq!((rows.len(), first.changed().len()), (4, 0));
        first.not_stored(&rows[..2]);
        assert_eq!(first.changed(), rows[..2]);
        let again = TallyBook::restore(&rows);
        for book in [&first, &again] {
            let tally = Tally { sent: 10, deferred: 3, ..Tally::default() };
            let pooled = PooledComplaints { complaints: 1, sent: 40 };
            let all = book.pairs(Day(0));
            assert_eq!((all.len(), all[0].0, &*all[0].1), (3, SourceId(1), "google"));
            assert_eq!(all[0].2, [(Day(100), tally, pooled)]);
            let of_source = book.of_source(SourceId(1));
            assert_eq!((of_source.len(), of_source[1].1.sent, of_source[1].2.sent), (2, 5, 5));
            let recent = book.pairs(Day(101));
            assert_eq!((recent.len(), &*recent[0].1), (1, "yahoo"));
        }
        // Rows that are none of ours are passed over.
        let mut odd = rows[0].clone();
        odd.key = "nonsense".into();
        assert!(TallyBook::restore(&[odd]).pairs(Day(0)).is_empty());
    }

    /// A day remembers what of it happened under the level before, over restarts too.
    #[test]
    fn what_happened_under_another_level_is_told_apart() {
        let book = TallyBook::default();
        let (source, rule, day) = (SourceId(1), Arc::<str>::from("google"), Day(100));
        let add = |tally: Tally, level: Option<Level>| {
            book.with(|book| {
                book.add((source, Arc::clone(&rule), day), |count| count.add(&tally, level));
            });
        };
        let sent = |sent| Tally { sent, ..Tally::default() };
        let before = |level| {
            let of = |book: &TallyBook| book.before(source, &rule, day, level).sent;
            let rows = book.changed();
            book.not_stored(&rows);
            let stored = TallyBook::restore(&rows);
            assert_eq!(of(&book), of(&stored));
            of(&book)
        };
        add(sent(10), Some(Level::Boost));
        add(sent(20), Some(Level::Boost));
        assert_eq!((before(Level::Boost), before(Level::Fast)), (0, 30));
        // What was on its way when the level changed belongs to the old one.
        add(sent(3), None);
        assert_eq!((before(Level::Boost), before(Level::Fast)), (3, 33));
        add(sent(100), Some(Level::Fast));
        add(sent(2), None);
        assert_eq!((before(Level::Fast), before(Level::Boost)), (35, 135));
        assert_eq!(book.before(source, &rule, Day(101), Level::Fast).sent, 0);
        let mut rules = Book::default();
        let at = Timestamp::from_secs;
        assert_eq!(rules.rules_since(1, at(50)), Timestamp::EPOCH);
        assert_eq!(rules.rules_since(2, at(60)), at(60));
        assert_eq!(rules.rules_since(2, at(70)), at(60));
    }

    #[test]
    fn a_plan_keeps_what_its_forgotten_days_were_worth() {
        let book = TallyBook::default();
        let source = SourceId(1);
        let plan = WarmUpPlan::new(source, Day(100), 20_000);
        let mut record = WarmUpRecord::default();
        record.plans.insert(source, plan);
        for day in 100..300 {
            // Every day until the source is warm, then two days a week.
            if day < 120 || day % 7 < 2 {
                let sent = Tally { sent: 400, ..Tally::default() };
                book.with(|book| {
                    book.add((source, Arc::from("google"), Day(day)), |count| {
                        count.tally.add(&sent);
                    });
                });
            }
            let today = Day(day + 1);
            assert!(book.is_to_forget(today));
            record.settle(&book, today);
            book.forget_before(today);
            assert!(!book.is_to_forget(today));
            let state = record.plans[&source].state(&book.of_source(source), today);
            assert_eq!(state.warm, day >= 112, "day {day}: age {}", state.age);
        }
        assert_eq!(book.pairs(Day(0))[0].2.first().unwrap().0, Day(259));
        assert!(!record.settle(&book, Day(300)), "nothing is settled twice");
    }

    #[test]
    fn old_days_are_forgotten() {
        let book = book();
        assert_eq!(book.forget_before(Day(100 + DAYS_KEPT + 1)), Some(Day(101)));
        assert_eq!(book.forget_before(Day(100 + DAYS_KEPT + 1)), None);
        assert_eq!(book.pairs(Day(0)).len(), 1);
    }
}
