//! Mail that comes back: bounces, notices of delay, complaints, auto-replies, challenges, unsubscribe requests, and ordinary mail.
//!
//! [`read`] takes the octets of one mail and says what it is, of whom it speaks, what the servers
//! said, and what is left of our own message in it. It decides nothing about addresses: the
//! reason of a failure is found by the bounce rules from the [`Report::diagnostic`] given here, and whether the
//! mail is a genuine answer to ours by the return path it came to.
//!
//! How: the machine's parts are believed first (RFC 3464 and 6533 reports, RFC 5965 feedback), then
//! what servers write for people, by structure and not by product. A text counts as a bounce only where
//! its sender looks like a mail system and its content like a failure; mail about bounces is
//! ordinary mail.
//!
//! Invariants: it never fails and never panics, whatever the octets are; its time is linear in the
//! octets looked at and its memory bounded by the constants of [`limits`]; what was left out is in
//! [`IncomingMail::limits_hit`]. The same octets give the same result.

mod address;
mod codes;
mod decode;
mod dsn;
mod feedback;
mod html;
mod mime;
mod notice;
mod prose;
mod reading;
mod returned;
mod signs;
mod text;

#[cfg(test)]
mod tests;

use crate::reply::EnhancedStatus;
use core::fmt;

pub use returned::Returned;

/// The bounds of reading; beyond them a mail is cut and [`Limit`] says so.
pub mod limits {
    pub use super::mime::{
        DEPTH_MAXIMUM, FIELDS_MAXIMUM, HEADER_MAXIMUM, LEAVES_MAXIMUM, OCTETS_MAXIMUM, TEXT_MAXIMUM,
    };
    pub use super::{BODY_MAXIMUM, ENCLOSED_MAXIMUM, HEADER_TEXT_MAXIMUM, RECIPIENTS_MAXIMUM};
}

/// Recipients of one mail that are kept.
pub const RECIPIENTS_MAXIMUM: usize = 2000;
/// Octets of the human text that are kept in [`IncomingMail::text`].
pub const BODY_MAXIMUM: usize = 16 << 10;
/// Octets of the header that are kept in [`IncomingMail::header`].
pub const HEADER_TEXT_MAXIMUM: usize = 8 << 10;
/// How many mails within mails are opened.
pub const ENCLOSED_MAXIMUM: usize = 3;

/// What sort of mail it is, or what a report in it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MailKind {
    /// Delivery failed for good.
    Bounce,
    /// Delivery is late and goes on.
    Delayed,
    /// A complaint, or another report of a feedback loop.
    Feedback,
    /// A machine answers for a person.
    AutoReply,
    /// Somebody wants no more mail.
    Unsubscribe,
    /// A challenge to prove that the sender is a person.
    Challenge,
    /// Delivery succeeded, or was passed on to a server that reports nothing.
    Delivered,
    /// Anything else.
    #[default]
    Other,
}

impl MailKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Bounce,
        Self::Delayed,
        Self::Feedback,
        Self::AutoReply,
        Self::Unsubscribe,
        Self::Challenge,
        Self::Delivered,
        Self::Other,
    ];

    /// The word in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Delayed => "delayed",
            Self::Feedback => "feedback",
            Self::AutoReply => "auto-reply",
            Self::Unsubscribe => "unsubscribe",
            Self::Challenge => "challenge",
            Self::Delivered => "delivered",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for MailKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// A bound that a mail went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// More octets than [`limits::OCTETS_MAXIMUM`].
    Octets,
    /// A header longer than [`limits::HEADER_MAXIMUM`].
    Header,
    /// More fields than [`limits::FIELDS_MAXIMUM`].
    Fields,
    /// Multiparts nested deeper than [`limits::DEPTH_MAXIMUM`].
    Depth,
    /// More parts than [`limits::LEAVES_MAXIMUM`].
    Parts,
    /// A text longer than [`limits::TEXT_MAXIMUM`].
    Text,
    /// More recipients than [`RECIPIENTS_MAXIMUM`].
    Recipients,
}

impl core::fmt::Display for Limit {
    /// What was not read, for people.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Octets => write!(out, "what is beyond {} octets", limits::OCTETS_MAXIMUM),
            Self::Header => write!(out, "a header beyond {} octets", limits::HEADER_MAXIMUM),
            Self::Fields => write!(out, "header fields beyond {}", limits::FIELDS_MAXIMUM),
            Self::Depth => write!(out, "parts nested deeper than {}", limits::DEPTH_MAXIMUM),
            Self::Parts => write!(out, "parts beyond {}", limits::LEAVES_MAXIMUM),
            Self::Text => write!(out, "text beyond {} octets of a part", limits::TEXT_MAXIMUM),
            Self::Recipients => write!(out, "recipients beyond {}", limits::RECIPIENTS_MAXIMUM),
        }
    }
}

impl Limit {
    /// Notes the limit once.
    fn note(self, limits: &mut Vec<Self>) {
        if !limits.contains(&self) {
            limits.push(self);
        }
    }
}

/// What a mail tells of one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it tells.
    pub kind: MailKind,
    /// The address concerned: the one who failed, complained or answered; `None` where the mail does
    /// not name it.
    pub recipient: Option<String>,
    /// The address as the sender wrote it, where the report gives it beside the final one.
    pub original_recipient: Option<String>,
    /// `Action` of a machine's report, in lower case; empty without one.
    pub action: String,
    /// The enhanced status code the remote server gave, else the report's own.
    pub status: Option<EnhancedStatus>,
    /// The SMTP reply code.
    pub reply: Option<u16>,
    /// The text a decision rests on, in one line; at most a few kilobytes.
    pub diagnostic: String,
    /// The host that refused; may be empty.
    pub remote_mta: String,
    /// The host that reports; may be empty.
    pub reporting_mta: String,
    /// When it happened, as it stands in the report; may be empty.
    pub date: String,
    /// `Feedback-Type`, in lower case; empty but for feedback.
    pub feedback_type: String,
}

/// A mail that came in, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncomingMail {
    /// What sort of mail it is.
    pub kind: MailKind,
    /// One report per recipient; none where none was found.
    pub reports: Vec<Report>,
    /// `Subject`, decoded.
    pub subject: String,
    /// The address of `From`, or the whole field where it has none; may be empty.
    pub from: String,
    /// Every address the mail was sent or delivered to, in the order envelope, `To`, `Cc`: candidates
    /// for a return path of ours.
    pub to: Vec<String>,
    /// `Date` as it stands.
    pub date: String,
    /// The header of a bounce or notice of delay, one `Name: value` a line, unfolded, cut to
    /// [`HEADER_TEXT_MAXIMUM`] octets and every value to a few hundred; empty for other mail.
    pub header: String,
    /// The text for people without the returned message, at most [`BODY_MAXIMUM`] octets.
    pub text: String,
    /// What is left of our message.
    pub returned: Option<Returned>,
    /// Which bounds were hit.
    pub limits_hit: Vec<Limit>,
}

/// Reads one mail. It never fails: mail that tells nothing is [`MailKind::Other`].
#[must_use]
pub fn read(octets: &[u8]) -> IncomingMail {
    let mut limits = Vec::new();
    let mut octets = octets;
    if octets.len() > mime::OCTETS_MAXIMUM {
        Limit::Octets.note(&mut limits);
        octets = &octets[..mime::OCTETS_MAXIMUM];
    }
    let mut mail = reading::read_at(octets, 0, &mut limits);
    mail.limits_hit = limits;
    mail
}
