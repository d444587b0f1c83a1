//! Complete messages: what of their header is sent, and what is added.

use mail::address::{Domain, Mailbox};
use mail_parser::MessageParser;

use super::{Part, RawSpec, TemplateFault, Unsubscribe};
use crate::dkim::{field_name, fields};

/// Most octets of a line, without its line end (RFC 5322, 2.1.1).
const LINE_LIMIT: usize = 998;

/// A complete message, cut into what is sent of its header, and its body.
#[derive(Debug)]
pub(super) struct RawTemplate {
    /// The header fields that are sent, with CRLF line ends and without the empty line.
    pub(super) head: Vec<u8>,
    /// The body with CRLF line ends.
    pub(super) body: Vec<u8>,
    pub(super) campaign: bool,
    pub(super) has_date: bool,
    pub(super) has_message_id: bool,
    pub(super) has_feedback_id: bool,
    /// The body has octets above 127.
    pub(super) eight_bit: bool,
}

impl RawTemplate {
    /// Takes a message apart; answers it with the domain of its From address, if it has one.
    pub(super) fn compile(spec: &RawSpec) -> Result<(Self, Option<Domain>), TemplateFault> {
        let fault = |message: &str| TemplateFault::whole(Part::Raw, message);
        let message = with_crlf(&spec.message);
        if let Some(place) = first_long_line(&message) {
            let message = format!(
                "the line is longer than {LINE_LIMIT} octets (RFC 5322, 2.1.1); fold it, or encode the text"
            );
            return Err(TemplateFault { part: Part::Raw, line: place + 1, column: 1, message });
        }
        let (head, body) = split(&message);
        let mut template = Self {
            head: Vec::with_capacity(head.len()),
            body: body.to_vec(),
            campaign: spec.campaign,
            has_date: false,
            has_message_id: false,
            has_feedback_id: false,
            eight_bit: !body.is_ascii(),
        };
        if !template.body.is_empty() && !template.body.ends_with(b"\r\n") {
            template.body.extend_from_slice(b"\r\n");
        }
        let mut from = None;
        for field in fields(head) {
            let name = field_name(field);
            let sound = !name.is_empty()
                && name.len() < field.len()
                && name.iter().all(|octet| octet.is_ascii_graphic());
            if !sound {
                return Err(fault("the header has a line that is no field"));
            }
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            if is("from") && from.replace(field).is_some() {
                return Err(fault("the header has more than one From field"));
            }
            template.has_date |= is("date");
            template.has_message_id |= is("message-id");
            template.has_feedback_id |= is("feedback-id");
            if !is_dropped(name, spec) {
                template.head.extend_from_slice(field);
            }
        }
        if template.head.contains(&0) {
            return Err(fault("the header contains NUL"));
        }
        // No server need take it (RFC 5321, 4.5.2): better said once now than by every recipient.
        if spec.message.contains(&0) {
            return Err(fault("the message contains NUL"));
        }
        if !template.head.is_empty() && !template.head.ends_with(b"\r\n") {
            template.head.extend_from_slice(b"\r\n");
        }
        let domain = from.and_then(from_domain);
        if spec.campaign && domain.is_none() {
            return Err(fault("the message has no From field with an address"));
        }
        Ok((template, domain))
    }
}

/// The number, from 0, of the first line that is too long.
fn first_long_line(message: &[u8]) -> Option<usize> {
    let mut begin = 0;
    for (number, end) in memchr::memchr_iter(b'\n', message).chain([message.len()]).enumerate() {
        let line = &message[begin..end];
        if line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_LIMIT {
            return Some(number);
        }
        begin = end + 1;
    }
    None
}

/// Whether a field is left out of what is sent.
fn is_dropped(name: &[u8], spec: &RawSpec) -> bool {
    let is_in =
        |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    // Return-Path belongs to the receiving side, Bcc to nobody else, and a number of ours to us.
    let always = ["return-path", "bcc", "resent-bcc", "x-mailweir-id"];
    // The copy for each recipient is a message of its own: these are written anew or not true of it.
    let campaign = ["to", "cc", "date", "message-id", "dkim-signature", "received", "feedback-id"];
    let unsubscribe = ["list-unsubscribe", "list-unsubscribe-post"];
    is_in(&always)
        || spec.campaign
            && (is_in(&campaign) || spec.unsubscribe == Unsubscribe::Managed && is_in(&unsubscribe))
}

/// The domain of the first address of a From field.
fn from_domain(field: &[u8]) -> Option<Domain> {
    let message = MessageParser::new().parse(field)?;
    let address = message.from()?.first()?.address.as_deref()?;
    let mailbox = Mailbox::parse(address).ok()?;
    Domain::parse(mailbox.domain()).ok()
}

/// Header and body of a message with CRLF line ends.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = message.strip_prefix(b"\r\n") {
        return (b"", body);
    }
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(end) => (&message[..end + 2], &message[end + 4..]),
        None => (message, b""),
    }
}

/// The message with every lone CR or LF made CRLF.
fn with_crlf(message: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let stray = memchr::memchr2_iter(b'\r', b'\n', message).any(|index| match message[index] {
        b'\r' => message.get(index + 1) != Some(&b'\n'),
        _ => index == 0 || message[index - 1] != b'\r',
    });
    if !stray {
        return message.into();
    }
    let mut out = Vec::with_capacity(message.len() + message.len() / 32);
    let mut rest = message;
    while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(&rest[..end]);
        out.extend_from_slice(b"\r\n");
        let crlf = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
    out.extend_from_slice(rest);
    out.into()
}
