//! Contents as callers give them and as they are stored.

use base64::engine::general_purpose::STANDARD;
use mail_parser::{HeaderValue, MessageParser, MimeHeaders, PartType};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The content of a delivery, stored once.
// There is one of it per delivery, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ContentSpec {
    /// Subject and bodies as templates.
    Template(TemplateSpec),
    /// A complete message.
    Raw(RawSpec),
}

/// A content made of templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSpec {
    /// Who it is from. The name may be a template, the address not.
    pub from: AddressSpec,
    /// Where answers go; `None`: to From.
    pub reply_to: Option<AddressSpec>,
    /// The name shown with the recipient's address, a template; empty: none.
    pub to_name: String,
    /// The subject, a template.
    pub subject: String,
    /// The HTML body, a template.
    pub html: Option<String>,
    /// The text body, a template.
    pub text: Option<String>,
    /// Extra header fields.
    pub headers: Vec<HeaderSpec>,
    /// Files that travel with it.
    pub attachments: Vec<Attachment>,
    /// How the recipient may unsubscribe.
    pub unsubscribe: Unsubscribe,
    /// The first three parts of Feedback-ID.
    pub feedback_id: FeedbackLabel,
}

/// An address with the name shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressSpec {
    /// The name; empty: none.
    pub name: String,
    /// The address.
    pub address: String,
}

/// An extra header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// Its value, a template.
    pub value: String,
}

/// A file that travels with every message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Its file name.
    pub name: String,
    /// Its media type, for example `application/pdf`.
    pub content_type: String,
    /// Its octets; base 64 in JSON.
    #[serde(with = "as_base64")]
    pub content: Vec<u8>,
    /// The name by which the HTML body shows it (`cid:...`); `None`: shown as an attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

/// How the recipient of a message may unsubscribe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", try_from = "UnsubscribeForm")]
pub enum Unsubscribe {
    /// By our own link and address.
    #[default]
    Managed,
    /// Not offered: transactional mail.
    None,
    /// By a link of the sender's application (and by our address).
    Own {
        /// The link, a template.
        url: String,
        /// Whether a POST to it unsubscribes at once (RFC 8058).
        one_click: bool,
    },
}

/// How [`Unsubscribe`] is read: field by field, so that a field that means nothing is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnsubscribeForm {
    mode: UnsubscribeMode,
    url: Option<String>,
    one_click: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UnsubscribeMode {
    Managed,
    None,
    Own,
}

impl TryFrom<UnsubscribeForm> for Unsubscribe {
    type Error = &'static str;

    fn try_from(form: UnsubscribeForm) -> Result<Self, &'static str> {
        let UnsubscribeForm { mode, url, one_click } = form;
        match (mode, url, one_click) {
            (UnsubscribeMode::Managed, None, None) => Ok(Self::Managed),
            (UnsubscribeMode::None, None, None) => Ok(Self::None),
            (UnsubscribeMode::Own, Some(url), one_click) => {
                Ok(Self::Own { url, one_click: one_click.unwrap_or(false) })
            }
            (UnsubscribeMode::Own, None, _) => Err("unsubscribe: mode \"own\" needs a url"),
            _ => Err("unsubscribe: url and one_click belong to mode \"own\" alone"),
        }
    }
}

/// The first three parts of Feedback-ID: letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackLabel {
    /// The campaign; empty: the delivery's number.
    pub campaign: String,
    /// The customer of a sender for others; may be empty.
    pub customer: String,
    /// The kind of mail; may be empty.
    pub mail_type: String,
}

/// A complete message (RFC 5322).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSpec {
    /// Its octets; base 64 in JSON.
    #[serde(with = "as_base64")]
    pub message: Vec<u8>,
    /// `true`: one content for many recipients, so To, Date and Message-ID are made for each. `false`:
    /// one message for one recipient, sent as it is, with Date and Message-ID only where they are
    /// missing.
    pub campaign: bool,
    /// How the recipient may unsubscribe; only looked at for campaigns.
    pub unsubscribe: Unsubscribe,
    /// The first three parts of Feedback-ID.
    pub feedback_id: FeedbackLabel,
}

/// Octets as base 64 in JSON.
mod as_base64 {
    use base64::Engine as _;

    use super::{Deserialize, Deserializer, STANDARD, Serializer};

    pub(super) fn serialize<S: Serializer>(
        octets: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Why octets are no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentFault {
    /// A stored content cannot be read.
    #[error("the stored content cannot be read: {why}")]
    Stored {
        /// What the JSON reader said.
        why: String,
    },
    /// The octets are no message.
    #[error("this is no message (RFC 5322): no header fields were found")]
    NotAMessage,
    /// The message has no From address.
    #[error("the message has no From field with an address")]
    NoFrom,
    /// The message has merge markers, but a part that cannot be merged: neither text nor HTML nor
    /// attachment.
    #[error("the message has merge markers, but neither a text nor an HTML body")]
    NoBody,
}

/// How a stored raw message begins; after it comes what JSON would only make longer.
const STORED_RAW: &[u8] = b"raw ";

impl ContentSpec {
    /// The octets to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = |value: &Self| {
            serde_json::to_vec(value).expect("a content has only text keys and can be JSON")
        };
        match self {
            Self::Template(_) => json(self),
            Self::Raw(raw) => {
                let mut frame = raw.clone();
                let message = core::mem::take(&mut frame.message);
                let frame = json(&Self::Raw(frame));
                [STORED_RAW, &frame, b"\n", &message].concat()
            }
        }
    }

    /// Reads what [`ContentSpec::encode`] made.
    ///
    /// # Errors
    /// The octets are something else.
    pub fn decode(octets: &[u8]) -> Result<Self, ContentFault> {
        let stored = |why: String| ContentFault::Stored { why };
        let Some(rest) = octets.strip_prefix(STORED_RAW) else {
            return serde_json::from_slice(octets).map_err(|fault| stored(fault.to_string()));
        };
        let end = memchr::memchr(b'\n', rest).ok_or_else(|| stored("no end of frame".into()))?;
        match serde_json::from_slice(&rest[..end]) {
            Ok(Self::Raw(mut raw)) => {
                raw.message = rest[end + 1..].to_vec();
                Ok(Self::Raw(raw))
            }
            Ok(Self::Template(_)) => Err(stored("a template in the frame of a message".into())),
            Err(fault) => Err(stored(fault.to_string())),
        }
    }

    /// One message for one recipient, sent as it is.
    #[must_use]
    pub fn single_message(message: Vec<u8>) -> Self {
        Self::Raw(RawSpec { message, unsubscribe: Unsubscribe::None, ..RawSpec::default() })
    }

    /// The content of a campaign from an .eml file. With merge markers in its subject, From name or
    /// bodies it is taken apart into templates; without any, it is sent as it is but for To, Date,
    /// Message-ID and the fields that mailweir adds.
    ///
    /// # Errors
    /// The octets are no message, or one that cannot be merged.
    pub fn from_eml(octets: &[u8]) -> Result<Self, ContentFault> {
        let message = MessageParser::new().parse(octets).ok_or(ContentFault::NotAMessage)?;
        if message.headers().is_empty() {
            return Err(ContentFault::NotAMessage);
        }
        let address = |address: Option<&mail_parser::Address<'_>>| {
            let first = address?.first()?;
            Some(AddressSpec {
                name: first.name.as_deref().unwrap_or_default().to_owned(),
                address: first.address.as_deref()?.to_owned(),
            })
        };
        let from = address(message.from()).ok_or(ContentFault::NoFrom)?;
        let mut spec = TemplateSpec {
            from,
            reply_to: address(message.reply_to()),
            subject: message.subject().unwrap_or_default().to_owned(),
            ..TemplateSpec::default()
        };
        let mut taken = Vec::new();
        for &index in &message.html_body {
            if let Some(PartType::Html(html)) = message.part(index).map(|part| &part.body) {
                spec.html = Some(html.clone().into_owned());
                taken.push(index);
                break;
            }
        }
        for &index in &message.text_body {
            if let Some(PartType::Text(text)) = message.part(index).map(|part| &part.body) {
                spec.text = Some(text.clone().into_owned());
                taken.push(index);
                break;
            }
        }
        for header in message.headers() {
            let name = header.name.as_str();
            if let HeaderValue::Text(value) = &header.value
                && !is_reserved(name)
                && !spec.headers.iter().any(|other| other.name.eq_ignore_ascii_case(name))
            {
                spec.headers.push(HeaderSpec { name: name.to_owned(), value: value.to_string() });
            }
        }
        let merged =
            [Some(&spec.subject), Some(&spec.from.name), spec.html.as_ref(), spec.text.as_ref()];
        let markers = ["{{", "{%", "{#"];
        if !merged.into_iter().flatten().any(|text| markers.iter().any(|mark| text.contains(mark)))
        {
            return Ok(Self::Raw(RawSpec {
                message: octets.to_vec(),
                campaign: true,
                ..RawSpec::default()
            }));
        }
        if spec.html.is_none() && spec.text.is_none() {
            return Err(ContentFault::NoBody);
        }
        for (number, &index) in message.attachments.iter().enumerate() {
            let Some(part) = message.part(index).filter(|_| !taken.contains(&index)) else {
                continue;
            };
            let media = part.content_type().map_or_else(
                || "application/octet-stream".to_owned(),
                |media| format!("{}/{}", media.ctype(), media.subtype().unwrap_or("octet-stream")),
            );
            spec.attachments.push(Attachment {
                name: part
                    .attachment_name()
                    .map_or_else(|| format!("part-{}", number + 1), str::to_owned),
                content_type: media.to_ascii_lowercase(),
                content: part.contents().to_vec(),
                content_id: part.content_id().map(str::to_owned),
            });
        }
        Ok(Self::Template(spec))
    }
}

/// Whether a header field is written by us, or must not be in what we send.
pub(super) fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 20] = [
        "from",
        "reply-to",
        "to",
        "cc",
        "bcc",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "return-path",
        "received",
        "dkim-signature",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "feedback-id",
        "x-mailweir-id",
        "resent-bcc",
        "delivered-to",
        "x-original-to",
        "authentication-results",
    ];
    let lower = name.to_ascii_lowercase();
    lower.starts_with("content-") || lower.starts_with("arc-") || RESERVED.contains(&lower.as_str())
}
