//! Mail that other servers bring: SMTP and LMTP for our return paths, and for nobody else.
//!
//! The 250 is written after the mail is kept. Recipients of other domains get 550, so this is no relay;
//! `postmaster` is accepted, as RFC 5321, 4.5.1 asks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mail::reply::Reply;
use mail::time::Timestamp;
use smtp::server::{Access, OfferedRecipient, ReceivedMessage, ServerLimits, ServerSettings};
use tokio::time::timeout;

use super::counts::InmailCounts;
use super::folder::{Folder, KeepFault};
use super::origin::{Origin, Way};
use crate::config::{InmailConfig, LmtpAddress};
use crate::listener::{BindFault, Bounds, Desk, Doors, Peer, one_line, shown};
use crate::submission::Pressure;

/// The bounds of the listeners that the configuration states.
pub(super) fn bounds(config: &InmailConfig) -> Bounds {
    Bounds {
        connections: config.max_connections,
        connections_per_peer: config.max_connections_per_peer,
        ..Bounds::default()
    }
}

/// Binds the SMTP and the LMTP listeners.
pub(super) fn bind(config: &InmailConfig, bounds: &Bounds) -> Result<(Doors, Doors), BindFault> {
    let mut smtp = Doors::new("inmail", config.tls.as_ref(), bounds.clone())?;
    for &address in &config.listen {
        smtp.tcp(address, |_| settings(config, bounds, false))?;
    }
    let mut lmtp = Doors::new("inmail", config.tls.as_ref(), bounds.clone())?;
    for address in &config.lmtp {
        match address {
            LmtpAddress::Tcp(address) => lmtp.tcp(*address, |_| settings(config, bounds, true))?,
            LmtpAddress::Unix(path) => {
                let settings = ServerSettings { starttls: false, ..settings(config, bounds, true) };
                lmtp.unix(path, settings)?;
            }
        }
    }
    Ok((smtp, lmtp))
}

fn settings(config: &InmailConfig, bounds: &Bounds, lmtp: bool) -> ServerSettings {
    ServerSettings {
        host_name: config.hostname.as_str().to_owned(),
        lmtp,
        starttls: config.tls.is_some(),
        tls_required: false,
        logins: false,
        auth_in_clear: false,
        access: Access::OwnRecipientsOnly,
        limits: ServerLimits {
            message_octets: config.max_message_bytes,
            // Those who send bounces quote what they got, and a refused bounce is lost: nobody sends it again.
            text_line_octets: usize::MAX,
            nul_octets: true,
            received_fields: 101,
            ..ServerLimits::default()
        },
        command_timeout: bounds.command_timeout,
        data_timeout: bounds.data_timeout,
    }
}

/// What becomes of mail that is brought.
pub(super) struct Receiving {
    pub(super) way: Way,
    pub(super) folder: Folder,
    pub(super) domains: Arc<HashSet<String>>,
    pub(super) pressure: Option<Pressure>,
    pub(super) counts: Arc<InmailCounts>,
    pub(super) store_timeout: Duration,
}

impl Desk for Receiving {
    fn now(&self) -> Timestamp {
        self.folder.now()
    }

    fn refuse(&self, offered: &OfferedRecipient<'_>) -> Option<Reply> {
        let domain = offered.recipient.rsplit_once('@').map(|(_, domain)| domain);
        let ours = domain
            .map_or(offered.recipient == "postmaster", |domain| self.domains.contains(domain));
        if !ours {
            self.counts.relay_denied.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::line(550, "5.7.1 relay denied: this domain is not served here"));
        }
        if let Some(why) = self.pressure.as_ref().and_then(|pressure| pressure()) {
            return Some(Reply::line(452, &format!("4.3.1 {}", one_line(&why))));
        }
        self.folder.check_room().err().map(|fault| reply_to(&fault))
    }

    fn may_log_in(&self, _user: &str, _password: &str) -> bool {
        // AUTH is not offered, so nobody asks.
        false
    }

    async fn take(self: Arc<Self>, peer: Peer, message: ReceivedMessage) -> Reply {
        let origin = Origin {
            way: self.way,
            from: shown(peer),
            sender: Some(message.sender),
            recipients: message.recipients,
            ..Origin::default()
        };
        match timeout(self.store_timeout, self.folder.keep(origin, message.content)).await {
            Ok(Ok(_)) => Reply::line(250, "2.0.0 kept"),
            Ok(Err(fault)) => {
                tracing::warn!(peer = shown(peer), %fault, "an incoming mail is not taken");
                reply_to(&fault)
            }
            Err(_) => {
                tracing::error!(peer = shown(peer), "keeping a mail took too long");
                Reply::line(451, "4.3.0 nothing can be kept now, try again later")
            }
        }
    }
}

/// What a client is told. The fault itself names files of this machine.
fn reply_to(fault: &KeepFault) -> Reply {
    match fault {
        KeepFault::Full { .. } => Reply::line(452, "4.3.1 too much mail waits, try again later"),
        KeepFault::TooLarge => Reply::line(552, "5.3.4 the message is too large"),
        KeepFault::Disk { .. } if fault.is_full_disk() => {
            Reply::line(452, "4.3.1 the disk is full, try again later")
        }
        KeepFault::Disk { .. } => {
            Reply::line(451, "4.3.0 nothing can be kept now, try again later")
        }
    }
}
