//! `[quarantine]`, `[bounce_rules]` and `[reaction_rules]`: what follows from what servers say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::quarantine::{GuardSettings, Policy, ReasonPolicy};
use mail::failure::Reason;

use super::read::Section;
use super::sections::read_existing_file;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The sections of the reasons, in the order of [`Reason::ALL`].
const REASONS: [(&str, Reason); Reason::ALL.len()] = [
    ("user_unknown", Reason::UserUnknown),
    ("account_disabled", Reason::AccountDisabled),
    ("mailbox_full", Reason::MailboxFull),
    ("inactive_user", Reason::InactiveUser),
    ("invalid_domain", Reason::InvalidDomain),
    ("refused", Reason::Refused),
    ("unreachable", Reason::Unreachable),
    ("error_ignored", Reason::ErrorIgnored),
    ("complaint", Reason::Complaint),
    ("not_defined", Reason::NotDefined),
];

/// `[quarantine]`
#[derive(Clone, Debug)]
pub struct QuarantineConfig {
    /// Whether quarantined addresses are refused. The denylist, unsubscriptions and the suppression list hold
    /// in any case. Default: true.
    pub enabled: bool,
    /// What follows from which reason. Default: the table of the documentation.
    pub policy: Policy,
    /// How long after a message was accepted a report that proves nothing is still matched to it, by
    /// address. Such a report is counted and changes nothing. Default: 7 d.
    pub bounce_window: Duration,
    /// The outage guard.
    pub guard: GuardSettings,
    /// When the daily clean-up begins, after midnight UTC. Default: 3 h.
    pub clean_up_at: Duration,
}

/// `[bounce_rules]`
#[derive(Clone, Debug, Default)]
pub struct BounceRulesConfig {
    /// Local bounce rules; they come before the shipped ones. Default: none.
    pub file: Option<PathBuf>,
}

/// Reads `[quarantine]`.
pub(super) fn read_quarantine(section: Section<'_>) -> QuarantineConfig {
    let mut policy = Policy::default();
    policy.significance = section.duration_or("significance", MINUTE..=365 * DAY, DAY);
    policy.reset_after = section.duration_or("reset_after", MINUTE..=3_650 * DAY, 10 * DAY);
    for (key, reason) in REASONS {
        let usual = *policy.of(reason);
        policy.set(reason, read_reason(section.section(key), usual));
    }
    if let Err(fault) = policy.check() {
        section.faults().add(&section.at, format!("`quarantine`: {fault}"));
    }
    let config = QuarantineConfig {
        enabled: section.flag_or("enabled", true),
        policy,
        bounce_window: section.duration_or("bounce_window", HOUR..=90 * DAY, 7 * DAY),
        guard: read_guard(section.section("outage_guard")),
        clean_up_at: section.duration_or("clean_up_at", Duration::ZERO..=DAY - MINUTE, 3 * HOUR),
    };
    section.finish();
    config
}

/// What one reason does. A threshold of 0, and a release after nothing, mean never.
fn read_reason(section: Section<'_>, usual: ReasonPolicy) -> ReasonPolicy {
    let threshold =
        |key, usual: Option<u8>| match section.number_or(key, 0..=255_u8, usual.unwrap_or(0)) {
            0 => None,
            error => Some(error),
        };
    let released = section.duration_or(
        "release_after",
        Duration::ZERO..=3_650 * DAY,
        usual.release_after.unwrap_or_default(),
    );
    let policy = ReasonPolicy {
        quarantine_at: threshold("at", usual.quarantine_at),
        quarantine_at_when_soft: threshold("at_when_soft", usual.quarantine_at_when_soft),
        release_after: Some(released).filter(|span| !span.is_zero()),
        denylist: section.flag_or("denylist", usual.denylist),
    };
    section.finish();
    policy
}

fn read_guard(section: Section<'_>) -> GuardSettings {
    let usual = GuardSettings::default();
    let guard = GuardSettings {
        enabled: section.flag_or("enabled", usual.enabled),
        least_permille: section.number_or("least_permille", 1..=1_000, usual.least_permille),
        times_usual: section.number_or("times_usual", 1..=1_000, usual.times_usual),
        history: section.number_or("history", 0..=1_000_000, usual.history),
        window: section.duration_or("window", MINUTE..=DAY, usual.window),
        ..usual
    };
    section.finish();
    guard
}

/// `[reaction_rules]`
#[derive(Clone, Debug, Default)]
pub struct ReactionRulesConfig {
    /// Local reaction rules; they come before the shipped ones. Default: none.
    pub file: Option<PathBuf>,
}

/// Reads `[reaction_rules]`.
pub(super) fn read_reaction_rules(section: Section<'_>, folder: &Path) -> ReactionRulesConfig {
    let config = ReactionRulesConfig { file: read_existing_file(&section, "file", folder) };
    section.finish();
    config
}

/// Reads `[bounce_rules]`.
pub(super) fn read_bounce_rules(section: Section<'_>, folder: &Path) -> BounceRulesConfig {
    let config = BounceRulesConfig { file: read_existing_file(&section, "file", folder) };
    section.finish();
    config
}
