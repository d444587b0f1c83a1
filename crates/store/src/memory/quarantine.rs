//! The rows of the ledger in ordered maps.

use core::convert::Infallible;
use std::collections::{BTreeMap, BTreeSet};

use engine::quarantine::{
    Action, AddressRecord, CleanUpStep, Entry, EntryId, Evidence, Finding, History, HoldRecord,
    Qualification, SeenKey, Standing, State, Stray, Suppressed, SuppressionRecord, TaskRecord,
    TextKey, TextRecord, Work,
};
use mail::time::Timestamp;

use crate::quarantine::{Cursor, LedgerRows, LedgerRowsMut, Scanned, StoredTask, in_millis};
use crate::words::AuditEntry;

type Answer<T> = Result<T, Infallible>;

/// Everything that the ledger holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    last_address: u64,
    last_entry: u64,
    last_action: u64,
    last_task: u64,
    pub(super) addresses: BTreeMap<u64, AddressRecord>,
    by_name: BTreeMap<Box<str>, u64>,
    entries: BTreeMap<u64, (u64, Entry)>,
    actions: BTreeMap<u64, (u64, Action)>,
    pub(super) texts: BTreeMap<TextKey, TextRecord>,
    seen: BTreeMap<SeenKey, Timestamp>,
    pub(super) strays: BTreeMap<(u32, Stray), u64>,
    pub(super) tasks: BTreeMap<u64, (TaskRecord, Cursor)>,
    pub(super) suppressions: BTreeMap<Suppressed, SuppressionRecord>,
    pub(super) holds: BTreeMap<u64, HoldRecord>,
    /// Entries of the audit trail that the store takes over after each write.
    pub(super) audit: Vec<AuditEntry>,
}

impl Shelf {
    /// An entry with what a person says of its text today.
    fn today(&self, entry: &Entry) -> Entry {
        let text = match &entry.evidence.finding {
            Finding::Delivered => None,
            Finding::Failed(failure) => self.texts.get(&failure.text),
        };
        Entry { person: text.and_then(|text| text.by_person), ..entry.clone() }
    }

    fn scanned(&self, by_time: bool, id: u64) -> Option<Scanned> {
        let (address, entry) = self.entries.get(&id)?;
        let at = if by_time { millis(entry.evidence.at) } else { 0 };
        Some(Scanned { cursor: (at, id), address: *address, entry: Some(self.today(entry)) })
    }
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

impl LedgerRows for Shelf {
    type Fault = Infallible;

    fn find_address(&self, folded: &str) -> Answer<Option<(u64, AddressRecord)>> {
        let Some(id) = self.by_name.get(folded) else { return Ok(None) };
        Ok(self.addresses.get(id).map(|record| (*id, record.clone())))
    }

    fn address_by_id(&self, id: u64) -> Answer<Option<AddressRecord>> {
        Ok(self.addresses.get(&id).cloned())
    }

    fn history_of(&self, id: u64, _: &str) -> Answer<History> {
        let entries = self.entries.values().filter(|(address, _)| *address == id);
        let actions = self.actions.values().filter(|(address, _)| *address == id);
        Ok(History {
            entries: entries.map(|(_, entry)| self.today(entry)).collect(),
            actions: actions.map(|(_, action)| action.clone()).collect(),
        })
    }

    fn address_of_entry(&self, entry: EntryId) -> Answer<Option<u64>> {
        Ok(self.entries.get(&entry.0).map(|(address, _)| *address))
    }

    fn find_text(&self, key: TextKey) -> Answer<Option<TextRecord>> {
        Ok(self.texts.get(&key).cloned())
    }

    fn find_task(&self, task: u64) -> Answer<Option<StoredTask>> {
        let found = self.tasks.get(&task);
        Ok(found.map(|(record, cursor)| StoredTask { record: record.clone(), cursor: *cursor }))
    }

    fn find_hold(&self, hold: u64) -> Answer<Option<HoldRecord>> {
        Ok(self.holds.get(&hold).cloned())
    }

    fn scan(&self, work: &Work, after: Cursor, limit: u32) -> Answer<Vec<Scanned>> {
        let limit = limit as usize;
        let by_number = |wanted: &dyn Fn(&Entry) -> bool| {
            let later = self.entries.range(after.1.saturating_add(1)..);
            let ids = later.filter(|(_, (_, entry))| wanted(entry)).take(limit);
            ids.filter_map(|(id, _)| self.scanned(false, *id)).collect()
        };
        Ok(match work {
            Work::Undo { selection } | Work::Hold { selection, .. } => {
                let mut places: Vec<Cursor> = self
                    .entries
                    .iter()
                    .filter(|(_, (_, entry))| selection.window_contains(entry.evidence.at))
                    .map(|(id, (_, entry))| (millis(entry.evidence.at), *id))
                    .filter(|place| *place > after)
                    .collect();
                places.sort_unstable();
                places.truncate(limit);
                places.iter().filter_map(|(_, id)| self.scanned(true, *id)).collect()
            }
            Work::Text { key } => by_number(&|entry: &Entry| {
                entry.failure().is_some_and(|(failure, _)| failure.text == *key)
            }),
            Work::Restore { task } => {
                by_number(&|entry: &Entry| entry.standing == Standing::Void { task: *task })
            }
            Work::Confirm { hold } | Work::Dismiss { hold } => {
                by_number(&|entry: &Entry| entry.standing == Standing::Held { hold: *hold })
            }
            Work::Everyone => {
                let later = self.addresses.range(after.1.saturating_add(1)..).take(limit);
                later
                    .map(|(id, _)| Scanned { cursor: (0, *id), address: *id, entry: None })
                    .collect()
            }
        })
    }

    fn ripe(&self, step: CleanUpStep, before: Timestamp, limit: u32) -> Answer<Vec<u64>> {
        let before = in_millis(before);
        let due = |record: &AddressRecord| match step {
            CleanUpStep::Evidence => (record.condition.state == State::Valid
                && record.last_entry_at < before)
                .then_some(record.last_entry_at),
            _ => record.condition.changes_at.filter(|at| *at <= before),
        };
        let mut ripe: Vec<(Timestamp, u64)> = self
            .addresses
            .iter()
            .filter_map(|(id, record)| due(record).map(|at| (at, *id)))
            .collect();
        ripe.sort_unstable();
        Ok(ripe.into_iter().take(limit as usize).map(|(_, id)| id).collect())
    }
}

impl LedgerRowsMut for Shelf {
    fn insert_address(&mut self, record: &AddressRecord) -> Answer<u64> {
        self.last_address += 1;
        self.by_name.insert(record.address.clone(), self.last_address);
        self.addresses.insert(self.last_address, record.clone());
        Ok(self.last_address)
    }

    fn update_address(&mut self, id: u64, record: &AddressRecord) -> Answer<()> {
        self.addresses.insert(id, record.clone());
        Ok(())
    }

    fn delete_address(&mut self, id: u64) -> Answer<u64> {
        if let Some(record) = self.addresses.remove(&id) {
            self.by_name.remove(&record.address);
        }
        let before = self.entries.len();
        self.entries.retain(|_, (address, _)| *address != id);
        self.actions.retain(|_, (address, _)| *address != id);
        Ok((before - self.entries.len()) as u64)
    }

    fn insert_entry(
        &mut self,
        address: u64,
        evidence: &Evidence,
        standing: Standing,
    ) -> Answer<EntryId> {
        self.last_entry += 1;
        let id = EntryId(self.last_entry);
        let entry = Entry { id, evidence: evidence.clone(), standing, person: None };
        self.entries.insert(id.0, (address, entry));
        Ok(id)
    }

    fn delete_entry(&mut self, entry: EntryId) -> Answer<()> {
        self.entries.remove(&entry.0);
        Ok(())
    }

    fn set_standing(&mut self, entry: EntryId, standing: Standing) -> Answer<()> {
        if let Some((_, entry)) = self.entries.get_mut(&entry.0) {
            entry.standing = standing;
        }
        Ok(())
    }

    fn set_qualification(
        &mut self,
        entry: EntryId,
        meaning: Qualification,
        rule: &str,
        version: &str,
    ) -> Answer<()> {
        if let Some((_, entry)) = self.entries.get_mut(&entry.0)
            && let Finding::Failed(failure) = &mut entry.evidence.finding
        {
            failure.qualification = meaning;
            failure.rule = rule.into();
            failure.version = version.into();
        }
        Ok(())
    }

    fn insert_action(&mut self, address: u64, action: &Action) -> Answer<u64> {
        self.last_action += 1;
        let id = self.last_action;
        self.actions.insert(id, (address, Action { id, ..action.clone() }));
        Ok(id)
    }

    fn delete_action(&mut self, action: u64) -> Answer<()> {
        self.actions.remove(&action);
        Ok(())
    }

    fn see(&mut self, key: SeenKey, at: Timestamp) -> Answer<bool> {
        let new = !self.seen.contains_key(&key);
        self.seen.entry(key).or_insert(at);
        Ok(new)
    }

    fn put_text(&mut self, record: &TextRecord, _: bool) -> Answer<()> {
        self.texts.insert(record.key, record.clone());
        Ok(())
    }

    fn text_count(&self) -> Answer<u64> {
        Ok(self.texts.len() as u64)
    }

    fn add_stray(&mut self, kind: Stray, day: u32, count: u32) -> Answer<()> {
        *self.strays.entry((day, kind)).or_default() += u64::from(count);
        Ok(())
    }

    fn insert_task(&mut self, record: &TaskRecord) -> Answer<u64> {
        self.last_task += 1;
        let record = TaskRecord { task: self.last_task, ..record.clone() };
        self.tasks.insert(self.last_task, (record, (0, 0)));
        Ok(self.last_task)
    }

    fn update_task(&mut self, task: u64, cursor: Cursor, addresses: u64) -> Answer<()> {
        if let Some((record, place)) = self.tasks.get_mut(&task) {
            record.addresses = addresses;
            *place = cursor;
        }
        Ok(())
    }

    fn delete_task(&mut self, task: u64) -> Answer<()> {
        self.tasks.remove(&task);
        Ok(())
    }

    fn insert_suppression(&mut self, record: &SuppressionRecord) -> Answer<()> {
        self.suppressions.entry(record.entry.clone()).or_insert_with(|| record.clone());
        Ok(())
    }

    fn delete_suppression(&mut self, entry: &Suppressed) -> Answer<()> {
        self.suppressions.remove(entry);
        Ok(())
    }

    fn put_hold(&mut self, record: &HoldRecord) -> Answer<()> {
        let in_millis = HoldRecord {
            doubted_since: in_millis(record.doubted_since),
            tripped_at: in_millis(record.tripped_at),
            ..record.clone()
        };
        self.holds.insert(record.hold, in_millis);
        Ok(())
    }

    fn prune_holds(&mut self, keep: u32) -> Answer<()> {
        let ended: BTreeSet<u64> = self
            .holds
            .values()
            .rev()
            .filter(|hold| hold.ended.is_some())
            .skip(keep as usize)
            .map(|hold| hold.hold)
            .collect();
        self.holds.retain(|id, _| !ended.contains(id));
        Ok(())
    }

    fn audit(&mut self, entry: &AuditEntry) -> Answer<()> {
        self.audit.push(AuditEntry { at: in_millis(entry.at), ..entry.clone() });
        Ok(())
    }

    fn prune(&mut self, step: CleanUpStep, before: Timestamp, limit: u32) -> Answer<u64> {
        let before = in_millis(before);
        let mut room = u64::from(limit);
        match step {
            CleanUpStep::Due | CleanUpStep::Evidence => {}
            CleanUpStep::Seen => {
                let old = self.seen.iter().filter(|(_, at)| **at < before);
                for key in oldest(old.map(|(key, at)| (*at, *key)), limit) {
                    room -= 1;
                    self.seen.remove(&key);
                }
            }
            CleanUpStep::Strays => {
                let day = before.as_secs() / 86_400;
                self.strays.retain(|(of, _), _| {
                    let dropped = u64::from(*of) < day && room > 0;
                    room -= u64::from(dropped);
                    !dropped
                });
            }
            CleanUpStep::Texts => {
                let old = self
                    .texts
                    .iter()
                    .filter(|(_, text)| text.last_at < before && text.by_person.is_none());
                for key in oldest(old.map(|(key, text)| (text.last_at, *key)), limit) {
                    room -= 1;
                    self.texts.remove(&key);
                }
            }
        }
        Ok(u64::from(limit) - room)
    }
}

/// The keys of the `limit` oldest.
fn oldest<Key: Ord>(old: impl Iterator<Item = (Timestamp, Key)>, limit: u32) -> Vec<Key> {
    let mut old: Vec<(Timestamp, Key)> = old.collect();
    old.sort();
    old.into_iter().take(limit as usize).map(|(_, key)| key).collect()
}
