//! From a delivery's content and a recipient's merge data to the octets of one message.
//!
//! A [`ContentSpec`] is stored once per delivery. [`Template::compile`] checks it and does everything
//! that is the same for all recipients: parsing, static header fields, encoding of all lines without
//! merge markers. [`Template::render`] does the rest when a message is about to be sent: merge,
//! To, Subject, Date, Message-ID, List-Unsubscribe, DKIM. A template may be shared between threads.
//!
//! Templates are Jinja as minijinja has it: `{{ variable }}`, filters, `{% if %}`, `{% for %}`,
//! `{% set %}`, macros. The HTML part escapes what it prints; no other part does. Besides the merge
//! data there are `email` (the recipient) and `unsubscribe_url`. A variable that is not there, or that
//! is null, makes the recipient fail with its name and line, never a message with a hole in it.
//!
//! Invariants: merge data is data, never template text; it cannot begin a header field (CR, LF and
//! NUL in a header make the recipient fail). Messages made from templates have 7-bit lines of at most
//! 998 octets ending in CRLF; only raw messages may have 8-bit content, which is then said. From one
//! input comes one output: boundary, Message-ID and return path do not depend on chance or on the
//! attempt. Templates cannot include, import or extend anything, run at most [`FUEL`] instructions,
//! and cannot write more than the output limit. (What a template *computes* before it prints is only
//! bounded by the instructions: templates come from the sender, not from recipients.)
//!
//! Header fields added to every message: Message-ID, Date, `X-Mailweir-Id` (the message's number, for
//! complaints that arrive with nothing else), List-Unsubscribe and List-Unsubscribe-Post (RFC 8058)
//! unless the content says no, and Feedback-ID when the sender has a label for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mail::address::{AddressFault, Domain, Mailbox};
use mail::compose::{AddressField, HeaderFault, Headers, TextCharset, date, message_id};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use mail::verp::{MessageNames, Purpose, ReturnPath};

use rules::recipient::{DomainTreatment, FormatTreatment, Transfer};

use crate::dkim::{DkimFault, DkimKeys, DkimSigner};

pub use program::FUEL;
pub use spec::{
    AddressSpec, Attachment, ContentFault, ContentSpec, FeedbackLabel, HeaderSpec, RawSpec,
    TemplateSpec, Unsubscribe,
};

mod body;
mod bounded;
mod plain;
mod program;
mod raw;
mod spec;
#[cfg(test)]
mod tests;

use body::Body;
use program::{Merge, Program, Programs};
use raw::RawTemplate;

/// Octets that a prepared message may have when the settings say nothing else.
pub const OUTPUT_LIMIT: usize = 1 << 20;

/// The field that carries the message's number.
const MESSAGE_NUMBER_FIELD: &str = "X-Mailweir-Id";

/// What the sender's configuration gives to every message.
#[derive(Clone, Debug)]
pub struct SenderSettings {
    /// Maker of return paths.
    pub return_path: ReturnPath,
    /// Private keys for DKIM; without any, nothing is signed.
    pub dkim: DkimKeys,
    /// Where one-click unsubscribe requests arrive, for example `https://mail.example.com`; the link is
    /// that with `/u/` and a token. `None`: only the mailto form is offered.
    pub unsubscribe_base: Option<String>,
    /// The mailbox for unsubscription by mail, in which the token is in the subject. `None`: an address of the
    /// return path's domain that is the token.
    pub unsubscribe_mailto: Option<String>,
    /// The constant last part of Feedback-ID; empty: no such field.
    pub feedback_sender: String,
    /// Most octets of a prepared message.
    pub output_limit: usize,
}

/// Which part of a content something is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The subject.
    Subject,
    /// The HTML body.
    Html,
    /// The text body.
    Text,
    /// The From address or name.
    From,
    /// The Reply-To address or name.
    ReplyTo,
    /// The name shown in To.
    ToName,
    /// An extra header field.
    Header(String),
    /// The sender's own unsubscribe link.
    UnsubscribeUrl,
    /// The Feedback-ID label.
    FeedbackId,
    /// An attachment.
    Attachment(String),
    /// A complete message.
    Raw,
}

impl core::fmt::Display for Part {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Subject => out.write_str("subject"),
            Self::Html => out.write_str("html"),
            Self::Text => out.write_str("text"),
            Self::From => out.write_str("from"),
            Self::ReplyTo => out.write_str("reply_to"),
            Self::ToName => out.write_str("to_name"),
            Self::Header(name) => write!(out, "header {name}"),
            Self::UnsubscribeUrl => out.write_str("unsubscribe url"),
            Self::FeedbackId => out.write_str("feedback_id"),
            Self::Attachment(name) => write!(out, "attachment {name}"),
            Self::Raw => out.write_str("message"),
        }
    }
}

/// Why a content cannot be sent to anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part}:{line}:{column}: {message}")]
pub struct TemplateFault {
    /// The part at fault.
    pub part: Part,
    /// The line in it, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl TemplateFault {
    /// A fault of a part as a whole.
    fn whole(part: Part, message: impl core::fmt::Display) -> Self {
        Self { part, line: 1, column: 1, message: message.to_string() }
    }
}

/// Why one recipient's message could not be made. The recipient fails; the others go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderFault {
    /// A variable that the template prints or asks about is not in the merge data.
    #[error("{part}, line {line}: the variable {variable} is not defined for this recipient")]
    Undefined {
        /// The part of the template.
        part: Part,
        /// The line in it, from 1.
        line: usize,
        /// The variable or expression.
        variable: String,
    },
    /// The template asks for something that cannot be done with this recipient's data, or runs out
    /// of instructions.
    #[error("{part}, line {line}: {message}")]
    Template {
        /// The part of the template.
        part: Part,
        /// The line in it, from 1; 0: unknown.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// A header field came out impossible: line ends in merge data, too long.
    #[error("{part}: {fault}")]
    Header {
        /// The part of the template.
        part: Part,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// The unsubscribe link came out as something that is no https link.
    #[error(
        "the unsubscribe link of this recipient is not an https URL of ASCII characters: {url:?}"
    )]
    UnsubscribeUrl {
        /// What came out, at most 80 characters of it.
        url: String,
    },
    /// The message is larger than the settings allow.
    #[error("the message is larger than {limit} octets")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The stored merge data is no JSON object.
    #[error("the merge data cannot be read: {why}")]
    Merge {
        /// What the JSON reader said.
        why: String,
    },
    /// The stored recipient is no address.
    #[error("the recipient cannot be written to: {0}")]
    Recipient(#[from] AddressFault),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] DkimFault),
}

/// One recipient's part of a message.
#[derive(Clone, Copy, Debug)]
pub struct RenderInput<'a> {
    /// The message's number.
    pub message_id: MessageId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// The recipient in normal form.
    pub recipient: &'a str,
    /// The merge data: a JSON object, or empty.
    pub merge_json: &'a str,
    /// The time for Date and the signatures.
    pub now: Timestamp,
}

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The VERP return path.
    pub envelope_sender: String,
    /// Header and body with CRLF line ends, not dot-stuffed.
    pub content: Bytes,
    /// It has octets above 127, so BODY=8BITMIME must be said.
    pub eight_bit: bool,
    /// Its addresses or header need SMTPUTF8.
    pub smtputf8: bool,
}

/// A content made ready for rendering.
#[derive(Debug)]
pub struct Template {
    settings: Arc<SenderSettings>,
    unsubscribe: Unsubscribe,
    feedback: FeedbackLabel,
    from_domain: Domain,
    signer: DkimSigner,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Template(Box<MergeTemplate>),
    Raw(RawTemplate),
}

/// What is particular to contents made of templates.
#[derive(Debug)]
struct MergeTemplate {
    programs: Programs,
    from: Mailbox,
    from_name: Program,
    to_name: Program,
    subject: Program,
    headers: Vec<(String, Program)>,
    unsubscribe_url: Option<Program>,
    /// Fields that are the same in every message.
    fixed: Headers,
    body: Body,
    subject_charset: TextCharset,
    /// A part of the body may have octets above 127.
    eight_bit: bool,
}

impl Template {
    /// Checks a content and prepares what its messages have in common.
    ///
    /// # Errors
    /// The first thing because of which no message could be made, with part, line and column.
    pub fn compile(
        spec: &ContentSpec,
        settings: Arc<SenderSettings>,
    ) -> Result<Self, TemplateFault> {
        Self::compile_as(spec, settings, &FormatTreatment::default())
    }

    /// The same for recipients whose mail a format rule shapes. Complete messages are sent as they are.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn compile_as(
        spec: &ContentSpec,
        settings: Arc<SenderSettings>,
        format: &FormatTreatment,
    ) -> Result<Self, TemplateFault> {
        check_unsubscribe_base(&settings)?;
        match spec {
            ContentSpec::Template(spec) => {
                let shaped = plain::shaped(spec, format.structure);
                for warning in plain::warnings(&shaped, format) {
                    tracing::warn!("a content for a domain with a format rule has {warning}");
                }
                let template = MergeTemplate::compile(&shaped, format)?;
                let from_domain = domain_of(&template.from);
                check_feedback(&spec.feedback_id, &settings)?;
                Ok(Self {
                    signer: settings.dkim.for_domain(&from_domain),
                    settings,
                    unsubscribe: spec.unsubscribe.clone(),
                    feedback: spec.feedback_id.clone(),
                    from_domain,
                    kind: Kind::Template(Box::new(template)),
                })
            }
            ContentSpec::Raw(spec) => {
                check_feedback(&spec.feedback_id, &settings)?;
                if let Unsubscribe::Own { .. } = spec.unsubscribe {
                    return Err(TemplateFault::whole(
                        Part::UnsubscribeUrl,
                        "a complete message brings its own List-Unsubscribe field",
                    ));
                }
                let (template, from_domain) = RawTemplate::compile(spec)?;
                // A message without a readable From is signed as our own domain's.
                let from_domain =
                    from_domain.unwrap_or_else(|| settings.return_path.domain().clone());
                Ok(Self {
                    signer: settings.dkim.for_domain(&from_domain),
                    settings,
                    unsubscribe: spec.unsubscribe.clone(),
                    feedback: spec.feedback_id.clone(),
                    from_domain,
                    kind: Kind::Raw(template),
                })
            }
        }
    }

    /// The variables without which at least one message would fail, sorted: those that the template
    /// prints or asks about without a default. What is found missing among a list's columns can be
    /// said before anything is sent.
    #[must_use]
    pub fn required_variables(&self) -> Vec<String> {
        self.required_places().into_keys().collect()
    }

    /// The same, each with the first part of the content that asks for it.
    #[must_use]
    pub fn required_places(&self) -> BTreeMap<String, Part> {
        match &self.kind {
            Kind::Template(template) => {
                template.programs.required_variables(template.each_program())
            }
            Kind::Raw(_) => BTreeMap::new(),
        }
    }

    /// Makes one recipient's message.
    ///
    /// # Errors
    /// Why this recipient's message cannot be made; see [`RenderFault`].
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Prepared, RenderFault> {
        self.render_as(input, None)
    }

    /// The same, signed as a domain rule says.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_as(
        &self,
        input: &RenderInput<'_>,
        treatment: Option<&DomainTreatment>,
    ) -> Result<Prepared, RenderFault> {
        let recipient = Mailbox::parse(input.recipient)?;
        let names = self.settings.return_path.names(input.message_id, input.delivery);
        let message = Message { template: self, input, recipient: &recipient, names: &names };
        let (head, body, eight_bit) = match &self.kind {
            Kind::Template(template) => message.merge(template)?,
            Kind::Raw(raw) => message.raw(raw)?,
        };
        let limit = self.settings.output_limit;
        if head.len() + body.len() + 2 > limit {
            return Err(RenderFault::TooLarge { limit });
        }
        let mut content = Vec::with_capacity(head.len() + body.len() + 2 + 1_024);
        match treatment {
            Some(treatment) if !treatment.sign => {}
            Some(treatment) => {
                self.signer.sign_by(&treatment.selectors, &head, &body, input.now, &mut content)?
            }
            None => self.signer.sign(&head, &body, input.now, &mut content)?,
        }
        content.extend_from_slice(&head);
        content.extend_from_slice(b"\r\n");
        content.extend_from_slice(&body);
        Ok(Prepared {
            envelope_sender: self.settings.return_path.address(&names, Purpose::Bounce),
            content: content.into(),
            eight_bit: eight_bit || !head.is_ascii(),
            smtputf8: recipient.needs_smtputf8() || !head.is_ascii(),
        })
    }

    /// The one-click link of one message, when there is a place for it to lead to.
    fn managed_url(&self, names: &MessageNames) -> Option<String> {
        let base = self.settings.unsubscribe_base.as_deref()?.trim_end_matches('/');
        let mut url = String::with_capacity(base.len() + 50);
        url.push_str(base);
        url.push_str("/u/");
        names.push(Purpose::Unsubscribe, &mut url);
        Some(url)
    }
}

/// One message being made.
struct Message<'a> {
    template: &'a Template,
    input: &'a RenderInput<'a>,
    recipient: &'a Mailbox,
    names: &'a MessageNames,
}

/// Header, body, and whether the body has 8-bit octets.
type Made<'a> = (Vec<u8>, std::borrow::Cow<'a, [u8]>, bool);

impl<'a> Message<'a> {
    /// Makes a message from templates.
    fn merge(&self, template: &'a MergeTemplate) -> Result<Made<'a>, RenderFault> {
        let limit = self.template.settings.output_limit;
        let mut merge = Merge::read(&template.programs, self.input.merge_json)?;
        merge.set(&template.programs, "email", self.recipient.as_str());
        let mut scratch = String::new();
        let url = match (&self.template.unsubscribe, &template.unsubscribe_url) {
            (Unsubscribe::None, _) => None,
            (_, Some(program)) => {
                template.programs.run(program, &merge, limit, &mut scratch)?;
                check_url(&scratch)?;
                Some(core::mem::take(&mut scratch))
            }
            (_, None) => self.template.managed_url(self.names),
        };
        if let Some(url) = &url {
            merge.set(&template.programs, "unsubscribe_url", url);
        }
        let mut run = |program: &Program| -> Result<String, RenderFault> {
            scratch.clear();
            template.programs.run(program, &merge, limit, &mut scratch)?;
            Ok(core::mem::take(&mut scratch))
        };
        let mut head = Headers::with_capacity(template.fixed.as_bytes().len() + 1_024);
        let fault = |part: &Part| {
            let part = part.clone();
            move |fault| RenderFault::Header { part, fault }
        };
        if !template.from_name.is_static() {
            let name = run(&template.from_name)?;
            let from = AddressField { name: &name, mailbox: &template.from };
            head.addresses("From", &[from]).map_err(fault(&Part::From))?;
        }
        let to_name = run(&template.to_name)?;
        head.addresses("To", &[AddressField { name: &to_name, mailbox: self.recipient }])
            .map_err(fault(&Part::ToName))?;
        let subject = run(&template.subject)?;
        head.text_in("Subject", &subject, template.subject_charset)
            .map_err(fault(&Part::Subject))?;
        for (name, program) in &template.headers {
            head.text(name, &run(program)?).map_err(fault(program.part()))?;
        }
        self.own_fields(&mut head, url.as_deref())?;
        head.append(&template.fixed);
        let mut body = Vec::with_capacity(template.body.size_hint());
        template.body.render(&template.programs, &merge, limit, &mut body)?;
        let eight_bit = template.eight_bit && !body.is_ascii();
        Ok((head.into_bytes(), body.into(), eight_bit))
    }

    /// Makes a message from a complete one.
    fn raw(&self, raw: &'a RawTemplate) -> Result<Made<'a>, RenderFault> {
        let mut head = Headers::with_capacity(raw.head.len() + 1_024);
        let header = |fault| RenderFault::Header { part: Part::Raw, fault };
        if raw.campaign {
            head.addresses("To", &[AddressField { name: "", mailbox: self.recipient }])
                .map_err(header)?;
            let url = match self.template.unsubscribe {
                Unsubscribe::None => None,
                _ => self.template.managed_url(self.names),
            };
            self.own_fields(&mut head, url.as_deref())?;
        } else {
            if !raw.has_date {
                head.tokens("Date", &date(self.input.now)).map_err(header)?;
            }
            if !raw.has_message_id {
                let id = message_id(self.names, &self.template.from_domain);
                head.tokens("Message-ID", &id).map_err(header)?;
            }
            self.number_field(&mut head)?;
            if !raw.has_feedback_id {
                self.feedback_field(&mut head)?;
            }
        }
        let mut head = head.into_bytes();
        head.extend_from_slice(&raw.head);
        Ok((head, std::borrow::Cow::Borrowed(&raw.body), raw.eight_bit))
    }

    /// Date, Message-ID and the fields of section "added to every message".
    fn own_fields(&self, head: &mut Headers, url: Option<&str>) -> Result<(), RenderFault> {
        let header = |fault| RenderFault::Header { part: Part::UnsubscribeUrl, fault };
        head.tokens("Date", &date(self.input.now)).map_err(header)?;
        head.tokens("Message-ID", &message_id(self.names, &self.template.from_domain))
            .map_err(header)?;
        self.number_field(head)?;
        self.feedback_field(head)?;
        let one_click = match &self.template.unsubscribe {
            Unsubscribe::None => return Ok(()),
            Unsubscribe::Managed => true,
            Unsubscribe::Own { one_click, .. } => *one_click,
        };
        let mut value = String::with_capacity(200);
        if let Some(url) = url {
            value.push('<');
            value.push_str(url);
            value.push_str(">, ");
        }
        value.push_str("<mailto:");
        match &self.template.settings.unsubscribe_mailto {
            Some(mailbox) => {
                push_escaped(mailbox, &mut value);
                value.push_str("?subject=unsubscribe%20");
                self.names.push(Purpose::Unsubscribe, &mut value);
                value.push('>');
            }
            None => {
                self.names.push(Purpose::Unsubscribe, &mut value);
                value.push('@');
                value.push_str(self.template.settings.return_path.domain().as_str());
                value.push_str("?subject=unsubscribe>");
            }
        }
        head.tokens("List-Unsubscribe", &value).map_err(header)?;
        if url.is_some() && one_click {
            head.tokens("List-Unsubscribe-Post", "List-Unsubscribe=One-Click").map_err(header)?;
        }
        Ok(())
    }

    fn number_field(&self, head: &mut Headers) -> Result<(), RenderFault> {
        head.tokens(MESSAGE_NUMBER_FIELD, &self.input.message_id.to_string())
            .map_err(|fault| RenderFault::Header { part: Part::Raw, fault })
    }

    /// `campaign:customer:mail-type:sender` (the form that Google and Orange read).
    fn feedback_field(&self, head: &mut Headers) -> Result<(), RenderFault> {
        let sender = &self.template.settings.feedback_sender;
        if sender.is_empty() {
            return Ok(());
        }
        let label = &self.template.feedback;
        let delivery = self.input.delivery.to_string();
        let campaign = if label.campaign.is_empty() { &delivery } else { &label.campaign };
        let value = [campaign, ":", &label.customer, ":", &label.mail_type, ":", sender].concat();
        head.tokens("Feedback-ID", &value)
            .map_err(|fault| RenderFault::Header { part: Part::FeedbackId, fault })
    }
}

impl MergeTemplate {
    fn compile(spec: &TemplateSpec, format: &FormatTreatment) -> Result<Self, TemplateFault> {
        let mut programs = Programs::new();
        let from = mailbox(&spec.from.address, Part::From)?;
        let from_name = programs.add(Part::From, &spec.from.name)?;
        let to_name = programs.add(Part::ToName, &spec.to_name)?;
        let subject = programs.add(Part::Subject, &spec.subject)?;
        let mut fixed = Headers::new();
        let fault = |part: Part| move |fault: HeaderFault| TemplateFault::whole(part, fault);
        if from_name.is_static() {
            let field = AddressField { name: &spec.from.name, mailbox: &from };
            fixed.addresses("From", &[field]).map_err(fault(Part::From))?;
        }
        if let Some(reply_to) = &spec.reply_to {
            let mailbox = mailbox(&reply_to.address, Part::ReplyTo)?;
            let field = AddressField { name: &reply_to.name, mailbox: &mailbox };
            fixed.addresses("Reply-To", &[field]).map_err(fault(Part::ReplyTo))?;
        }
        // What has no markers is tried once here, so that it fails now and not for each recipient.
        let mut trial = Headers::new();
        if subject.is_static() {
            trial.text("Subject", &spec.subject).map_err(fault(Part::Subject))?;
        }
        let mut headers = Vec::new();
        for HeaderSpec { name, value } in &spec.headers {
            let part = Part::Header(name.chars().take(80).collect());
            trial.text(name, "").map_err(fault(part.clone()))?;
            if spec::is_reserved(name) {
                let message = "this header field is written by mailweir or must not be set";
                return Err(TemplateFault::whole(part, message));
            }
            let twice = |other: &&HeaderSpec| other.name.eq_ignore_ascii_case(name);
            if spec.headers.iter().filter(twice).count() > 1 {
                return Err(TemplateFault::whole(part, "this header field is given twice"));
            }
            let program = programs.add(part.clone(), value)?;
            if program.is_static() {
                fixed.text(name, value).map_err(fault(part))?;
            } else {
                headers.push((name.clone(), program));
            }
        }
        let unsubscribe_url = match &spec.unsubscribe {
            Unsubscribe::Own { url, .. } => Some(programs.add(Part::UnsubscribeUrl, url)?),
            _ => None,
        };
        let body = Body::compile(spec, format, &mut programs, &mut fixed)?;
        let transfers = [format.html_transfer, format.text_transfer];
        Ok(Self {
            programs,
            from,
            from_name,
            to_name,
            subject,
            headers,
            unsubscribe_url,
            fixed,
            body,
            subject_charset: body::charset_of(format.subject_charset),
            eight_bit: transfers.contains(&Transfer::EightBit),
        })
    }

    /// Every templated text of the content.
    fn each_program(&self) -> impl Iterator<Item = &Program> {
        [&self.from_name, &self.to_name, &self.subject]
            .into_iter()
            .chain(self.headers.iter().map(|(_, program)| program))
            .chain(&self.unsubscribe_url)
            .chain(self.body.programs())
    }
}

/// An address as part of a mailto link (RFC 6068): everything that could end it is escaped.
fn push_escaped(address: &str, out: &mut String) {
    use core::fmt::Write as _;
    for octet in address.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~@".contains(&octet) {
            out.push(char::from(octet));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{octet:02X}");
        }
    }
}

/// Reads an address of a content.
fn mailbox(text: &str, part: Part) -> Result<Mailbox, TemplateFault> {
    Mailbox::parse(text.trim())
        .map_err(|fault| TemplateFault::whole(part, format!("invalid address {text:?}: {fault}")))
}

/// The domain of an address.
fn domain_of(mailbox: &Mailbox) -> Domain {
    Domain::parse(mailbox.domain()).expect("the domain of a mailbox is in normal form")
}

/// Checks the place that one-click links lead to.
fn check_unsubscribe_base(settings: &SenderSettings) -> Result<(), TemplateFault> {
    match settings.unsubscribe_base.as_deref() {
        Some(base) if check_url(base).is_err() => Err(TemplateFault::whole(
            Part::UnsubscribeUrl,
            format!("the unsubscribe base {base:?} is not an https URL of ASCII characters"),
        )),
        _ => Ok(()),
    }
}

/// RFC 8058 asks for https. Plain http is let through to loopback alone, for trials on one machine.
fn check_url(url: &str) -> Result<(), RenderFault> {
    let host = url.strip_prefix("https://").or_else(|| {
        let rest = url.strip_prefix("http://")?;
        let host = rest.split(['/', ':', '?', '#']).next()?;
        let loopback = host == "localhost"
            || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        loopback.then_some(rest)
    });
    let sound = host.is_some_and(|host| host.starts_with(|c: char| c.is_ascii_alphanumeric()))
        && url.len() <= 900
        && url.bytes().all(|octet| octet.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&octet));
    if sound {
        Ok(())
    } else {
        Err(RenderFault::UnsubscribeUrl { url: url.chars().take(80).collect() })
    }
}

/// Checks the parts of Feedback-ID: no colon, nothing but ASCII letters.
fn check_feedback(label: &FeedbackLabel, settings: &SenderSettings) -> Result<(), TemplateFault> {
    for part in [&label.campaign, &label.customer, &label.mail_type, &settings.feedback_sender] {
        let sound = part.len() <= 64
            && part.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet));
        if !sound {
            let message = format!(
                "{part:?} cannot be part of a Feedback-ID: use at most 64 letters, digits, - _ ."
            );
            return Err(TemplateFault::whole(Part::FeedbackId, message));
        }
    }
    Ok(())
}
