//! Notices in JSON that a sending service mails about its deliveries (Amazon SES by SNS).

use serde_json::Value;

use super::MailKind;

/// What a notice says of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Bounce, delayed, feedback or delivered.
    pub kind: MailKind,
    /// The recipient.
    pub recipient: String,
    /// The diagnostic text.
    pub diagnostic: String,
    /// The status code as text, which may be empty.
    pub status: String,
    /// The type of feedback, which may be empty.
    pub feedback_type: String,
    /// The host that reports, which may be empty.
    pub reporting: String,
    /// When it happened.
    pub date: String,
    /// The Message-ID the service gave to the message.
    pub message_id: String,
}

/// Notices of one mail that are kept.
const NOTICES_MAXIMUM: usize = 200;

/// Reads the notices in a text that begins with a brace; none where it is something else.
#[must_use]
pub fn read(text: &str) -> Vec<Notice> {
    let first =
        |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok();
    // Old relays break long lines with `!`, a line end and a space.
    let joined = || text.replace("!\r\n ", "").replace("!\n ", "").replace(['\r', '\n'], "");
    let Some(mut value) = first(text).or_else(|| first(&joined())) else { return Vec::new() };
    // SNS wraps the notice as a string.
    if let Some(inner) = value.get("Message").and_then(Value::as_str)
        && let Ok(parsed) = serde_json::from_str(inner)
    {
        value = parsed;
    }
    let word = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let event = {
        let kind = word(&value, "notificationType");
        if kind.is_empty() { word(&value, "eventType") } else { kind }
    };
    let (kind, object, list) = match event.as_str() {
        "Bounce" => (MailKind::Bounce, "bounce", "bouncedRecipients"),
        "Complaint" => (MailKind::Feedback, "complaint", "complainedRecipients"),
        "Delivery" => (MailKind::Delivered, "delivery", "recipients"),
        "DeliveryDelay" => (MailKind::Delayed, "deliveryDelay", "delayedRecipients"),
        _ => return Vec::new(),
    };
    let Some(body) = value.get(object) else { return Vec::new() };
    let message_id = value
        .get("mail")
        .map(|mail| {
            mail.get("commonHeaders")
                .and_then(|headers| headers.get("messageId"))
                .or_else(|| mail.get("messageId"))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim_matches(['<', '>'])
                .to_owned()
        })
        .unwrap_or_default();
    let common = Notice {
        kind,
        recipient: String::new(),
        diagnostic: word(body, "smtpResponse"),
        status: String::new(),
        feedback_type: word(body, "complaintFeedbackType"),
        reporting: word(body, "reportingMTA"),
        date: word(body, "timestamp"),
        message_id,
    };
    let empty = Vec::new();
    let recipients = body.get(list).and_then(Value::as_array).unwrap_or(&empty);
    recipients
        .iter()
        .take(NOTICES_MAXIMUM)
        .map(|one| {
            let mut notice = common.clone();
            if let Some(address) = one.as_str() {
                address.clone_into(&mut notice.recipient);
            } else {
                notice.recipient = word(one, "emailAddress");
                notice.status = word(one, "status");
                let diagnostic = word(one, "diagnosticCode");
                if !diagnostic.is_empty() {
                    notice.diagnostic = diagnostic;
                } else if notice.diagnostic.is_empty() {
                    // Without the server's words, what the service made of them is all there is.
                    notice.diagnostic =
                        format!("{} {}", word(body, "bounceType"), word(body, "bounceSubType"))
                            .trim()
                            .to_owned();
                }
            }
            notice
        })
        .collect()
}
