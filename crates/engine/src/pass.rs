//! Passes: which MX groups may claim before they have a connection.
//!
//! Of the groups of one budget only a bounded number claims messages before it has a connection: those that hold a pass.
//! The others stand outside, with their messages in the store, so that a hundred thousand small groups behind one
//! budget neither fill the windows nor ask again and again for tokens that are used up. While the tokens of a budget are
//! known to be used up, nobody is let in.
//!
//! A pass is handed in when the group has a connection, or when what it waits for is not the budget (its path rests, its
//! delivery is capped): then it goes to the group that stands outside longest. Urgent mail needs none.

use mail::time::Timestamp;
use quota::PathKey;

use crate::engine::Engine;
use crate::event::{QuotaLimit, QuotaWait};
use crate::line::LineKey;
use crate::reason::{WaitReason, Waiting};
use crate::shaping::{MIN_WAIT, earlier};

/// Groups of one budget that may claim before they have a connection.
const PASSES: u32 = 256;

impl Engine {
    /// Whether a group may claim: it has a connection or messages, or one of its budgets has tokens, as far as is known,
    /// and a pass for it. If not, it stands outside until then.
    pub(crate) fn may_claim(&mut self, now: Timestamp, ix: usize) -> bool {
        let Some(group) = self.groups[ix].as_ref() else { return false };
        if group.pass.is_some() || !group.connections.is_empty() || group.window.len() > 0 {
            return true;
        }
        if group.outside.is_some() {
            return false;
        }
        let keys = self.budgets_of(ix);
        if keys.is_empty() {
            // Nothing can be sent there at all, and the claimed messages are told so.
            return true;
        }
        for key in &keys {
            let line = self.lines.line(*key);
            if line.token_wait(now).is_none() && line.passes < PASSES {
                line.passes += 1;
                if let Some(group) = self.groups[ix].as_mut() {
                    group.pass = Some(*key);
                }
                return true;
            }
        }
        self.lines.outside += 1;
        let number = self.lines.outside;
        for key in &keys {
            self.lines.line(*key).outside.insert((number, ix));
            self.look_later(now, *key);
        }
        if let Some(group) = self.groups[ix].as_mut() {
            group.outside = Some((number, keys));
        }
        false
    }

    /// The budgets in which a group's messages may count, each once, the best hosts first.
    fn budgets_of(&mut self, ix: usize) -> Vec<LineKey> {
        let Some(group) = self.groups[ix].as_ref() else { return Vec::new() };
        let targets = group.targets.clone();
        let sources: Vec<_> = self.sources.iter().map(|source| (source.id, source.ipv6)).collect();
        let mut keys = Vec::new();
        for target in targets {
            for (source, ipv6) in &sources {
                if target.address.is_ipv6() != *ipv6 {
                    continue;
                }
                let rule = self.ruling(ix, &target.host, *source);
                let path = PathKey { source: *source, target: target.address };
                let key = LineKey::new(&self.rules, rule, path);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// What a group outside waits for: of several budgets the one that may help first.
    pub(crate) fn outside_reason(&self, now: Timestamp, keys: &[LineKey]) -> Waiting {
        let mut first: Option<Waiting> = None;
        for key in keys {
            let Some(line) = self.lines.lines.get(key) else { continue };
            let waiting = match line.token_wait(now).cloned() {
                Some(wait) => {
                    let until = wait.until.unwrap_or(line.look_at);
                    Waiting { reason: WaitReason::Quota { wait }, until }
                }
                None if line.waiting.is_empty() => {
                    Waiting { reason: WaitReason::InTurn, until: line.look_at }
                }
                None => Waiting { reason: self.line_reason(*key), until: line.look_at },
            };
            earlier(&mut first, waiting);
        }
        first.unwrap_or(Waiting { reason: WaitReason::InTurn, until: now + MIN_WAIT })
    }

    /// A group does not stand outside any more.
    pub(crate) fn come_in(&mut self, ix: usize) {
        let Some((number, keys)) = self.groups[ix].as_mut().and_then(|group| group.outside.take())
        else {
            return;
        };
        for key in keys {
            self.lines.line(key).outside.remove(&(number, ix));
        }
    }

    /// Gives passes of a budget to those that stand outside longest.
    pub(crate) fn let_in(&mut self, now: Timestamp, key: LineKey) {
        loop {
            let line = self.lines.line(key);
            if line.token_wait(now).is_some() || line.passes >= PASSES {
                return;
            }
            let Some((_, ix)) = line.outside.pop_first() else { return };
            self.come_in(ix);
            if let Some(group) = self.groups[ix].as_mut() {
                group.pass = Some(key);
                self.lines.line(key).passes += 1;
                self.dirty.insert(ix);
            }
        }
    }

    /// After a group was looked at: its pass goes to the next one when it has a connection, or when what it waits for is
    /// not the budget.
    pub(crate) fn pass_on(&mut self, now: Timestamp, ix: usize, waits_for_budget: bool) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        let waits = !group.turns.is_empty() || (waits_for_budget && group.window.len() > 0);
        let needed = group.connections.is_empty() && (group.claims_open > 0 || waits);
        if !needed && let Some(key) = self.hand_in_pass(ix) {
            self.let_in(now, key);
        }
    }

    pub(crate) fn hand_in_pass(&mut self, ix: usize) -> Option<LineKey> {
        let key = self.groups[ix].as_mut()?.pass.take()?;
        let line = self.lines.line(key);
        line.passes = line.passes.saturating_sub(1);
        Some(key)
    }

    /// Notes what the ledger last said about the tokens of a budget.
    pub(crate) fn tokens_known(
        &mut self,
        now: Timestamp,
        key: LineKey,
        refused: Option<&QuotaWait>,
    ) {
        let LineKey::Budget { rule, .. } = key else { return };
        match refused {
            Some(wait) => {
                let of_budget = matches!(
                    wait.limit,
                    QuotaLimit::Hour
                        | QuotaLimit::Period
                        | QuotaLimit::Pace
                        | QuotaLimit::MinuteEnd
                ) && *wait.rule == *self.rules.rule(rule).name;
                if of_budget {
                    self.lines.line(key).tokens = Some(wait.clone());
                }
            }
            None => {
                if let Some(line) = self.lines.lines.get_mut(&key)
                    && line.tokens.take().is_some()
                {
                    self.let_in(now, key);
                }
            }
        }
    }
}
