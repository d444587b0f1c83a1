//! Tokens: asked for in lots before they are needed, used in their slot, given back when nobody needs them.

use core::time::Duration;
use std::sync::Arc;

use mail::id::DeliveryId;
use mail::time::Timestamp;
use quota::{LotId, PathKey};

use crate::engine::{Engine, Wake};
use crate::event::{Command, QuotaWait, Tokens};
use crate::line::{LINE_POLL, LineKey};
use crate::path::{HeldLot, Purse};
use crate::shaping::MIN_WAIT;

/// Tokens that a path has not used for so long go back while it has nothing to send.
pub(crate) const IDLE_TOKENS: Duration = Duration::from_secs(1);

impl Engine {
    /// Asks for tokens, unless a request is on its way or was put off.
    pub(crate) fn ask_tokens(
        &mut self,
        now: Timestamp,
        path: PathKey,
        mx_host: &Arc<str>,
        cap: Option<(DeliveryId, u32)>,
        room: u32,
    ) {
        let lot_min = self.settings.lot_tokens_min;
        let Some(state) = self.paths.get_mut(&path) else { return };
        let purse = state.purse(cap.map(|(delivery, _)| delivery));
        let waits =
            purse.wait.as_ref().is_some_and(|wait| wait.until.is_some_and(|until| until > now));
        if purse.asked || waits {
            return;
        }
        purse.asked = true;
        let mut want = purse.flow_per_second().max(room).max(lot_min);
        if let Some((delivery, _)) = cap {
            // What one path holds of a small cap is missing elsewhere.
            let groups = state.groups.iter().filter_map(|ix| self.groups[*ix].as_ref());
            let waiting: usize = groups.map(|group| group.window.of_delivery(delivery)).sum();
            want = want.min(u32::try_from(waiting).unwrap_or(u32::MAX)).max(1);
        }
        let rule = self.rules.find(mx_host, path.source);
        state.line = Some(LineKey::new(&self.rules, rule, path));
        let mx_host = Arc::clone(mx_host);
        self.commands.push_back(Command::AskTokens { path, mx_host, want, cap });
    }

    pub(crate) fn tokens_answered(
        &mut self,
        now: Timestamp,
        key: PathKey,
        cap: Option<DeliveryId>,
        answer: Result<Tokens, QuotaWait>,
    ) {
        let Some(path) = self.paths.get_mut(&key) else {
            if let Ok(tokens) = answer {
                self.give_back(tokens.lot, tokens.count);
            }
            return;
        };
        let purse = path.purse(cap);
        purse.asked = false;
        if let Ok(tokens) = &answer
            && self.draining
        {
            let (lot, count) = (tokens.lot, tokens.count);
            return self.give_back(lot, count);
        }
        match answer {
            Ok(Tokens { count, lot, use_before }) => {
                purse.wait = None;
                purse.held.push_back(HeldLot { lot, tokens: count, use_before });
                self.wakes.insert((use_before, Wake::Path(key)));
                self.dirty.extend(path.groups.iter().copied());
                if let Some(line) = path.line {
                    self.tokens_known(now, line, None);
                }
            }
            Err(wait) => {
                let until = wait.until.unwrap_or(now + LINE_POLL).max(now + MIN_WAIT);
                let wait = QuotaWait { until: Some(until), ..wait };
                purse.wait = Some(wait.clone());
                self.wakes.insert((until, Wake::Path(key)));
                self.dirty.extend(path.groups.iter().copied());
                if let Some(line) = path.line {
                    self.token_waiters.entry(line).or_default().insert(key);
                    self.tokens_known(now, line, Some(&wait));
                }
            }
        }
    }

    pub(crate) fn give_back(&mut self, lot: LotId, count: u32) {
        self.commands.push_back(Command::GiveBack { lot, count });
    }

    /// A slot has ended, or a wait for tokens: what is left goes back, the groups go on.
    pub(crate) fn path_woken(&mut self, now: Timestamp, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        self.dirty.extend(path.groups.iter().copied());
        if path.look_at <= now {
            path.look_at = Timestamp::NEVER;
        }
        self.return_tokens(now, key, |purse| purse.take_out(Some(now)));
        self.give_back_idle(now, key);
    }

    /// Looks in a moment whether a path still needs the tokens that it holds.
    pub(crate) fn look_at_tokens(&mut self, now: Timestamp, key: PathKey) {
        if let Some(path) = self.paths.get_mut(&key)
            && path.look_at == Timestamp::NEVER
            && path.purses.iter().any(|purse| purse.asked || !purse.held.is_empty())
        {
            path.look_at = now + IDLE_TOKENS;
            self.wakes.insert((path.look_at, Wake::Path(key)));
        }
    }

    /// Gives back what a path holds while none of its groups has anything to send: the budget may be
    /// shared with paths that have.
    fn give_back_idle(&mut self, now: Timestamp, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        let busy = path.groups.iter().any(|ix| {
            self.groups[*ix].as_ref().is_some_and(|group| {
                group.window.len() > 0 || group.has_line() || group.claims_open > 0
            })
        });
        if busy {
            // It is looked at again when a connection on it has nothing to do.
            return;
        }
        self.return_tokens(now, key, |purse| {
            if purse.asked || purse.idle_for(now) < IDLE_TOKENS {
                return Vec::new();
            }
            purse.take_out(None)
        });
        let left = self.paths.get(&key).is_some_and(|path| {
            path.purses.iter().any(|purse| purse.asked || !purse.held.is_empty())
        });
        if left {
            self.look_at_tokens(now, key);
        }
    }

    /// Gives tokens back that nobody on this path needs, so that another path can have them.
    pub(crate) fn give_back_unneeded(&mut self, now: Timestamp, key: PathKey) {
        if self.paths.get(&key).is_some_and(|path| path.connections == 0) {
            self.return_tokens(now, key, |purse| purse.take_out(None));
        }
    }

    /// Gives back what `out` takes from the purses of a path. As many who were put off because of these tokens as there
    /// are tokens ask again: the ledger told them when there is room if nobody gives anything back.
    fn return_tokens(
        &mut self,
        now: Timestamp,
        key: PathKey,
        mut out: impl FnMut(&mut Purse) -> Vec<HeldLot>,
    ) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        let line = path.line;
        let mut returned: Vec<(Option<DeliveryId>, HeldLot)> = Vec::new();
        for purse in &mut path.purses {
            let cap = purse.cap;
            returned.extend(out(purse).into_iter().map(|held| (cap, held)));
        }
        let mut tokens = 0;
        for (cap, held) in returned {
            tokens += held.tokens;
            self.give_back(held.lot, held.tokens);
            if let Some(delivery) = cap.filter(|id| self.capped.contains_key(id)) {
                self.cap_woken(now, delivery);
            }
        }
        let Some(line) = line else { return };
        if tokens > 0 {
            self.tokens_known(now, line, None);
        }
        let Some(waiters) = self.token_waiters.get_mut(&line) else { return };
        let mut again = Vec::new();
        while again.len() < tokens as usize {
            match waiters.pop_first() {
                Some(waiter) => again.push(waiter),
                None => break,
            }
        }
        for waiter in again {
            let Some(path) = self.paths.get_mut(&waiter) else { continue };
            for purse in &mut path.purses {
                purse.wait = None;
            }
            self.dirty.extend(path.groups.iter().copied());
        }
    }

    /// Gives all tokens back, at the end of a drain.
    pub(crate) fn give_back_all(&mut self) {
        let purses = self.paths.values_mut().flat_map(|path| &mut path.purses);
        let held: Vec<HeldLot> = purses.flat_map(|purse| purse.take_out(None)).collect();
        for held in held {
            self.give_back(held.lot, held.tokens);
        }
    }
}
