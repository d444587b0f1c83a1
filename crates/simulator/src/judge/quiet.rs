//! Checker 12: nothing is sent on a path that a reaction has suspended.
//!
//! The judge does not ask the engine which reactions are in force. It reads the refusals that sessions report, works
//! out for the one rule that it knows ([`DrawnReaction`]) from when to when a path must be quiet, and holds the
//! exchangers' record of MAIL FROMs against that, also over crashes and rules replaced in mid-flight. Only what was not
//! durable yet when the process died may be forgotten.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use engine::event::{DoneResult, MessageDone};
use engine::reactions::{About, KeptReactions};
use mail::attempt::Verdict;
use mail::id::{MessageId, SourceId};
use mail::time::Timestamp;

use super::Accepted;
use super::conduct::Clocks;
use crate::fleet::Fleet;
use crate::reactions::{DrawnReaction, TOO_MANY};

/// A path that must be quiet.
#[derive(Debug)]
struct Silence {
    source: SourceId,
    target: IpAddr,
    from: Timestamp,
    /// In the node's own time.
    until: Timestamp,
    /// It was forgotten in a crash then, before it was durable.
    forgotten: Timestamp,
    /// What was on the wire already: its MAIL FROM cannot be taken back.
    begun: BTreeSet<MessageId>,
}

/// What this checker knows.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    clocks: Clocks,
    rule: Option<DrawnReaction>,
    silences: Vec<Silence>,
}

impl Quiet {
    pub(super) fn clock_runs(&mut self, now: Timestamp, own: Timestamp, drift: i64) {
        self.clocks.run(now, own, drift);
    }

    pub(super) fn rules(&mut self, rule: Option<DrawnReaction>) {
        self.rule = rule;
    }

    /// A session has said what became of a message.
    pub(super) fn reported(
        &mut self,
        (now, own): (Timestamp, Timestamp),
        (source, target): (SourceId, IpAddr),
        done: &MessageDone,
        begun: &BTreeSet<MessageId>,
    ) {
        let Some(rule) = self.rule else { return };
        let DoneResult::Verdict(Verdict::Refused { reply, .. }) = &done.result else { return };
        if String::from_utf8_lossy(reply.raw()).contains(TOO_MANY) {
            let until = own + rule.lasts;
            let forgotten = Timestamp::NEVER;
            let begun = begun.clone();
            self.silences.push(Silence { source, target, from: now, until, forgotten, begun });
        }
    }

    /// The process died, with this on its disk.
    pub(super) fn crashed(&mut self, now: Timestamp, kept: &KeptReactions) {
        for silence in self.silences.iter_mut().filter(|one| one.forgotten == Timestamp::NEVER) {
            let about = About::Path { source: silence.source, target: silence.target };
            let durable =
                kept.in_force.iter().any(|one| one.about == about && one.until >= silence.until);
            if !durable {
                silence.forgotten = now;
            }
        }
    }

    /// All that is wrong in the whole history.
    pub(super) fn judge(&self, fleet: &Fleet, accepted: &BTreeMap<u64, Accepted>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut of_path: BTreeMap<(SourceId, IpAddr), Vec<&Silence>> = BTreeMap::new();
        for one in &self.silences {
            of_path.entry((one.source, one.target)).or_default().push(one);
        }
        for mail in &fleet.mails {
            let own = self.clocks.own(mail.sent);
            let id = mail.serial.and_then(|serial| accepted.get(&serial)).map(|one| one.id);
            let silences = of_path.get(&(mail.source, mail.target));
            let broken = silences.into_iter().flatten().find(|one| {
                one.from < mail.sent
                    && own < one.until
                    && mail.sent < one.forgotten
                    && !id.is_some_and(|id| one.begun.contains(&id))
            });
            if let Some(silence) = broken {
                let (sent, target, from) = (mail.sent, silence.target, silence.from);
                wrong.push(format!(
                    "{sent} 12: on a path to {target} that has been suspended since {from}"
                ));
            }
            if wrong.len() >= 4 {
                break;
            }
        }
        wrong
    }
}
