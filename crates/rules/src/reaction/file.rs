//! Reaction rules as written: a checked file, before it is compiled.

use core::time::Duration;
use std::sync::{Arc, OnceLock};

use mail::mask::Mask;
use serde::{Deserialize, Serialize};

use super::set::Said;
use super::words::{RateCut, ReactionAction, ReactionScope, ReactionStage};
use crate::bounce::{Action, ReplyMask, StatusMask};
use crate::diagnostic::{Diagnostic, Place};
use crate::span::show_span;

/// One `[[rule]]` of a file of reaction rules, as it was written and checked.
///
/// A rule matches when **all** the conditions that it states hold; a list holds when **one** of its
/// entries does. When it has matched `hits` times `within` a time, for the same thing of its
/// `scope`, it does what `action` says.
///
/// ```toml
/// [[rule]]
/// name = "google-rate"
/// mask = "*.google.com"
/// reply = "4"
/// status = "x.7.28"
/// hits = 2
/// within = "1h"
/// scope = "path"
/// action = "slow"
/// messages_per_minute = 10
/// for = "30m"
/// recovery = { steps = 10, every = "3m" }
/// source = "standards-and-isp 2.2"
/// matches = ["421 4.7.28 Gmail has detected an unusual rate of unsolicited mail"]
/// matches_not = ["421 4.7.26 This mail has been blocked because the sender is unauthenticated"]
/// ```
///
/// Patterns are regular expressions of linear time, searched in the reply without its codes' line
/// beginnings, folded: lower case, no accents, one blank between words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenReaction {
    /// `name`: the unique id of the rule in logs and answers. 1 to 64 lower-case letters, digits,
    /// `-`, `_` and `.`. Required.
    pub name: Box<str>,
    /// `provider`: the name that people use, for information. Absent: empty.
    pub provider: Box<str>,
    /// `mask`: masks of the MX hosts that the rule is for; with the scope `source-at-provider` they
    /// are the provider. Absent: all; the provider is then the MX hosts of the recipient's domain.
    pub masks: Vec<Mask>,
    /// `reply`: reply codes or their first digits, such as `"550"` or `"4"`.
    pub reply: Vec<ReplyMask>,
    /// `status`: enhanced status codes: `"4.7.28"`, `"x.7.*"`, `"4.7.500-699"`.
    pub status: Vec<StatusMask>,
    /// `text`: patterns for the text.
    pub text: Vec<Box<str>>,
    /// `unless`: patterns that must not match.
    pub unless: Vec<Box<str>>,
    /// `stage`: what it was an answer to. Absent: anything.
    pub stages: Vec<ReactionStage>,
    /// `judged`: what the bounce rules made of the message. Absent: whatever it was.
    pub judged: Vec<Action>,
    /// `hits`: so many replies, 1 to 100. Absent: 1.
    pub hits: u32,
    /// `within`: the time within which they must come, 1 s to 7 d. Absent: 1 h.
    pub within: Duration,
    /// `in_a_row`: a message that is taken in between begins the count anew.
    pub in_a_row: bool,
    /// `goes_on`: the rules behind it are asked too.
    pub goes_on: bool,
    /// `scope`. Required unless all that is done is an alert.
    pub scope: ReactionScope,
    /// What it does.
    pub effect: Effect,
    /// `for`: how long it lasts in full, 1 s to 30 d. Required where something is lowered or suspended.
    pub lasts: Duration,
    /// `recovery = { steps = ..., every = ... }`: how it ends.
    pub recovery: Recovery,
    /// `source`: where the figures come from. Required.
    pub source: Box<str>,
    /// `matches`: 1 to 64 replies that this rule must be hit by. Required. Checked.
    pub matches: Vec<ReactionExample>,
    /// `matches_not`: replies that it must not be hit by. Required. Checked.
    pub matches_not: Vec<ReactionExample>,
    /// `notes`: for people.
    pub notes: Box<str>,
    /// Where its `[[rule]]` stands.
    pub place: Place,
}

/// What a reaction does to what it is about. Several at once are possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Effect {
    /// Nothing is sent.
    pub suspend: bool,
    /// `messages_per_minute`, `messages_per_hour` or `percent`.
    pub rate: Option<RateCut>,
    /// `connections`: open at the same time, at most.
    pub connections: Option<u32>,
    /// `connections_per_hour`: begun in an hour, evenly spread, at most.
    pub connections_per_hour: Option<u32>,
    /// `levels`: the figures of so many levels below the one that holds; 0: none.
    pub lower_levels: u8,
    /// The delivery is stopped.
    pub stop_delivery: bool,
    /// An alert is raised.
    pub alert: bool,
}

impl Effect {
    /// The actions that it consists of.
    #[must_use]
    pub fn actions(&self) -> Vec<ReactionAction> {
        let slow = self.rate.is_some() || self.connections_per_hour.is_some();
        [
            (self.suspend, ReactionAction::Suspend),
            (slow, ReactionAction::Slow),
            (self.connections.is_some(), ReactionAction::FewerConnections),
            (self.lower_levels > 0, ReactionAction::LowerLevel),
            (self.stop_delivery, ReactionAction::StopDelivery),
            (self.alert, ReactionAction::Alert),
        ]
        .into_iter()
        .filter_map(|(does, action)| does.then_some(action))
        .collect()
    }

    /// Whether anything of it lasts: a stop and an alert are done at once.
    #[must_use]
    pub fn lasts(&self) -> bool {
        let at_once = |action: &ReactionAction| {
            !matches!(action, ReactionAction::StopDelivery | ReactionAction::Alert)
        };
        self.actions().iter().any(at_once)
    }

    /// In words: `suspend`, `slow to 10 messages a minute, alert`.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if self.suspend {
            words.push("suspend".into());
        }
        if let Some(rate) = self.rate {
            words.push(format!("slow to {rate}"));
        }
        if let Some(figure) = self.connections_per_hour {
            words.push(format!("slow to {figure} connections an hour"));
        }
        if let Some(figure) = self.connections {
            words.push(format!("{figure} connection{}", if figure == 1 { "" } else { "s" }));
        }
        if self.lower_levels > 0 {
            words.push(format!("{} level lower", self.lower_levels));
        }
        if self.stop_delivery {
            words.push("stop the delivery".into());
        }
        if self.alert {
            words.push("alert".into());
        }
        words.join(", ")
    }
}

/// How a reaction ends: in steps, never at once.
///
/// A fixed figure rises by the same amount at every step, up to the full figure of the MX rule. One
/// that was cut to a share of what the provider took rises so that the steps lead back to where it
/// refused; beyond that each further step is twice the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// How many steps, 1 to 1000.
    pub steps: u32,
    /// The time of each, 1 s to 1 d.
    pub every: Duration,
}

impl Recovery {
    /// Where a rule says nothing: ten steps of a tenth of the time it lasts, each at most six minutes.
    #[must_use]
    pub fn usual(lasts: Duration) -> Self {
        let tenth = lasts / 10;
        Self { steps: 10, every: tenth.clamp(Duration::from_secs(1), Duration::from_secs(360)) }
    }

    /// In words: `10 steps of 3m`.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{} steps of {}", self.steps, show_span(self.every))
    }
}

/// An example of a rule: a reply as it was sent, or a table with `text`, `provider`, `stage` and
/// `judged`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionExample {
    /// The reply.
    pub text: Box<str>,
    /// The MX host. Absent: one that the rule's first mask matches.
    pub provider: Box<str>,
    /// What it was an answer to. Absent: the rule's first stage, else RCPT TO.
    pub stage: Option<ReactionStage>,
    /// What the bounce rules made of it. Absent: the first that the rule wants.
    pub judged: Option<Action>,
}

impl ReactionExample {
    /// The example as something said.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        Said {
            text: &self.text,
            mx_host: &self.provider,
            stage: self.stage.unwrap_or(ReactionStage::Rcpt),
            judged: self.judged,
        }
    }
}

/// A checked file of reaction rules, in the order in which they are tried.
///
/// Made by [`ReactionFile::parse`] and [`ReactionFile::combine`] only, so whoever holds one knows
/// that the checks have passed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionFile {
    pub(super) name: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) rules: Arc<[Arc<WrittenReaction>]>,
}

impl ReactionFile {
    /// Reads a file. `file_name` is used in messages only.
    ///
    /// # Errors
    ///
    /// Every fault, sorted by place, at least one and at most 201: faults beyond the first 200 are
    /// only counted, by the last one. Every place lies inside the file.
    pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        super::parse::parse(file_name, bytes)
    }

    /// The name that the caller gave to the file; of combined files both, with ` + ` between.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `version` of the file; of combined files both, with `+` between.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The rules in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Arc<WrittenReaction>] {
        &self.rules
    }

    /// Local rules before those below them. A local rule with the name of another replaces it; it
    /// stands where the local file has it.
    #[must_use]
    pub fn combine(local: Option<&Self>, below: &Self) -> Self {
        let Some(local) = local else { return below.clone() };
        let replaced =
            |rule: &&Arc<WrittenReaction>| local.rules.iter().any(|own| own.name == rule.name);
        let kept = below.rules.iter().filter(|rule| !replaced(rule));
        Self {
            name: format!("{} + {}", local.name, below.name).into(),
            version: format!("{}+{}", local.version, below.version).into(),
            rules: local.rules.iter().chain(kept).cloned().collect(),
        }
    }
}

/// The text of the shipped rules, `rules/reactions.toml`.
pub const SHIPPED_REACTIONS_TOML: &[u8] = include_bytes!("../../../../rules/reactions.toml");

/// The reaction rules that come with the program, from `rules/reactions.toml`.
///
/// Read at the first call; later calls are free.
#[must_use]
pub fn shipped_reactions() -> &'static ReactionFile {
    static SHIPPED: OnceLock<ReactionFile> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        super::parse::parse("rules/reactions.toml", SHIPPED_REACTIONS_TOML)
            .expect("the shipped rules have no fault; a test holds it")
    })
}
