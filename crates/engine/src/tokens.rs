//! Tokens: asked for in lots before they are needed, used in their slot, given back when nobody needs them.

use core::time::Duration;
use std::sync::Arc;

use mail::id::DeliveryId;
use mail::time::Timestamp;
use quota::{LotId, PathKey};

use crate::engine::{Engine, Wake};
use crate::event::{Command, QuotaLimit, QuotaWait, Tokens};
use crate::line::LINE_POLL;
use crate::path::HeldLot;
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
        let want = purse.flow_per_second().max(room).max(lot_min);
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
            }
            Err(wait) => {
                let until = wait.until.unwrap_or(now + LINE_POLL).max(now + MIN_WAIT);
                purse.wait = Some(QuotaWait { until: Some(until), ..wait });
                self.wakes.insert((until, Wake::Path(key)));
            }
        }
        self.dirty.extend(path.groups.iter().copied());
    }

    pub(crate) fn give_back(&mut self, lot: LotId, count: u32) {
        self.commands.push_back(Command::GiveBack { lot, count });
    }

    /// A slot has ended, or a wait for tokens: what is left goes back, the groups go on.
    pub(crate) fn path_woken(&mut self, now: Timestamp, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        let over: Vec<HeldLot> =
            path.purses.iter_mut().flat_map(|purse| purse.take_out(Some(now))).collect();
        self.dirty.extend(path.groups.iter().copied());
        for held in over {
            self.give_back(held.lot, held.tokens);
        }
        self.give_back_idle(now, key);
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
            return;
        }
        let idle: Vec<HeldLot> = path
            .purses
            .iter_mut()
            .filter(|purse| !purse.asked && purse.idle_for(now) >= IDLE_TOKENS)
            .flat_map(|purse| purse.take_out(None))
            .collect();
        if idle.is_empty() {
            return;
        }
        for held in idle {
            self.give_back(held.lot, held.tokens);
        }
        // Who was put off because of these tokens asks again.
        for (other, path) in &mut self.paths {
            if other.source != key.source {
                continue;
            }
            for purse in &mut path.purses {
                let counted = |wait: &QuotaWait| {
                    matches!(wait.limit, QuotaLimit::Hour | QuotaLimit::Period | QuotaLimit::Source)
                };
                if purse.wait.as_ref().is_some_and(counted) {
                    purse.wait = None;
                    self.dirty.extend(path.groups.iter().copied());
                }
            }
        }
    }

    /// Gives tokens back that nobody on this path needs, so that another path can have them.
    pub(crate) fn give_back_unneeded(&mut self, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        if path.connections > 0 {
            return;
        }
        let unneeded: Vec<HeldLot> =
            path.purses.iter_mut().flat_map(|purse| purse.take_out(None)).collect();
        for held in unneeded {
            self.give_back(held.lot, held.tokens);
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
