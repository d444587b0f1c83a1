//! How the words of the ledger are written in columns. The codes are on disks: they never change.

use engine::quarantine::{
    AddressHash, Cause, Channel, Counts, DomainMask, EntryId, HoldEnd, Qualification, Standing,
    State, Stray, Suppressed, TextStatus,
};
use mail::failure::{FailureType, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::codec::{number, unexpected};

type Answer<T> = rusqlite::Result<T>;

/// Makes a pair of functions between words and codes.
macro_rules! codes {
    ($to:ident, $from:ident, $word:ty, $what:literal, $($code:literal => $variant:path),* $(,)?) => {
        pub(super) const fn $to(word: $word) -> i64 {
            match word { $($variant => $code,)* }
        }
        pub(super) fn $from(code: i64) -> Answer<$word> {
            Ok(match code { $($code => $variant,)* _ => return Err(unexpected($what)) })
        }
    };
}

codes!(reason_code, reason, Reason, "reason",
    0 => Reason::UserUnknown, 1 => Reason::AccountDisabled, 2 => Reason::MailboxFull,
    3 => Reason::InactiveUser, 4 => Reason::InvalidDomain, 5 => Reason::Refused,
    6 => Reason::Unreachable, 7 => Reason::ErrorIgnored, 8 => Reason::Complaint,
    9 => Reason::NotDefined);
codes!(type_code, failure_type, FailureType, "type of a failure",
    0 => FailureType::Hard, 1 => FailureType::Soft, 2 => FailureType::Ignored);
codes!(status_code, status, TextStatus, "status of a text",
    0 => TextStatus::ToQualify, 1 => TextStatus::Keep, 2 => TextStatus::Ignore);
codes!(state_code, state, State, "state of an address",
    0 => State::Valid, 1 => State::WithErrors, 2 => State::Quarantined, 3 => State::Denylisted,
    4 => State::Allowlisted);
codes!(channel_code, channel, Channel, "channel",
    0 => Channel::Synchronous, 1 => Channel::Asynchronous);
codes!(stray_code, stray, Stray, "kind of a stray",
    0 => Stray::Forged, 1 => Stray::Foreign, 2 => Stray::Repeated, 3 => Stray::Unreadable,
    4 => Stray::TextLeftOut);
codes!(end_code, hold_end, HoldEnd, "end of a hold",
    0 => HoldEnd::Confirmed, 1 => HoldEnd::Dismissed, 2 => HoldEnd::CalmedDown);

pub(super) const fn cause_code(cause: Cause) -> (i64, u64) {
    match cause {
        Cause::Nothing => (0, 0),
        Cause::Entry(id) => (1, id.0),
        Cause::Action(id) => (2, id),
    }
}

pub(super) fn cause(code: i64, id: i64) -> Answer<Cause> {
    Ok(match code {
        0 => Cause::Nothing,
        1 => Cause::Entry(EntryId(number(id)?)),
        2 => Cause::Action(number(id)?),
        _ => return Err(unexpected("cause")),
    })
}

pub(super) const fn standing_code(standing: Standing) -> (i64, u64) {
    match standing {
        Standing::Live => (0, 0),
        Standing::Held { hold } => (1, hold),
        Standing::Void { task } => (2, task),
    }
}

pub(super) fn standing(code: i64, by: i64) -> Answer<Standing> {
    Ok(match code {
        0 => Standing::Live,
        1 => Standing::Held { hold: number(by)? },
        2 => Standing::Void { task: number(by)? },
        _ => return Err(unexpected("standing of an entry")),
    })
}

pub(super) fn qualification(reason_: i64, type_: i64, status_: i64) -> Answer<Qualification> {
    Ok(Qualification {
        reason: reason(reason_)?,
        failure_type: failure_type(type_)?,
        status: status(status_)?,
    })
}

/// Pairs of a reason's code and its count.
pub(super) fn counts_blob(counts: &Counts) -> Vec<u8> {
    counts.iter().flat_map(|(reason, count)| [reason_code(reason) as u8, count]).collect()
}

pub(super) fn counts(blob: &[u8]) -> Answer<Counts> {
    let (pairs, rest) = blob.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(unexpected("length of counts"));
    }
    let mut counts = Counts::default();
    for [code, count] in pairs {
        counts.set(reason(i64::from(*code))?, *count);
    }
    Ok(counts)
}

/// 0 and the octets of a hash, or 1 and a mask in UTF-8.
pub(super) fn suppressed_blob(entry: &Suppressed) -> Vec<u8> {
    match entry {
        Suppressed::Address(hash) => [&[0], &hash.0[..]].concat(),
        Suppressed::Domain(mask) => [&[1], mask.as_str().as_bytes()].concat(),
    }
}

pub(super) fn suppressed(blob: &[u8]) -> Answer<Suppressed> {
    let fault = || unexpected("entry of the suppression list");
    let (kind, rest) = blob.split_first().ok_or_else(fault)?;
    match kind {
        0 => Ok(Suppressed::Address(AddressHash(rest.try_into().map_err(|_| fault())?))),
        1 => {
            let text = core::str::from_utf8(rest).map_err(|_| fault())?;
            Ok(Suppressed::Domain(DomainMask::parse(text).map_err(|_| fault())?))
        }
        _ => Err(fault()),
    }
}

pub(super) fn to_json(value: &impl Serialize) -> Answer<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Answer<T> {
    serde_json::from_str(text).map_err(|error| unexpected(&format!("JSON: {error}")))
}
