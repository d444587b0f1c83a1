//! What has become of the recipients of each domain, read from the delivery log while it grows.
//!
//! The log has one line per attempt and ends every message exactly once, so it is the one place from
//! which sent, failed and put off can be told per domain. Nothing of it is kept but counts, and of
//! messages that were put off the number and the next time. The store's own counters do not come from it;
//! [`super::account`] compares the two.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use serde::Deserialize;
use simulator::audit::{AuditReport, Auditor, Entry};

use super::world::World;
use crate::exit::Failure;

/// Longest line that is read; replies are bounded well below.
const LONGEST_LINE: u64 = 4 << 20;

/// A domain and its recipients.
#[derive(Clone, Debug)]
pub(crate) struct DomainTally {
    /// Its name.
    pub(crate) name: String,
    /// The provider.
    pub(crate) plan: usize,
    /// Recipients accepted for it.
    pub(crate) recipients: u64,
    /// Taken by the provider.
    pub(crate) sent: u64,
    /// Refused for good.
    pub(crate) failed: u64,
    /// Expired or cancelled.
    pub(crate) ended: u64,
}

impl DomainTally {
    /// Messages that are not at their end.
    pub(crate) fn waiting(&self) -> u64 {
        self.recipients.saturating_sub(self.sent + self.failed + self.ended)
    }
}

/// All domains.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// In the order in which they were met.
    pub(crate) domains: Vec<DomainTally>,
    places: HashMap<String, usize>,
    /// Messages that were put off: place of the domain and next time.
    put_off: BTreeMap<MessageId, (usize, Timestamp)>,
    /// Attempts that were put off, in all.
    pub(crate) deferrals: u64,
    /// A delivery that is counted apart, and the messages of it that came to an end on a connection.
    pub(crate) apart: Option<(DeliveryId, u64)>,
}

/// The fields of a line that are needed.
#[derive(Deserialize)]
struct Line<'text> {
    #[serde(borrow)]
    message: Cow<'text, str>,
    #[serde(borrow)]
    delivery: Cow<'text, str>,
    #[serde(borrow)]
    recipient: Cow<'text, str>,
    #[serde(borrow)]
    outcome: Cow<'text, str>,
    #[serde(borrow, default)]
    next_at: Option<Cow<'text, str>>,
}

impl Tally {
    /// Counts recipients of a domain.
    pub(crate) fn expect(&mut self, world: &World, domain: &str, recipients: u64) {
        let place = self.place(world, domain);
        self.domains[place].recipients += recipients;
    }

    fn place(&mut self, world: &World, domain: &str) -> usize {
        if let Some(place) = self.places.get(domain) {
            return *place;
        }
        let place = self.domains.len();
        // Mail of an earlier run in the same folder may go to domains of another lab.
        let plan = world.by_domain.get(domain).copied().unwrap_or(world.plans.len() - 1);
        self.domains.push(DomainTally {
            name: domain.to_owned(),
            plan,
            recipients: 0,
            sent: 0,
            failed: 0,
            ended: 0,
        });
        self.places.insert(domain.to_owned(), place);
        place
    }

    /// Takes in a line of the log.
    fn take(&mut self, world: &World, line: &[u8]) -> Result<(), String> {
        let line: Line<'_> =
            serde_json::from_slice(line).map_err(|fault| format!("not a log line: {fault}"))?;
        let id: MessageId = line.message.parse().map_err(|fault| format!("message: {fault}"))?;
        if let Some((apart, ended)) = &mut self.apart {
            let of: DeliveryId =
                line.delivery.parse().map_err(|fault| format!("delivery: {fault}"))?;
            if of == *apart {
                match &*line.outcome {
                    "sent" | "failed" => *ended += 1,
                    // A cancellation does not come to the log unless the message was on its way.
                    "expired" | "cancelled" => {}
                    _ => self.deferrals += 1,
                }
                return Ok(());
            }
        }
        let domain = line.recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        let place = self.place(world, domain);
        self.put_off.remove(&id);
        let found = &mut self.domains[place];
        match &*line.outcome {
            "sent" => found.sent += 1,
            "failed" => found.failed += 1,
            "expired" | "cancelled" => found.ended += 1,
            _ => {
                self.deferrals += 1;
                if let Some(next) = line.next_at.as_deref().and_then(moment) {
                    self.put_off.insert(id, (place, next));
                }
            }
        }
        Ok(())
    }

    /// Messages of the delivery that is counted apart which came to an end on a connection.
    pub(crate) fn ended_apart(&self) -> u64 {
        self.apart.map_or(0, |(_, ended)| ended)
    }

    /// Messages at their end.
    pub(crate) fn settled(&self) -> u64 {
        self.domains.iter().map(|found| found.sent + found.failed + found.ended).sum()
    }

    /// Attempts of any outcome.
    pub(crate) fn attempts(&self) -> u64 {
        self.settled() + self.ended_apart() + self.deferrals
    }

    /// For each domain with messages whose next time has not come: how many, the first and the last
    /// of these times.
    pub(crate) fn put_off(&self, now: Timestamp) -> BTreeMap<usize, PutOff> {
        let mut found: BTreeMap<usize, PutOff> = BTreeMap::new();
        for (place, next) in self.put_off.values().filter(|(_, next)| *next > now) {
            let entry =
                found.entry(*place).or_insert(PutOff { messages: 0, first: *next, last: *next });
            entry.messages += 1;
            entry.first = entry.first.min(*next);
            entry.last = entry.last.max(*next);
        }
        found
    }
}

/// Messages that wait for their own next time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutOff {
    /// How many.
    pub(crate) messages: u64,
    /// The first to come.
    pub(crate) first: Timestamp,
    /// The last.
    pub(crate) last: Timestamp,
}

/// A time of the log.
fn moment(text: &str) -> Option<Timestamp> {
    let found: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(found.as_microsecond()).ok().map(Timestamp::from_micros)
}

/// The end of the delivery log.
#[derive(Debug)]
pub(crate) struct Tail {
    file: BufReader<File>,
    /// Where this run began.
    begin: u64,
    /// A line whose end has not been written yet.
    begun: Vec<u8>,
    path: PathBuf,
}

impl Tail {
    /// Opens the log at its present end.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let fault = |fault| Failure::environment(format!("cannot read {name}: {fault}"));
        let options = OpenOptions::new().create(true).append(true).read(true).open(path);
        let mut file = options.map_err(fault)?;
        let begin = file.seek(SeekFrom::End(0)).map_err(fault)?;
        let file = BufReader::with_capacity(1 << 18, file);
        Ok(Self { file, begin, begun: Vec::new(), path: path.to_owned() })
    }

    /// Reads on to the present end.
    ///
    /// # Errors
    /// The log cannot be read, or has a line that is none.
    pub(crate) fn read(&mut self, world: &World, tally: &mut Tally) -> Result<(), Failure> {
        let shown = self.path.display();
        let fault = |why: &dyn std::fmt::Display| {
            Failure::environment(format!("cannot read {shown}: {why}"))
        };
        loop {
            let room = LONGEST_LINE - self.begun.len() as u64;
            let read = (&mut self.file)
                .take(room)
                .read_until(b'\n', &mut self.begun)
                .map_err(|why| fault(&why))?;
            if self.begun.last() == Some(&b'\n') {
                tally.take(world, &self.begun).map_err(|why| fault(&why))?;
                self.begun.clear();
            } else if read as u64 == room {
                return Err(fault(&"a line has no end"));
            } else {
                return Ok(());
            }
        }
    }

    /// Lets the auditor judge what was logged in this run. The place of [`Tail::read`] stays.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) fn audit(&self, world: &World) -> Result<AuditReport, Failure> {
        let name = self.path.display().to_string();
        let fault = |fault| Failure::environment(format!("cannot read {name}: {fault}"));
        let mut file = File::open(&self.path).map_err(fault)?;
        file.seek(SeekFrom::Start(self.begin)).map_err(fault)?;
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut auditor = Auditor::new(&world.rules, BTreeMap::new());
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut file).take(LONGEST_LINE).read_until(b'\n', &mut line);
            // A last line without end is being written: the next reading has it whole.
            if read.map_err(fault)? == 0 || line.last() != Some(&b'\n') {
                break;
            }
            match Entry::read(&line) {
                Ok(Some(entry)) => auditor.attempt(&name, number, &entry),
                Ok(None) => auditor.not_started(),
                Err(why) => auditor.malformed(&name, number, why),
            }
        }
        Ok(auditor.finish())
    }
}
