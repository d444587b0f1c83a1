//! How words are written in columns.

use engine::work::{DeliveryState, FinalState};
use mail::time::Timestamp;
use rusqlite::types::{FromSqlError, Type};

/// A value that this program never writes.
pub(super) fn unexpected(what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        0,
        Type::Null,
        Box::new(FromSqlError::Other(format!("unexpected {what}").into())),
    )
}

/// The code of a delivery's state.
pub(super) const fn delivery_code(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Draft => 0,
        DeliveryState::Running => 1,
        DeliveryState::Paused => 2,
        DeliveryState::Cancelled => 3,
        DeliveryState::Finished => 4,
    }
}

/// The state of a delivery from its code.
pub(super) fn delivery_state(code: i64) -> rusqlite::Result<DeliveryState> {
    Ok(match code {
        0 => DeliveryState::Draft,
        1 => DeliveryState::Running,
        2 => DeliveryState::Paused,
        3 => DeliveryState::Cancelled,
        4 => DeliveryState::Finished,
        _ => return Err(unexpected("state of a delivery")),
    })
}

/// The code of a final state; 0 is "not at its end".
pub(super) const fn final_code(state: FinalState) -> i64 {
    match state {
        FinalState::Sent => 1,
        FinalState::Failed => 2,
        FinalState::Expired => 3,
        FinalState::Cancelled => 4,
    }
}

/// A final state from its code; `None`: not at its end.
pub(super) fn final_state(code: i64) -> rusqlite::Result<Option<FinalState>> {
    Ok(Some(match code {
        0 => return Ok(None),
        1 => FinalState::Sent,
        2 => FinalState::Failed,
        3 => FinalState::Expired,
        4 => FinalState::Cancelled,
        _ => return Err(unexpected("state of a message")),
    }))
}

/// A number as a column: those above `i64::MAX` become that, which is beyond every number given out.
pub(super) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or number from a column that never holds negative ones.
pub(super) fn number(column: i64) -> rusqlite::Result<u64> {
    u64::try_from(column).map_err(|_| unexpected("negative number"))
}

/// A moment, rounded down.
pub(crate) fn floor_ms(at: Timestamp) -> i64 {
    column(at.as_millis())
}

/// A moment, rounded up: nothing is due before its time.
pub(crate) fn ceil_ms(at: Timestamp) -> i64 {
    column(at.as_micros().div_ceil(1_000))
}

/// A moment from its column.
pub(crate) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}
