//! Lines for permits.
//!
//! MX groups of one budget share its connections. A group that was refused one for want of connections stands in the
//! budget's line; each release gives the group in front its turn. A turn that is not used goes to the
//! next in line. A group whose turn it is, and nobody else while others wait, may ask.
//!
//! Releases that were not seen here (another node's, a lease that expired) must not make a group wait for ever: the
//! group in front looks for itself every few seconds.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use mail::time::Timestamp;
use quota::{PathKey, ScopeKey};
use rules::{RuleId, RuleSet};

use crate::engine::Engine;
use crate::event::{QuotaLimit, QuotaWait};
use crate::reason::{WaitReason, Waiting};

/// How long between two looks of a group that waits in a line.
pub(crate) const LINE_POLL: Duration = Duration::from_secs(2);

/// A budget of the rules in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineKey {
    rule: RuleId,
    scope: ScopeKey,
}

impl LineKey {
    /// The budget of a path under a rule.
    pub(crate) fn new(rules: &RuleSet, rule: RuleId, path: PathKey) -> Self {
        Self { rule, scope: ScopeKey::new(rules.rule(rule).scope, path) }
    }
}

/// Where a group is in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It stands in it.
    Waiting,
    /// It looks for itself.
    Polls,
    /// A permit was released for it.
    Served,
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    waiting: BTreeMap<LineKey, VecDeque<usize>>,
    /// How often a permit of the budget was released.
    releases: BTreeMap<LineKey, u64>,
}

impl Lines {
    /// How often a permit of the budget was released, or may have been.
    pub(crate) fn releases(&self, key: LineKey) -> u64 {
        self.releases.get(&key).copied().unwrap_or(0)
    }

    /// Forgets budgets that nobody waits for.
    pub(crate) fn forget_empty(&mut self) {
        self.waiting.retain(|_, line| !line.is_empty());
        let waiting = &self.waiting;
        self.releases.retain(|key, _| waiting.contains_key(key));
    }
}

impl Engine {
    /// Whether a group may ask for a permit now: nobody else waits, or it is its turn. If so, its turn is used.
    pub(crate) fn takes_turn(&mut self, ix: usize, key: LineKey) -> bool {
        let others = self.lines.waiting.get(&key).is_some_and(|line| !line.is_empty());
        let Some(group) = self.groups[ix].as_mut() else { return false };
        match group.turns.get(&key) {
            Some(Turn::Polls | Turn::Served) => {
                group.turns.remove(&key);
                true
            }
            Some(Turn::Waiting) => false,
            None => !others,
        }
    }

    /// Puts a group at the end of a line, unless it stands in it.
    pub(crate) fn stand_in_permit_line(
        &mut self,
        now: Timestamp,
        ix: usize,
        key: LineKey,
    ) -> Waiting {
        if let Some(group) = self.groups[ix].as_mut()
            && group.turns.insert(key, Turn::Waiting) != Some(Turn::Waiting)
        {
            self.lines.waiting.entry(key).or_default().push_back(ix);
        }
        self.wake_group(ix, now + LINE_POLL);
        let wait = QuotaWait {
            until: None,
            limit: QuotaLimit::Connections,
            rule: Box::from(&*self.rules.rule(key.rule).name),
            figure: self.rules.limits(key.rule, scope_source(key.scope)).max_connections,
            used: {
                let held = self.connections.values().filter(|c| c.line == key).count();
                u32::try_from(held).unwrap_or(u32::MAX)
            },
        };
        Waiting { reason: WaitReason::Quota { wait }, until: now + LINE_POLL }
    }

    /// A group is forgotten, or needs no permits: so are its places in line.
    pub(crate) fn leave_lines(&mut self, ix: usize) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        for (key, turn) in core::mem::take(&mut group.turns) {
            match turn {
                Turn::Waiting => {
                    if let Some(line) = self.lines.waiting.get_mut(&key) {
                        line.retain(|member| *member != ix);
                    }
                }
                Turn::Polls => {}
                Turn::Served => self.serve_next(key, Turn::Served),
            }
        }
    }

    /// In the lines in which it stands in front, a group looks for itself.
    pub(crate) fn poll_lines(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        let waiting = group.turns.iter().filter(|(_, turn)| **turn == Turn::Waiting);
        let keys: Vec<LineKey> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            if self.lines.waiting.get(&key).and_then(|line| line.front()) == Some(&ix) {
                self.serve_next(key, Turn::Polls);
            } else {
                self.wake_group(ix, now + LINE_POLL);
            }
        }
    }

    /// A permit of a budget is free: the group that waits longest has its turn.
    pub(crate) fn permit_released(&mut self, key: LineKey) {
        self.serve_next(key, Turn::Served);
    }

    /// After a group was looked at: turns that it did not use go to the next in line, unless it only
    /// waits for a token that was asked for.
    pub(crate) fn pass_turns_on(&mut self, ix: usize, waits_for_token: &[LineKey]) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        let mut unused = Vec::new();
        group.turns.retain(|key, turn| {
            let keeps = *turn == Turn::Waiting || waits_for_token.contains(key);
            if !keeps && *turn == Turn::Served {
                unused.push(*key);
            }
            keeps
        });
        for key in unused {
            self.serve_next(key, Turn::Served);
        }
    }

    fn serve_next(&mut self, key: LineKey, turn: Turn) {
        // Refusals of the past mean nothing any more.
        *self.lines.releases.entry(key).or_insert(0) += 1;
        let next = self.lines.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        if let Some(ix) = next
            && let Some(group) = self.groups[ix].as_mut()
        {
            group.turns.insert(key, turn);
            self.dirty.insert(ix);
        }
    }
}

/// A source of the budget, to look its figures up. Those of a rule's only budget may differ by source; any will do.
fn scope_source(scope: ScopeKey) -> mail::id::SourceId {
    match scope {
        ScopeKey::Path(path) => path.source,
        ScopeKey::Source(source) => source,
        ScopeKey::Rule => mail::id::SourceId(0),
    }
}
