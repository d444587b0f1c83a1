//! What providers say, each in its own way: the codes that are known of them, in our own sentences.
//!
//! [`Wording::text`] answers for every pair of wording and situation, so a mood never lacks words.
//! A text may have several lines, separated by `\n`, each beginning with the reply code and a blank;
//! [`render`] puts the hyphens of a multi-line reply (RFC 5321 section 4.2.1) and the line ends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose way of speaking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wording {
    /// A common open-source server.
    #[default]
    Generic,
    /// Gmail and Google Workspace.
    Google,
    /// Outlook.com and Microsoft 365.
    Microsoft,
    /// Yahoo and AOL.
    Yahoo,
    /// iCloud.
    Apple,
    /// Orange and Wanadoo.
    Orange,
    /// La Poste.
    LaPoste,
    /// GMX and WEB.DE.
    Gmx,
    /// Comcast.
    Comcast,
    /// QQ Mail.
    Tencent,
    /// NetEase (163, 126).
    Netease,
    /// Mail.ru.
    MailRu,
}

/// What a server may have to say besides the plain yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Situation {
    /// RCPT: there is no such mailbox.
    UnknownUser,
    /// RCPT: the mailbox is full.
    MailboxFull,
    /// RCPT: greylisted, come again.
    Greylisted,
    /// Greeting: too many connections of this source.
    TooManyConnections,
    /// MAIL: too many messages on this connection.
    TooManyMessages,
    /// MAIL: the hour of this source is used up.
    HourQuota,
    /// RCPT: a passing fault.
    Temporary,
    /// Greeting: this source is not welcome.
    GreetingRefused,
    /// MAIL: say STARTTLS first.
    TlsRequired,
    /// MAIL or after the dot: too large.
    TooLarge,
    /// RCPT: too many recipients of one message.
    TooManyRecipients,
    /// After the dot: refused for what it says or who sent it.
    ContentRefused,
    /// After the dot: taken.
    Accepted,
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownUser => "unknown_user",
            Self::MailboxFull => "mailbox_full",
            Self::Greylisted => "greylisted",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyMessages => "too_many_messages",
            Self::HourQuota => "hour_quota",
            Self::Temporary => "temporary",
            Self::GreetingRefused => "greeting_refused",
            Self::TlsRequired => "tls_required",
            Self::TooLarge => "too_large",
            Self::TooManyRecipients => "too_many_recipients",
            Self::ContentRefused => "content_refused",
            Self::Accepted => "accepted",
        })
    }
}

impl Wording {
    /// The text of this wording in this situation.
    #[must_use]
    pub const fn text(self, situation: Situation) -> &'static str {
        use Situation as S;
        match (self, situation) {
            (Self::Google, S::UnknownUser) => {
                "550 5.1.1 No mailbox of that name is kept here. Look for typing errors or\n550 5.1.1 stray blanks in the address. NoSuchUser lab - gsmtp"
            }
            (Self::Google, S::MailboxFull) => {
                "452 4.2.2 The recipient's storage is used up; ask for it to be cleared.\n452 4.2.2 OverQuotaTemp lab - gsmtp"
            }
            (Self::Google, S::HourQuota | S::TooManyConnections) => {
                "421 4.7.28 An unusual rate of mail comes from your address {source}.\n421 4.7.28 Mail from it is slowed for now to protect our users. lab - gsmtp"
            }
            (Self::Google, S::TlsRequired) => {
                "421 4.7.29 This mail did not come over a TLS connection, which we demand. lab - gsmtp"
            }
            (Self::Google, S::ContentRefused) => {
                "550 5.7.1 This message was found to be likely unsolicited mail and is blocked. lab - gsmtp"
            }
            (Self::Google, S::Temporary) => {
                "450 4.2.1 This mailbox gets mail faster than it may; please send later. lab - gsmtp"
            }
            (Self::Microsoft, S::UnknownUser) => {
                "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302)."
            }
            (Self::Microsoft, S::MailboxFull) => {
                "552 5.2.2 The mailbox of the recipient holds as much as it may. [LAB.PROD.OUTLOOK.COM]"
            }
            (Self::Microsoft, S::HourQuota) => {
                "451 4.7.650 The mail server [{source}] has been temporarily rate limited due to IP reputation (S775)."
            }
            (Self::Microsoft, S::TooManyConnections) => {
                "421 4.7.652 The mail server [{source}] holds too many connections to us."
            }
            (Self::Microsoft, S::TooManyMessages) => {
                "421 4.3.2 The maximum number of messages per connection has been reached."
            }
            (Self::Microsoft, S::Temporary) => {
                "451 4.7.500 Server busy. Please try again later from [{source}]."
            }
            (Self::Microsoft, S::ContentRefused) => {
                "550 5.7.1 Message from [{source}] not sent on: part of its network is listed here (S3150)."
            }
            (Self::Yahoo, S::UnknownUser) => {
                "554 30 Sorry, no account here bears that name - mailbox unavailable [lab]"
            }
            (Self::Yahoo, S::MailboxFull) => {
                "552 1 Requested mail action aborted, mailbox is over its quota [lab]"
            }
            (Self::Yahoo, S::HourQuota | S::Temporary) => {
                "421 4.7.0 [TSS04] Messages from {source} temporarily deferred due to volume or user complaints"
            }
            (Self::Yahoo, S::TooManyMessages) => "421 Max message per connection reached, closing",
            (Self::Yahoo, S::ContentRefused) => {
                "554 5.7.9 Message not accepted for policy reasons [lab]"
            }
            (Self::Apple, S::UnknownUser) => {
                "550 5.1.1 <{recipient}>: user does not exist at this service"
            }
            (Self::Apple, S::MailboxFull) => "552 5.2.2 <{recipient}>: user is over quota",
            (Self::Apple, S::HourQuota | S::Temporary) => {
                "451 4.7.1 [HCM1] Mail from {source} is put off for now"
            }
            (Self::Apple, S::ContentRefused) => "550 5.7.1 [CS01] Refused by local policy",
            (Self::Orange, S::UnknownUser) => {
                "550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]"
            }
            (Self::Orange, S::MailboxFull) => {
                "552 5.2.2 Boite du destinataire pleine. Mailbox full. OFR_417 [417]"
            }
            (Self::Orange, S::TooManyConnections) => {
                "421 4.7.0 Trop de connexions depuis {source}. Too many connections. OFR_104 [104]"
            }
            (Self::Orange, S::HourQuota | S::Temporary) => {
                "451 4.7.0 Service refuse pour le moment, revenez plus tard. Try later. OFR_999 [999]"
            }
            (Self::Orange, S::ContentRefused) => {
                "550 5.7.1 Message refuse pour son contenu. Message refused. OFR_506 [506]"
            }
            (Self::LaPoste, S::UnknownUser) => {
                "550 5.5.0 Boite du destinataire inconnue. Mailbox not found. LPN007_416"
            }
            (Self::LaPoste, S::MailboxFull) => {
                "552 5.2.2 Boite du destinataire pleine. Mailbox full. LPN007_417"
            }
            (Self::LaPoste, S::TooManyConnections) => {
                "421 4.7.0 Trop de connexions depuis {source}. Too many connections. LPN007_104"
            }
            (Self::LaPoste, S::ContentRefused) => {
                "550 5.7.1 Message refuse comme indesirable. Message refused. LPN007_517"
            }
            (Self::Gmx, S::UnknownUser) => {
                "550 Requested action not taken: mailbox unavailable\n550 Case lab.gmx.example/c?c=nomb"
            }
            (Self::Gmx, S::MailboxFull) => {
                "552 Requested mail action aborted: exceeded storage allocation\n552 Case lab.gmx.example/c?c=full"
            }
            (Self::Gmx, S::TooManyConnections) => {
                "421 gmx.net Service closing: Too many connections"
            }
            (Self::Gmx, S::HourQuota | S::Temporary) => {
                "450 Requested mail action not taken: mailbox unavailable\n450 Rate limit reached, case lab.gmx.example/c?c=rl"
            }
            (Self::Gmx, S::ContentRefused) => {
                "554 Transaction failed\n554 Reject due to policy violations, case lab.gmx.example/c?c=pv"
            }
            (Self::Comcast, S::UnknownUser) => {
                "550 5.1.1 Not our Customer: no account holds this address"
            }
            (Self::Comcast, S::MailboxFull) => "552 5.2.2 This customer's mailbox is over quota",
            (Self::Comcast, S::TooManyConnections) => {
                "421 4.7.0 resimta {source} RL000010 Too many sessions opened"
            }
            (Self::Comcast, S::HourQuota | S::Temporary) => {
                "421 4.7.0 resimta {source} RL000001 Throttled, try again later"
            }
            (Self::Tencent, S::UnknownUser) => "550 Mailbox not found. Check the address [lab]",
            (Self::Tencent, S::HourQuota) => "550 Ip frequency limited [lab]. Slow down.",
            (Self::Tencent, S::TooManyConnections | S::TooManyMessages) => {
                "421 Connection frequency limited [lab]"
            }
            (Self::Tencent, S::ContentRefused) => "550 Mail content denied [lab]",
            (Self::Netease, S::UnknownUser) => "550 User not found: {recipient}",
            (Self::Netease, S::MailboxFull) => "552 The recipient has no room left",
            (Self::Netease, S::HourQuota) => "550 RP:ORQ lab, your quota is used up",
            (Self::Netease, S::TooManyConnections) => "421 Too many connections, lab",
            (Self::Netease, S::ContentRefused) => "554 DT:SPM lab, taken for spam",
            (Self::MailRu, S::UnknownUser) => {
                "550 Message was not accepted -- invalid mailbox. Local mailbox {recipient} is unavailable: user not found"
            }
            (_, S::UnknownUser) => {
                "550 5.1.1 <{recipient}>: Recipient address rejected: User unknown"
            }
            (_, S::MailboxFull) => "452 4.2.2 <{recipient}>: Mailbox full",
            (_, S::Greylisted) => {
                "451 4.7.1 <{recipient}>: Recipient address rejected: Greylisted, please come again"
            }
            (_, S::TooManyConnections) => {
                "421 4.7.0 Too many connections from {source}, try again later"
            }
            (_, S::TooManyMessages) => "421 4.7.0 Too many messages on this connection, closing",
            (_, S::HourQuota) => {
                "421 4.7.0 Too many messages from {source} in this hour, try again later"
            }
            (_, S::Temporary) => "451 4.3.0 <{recipient}>: Temporary lookup failure",
            (_, S::GreetingRefused) => "554 5.7.1 No mail is taken from {source}",
            (_, S::TlsRequired) => "530 5.7.0 Must issue a STARTTLS command first",
            (_, S::TooLarge) => "552 5.3.4 Message size exceeds fixed limit",
            (_, S::TooManyRecipients) => "452 4.5.3 Too many recipients",
            (_, S::ContentRefused) => "550 5.7.1 Message content rejected",
            (_, S::Accepted) => "250 2.0.0 Ok: queued",
        }
    }
}

/// Appends `text` as it goes over the line: hyphens on all lines but the last, CRLF, names filled
/// in. Control characters of the recipient are not repeated. Returns the reply code.
pub(crate) fn render(text: &str, recipient: &[u8], source: &str, out: &mut Vec<u8>) -> u16 {
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let (code, rest) = line.split_at_checked(3).unwrap_or((line, ""));
        out.extend_from_slice(code.as_bytes());
        out.push(if lines.peek().is_some() { b'-' } else { b' ' });
        let mut rest = rest.get(1..).unwrap_or("");
        while let Some(at) = rest.find('{') {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{recipient}") {
                let shown = recipient.iter().take(256);
                out.extend(shown.map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }));
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{source}") {
                out.extend_from_slice(source.as_bytes());
                rest = after;
            } else {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    text.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_out_as_they_must() {
        let mut out = Vec::new();
        let code =
            render("550 5.1.1 a {recipient}\n550 b {source} {x}", b"j\ro@x", "127.0.0.2", &mut out);
        assert_eq!(code, 550);
        assert_eq!(String::from_utf8(out).unwrap(), "550-5.1.1 a j?o@x\r\n550 b 127.0.0.2 {x}\r\n");
    }

    #[test]
    fn known_codes_are_said() {
        use Situation as S;
        use Wording as W;
        for (wording, situation, part) in [
            (W::Google, S::UnknownUser, "550 5.1.1"),
            (W::Google, S::MailboxFull, "452 4.2.2"),
            (W::Google, S::HourQuota, "421 4.7.28"),
            (W::Microsoft, S::UnknownUser, "550 5.5.0"),
            (W::Yahoo, S::UnknownUser, "554 30"),
            (W::Yahoo, S::HourQuota, "[TSS04]"),
            (W::Tencent, S::HourQuota, "Ip frequency limited"),
            (W::Orange, S::UnknownUser, "_416"),
            (W::Generic, S::Greylisted, "451 4.7.1"),
        ] {
            assert!(wording.text(situation).contains(part), "{wording:?} {situation}");
        }
    }
}
