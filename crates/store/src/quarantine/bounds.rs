//! The bounds of writes to the ledger.

use engine::quarantine::{
    Author, Deed, Evidence, Finding, LedgerWrite, MetText, NewEntry, WRITE_LIMIT, Work,
};

use crate::limits::{ADDRESS_LIMIT, within};
use crate::words::RefusedWrite;

/// Octets of who and why.
const AUTHOR_LIMIT: usize = 2_000;
/// Keys of one bounce.
const SEEN_LIMIT: usize = 16;

fn check_author(author: &Author) -> Result<(), RefusedWrite> {
    within("a name (octets)", author.who.len(), AUTHOR_LIMIT)?;
    within("a reason (octets)", author.why.len(), AUTHOR_LIMIT)
}

fn check_address(place: usize, address: &str) -> Result<(), RefusedWrite> {
    if address.is_empty() {
        return Err(RefusedWrite::EmptyAddress { line: place as u64 + 1 });
    }
    within("an address (octets)", address.len(), ADDRESS_LIMIT)
}

fn check_rule(rule: &str, version: &str) -> Result<(), RefusedWrite> {
    within("the name of a rule (octets)", rule.len(), ADDRESS_LIMIT)?;
    within("a version (octets)", version.len(), ADDRESS_LIMIT)
}

fn check_text(text: &MetText) -> Result<(), RefusedWrite> {
    within("the name of a host (octets)", text.host.len(), ADDRESS_LIMIT)?;
    check_rule(&text.rule, &text.version)
}

fn check_evidence(place: usize, evidence: &Evidence) -> Result<(), RefusedWrite> {
    check_address(place, &evidence.address)?;
    within("a provider (octets)", evidence.provider.len(), ADDRESS_LIMIT)?;
    match &evidence.finding {
        Finding::Delivered => Ok(()),
        Finding::Failed(failure) => check_rule(&failure.rule, &failure.version),
    }
}

fn check_entry(place: usize, new: &NewEntry) -> Result<(), RefusedWrite> {
    check_evidence(place, &new.evidence)?;
    within("the number of keys of a bounce", new.seen.len(), SEEN_LIMIT)?;
    new.text.as_ref().map_or(Ok(()), check_text)
}

fn check_work(work: &Work) -> Result<(), RefusedWrite> {
    let (Work::Undo { selection } | Work::Hold { selection, .. }) = work else { return Ok(()) };
    for text in [&selection.provider, &selection.rule].into_iter().flatten() {
        within("a word of a selection (octets)", text.len(), ADDRESS_LIMIT)?;
    }
    Ok(())
}

/// Refuses a write that passes a bound.
pub(crate) fn check(write: &LedgerWrite) -> Result<(), RefusedWrite> {
    within("the size of a write", rows(write), WRITE_LIMIT)?;
    match write {
        LedgerWrite::Record { entries, .. } => {
            entries.iter().enumerate().try_for_each(|(place, new)| check_entry(place, new))
        }
        LedgerWrite::Meet(texts) => texts.iter().try_for_each(check_text),
        LedgerWrite::Act { deeds, author, .. } => {
            check_author(author)?;
            let check =
                |(place, (address, _)): (usize, &(Box<str>, Deed))| check_address(place, address);
            deeds.iter().enumerate().try_for_each(check)
        }
        LedgerWrite::Requalify { entries, version, .. } => {
            entries.iter().try_for_each(|(_, _, rule)| check_rule(rule, version))
        }
        LedgerWrite::Start { work, author, .. } => {
            check_author(author)?;
            check_work(work)
        }
        LedgerWrite::Qualify { author, .. }
        | LedgerWrite::Suppress { author, .. }
        | LedgerWrite::Unsuppress { author, .. }
        | LedgerWrite::EndHold { author, .. } => check_author(author),
        LedgerWrite::Forget { address, author, .. } => {
            check_author(author)?;
            check_address(0, address)
        }
        LedgerWrite::Hold(record) => {
            within("a provider (octets)", record.provider.len(), ADDRESS_LIMIT)
        }
        LedgerWrite::Stray { .. } | LedgerWrite::GoOn { .. } | LedgerWrite::CleanUp { .. } => {
            Ok(())
        }
    }
}

/// How many rows a write touches, about.
pub(crate) fn rows(write: &LedgerWrite) -> usize {
    match write {
        LedgerWrite::Record { entries, .. } => entries.len(),
        LedgerWrite::Meet(texts) => texts.len(),
        LedgerWrite::Act { deeds, .. } => deeds.len(),
        LedgerWrite::Requalify { entries, .. } => entries.len(),
        LedgerWrite::Suppress { entries, .. } | LedgerWrite::Unsuppress { entries, .. } => {
            entries.len()
        }
        LedgerWrite::GoOn { limit, .. } | LedgerWrite::CleanUp { limit, .. } => *limit as usize,
        _ => 1,
    }
}
