//! Deliveries as the engine holds them: which of their messages may go now, and what follows when
//! their state changes, a wave opens or their validity ends.

use core::time::Duration;

use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;

use crate::engine::{Engine, OpenDelivery, Wake};
use crate::event::{Command, QuotaLimit, QuotaWait};
use crate::reason::{WaitReason, Waiting};
use crate::window::{PRIORITIES, lane};
use crate::work::{Delivery, DeliveryState, Fate, FinalState};
use quota::PathKey;

/// While a delivery's cap makes it wait for no longer than this, its messages stay in the windows.
const SHORT_CAP_WAIT: Duration = Duration::from_secs(2);

/// Scans that nobody waits for begin so long after each other at least.
const SCANS_APART: Duration = Duration::from_secs(1);

/// The same where a delivery was started or resumed, or a wave has opened.
const SCANS_APART_PROMPT: Duration = Duration::from_millis(100);

/// Deliveries asked for in one claim.
pub(crate) const CLAIM_DELIVERIES_MAX: usize = 64;

/// How long after the end of a delivery's validity the store is asked again for what came back late.
const LATE_RETURNS: Duration = Duration::from_secs(60);

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
            DeliveryState::Cancelled => return never(WaitReason::DeliveryCancelled),
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

impl Engine {
    pub(crate) fn delivery_changed(&mut self, now: Timestamp, delivery: Delivery) {
        let id = delivery.id;
        self.open_deliveries[lane(delivery.options.priority)] = None;
        let state = delivery.state;
        if let Some(before) = self.deliveries.get(&id) {
            self.open_deliveries[lane(before.options.priority)] = None;
        }
        match state {
            DeliveryState::Finished => {
                self.deliveries.remove(&id);
                if let Some(at) = self.delivery_wakes.remove(&id) {
                    self.wakes.remove(&(at, Wake::Delivery(id)));
                }
                return;
            }
            DeliveryState::Cancelled => {
                let newly = self.deliveries.get(&id).is_none_or(|d| d.state != state);
                self.deliveries.insert(id, delivery);
                for message in self.take_windows(Some(id)) {
                    self.settle(now, &message, Fate::Final(FinalState::Cancelled), "cancelled");
                }
                if newly {
                    self.commands.push_back(Command::CancelQueued { delivery: id });
                }
                return;
            }
            DeliveryState::Draft | DeliveryState::Paused => {
                self.deliveries.insert(id, delivery);
                for message in self.take_windows(Some(id)) {
                    self.give_message_back(now, &message);
                }
                return;
            }
            DeliveryState::Running => {}
        }
        let before = self.deliveries.insert(id, delivery);
        self.schedule_delivery(now, id);
        // What was queued while it could not send was perhaps never heard of here.
        let begins = before.is_none_or(|before| {
            before.state != DeliveryState::Running
                || self.deliveries.get(&id).is_some_and(|now| now.wave_ends != before.wave_ends)
        });
        self.scan_soon(now, if begins { SCANS_APART_PROMPT } else { SCANS_APART });
    }

    /// Looks at a delivery again when a wave opens, its validity ends, or a stream is to be swept.
    fn schedule_delivery(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let ends = if delivery.options.stream {
            now + self.settings.stream_expiry_interval
        } else {
            delivery.valid_until(now)
        };
        let next = delivery.next_wave(now).map_or(ends, |wave| wave.min(ends));
        self.wake_delivery(id, next);
    }

    /// Looks at a delivery at `at`, and not before.
    fn wake_delivery(&mut self, id: DeliveryId, at: Timestamp) {
        if let Some(before) = self.delivery_wakes.insert(id, at) {
            self.wakes.remove(&(before, Wake::Delivery(id)));
        }
        self.wakes.insert((at, Wake::Delivery(id)));
    }

    pub(crate) fn delivery_woken(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        if delivery.state != DeliveryState::Running {
            return;
        }
        let (stream, validity) = (delivery.options.stream, delivery.options.validity);
        let over = !stream && now >= delivery.valid_until(now);
        if over || stream {
            let oldest = if stream { now.saturating_sub(validity) } else { Timestamp::NEVER };
            let ended = self.take_from_windows(|message| {
                message.delivery == id && (over || message.accepted_at <= oldest)
            });
            for message in ended {
                self.settle(now, &message, Fate::Final(FinalState::Expired), "validity ended");
            }
        }
        if over {
            self.commands.push_back(Command::Expire { delivery: id, accepted_before: None });
            // What is on a connection may still be put off and come back to the queue.
            self.wake_delivery(id, now + LATE_RETURNS);
            return;
        }
        if stream {
            let before = now.saturating_sub(validity);
            self.commands
                .push_back(Command::Expire { delivery: id, accepted_before: Some(before) });
        }
        self.schedule_delivery(now, id);
        if !stream {
            // A wave has opened.
            self.open_deliveries = [None, None, None];
            self.scan_soon(now, SCANS_APART_PROMPT);
        }
    }

    pub(crate) fn sweep_done(&mut self, now: Timestamp, id: DeliveryId, more: bool) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let (state, stream) = (delivery.state, delivery.options.stream);
        let before = stream.then(|| now.saturating_sub(delivery.options.validity));
        match (state, more) {
            (DeliveryState::Cancelled, true) => {
                self.commands.push_back(Command::CancelQueued { delivery: id });
            }
            (DeliveryState::Running, true) => {
                self.commands.push_back(Command::Expire { delivery: id, accepted_before: before });
            }
            _ => {}
        }
    }

    /// Where the cap of a delivery is used up for a while and no token of it is left on the paths of this group, its
    /// messages do not stand in the way of others meanwhile.
    pub(crate) fn hold_capped(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        let capped = group.window.queues().filter(|(key, _)| key.cap.is_some());
        let mut deliveries: Vec<DeliveryId> = capped.map(|(key, _)| key.delivery).collect();
        if deliveries.is_empty() {
            return;
        }
        deliveries.dedup();
        let targets: Vec<_> = group.targets.iter().map(|target| target.address).collect();
        let sources: Vec<_> = self.sources.iter().map(|source| source.id).collect();
        for id in deliveries {
            let keys = targets.iter().flat_map(|target| {
                sources.iter().map(|source| PathKey { source: *source, target: *target })
            });
            let purses = keys
                .filter_map(|key| self.paths.get(&key))
                .flat_map(|path| path.purses.iter().filter(|purse| purse.cap == Some(id)));
            let mut wait: Option<&QuotaWait> = None;
            let mut tokens = 0;
            for purse in purses {
                tokens += purse.usable(now);
                let of_cap = purse.wait.as_ref().filter(|wait| wait.limit == QuotaLimit::Delivery);
                wait = of_cap.or(wait);
            }
            if let Some(wait) = wait.cloned().filter(|_| tokens == 0) {
                self.delivery_capped(now, ix, id, wait);
            }
        }
    }

    fn delivery_capped(&mut self, now: Timestamp, ix: usize, id: DeliveryId, wait: QuotaWait) {
        let Some(until) = wait.until.filter(|until| *until > now + SHORT_CAP_WAIT) else { return };
        let waiting = Waiting { reason: WaitReason::Quota { wait }, until };
        self.delivery_waits(now, ix, id, waiting);
    }

    /// A delivery waits until its cap, or a reaction, lets it go on; its messages leave the group's window.
    pub(crate) fn delivery_waits(
        &mut self,
        now: Timestamp,
        ix: usize,
        id: DeliveryId,
        waiting: Waiting,
    ) {
        self.wakes.insert((waiting.until, Wake::Cap(id)));
        self.capped.insert(id, waiting);
        self.open_deliveries = [None, None, None];
        // Other groups may hold tokens for theirs.
        let Some(group) = self.groups[ix].as_mut() else { return };
        let messages = group.window.remove(&|message| message.delivery == id);
        self.window_messages = self.window_messages.saturating_sub(messages.len());
        for message in messages {
            self.give_message_back(now, &message);
        }
    }

    /// A delivery that a reaction lets through only now and then: it waits out of the way of others, unless that is soon.
    pub(crate) fn hold_slowed(&mut self, now: Timestamp, ix: usize, id: DeliveryId) {
        let Some(waiting) = self.reactions.delivery_waits(id, now) else { return };
        if waiting.until > now + SHORT_CAP_WAIT {
            self.delivery_waits(now, ix, id, waiting);
        } else {
            self.wake_group(ix, waiting.until);
        }
    }

    pub(crate) fn cap_woken(&mut self, now: Timestamp, id: DeliveryId) {
        // Tokens that come back do not lift a reaction. What was sent meanwhile by other groups has moved its next
        // moment on, and nobody else would wake it then.
        if let Some(waiting) = self.reactions.delivery_waits(id, now)
            && waiting.until > now + SHORT_CAP_WAIT
        {
            if self.capped.contains_key(&id) {
                self.wakes.insert((waiting.until, Wake::Cap(id)));
                self.capped.insert(id, waiting);
            }
            return;
        }
        self.capped.remove(&id);
        self.open_deliveries = [None, None, None];
        self.scan_soon(now, SCANS_APART);
    }

    /// When the first mail of a domain is due, given the earliest due time of each of its deliveries, as far as they may
    /// send at `now`; `None`: none of them may. A scan of the queue leaves such domains out: they would only be looked
    /// up and asked for in vain, and are found again when one of the deliveries may send.
    #[must_use]
    pub fn earliest_due(
        &self,
        now: Timestamp,
        due: impl IntoIterator<Item = (DeliveryId, Timestamp)>,
    ) -> Option<Timestamp> {
        let may_send = |id: &DeliveryId| {
            self.deliveries.get(id).is_some_and(|delivery| delivery.open_until(now).is_ok())
                && !self.capped.contains_key(id)
        };
        due.into_iter().filter(|(id, _)| may_send(id)).map(|(_, due)| due).min()
    }

    /// Some deliveries of a lane that may send, the one whose turn it is first, and how many there are: all of them, or,
    /// where there are many, those from number `from` on.
    pub(crate) fn open_deliveries(
        &mut self,
        now: Timestamp,
        lane: usize,
        from: DeliveryId,
    ) -> (Vec<OpenDelivery>, usize) {
        if self.open_deliveries[lane].is_none() {
            let open = self
                .deliveries
                .values()
                .filter(|delivery| delivery.options.priority == PRIORITIES[lane])
                .filter_map(|delivery| {
                    let until = delivery.open_until(now).ok()?;
                    let free = !self.capped.contains_key(&delivery.id);
                    free.then_some((delivery.id, until))
                })
                .collect();
            self.open_deliveries[lane] = Some(open);
        }
        let Some(open) = &self.open_deliveries[lane] else { return (Vec::new(), 0) };
        self.claim_turns[lane] = self.claim_turns[lane].wrapping_add(1);
        let first = if open.len() > CLAIM_DELIVERIES_MAX {
            open.partition_point(|(id, _)| *id < from)
        } else {
            self.claim_turns[lane] % open.len().max(1)
        };
        let some = open[first..].iter().chain(&open[..first]).take(CLAIM_DELIVERIES_MAX);
        (some.copied().collect(), open.len())
    }
}
