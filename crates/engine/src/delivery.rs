//! Deliveries as the engine holds them: which of their messages may go now.

use mail::id::MessageId;
use mail::time::Timestamp;

use crate::reason::{WaitReason, Waiting};
use crate::work::{Delivery, DeliveryState};

impl Delivery {
    /// Whether its messages may be claimed at `now`, and up to which number; `Ok(None)`: all of them.
    ///
    /// # Errors
    /// Why not, and until when.
    pub fn open_until(&self, now: Timestamp) -> Result<Option<MessageId>, Waiting> {
        let never = |reason| Err(Waiting { reason, until: Timestamp::NEVER });
        match self.state {
            DeliveryState::Running | DeliveryState::Finished => {}
            DeliveryState::Draft => return never(WaitReason::DeliveryNotStarted),
            DeliveryState::Paused => return never(WaitReason::DeliveryPaused),
            DeliveryState::Cancelled => return never(WaitReason::DeliveryPaused),
        }
        if self.wave_ends.is_empty() {
            return Ok(None);
        }
        let mut open = None;
        for (wave, end) in self.options.waves.iter().zip(&self.wave_ends) {
            let opens_at = self.started() + wave.start_after;
            if now >= opens_at {
                open = Some(open.map_or(*end, |before: MessageId| before.max(*end)));
            }
        }
        match open {
            Some(end) if Some(&end) == self.wave_ends.iter().max() => Ok(None),
            Some(end) => Ok(Some(end)),
            None => Err(Waiting {
                reason: WaitReason::WaveNotOpen,
                until: self.next_wave(now).unwrap_or(Timestamp::NEVER),
            }),
        }
    }

    /// When the wave of a message opens.
    #[must_use]
    pub fn wave_opens_at(&self, message: MessageId) -> Option<Timestamp> {
        let number = self.wave_ends.iter().position(|end| message <= *end)?;
        self.options.waves.get(number).map(|wave| self.started() + wave.start_after)
    }

    /// When the next wave opens after `now`.
    #[must_use]
    pub fn next_wave(&self, now: Timestamp) -> Option<Timestamp> {
        self.options
            .waves
            .iter()
            .map(|wave| self.started() + wave.start_after)
            .filter(|opens_at| *opens_at > now)
            .min()
    }

    /// When its messages are no longer sent; for a message of a stream it depends on `accepted_at`.
    #[must_use]
    pub fn valid_until(&self, accepted_at: Timestamp) -> Timestamp {
        if self.options.stream {
            return accepted_at + self.options.validity;
        }
        self.options.valid_until.unwrap_or_else(|| self.started() + self.options.validity)
    }

    fn started(&self) -> Timestamp {
        self.started_at.unwrap_or(Timestamp::EPOCH)
    }
}
