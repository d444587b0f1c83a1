//! The bounds of everything that comes from outside, and the check that holds them.
//!
//! [`check`] looks only at the write itself. Both stores call it first, so both refuse the same.

use engine::work::{DeliveryOptions, WaveSize};

use crate::words::{NewContent, NewRecipient, Once, RefusedWrite, Sweep, Write};

/// Octets of an address, a folded key, a domain or an envelope sender.
pub const ADDRESS_LIMIT: usize = 1_000;
/// Octets of the merge data of one recipient.
pub const MERGE_LIMIT: usize = 65_536;
/// Octets of one content.
pub const CONTENT_LIMIT: usize = 100 << 20;
/// Recipients or refusals in one write.
pub const APPEND_LIMIT: usize = 10_000;
/// Settled messages in one write.
pub const SETTLE_LIMIT: usize = 10_000;
/// Messages in one part.
pub const CLAIM_LIMIT: u32 = 256;
/// Messages ended by one sweep.
pub const SWEEP_LIMIT: u32 = 10_000;
/// Rows looked at by one step of forgetting.
pub const FORGET_LIMIT: u32 = 10_000;
/// Keys of requests dropped by one write.
pub(crate) const PRUNE_KEYS: u32 = 50_000;
/// Refusals kept in detail per delivery.
pub const REFUSALS_KEPT: u64 = 100_000;
/// Octets kept of the last reply of a message; more is cut off.
pub const LAST_REPLY_LIMIT: usize = 1_000;
/// Octets kept of the address and the reason of a refusal; more is cut off.
const REFUSAL_TEXT_LIMIT: usize = 500;
/// Octets of the value of a setting: a thousand reactions with what people changed of them.
const SETTING_LIMIT: usize = 16 << 20;
/// Octets of any other text: names, keys, reasons.
pub(crate) const TEXT_LIMIT: usize = 1 << 20;
/// Waves of a delivery.
const WAVES_LIMIT: usize = 1_000;
/// Deliveries in one claim.
const CLAIM_DELIVERIES_LIMIT: usize = 10_000;
/// Ledger rows in one write.
const LEDGER_LIMIT: usize = 100_000;
/// Domains that one sweep looks at, so that it stays short where few of them have anything.
pub(crate) const SWEEP_DOMAINS: u32 = 4_096;
/// Parts that one release dissolves.
pub(crate) const RELEASE_PARTS: u32 = 256;

/// Cuts a text at a character boundary.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// The part of a refusal's text that is kept.
pub(crate) fn cut_refusal(text: &str) -> &str {
    cut(text, REFUSAL_TEXT_LIMIT)
}

/// Refuses what is larger than its limit.
pub(crate) fn within(what: &'static str, size: usize, limit: usize) -> Result<(), RefusedWrite> {
    if size <= limit {
        return Ok(());
    }
    Err(RefusedWrite::TooLarge { what, size: size as u64, limit: limit as u64 })
}

fn check_content(content: Option<&NewContent>) -> Result<(), RefusedWrite> {
    content
        .map_or(Ok(()), |content| within("the content (octets)", content.body.len(), CONTENT_LIMIT))
}

fn check_once(once: Option<&Once>) -> Result<(), RefusedWrite> {
    once.map_or(Ok(()), |once| {
        within("the idempotency key (octets)", once.key.len(), ADDRESS_LIMIT)?;
        within("the tenant (octets)", once.tenant.len(), ADDRESS_LIMIT)
    })
}

fn check_options(options: &DeliveryOptions) -> Result<(), RefusedWrite> {
    within("the number of waves", options.waves.len(), WAVES_LIMIT)?;
    within("the number of retry steps", options.retry.steps.len(), WAVES_LIMIT)?;
    within("the name (octets)", options.name.len(), ADDRESS_LIMIT)?;
    within("the affinity (octets)", options.affinity.len(), ADDRESS_LIMIT)?;
    within("the tenant (octets)", options.tenant.len(), ADDRESS_LIMIT)?;
    if options.stream && !options.waves.is_empty() {
        return Err(RefusedWrite::BadOptions("a stream has no waves"));
    }
    let bad = |wave: &engine::work::Wave| match wave.size {
        WaveSize::Percent(share) => !(0.0..=100.0).contains(&share),
        WaveSize::Count(_) => false,
    };
    if options.waves.iter().any(bad) {
        return Err(RefusedWrite::BadOptions("a wave's share must be from 0 to 100 percent"));
    }
    Ok(())
}

fn check_recipients(recipients: &[NewRecipient]) -> Result<(), RefusedWrite> {
    within("the number of recipients", recipients.len(), APPEND_LIMIT)?;
    for row in recipients {
        if row.address.is_empty() || row.domain.is_empty() {
            return Err(RefusedWrite::EmptyAddress { line: row.line });
        }
        within("an address (octets)", row.address.len(), ADDRESS_LIMIT)?;
        within("a folded address (octets)", row.folded.len(), ADDRESS_LIMIT)?;
        within("a domain (octets)", row.domain.len(), ADDRESS_LIMIT)?;
        within("an envelope sender (octets)", row.sender.len(), ADDRESS_LIMIT)?;
        within("the merge data of a recipient (octets)", row.merge.len(), MERGE_LIMIT)?;
    }
    Ok(())
}

fn check_sweep(sweep: &Sweep) -> Result<(), RefusedWrite> {
    within("the number of messages of a sweep", sweep.limit as usize, SWEEP_LIMIT as usize)
}

/// Refuses a write that passes a bound or contradicts itself.
pub(crate) fn check(write: &Write) -> Result<(), RefusedWrite> {
    match write {
        Write::CreateDelivery { options, content, once, .. } => {
            check_options(options)?;
            check_content(content.as_ref())?;
            check_once(once.as_ref())
        }
        Write::SetContent { content, .. } => check_content(Some(content)),
        Write::Append { content, recipients, once, .. } => {
            check_content(content.as_ref())?;
            check_once(once.as_ref())?;
            check_recipients(recipients)
        }
        Write::Refuse { refusals, .. } => {
            within("the number of refusals", refusals.len(), APPEND_LIMIT)
        }
        Write::SetState { who, why, .. } => {
            within("a name (octets)", who.len(), TEXT_LIMIT)?;
            within("a reason (octets)", why.len(), TEXT_LIMIT)
        }
        Write::Claim(claim) => {
            within("the size of a part", claim.limit as usize, CLAIM_LIMIT as usize)?;
            within(
                "the number of deliveries of a claim",
                claim.deliveries.len(),
                CLAIM_DELIVERIES_LIMIT,
            )
        }
        Write::Settle(settled) => {
            within("the number of settled messages", settled.len(), SETTLE_LIMIT)
        }
        Write::Expire(sweep) | Write::CancelQueued(sweep) => check_sweep(sweep),
        Write::Erase(erase) => {
            within(
                "the number of refusals of a step",
                erase.limit as usize,
                FORGET_LIMIT as usize,
            )?;
            within("an address (octets)", erase.address.len(), ADDRESS_LIMIT)
        }
        Write::Forget(forget) => {
            within("the number of messages of a step", forget.limit as usize, FORGET_LIMIT as usize)
        }
        Write::Ledger(rows) => {
            within("the number of ledger rows", rows.len(), LEDGER_LIMIT)?;
            for row in rows {
                within("a ledger key (octets)", row.key.len(), TEXT_LIMIT)?;
                within("a ledger row (octets)", row.extra.len(), TEXT_LIMIT)?;
            }
            Ok(())
        }
        Write::Audit(entry) => {
            within("a name (octets)", entry.who.len(), TEXT_LIMIT)?;
            within("a deed (octets)", entry.what.len(), TEXT_LIMIT)?;
            within("a reason (octets)", entry.why.len(), TEXT_LIMIT)
        }
        Write::Quarantine(write) => crate::quarantine::bounds::check(write),
        Write::ChangeBundle(change) => crate::bundles::check(change),
        Write::PutSetting { key, value } => {
            within("a setting's name (octets)", key.len(), ADDRESS_LIMIT)?;
            within("a setting (octets)", value.len(), SETTING_LIMIT)
        }
        Write::Start { .. }
        | Write::ReleaseParts { .. }
        | Write::RenewLeases { .. }
        | Write::PruneLedger { .. }
        | Write::PruneOnce { .. } => Ok(()),
    }
}
