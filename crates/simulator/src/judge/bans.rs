//! Checker 4: no attempt to an address begins after its quarantine or denylisting is durable.
//!
//! Told at the commit, from outside, who may not be written to, it looks for what the exchangers saw after that. An attempt
//! that was under way at the commit may go on; it may not be made again, and not after a crash.

use std::collections::{BTreeMap, BTreeSet};

use mail::id::MessageId;
use mail::time::Timestamp;

use super::Accepted;
use crate::fleet::{Fleet, MailSeen};

/// An address may not be written to.
#[derive(Clone, Debug)]
struct Ban {
    from: Timestamp,
    until: Timestamp,
    /// Attempts that had begun.
    begun: BTreeSet<MessageId>,
}

/// What this checker knows: bans by the number in the address.
#[derive(Debug, Default)]
pub(super) struct Bans(BTreeMap<u64, Vec<Ban>>);

/// The number in an address: `u7@...`.
fn serial(address: &str) -> Option<u64> {
    address.strip_prefix('u')?.split('@').next()?.parse().ok()
}

impl Bans {
    pub(super) fn forbidden(
        &mut self,
        now: Timestamp,
        addresses: &[Box<str>],
        begun: &BTreeSet<MessageId>,
    ) {
        for serial in addresses.iter().filter_map(|address| serial(address)) {
            let ban = Ban { from: now, until: Timestamp::NEVER, begun: begun.clone() };
            self.0.entry(serial).or_default().push(ban);
        }
    }

    pub(super) fn freed(&mut self, now: Timestamp, addresses: &[Box<str>]) {
        for serial in addresses.iter().filter_map(|address| serial(address)) {
            for ban in self.0.get_mut(&serial).into_iter().flatten() {
                ban.until = ban.until.min(now);
            }
        }
    }

    /// Whether the address was ever banned: then its message may have failed for that.
    pub(super) fn has_met(&self, serial: u64) -> bool {
        self.0.contains_key(&serial)
    }

    /// All that is wrong in the whole history.
    pub(super) fn judge(
        &self,
        accepted: &BTreeMap<u64, Accepted>,
        fleet: &Fleet,
        crashes: &[Timestamp],
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut mails: BTreeMap<u64, Vec<&MailSeen>> = BTreeMap::new();
        for mail in &fleet.mails {
            mails.entry(mail.serial.unwrap_or(0)).or_default().push(mail);
        }
        for (serial, bans) in &self.0 {
            let Some(one) = accepted.get(serial) else { continue };
            let seen = || mails.get(serial).into_iter().flatten();
            for ban in bans {
                let within = seen().filter(|mail| ban.from < mail.sent && mail.sent < ban.until);
                let mut may_go_on = ban.begun.contains(&one.id);
                for mail in within {
                    let crashed = crashes.iter().any(|at| ban.from <= *at && *at <= mail.sent);
                    if core::mem::take(&mut may_go_on) && !crashed {
                        continue;
                    }
                    let (at, from) = (mail.at, ban.from);
                    wrong.push(format!(
                        "{at} u{serial}: 4: to an address that is refused since {from}"
                    ));
                    break;
                }
            }
        }
        wrong.truncate(4);
        wrong
    }
}
