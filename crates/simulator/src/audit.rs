//! The auditor: from the delivery log alone, the most messages that any budget sent in any hour.
//!
//! It is an outside judge of the ledger and shares no code with it. What it knows is the log (one JSON
//! line per attempt) and the rule set, which says over what each rule's limit counts and how high it
//! is. The hour is exact: a window of 3,600 seconds that slides over the start times in microseconds,
//! closed at its beginning and open at its end. Levels that changed and warm-up caps that grew are judged by what
//! held when a message started ([`Past`]); a day is as exact as an hour.
//!
//! Lines come nearly in the order of their start times, because they are written when attempts end.
//! Start times are therefore held back and put in order until they are [`HORIZON`] behind the newest;
//! so memory holds some hours of each budget, however long the log. A line that is later than that
//! cannot be judged any more and is reported.
//!
//! Nothing is passed over in silence: lines that cannot be read, rules that nobody knows and lines out
//! of order are counted, and with any of them [`AuditReport::limits_held`] is false, because then
//! nobody knows. The one exception is a last line without line end: a running node is writing it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;

use mail::id::SourceId;
use mail::time::Timestamp;
use quota::{SourceCaps, WarmUpCaps};
use rules::{RuleSet, Scope};
use serde::{Deserialize, Serialize};

/// Microseconds of the window: 3,600 seconds.
const HOUR: u64 = 3_600_000_000;

/// Microseconds of a day: the window of warm-up caps.
const DAY: u64 = 24 * HOUR;

/// A token is used within the minute in which it was granted: a limit that was lowered calls none back.
const GRACE: u64 = 61_000_000;

/// How far behind the newest line a start time may be, in microseconds. Conversations that take more
/// than four hours from MAIL FROM to their end do not exist: three answers of an hour each are the most
/// that any rule waits for.
pub const HORIZON: u64 = 4 * HOUR;

/// Faulty lines that are listed; the others are only counted.
const LISTED_FAULTS: usize = 20;

/// What of a log line concerns the auditor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When MAIL FROM went out, in microseconds since the Unix epoch.
    pub started_micros: u64,
    /// `public_id` of the source.
    pub source: u32,
    /// The target.
    pub target: IpAddr,
    /// The name of the rule that governed it.
    pub rule: String,
}

/// The fields of a line as they are written.
#[derive(Deserialize)]
struct Written {
    started_at: Option<serde::de::IgnoredAny>,
    started_micros: Option<u64>,
    source: Option<u32>,
    target: Option<IpAddr>,
    rule: Option<String>,
}

impl Entry {
    /// Reads a line of the delivery log. `None`: its attempt never came to MAIL FROM and counts
    /// nowhere.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn read(line: &[u8]) -> Result<Option<Self>, String> {
        let written: Written =
            serde_json::from_slice(line).map_err(|fault| format!("not a log line: {fault}"))?;
        let Some(started_micros) = written.started_micros else {
            return match written.started_at {
                Some(_) => Err("started_at without started_micros".to_owned()),
                None => Ok(None),
            };
        };
        let missing = |field: &str| format!("started_micros without {field}");
        Ok(Some(Self {
            started_micros,
            source: written.source.ok_or_else(|| missing("source"))?,
            target: written.target.ok_or_else(|| missing("target"))?,
            rule: written.rule.ok_or_else(|| missing("rule"))?,
        }))
    }
}

/// The name of a budget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum BudgetName {
    /// A budget of an MX rule: its name and, as far as its scope goes, source and target.
    Rule(String, Option<u32>, Option<IpAddr>),
    /// The cap of a source in the configuration.
    Cap(u32),
    /// The warm-up cap of a source per hour.
    WarmUpHour(u32),
    /// The warm-up cap of a source per day.
    WarmUpDay(u32),
    /// The warm-up cap of a source per day at a rule.
    WarmUpProvider(u32, String),
}

/// Levels and warm-up caps as they were: from each moment, in microseconds, the latest last.
#[derive(Debug, Default)]
pub struct Past {
    /// The rules at the levels of that time. Empty: those given to the auditor, always.
    pub rules: Vec<(u64, RuleSet)>,
    /// The warm-up caps of that time.
    pub warm_up: Vec<(u64, WarmUpCaps)>,
}

/// A limit from each moment on; `None`: no limit.
type Limits = Vec<(u64, Option<u32>)>;

/// The busiest hour of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetAudit {
    /// The rule; for the cap of a source in the configuration `[[source]]`.
    pub rule: String,
    /// `source`, `path` or `rule`; for a cap `cap`.
    pub scope: String,
    /// Which of the rule's budgets: `s1`, `s1>192.0.2.1` or `all`.
    pub key: String,
    /// The limit in force when the window was fullest.
    pub limit_per_hour: u32,
    /// Seconds of the window: 3,600, or 86,400 for warm-up caps of a day, whose limit is per day.
    pub window_seconds: u32,
    /// The most messages in any such window, measured by its limit.
    pub maximum: u64,
    /// The first message of the busiest hour (RFC 3339).
    pub busiest_from: String,
    /// The last message of the busiest hour.
    pub busiest_to: String,
    /// Messages in all.
    pub messages: u64,
    /// Whether the limit was kept.
    pub held: bool,
    /// The first message that passed it (RFC 3339); absent: none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_passed: Option<String>,
    /// Messages that started while the window was fuller than the limit.
    pub over: u64,
}

/// A line that could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultyLine {
    /// The file.
    pub file: String,
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

/// What the auditor found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Whether every limit was kept and every line could be judged.
    pub limits_held: bool,
    /// Lines read.
    pub lines: u64,
    /// Of these, attempts that came to MAIL FROM.
    pub attempts: u64,
    /// Of these, attempts that never did.
    pub not_started: u64,
    /// Lines that could not be read.
    pub malformed: u64,
    /// Lines more than four hours behind their place.
    pub out_of_order: u64,
    /// The first of the malformed lines and of those out of order.
    pub faulty_lines: Vec<FaultyLine>,
    /// Rules that the log names and the rule set does not have, with their attempts.
    pub unknown_rules: BTreeMap<String, u64>,
    /// Budgets over their limit.
    pub excesses: u64,
    /// The budgets: those over their limit first, then by how full they were.
    pub budgets: Vec<BudgetAudit>,
}

/// Start times of one budget on their way through the window.
#[derive(Debug)]
struct Sweep {
    limits: Limits,
    span: u64,
    scope: Option<Scope>,
    messages: u64,
    /// Not yet in order.
    held_back: BinaryHeap<Reverse<u64>>,
    /// In order: the hour up to the newest that was let go.
    window: VecDeque<u64>,
    newest: u64,
    maximum: u64,
    /// The limit at the time of the maximum.
    limit: Option<u32>,
    busiest: (u64, u64),
    /// When the limit was first passed.
    passed_at: Option<u64>,
    over: u64,
}

impl Sweep {
    fn new(limits: Limits, span: u64, scope: Option<Scope>) -> Self {
        Self {
            limits,
            span,
            scope,
            messages: 0,
            held_back: BinaryHeap::new(),
            window: VecDeque::new(),
            newest: 0,
            maximum: 0,
            limit: None,
            busiest: (0, 0),
            passed_at: None,
            over: 0,
        }
    }

    /// The widest limit in force when a message started or its token may have been granted.
    fn limit_at(&self, started: u64) -> Option<u32> {
        let ends = |place: usize| self.limits.get(place + 1).map_or(u64::MAX, |next| next.0);
        let held = self.limits.iter().enumerate().filter(|(place, (from, _))| {
            *from <= started && ends(*place) >= started.saturating_sub(GRACE)
        });
        held.map(|(_, (_, limit))| limit.unwrap_or(u32::MAX)).max().filter(|most| *most < u32::MAX)
    }

    /// Another source counts here too: of two limits the tighter one holds.
    fn tighten(&mut self, other: &Limits) {
        for ((_, limit), (_, other)) in self.limits.iter_mut().zip(other) {
            *limit = (*limit).into_iter().chain(*other).min();
        }
    }

    /// Takes a start time; false when its place has passed.
    fn take(&mut self, started: u64) -> bool {
        if started < self.newest {
            return false;
        }
        self.messages += 1;
        self.held_back.push(Reverse(started));
        true
    }

    /// Lets go everything up to `until`.
    fn release(&mut self, until: u64) {
        while let Some(Reverse(started)) = self.held_back.peek().copied() {
            if started > until {
                return;
            }
            self.held_back.pop();
            self.newest = started;
            self.window.push_back(started);
            while self.window.front().is_some_and(|first| started - first >= self.span) {
                self.window.pop_front();
            }
            let now = self.window.len() as u64;
            let limit = self.limit_at(started);
            if limit.is_some_and(|limit| now > u64::from(limit)) {
                self.passed_at.get_or_insert(started);
                self.over += 1;
            }
            // The fullest window is the one nearest to its own limit, not the largest.
            let fuller = match (limit, self.limit) {
                (Some(limit), Some(most)) => {
                    u128::from(now) * u128::from(most)
                        > u128::from(self.maximum) * u128::from(limit)
                }
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => now > self.maximum,
            };
            if fuller {
                self.maximum = now;
                self.limit = limit;
                self.busiest = (self.window.front().copied().unwrap_or(started), started);
            }
        }
    }
}

/// Reads entries and judges them.
#[derive(Debug)]
pub struct Auditor<'rules> {
    rules: &'rules RuleSet,
    /// Messages per hour of sources that the configuration caps.
    caps: BTreeMap<u32, u32>,
    past: Past,
    sweeps: BTreeMap<BudgetName, Sweep>,
    newest: u64,
    swept_at: u64,
    report: AuditReport,
}

impl<'rules> Auditor<'rules> {
    /// An auditor for these limits; `caps` are the limits of single sources over all rules.
    #[must_use]
    pub fn new(rules: &'rules RuleSet, caps: BTreeMap<u32, u32>) -> Self {
        let (sweeps, report) = (BTreeMap::new(), AuditReport::default());
        let past = Past::default();
        Self { rules, caps, past, sweeps, newest: 0, swept_at: 0, report }
    }

    /// Judges each message by the levels and warm-up caps of its time.
    #[must_use]
    pub fn with_past(mut self, past: Past) -> Self {
        self.past = past;
        self
    }

    /// The hourly limit of a rule for a source, from each moment on.
    fn limits_of(&self, rule: &str, source: u32) -> Option<(Limits, Scope)> {
        let id = self.rules.id_of(rule)?;
        let scope = self.rules.rule(id).scope;
        let at = |set: &RuleSet| {
            let id = set.id_of(rule)?;
            Some(set.limits(id, SourceId(source)).messages_per_hour)
        };
        if self.past.rules.is_empty() {
            return Some((vec![(0, at(self.rules))], scope));
        }
        Some((self.past.rules.iter().map(|(from, set)| (*from, at(set))).collect(), scope))
    }

    /// The sweeps of the warm-up caps in which an attempt counts.
    fn warm_up_of(&self, entry: &Entry) -> Vec<(BudgetName, u64, Limits)> {
        let source = SourceId(entry.source);
        let of = |cap: &dyn Fn(&SourceCaps) -> Option<u32>| -> Limits {
            let caps = self.past.warm_up.iter();
            let limits = caps.map(|(from, caps)| (*from, caps.sources.get(&source).and_then(cap)));
            core::iter::once((0, None)).chain(limits).collect()
        };
        let rule = entry.rule.clone();
        let found = [
            (BudgetName::WarmUpHour(entry.source), HOUR, of(&|caps| caps.per_hour)),
            (BudgetName::WarmUpDay(entry.source), DAY, of(&|caps| caps.per_day)),
            (
                BudgetName::WarmUpProvider(entry.source, rule),
                DAY,
                of(&|caps| caps.line(&entry.rule)),
            ),
        ];
        let ever = |limits: &Limits| limits.iter().any(|(_, limit)| limit.is_some());
        found.into_iter().filter(|(.., limits)| ever(limits)).collect()
    }

    /// A line whose attempt never came to MAIL FROM.
    pub fn not_started(&mut self) {
        self.report.lines += 1;
        self.report.not_started += 1;
    }

    /// A line that could not be read.
    pub fn malformed(&mut self, file: &str, line: u64, why: String) {
        self.report.lines += 1;
        self.report.malformed += 1;
        self.list(file, line, why);
    }

    fn list(&mut self, file: &str, line: u64, why: String) {
        if self.report.faulty_lines.len() < LISTED_FAULTS {
            self.report.faulty_lines.push(FaultyLine { file: file.to_owned(), line, why });
        }
    }

    /// An attempt.
    pub fn attempt(&mut self, file: &str, line: u64, entry: &Entry) {
        self.report.lines += 1;
        self.report.attempts += 1;
        let mut in_order = true;
        if let Some(limit) = self.caps.get(&entry.source) {
            let cap = self.sweeps.entry(BudgetName::Cap(entry.source));
            let new = || Sweep::new(vec![(0, Some(*limit))], HOUR, None);
            in_order &= cap.or_insert_with(new).take(entry.started_micros);
        }
        for (name, span, limits) in self.warm_up_of(entry) {
            let sweep = self.sweeps.entry(name).or_insert_with(|| Sweep::new(limits, span, None));
            in_order &= sweep.take(entry.started_micros);
        }
        if let Some((limits, scope)) = self.limits_of(&entry.rule, entry.source) {
            let (source, target) = match scope {
                Scope::Path => (Some(entry.source), Some(entry.target)),
                Scope::Source => (Some(entry.source), None),
                Scope::Rule => (None, None),
            };
            let name = BudgetName::Rule(entry.rule.clone(), source, target);
            let new = || Sweep::new(limits.clone(), HOUR, Some(scope));
            let sweep = self.sweeps.entry(name).or_insert_with(new);
            // One budget for sources at different levels: the gentlest level holds.
            sweep.tighten(&limits);
            in_order &= sweep.take(entry.started_micros);
        } else {
            *self.report.unknown_rules.entry(entry.rule.clone()).or_default() += 1;
        }
        if !in_order {
            self.report.out_of_order += 1;
            self.list(file, line, "more than four hours behind the lines before it".to_owned());
        }
        self.newest = self.newest.max(entry.started_micros);
        if self.newest - self.swept_at >= HOUR {
            self.swept_at = self.newest;
            for sweep in self.sweeps.values_mut() {
                sweep.release(self.newest.saturating_sub(HORIZON));
            }
        }
    }

    /// The verdict.
    #[must_use]
    pub fn finish(mut self) -> AuditReport {
        let mut budgets: Vec<BudgetAudit> = Vec::with_capacity(self.sweeps.len());
        for (name, mut sweep) in self.sweeps {
            sweep.release(u64::MAX);
            let (rule, scope, key) = match name {
                BudgetName::Cap(source) => {
                    ("[[source]]".to_owned(), "cap", SourceId(source).to_string())
                }
                BudgetName::WarmUpHour(source) => {
                    ("warm-up".to_owned(), "cap", format!("{} an hour", SourceId(source)))
                }
                BudgetName::WarmUpDay(source) => {
                    ("warm-up".to_owned(), "cap", format!("{} a day", SourceId(source)))
                }
                BudgetName::WarmUpProvider(source, rule) => {
                    (format!("warm-up at {rule}"), "cap", format!("{} a day", SourceId(source)))
                }
                BudgetName::Rule(rule, source, target) => {
                    let key = match (source, target) {
                        (Some(source), Some(target)) => format!("{}>{target}", SourceId(source)),
                        (Some(source), None) => SourceId(source).to_string(),
                        _ => "all".to_owned(),
                    };
                    (rule, sweep.scope.map_or("", Scope::word), key)
                }
            };
            budgets.push(BudgetAudit {
                rule,
                scope: scope.to_owned(),
                key,
                limit_per_hour: sweep.limit.unwrap_or(u32::MAX),
                window_seconds: u32::try_from(sweep.span / 1_000_000).unwrap_or(u32::MAX),
                maximum: sweep.maximum,
                busiest_from: Timestamp::from_micros(sweep.busiest.0).to_string(),
                busiest_to: Timestamp::from_micros(sweep.busiest.1).to_string(),
                messages: sweep.messages,
                held: sweep.passed_at.is_none(),
                first_passed: sweep.passed_at.map(|at| Timestamp::from_micros(at).to_string()),
                over: sweep.over,
            });
        }
        budgets.sort_by(|one, other| {
            let fill =
                |budget: &BudgetAudit| budget.maximum as f64 / f64::from(budget.limit_per_hour);
            fill(other)
                .total_cmp(&fill(one))
                .then_with(|| (&one.rule, &one.key).cmp(&(&other.rule, &other.key)))
        });
        let report = &mut self.report;
        report.excesses = budgets.iter().filter(|budget| !budget.held).count() as u64;
        report.limits_held = report.excesses == 0
            && report.malformed == 0
            && report.out_of_order == 0
            && report.unknown_rules.is_empty();
        report.budgets = budgets;
        self.report
    }
}

#[cfg(test)]
mod tests;
