//! What arrived: counts of messages that nothing tells apart.
//!
//! **Invariants.** Whatever is recorded, memory is bounded: rows beyond their maximum make the grain of the arrival times
//! coarser (always later, never earlier), answers and scripts beyond theirs become plain ones; [`Demand::bounds`] tells how
//! far that went.

use std::collections::HashMap;

use mail::attempt::Stage;
use mail::id::DeliveryId;
use mail::reply::Reply;
use mail::time::Timestamp;
use rules::bounce::{Key, normalise};

use super::Answer;

/// Rows that are kept.
const ROWS_MAX: usize = 500_000;
/// Answers that are kept apart.
const ANSWERS_MAX: usize = 4_096;
/// Courses of conversations that are kept apart.
const SCRIPTS_MAX: usize = 65_536;
/// Grains of arrival times, in microseconds.
const GRAINS: [u64; 7] =
    [1_000, 1_000_000, 10_000_000, 60_000_000, 300_000_000, 3_600_000_000, 86_400_000_000];

/// Messages that nothing tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemandRow {
    /// Number of the recipient domain.
    pub domain: u32,
    /// Their delivery.
    pub delivery: DeliveryId,
    /// From when on they might go.
    pub arrived_at: Timestamp,
    /// Attempts that counted before.
    pub attempts: u16,
    /// What exchangers will say of them.
    pub script: u32,
    /// How many.
    pub count: u32,
}

/// How far the bounds were felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemandBounds {
    /// Arrival times are rounded up to a multiple of so many microseconds.
    pub grain_micros: u64,
    /// Answers, or courses of conversations, that were made plain.
    pub simplified: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RowKey {
    domain: u32,
    script: u32,
    delivery: u64,
    arrived_micros: u64,
    attempts: u16,
}

/// What arrived in a window.
pub struct Demand {
    names: Vec<Box<str>>,
    by_name: HashMap<Box<str>, u32>,
    answers: Vec<Answer>,
    by_answer: HashMap<(u8, Stage, Key), u16>,
    scripts: Vec<Box<[u16]>>,
    by_script: HashMap<Box<[u16]>, u32>,
    rows: HashMap<RowKey, u32>,
    rows_max: usize,
    grain: usize,
    simplified: u64,
}

impl core::fmt::Debug for Demand {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "Demand({} rows)", self.rows.len())
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self::with_rows(ROWS_MAX)
    }
}

impl Demand {
    /// Nothing yet; at most so many rows will be kept.
    pub(super) fn with_rows(rows_max: usize) -> Self {
        Self {
            names: Vec::new(),
            by_name: HashMap::new(),
            answers: vec![Answer::Taken],
            by_answer: HashMap::new(),
            scripts: Vec::new(),
            by_script: HashMap::new(),
            rows: HashMap::new(),
            rows_max,
            grain: 0,
            simplified: 0,
        }
    }

    /// The number of a recipient domain.
    pub fn domain(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.into());
        self.by_name.insert(name.into(), number);
        number
    }

    /// How many domains there are.
    #[must_use]
    pub fn domains(&self) -> usize {
        self.names.len()
    }

    /// Whether a domain is known.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The name of a domain.
    #[must_use]
    pub fn name(&self, domain: u32) -> &str {
        self.names.get(domain as usize).map_or("", |name| name)
    }

    /// The number of an answer: those that differ in their variable parts only have one.
    pub fn answer(&mut self, answer: Answer) -> u16 {
        let (kind, stage, text) = match &answer {
            Answer::Taken => return 0,
            Answer::Refused { stage, reply } => {
                (1, *stage, String::from_utf8_lossy(reply.raw()).into_owned())
            }
            Answer::NoAnswer => (2, Stage::Content, String::new()),
            Answer::Broken => (3, Stage::Content, String::new()),
        };
        let key = Key::of(&normalise(&text));
        if let Some(number) = self.by_answer.get(&(kind, stage, key)) {
            return *number;
        }
        if self.answers.len() >= ANSWERS_MAX
            && let Answer::Refused { reply, .. } = &answer
        {
            self.simplified += 1;
            let plain = match reply.code() {
                code @ 400..=499 => Reply::line(code, "4.0.0 deferred"),
                code => Reply::line(code, "5.0.0 refused"),
            };
            let key = Key::of(&normalise(&String::from_utf8_lossy(plain.raw())));
            if let Some(number) = self.by_answer.get(&(kind, stage, key)) {
                return *number;
            }
            // One for each code and command, which are few.
            return self.keep((kind, stage, key), Answer::Refused { stage, reply: plain });
        }
        self.keep((kind, stage, key), answer)
    }

    fn keep(&mut self, key: (u8, Stage, Key), answer: Answer) -> u16 {
        let number = u16::try_from(self.answers.len()).unwrap_or(0);
        self.answers.push(answer);
        self.by_answer.insert(key, number);
        number
    }

    /// The number of a course of conversations, by the numbers of their answers.
    pub fn script(&mut self, answers: &[u16]) -> u32 {
        if let Some(number) = self.by_script.get(answers) {
            return *number;
        }
        if self.scripts.len() >= SCRIPTS_MAX && answers.len() > 1 {
            self.simplified += 1;
            return self.script(&answers[answers.len() - 1..]);
        }
        let number = u32::try_from(self.scripts.len()).unwrap_or(u32::MAX);
        self.scripts.push(answers.into());
        self.by_script.insert(answers.into(), number);
        number
    }

    /// Takes in messages. Arrival times are rounded up to whole milliseconds at least.
    pub fn add(&mut self, row: DemandRow) {
        let key = RowKey {
            domain: row.domain,
            script: row.script,
            delivery: row.delivery.0,
            arrived_micros: self.rounded(row.arrived_at.as_micros()),
            attempts: row.attempts,
        };
        let count = self.rows.entry(key).or_default();
        *count = count.saturating_add(row.count);
        while self.rows.len() > self.rows_max && self.grain + 1 < GRAINS.len() {
            self.grain += 1;
            let fine = core::mem::take(&mut self.rows);
            for (key, count) in fine {
                let arrived_micros = self.rounded(key.arrived_micros);
                let coarse = self.rows.entry(RowKey { arrived_micros, ..key }).or_default();
                *coarse = coarse.saturating_add(count);
            }
        }
    }

    fn rounded(&self, micros: u64) -> u64 {
        let grain = GRAINS[self.grain];
        micros.div_ceil(grain).saturating_mul(grain)
    }

    /// Everything, in no order.
    pub fn rows(&self) -> impl Iterator<Item = DemandRow> + Clone + '_ {
        self.rows.iter().map(|(key, count)| DemandRow {
            domain: key.domain,
            delivery: DeliveryId(key.delivery),
            arrived_at: Timestamp::from_micros(key.arrived_micros),
            attempts: key.attempts,
            script: key.script,
            count: *count,
        })
    }

    /// Messages in all.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.rows.values().map(|count| u64::from(*count)).sum()
    }

    /// How far the bounds were felt.
    #[must_use]
    pub const fn bounds(&self) -> DemandBounds {
        DemandBounds { grain_micros: GRAINS[self.grain], simplified: self.simplified }
    }

    /// What is said in a conversation of a course, from 0; `None`: nothing is recorded.
    #[must_use]
    pub fn answer_of(&self, script: u32, tries: u16) -> Option<&Answer> {
        let script = self.scripts.get(script as usize)?;
        let number = script.get(usize::from(tries))?;
        self.answers.get(usize::from(*number))
    }
}
