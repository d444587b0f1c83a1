//! Checkers 9, 10 and 11: only what may go, only where it may, and not sooner than the schedule says.
//!
//! The exchangers' record of MAIL FROMs is held against the script. Times of the script (waves, validity, pauses
//! between tries) are the node's own: [`Clocks`] translates.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use engine::event::{DoneResult, MessageDone};
use engine::work::{DeliveryOptions, DeliveryState, Fate, FinalState, Settled};
use mail::attempt::{Stage, Verdict};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::reply::ReplyClass;
use mail::time::Timestamp;
use store::{MemoryStore, MessageState, Store as _};

use super::Accepted;
use crate::fleet::{Fleet, MailSeen};
use crate::node::drifted;
use crate::plan::Script;

/// What was handed to a connection before the end of its validity may go until its token's minute is over.
const TOKEN: Duration = Duration::from_secs(61);

/// Pause after MAIL FROM was refused, and the longest that the engine adds by itself.
const OWN_PAUSE: Duration = Duration::from_secs(600);

/// Translates true time into the node's own.
#[derive(Debug, Default)]
pub(super) struct Clocks(Vec<(Timestamp, Timestamp, i64)>);

impl Clocks {
    pub(super) fn run(&mut self, now: Timestamp, own: Timestamp, drift: i64) {
        self.0.push((now, own, drift));
    }

    pub(super) fn own(&self, now: Timestamp) -> Timestamp {
        let after = self.0.partition_point(|(began, ..)| *began <= now);
        let life = after.checked_sub(1).and_then(|place| self.0.get(place));
        life.map_or(now, |(began, own, drift)| *own + drifted(now - *began, *drift))
    }
}

/// A delivery that must not send.
#[derive(Debug)]
struct Stop {
    delivery: DeliveryId,
    state: DeliveryState,
    from: Timestamp,
    until: Timestamp,
    /// What was on a connection already.
    held: BTreeSet<MessageId>,
}

/// What a verdict asks for, not yet committed.
#[derive(Clone, Copy, Debug)]
struct Asked {
    until: Timestamp,
    pinned: Option<SourceId>,
    counts: bool,
}

/// A message that must wait: committed.
#[derive(Clone, Copy, Debug)]
struct Wait {
    from: Timestamp,
    asked: Asked,
}

/// What these checkers know.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    clocks: Clocks,
    /// When each delivery was started, in its node's time.
    begun: BTreeMap<DeliveryId, Timestamp>,
    stops: Vec<Stop>,
    asked: BTreeMap<MessageId, Asked>,
    attempts: BTreeMap<MessageId, usize>,
    waits: BTreeMap<MessageId, Vec<Wait>>,
}

impl Conduct {
    pub(super) fn clock_runs(&mut self, now: Timestamp, own: Timestamp, drift: i64) {
        self.clocks.run(now, own, drift);
    }

    pub(super) fn begun(&mut self, delivery: DeliveryId, own: Timestamp) {
        self.begun.insert(delivery, own);
    }

    pub(super) fn state_changed(
        &mut self,
        now: Timestamp,
        delivery: DeliveryId,
        state: DeliveryState,
        held: BTreeSet<MessageId>,
    ) {
        for stop in self.stops.iter_mut().filter(|stop| stop.delivery == delivery) {
            stop.until = stop.until.min(now);
        }
        if state != DeliveryState::Running {
            self.stops.push(Stop { delivery, state, from: now, until: Timestamp::NEVER, held });
        }
    }

    /// A session has said what became of a message.
    pub(super) fn reported(
        &mut self,
        own: Timestamp,
        source: SourceId,
        done: &MessageDone,
        options: &DeliveryOptions,
    ) {
        let retry = &options.retry;
        let tries = self.attempts.get(&done.message).copied().unwrap_or(0);
        let step = retry.steps.get(tries).copied().unwrap_or(retry.then_every);
        let (pause, pinned, counts) = match &done.result {
            DoneResult::Verdict(Verdict::PossiblyDelivered) => (step, None, true),
            // The end of the conversation: the message goes to another path at once.
            DoneResult::Verdict(Verdict::Refused { stage, reply })
                if reply.code() == 421 && *stage != Stage::Content =>
            {
                return;
            }
            DoneResult::Verdict(Verdict::Refused { stage: Stage::MailFrom, .. }) => {
                (OWN_PAUSE, None, false)
            }
            DoneResult::Verdict(Verdict::Refused { reply, .. }) => {
                if reply.class() == ReplyClass::Permanent {
                    return;
                }
                if String::from_utf8_lossy(reply.raw()).contains("greylisted") {
                    (retry.greylisted, Some(source), true)
                } else {
                    (step, None, true)
                }
            }
            _ => return,
        };
        self.asked.insert(done.message, Asked { until: own + pause, pinned, counts });
    }

    /// What was reported is committed, or has come to another end.
    pub(super) fn settled(&mut self, now: Timestamp, settled: &[Settled]) {
        for one in settled {
            let Some(asked) = self.asked.remove(&one.id) else { continue };
            *self.attempts.entry(one.id).or_default() += usize::from(asked.counts);
            if matches!(one.fate, Fate::Requeued { .. }) {
                self.waits.entry(one.id).or_default().push(Wait { from: now, asked });
            }
        }
    }

    /// What was not committed is forgotten.
    pub(super) fn crashed(&mut self) {
        self.asked.clear();
    }

    /// All that is wrong in the whole history.
    pub(super) fn judge(
        &self,
        accepted: &BTreeMap<u64, Accepted>,
        fleet: &Fleet,
        script: &Script,
        store: &MemoryStore,
    ) -> Vec<String> {
        let mut wrong: Vec<String> = fleet
            .mails
            .iter()
            .filter_map(|mail| {
                let serial = mail.serial?;
                let one = accepted.get(&serial)?;
                let why = self.wrong(mail, one, script)?;
                Some(format!("{} u{serial} was sent from {}: {why}", mail.at, mail.source))
            })
            .take(4)
            .collect();
        wrong.extend(accepted.iter().filter_map(|(serial, one)| {
            let ended = self.expired_too_early(one, script, store)?;
            Some(format!("{ended} u{serial}: 9: expired before its time"))
        }));
        wrong
    }

    fn wrong(&self, mail: &MailSeen, one: &Accepted, script: &Script) -> Option<String> {
        let mailing = &script.mailings[one.mailing];
        let own = self.clocks.own(mail.sent);
        if self.wave_opens_at(one, script).is_some_and(|opens_at| own < opens_at) {
            return Some(format!("9: before its wave (place {})", one.place));
        }
        if own > self.valid_until(one, &mailing.options)? + TOKEN {
            return Some("9: after its validity".into());
        }
        let stopped = |stop: &&Stop| {
            let within = stop.from < mail.sent && mail.sent < stop.until;
            within && stop.delivery == one.delivery && !stop.held.contains(&one.id)
        };
        if let Some(stop) = self.stops.iter().find(stopped) {
            let (state, from) = (stop.state, stop.from);
            return Some(format!("9: although its delivery is {state:?} since {from}"));
        }
        let affinity = script.affinities.iter().find(|of| of.name == mailing.options.affinity)?;
        if !affinity.sources.contains(&mail.source) {
            return Some("10: outside its affinity".into());
        }
        let domain = mailing.domains.get(usize::try_from(one.place).ok()?)?;
        if script.excluded.contains(&(mail.source, domain.clone())) {
            return Some(format!("10: against the mask {domain}"));
        }
        let waits = self.waits.get(&one.id)?;
        let wait = waits.iter().rev().find(|wait| wait.from < mail.sent)?;
        let asked = wait.asked;
        if own < asked.until {
            return Some(format!("11: tried again too soon, at {own}, not {}", asked.until));
        }
        asked
            .pinned
            .filter(|pinned| *pinned != mail.source)
            .map(|pinned| format!("11: not from the source {pinned} that was greylisted"))
    }

    /// Worked out once more from the script: each share is rounded with those before it, and the last wave has the rest.
    fn wave_opens_at(&self, one: &Accepted, script: &Script) -> Option<Timestamp> {
        let mailing = &script.mailings[one.mailing];
        let waves = &mailing.options.waves;
        let recipients = mailing.domains.len() as u64;
        let mut percent = 0;
        for (number, wave) in waves.iter().enumerate() {
            percent += crate::plan::WAVE_PERCENT;
            let last = number + 1 == waves.len();
            if last || one.place < (recipients * percent + 50) / 100 {
                return Some(*self.begun.get(&one.delivery)? + wave.start_after);
            }
        }
        None
    }

    fn valid_until(&self, one: &Accepted, options: &DeliveryOptions) -> Option<Timestamp> {
        let from = if options.stream { one.at } else { *self.begun.get(&one.delivery)? };
        Some(from + options.validity)
    }

    /// Expired is true only if no try would have fitted any more. With five days everything has healed long before.
    fn expired_too_early(
        &self,
        one: &Accepted,
        script: &Script,
        store: &MemoryStore,
    ) -> Option<Timestamp> {
        let record = store.reads().message(one.id).ok().flatten()?;
        let MessageState::Final { state: FinalState::Expired, settled_at } = record.state else {
            return None;
        };
        let options = &script.mailings[one.mailing].options;
        let retry = &options.retry;
        let steps = retry.steps.iter().copied();
        let longest = steps.chain([retry.then_every, retry.greylisted, OWN_PAUSE]).max()?;
        let percent = 100 + u32::from(retry.jitter_percent);
        let end = self.valid_until(one, options)?;
        let long = options.validity >= Duration::from_secs(5 * 86_400);
        (long || settled_at + longest * percent / 100 < end).then_some(settled_at)
    }
}
