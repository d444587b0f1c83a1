//! Bounce rules as written: a checked file, before it is compiled.

use std::sync::{Arc, OnceLock};

use mail::failure::{FailureType, Reason};
use mail::mask::Mask;

use super::codes::{ReplyMask, StatusMask};
use super::verdict::{Action, Evidence};
use crate::diagnostic::{Diagnostic, Place};

/// One `[[rule]]` of a file of bounce rules, as it was written and checked.
///
/// A rule matches when **all** the conditions that it states hold; a list holds when **one** of its
/// entries does. The first rule that matches decides.
///
/// ```toml
/// [[rule]]
/// name = "mailbox-full"
/// text = ["over ?quota", "mailbox is full"]
/// unless = ["sending quota"]
/// reason = "Mailbox full"
/// before = ["status-*"]
/// matches = ["552 5.2.2 Mailbox is full"]
/// matches_not = ["550 Your sending quota is used up, you are over quota"]
/// ```
///
/// Patterns are regular expressions of linear time (no look-around, no back-references). They are
/// searched in the *normalised* text ([`super::normalise`]: addresses are `*`, ids `#xxx#`), folded:
/// lower case, no accents, one blank between words. Patterns are folded in the same way, so they may
/// be written as people write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenBounceRule {
    /// `name`: the unique id of the rule in logs and answers. 1 to 64 lower-case letters, digits,
    /// `-`, `_` and `.`. Required.
    pub name: Box<str>,
    /// `provider`: the name that people use, for information. Absent: empty.
    pub provider: Box<str>,
    /// `mask`: up to 64 masks of MX hosts or recipient domains that the rule is for. Absent: all. A
    /// rule with masks does not match where neither is known.
    pub masks: Vec<Mask>,
    /// `reply`: reply codes or their first digits, such as `"550"` or `"4"`.
    pub reply: Vec<ReplyMask>,
    /// `status`: enhanced status codes: `"5.1.1"`, `"x.2.2"` (any class), `"5.7.606-649"`, `"x.7.*"`.
    pub status: Vec<StatusMask>,
    /// `arrives`: `synchronous` (in the SMTP session) or `asynchronous` (in a mail). Absent: both.
    pub synchronous: Option<bool>,
    /// `text`: patterns for the diagnostic text; when no rule knows that, for the body of the mail.
    pub text: Vec<Box<str>>,
    /// `unless`: patterns that must not match where `text` does (or, without `text`, the diagnostic
    /// text).
    pub unless: Vec<Box<str>>,
    /// `subject`: patterns for the subject of a bounce mail.
    pub subject: Vec<Box<str>>,
    /// `body`: patterns for the human text of a bounce mail.
    pub body: Vec<Box<str>>,
    /// `header`: patterns for its header fields, one `name: value` a line.
    pub header: Vec<Box<str>>,
    /// `last_resort`: tried only when neither diagnostic nor body is known to any other rule.
    pub last_resort: bool,
    /// `guess`: the verdict is marked To qualify, so that a person sees the text and it counts
    /// against no address until then. Only with `last_resort`.
    pub guess: bool,
    /// `reason`. Required.
    pub reason: Reason,
    /// `type`. Absent: the usual one of the reason. Hard becomes Soft where the server only deferred
    /// (4yz).
    pub failure_type: FailureType,
    /// `deferred`: the reason where the server only deferred (4yz). Absent: `reason`. Where `reason` is Refused
    /// and this Unreachable, the verdict is never counted against the address (status Ignore): a sender that
    /// is put off is as little its fault as one that is refused.
    pub deferred: Option<Reason>,
    /// `action`: `retry`, `other-path`, `give-up` or `stop-delivery`. Absent: [`Action::usual`].
    pub action: Option<Action>,
    /// `before`: names, or masks of names, of later rules with another reason that match some of the
    /// same texts; this rule comes before them on purpose.
    pub before: Vec<Mask>,
    /// `matches`: 1 to 64 examples for which this rule must win. Required. Checked.
    pub matches: Vec<Example>,
    /// `matches_not`: up to 64 counter-examples that the rule must not match. Required unless the
    /// rule has no pattern. Checked.
    pub matches_not: Vec<Example>,
    /// `notes`: for people.
    pub notes: Box<str>,
    /// Where its `[[rule]]` stands.
    pub place: Place,
}

impl WrittenBounceRule {
    /// Whether it looks at codes only.
    #[must_use]
    pub fn is_of_codes(&self) -> bool {
        self.text.is_empty() && !self.looks_at_mail()
    }

    /// Whether it has a condition for the subject, body or header of a mail.
    #[must_use]
    pub fn looks_at_mail(&self) -> bool {
        !(self.subject.is_empty() && self.body.is_empty() && self.header.is_empty())
    }
}

/// An example of a rule: a text as a server sends it, or a table with `text`, `subject`, `body`,
/// `header` and `provider`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The reply or diagnostic text.
    pub text: Box<str>,
    /// The subject of the bounce mail.
    pub subject: Box<str>,
    /// Its human text.
    pub body: Box<str>,
    /// Its header fields.
    pub header: Box<str>,
    /// The MX host or recipient domain. Absent: one that the rule's first mask matches.
    pub provider: Box<str>,
    /// As the rule wants it; replies otherwise.
    pub synchronous: bool,
}

impl Example {
    /// The example as evidence.
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence {
            reply: None,
            status: None,
            diagnostic: &self.text,
            subject: &self.subject,
            body: &self.body,
            header: &self.header,
            provider: &self.provider,
            synchronous: self.synchronous,
        }
    }

    /// The part that people recognise it by.
    #[must_use]
    pub fn shown(&self) -> &str {
        [&self.text, &self.subject, &self.body, &self.header]
            .into_iter()
            .find(|part| !part.is_empty())
            .map_or("", |part| part)
    }
}

/// A checked file of bounce rules, in the order in which they are tried.
///
/// Made by [`BounceRuleFile::parse`] and [`BounceRuleFile::combine`] only, so whoever holds one knows
/// that the checks have passed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BounceRuleFile {
    pub(super) name: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) rules: Arc<[Arc<WrittenBounceRule>]>,
}

impl BounceRuleFile {
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
    pub fn rules(&self) -> &[Arc<WrittenBounceRule>] {
        &self.rules
    }

    /// Local rules before shipped ones. A local rule with the name of a shipped one replaces it; it
    /// stands where the local file has it.
    #[must_use]
    pub fn combine(local: Option<&Self>, shipped: &Self) -> Self {
        let Some(local) = local else { return shipped.clone() };
        let replaced =
            |rule: &&Arc<WrittenBounceRule>| local.rules.iter().any(|own| own.name == rule.name);
        let kept = shipped.rules.iter().filter(|rule| !replaced(rule));
        Self {
            name: format!("{} + {}", local.name, shipped.name).into(),
            version: format!("{}+{}", local.version, shipped.version).into(),
            rules: local.rules.iter().chain(kept).cloned().collect(),
        }
    }
}

/// The text of the shipped rules, `rules/bounce.toml`.
pub const SHIPPED_BOUNCE_TOML: &[u8] = include_bytes!("../../../../rules/bounce.toml");

/// The bounce rules that come with the program, from `rules/bounce.toml`.
///
/// Read and checked at the first call; later calls are free.
#[must_use]
pub fn shipped_bounce_rules() -> &'static BounceRuleFile {
    static SHIPPED: OnceLock<BounceRuleFile> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        super::parse::parse_trusted("rules/bounce.toml", SHIPPED_BOUNCE_TOML)
            .expect("the shipped rules have no fault; a test holds it")
    })
}
