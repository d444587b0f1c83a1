//! The bounded window of claimed messages of one MX group.
//!
//! Three lanes, one per priority. Inside a lane each delivery has queues of its own, and takes its turn a few
//! messages at a time, so that a large delivery does not stand in the way of a small one.

use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::{DeliveryId, Priority};

use crate::sources::SetId;
use crate::work::QueuedMessage;

/// Messages that a delivery may take in one turn.
const TURN_MESSAGES: u32 = 4;

/// All priorities, the most urgent first.
pub(crate) const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// The place of a priority in arrays.
pub(crate) const fn lane(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// What messages of one queue have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueKey {
    pub(crate) delivery: DeliveryId,
    /// Sources that may send them.
    pub(crate) set: SetId,
    /// Dry mode: they need a dry connection.
    pub(crate) dry: bool,
    /// The delivery has an hourly cap of its own.
    pub(crate) cap: Option<u32>,
}

#[derive(Clone, Debug)]
struct Queue {
    key: QueueKey,
    messages: VecDeque<Arc<QueuedMessage>>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    queues: Vec<Queue>,
    /// Whose turn it is.
    turn: usize,
    taken_in_turn: u32,
    len: usize,
}

/// The window of one MX group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    lanes: [Lane; 3],
}

impl Window {
    /// Messages in all lanes.
    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.len).sum()
    }

    /// Messages of one priority.
    pub(crate) fn lane_len(&self, lane: usize) -> usize {
        self.lanes[lane].len
    }

    /// Adds a message behind the others of its queue.
    pub(crate) fn push(&mut self, lane: usize, key: QueueKey, message: Arc<QueuedMessage>) {
        self.queue(lane, key).push_back(message);
        self.lanes[lane].len += 1;
    }

    /// Puts a message back to where it was taken from.
    pub(crate) fn push_front(&mut self, lane: usize, key: QueueKey, message: Arc<QueuedMessage>) {
        self.queue(lane, key).push_front(message);
        self.lanes[lane].len += 1;
    }

    fn queue(&mut self, lane: usize, key: QueueKey) -> &mut VecDeque<Arc<QueuedMessage>> {
        let queues = &mut self.lanes[lane].queues;
        let at = queues.iter().position(|queue| queue.key == key).unwrap_or_else(|| {
            queues.push(Queue { key, messages: VecDeque::new() });
            queues.len() - 1
        });
        &mut queues[at].messages
    }

    /// Takes the next message whose queue `admits` lets pass: higher priorities first, deliveries in turn.
    pub(crate) fn take(
        &mut self,
        mut admits: impl FnMut(&QueueKey) -> bool,
    ) -> Option<(usize, QueueKey, Arc<QueuedMessage>)> {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.len == 0 {
                continue;
            }
            let count = lane.queues.len();
            for step in 0..count {
                let at = (lane.turn + step) % count;
                if lane.queues[at].messages.is_empty() || !admits(&lane.queues[at].key) {
                    continue;
                }
                if at != lane.turn {
                    lane.turn = at;
                    lane.taken_in_turn = 0;
                }
                let queue = &mut lane.queues[at];
                let key = queue.key;
                let message = queue.messages.pop_front()?;
                lane.len -= 1;
                lane.taken_in_turn += 1;
                if queue.messages.is_empty() {
                    lane.queues.remove(at);
                    lane.taken_in_turn = 0;
                    if lane.turn >= lane.queues.len() {
                        lane.turn = 0;
                    }
                } else if lane.taken_in_turn >= TURN_MESSAGES {
                    lane.taken_in_turn = 0;
                    lane.turn = (at + 1) % count;
                }
                return Some((number, key, message));
            }
        }
        None
    }

    /// The queues that hold messages, most urgent first, with their lengths.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&QueueKey, usize)> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.queues.iter())
            .filter(|queue| !queue.messages.is_empty())
            .map(|queue| (&queue.key, queue.messages.len()))
    }

    /// Messages of one delivery.
    pub(crate) fn of_delivery(&self, delivery: DeliveryId) -> usize {
        self.queues().filter(|(key, _)| key.delivery == delivery).map(|(_, count)| count).sum()
    }

    /// Takes out all messages that `goes` chooses.
    pub(crate) fn remove(
        &mut self,
        goes: &impl Fn(&QueuedMessage) -> bool,
    ) -> Vec<Arc<QueuedMessage>> {
        let mut removed = Vec::new();
        for lane in &mut self.lanes {
            for queue in &mut lane.queues {
                let (out, stays): (VecDeque<_>, VecDeque<_>) =
                    queue.messages.drain(..).partition(|message| goes(message));
                queue.messages = stays;
                removed.extend(out);
            }
            lane.queues.retain(|queue| !queue.messages.is_empty());
            lane.len = lane.queues.iter().map(|queue| queue.messages.len()).sum();
            lane.turn = 0;
            lane.taken_in_turn = 0;
        }
        removed
    }
}
