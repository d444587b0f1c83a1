//! What each write does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::quarantine::{
    ACTIONS_KEPT, Action, AddressHash, AddressRecord, Author, Change, Channel, CleanUpStep,
    Cleaned, Condition, Deed, ENTRIES_KEPT, EntryId, Evidence, Finding, HOLDS_KEPT, History,
    HoldEnd, HoldRecord, Imported, LedgerWrite, LedgerWritten, MetText, NewEntry,
    OCCURRENCES_LIMIT, Policy, Qualification, REPLY_LIMIT, Recorded, SEEN_KEPT_FOR,
    SESSION_SEEN_KEPT_FOR, Standing, State, Stray, Suppressed, SuppressionRecord, TEXT_LIMIT,
    TEXTS_KEPT, TaskRecord, TextKey, TextRecord, Work, judge, oldest_without_weight,
};
use mail::time::Timestamp;

use super::{Halt, LedgerRowsMut, condition_in_millis, in_millis};
use crate::limits::cut;
use crate::words::{AuditEntry, RefusedWrite};

/// How a text was met in one write.
struct Meeting<'a> {
    first: &'a MetText,
    last: &'a MetText,
    count: u32,
}

/// The texts that were met in one write.
type MetTexts<'a> = BTreeMap<TextKey, Meeting<'a>>;

fn note_text<'a>(met: &mut MetTexts<'a>, text: &'a MetText) {
    let meeting = met.entry(text.key).or_insert(Meeting { first: text, last: text, count: 0 });
    meeting.last = text;
    meeting.count += 1;
}

/// The changes of one write, one for each address.
#[derive(Default)]
pub(super) struct Changes {
    list: Vec<Change>,
    places: BTreeMap<Box<str>, usize>,
}

impl Changes {
    pub(super) fn note(&mut self, change: Change) {
        match self.places.get(&change.address) {
            Some(place) => {
                let known = &mut self.list[*place];
                (known.after, known.known) = (change.after, change.known);
            }
            None => {
                self.places.insert(change.address.clone(), self.list.len());
                self.list.push(change);
            }
        }
    }

    /// What differs at the end.
    pub(super) fn finish(self) -> Vec<Change> {
        let differs = |change: &Change| change.before != change.after || !change.known;
        self.list.into_iter().filter(differs).collect()
    }
}

/// A write at work on the rows of a store.
pub(crate) struct Ledger<'a, R: LedgerRowsMut> {
    pub(super) rows: &'a mut R,
}

pub(super) type Done<T, R> = Result<T, Halt<<R as super::LedgerRows>::Fault>>;

impl<'a, R: LedgerRowsMut> Ledger<'a, R> {
    /// Works on these rows.
    pub(crate) fn on(rows: &'a mut R) -> Self {
        Self { rows }
    }

    /// Applies a write whose bounds were checked.
    pub(crate) fn write(&mut self, write: &LedgerWrite) -> Done<LedgerWritten, R> {
        match write {
            LedgerWrite::Record { entries, policy, now } => {
                self.record(entries, policy, in_millis(*now)).map(LedgerWritten::Recorded)
            }
            LedgerWrite::Meet(texts) => {
                let mut met = MetTexts::new();
                texts.iter().for_each(|text| note_text(&mut met, text));
                self.meet(met)?;
                Ok(LedgerWritten::Done)
            }
            LedgerWrite::Stray { kind, count, at } => {
                self.stray(*kind, *count, *at)?;
                Ok(LedgerWritten::Done)
            }
            LedgerWrite::Act { deeds, author, policy, now } => {
                self.act(deeds, author, policy, in_millis(*now)).map(LedgerWritten::Changed)
            }
            LedgerWrite::Qualify { key, qualification, author, now } => {
                self.qualify(*key, *qualification, author, *now).map(LedgerWritten::Started)
            }
            LedgerWrite::Requalify { entries, version, policy, now } => self
                .requalify(entries, version, policy, in_millis(*now))
                .map(LedgerWritten::Changed),
            LedgerWrite::Start { work, author, now } => {
                self.start(work, author, *now).map(LedgerWritten::Started)
            }
            LedgerWrite::GoOn { task, limit, policy, now } => self
                .go_on(*task, (*limit).max(1), policy, in_millis(*now))
                .map(LedgerWritten::Worked),
            LedgerWrite::Suppress { entries, author, now } => {
                self.suppress(entries, author, *now)?;
                Ok(LedgerWritten::Done)
            }
            LedgerWrite::Unsuppress { entries, author, now } => {
                entries.iter().try_for_each(|entry| self.rows.delete_suppression(entry))?;
                let what = format!("took {} off the suppression list", entries.len());
                self.audit(author, what, *now)?;
                Ok(LedgerWritten::Done)
            }
            LedgerWrite::Forget { address, author, now } => {
                self.forget(address, author, *now).map(LedgerWritten::Changed)
            }
            LedgerWrite::Hold(record) => {
                self.rows.put_hold(record)?;
                self.rows.prune_holds(HOLDS_KEPT)?;
                Ok(LedgerWritten::Done)
            }
            LedgerWrite::EndHold { hold, end, author, now } => {
                let task = self.end_hold(*hold, *end, author, *now)?;
                Ok(task.map_or(LedgerWritten::Done, LedgerWritten::Started))
            }
            LedgerWrite::CleanUp { step, limit, policy, now } => self
                .clean_up(*step, (*limit).max(1), policy, in_millis(*now))
                .map(LedgerWritten::Cleaned),
        }
    }

    pub(super) fn audit(&mut self, author: &Author, what: String, at: Timestamp) -> Done<(), R> {
        let (who, why, what) = (author.who.clone(), author.why.clone(), what.into());
        Ok(self.rows.audit(&AuditEntry { at, who, what, why })?)
    }

    fn stray(&mut self, kind: Stray, count: u32, at: Timestamp) -> Done<(), R> {
        let day = u32::try_from(at.as_secs() / 86_400).unwrap_or(u32::MAX);
        Ok(self.rows.add_stray(kind, day, count)?)
    }

    fn record(
        &mut self,
        entries: &[NewEntry],
        policy: &Policy,
        now: Timestamp,
    ) -> Done<Recorded, R> {
        let mut recorded = Recorded::default();
        let mut changes = Changes::default();
        let mut met = MetTexts::new();
        let ended = self.ended_holds(entries)?;
        for (place, new) in (0..).zip(entries) {
            if self.is_repeated(new, now)? {
                self.stray(Stray::Repeated, 1, now)?;
                recorded.repeated.push(place);
                continue;
            }
            if let Some(text) = &new.text {
                note_text(&mut met, text);
            }
            if !new.evidence.authentic {
                self.stray(Stray::Forged, 1, now)?;
                continue;
            }
            let confirmed = |hold: &u64| {
                ended.get(hold).is_some_and(|hold| ends_as(hold) == Some(HoldEnd::Confirmed))
            };
            let standing = match new.hold.filter(|hold| !confirmed(hold)) {
                Some(hold) if !new.evidence.is_delivery() => Standing::Held { hold },
                _ => Standing::Live,
            };
            if self.enter(new, standing, policy, now, &mut changes)? {
                recorded.recorded += 1;
            }
        }
        for hold in ended.values().filter(|hold| ends_as(hold) != Some(HoldEnd::Confirmed)) {
            // The task that made void what it held has passed by these entries.
            let author = Author { who: hold.who.clone(), why: hold.why.clone() };
            self.start(&Work::Dismiss { hold: hold.hold }, &author, now)?;
        }
        self.meet(met)?;
        recorded.changes = changes.finish();
        Ok(recorded)
    }

    /// The holds that ended between the doubt about an entry and its write.
    fn ended_holds(&self, entries: &[NewEntry]) -> Done<BTreeMap<u64, HoldRecord>, R> {
        let holds: BTreeSet<u64> = entries.iter().filter_map(|new| new.hold).collect();
        let mut ended = BTreeMap::new();
        for hold in holds {
            let found = self.rows.find_hold(hold)?.filter(|record| record.ended.is_some());
            ended.extend(found.map(|record| (hold, record)));
        }
        Ok(ended)
    }

    /// Whether one of its keys was used before; remembers all of them.
    fn is_repeated(&mut self, new: &NewEntry, now: Timestamp) -> Done<bool, R> {
        let mut repeated = false;
        // The clean-up drops all keys at the same age: these are born older.
        let age = match new.evidence.channel {
            Channel::Synchronous => SEEN_KEPT_FOR.saturating_sub(SESSION_SEEN_KEPT_FOR),
            _ => Duration::ZERO,
        };
        let at = now.saturating_sub(age);
        for key in &new.seen {
            repeated |= !self.rows.see(*key, at)?;
        }
        Ok(repeated)
    }

    /// Enters one entry and judges its address. Answers whether it was worth it.
    fn enter(
        &mut self,
        new: &NewEntry,
        standing: Standing,
        policy: &Policy,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Done<bool, R> {
        let mut evidence = Evidence { at: in_millis(new.evidence.at), ..new.evidence.clone() };
        if let Finding::Failed(failure) = &mut evidence.finding {
            failure.reply = cut(&failure.reply, REPLY_LIMIT).into();
        }
        let found = self.rows.find_address(&evidence.address)?;
        let (id, record) = match found {
            None if evidence.is_delivery() => return Ok(false),
            found => self.known(found, &evidence.address, now)?,
        };
        self.rows.insert_entry(id, &evidence, standing)?;
        let mut history = self.rows.history_of(id, &record.address)?;
        while history.entries.len() > ENTRIES_KEPT {
            let oldest = || history.entries.iter().map(|entry| entry.id).min();
            let Some(entry) = oldest_without_weight(&history, policy, now).or_else(oldest) else {
                break;
            };
            self.rows.delete_entry(entry)?;
            history.entries.retain(|kept| kept.id != entry);
        }
        let record = AddressRecord { last_entry_at: now, ..record };
        self.settle(id, record, &history, policy, now, changes)?;
        Ok(true)
    }

    /// The row of an address; makes one where there is none.
    fn known(
        &mut self,
        found: Option<(u64, AddressRecord)>,
        address: &str,
        now: Timestamp,
    ) -> Done<(u64, AddressRecord), R> {
        if let Some(found) = found {
            return Ok(found);
        }
        let record = AddressRecord {
            address: address.into(),
            condition: Condition::default(),
            created_at: now,
            changed_at: now,
            last_entry_at: now,
        };
        Ok((self.rows.insert_address(&record)?, record))
    }

    /// Judges an address, writes its row and notes the change.
    pub(super) fn settle(
        &mut self,
        id: u64,
        record: AddressRecord,
        history: &History,
        policy: &Policy,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Done<(), R> {
        let after = condition_in_millis(&judge(history, policy, now));
        self.conclude(id, record, after, now, changes)
    }

    /// Writes the row of an address that was judged, and notes the change.
    pub(super) fn conclude(
        &mut self,
        id: u64,
        mut record: AddressRecord,
        after: Condition,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Done<(), R> {
        let before = std::mem::replace(&mut record.condition, after);
        if before != after {
            record.changed_at = now;
        }
        self.rows.update_address(id, &record)?;
        changes.note(Change { address: record.address, before, after, known: true });
        Ok(())
    }

    /// Counts texts, each once for all that met it in this write.
    fn meet(&mut self, met: MetTexts<'_>) -> Done<(), R> {
        for (key, Meeting { first, last, count }) in met {
            let (first_at, last_at) = (in_millis(first.at), in_millis(last.at));
            let found = self.rows.find_text(key)?;
            let new = found.is_none();
            if new && self.rows.text_count()? >= TEXTS_KEPT {
                self.stray(Stray::TextLeftOut, count, last_at)?;
                continue;
            }
            let mut record = found.unwrap_or_else(|| TextRecord {
                key,
                normalised: cut(&first.normalised, TEXT_LIMIT).into(),
                first_raw: cut(&first.raw, TEXT_LIMIT).into(),
                host: first.host.clone(),
                by_rule: last.qualification,
                rule: "".into(),
                version: "".into(),
                by_person: None,
                qualified_by: "".into(),
                occurrences: 0,
                first_at,
                last_at,
            });
            record.occurrences = record.occurrences.saturating_add(count).min(OCCURRENCES_LIMIT);
            record.last_at = record.last_at.max(last_at);
            record.by_rule = last.qualification;
            record.rule = (&*last.rule).into();
            record.version = (&*last.version).into();
            self.rows.put_text(&record, new)?;
        }
        Ok(())
    }

    fn act(
        &mut self,
        deeds: &[(Box<str>, Deed)],
        author: &Author,
        policy: &Policy,
        now: Timestamp,
    ) -> Done<Vec<Change>, R> {
        let mut changes = Changes::default();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (address, deed) in deeds {
            let found = self.rows.find_address(address)?;
            if let Some((id, record)) = &found
                && self.is_so_already(*id, record, deed, policy, now)?
            {
                continue;
            }
            let deed = match deed {
                Deed::Import(imported) => Deed::Import(import_in_millis(imported).ended_by(policy)),
                other => other.clone(),
            };
            *counts.entry(deed.word()).or_default() += 1;
            let (id, record) = self.known(found, address, now)?;
            let (who, why) = (author.who.clone(), author.why.clone());
            self.rows.insert_action(id, &Action { id: 0, at: now, deed, who, why })?;
            let mut history = self.rows.history_of(id, &record.address)?;
            if history.actions.len() > ACTIONS_KEPT
                && let Some(oldest) = history.actions.iter().map(|action| action.id).min()
            {
                self.rows.delete_action(oldest)?;
                history.actions.retain(|action| action.id != oldest);
            }
            let record = AddressRecord { last_entry_at: now, ..record };
            self.settle(id, record, &history, policy, now, &mut changes)?;
        }
        // No address is named in the audit trail, so that it can be forgotten.
        for (word, count) in counts {
            self.audit(author, format!("{word}: {count} addresses"), now)?;
        }
        Ok(changes.finish())
    }

    /// Whether a deed would change nothing of what is known of an address: it leaves no trail then.
    fn is_so_already(
        &self,
        id: u64,
        record: &AddressRecord,
        deed: &Deed,
        policy: &Policy,
        now: Timestamp,
    ) -> Done<bool, R> {
        if record.condition.state == State::Denylisted && deed.yields_to_denylist() {
            return Ok(true);
        }
        Ok(match deed {
            Deed::Import(imported) => {
                import_in_millis(imported).is_met_by(&record.condition, policy, now)
            }
            // Only the same word is no news: that a complainer unsubscribes too is one.
            Deed::Unsubscribe => {
                let actions = self.rows.history_of(id, &record.address)?.actions;
                let last = actions.iter().max_by_key(|action| action.id);
                last.is_some_and(|action| action.deed == Deed::Unsubscribe)
            }
            _ => false,
        })
    }

    fn qualify(
        &mut self,
        key: TextKey,
        qualification: Option<Qualification>,
        author: &Author,
        now: Timestamp,
    ) -> Done<u64, R> {
        let Some(mut record) = self.rows.find_text(key)? else {
            return Err(Halt::Refused(RefusedWrite::UnknownText(key)));
        };
        record.by_person = qualification;
        record.qualified_by = if qualification.is_some() { author.who.clone() } else { "".into() };
        self.rows.put_text(&record, false)?;
        let what = match qualification {
            None => format!("text {key} is left to the rules"),
            Some(meaning) => format!(
                "text {key} means {}, {}, {}",
                meaning.reason, meaning.failure_type, meaning.status
            ),
        };
        self.audit(author, what, now)?;
        self.insert_task(Work::Text { key }, author, now)
    }

    fn requalify(
        &mut self,
        entries: &[(EntryId, Qualification, Arc<str>)],
        version: &str,
        policy: &Policy,
        now: Timestamp,
    ) -> Done<Vec<Change>, R> {
        let mut addresses = BTreeSet::new();
        for (entry, meaning, rule) in entries {
            if let Some(address) = self.rows.address_of_entry(*entry)? {
                self.rows.set_qualification(*entry, *meaning, rule, version)?;
                addresses.insert(address);
            }
        }
        let mut changes = Changes::default();
        for id in addresses {
            if let Some(record) = self.rows.address_by_id(id)? {
                let history = self.rows.history_of(id, &record.address)?;
                self.settle(id, record, &history, policy, now, &mut changes)?;
            }
        }
        Ok(changes.finish())
    }

    fn start(&mut self, work: &Work, author: &Author, now: Timestamp) -> Done<u64, R> {
        let what = serde_json::to_string(work).expect("the words of a task are plain data");
        self.audit(author, format!("started {what}"), now)?;
        self.insert_task(work.clone(), author, now)
    }

    fn insert_task(&mut self, work: Work, author: &Author, now: Timestamp) -> Done<u64, R> {
        let (who, why) = (author.who.clone(), author.why.clone());
        let started_at = in_millis(now);
        let record = TaskRecord { task: 0, work, who, why, started_at, addresses: 0 };
        Ok(self.rows.insert_task(&record)?)
    }

    fn suppress(&mut self, entries: &[Suppressed], author: &Author, now: Timestamp) -> Done<(), R> {
        for entry in entries {
            self.rows.insert_suppression(&SuppressionRecord {
                entry: entry.clone(),
                at: in_millis(now),
                who: author.who.clone(),
                why: author.why.clone(),
            })?;
        }
        self.audit(author, format!("put {} on the suppression list", entries.len()), now)
    }

    fn forget(&mut self, address: &str, author: &Author, now: Timestamp) -> Done<Vec<Change>, R> {
        let hash = Suppressed::Address(AddressHash::of(address));
        self.suppress(&[hash], author, now)?;
        let Some((id, record)) = self.rows.find_address(address)? else { return Ok(Vec::new()) };
        self.rows.delete_address(id)?;
        Ok(vec![gone(record)])
    }

    fn end_hold(
        &mut self,
        hold: u64,
        end: HoldEnd,
        author: &Author,
        now: Timestamp,
    ) -> Done<Option<u64>, R> {
        let found = self.rows.find_hold(hold)?.filter(|record| record.ended.is_none());
        let Some(mut record) = found else { return Ok(None) };
        record.ended = Some((in_millis(now), end));
        (record.who, record.why) = (author.who.clone(), author.why.clone());
        self.rows.put_hold(&record)?;
        // In the same commit: a hold without its end would be wrong, and so would an end without its consequence.
        let work = match end {
            HoldEnd::Confirmed => Work::Confirm { hold },
            HoldEnd::Dismissed | HoldEnd::CalmedDown => Work::Dismiss { hold },
        };
        self.start(&work, author, now).map(Some)
    }

    fn clean_up(
        &mut self,
        step: CleanUpStep,
        limit: u32,
        policy: &Policy,
        now: Timestamp,
    ) -> Done<Cleaned, R> {
        let before = step.horizon(now);
        if !matches!(step, CleanUpStep::Due | CleanUpStep::Evidence) {
            let dropped = self.rows.prune(step, before, limit)?;
            return Ok(Cleaned { changes: Vec::new(), dropped, more: dropped >= limit.into() });
        }
        let (mut cleaned, mut changes) = (Cleaned::default(), Changes::default());
        let ripe = self.rows.ripe(step, before, limit)?;
        cleaned.more = ripe.len() >= limit as usize;
        for id in ripe {
            let Some(record) = self.rows.address_by_id(id)? else { continue };
            if step == CleanUpStep::Evidence {
                cleaned.dropped += self.rows.delete_address(id)?;
                changes.note(gone(record));
                continue;
            }
            let history = self.rows.history_of(id, &record.address)?;
            self.settle(id, record, &history, policy, now, &mut changes)?;
        }
        cleaned.changes = changes.finish();
        Ok(cleaned)
    }
}

/// The change of an address that is not known any more.
fn gone(record: AddressRecord) -> Change {
    let (before, after) = (record.condition, Condition::default());
    Change { address: record.address, before, after, known: false }
}

fn ends_as(hold: &HoldRecord) -> Option<HoldEnd> {
    hold.ended.map(|(_, end)| end)
}

fn import_in_millis(imported: &Imported) -> Imported {
    Imported {
        since: in_millis(imported.since),
        until: imported.until.map(in_millis),
        last_counted_at: imported.last_counted_at.map(in_millis),
        ..*imported
    }
}
