//! A connection as the engine sees it: a budgeted resource.

use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::DeliveryId;
use mail::time::Timestamp;
use rules::RuleId;

use crate::line::LineKey;
use crate::window::QueueKey;
use crate::work::QueuedMessage;
use quota::{LotId, PathKey};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// Its permit was asked for.
    Permit,
    /// It is being opened.
    Opening,
    /// It takes messages.
    Ready,
    /// It was asked to close, or has no messages left.
    Closing,
}

/// A message on a connection.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) message: Arc<QueuedMessage>,
    pub(crate) lane: usize,
    pub(crate) key: QueueKey,
    /// The lot of its token.
    pub(crate) lot: LotId,
    /// Its token must be used before.
    pub(crate) use_before: Timestamp,
    /// The delivery whose cap was counted too.
    pub(crate) cap: Option<DeliveryId>,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) group: usize,
    pub(crate) path: PathKey,
    pub(crate) mx_host: Arc<str>,
    /// The rule under which it was asked for.
    pub(crate) rule: RuleId,
    /// The budget of which it holds a permit.
    pub(crate) line: LineKey,
    pub(crate) rule_name: Arc<str>,
    pub(crate) rules_version: u64,
    pub(crate) dry: bool,
    pub(crate) state: ConnectionState,
    /// Messages that it was given, those that came back untried not counted.
    pub(crate) messages_given: u32,
    /// Messages that it may still be given.
    pub(crate) messages_left: u32,
    /// Messages handed over and not yet reported.
    pub(crate) assigned: VecDeque<Assigned>,
    /// How many may be assigned at a time; grows while they are done quickly.
    pub(crate) depth: u32,
    /// Messages that the server took or refused in words on it.
    pub(crate) answered: u32,
    /// Messages that the server took on it.
    pub(crate) taken: u32,
    pub(crate) asked_at: Timestamp,
    /// Since when it works on what it holds: when it was given messages, or last reported some.
    pub(crate) busy_since: Timestamp,
    /// Since when it has nothing to do.
    pub(crate) idle_since: Option<Timestamp>,
    /// It is in the table of wakes, to be closed if it is idle for too long.
    pub(crate) idle_wake: bool,
    /// It was asked for in the turn of its group: where it is refused, the group keeps its place in line.
    pub(crate) in_turn: bool,
    /// TLS was tried although clear text would do: a failure of TLS leads to clear text.
    pub(crate) opportunistic: bool,
    /// It has its permit and was told to connect.
    pub(crate) opened: bool,
    /// What it had not begun was taken back.
    pub(crate) recalled: bool,
}

impl Connection {
    /// How many more messages it can be given now.
    pub(crate) fn room(&self) -> u32 {
        if self.state != ConnectionState::Ready {
            return 0;
        }
        // The depth is at most a few dozen.
        let held = u32::try_from(self.assigned.len()).unwrap_or(u32::MAX);
        self.depth.saturating_sub(held).min(self.messages_left)
    }
}
