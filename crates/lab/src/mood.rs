//! Moods: how a provider's MX hosts behave, from "accepts everything" to every known vexation.
//!
//! A [`Mood`] is a plain value. Its parts combine freely; the default accepts everything. It may be
//! exchanged while the lab runs; a connection takes up the new mood with the next octets it reads.
//! Which address meets which fate is a hash of the address and the lab's seed, so the same campaign
//! meets the same fates in every run and in whatever order it is sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::span::Span;
use crate::wording::Situation;

/// How the MX hosts of a provider behave. Shares are from 0 (never) to 1 (always).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mood {
    /// Share of the addresses that are refused at RCPT as unknown. Besides these, every local part
    /// that begins with `unknown` is refused so, in every mood.
    pub unknown_users: f64,
    /// Share of the addresses whose mailbox is full. Besides these, every local part that begins
    /// with `full`.
    pub mailbox_full: f64,
    /// Greylisting: the first attempt of a (source, sender, recipient) is put off; it is accepted
    /// after this span, and only from the source that came first.
    pub greylist: Option<Span>,
    /// Connections that one source may hold open at all hosts of the provider together; the next
    /// is greeted with 421 and closed.
    pub max_connections: Option<u32>,
    /// Messages (MAIL commands) on one connection.
    pub max_messages_per_connection: Option<u32>,
    /// When `max_messages_per_connection` is reached: close without a word after the last reply,
    /// as Yahoo does, instead of answering the next MAIL with 421.
    pub close_silently: bool,
    /// Messages accepted from one source in any 3,600 seconds; MAIL is answered with the
    /// provider's throttle text above it, and the connection is closed when that text is a 421.
    pub messages_per_hour: Option<u32>,
    /// Wait before each reply, one after the other (a busy server).
    pub latency: Option<Span>,
    /// A round trip: whatever is read is answered so much later, and further octets travel
    /// meanwhile, as on a long line. Timers step by a millisecond, so the answer comes up to 1.5 ms
    /// later than that. Excludes `latency` and `slow`.
    pub round_trip: Option<Span>,
    /// Replies drip: one octet in each span.
    pub slow: Option<Span>,
    /// The connection is accepted and nothing is ever said.
    pub hang_at_greeting: bool,
    /// After 354, or BDAT, the data is swallowed and no reply ever comes.
    pub hang_in_data: bool,
    /// Share of the recipients whose first message is taken in whole and then the connection is
    /// dropped without a reply ("possibly delivered"); the next attempt is accepted.
    pub drop_after_dot: f64,
    /// The ports are closed: connections are refused.
    pub refuse_connection: bool,
    /// Every connection is greeted with a 554 and closed.
    pub greeting_554: bool,
    /// Share of the addresses whose first attempt is put off with 451; the next is accepted.
    pub temporary_share: f64,
    /// What STARTTLS does.
    pub starttls: StartTls,
    /// MAIL before STARTTLS is refused.
    pub require_starttls: bool,
    /// PIPELINING is not offered; commands sent ahead are recorded as faults of the client.
    pub no_pipelining: bool,
    /// CHUNKING is not offered; BDAT is recorded as a fault of the client.
    pub no_chunking: bool,
    /// BDAT is answered with 502, though CHUNKING is offered, and the octets behind it are taken for commands.
    pub unknown_bdat: bool,
    /// 8BITMIME is not offered.
    pub no_8bitmime: bool,
    /// SMTPUTF8 is not offered.
    pub no_smtputf8: bool,
    /// Largest message in octets; 50 MiB when absent.
    pub size_limit: Option<u64>,
    /// Recipients of one message; 100 when absent.
    pub max_recipients: Option<u32>,
    /// Recipients of every domain are taken, as by a relay; else only those of the provider.
    pub any_domain: bool,
    /// Share of the recipients whose message is refused for good after the dot.
    pub reject_after_data: f64,
    /// Share of the recipients for whom a bounce comes later. Besides these, every local part that
    /// begins with `ghost`. This and the next two need [`LabConfig::returns`](crate::LabConfig::returns).
    pub bounces_later: f64,
    /// Share of the recipients who complain. Besides these, every local part that begins with `angry`.
    pub complaints: f64,
    /// Share of the recipients who are away. Besides these, every local part that begins with `away`.
    pub out_of_office: f64,
    /// Own texts for situations, in place of the provider's wording. Lines are separated by `\n`;
    /// `{recipient}` and `{source}` are filled in.
    pub replies: BTreeMap<Situation, String>,
}

/// What becomes of STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartTls {
    /// Not offered.
    #[default]
    None,
    /// Offered and sound, with a self-signed certificate for the names of the provider's hosts.
    Good,
    /// Offered; what answers the client's part of the handshake is none.
    BrokenHandshake,
    /// Offered and answered with 454.
    Refuses,
    /// Sound, but a plain-text reply travels right behind the 220, which the client must drop.
    Injects,
}

impl Mood {
    /// What is wrong with this mood, if anything, in words for its author.
    ///
    /// # Errors
    /// A share outside 0..=1, a limit of 0, a contradictory pair, or a reply that is not one.
    pub fn check(&self) -> Result<(), String> {
        let shares = [
            ("unknown_users", self.unknown_users),
            ("mailbox_full", self.mailbox_full),
            ("drop_after_dot", self.drop_after_dot),
            ("temporary_share", self.temporary_share),
            ("reject_after_data", self.reject_after_data),
            ("bounces_later", self.bounces_later),
            ("complaints", self.complaints),
            ("out_of_office", self.out_of_office),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`{name} = {share}` is no share: use a number from 0 to 1"));
            }
        }
        let limits = [
            ("max_connections", self.max_connections.map(u64::from)),
            ("max_messages_per_connection", self.max_messages_per_connection.map(u64::from)),
            ("messages_per_hour", self.messages_per_hour.map(u64::from)),
            ("size_limit", self.size_limit),
            ("max_recipients", self.max_recipients.map(u64::from)),
        ];
        for (name, limit) in limits {
            if limit == Some(0) {
                return Err(format!("`{name} = 0` lets nothing pass: leave it out or raise it"));
            }
        }
        if self.round_trip.is_some() && (self.latency.is_some() || self.slow.is_some()) {
            return Err("`round_trip` cannot be combined with `latency` or `slow`".to_owned());
        }
        if self.require_starttls && self.starttls == StartTls::None {
            return Err("`require_starttls` needs `starttls = \"good\"` or another that offers it"
                .to_owned());
        }
        for (situation, text) in &self.replies {
            check_reply(text).map_err(|fault| format!("`replies.{situation}`: {fault}"))?;
        }
        Ok(())
    }
}

/// Whether `text` is an SMTP reply: the same three digits on each line, printable ASCII behind.
fn check_reply(text: &str) -> Result<(), String> {
    let code = text.get(..3).unwrap_or("");
    for line in text.split('\n') {
        let digits = line.get(..3).unwrap_or("");
        let bytes = digits.as_bytes();
        let is_code = bytes.len() == 3
            && (b'2'..=b'5').contains(&bytes[0])
            && bytes.iter().all(u8::is_ascii_digit);
        if !is_code || digits != code {
            return Err(format!("the line `{line}` does not begin with the reply code"));
        }
        if line.len() > 500 || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err("a reply line is printable ASCII of at most 500 octets".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told() {
        let reply = |text: &str| Mood {
            replies: BTreeMap::from([(Situation::UnknownUser, text.to_owned())]),
            ..Mood::default()
        };
        let table: [(Mood, &str); 7] = [
            (Mood { unknown_users: 1.5, ..Mood::default() }, "no share"),
            (Mood { drop_after_dot: f64::NAN, ..Mood::default() }, "no share"),
            (Mood { max_connections: Some(0), ..Mood::default() }, "lets nothing pass"),
            (Mood { require_starttls: true, ..Mood::default() }, "needs `starttls"),
            (
                Mood {
                    round_trip: Some(Span::from_millis(50)),
                    slow: Some(Span::from_millis(1)),
                    ..Mood::default()
                },
                "cannot be combined",
            ),
            (reply("hello"), "replies.unknown_user"),
            (reply("550 a\n551 b"), "does not begin"),
        ];
        for (mood, wanted) in table {
            let fault = mood.check().unwrap_err();
            assert!(fault.contains(wanted), "{fault}");
        }
        reply("550-5.1.1 gone\n550 5.1.1 see {recipient}").check().unwrap();
    }
}
