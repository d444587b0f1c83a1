//! The ledger, and its tokens.
//!
//! A request for tokens names a path and the MX host under which it is used. What is granted, a
//! [`Lot`], is the least of what is wanted and of the room in every budget in which the path counts,
//! in the cap of its source and in the named caps. It is counted before the answer exists. Callers
//! should ask for lots of at least 10 tokens, or about one second's flow, and give the rest back.
//!
//! A path that is reachable under MX hosts of different rules counts in, and needs room in, the
//! budgets of all of them.
//!
//! # Bounds
//!
//! At most [`Settings::max_paths`] paths and [`Settings::max_caps`] named caps are counted. Beyond,
//! those idle for more than an hour make room; if none is, a new one is refused with
//! [`WaitKind::LedgerFull`] until the next slot. Nothing that still counts is ever forgotten. Lots
//! can be given back until the slot after theirs ends; of more than [`Settings::max_lots`] lots the
//! oldest cannot be given back any more and stay counted.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mail::id::SourceId;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::accounts::{Accounts, Places};
use crate::budget::{CapKey, LimitName, PathKey, Wait, WaitKind};
use crate::clock::SavedClock;
use crate::journal::{JournalEntry, Pending, Place};
use crate::meter::{Meter, Room, use_before};
use crate::permits::Register;
use crate::ruling::{Pacing, Ruling};
use crate::slots::{HOUR_SLOTS, Slot, Window};
use crate::warm_up::{DayBook, day_meter, hour_meter};

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long before the end of its slot a token must be used. Covers the time between looking
    /// at the clock and the octets leaving. At most 30 s; more counts as 30 s.
    pub use_guard: Duration,
    /// How long permits hold without renewal.
    pub lease: Duration,
    /// How long permits still count after their lease has ended or their process was found dead:
    /// time for the far ends to notice that the connections are closed.
    pub settle: Duration,
    /// Paths that are counted at most.
    pub max_paths: usize,
    /// Named caps that are counted at most.
    pub max_caps: usize,
    /// Lots that can be given back at most.
    pub max_lots: usize,
}

impl Default for Settings {
    /// Guard 250 ms, lease 30 s, settling 2 s; 200,000 paths, 100,000 caps, 1,000,000 lots.
    fn default() -> Self {
        Self {
            use_guard: Duration::from_millis(250),
            lease: Duration::from_secs(30),
            settle: Duration::from_secs(2),
            max_paths: 200_000,
            max_caps: 100_000,
            max_lots: 1_000_000,
        }
    }
}

/// The number of a lot. Never used twice, not even across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LotId(pub u64);

/// Tokens granted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    /// Its number, for [`Ledger::give_back`].
    pub id: LotId,
    /// The path on which they may be used.
    pub path: PathKey,
    /// How many, at least 1.
    pub count: u32,
    /// The slot in which they are counted.
    pub slot: Slot,
    /// They must be used (MAIL FROM sent) before this moment, or be given back.
    pub use_before: Timestamp,
}

/// A request for tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// The path.
    pub path: PathKey,
    /// The MX host under which it is used: lower case, no final dot.
    pub mx_host: &'a str,
    /// How many tokens; 0 counts as 1.
    pub want: u32,
    /// Hourly cap of the source over all its paths (warm-up).
    pub source_limit: Option<u32>,
    /// Named hourly caps with their limits; of a repeated one the tighter limit holds.
    pub caps: &'a [(CapKey, u32)],
}

/// The answer to a request for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenAnswer {
    /// Counted and, once the journal is durable, to be used.
    Granted(Lot),
    /// Not now.
    Wait(Wait),
}

/// Why tokens were not taken back. They stay counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveBackError {
    /// Never granted, granted before the last restart, or too old.
    #[error("lot {} is not known any more: its tokens stay counted as used", lot.0)]
    UnknownLot {
        /// The lot.
        lot: LotId,
    },
    /// More than is left of it.
    #[error(
        "lot {} has {left} tokens that can be given back, not {count}: a token was given back twice",
        lot.0
    )]
    MoreThanGranted {
        /// The lot.
        lot: LotId,
        /// How many were to be given back.
        count: u32,
        /// How many can be.
        left: u32,
    },
}

/// What is remembered of a lot so that the rest can be given back.
#[derive(Clone, Debug)]
struct OpenLot {
    path: usize,
    slot: Slot,
    left: u32,
    caps: Box<[usize]>,
    /// The provider's line of a source that is warmed up.
    line: Option<Arc<str>>,
}

/// A request after its path, caps and line were found.
struct Entered {
    path: usize,
    source: SourceId,
    source_limit: Option<u32>,
    /// Each cap once, with its limit.
    caps: Vec<(usize, u32)>,
    line: Option<Arc<str>>,
}

/// The counts of one named cap.
#[derive(Clone, Debug)]
pub(crate) struct CapAccount {
    pub(crate) key: CapKey,
    pub(crate) spent: Window,
    pub(crate) used: u64,
    pub(crate) place: Place,
}

/// The ledger. See the module and the crate. A clone is independent: good for asking "what if".
#[derive(Clone)]
pub struct Ledger {
    pub(crate) settings: Settings,
    pub(crate) ruling: Arc<dyn Ruling + Send + Sync>,
    pub(crate) accounts: Accounts,
    pub(crate) caps: Places<CapAccount>,
    pub(crate) cap_index: BTreeMap<CapKey, usize>,
    pub(crate) days: DayBook,
    pub(crate) register: Register,
    pub(crate) pending: Pending,
    /// The latest time seen. Calls with an earlier one (threads that read the clock in another
    /// order) are answered as of this.
    pub(crate) latest: Timestamp,
    lots: VecDeque<OpenLot>,
    /// Number of the first of `lots`.
    first_lot: u64,
    /// Slot of the last attempt to make room in a full ledger.
    made_room: Slot,
}

impl core::fmt::Debug for Ledger {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Ledger")
            .field("latest", &self.latest)
            .field("rules_version", &self.ruling.version())
            .field("paths", &self.accounts.path_index.len())
            .field("budgets", &self.accounts.budget_index.len())
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty ledger. [`Ledger::restore`] is the way to start on stored entries.
    pub(crate) fn empty(
        mut settings: Settings,
        ruling: Arc<dyn Ruling + Send + Sync>,
        now: Timestamp,
    ) -> Self {
        settings.use_guard = settings.use_guard.min(Duration::from_secs(30));
        // Microseconds times 1,024: more numbers than a process can use before its successor
        // starts at a later time, so that a number names one thing for ever.
        let first_number = now.as_micros().saturating_mul(1_024);
        Self {
            settings,
            ruling,
            accounts: Accounts::new(),
            caps: Places::new(),
            cap_index: BTreeMap::new(),
            days: DayBook::default(),
            register: Register::new(first_number),
            pending: Pending::new(),
            latest: now,
            lots: VecDeque::new(),
            first_lot: first_number,
            made_room: Slot(0),
        }
    }

    /// The version of the rules in force.
    #[must_use]
    pub fn rules_version(&self) -> u64 {
        self.ruling.version()
    }

    /// Hands over the entries that must become durable before the answers given since the last call
    /// may be used. The order matters within and between batches.
    #[must_use = "entries that are not stored are lost"]
    pub fn take_journal(&mut self) -> Vec<JournalEntry> {
        self.pending.take()
    }

    /// Puts the clocks into the journal. Call it before every [`Ledger::take_journal`], so that the
    /// stored time is never behind the stored counts.
    pub fn record_clock(&mut self, clock: SavedClock) {
        self.pending.push(JournalEntry::Clock(clock));
    }

    /// Asks for tokens.
    pub fn ask_tokens(&mut self, now: Timestamp, request: &TokenRequest<'_>) -> TokenAnswer {
        let now = self.advance(now);
        let entered = match self.enter(now, request) {
            Ok(entered) => entered,
            Err(wait) => return TokenAnswer::Wait(wait),
        };
        let slot = Slot::of(now);
        let guard = self.settings.use_guard;
        let mut room = u64::from(request.want.max(1));
        self.each_meter(&entered, |meter, _| room = room.min(meter.room(now, guard).tokens));
        let Some(count) = u32::try_from(room).ok().filter(|count| *count > 0) else {
            return TokenAnswer::Wait(self.token_wait(now, &entered));
        };
        if now >= use_before(slot, guard) {
            return TokenAnswer::Wait(self.token_wait(now, &entered));
        }
        let id = LotId(self.first_lot + self.lots.len() as u64);
        let Entered { path, caps, line, .. } = entered;
        let places = caps.iter().map(|(place, _)| *place).collect::<Box<[usize]>>();
        let lot = OpenLot { path, slot, left: count, caps: places, line };
        self.count_tokens(&lot, count, false);
        self.lots.push_back(lot);
        if self.lots.len() > self.settings.max_lots {
            self.lots.pop_front();
            self.first_lot += 1;
        }
        let use_before = use_before(slot, guard);
        TokenAnswer::Granted(Lot { id, path: request.path, count, slot, use_before })
    }

    /// Takes back tokens of a lot that were not and will not be used. May be called several times
    /// for one lot, until the slot after the lot's slot has ended.
    pub fn give_back(
        &mut self,
        now: Timestamp,
        lot: LotId,
        count: u32,
    ) -> Result<(), GiveBackError> {
        self.advance(now);
        let open = lot
            .0
            .checked_sub(self.first_lot)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.lots.get_mut(index))
            .ok_or(GiveBackError::UnknownLot { lot })?;
        if count > open.left {
            return Err(GiveBackError::MoreThanGranted { lot, count, left: open.left });
        }
        if count == 0 {
            return Ok(());
        }
        open.left -= count;
        let lot = open.clone();
        self.count_tokens(&lot, count, true);
        Ok(())
    }

    /// Puts other rules in force. No count is lost: each path counts from now on in the budgets of
    /// the rules that govern the MX hosts under which it was used. A budget that is over its new
    /// limit grants nothing until it has room again. Lots and permits that were granted stay good.
    pub fn replace_rules(&mut self, now: Timestamp, ruling: Arc<dyn Ruling + Send + Sync>) {
        self.advance(now);
        self.accounts.reattribute(&*ruling);
        self.ruling = ruling;
    }

    /// Forgets idle paths and caps. Call it about once a minute.
    pub fn prune(&mut self, now: Timestamp) {
        let now = self.advance(now);
        let slot = Slot::of(now);
        self.accounts.forget_idle(now);
        self.days.forget_idle(slot);
        let caps = &mut self.caps;
        self.cap_index.retain(|_, place| {
            let stays = caps.get(*place).used.saturating_add(HOUR_SLOTS) >= slot.0;
            if !stays {
                caps.remove(*place);
            }
            stays
        });
    }

    /// Moves the time on; it never goes back.
    pub(crate) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        let slot = Slot::of(self.latest);
        while self.lots.front().is_some_and(|lot| lot.slot.0 + 1 < slot.0) {
            self.lots.pop_front();
            self.first_lot += 1;
        }
        self.latest
    }

    /// The path of a request, counted in its budgets; refused if the ledger is full.
    pub(crate) fn enter_path(
        &mut self,
        now: Timestamp,
        key: PathKey,
        mx_host: &str,
    ) -> Result<usize, Wait> {
        let slot = Slot::of(now);
        if !self.accounts.path_index.contains_key(&key) {
            self.make_room(now, |ledger| {
                (ledger.accounts.path_index.len(), ledger.settings.max_paths)
            })?;
        }
        let path = self.accounts.path(key, slot);
        if self.accounts.attach(path, mx_host, &*self.ruling, slot) {
            self.pending.push(JournalEntry::Host { path: key, mx_host: mx_host.into(), slot });
        }
        Ok(path)
    }

    /// Refuses if a table is full and stays so after idle entries were forgotten, which is tried
    /// once in a slot.
    fn make_room(
        &mut self,
        now: Timestamp,
        size: impl Fn(&Self) -> (usize, usize),
    ) -> Result<(), Wait> {
        let full = |(used, limit): (usize, usize)| used >= limit;
        let slot = Slot::of(now);
        if full(size(self)) && self.made_room != slot {
            self.made_room = slot;
            self.prune(now);
        }
        let (used, limit) = size(self);
        if !full((used, limit)) {
            return Ok(());
        }
        Err(Wait {
            until: Some(slot.end()),
            limit: LimitName::Ledger,
            kind: WaitKind::LedgerFull,
            limit_value: limit as u64,
            used: used as u64,
        })
    }

    /// The path, the caps and the line of a request.
    fn enter(&mut self, now: Timestamp, request: &TokenRequest<'_>) -> Result<Entered, Wait> {
        let mut caps: Vec<(usize, u32)> = Vec::new();
        for (key, limit) in request.caps {
            let place = match self.cap_index.get(key) {
                Some(&place) => place,
                None => {
                    self.make_room(now, |ledger| {
                        (ledger.cap_index.len(), ledger.settings.max_caps)
                    })?;
                    self.cap(key.clone())
                }
            };
            self.caps.get_mut(place).used = Slot::of(now).0;
            match caps.iter_mut().find(|(other, _)| *other == place) {
                Some((_, tighter)) => *tighter = (*limit).min(*tighter),
                None => caps.push((place, *limit)),
            }
        }
        let path = self.enter_path(now, request.path, request.mx_host)?;
        let (source, source_limit) = (request.path.source, request.source_limit);
        let line = self.enter_line(now, path, source, request.mx_host)?;
        Ok(Entered { path, source, source_limit, caps, line })
    }

    /// The line of a source that is warmed up at the provider of a path, made if need be. A line that is there goes on
    /// counting when the source has no caps any more, so that caps which come back within the day find all of it.
    fn enter_line(
        &mut self,
        now: Timestamp,
        path: usize,
        source: SourceId,
        mx_host: &str,
    ) -> Result<Option<Arc<str>>, Wait> {
        let warmed = self.days.caps_of(source).is_some();
        if !warmed && self.days.lines.is_empty() {
            return Ok(None);
        }
        let hosts = &self.accounts.paths.get(path).hosts;
        let Some(host) = hosts.iter().find(|host| &*host.name == mx_host) else { return Ok(None) };
        let rule = Arc::clone(&self.accounts.budgets.get(host.budget).key.rule);
        let known = self.days.lines.contains_key(&(source, Arc::clone(&rule)));
        if !warmed {
            return Ok(known.then_some(rule));
        }
        if !known {
            self.make_room(now, |ledger| (ledger.days.lines.len(), ledger.settings.max_caps))?;
            self.days.open_line(source, &rule, &self.accounts, &mut self.pending);
        }
        Ok(Some(rule))
    }

    /// The place of a cap, made if need be.
    pub(crate) fn cap(&mut self, key: CapKey) -> usize {
        if let Some(&place) = self.cap_index.get(&key) {
            return place;
        }
        let place = self.caps.insert(CapAccount {
            key: key.clone(),
            spent: Window::new(HOUR_SLOTS),
            used: Slot::of(self.latest).0,
            place: Place::default(),
        });
        self.cap_index.insert(key, place);
        place
    }

    /// Shows every meter that a request must pass, with whose it is.
    fn each_meter(&self, request: &Entered, mut look: impl FnMut(Meter<'_>, MeterOwner)) {
        let Entered { path, source, source_limit, caps, line } = request;
        let account = self.accounts.paths.get(*path);
        for member in &account.budgets {
            let budget = self.accounts.budgets.get(member.budget);
            look(budget.meter(), MeterOwner::Budget(member.budget));
        }
        if let Some(limit) = source_limit {
            hour_meter(&self.accounts, *source, *limit, |meter| look(meter, MeterOwner::Source));
        }
        if let Some(of_source) = self.days.caps_of(*source) {
            if let Some(limit) = of_source.per_hour {
                hour_meter(&self.accounts, *source, limit, |meter| {
                    look(meter, MeterOwner::WarmUpHour);
                });
            }
            if let Some(limit) = of_source.per_day {
                let day = self.days.sources.get(source);
                day_meter(day, limit, |meter| look(meter, MeterOwner::WarmUpDay));
            }
            let rule_limit = line.as_ref().and_then(|rule| Some((rule, of_source.line(rule)?)));
            if let Some((rule, limit)) = rule_limit {
                let day = self.days.lines.get(&(*source, Arc::clone(rule)));
                day_meter(day, limit, |meter| look(meter, MeterOwner::WarmUpProvider));
            }
        }
        for (place, limit) in caps {
            let spent = &self.caps.get(*place).spent;
            look(Meter::new(spent, *limit, Pacing::Burst), MeterOwner::Cap(*place));
        }
    }

    /// When at least one token can be granted, and what stands in the way longest.
    fn token_wait(&self, now: Timestamp, request: &Entered) -> Wait {
        let guard = self.settings.use_guard;
        let mut longest: Option<(Timestamp, MeterOwner, Room)> = None;
        self.each_meter(request, |meter, owner| {
            let end = meter.earliest(now, guard).unwrap_or(Timestamp::NEVER);
            if longest.as_ref().is_none_or(|(other, ..)| end > *other) {
                longest = Some((end, owner, meter.room(now, guard)));
            }
        });
        let (first, owner, room) = longest.expect("a path counts in at least one budget");
        let limit = self.limit_name(request, owner);
        let kind = match owner {
            _ if room.tokens > 0 => WaitKind::SlotEdge,
            MeterOwner::Budget(_) => room.kind,
            MeterOwner::Source => WaitKind::SourceCap,
            MeterOwner::WarmUpHour => WaitKind::WarmUpHour,
            MeterOwner::WarmUpDay => WaitKind::WarmUpDay,
            MeterOwner::WarmUpProvider => WaitKind::WarmUpProvider,
            MeterOwner::Cap(_) => WaitKind::Cap,
        };
        // Each meter says when it has room again, but with even pacing it may close once more
        // before another opens. Repeating until nothing moves finds the first common moment.
        let mut until = first;
        while until < Timestamp::NEVER {
            let mut next = until;
            self.each_meter(request, |meter, _| {
                next = next.max(meter.earliest(next, guard).unwrap_or(Timestamp::NEVER));
            });
            if next == until {
                break;
            }
            until = next;
        }
        let until = Some(until).filter(|until| *until < Timestamp::NEVER);
        Wait { until, limit, kind, limit_value: room.limit, used: room.used }
    }

    fn limit_name(&self, request: &Entered, owner: MeterOwner) -> LimitName {
        match owner {
            MeterOwner::Budget(place) => {
                LimitName::Budget(self.accounts.budgets.get(place).key.clone())
            }
            MeterOwner::Source => LimitName::Source(request.source),
            MeterOwner::WarmUpHour | MeterOwner::WarmUpDay => {
                LimitName::WarmUp { source: request.source, rule: None }
            }
            MeterOwner::WarmUpProvider => {
                let rule = request.line.as_ref().map(|rule| Box::from(&**rule));
                LimitName::WarmUp { source: request.source, rule }
            }
            MeterOwner::Cap(place) => LimitName::Cap(self.caps.get(place).key.clone()),
        }
    }

    /// Counts tokens everywhere and in the journal; with `back`, takes them back.
    fn count_tokens(&mut self, lot: &OpenLot, count: u32, back: bool) {
        let OpenLot { path, slot, caps, line, .. } = lot;
        let (path, slot) = (*path, *slot);
        let count = u64::from(count);
        self.accounts.count_tokens(path, slot, count, back);
        let account = self.accounts.paths.get_mut(path);
        let total_now = account.spent.at(slot.0);
        let entry = JournalEntry::Spent { path: account.key, slot, total_now };
        self.pending.push_count(&mut account.place, entry);
        let source = account.key.source;
        self.days.count(source, line.as_ref(), slot, (count, back), &mut self.pending);
        for place in caps.iter() {
            let cap = self.caps.get_mut(*place);
            if back {
                cap.spent.subtract(slot.0, count);
            } else {
                cap.spent.advance(slot.0);
                cap.spent.add(slot.0, count);
            }
            let total_now = cap.spent.at(slot.0);
            let entry = JournalEntry::CapSpent { cap: cap.key.clone(), slot, total_now };
            self.pending.push_count(&mut cap.place, entry);
        }
    }
}

/// Whose meter it is.
#[derive(Clone, Copy, Debug)]
enum MeterOwner {
    Budget(usize),
    Source,
    WarmUpHour,
    WarmUpDay,
    WarmUpProvider,
    Cap(usize),
}
