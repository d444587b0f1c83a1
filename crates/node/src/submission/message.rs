//! From a received message to the queue, and from what became of it to a reply.
//!
//! The header is read once: options of ours are taken out, and what [`crate::prepare`] would not take
//! later is refused now, while the client can be told. Texts from faults reach the client in one line;
//! those about the store, which name files of this machine, go to the log only.

use core::ops::Range;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::digest::{Context, SHA256};
use mail::address::Mailbox;
use mail::compose::date;
use mail::id::{MessageId, Priority};
use mail::reply::Reply;
use mail::time::Timestamp;
use memchr::memmem;
use smtp::server::ReceivedMessage;
use store::{Once, RefusedWrite};
use tokio::time::timeout;

use super::{SubmissionCounts, Submitting};
use crate::dkim::{field_name, fields};
use crate::intake::{Accepted, IntakeFault, NULL_SENDER, SingleMessage, StreamName, messages_of};
pub(super) use crate::listener::one_line;
use crate::listener::{Peer, shown};

/// Affinity of mail that neither a user nor its header gives one.
const DEFAULT_AFFINITY: &str = "default";
/// Tenant of mail of nobody.
const NOBODY: &str = "smtp";
/// Longest idempotency key.
const LONGEST_KEY: usize = 255;

/// What the header of a message asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) priority: Option<Priority>,
    pub(super) affinity: Option<String>,
    pub(super) key: Option<String>,
}

/// A message whose header was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Examined {
    pub(super) options: Options,
    /// Where our options stand in the content, in order.
    pub(super) removed: Vec<Range<usize>>,
}

/// Reads the header of a message.
///
/// # Errors
/// What is wrong with it, in words for a reply.
pub(super) fn examine(content: &[u8]) -> Result<Examined, String> {
    let head = if content.starts_with(b"\r\n") {
        &[]
    } else {
        memmem::find(content, b"\r\n\r\n").map_or(content, |end| &content[..end + 2])
    };
    if head.first().is_some_and(|octet| matches!(octet, b' ' | b'\t')) {
        return Err("the header begins with a continuation".into());
    }
    let mut options = Options::default();
    let mut removed = Vec::new();
    let mut has_from = false;
    let mut at = 0;
    for field in fields(head) {
        let name = field_name(field);
        let sound = field.contains(&b':')
            && !name.is_empty()
            && name.iter().all(|octet| octet.is_ascii_graphic());
        if !sound {
            return Err("the header has a line that is no field".into());
        }
        if name.eq_ignore_ascii_case(b"from") && core::mem::replace(&mut has_from, true) {
            return Err("the header has more than one From field".into());
        }
        if name.len() > 11
            && name[..11].eq_ignore_ascii_case(b"x-mailweir-")
            && take_option(name, field, &mut options)?
        {
            removed.push(at..at + field.len());
        }
        at += field.len();
    }
    Ok(Examined { options, removed })
}

/// Reads an option; `false`: the field is none.
fn take_option(name: &[u8], field: &[u8], options: &mut Options) -> Result<bool, String> {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if !matches!(
        name.as_str(),
        "x-mailweir-priority" | "x-mailweir-affinity" | "x-mailweir-idempotency-key"
    ) {
        return Ok(false);
    }
    let value = field.splitn(2, |octet| *octet == b':').nth(1).unwrap_or_default().trim_ascii();
    let value = core::str::from_utf8(value)
        .ok()
        .filter(|value| !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_graphic()))
        .ok_or_else(|| format!("{name} must be one word of visible ASCII characters"))?;
    let repeated = match name.as_str() {
        "x-mailweir-priority" => {
            let priority = match value.to_ascii_lowercase().as_str() {
                "high" => Priority::High,
                "normal" => Priority::Normal,
                "low" => Priority::Low,
                _ => return Err(format!("{name} must be high, normal or low")),
            };
            options.priority.replace(priority).is_some()
        }
        "x-mailweir-affinity" => options.affinity.replace(value.to_owned()).is_some(),
        _ if value.len() > LONGEST_KEY => {
            return Err(format!(
                "{name} has {} characters, at most {LONGEST_KEY} are allowed",
                value.len()
            ));
        }
        _ => options.key.replace(value.to_owned()).is_some(),
    };
    if repeated {
        return Err(format!("{name} is given twice"));
    }
    Ok(true)
}

/// Our trace field (RFC 5321, 4.4; protocol names of RFC 3848 and 6531).
fn received_field(host: &str, peer: Peer, message: &ReceivedMessage, now: Timestamp) -> String {
    let address = match peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)) {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    // A name in UTF-8 would make the whole message need SMTPUTF8.
    let from = if message.helo.is_ascii() { message.helo.as_str() } else { address.as_str() };
    let base = if message.smtputf8 { "UTF8SMTP" } else { "ESMTP" };
    let tls = if message.tls { "S" } else { "" };
    let login = if message.user.is_some() { "A" } else { "" };
    // Times of a node are never the same twice, so this is an identifier.
    let id = now.as_micros();
    format!(
        "Received: from {from} ({address})\r\n\tby {host} with {base}{tls}{login} id {id:x};\r\n\t{}\r\n",
        date(now)
    )
}

/// The content to store: with our trace field, without our options.
pub(super) fn stored_content(content: &[u8], trace: &str, removed: &[Range<usize>]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(trace.len() + content.len());
    stored.extend_from_slice(trace.as_bytes());
    let mut from = 0;
    for part in removed {
        stored.extend_from_slice(&content[from..part.start]);
        from = part.end;
    }
    stored.extend_from_slice(&content[from..]);
    stored
}

/// What makes a request the same: sender, recipients and content as the client gave them.
fn digest_of(message: &ReceivedMessage) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    // Neither addresses nor the empty sender contain an LF, so the parts cannot be confused.
    context.update(message.sender.as_bytes());
    for recipient in &message.recipients {
        context.update(b"\n");
        context.update(recipient.as_bytes());
    }
    context.update(b"\n\n");
    context.update(&message.content);
    let mut fixed = [0; 32];
    fixed.copy_from_slice(context.finish().as_ref());
    fixed
}

/// The recipients, each once.
fn recipients_of(message: &ReceivedMessage) -> Result<Vec<Mailbox>, Reply> {
    let mut seen = HashSet::new();
    message
        .recipients
        .iter()
        .filter(|recipient| message.recipients.len() == 1 || seen.insert(recipient.as_str()))
        .map(|recipient| {
            Mailbox::parse(recipient)
                .map_err(|fault| refusal(553, "5.1.3", &format!("{recipient}: {fault}")))
        })
        .collect()
}

/// Has a message committed and answers with the reply for the client.
pub(super) async fn accept(desk: &Submitting, peer: Peer, message: ReceivedMessage) -> Reply {
    let examined = match examine(&message.content) {
        Ok(examined) => examined,
        Err(why) => return refusal(554, "5.6.0", &why),
    };
    let recipients = match recipients_of(&message) {
        Ok(recipients) => recipients,
        Err(reply) => return reply,
    };
    let Options { priority, affinity, key } = examined.options;
    let user = message.user.as_deref().and_then(|name| desk.users.get(name));
    let tenant = message.user.as_deref().unwrap_or(NOBODY);
    let by_user = user.map_or(DEFAULT_AFFINITY, |user| &user.affinity);
    let stream = StreamName {
        affinity: affinity.unwrap_or_else(|| by_user.to_owned()),
        priority: priority.unwrap_or_else(|| user.map_or(Priority::High, |user| user.priority)),
        tenant: tenant.to_owned(),
    };
    // Our own front, because the node keeps keys of its own among those of the tenant.
    let once = key.map(|key| Once {
        tenant: tenant.into(),
        key: format!("smtp/{key}").into(),
        digest: digest_of(&message),
    });
    let trace = received_field(&desk.host_name, peer, &message, desk.intake.now());
    let content = stored_content(&message.content, &trace, &examined.removed);
    let octets = content.len() as u64;
    let sender = if message.sender.is_empty() { NULL_SENDER.into() } else { message.sender };
    let single = SingleMessage { sender, recipients, content };
    let submitted = desk.intake.submit(&stream, single, once);
    let counts = &desk.counts;
    match timeout(desk.bounds.store_timeout, submitted).await {
        Ok(Ok(Accepted::New(appended))) => {
            SubmissionCounts::add(&counts.messages_accepted, 1);
            SubmissionCounts::add(&counts.recipients_accepted, u64::from(appended.accepted));
            SubmissionCounts::add(&counts.octets_accepted, octets);
            accepted_as(messages_of(&appended).first().copied(), u64::from(appended.accepted))
        }
        Ok(Ok(Accepted::Repeated(earlier))) => {
            SubmissionCounts::add(&counts.messages_repeated, 1);
            accepted_as(earlier.first, earlier.accepted)
        }
        Ok(Err(fault)) => reply_to(&fault),
        Err(_) => {
            tracing::error!(
                peer = shown(peer),
                "a commit took too long; the client was told to try again"
            );
            not_now("the commit took too long")
        }
    }
}

/// The 250, with the numbers of the messages.
fn accepted_as(first: Option<MessageId>, count: u64) -> Reply {
    let text = match first {
        Some(first) if count > 1 => {
            format!("2.0.0 accepted as {first}-{}", MessageId(first.0 + count - 1))
        }
        Some(first) => format!("2.0.0 accepted as {first}"),
        None => "2.0.0 accepted".to_owned(),
    };
    Reply::line(250, &text)
}

/// What a client is told about a fault of intake.
pub(super) fn reply_to(fault: &IntakeFault) -> Reply {
    match fault {
        IntakeFault::TryLater(why) => not_now(why),
        IntakeFault::NoRoom(why) => no_room(why),
        IntakeFault::Template(_) | IntakeFault::Invalid(_) => {
            refusal(554, "5.6.0", &fault.to_string())
        }
        IntakeFault::Quarantined(why) => not_written_to(why),
        IntakeFault::Refused(refused) => match refused {
            RefusedWrite::KeyReused => refusal(554, "5.5.4", &refused.to_string()),
            RefusedWrite::TooLarge { .. } => refusal(552, "5.3.4", &refused.to_string()),
            RefusedWrite::EmptyAddress { .. } => refusal(553, "5.1.3", &refused.to_string()),
            // An operator has ended the stream: nothing is wrong with the message.
            RefusedWrite::WrongState { .. } => refusal(451, "4.3.2", &refused.to_string()),
            RefusedWrite::UnknownDelivery(_)
            | RefusedWrite::NoContent(_)
            | RefusedWrite::WrongContent(_)
            | RefusedWrite::BadOptions(_)
            | RefusedWrite::UnknownText(_)
            | RefusedWrite::UnknownTask(_)
            | RefusedWrite::OtherBundle { .. }
            | RefusedWrite::UnknownBundle(_) => {
                tracing::error!(%refused, "the queue refused a message that should have fitted");
                not_now(&refused.to_string())
            }
        },
    }
}

/// What a client is told about a recipient to whom nothing is sent.
pub(super) fn not_written_to(why: &str) -> Reply {
    refusal(550, "5.7.1", &format!("nothing is sent to this recipient, {why}"))
}

/// What a client is told when there is no room for its message. The words may name files of this machine.
fn no_room(why: &str) -> Reply {
    tracing::debug!(why, "there is no room for more mail");
    Reply::line(452, "4.3.1 no room for more mail now, try again later")
}

/// What a client is told when the store takes nothing. The fault itself names files of this machine.
fn not_now(fault: &str) -> Reply {
    tracing::debug!(fault, "mail is not taken now");
    Reply::line(451, "4.3.0 the queue takes nothing now, try again later")
}

fn refusal(code: u16, status: &str, why: &str) -> Reply {
    Reply::line(code, &format!("{status} {}", one_line(why)))
}
