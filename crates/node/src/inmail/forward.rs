//! Sends mail that could not be read to a person, through our own queue.
//!
//! **Promise.** The same mail is sent once, however often it is tried. It is sent with the null sender
//! and marked as made by a program, so nothing comes back and nobody answers. At most
//! [`MOST_PER_HOUR`] go in an hour, and at most [`MOST_OCTETS`] of each: the whole is in the folder
//! `aside`.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mail::address::Mailbox;
use mail::id::Priority;
use mail::time::Timestamp;
use store::Once;

use super::origin::Origin;
use crate::intake::{Intake, IntakeFault, NULL_SENDER, SingleMessage, StreamName};
use crate::listener::one_line;

/// Mails forwarded in an hour.
pub const MOST_PER_HOUR: u32 = 60;
/// Octets of a mail that are forwarded.
pub const MOST_OCTETS: usize = 1 << 20;
/// The stream and the tenant of what is sent.
const TENANT: &str = "inmail";

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    /// It is in the queue.
    Sent,
    /// It is not sent: too many, or the queue refuses it for good.
    NotSent,
    /// The queue takes nothing now.
    TryLater,
}

/// Sends to one address.
pub(super) struct Forwarder {
    intake: Intake,
    to: Mailbox,
    host_name: String,
    /// Since when is counted, and how many.
    sent: Mutex<(Timestamp, u32)>,
}

impl Forwarder {
    pub(super) fn new(intake: Intake, to: Mailbox, host_name: String) -> Self {
        Self { intake, to, host_name, sent: Mutex::new((Timestamp::EPOCH, 0)) }
    }

    /// Puts a mail into the queue.
    pub(super) async fn forward(
        &self,
        origin: &Origin,
        octets: &[u8],
        name: &str,
        why: &str,
    ) -> Forwarded {
        if !self.may_send() {
            return Forwarded::NotSent;
        }
        let stream = StreamName {
            affinity: "default".into(),
            priority: Priority::Low,
            tenant: TENANT.into(),
        };
        let message = SingleMessage {
            sender: NULL_SENDER.into(),
            recipients: vec![self.to.clone()],
            content: self.content(origin, octets, name, why),
        };
        let mut request = [0; 32];
        request.copy_from_slice(digest(&SHA256, octets).as_ref());
        let key = format!("forward/{name}");
        let once = Once { tenant: TENANT.into(), key: key.into(), digest: request };
        match self.intake.submit(&stream, message, Some(once)).await {
            Ok(_) => Forwarded::Sent,
            Err(IntakeFault::TryLater(why)) => {
                tracing::warn!(why, "a mail that could not be read cannot be forwarded now");
                Forwarded::TryLater
            }
            Err(fault) => {
                tracing::error!(%fault, "a mail that could not be read is not forwarded");
                Forwarded::NotSent
            }
        }
    }

    fn may_send(&self) -> bool {
        let now = self.intake.now();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(sent.0) >= Duration::from_secs(3_600) {
            *sent = (now, 0);
        }
        sent.1 += 1;
        if sent.1 == MOST_PER_HOUR + 1 {
            tracing::warn!("no more mails that could not be read are forwarded in this hour");
        }
        sent.1 <= MOST_PER_HOUR
    }

    /// A message with the mail in it. As octets in base64, since what could not be read may be
    /// anything.
    fn content(&self, origin: &Origin, octets: &[u8], name: &str, why: &str) -> Vec<u8> {
        let why = one_line(why);
        let from = one_line(&origin.from);
        let shown = &octets[..octets.len().min(MOST_OCTETS)];
        let cut = if shown.len() < octets.len() { "The beginning of it" } else { "It" };
        let way = format!("{:?}", origin.way).to_lowercase();
        // The name is made of hexadecimal digits, so it cannot be in the text by chance of a sender.
        let boundary = format!("inmail-{name}");
        let mut text = format!(
            "From: Incoming mail <MAILER-DAEMON@{host}>\r\nTo: <{to}>\r\n\
             Subject: A mail could not be read\r\nAuto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n\
             --{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             A mail that came by {way} from {from} could not be read:\r\n{why}\r\n\r\n\
             {cut} is attached; the whole is in the folder inmail/aside\r\nunder the name {name}.\r\n\
             --{boundary}\r\nContent-Type: application/octet-stream; name=\"mail.eml\"\r\n\
             Content-Disposition: attachment; filename=\"mail.eml\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n",
            host = self.host_name,
            to = self.to.as_str(),
        );
        for line in shown.chunks(57) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}\r\n", BASE64_STANDARD.encode(line));
        }
        let _ = write!(text, "--{boundary}--\r\n");
        text.into_bytes()
    }
}
