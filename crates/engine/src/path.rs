//! A path: one source × one target, its health and the tokens it holds.
//!
//! After a failure a path rests: 4 s at first, doubled at each further failure up to 10 minutes, back to
//! nothing at the first success. Whether the target could not be reached or refused us is kept apart.

use core::time::Duration;

use std::collections::VecDeque;
use std::sync::Arc;

use mail::attempt::{EndCause, SessionEnd};
use mail::id::DeliveryId;
use mail::time::Timestamp;
use quota::LotId;
use serde::{Deserialize, Serialize};

use crate::event::QuotaWait;
use crate::line::LineKey;
use crate::reactions::Meter;
use crate::settings::Settings;

/// Why a path rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestCause {
    /// No connection could be made.
    Unreachable,
    /// The server answered, and would not talk to us.
    Refused,
    /// The conversation broke down.
    Broken,
    /// TLS is required, and the server offers none or none that works.
    NoTls,
}

/// What is left of one lot of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldLot {
    /// The ledger's number for it.
    pub(crate) lot: LotId,
    /// Tokens left, at least 1.
    pub(crate) tokens: u32,
    /// They must be used before.
    pub(crate) use_before: Timestamp,
}

/// The tokens of a path for one kind of delivery.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Purse {
    /// The deliveries they may be used for: one with an hourly cap of its own, or all without.
    pub(crate) cap: Option<DeliveryId>,
    /// The oldest first.
    pub(crate) held: VecDeque<HeldLot>,
    /// A request is on its way.
    pub(crate) asked: bool,
    /// The last request was put off.
    pub(crate) wait: Option<QuotaWait>,
    /// Tokens used in the current second, to size the next request.
    used_in_second: u32,
    /// The second that counts.
    second: u64,
    /// Tokens used in the second before.
    used_before: u32,
}

impl Purse {
    const fn new(cap: Option<DeliveryId>) -> Self {
        Self {
            cap,
            held: VecDeque::new(),
            asked: false,
            wait: None,
            used_in_second: 0,
            second: 0,
            used_before: 0,
        }
    }

    /// Tokens that may still be used at `now`.
    pub(crate) fn usable(&self, now: Timestamp) -> u32 {
        self.held.iter().filter(|lot| now < lot.use_before).map(|lot| lot.tokens).sum()
    }

    /// Takes one token: the lot it belongs to, and when it ends.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(LotId, Timestamp)> {
        let at = self.held.iter().position(|lot| now < lot.use_before)?;
        let held = &mut self.held[at];
        let taken = (held.lot, held.use_before);
        held.tokens -= 1;
        if held.tokens == 0 {
            self.held.remove(at);
        }
        if now.as_secs() != self.second {
            self.used_before =
                if now.as_secs() == self.second + 1 { self.used_in_second } else { 0 };
            self.used_in_second = 0;
            self.second = now.as_secs();
        }
        self.used_in_second += 1;
        Some(taken)
    }

    /// Puts an unused token back; `false`: its time is over, it belongs to the ledger.
    pub(crate) fn put_back(&mut self, now: Timestamp, lot: LotId, use_before: Timestamp) -> bool {
        if now >= use_before {
            return false;
        }
        match self.held.iter_mut().find(|held| held.lot == lot) {
            Some(held) => held.tokens += 1,
            None => self.held.push_front(HeldLot { lot, tokens: 1, use_before }),
        }
        true
    }

    /// Takes out the lots that are over at `now`, or all.
    pub(crate) fn take_out(&mut self, over_at: Option<Timestamp>) -> Vec<HeldLot> {
        let over = |lot: &HeldLot| over_at.is_none_or(|now| now >= lot.use_before);
        let out = self.held.iter().copied().filter(over).collect();
        self.held.retain(|lot| !over(lot));
        out
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_empty(&self, now: Timestamp) -> bool {
        let waits = self.wait.as_ref().and_then(|wait| wait.until).is_some_and(|until| until > now);
        !self.asked && !waits && self.held.is_empty()
    }

    /// How long no token was used, to the second.
    pub(crate) fn idle_for(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_secs(self.second))
    }

    /// About one second's flow.
    pub(crate) fn flow_per_second(&self) -> u32 {
        self.used_in_second.max(self.used_before)
    }
}

/// One path and all that is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// It rests until then.
    pub(crate) rest_until: Timestamp,
    pub(crate) rest_cause: RestCause,
    /// What was said or happened last, for people.
    pub(crate) last_fault: Box<str>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// It has taken a message at some time.
    pub(crate) has_taken: bool,
    /// MAIL FROM refused in a row, without a success between.
    pub(crate) senders_refused: u32,
    /// TLS is not tried until then (opportunistic only).
    pub(crate) clear_text_until: Timestamp,
    /// Tries of TLS that failed in a row.
    pub(crate) tls_failures: u32,
    /// CHUNKING is not used until then: BDAT was not known, or a conversation was lost amid a message.
    pub(crate) no_chunking_until: Timestamp,
    /// Connections open or being opened.
    pub(crate) connections: u32,
    pub(crate) purses: Vec<Purse>,
    /// When it is looked at to see whether it needs the tokens that it holds; never: it is not.
    pub(crate) look_at: Timestamp,
    /// The budget in which its tokens were asked for last.
    pub(crate) line: Option<LineKey>,
    /// MX groups that use it.
    pub(crate) groups: Vec<usize>,
    /// The last request for a permit was put off.
    pub(crate) permit_wait: Option<QuotaWait>,
    /// Count of released permits of its budget at that time: a later release ends the wait.
    pub(crate) permit_wait_releases: u64,
    /// The MX host that it was used under last.
    pub(crate) mx_host: Arc<str>,
    /// Messages that were taken lately.
    pub(crate) taken: Meter,
}

impl Path {
    pub(crate) fn new(mx_host: &Arc<str>) -> Self {
        Self {
            mx_host: Arc::clone(mx_host),
            taken: Meter::default(),
            rest_until: Timestamp::EPOCH,
            rest_cause: RestCause::Unreachable,
            last_fault: Box::default(),
            failures: 0,
            has_taken: false,
            senders_refused: 0,
            clear_text_until: Timestamp::EPOCH,
            tls_failures: 0,
            no_chunking_until: Timestamp::EPOCH,
            connections: 0,
            purses: Vec::new(),
            look_at: Timestamp::NEVER,
            line: None,
            groups: Vec::new(),
            permit_wait: None,
            permit_wait_releases: 0,
        }
    }

    /// Whether tokens for deliveries with this cap are held, or asked for.
    pub(crate) fn tokens_near(&self, now: Timestamp, cap: Option<DeliveryId>) -> (bool, bool) {
        self.purses
            .iter()
            .find(|purse| purse.cap == cap)
            .map_or((false, false), |purse| (purse.usable(now) > 0, purse.asked))
    }

    /// The tokens for deliveries with this cap; the purse is made when it is missing.
    pub(crate) fn purse(&mut self, cap: Option<DeliveryId>) -> &mut Purse {
        let at = self.purses.iter().position(|purse| purse.cap == cap).unwrap_or_else(|| {
            self.purses.push(Purse::new(cap));
            self.purses.len() - 1
        });
        &mut self.purses[at]
    }

    /// Whether it rests at `now`.
    pub(crate) fn rests(&self, now: Timestamp) -> bool {
        now < self.rest_until
    }

    /// A message was taken: the path is well.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.has_taken = true;
        self.senders_refused = 0;
        self.rest_until = Timestamp::EPOCH;
    }

    /// A conversation failed: the path rests, twice as long as the last time.
    pub(crate) fn failed(&mut self, now: Timestamp, end: &SessionEnd, settings: &Settings) {
        self.rest_cause = match &end.cause {
            EndCause::Unreachable { .. } | EndCause::ConnectionRefused | EndCause::Local { .. } => {
                RestCause::Unreachable
            }
            EndCause::Refused { .. } => RestCause::Refused,
            _ => RestCause::Broken,
        };
        self.last_fault = end.to_string().into_boxed_str();
        self.rest(now, settings);
    }

    /// There is no conversation without TLS, and none with it, because of `why`: the path rests. `required_by` is who requires TLS.
    pub(crate) fn has_no_tls(
        &mut self,
        now: Timestamp,
        required_by: &str,
        why: &str,
        settings: &Settings,
    ) {
        self.rest_cause = RestCause::NoTls;
        self.last_fault = format!("TLS is required by {required_by}: {why}").into_boxed_str();
        self.rest(now, settings);
    }

    /// TLS failed where clear text would do: the next tries go without, for a short time at first. One handshake
    /// may fail for many reasons; only a host that fails again and again is believed to have no TLS that works.
    pub(crate) fn tls_failed(&mut self, now: Timestamp, settings: &Settings) {
        if now < self.clear_text_until {
            // Several conversations that fail together are one failure.
            return;
        }
        self.tls_failures = self.tls_failures.saturating_add(1);
        let remembered = if self.tls_failures >= TLS_FAILURES_BELIEVED {
            settings.broken_tls_remembered
        } else {
            settings.broken_tls_pause
        };
        self.clear_text_until = now + remembered;
    }

    /// The path rests because of what `fault` says.
    pub(crate) fn rest(&mut self, now: Timestamp, settings: &Settings) {
        let doubled = settings.path_rest_first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        // Several conversations of one path often fail together; that is one failure, not many.
        if !self.rests(now) {
            self.rest_until = now + doubled.min(settings.path_rest_max);
        } else {
            self.failures -= 1;
        }
    }

    /// Whether a connection on it may have tokens soon: some purse does not wait for the ledger.
    pub(crate) fn has_prospects(&self, now: Timestamp) -> bool {
        self.purses.iter().any(|purse| {
            let waits =
                purse.wait.as_ref().is_some_and(|wait| wait.until.is_some_and(|until| until > now));
            !waits || purse.usable(now) > 0
        })
    }

    /// The wait for a permit that still holds at `now`, given how often permits of its budget were released.
    pub(crate) fn active_permit_wait(&self, now: Timestamp, releases: u64) -> Option<&QuotaWait> {
        self.permit_wait.as_ref().filter(|wait| {
            self.permit_wait_releases == releases && wait.until.is_none_or(|until| until > now)
        })
    }

    /// The wait for tokens that still holds at `now`.
    pub(crate) fn active_token_wait(
        &self,
        now: Timestamp,
        cap: Option<DeliveryId>,
    ) -> Option<&QuotaWait> {
        let purse = self.purses.iter().find(|purse| purse.cap == cap)?;
        purse.wait.as_ref().filter(|wait| wait.until.is_some_and(|until| until > now))
    }

    /// Whether nothing would be lost by forgetting it. Failures that have not been repeated for as long as the longest
    /// rest say nothing about now.
    pub(crate) fn is_idle(&self, now: Timestamp, settings: &Settings) -> bool {
        let well = self.failures == 0 || now >= self.rest_until + settings.path_rest_max;
        self.connections == 0
            && !self.rests(now)
            && well
            && self.clear_text_until <= now
            && self.no_chunking_until <= now
            && self.purses.iter().all(|purse| !purse.asked && purse.held.is_empty())
    }
}

/// TLS that failed so often in a row is not tried again for [`Settings::broken_tls_remembered`].
const TLS_FAILURES_BELIEVED: u32 = 3;

/// How long the `failures`-th rest lasts, for tests and explanations.
#[cfg(test)]
pub(crate) fn rest_length(failures: u32, settings: &Settings) -> Duration {
    settings.path_rest_first.saturating_mul(1 << failures.min(16)).min(settings.path_rest_max)
}

#[cfg(test)]
mod tests {
    use mail::attempt::Stage;

    use super::*;

    #[test]
    fn a_path_that_failed_long_ago_is_forgotten() {
        let settings = Settings::default();
        let mut path = Path::new(&Arc::from("mx.example"));
        let end = SessionEnd { stage: Stage::Connect, cause: EndCause::ConnectionRefused };
        let now = Timestamp::from_secs(1_000);
        path.failed(now, &end, &settings);
        assert!(!path.is_idle(path.rest_until, &settings), "its failures count for a while");
        assert!(path.is_idle(path.rest_until + settings.path_rest_max, &settings));
    }

    #[test]
    fn only_tls_that_fails_again_and_again_is_given_up_for_days() {
        let settings = Settings::default();
        let mut path = Path::new(&Arc::from("mx.example"));
        let mut now = Timestamp::from_secs(1_000);
        for pause in [settings.broken_tls_pause, settings.broken_tls_pause] {
            path.tls_failed(now, &settings);
            path.tls_failed(now, &settings);
            assert_eq!(path.clear_text_until - now, pause, "failures at one time are one failure");
            now = path.clear_text_until;
        }
        path.tls_failed(now, &settings);
        assert_eq!(path.clear_text_until - now, settings.broken_tls_remembered);
    }

    #[test]
    fn rests_double_to_ten_minutes_and_end_with_a_success() {
        let settings = Settings::default();
        let mut path = Path::new(&Arc::from("mx.example"));
        let end = SessionEnd { stage: Stage::Connect, cause: EndCause::ConnectionRefused };
        let mut now = Timestamp::from_secs(1_000);
        for failures in 0..12 {
            path.failed(now, &end, &settings);
            // A second conversation that fails at the same time changes nothing.
            path.failed(now, &end, &settings);
            assert_eq!(path.rest_until - now, rest_length(failures, &settings));
            now = path.rest_until;
        }
        assert_eq!(rest_length(11, &settings), Duration::from_secs(600));
        path.succeeded();
        path.failed(now, &end, &settings);
        assert_eq!(path.rest_until - now, Duration::from_secs(4));
    }
}
