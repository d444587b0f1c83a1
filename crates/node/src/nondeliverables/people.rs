//! What people have said about texts, in memory, for both judges: the engine's and that of returned mail.

use std::sync::{PoisonError, RwLock};

use engine::event::Event;
use engine::quarantine::{Qualification, TextFilter, TextKey};
use rules::bounce::Key;
use store::{Reads, StoreFault};
use tokio::sync::mpsc;

use super::Said;
use crate::runner::Input;

/// Texts read at a time at the start.
const PAGE: u32 = 1_000;

/// All qualifications, and the way to the engine.
pub(super) struct People {
    said: RwLock<Said>,
    engine: mpsc::UnboundedSender<Input>,
}

impl People {
    /// Those of an earlier run; the engine is told of each.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn load(
        reads: &dyn Reads,
        engine: mpsc::UnboundedSender<Input>,
    ) -> Result<Self, StoreFault> {
        let people = Self { said: RwLock::default(), engine };
        let filter = TextFilter { status: None, by_person: true };
        let mut after = None;
        loop {
            let page = reads.texts(filter, after, PAGE)?;
            for text in &page {
                people.learn(text.key, text.by_person);
            }
            match page.last() {
                Some(last) => after = Some((last.occurrences, last.key)),
                None => return Ok(people),
            }
        }
    }

    /// Somebody has said something, or taken it back.
    pub(super) fn learn(&self, key: TextKey, said: Option<Qualification>) {
        let Some(known) = Key::from_hex(&key.to_string()) else { return };
        let mut all = self.said.write().unwrap_or_else(PoisonError::into_inner);
        match said {
            Some(said) => all.insert(known, said),
            None => all.remove(&known),
        };
        drop(all);
        // An engine that has ended judges nothing any more.
        let _ = self.engine.send(Input::Event(Event::TextQualified { key: known, said }));
    }

    /// What was said about a text.
    pub(super) fn find(&self, key: &Key) -> Option<Qualification> {
        self.said.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}
