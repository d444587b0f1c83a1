//! Reactions in force: heard, counted, applied, lifted (DESIGN 5.4).
//!
//! Every reply that refuses is shown to the reaction rules. When one of them has been hit often enough
//! for the same thing, a [`Reaction`] begins: shaping then asks here before it opens a connection or
//! hands out a message. The tightest limit wins: a reaction never raises what MX rules and ledger allow,
//! and the ledger knows nothing of it.
//!
//! # What is kept
//! Reactions in force and the last that have ended go to the store by [`Command::KeepReactions`] and come
//! back by [`Event::ReactionsRestored`](crate::Event::ReactionsRestored): a provider that has asked for two
//! hours of quiet means them over a restart. Hits that have not led to one yet, and the evenness of the
//! flow, are not kept: forgetting them costs some replies. Nor are the rests of paths and open breakers,
//! which are found again within a few messages.
//!
//! # Rules replaced in mid-flight
//! A reaction carries all its figures, so it goes on under other rules as it began, and cites the version
//! that demanded it. Hits of rules that are still there go on counting.

mod force;
mod heard;
mod meter;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, SourceId};
use mail::time::Timestamp;
use quota::PathKey;
use rules::reaction::{Hits, ReactionRules};
use serde::{Deserialize, Serialize};

pub use force::{About, Allowed, FullFigures, Reaction, ReactionChange};
pub(crate) use heard::Heard;
pub(crate) use meter::Meter;

use crate::connection::ConnectionState;
use crate::engine::{Engine, Wake};
use crate::event::Command;
use crate::reason::{WaitReason, Waiting};
use force::Gate;

/// Reactions in force at a time; when there are more, the one that would end first ends.
pub const MOST_IN_FORCE: usize = 1_000;

/// Reactions that have ended and are still shown.
const ENDED_KEPT: usize = 100;

/// A rate that lets nothing through for longer than this is not worth a connection that waits for it.
const CONNECTION_WORTH: Duration = Duration::from_secs(2);

/// What the store keeps of reactions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptReactions {
    /// The number of the next one.
    pub next: u64,
    /// Those in force, by their number.
    pub in_force: Vec<Reaction>,
    /// Those that have ended, the newest last.
    pub ended: Vec<Reaction>,
}

/// What a person orders about a reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReactionOrder {
    /// It ends now, without a recovery.
    Lift,
    /// It holds in full until then, and recovers afterwards.
    HoldUntil(Timestamp),
}

/// Which reaction makes mail wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReactionCited {
    /// Its number.
    pub id: u64,
    /// Its rule.
    pub rule: String,
    /// The version of the rules.
    pub version: String,
}

impl core::fmt::Display for ReactionCited {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "R{} {}@{}", self.id, self.rule, self.version)
    }
}

/// A reaction that is applied.
#[derive(Clone, Debug)]
struct InForce {
    reaction: Reaction,
    /// What it allows until `next_change`.
    allowed: Allowed,
    next_change: Timestamp,
    messages: Gate,
    connections: Gate,
}

/// All reactions of the engine.
#[derive(Clone, Debug)]
pub(crate) struct Reactions {
    rules: Arc<ReactionRules>,
    hits: Hits<heard::Counted>,
    in_force: Vec<InForce>,
    ended: VecDeque<Reaction>,
    next_id: u64,
    changed: bool,
    /// When they are looked at next; never: nothing is in force.
    wake: Timestamp,
}

impl Reactions {
    pub(crate) fn new(rules: Arc<ReactionRules>) -> Self {
        Self {
            rules,
            hits: Hits::default(),
            in_force: Vec::new(),
            ended: VecDeque::new(),
            next_id: 1,
            changed: false,
            wake: Timestamp::NEVER,
        }
    }

    /// Places of those that are about a connection of this path.
    pub(crate) fn about(&self, path: PathKey, mx_host: &str) -> Vec<usize> {
        // Most of the time there is none.
        let all = self.in_force.iter().enumerate();
        all.filter(|(_, one)| one.reaction.about.is_about(path.source, path.target, mx_host))
            .map(|(place, _)| place)
            .collect()
    }

    fn cited(&self, place: usize) -> ReactionCited {
        let reaction = &self.in_force[place].reaction;
        ReactionCited {
            id: reaction.id,
            rule: reaction.rule.clone(),
            version: reaction.version.clone(),
        }
    }

    /// When a message may pass all of these, if not at `now`.
    pub(crate) fn closed_until(&self, places: &[usize], now: Timestamp) -> Option<Timestamp> {
        places
            .iter()
            .map(|place| &self.in_force[*place])
            .filter_map(|one| match (one.allowed.suspended, one.allowed.messages_per_hour) {
                (true, _) => Some(one.next_change),
                (false, Some(_)) => one.messages.closed_until(now),
                (false, None) => None,
            })
            .max()
    }

    /// A message passes these.
    pub(crate) fn pass(&mut self, places: &[usize], now: Timestamp) {
        for place in places {
            let one = &mut self.in_force[*place];
            if let Some(rate) = one.allowed.messages_per_hour {
                one.messages.pass(now, rate);
            }
        }
    }

    /// Why no connection may be opened on a path where `open` of them says how many a reaction's scope has, if any
    /// reaction speaks against it.
    fn against_connection(
        &self,
        now: Timestamp,
        places: &[usize],
        open: impl Fn(&About) -> u32,
    ) -> Option<Waiting> {
        let mut latest: Option<Waiting> = None;
        for place in places {
            let one = &self.in_force[*place];
            let by = || self.cited(*place);
            let full = one.allowed.connections.filter(|most| open(&one.reaction.about) >= *most);
            let slow =
                one.messages.closed_until(now).filter(|until| *until > now + CONNECTION_WORTH);
            let waiting = if one.allowed.suspended {
                Waiting { reason: WaitReason::Suspended { by: by() }, until: one.next_change }
            } else if let Some(until) = slow {
                Waiting { reason: WaitReason::Slowed { by: by() }, until }
            } else if let Some(until) = one.connections.closed_until(now) {
                Waiting { reason: WaitReason::Slowed { by: by() }, until }
            } else if full.is_some() {
                let until = one.next_change.min(now + CONNECTION_LOOK);
                Waiting { reason: WaitReason::FewerConnections { by: by() }, until }
            } else {
                continue;
            };
            if latest.as_ref().is_none_or(|before| before.until < waiting.until) {
                latest = Some(waiting);
            }
        }
        latest
    }

    /// A connection passes these.
    fn connection_passes(&mut self, places: &[usize], now: Timestamp) {
        for place in places {
            let one = &mut self.in_force[*place];
            if let Some(rate) = one.allowed.connections_per_hour {
                one.connections.pass(now, rate);
            }
        }
    }

    /// Those about deliveries: which, and their place.
    fn of_deliveries(&self) -> impl Iterator<Item = (DeliveryId, usize)> {
        self.in_force.iter().enumerate().filter_map(|(place, one)| match one.reaction.about {
            About::Delivery { delivery } => Some((delivery, place)),
            _ => None,
        })
    }

    /// Whether any reaction is about a delivery.
    pub(crate) fn any_delivery(&self) -> bool {
        self.of_deliveries().next().is_some()
    }

    /// Places of those about a delivery.
    pub(crate) fn about_delivery(&self, delivery: DeliveryId) -> Vec<usize> {
        self.of_deliveries().filter(|(id, _)| *id == delivery).map(|(_, place)| place).collect()
    }

    /// Why a delivery may not send at `now`.
    pub(crate) fn delivery_waits(&self, delivery: DeliveryId, now: Timestamp) -> Option<Waiting> {
        let places = self.about_delivery(delivery);
        let until = self.closed_until(&places, now)?;
        let by = self.cited(*places.iter().max_by_key(|place| {
            let one = &self.in_force[**place];
            (one.allowed.suspended, one.messages.closed_until(now))
        })?);
        let suspended = places.iter().any(|place| self.in_force[*place].allowed.suspended);
        let reason =
            if suspended { WaitReason::Suspended { by } } else { WaitReason::Slowed { by } };
        Some(Waiting { reason, until })
    }

    fn view(&self) -> KeptReactions {
        KeptReactions {
            next: self.next_id,
            in_force: self.in_force.iter().map(|one| one.reaction.clone()).collect(),
            ended: self.ended.iter().cloned().collect(),
        }
    }

    fn end(&mut self, place: usize, now: Timestamp) {
        let mut reaction = self.in_force.remove(place).reaction;
        reaction.ended = Some(now);
        if self.ended.len() >= ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(reaction);
        self.changed = true;
    }
}

/// How often a path whose connections a reaction has lowered looks whether one of them has ended: another group may
/// have held it.
const CONNECTION_LOOK: Duration = Duration::from_secs(2);

impl Engine {
    /// The reaction rules in force.
    #[must_use]
    pub const fn reaction_rules(&self) -> &Arc<ReactionRules> {
        &self.reactions.rules
    }

    /// All reactions in force, and the last that have ended.
    #[must_use]
    pub fn reactions(&self) -> KeptReactions {
        self.reactions.view()
    }

    /// What the reactions in force that are about a path are called, for tables.
    #[must_use]
    pub fn reactions_about(&self, source: SourceId, target: IpAddr, mx_host: &str) -> Vec<String> {
        let places = self.reactions.about(PathKey { source, target }, mx_host);
        places.iter().map(|place| self.reactions.in_force[*place].reaction.cited()).collect()
    }

    pub(crate) fn reaction_rules_replaced(&mut self, rules: Arc<ReactionRules>) {
        self.reactions.hits.keep_rules(|name| rules.knows(name));
        self.reactions.rules = rules;
    }

    pub(crate) fn reactions_restored(&mut self, now: Timestamp, kept: KeptReactions) {
        self.reactions.next_id = kept.next.max(1);
        self.reactions.ended = kept.ended.into();
        for reaction in kept.in_force {
            self.reactions.next_id = self.reactions.next_id.max(reaction.id + 1);
            self.begin(now, reaction);
        }
        self.reactions.changed = false;
        self.look_at_reactions(now);
    }

    /// A person lifts or prolongs a reaction. One that has ended meanwhile stays ended.
    pub(crate) fn reaction_ordered(
        &mut self,
        now: Timestamp,
        id: u64,
        order: ReactionOrder,
        (who, why): (String, String),
    ) {
        let at = self.reactions.in_force.iter().position(|one| one.reaction.id == id);
        let Some(place) = at else { return };
        let reaction = &mut self.reactions.in_force[place].reaction;
        let what = match order {
            ReactionOrder::Lift => "lifted".to_owned(),
            ReactionOrder::HoldUntil(until) => format!("held until {until}"),
        };
        reaction.note(ReactionChange { at: now, who, why, what });
        match order {
            ReactionOrder::Lift => self.reactions.end(place, now),
            ReactionOrder::HoldUntil(until) => reaction.until = until.max(now),
        }
        self.reactions.changed = true;
        self.look_at_reactions(now);
        self.enforce(now);
    }

    /// Puts a reaction in force, or in the place of the same one.
    fn begin(&mut self, now: Timestamp, reaction: Reaction) {
        let all = &mut self.reactions.in_force;
        let same = |one: &InForce| {
            one.reaction.about == reaction.about && one.reaction.rule == reaction.rule
        };
        let allowed = reaction.allowed(now);
        let next_change = reaction.next_change(now);
        if let Some(one) = all.iter_mut().find(|one| same(one)) {
            one.reaction = reaction;
            one.allowed = allowed;
            one.next_change = next_change;
        } else {
            if all.len() >= MOST_IN_FORCE {
                let first = all.iter().enumerate().min_by_key(|(_, one)| one.reaction.ends_at());
                if let Some(place) = first.map(|(place, _)| place) {
                    self.reactions.end(place, now);
                }
            }
            let (messages, connections) = (Gate::default(), Gate::default());
            let one = InForce { reaction, allowed, next_change, messages, connections };
            self.reactions.in_force.push(one);
        }
        self.reactions.changed = true;
    }

    /// Ends what is over, takes the steps of what recovers, and says when to look again.
    pub(crate) fn look_at_reactions(&mut self, now: Timestamp) {
        let mut place = 0;
        while place < self.reactions.in_force.len() {
            if now >= self.reactions.in_force[place].reaction.ends_at() {
                self.reactions.end(place, now);
            } else {
                place += 1;
            }
        }
        let mut next = Timestamp::NEVER;
        let mut deliveries = Vec::new();
        for one in &mut self.reactions.in_force {
            one.allowed = one.reaction.allowed(now);
            one.next_change = one.reaction.next_change(now);
            if let Some(rate) = one.allowed.messages_per_hour {
                one.messages.risen(now, rate);
            }
            if let Some(rate) = one.allowed.connections_per_hour {
                one.connections.risen(now, rate);
            }
            if let About::Delivery { delivery } = one.reaction.about
                && one.allowed.suspended
            {
                deliveries.push(delivery);
            }
            next = next.min(one.next_change);
        }
        self.wakes.remove(&(self.reactions.wake, Wake::Reactions));
        self.reactions.wake = next;
        if next != Timestamp::NEVER {
            self.wakes.insert((next, Wake::Reactions));
        }
        for delivery in deliveries {
            self.hold_delivery(now, delivery);
        }
        self.all_dirty();
    }

    /// Takes back what a suspended path has not begun, and closes connections beyond a lowered number.
    fn enforce(&mut self, now: Timestamp) {
        if self.reactions.in_force.is_empty() {
            return;
        }
        let mut recalled = Vec::new();
        let mut surplus = Vec::new();
        for one in &self.reactions.in_force {
            let most = one.allowed.connections.map_or(usize::MAX, |most| most as usize);
            if !one.allowed.suspended && most == usize::MAX {
                continue;
            }
            let about = &one.reaction.about;
            let of_it = self.connections.iter().filter(|(_, connection)| {
                let path = connection.path;
                about.is_about(path.source, path.target, &connection.mx_host)
            });
            if one.allowed.suspended {
                // Also those that were asked to close: they would send what they hold.
                let hold = of_it.filter(|(_, connection)| !connection.recalled);
                recalled.extend(hold.map(|(id, _)| *id));
            } else {
                let open =
                    of_it.filter(|(_, connection)| connection.state != ConnectionState::Closing);
                surplus.extend(open.map(|(id, _)| *id).skip(most));
            }
        }
        for id in recalled {
            self.recall(id);
        }
        for id in surplus {
            self.close(id);
        }
        self.give_back_windows_of_held(now);
    }

    /// Takes back what a connection has not begun, and closes it.
    fn recall(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.recalled = true;
        let before = core::mem::replace(&mut connection.state, ConnectionState::Closing);
        if before != ConnectionState::Closing {
            self.lines.closing(connection.line, id);
        }
        // One that waits for its permit, or was asked to close then, is not open yet.
        if connection.opened {
            self.commands.push_back(Command::Recall { connection: id });
        }
    }

    /// A delivery that a reaction suspends waits in the store, out of the way of others.
    fn hold_delivery(&mut self, now: Timestamp, delivery: DeliveryId) {
        let Some(waiting) = self.reactions.delivery_waits(delivery, now) else { return };
        self.wakes.insert((waiting.until, Wake::Cap(delivery)));
        self.capped.insert(delivery, waiting);
        self.open_deliveries = [None, None, None];
    }

    /// Gives back the messages of deliveries that reactions suspend.
    fn give_back_windows_of_held(&mut self, now: Timestamp) {
        let held: Vec<DeliveryId> = self
            .reactions
            .of_deliveries()
            .filter(|(_, place)| self.reactions.in_force[*place].allowed.suspended)
            .map(|(delivery, _)| delivery)
            .collect();
        for delivery in held {
            self.hold_delivery(now, delivery);
            for message in self.take_windows(Some(delivery)) {
                self.give_message_back(now, &message);
            }
        }
    }

    /// Why no connection may be opened on a path, as far as reactions are concerned.
    pub(crate) fn reaction_against(
        &self,
        now: Timestamp,
        path: PathKey,
        mx_host: &str,
    ) -> Option<Waiting> {
        if self.reactions.in_force.is_empty() {
            return None;
        }
        let places = self.reactions.about(path, mx_host);
        self.reactions.against_connection(now, &places, |about| {
            let mut of_it = 0;
            for connection in self.connections.values() {
                let key = connection.path;
                of_it += u32::from(about.is_about(key.source, key.target, &connection.mx_host));
            }
            of_it
        })
    }

    /// A connection is opened on a path.
    pub(crate) fn reactions_count_connection(
        &mut self,
        now: Timestamp,
        path: PathKey,
        mx_host: &str,
    ) {
        let places = self.reactions.about(path, mx_host);
        self.reactions.connection_passes(&places, now);
    }

    /// Whether nothing may be sent on a path.
    pub(crate) fn suspended(&self, path: PathKey, mx_host: &str) -> bool {
        let places = self.reactions.about(path, mx_host);
        places.iter().any(|place| self.reactions.in_force[*place].allowed.suspended)
    }

    /// Hands what is to be kept to the store, when it has changed.
    pub(crate) fn keep_reactions(&mut self) {
        if core::mem::take(&mut self.reactions.changed) {
            let kept = Box::new(self.reactions.view());
            self.commands.push_back(Command::KeepReactions(kept));
        }
    }
}
