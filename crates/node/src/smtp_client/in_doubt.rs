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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mail::id::MessageId;

/// The messages in doubt.
#[derive(Debug)]
pub struct InDoubt {
    messages: Mutex<HashSet<MessageId>>,
    /// How many there are: asked before each message, by all conversations.
    count: AtomicUsize,
    most: usize,
}

impl InDoubt {
    /// None yet, and so many at most; 0 counts as 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { messages: Mutex::default(), count: AtomicUsize::new(0), most: most.max(1) }
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<MessageId>)) {
        // A set is whole after each of its operations, also when somebody panicked between two.
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut messages);
        self.count.store(messages.len(), Ordering::Relaxed);
    }

    /// A server has taken a message.
    pub fn taken(&self, message: MessageId) {
        self.change(|messages| {
            messages.insert(message);
        });
    }

    /// The outcomes of these are on the disk.
    pub fn settled(&self, settled: impl IntoIterator<Item = MessageId>) {
        self.change(|messages| {
            for message in settled {
                messages.remove(&message);
            }
        });
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no further message may begin.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() >= self.most
    }
}
