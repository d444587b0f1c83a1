//! Named places at which a test ends the process, as kill -9 would.
//!
//! **Promise.** A release has none of this: [`pass`] is empty there, and [`COMPILED`] is false. In a build with debug
//! assertions the environment variable `MAILWEIR_KILL_POINT=place/what:n` aborts the process when it passes that place
//! for the `n`th time since its start, counted over all threads. Nothing is closed, flushed or said before, except one
//! line on standard error, by which the test knows that the place was reached.
//!
//! **How.** Every place is in [`POINTS`], so that a test can go over all of them; passing another one is a fault of the
//! program, found when any point is armed. The variable is read once, at the first passing.
//!
//! **Absences.** No delay and no other fault: what the disk and the network do wrong is done to the real process from
//! outside.

use crate::words::Write;

/// Whether this build has kill points.
pub const COMPILED: bool = cfg!(debug_assertions);

/// The name of the environment variable.
pub const VARIABLE: &str = "MAILWEIR_KILL_POINT";

/// The kinds of write, in the order of [`Write`].
const WRITES: [&str; 20] = [
    "create-delivery",
    "set-content",
    "append",
    "refuse",
    "start",
    "set-state",
    "claim",
    "settle",
    "expire",
    "cancel-queued",
    "release-parts",
    "renew-leases",
    "ledger",
    "prune-ledger",
    "audit",
    "put-setting",
    "prune-once",
    "forget",
    "change-bundle",
    "quarantine",
];

/// All places, each with what is passed there, about in the order in which a process meets them.
pub const POINTS: [(&str, &[&str]); 8] = [
    (
        "start",
        &[
            "folder-locked",
            "database-opened",
            "life-counted",
            "store-opened",
            "clock-restored",
            "ledger-restored",
            "parts-released",
            "admission-loaded",
            "engine-told",
            "node-started",
        ],
    ),
    // All of a batch is written, the transaction is open.
    ("before-commit", &WRITES),
    // It is on the disk, nobody has been answered.
    ("after-commit", &WRITES),
    // A 2yz or 2xx is about to be written.
    ("before-reply", &["smtp", "http"]),
    // It has been written to the socket.
    ("after-reply", &["smtp"]),
    ("inmail", &["kept", "claimed", "processed"]),
    (
        "conversation",
        &[
            "greeting",
            "hello",
            "starttls",
            "mail-from",
            "rcpt-to",
            "data",
            "content",
            "dot-written",
            "answered",
            "reported",
            "reset",
            "idle",
            "quit",
        ],
    ),
    ("outcome", &["evidence-handed", "evidence-durable", "before-settlement", "settled"]),
];

/// Passes a place; `what` tells apart what is passed there.
#[inline]
pub fn pass(place: &str, what: &str) {
    #[cfg(debug_assertions)]
    armed::pass(place, what);
    #[cfg(not(debug_assertions))]
    let _ = (place, what);
}

/// Passes a place with each kind of write in a batch, once.
#[inline]
pub(crate) fn pass_batch(place: &str, batch: &[Write]) {
    if !COMPILED {
        return;
    }
    let mut passed = [false; WRITES.len()];
    for write in batch {
        let kind = kind(write);
        if !core::mem::replace(&mut passed[kind], true) {
            pass(place, WRITES[kind]);
        }
    }
}

/// The place of a write's kind in [`WRITES`]. To erase an address is to forget.
fn kind(write: &Write) -> usize {
    match write {
        Write::CreateDelivery { .. } => 0,
        Write::SetContent { .. } => 1,
        Write::Append { .. } => 2,
        Write::Refuse { .. } => 3,
        Write::Start { .. } => 4,
        Write::SetState { .. } => 5,
        Write::Claim(_) => 6,
        Write::Settle(_) => 7,
        Write::Expire(_) => 8,
        Write::CancelQueued(_) => 9,
        Write::ReleaseParts { .. } => 10,
        Write::RenewLeases { .. } => 11,
        Write::Ledger(_) => 12,
        Write::PruneLedger { .. } => 13,
        Write::Audit(_) => 14,
        Write::PutSetting { .. } => 15,
        Write::PruneOnce { .. } => 16,
        Write::Forget(_) | Write::Erase(_) => 17,
        Write::ChangeBundle(_) => 18,
        Write::Quarantine(_) => 19,
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The point that ends the process.
    struct Armed {
        place: String,
        what: String,
        at: u64,
        passed: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// Reads `place/what:n`.
    fn parse(text: &str) -> Option<Armed> {
        let (name, count) = text.rsplit_once(':')?;
        let (place, what) = name.split_once('/')?;
        let at = count.parse().ok()?;
        let known =
            super::POINTS.iter().any(|(known, whats)| *known == place && whats.contains(&what));
        known.then(|| Armed {
            place: place.into(),
            what: what.into(),
            at,
            passed: AtomicU64::new(0),
        })
    }

    pub(super) fn pass(place: &str, what: &str) {
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(super::VARIABLE).ok()?;
            // A test that arms a point that is none would pass without having tested anything.
            Some(parse(&text).unwrap_or_else(|| panic!("no kill point is called {text:?}")))
        });
        let Some(armed) = armed else { return };
        debug_assert!(
            super::POINTS.iter().any(|(known, whats)| *known == place && whats.contains(&what)),
            "the kill point {place}/{what} is not in the list"
        );
        if armed.place == place
            && armed.what == what
            && armed.passed.fetch_add(1, Ordering::Relaxed) + 1 == armed.at
        {
            let mut line = std::io::stderr().lock();
            // Whoever read it may have gone; the process ends all the same.
            let _ = writeln!(line, "killed at {place}/{what}:{}", armed.at);
            std::process::abort();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn points_are_read_or_refused() {
            let armed = parse("after-commit/settle:3").unwrap();
            assert_eq!(
                (armed.place.as_str(), armed.what.as_str(), armed.at),
                ("after-commit", "settle", 3)
            );
            for wrong in [
                "",
                "settle",
                "after-commit/settle",
                "after-commit/none:1",
                "none/settle:1",
                "start:1",
            ] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
