//! Who may not be written to, answered from memory.
//!
//! **Promise.** [`AdmissionSet::admit`] answers with a reason, without a disk. What the set holds is
//! exactly what was put there: addresses are known by 120 bits of their SHA-256, so no two are
//! confused. Filled again from the store after a restart it answers the same.
//!
//! **How.** 256 tables by the first octet of the hash, each an array with linear probing that grows by
//! a quarter at a time; so memory follows the number of addresses closely, and growing never holds up an
//! answer for long. One slot is 16 octets: the hash and, in its last octet, a [`Mark`].
//!
//! **Absences.** No address can be read out of it. It knows reasons, not who said so and when: that is in
//! the store.

use core::fmt;
use std::collections::BTreeSet;
use std::sync::Arc;

use mail::failure::Reason;

use super::state::{Condition, State};
use super::suppression::{AddressHash, DomainMask, PublishedList};

/// What the set knows about an address: eight bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u8);

/// In the four low bits: a state that is known, from 1; and suppression.
const SUPPRESSED: u8 = 8;
/// In the four high bits: no reason.
const NO_REASON: u8 = 15;

impl Mark {
    /// The mark of an address that is known to the store.
    #[must_use]
    pub const fn of(state: State, reason: Option<Reason>) -> Self {
        let reason = match reason {
            Some(reason) => reason as u8,
            None => NO_REASON,
        };
        Self((reason << 4) | (state as u8 + 1))
    }

    /// The state; `None`: the store knows nothing about the address but its suppression.
    #[must_use]
    pub fn state(self) -> Option<State> {
        let code = usize::from(self.0 & 7).checked_sub(1)?;
        State::ALL.get(code).copied()
    }

    /// The reason of the state.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        self.state().and_then(|_| Reason::ALL.get(usize::from(self.0 >> 4)).copied())
    }

    /// Whether the address is suppressed by its hash.
    #[must_use]
    pub const fn is_suppressed(self) -> bool {
        self.0 & SUPPRESSED != 0
    }
}

impl From<&Condition> for Mark {
    fn from(condition: &Condition) -> Self {
        Self::of(condition.state, condition.reason)
    }
}

/// Why an address may not be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its hash is on the suppression list.
    Suppressed,
    /// Its domain is on the suppression list.
    DomainSuppressed,
    /// It is denylisted, with the reason if that was a complaint.
    Denylisted(Option<Reason>),
    /// It is quarantined.
    Quarantined(Option<Reason>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suppressed => out.write_str("the address is on the suppression list"),
            Self::DomainSuppressed => out.write_str("the domain is on the suppression list"),
            Self::Denylisted(None) => out.write_str("the address is denylisted"),
            Self::Denylisted(Some(reason)) => write!(out, "the address is denylisted: {reason}"),
            Self::Quarantined(None) => out.write_str("the address is quarantined"),
            Self::Quarantined(Some(reason)) => write!(out, "the address is quarantined: {reason}"),
        }
    }
}

/// The hash part of a slot.
const HASH: u128 = !0xff;
/// The smallest table.
const SMALLEST: usize = 8;

/// One of the 256 tables. An empty slot is 0: no slot in use has a mark of 0.
#[derive(Clone, Debug, Default)]
struct Table {
    slots: Box<[u128]>,
    used: usize,
}

impl Table {
    /// The slot at which the search for a hash begins.
    fn home(&self, hash: u128) -> usize {
        // The first octet chose the table; the 64 bits after it choose the place.
        let bits = (hash >> 56) as u64;
        ((u128::from(bits) * self.slots.len() as u128) >> 64) as usize
    }

    /// Where the hash is, or the empty slot where it would be.
    fn find(&self, hash: u128) -> Result<usize, usize> {
        let mut at = self.home(hash);
        loop {
            match self.slots[at] {
                0 => return Err(at),
                slot if slot & HASH == hash => return Ok(at),
                _ => at = (at + 1) % self.slots.len(),
            }
        }
    }

    fn get(&self, hash: u128) -> Mark {
        if self.used == 0 {
            return Mark::default();
        }
        self.find(hash).map_or(Mark::default(), |at| Mark(self.slots[at] as u8))
    }

    fn put(&mut self, hash: u128, mark: Mark) {
        if mark.0 == 0 {
            return self.remove(hash);
        }
        // A fifth stays empty, so that a search soon ends.
        if (self.used + 1) * 5 > self.slots.len() * 4 {
            self.grow();
        }
        let at = self.find(hash).unwrap_or_else(|empty| {
            self.used += 1;
            empty
        });
        self.slots[at] = hash | u128::from(mark.0);
    }

    fn grow(&mut self) {
        let size = (self.slots.len() + self.slots.len() / 4).max(SMALLEST);
        let old = std::mem::replace(&mut self.slots, vec![0; size].into_boxed_slice());
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            if let Err(empty) = self.find(slot & HASH) {
                self.slots[empty] = slot;
            }
        }
    }

    /// Removes a hash and moves back whoever stood behind it, so that no search breaks off.
    fn remove(&mut self, hash: u128) {
        if self.used == 0 {
            return;
        }
        let Ok(mut hole) = self.find(hash) else { return };
        let size = self.slots.len();
        let mut at = hole;
        loop {
            at = (at + 1) % size;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            let from_home = (at + size - self.home(slot & HASH)) % size;
            if from_home >= (at + size - hole) % size {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
        self.used -= 1;
    }
}

/// The addresses and domains that admission must know.
#[derive(Clone, Debug)]
pub struct AdmissionSet {
    tables: Vec<Table>,
    domains: BTreeSet<DomainMask>,
    published: Arc<PublishedList>,
}

impl Default for AdmissionSet {
    fn default() -> Self {
        Self {
            tables: vec![Table::default(); 256],
            domains: BTreeSet::new(),
            published: Arc::default(),
        }
    }
}

impl AdmissionSet {
    /// A set that refuses nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known about an address.
    #[must_use]
    pub fn mark(&self, hash: &AddressHash) -> Mark {
        let hash = hash.in_memory();
        self.tables[usize::from((hash >> 120) as u8)].get(hash)
    }

    /// Whether the address may be written to; its domain in lower-case A-labels.
    ///
    /// # Errors
    /// Why not. A suppression outranks everything, an allowlisting too; only a list that somebody else publishes
    /// gives way to what was allowed here.
    pub fn admit(&self, hash: &AddressHash, domain: &str) -> Result<(), Refusal> {
        let mark = self.mark(hash);
        if mark.is_suppressed() {
            return Err(Refusal::Suppressed);
        }
        if !self.domains.is_empty() && self.is_domain_suppressed(domain) {
            return Err(Refusal::DomainSuppressed);
        }
        match mark.state() {
            Some(State::Denylisted) => Err(Refusal::Denylisted(mark.reason())),
            Some(State::Quarantined) => Err(Refusal::Quarantined(mark.reason())),
            Some(State::Allowlisted) => Ok(()),
            _ if self.published.holds_address(hash) => Err(Refusal::Suppressed),
            _ if self.published.holds_domain(domain) => Err(Refusal::DomainSuppressed),
            _ => Ok(()),
        }
    }

    /// As [`AdmissionSet::admit`], for a folded address ([`mail::address::Mailbox::folded_key`]).
    ///
    /// # Errors
    /// Why it may not be written to.
    pub fn admit_address(&self, folded: &str) -> Result<(), Refusal> {
        let domain = folded.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.admit(&AddressHash::of(folded), domain)
    }

    /// Sets what the store knows about an address; `None`: nothing. Suppression stays.
    pub fn put(&mut self, hash: &AddressHash, known: Option<Mark>) {
        let suppressed = self.mark(hash).0 & SUPPRESSED;
        self.set(hash, Mark(known.map_or(0, |mark| mark.0 & !SUPPRESSED) | suppressed));
    }

    /// Puts an address on the suppression list or takes it off.
    pub fn suppress(&mut self, hash: &AddressHash, suppressed: bool) {
        let mark = self.mark(hash).0 & !SUPPRESSED;
        // A mark without a state has no reason: bits that are all 0 otherwise.
        self.set(hash, Mark(if suppressed { mark | SUPPRESSED } else { mark }));
    }

    fn set(&mut self, hash: &AddressHash, mark: Mark) {
        let hash = hash.in_memory();
        self.tables[usize::from((hash >> 120) as u8)].put(hash, mark);
    }

    /// Puts a domain, or all domains below one, on the suppression list or takes it off.
    pub fn suppress_domain(&mut self, mask: DomainMask, suppressed: bool) {
        if suppressed {
            self.domains.insert(mask);
        } else {
            self.domains.remove(&mask);
        }
    }

    /// Takes in a suppression list that somebody else publishes, in place of the one before.
    pub fn publish(&mut self, list: Arc<PublishedList>) {
        self.published = list;
    }

    fn is_domain_suppressed(&self, domain: &str) -> bool {
        DomainMask::that_match(domain).any(|mask| self.domains.contains(mask.as_str()))
    }

    /// How many addresses it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.used).sum()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory that its tables take.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.tables.iter().map(|table| table.slots.len() * size_of::<u128>()).sum()
    }
}
