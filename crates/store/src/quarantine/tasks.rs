//! Tasks over many addresses, and their previews.

use engine::quarantine::{
    Assumption, Change, Difference, EntryId, History, Policy, Worked, work_on,
};
use engine::quarantine::{Entry, Selection, Work};
use mail::time::Timestamp;

use super::apply::{Changes, Done, Ledger};
use super::{Halt, LedgerRows, LedgerRowsMut, Scanned, condition_in_millis};
use crate::ledger_reads::{AddressHistory, LedgerPlace};
use crate::words::RefusedWrite;

/// The number of the first entry on the task's way that concerns it, after which its address is done.
fn first_concerned(history: &History, work: &Work) -> Option<EntryId> {
    let way = |entry: &&Entry| match work {
        Work::Undo { .. } | Work::Hold { .. } => (entry.evidence.at, entry.id),
        _ => (Timestamp::EPOCH, entry.id),
    };
    history
        .entries
        .iter()
        .filter(|entry| work.concerns(entry))
        .min_by_key(way)
        .map(|entry| entry.id)
}

/// Whether a task has to do with what was scanned, from the entry alone.
fn may_concern(work: &Work, scanned: &Scanned) -> bool {
    scanned.entry.as_ref().is_none_or(|entry| work.concerns(entry))
}

impl<R: LedgerRowsMut> Ledger<'_, R> {
    /// One stretch of a task.
    pub(super) fn go_on(
        &mut self,
        task: u64,
        limit: u32,
        policy: &Policy,
        now: Timestamp,
    ) -> Done<Worked, R> {
        let Some(stored) = self.rows.find_task(task)? else {
            return Err(Halt::Refused(RefusedWrite::UnknownTask(task)));
        };
        let work = &stored.record.work;
        let assumption = Assumption { policy: policy.clone(), qualification: None };
        let way = self.rows.scan(work, stored.cursor, limit)?;
        let mut worked = Worked { done: way.len() < limit as usize, ..Worked::default() };
        let mut changes = Changes::default();
        for scanned in way.iter().filter(|scanned| may_concern(work, scanned)) {
            let Some(record) = self.rows.address_by_id(scanned.address)? else { continue };
            let mut history = self.rows.history_of(scanned.address, &record.address)?;
            // Where entries are changed none is left to change after the first of an address; where they are
            // only judged anew the first of them does it.
            let first = first_concerned(&history, work);
            let changing = !matches!(work, Work::Text { .. } | Work::Everyone);
            match &scanned.entry {
                Some(_) if changing && first.is_none() => continue,
                Some(entry) if !changing && first != Some(entry.id) => continue,
                _ => {}
            }
            let before = record.condition;
            let address = record.address.clone();
            let (touched, after) = work_on(&mut history, work, task, &assumption, now);
            for place in &touched {
                let entry = &history.entries[*place];
                self.rows.set_standing(entry.id, entry.standing)?;
            }
            let after = condition_in_millis(&after);
            let change = Change { address, before, after, known: true };
            worked.difference.add(&change, touched.len() as u64);
            self.conclude(scanned.address, record, after, now, &mut changes)?;
        }
        worked.changes = changes.finish();
        let addresses = stored.record.addresses + worked.difference.addresses;
        match way.last() {
            Some(last) if !worked.done => self.rows.update_task(task, last.cursor, addresses)?,
            _ => self.rows.delete_task(task)?,
        }
        Ok(worked)
    }
}

/// One stretch of what a task would do. Answers where to go on; `None`: it was the last one.
pub(crate) fn preview<R: LedgerRows>(
    rows: &R,
    work: &Work,
    assumption: &Assumption,
    after: LedgerPlace,
    limit: u32,
    now: Timestamp,
) -> Result<(Difference, Option<LedgerPlace>), R::Fault> {
    let mut difference = Difference::default();
    let way = rows.scan(work, (after.0, after.1), limit)?;
    for scanned in way.iter().filter(|scanned| may_concern(work, scanned)) {
        let Some(record) = rows.address_by_id(scanned.address)? else { continue };
        let mut history = rows.history_of(scanned.address, &record.address)?;
        if let Some(entry) = &scanned.entry
            && first_concerned(&history, work) != Some(entry.id)
        {
            continue;
        }
        let (touched, after) = work_on(&mut history, work, 0, assumption, now);
        let after = condition_in_millis(&after);
        let (address, before) = (record.address, record.condition);
        difference.add(&Change { address, before, after, known: true }, touched.len() as u64);
    }
    Ok((difference, next_place(&way, limit)))
}

/// Where the page after this one begins; `None`: there is none.
fn next_place(way: &[Scanned], limit: u32) -> Option<LedgerPlace> {
    let last = way.last().filter(|_| way.len() >= limit as usize)?;
    Some(LedgerPlace(last.cursor.0, last.cursor.1))
}

/// Entries that a selection takes, among the next ones of its window; and where to go on.
pub(crate) fn selected<R: LedgerRows>(
    rows: &R,
    selection: &Selection,
    after: LedgerPlace,
    limit: u32,
) -> Result<(Vec<Entry>, Option<LedgerPlace>), R::Fault> {
    let work = Work::Undo { selection: selection.clone() };
    let way = rows.scan(&work, (after.0, after.1), limit)?;
    let next = next_place(&way, limit);
    let entries = way.into_iter().filter_map(|scanned| scanned.entry);
    Ok((entries.filter(|entry| selection.takes(entry)).collect(), next))
}

/// A page of addresses with all that is recorded about them, by number.
pub(crate) fn histories<R: LedgerRows>(
    rows: &R,
    after: u64,
    limit: u32,
) -> Result<Vec<AddressHistory>, R::Fault> {
    let way = rows.scan(&Work::Everyone, (0, after), limit)?;
    let mut found = Vec::with_capacity(way.len());
    for scanned in way {
        let id = scanned.address;
        let Some(record) = rows.address_by_id(id)? else { continue };
        let history = rows.history_of(id, &record.address)?;
        found.push(AddressHistory { id, record, history });
    }
    Ok(found)
}
