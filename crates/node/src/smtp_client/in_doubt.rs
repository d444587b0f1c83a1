//! What a crash would repeat: messages that servers have taken and whose outcomes are not on the disk.
//!
//! **Promise.** While there are as many as allowed, no conversation begins another message; so the copies that one crash
//! can cost are bounded, however slow the disk is: by that number, and three for each connection, which may have begun
//! before: one whose content is on the wire, one whose commands travel with it, and one that is prepared.
//!
//! **How.** A set of message numbers behind one lock, held for an instant. Conversations put in what was answered with
//! 250; the loop takes out what is durable. A conversation that is held back looks again after a few milliseconds: who
//! waits for a disk does not notice them.
//!
//! **Absences.** Nothing is counted that was lost or refused: to try it again is no repetition by a crash.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mail::id::MessageId;

/// The messages in doubt.
#[derive(Debug)]
pub struct InDoubt {
    messages: Mutex<HashSet<MessageId>>,
    most: usize,
}

impl InDoubt {
    /// None yet, and so many at most; 0 counts as 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { messages: Mutex::default(), most: most.max(1) }
    }

    fn messages(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        // A set is whole after each of its operations, also when somebody panicked between two.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server has taken a message.
    pub fn taken(&self, message: MessageId) {
        self.messages().insert(message);
    }

    /// The outcomes of these are on the disk.
    pub fn settled(&self, settled: impl IntoIterator<Item = MessageId>) {
        let mut messages = self.messages();
        for message in settled {
            messages.remove(&message);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.messages().len()
    }

    /// Whether no further message may begin.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() >= self.most
    }
}
