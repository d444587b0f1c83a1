//! `POST /api/v1/messages`: single messages, as JSON or complete (RFC 5322).
//!
//! **JSON** is composed here; every text is data, so template markers in it stay what they are. All recipients
//! stand in To; each gets a copy of his own, with Date and Message-ID added when it is sent.
//!
//! **`message/rfc822`** is sent as it is, but for Date, Message-ID and fields that belong to others (Bcc, Return-Path).
//! Its envelope is in header fields of the request, never in the query, where addresses would end in logs:
//! `X-Mailweir-Recipients` (comma-separated; required), `X-Mailweir-Sender`, `X-Mailweir-Affinity`,
//! `X-Mailweir-Priority`, `X-Mailweir-Tenant`.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use mail::address::Mailbox;
use mail::compose::{AddressField, HeaderFault, Headers, Multipart, TransferEncoding};
use mail::id::{DeliveryId, MessageId, Priority};
use node::intake::{Accepted, SingleMessage, StreamName, messages_of};
use node::prepare::{AddressSpec, ContentSpec, HeaderSpec, Part, TemplateSpec};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use crate::access::Caller;
use crate::app::{Shared, once, stored};
use crate::forms::{label, one_line};
use crate::problem::AsProblem;
use web::Problem;
use web::{from_json, media_type};

/// Recipients of one message. Larger circles are deliveries.
const RECIPIENTS_LIMIT: usize = 100;
/// Extra header fields of one message.
const FIELDS_LIMIT: usize = 100;

/// A message as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    from: AddressForm,
    to: Addresses,
    #[serde(default)]
    reply_to: Option<AddressForm>,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    html: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    headers: Fields,
    #[serde(default)]
    sender: Option<String>,
    #[serde(default)]
    affinity: Option<String>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(default)]
    tenant: Option<String>,
}

/// An address: `"ada@example.com"`, `"Ada <ada@example.com>"` or `{"name": "Ada", "address": "ada@example.com"}`.
struct AddressForm(AddressSpec);

impl<'de> Deserialize<'de> for AddressForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = AddressForm;

            fn expecting(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                out.write_str("an address as text or as {\"name\", \"address\"}")
            }

            fn visit_str<E>(self, text: &str) -> Result<AddressForm, E> {
                Ok(AddressForm(named(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AddressForm, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                AddressSpec::deserialize(map).map(AddressForm)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Takes `Ada <ada@example.com>` apart; anything else is an address without a name.
fn named(text: &str) -> AddressSpec {
    // Other white space, line ends among it, stays and is refused with its name.
    let blank = [' ', '\t'];
    let text = text.trim_matches(blank);
    let Some((name, address)) = text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'))
    else {
        return AddressSpec { name: String::new(), address: text.to_owned() };
    };
    let name = name.trim_matches(blank);
    let name = match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut escaped = false;
            for character in quoted.chars() {
                escaped = character == '\\' && !escaped;
                if !escaped {
                    plain.push(character);
                }
            }
            plain
        }
        None => name.to_owned(),
    };
    AddressSpec { name, address: address.to_owned() }
}

/// One address or a list of them.
struct Addresses(Vec<AddressForm>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Addresses;

            fn expecting(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                out.write_str("an address or a list of addresses")
            }

            fn visit_str<E>(self, text: &str) -> Result<Addresses, E> {
                Ok(Addresses(vec![AddressForm(named(text))]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Addresses, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                Ok(Addresses(vec![AddressForm(AddressSpec::deserialize(map)?)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    if addresses.len() == RECIPIENTS_LIMIT {
                        return Err(A::Error::custom(format_args!(
                            "to: at most {RECIPIENTS_LIMIT} recipients; make a delivery for more"
                        )));
                    }
                    addresses.push(address);
                }
                Ok(Addresses(addresses))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Extra header fields: `{"X-Name": "value"}` or `[{"name": "X-Name", "value": "value"}]`.
#[derive(Default)]
struct Fields(Vec<HeaderSpec>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Fields;

            fn expecting(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                out.write_str("header fields as an object or as a list of {\"name\", \"value\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    bounded(&fields)?;
                    fields.push(HeaderSpec { name, value });
                }
                Ok(Fields(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = list.next_element()? {
                    bounded(&fields)?;
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

fn bounded<E: serde::de::Error>(fields: &[HeaderSpec]) -> Result<(), E> {
    if fields.len() < FIELDS_LIMIT {
        return Ok(());
    }
    Err(E::custom(format_args!("headers: at most {FIELDS_LIMIT} fields")))
}

/// A message with its envelope, checked.
struct Checked {
    stream: StreamName,
    message: SingleMessage,
}

/// `POST /api/v1/messages`
pub(crate) async fn submit(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (checked, once) = match media_type(&parts.headers)?.as_str() {
        "application/json" => {
            let document = app.read(body, app.content_limit()).await?;
            let once = once(&parts.headers, &caller, &[b"message", &document.octets])?;
            let wanted: NewMessage = from_json(&document.octets)?;
            (compose(&app, &caller, wanted)?, once)
        }
        "message/rfc822" => {
            let envelope = Envelope::read(&parts.headers)?;
            let mut document = app.read(body, app.message_limit()).await?;
            let identity = envelope.identity();
            let parts_of_identity: [&[u8]; 3] = [b"rfc822", identity.as_bytes(), &document.octets];
            let once = once(&parts.headers, &caller, &parts_of_identity)?;
            let message = core::mem::take(&mut document.octets);
            (complete(&app, &caller, envelope, message)?, once)
        }
        _ => return Err(Problem::media_type("send application/json or message/rfc822")),
    };
    let accepted = stored(app.intake.submit(&checked.stream, checked.message, once)).await?;
    match accepted {
        Accepted::New(appended) => {
            let ids = messages_of(&appended);
            let first = ids.first().copied();
            let delivery = match first {
                Some(first) => delivery_of(&app, first).await,
                None => None,
            };
            Ok(listed(StatusCode::ACCEPTED, &ids, delivery, appended.duplicates.len()))
        }
        Accepted::Repeated(earlier) => {
            let ids: Vec<MessageId> = earlier
                .first
                .map(|first| (0..earlier.accepted).map(|n| MessageId(first.0 + n)).collect())
                .unwrap_or_default();
            Ok(listed(StatusCode::OK, &ids, Some(earlier.delivery), 0))
        }
    }
}

/// The delivery of a message that was just accepted. Where it cannot be read the answer goes without it: the message
/// is accepted, and an error would make the caller send it again.
async fn delivery_of(app: &Shared, id: MessageId) -> Option<DeliveryId> {
    match stored(app.intake.read(move |reads| reads.message(id))).await {
        Ok(record) => record.map(|record| record.delivery),
        Err(problem) => {
            tracing::warn!("{id} was accepted, its delivery cannot be read: {problem:?}");
            None
        }
    }
}

fn listed(
    status: StatusCode,
    ids: &[MessageId],
    delivery: Option<DeliveryId>,
    duplicates: usize,
) -> Response {
    let ids: Vec<String> = ids.iter().map(MessageId::to_string).collect();
    let body = json!({
        "ids": ids,
        "delivery": delivery.map(|id| id.to_string()),
        "duplicates": duplicates,
    });
    (status, web::json(&body)).into_response()
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, Problem> {
    one_line(field, text)?;
    Mailbox::parse(text).map_err(|fault| {
        let shown: String = text.chars().take(80).collect();
        Problem::field(field, format_args!("invalid address {shown:?}: {fault}"))
    })
}

fn sender(field: &str, text: Option<&str>) -> Result<String, Problem> {
    match text {
        None | Some("") => Ok(String::new()),
        Some(text) => mailbox(field, text).map(|mailbox| mailbox.as_str().to_owned()),
    }
}

fn stream(
    caller: &Caller,
    affinity: Option<String>,
    priority: Option<Priority>,
    tenant: Option<String>,
) -> Result<StreamName, Problem> {
    let stream = StreamName {
        affinity: affinity.unwrap_or_else(|| "default".into()),
        priority: priority.unwrap_or(Priority::High),
        tenant: tenant.unwrap_or_else(|| caller.name.to_string()),
    };
    label("affinity", &stream.affinity)?;
    label("tenant", &stream.tenant)?;
    Ok(stream)
}

/// Removes repeated recipients; a message goes to an address once, whatever the case it is written in.
fn distinct(recipients: Vec<Mailbox>) -> Vec<Mailbox> {
    let mut seen = std::collections::HashSet::new();
    recipients
        .into_iter()
        .filter(|mailbox| seen.insert(mailbox.folded_key().into_owned()))
        .collect()
}

/// Composes a message from JSON.
fn compose(app: &Shared, caller: &Caller, wanted: NewMessage) -> Result<Checked, Problem> {
    let stream = stream(caller, wanted.affinity, wanted.priority, wanted.tenant)?;
    let sender = sender("sender", wanted.sender.as_deref())?;
    let from = wanted.from.0;
    let from_mailbox = mailbox("from", &from.address)?;
    one_line("from", &from.name)?;
    let mut named_recipients = Vec::with_capacity(wanted.to.0.len());
    for (place, AddressForm(to)) in wanted.to.0.into_iter().enumerate() {
        let field = format!("to[{place}]");
        one_line(&field, &to.name)?;
        named_recipients.push((to.name, mailbox(&field, &to.address)?));
    }
    if named_recipients.is_empty() {
        return Err(Problem::field("to", "at least one recipient"));
    }
    if wanted.html.is_none() && wanted.text.is_none() {
        return Err(Problem::field("text", "a message needs text or html"));
    }
    one_line("subject", &wanted.subject)?;
    for field in &wanted.headers.0 {
        one_line("headers", &field.name)?;
        one_line(&format!("headers.{}", field.name), &field.value)?;
    }
    check_names(app, &from, &wanted.headers.0)?;
    let fault = |field: &str| {
        let field = field.to_owned();
        move |fault: HeaderFault| Problem::field(field, fault)
    };
    let mut head = Headers::new();
    let from_field = AddressField { name: &from.name, mailbox: &from_mailbox };
    head.addresses("From", &[from_field]).map_err(fault("from"))?;
    let to: Vec<AddressField<'_>> =
        named_recipients.iter().map(|(name, mailbox)| AddressField { name, mailbox }).collect();
    head.addresses("To", &to).map_err(fault("to"))?;
    if let Some(AddressForm(reply_to)) = &wanted.reply_to {
        let mailbox = mailbox("reply_to", &reply_to.address)?;
        one_line("reply_to", &reply_to.name)?;
        let field = AddressField { name: &reply_to.name, mailbox: &mailbox };
        head.addresses("Reply-To", &[field]).map_err(fault("reply_to"))?;
    }
    head.text("Subject", &wanted.subject).map_err(fault("subject"))?;
    for field in &wanted.headers.0 {
        head.text(&field.name, &field.value).map_err(fault(&format!("headers.{}", field.name)))?;
    }
    let content = with_body(head, wanted.text.as_deref(), wanted.html.as_deref())
        .map_err(|fault| Problem::invalid(fault.to_string()))?;
    let recipients = distinct(named_recipients.into_iter().map(|(_, mailbox)| mailbox).collect());
    Ok(Checked { stream, message: SingleMessage { sender, recipients, content } })
}

/// Asks the preparation of messages whether a sender may set these fields; their values are not looked at.
fn check_names(app: &Shared, from: &AddressSpec, fields: &[HeaderSpec]) -> Result<(), Problem> {
    let headers = fields
        .iter()
        .map(|field| HeaderSpec { name: field.name.clone(), value: String::new() })
        .collect();
    let trial = ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: String::new(), address: from.address.clone() },
        text: Some("-".into()),
        headers,
        ..TemplateSpec::default()
    });
    app.intake.variables(&trial).map(drop).map_err(|fault| match fault {
        node::intake::IntakeFault::Template(fault) => match fault.part {
            Part::Header(name) => Problem::field(format!("headers.{name}"), fault.message),
            part => Problem::field(part.to_string(), fault.message),
        },
        other => other.problem(),
    })
}

/// Adds the body: one part, or text and HTML as alternatives.
fn with_body(
    mut head: Headers,
    text: Option<&str>,
    html: Option<&str>,
) -> Result<Vec<u8>, HeaderFault> {
    head.tokens("MIME-Version", "1.0")?;
    let parts: Vec<(&str, &str)> = [("text/plain", text), ("text/html", html)]
        .into_iter()
        .filter_map(|(kind, body)| Some((kind, body?)))
        .collect();
    let mut body = Vec::new();
    if let [(kind, only)] = parts[..] {
        let encoding = part_fields(&mut head, kind, only)?;
        encoding.encode_text(only, &mut body);
        if !body.ends_with(b"\r\n") {
            body.extend_from_slice(b"\r\n");
        }
    } else {
        let seed: Vec<u8> = parts.iter().flat_map(|(_, part)| part.bytes()).collect();
        let multipart = Multipart::new(&seed);
        multipart.content_type(&mut head, "alternative")?;
        for (kind, part) in parts {
            let mut fields = Headers::new();
            let encoding = part_fields(&mut fields, kind, part)?;
            multipart.open_part(&fields, &mut body);
            encoding.encode_text(part, &mut body);
        }
        multipart.close(&mut body);
    }
    let mut content = head.into_bytes();
    content.extend_from_slice(b"\r\n");
    content.extend_from_slice(&body);
    Ok(content)
}

fn part_fields(
    fields: &mut Headers,
    kind: &str,
    text: &str,
) -> Result<TransferEncoding, HeaderFault> {
    let encoding = TransferEncoding::shorter_for(text);
    fields.parameters("Content-Type", kind, &[("charset", "utf-8")])?;
    fields.tokens("Content-Transfer-Encoding", encoding.name())?;
    Ok(encoding)
}

/// The envelope of a complete message, from the fields of the request.
struct Envelope {
    recipients: String,
    sender: Option<String>,
    affinity: Option<String>,
    priority: Option<String>,
    tenant: Option<String>,
}

impl Envelope {
    fn read(fields: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: &'static str| -> Result<Option<String>, Problem> {
            let mut values = fields.get_all(name).iter();
            let Some(value) = values.next() else { return Ok(None) };
            if values.next().is_some() {
                return Err(Problem::field(name, "the field is given twice"));
            }
            let text = core::str::from_utf8(value.as_bytes())
                .map_err(|_| Problem::field(name, "the field is not UTF-8"))?;
            Ok(Some(text.to_owned()))
        };
        let recipients = text("x-mailweir-recipients")?.ok_or_else(|| {
            let why = "state the recipients, separated by commas, in this header field";
            Problem::field("x-mailweir-recipients", why)
        })?;
        Ok(Self {
            recipients,
            sender: text("x-mailweir-sender")?,
            affinity: text("x-mailweir-affinity")?,
            priority: text("x-mailweir-priority")?,
            tenant: text("x-mailweir-tenant")?,
        })
    }

    /// Everything that makes two envelopes different.
    fn identity(&self) -> String {
        json!([self.recipients, self.sender, self.affinity, self.priority, self.tenant]).to_string()
    }
}

/// Cuts a list at its commas, but not inside quotes: `"a,b"@example.com` is one address.
fn split_list(list: &str) -> Vec<&str> {
    let (mut found, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (place, character) in list.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                found.push(list[start..place].trim());
                start = place + 1;
            }
            _ => {}
        }
    }
    found.push(list[start..].trim());
    found.retain(|part| !part.is_empty());
    found
}

/// Checks a complete message.
fn complete(
    app: &Shared,
    caller: &Caller,
    envelope: Envelope,
    message: Vec<u8>,
) -> Result<Checked, Problem> {
    let field = "x-mailweir-recipients";
    let list = split_list(&envelope.recipients);
    if list.is_empty() || list.len() > RECIPIENTS_LIMIT {
        let why = format!("from 1 to {RECIPIENTS_LIMIT} recipients; make a delivery for more");
        return Err(Problem::field(field, why));
    }
    let recipients =
        list.into_iter().map(|text| mailbox(field, text)).collect::<Result<Vec<_>, _>>()?;
    let sender = sender("x-mailweir-sender", envelope.sender.as_deref())?;
    let priority = match envelope.priority.as_deref() {
        None => None,
        Some("high") => Some(Priority::High),
        Some("normal") => Some(Priority::Normal),
        Some("low") => Some(Priority::Low),
        Some(_) => return Err(Problem::field("x-mailweir-priority", "high, normal or low")),
    };
    let stream = stream(caller, envelope.affinity, priority, envelope.tenant)?;
    if message.contains(&0) {
        return Err(Problem::invalid("the message contains NUL (RFC 5322, 4.1)"));
    }
    let content = ContentSpec::single_message(message);
    app.intake.variables(&content).map_err(AsProblem::problem)?;
    let ContentSpec::Raw(raw) = content else {
        return Err(Problem::invalid("the message cannot be taken as it is"));
    };
    if !has_from(&raw.message) {
        return Err(Problem::invalid("the message has no From field"));
    }
    let message = SingleMessage { sender, recipients: distinct(recipients), content: raw.message };
    Ok(Checked { stream, message })
}

/// Whether the header has a From field; without one every server refuses the message (RFC 5322, 3.6).
fn has_from(message: &[u8]) -> bool {
    message
        .split(|octet| *octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .any(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"from:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_come_apart() {
        for (text, name, address) in [
            ("ada@example.com", "", "ada@example.com"),
            (" Ada <ada@example.com> ", "Ada", "ada@example.com"),
            ("<ada@example.com>", "", "ada@example.com"),
            (r#""Lovelace, \"Ada\" \\" <a@example.com>"#, r#"Lovelace, "Ada" \"#, "a@example.com"),
            ("Ada <x> <a@example.com>", "Ada <x>", "a@example.com"),
            ("", "", ""),
            (">", "", ">"),
        ] {
            let found = named(text);
            assert_eq!((found.name.as_str(), found.address.as_str()), (name, address), "{text}");
        }
    }

    #[test]
    fn lists_are_cut_outside_quotes() {
        assert_eq!(split_list(r#"a@x, "b,\"c"@y ,, d@z,"#), ["a@x", r#""b,\"c"@y"#, "d@z"]);
        assert!(split_list(" , ").is_empty());
    }

    #[test]
    fn messages_are_composed() {
        let text = with_body(Headers::new(), Some("Grüße\nZwei"), None).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: base64\r\n\r\nR3LDvMOfZQ0KWndlaQ==\r\n"
        );
        let both = with_body(Headers::new(), Some("one"), Some("<p>one</p>")).unwrap();
        let both = String::from_utf8(both).unwrap();
        assert!(both.starts_with("MIME-Version: 1.0\r\nContent-Type: multipart/alternative;"));
        assert_eq!(both.matches("Content-Type: text/").count(), 2, "{both}");
        assert!(both.find("text/plain").unwrap() < both.find("text/html").unwrap());
        assert!(both.ends_with("--\r\n"));
    }

    #[test]
    fn from_is_looked_for_in_the_header_alone() {
        assert!(has_from(b"Subject: x\r\nFROM: a@b\r\n\r\n"));
        assert!(has_from(b"From:a@b"));
        assert!(!has_from(b"Subject: x\r\n\r\nFrom: a@b\r\n"));
        assert!(!has_from(b""));
    }
}
