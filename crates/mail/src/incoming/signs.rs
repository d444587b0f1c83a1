//! Words and header fields that tell one kind of mail from another, in the languages we know.
//!
//! No single sign decides: an auto-reply is marked `auto-replied` by some servers and so are
//! bounces by others, and ordinary mail talks about bounces. The signs are counted by the
//! caller, and a bounce needs a sign of its sender as well as of its content.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::mime::Fields;

mod phrases;

/// What a phrase is a sign of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Mail was not delivered.
    Failure,
    /// Mail is late; the server goes on trying.
    Delay,
    /// Mail was delivered.
    Success,
    /// A machine answers for somebody who is away.
    AutoReply,
    /// The sender shall prove that he is a person.
    Challenge,
    /// Somebody wants no more mail.
    Unsubscribe,
    /// Somebody reports mail as unwanted.
    Complaint,
}

/// An automaton over phrases, each with what it is a sign of.
pub struct Phrases {
    automaton: AhoCorasick,
    signs: Vec<Sign>,
}

impl Phrases {
    /// From lists of phrases that are parted by `|`.
    fn new(lists: &[(Sign, &str)]) -> Self {
        let (mut phrases, mut signs) = (Vec::new(), Vec::new());
        for (sign, list) in lists {
            for phrase in list.split(['|', '\n']).map(str::trim).filter(|phrase| !phrase.is_empty())
            {
                phrases.push(phrase);
                signs.push(*sign);
            }
        }
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            // A table of some megabytes, twice as quick as the default.
            .kind(Some(AhoCorasickKind::DFA))
            .build(phrases)
            .expect("the phrases are few and short");
        Self { automaton, signs }
    }

    /// Every sign in `text`, which must be in lower case (see [`lower`]), with the place where it begins.
    pub fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Sign, usize)> + 'a {
        self.automaton
            .find_iter(text)
            .map(|found| (self.signs[found.pattern().as_usize()], found.start()))
    }

    /// The first sign in `text`.
    #[must_use]
    pub fn first(&self, text: &str) -> Option<(Sign, usize)> {
        self.find(text).next()
    }

    /// Whether there is a sign of that sort in `text`.
    #[must_use]
    pub fn has(&self, text: &str, sign: Sign) -> bool {
        self.find(text).any(|(found, _)| found == sign)
    }
}

/// A text in which phrases can be searched: in lower case where it is more than ASCII.
#[must_use]
pub fn lower(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) }
}

/// Phrases of subjects.
pub static SUBJECTS: LazyLock<Phrases> = LazyLock::new(|| {
    Phrases::new(&[
        (Sign::Failure, phrases::SUBJECT_FAILURE),
        (Sign::Delay, phrases::SUBJECT_DELAY),
        (Sign::Success, phrases::SUBJECT_SUCCESS),
        (Sign::AutoReply, phrases::SUBJECT_AUTO_REPLY),
        (Sign::Challenge, phrases::SUBJECT_CHALLENGE),
        (Sign::Unsubscribe, phrases::SUBJECT_UNSUBSCRIBE),
        (Sign::Complaint, phrases::SUBJECT_COMPLAINT),
    ])
});

/// Phrases of texts.
pub static TEXTS: LazyLock<Phrases> = LazyLock::new(|| {
    Phrases::new(&[
        (Sign::Failure, phrases::TEXT_FAILURE),
        (Sign::Delay, phrases::TEXT_DELAY),
        (Sign::Success, phrases::TEXT_SUCCESS),
        (Sign::AutoReply, phrases::TEXT_AUTO_REPLY),
        (Sign::Challenge, phrases::TEXT_CHALLENGE),
    ])
});

/// Whether an author's address is one that machines use and people seldom do.
#[must_use]
pub fn is_machine(address: &str) -> bool {
    const WORDS: [&str; 20] = [
        "noreply",
        "donotreply",
        "system",
        "admin",
        "server",
        "notif",
        "robot",
        "auto",
        "mms",
        "sms",
        "root",
        "mail",
        "smtp",
        "daemon",
        "bounce",
        "error",
        "return",
        "exchange",
        "gateway",
        "reply",
    ];
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    // `ismail` is a name; `mail-gate` and `automailer` are machines.
    local
        .split(|letter: char| !letter.is_alphabetic())
        .any(|part| WORDS.iter().any(|word| part.starts_with(word)))
}

/// What the header of a mail says about its sender and purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope {
    /// The return path is empty, or a daemon's.
    pub null_return: bool,
    /// The author is a mail system.
    pub daemon: bool,
    /// The author's address belongs to a mail system for certain (`MAILER-DAEMON`).
    pub mailer_daemon: bool,
    /// The mail came over a mailing list, or is a newsletter.
    pub list: bool,
    /// The header marks an auto-reply by itself.
    pub auto_reply: bool,
    /// The header marks the mail as made by a machine.
    pub automatic: bool,
    /// The header marks a request for confirmation.
    pub challenge: bool,
    /// The mail answers another one.
    pub answer: bool,
}

/// Names by which mail systems sign, in lower case; searched in the whole `From`.
const DAEMONS: &[&str] = &[
    "mailer-daemon",
    "mailer_daemon",
    "mailerdaemon",
    "maildaemon",
    "mail-daemon",
    "mailer daemon",
    "mail daemon",
    "mail delivery",
    "mail.delivery",
    "maildelivery",
    "mail-delivery",
    "delivery subsystem",
    "delivery system",
    "delivery service",
    "message delivery",
    "email delivery",
    "e-mail delivery",
    "system administrator",
    "systemadministrator",
    "system-administrator",
    "system attendant",
    "mail administrator",
    "mail system",
    "mailsystem",
    "mail-system",
    "internet mail connector",
    "exchange administrator",
    "microsoft outlook",
    "microsoft exchange",
    "content filter",
    "content-filter",
    "mail filter",
    "administrateur syst",
    "administrador del sistema",
    "administrador de sistema",
    "amministratore di sistema",
    "administrator systemu",
    "systemadministratör",
    "systembeheerder",
    "системный администратор",
    "systemadministrator",
    "bounce notif",
    "mmdf",
    "mdaemon",
    "mail deliver",
    "почтовая служба",
    "почтовый сервер",
    "служба доставки",
    "доставка почты",
    "邮件服务",
    "退信",
    "메일 시스템",
    "메일시스템",
    "pmdf",
    "uucp",
    "interconnect",
    "antispam gateway",
    "mail gateway",
    "email gateway",
    "mailgateway",
    "mailmarshal",
    "mail router",
    "mail server",
    "mailserver",
    "postmaster",
    "mailer@",
    "daemon@",
    "bounces@",
    "notification system",
    "delivery notification",
    "delivery-notification",
    "mail-notification",
    "message router",
    "smtp gateway",
    "smtp server",
    "smtp mail",
    "received-ses",
    "groupwise",
    "mailmaster",
    "mail_daemon",
    "post_master",
    "system admin",
    "sysadmin@",
    "mail notification",
    "smtpd",
    "returned mail",
    "系统退信",
    "邮件系统",
    "郵件系統",
    "postbote",
    "メール配信",
    "メールシステム",
];

static DAEMON: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(DAEMONS)
        .expect("the names are few and short")
});

/// Whether a name or an address is one by which mail systems sign.
#[must_use]
pub fn is_daemon(name: &str) -> bool {
    DAEMON.is_match(name)
}

impl Envelope {
    /// Reads the signs of a mail's header; `from` is its decoded `From`.
    #[must_use]
    pub fn read(fields: &Fields<'_>, from: &str) -> Self {
        let mut signs = Self { daemon: is_daemon(from), ..Self::default() };
        let lower =
            |value: &[u8]| value.iter().take(60).map(u8::to_ascii_lowercase).collect::<Vec<_>>();
        signs.mailer_daemon = from.len() >= 13
            && from
                .as_bytes()
                .windows(13)
                .any(|window| window.eq_ignore_ascii_case(b"mailer-daemon"));
        for (name, value) in fields.iter() {
            if name.len() < 4 {
                continue;
            }
            match name[0] | 0x20 {
                b'r' if name.eq_ignore_ascii_case(b"return-path") => {
                    let path = lower(value);
                    signs.null_return |= path.is_empty()
                        || path.starts_with(b"<>")
                        || memchr::memmem::find(&path, b"mailer-daemon").is_some();
                }
                b'r' if name.eq_ignore_ascii_case(b"references") => signs.answer = true,
                b'i' if name.eq_ignore_ascii_case(b"in-reply-to") => signs.answer = true,
                b'l' if name.len() > 5 && name[..5].eq_ignore_ascii_case(b"list-") => {
                    signs.list = true
                }
                b'm' if name.eq_ignore_ascii_case(b"mailing-list") => signs.list = true,
                b'a' if name.eq_ignore_ascii_case(b"auto-submitted") => {
                    let value = lower(value);
                    signs.auto_reply |= value.starts_with(b"auto-replied")
                        || memchr::memmem::find(&value, b"vacation").is_some();
                    signs.automatic |= !value.starts_with(b"no");
                }
                b'p' if name.eq_ignore_ascii_case(b"precedence") => {
                    let value = lower(value);
                    signs.auto_reply |= value.starts_with(b"auto");
                    signs.automatic |= value.starts_with(b"junk") || value.starts_with(b"bulk");
                    signs.list |= value.starts_with(b"list");
                }
                b'd' if name.eq_ignore_ascii_case(b"delivered-to") => {
                    signs.auto_reply |= lower(value).starts_with(b"autoresponder");
                }
                b'x' => signs.read_extension(name, &lower(value)),
                _ => {}
            }
        }
        signs
    }

    /// Reads a field whose name begins with `X`.
    fn read_extension(&mut self, name: &[u8], value: &[u8]) {
        const AUTO_REPLY: [&[u8]; 12] = [
            b"x-autoreply",
            b"x-autoreply-from",
            b"x-autorespond",
            b"x-autoresponder",
            b"x-auto-responder",
            b"x-mail-autoreply",
            b"x-autoresponse",
            b"x-vacation",
            b"x-ooo",
            b"x-auto-reply",
            b"x-auto-reply-from",
            b"x-fc-machinegenerated",
        ];
        const CHALLENGE: [&[u8]; 8] = [
            b"x-tmda",
            b"x-ask-",
            b"x-qconfirm",
            b"x-mailinblack",
            b"x-choicemail",
            b"x-boxbe",
            b"x-spamarrest",
            b"x-sa-challenge",
        ];
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if AUTO_REPLY.iter().any(|known| is(known)) {
            self.auto_reply |= !value.starts_with(b"no");
        } else if is(b"x-precedence") {
            self.auto_reply |= value.starts_with(b"auto");
        } else if is(b"x-auto-response-suppress") || is(b"x-autogenerated") {
            self.automatic = true;
        } else if is(b"x-list") || is(b"x-mailman-version") || is(b"x-ml-name") {
            self.list = true;
        } else if CHALLENGE.iter().any(|known| {
            name.len() >= known.len() && name[..known.len()].eq_ignore_ascii_case(known)
        }) {
            self.challenge = true;
        }
    }
}
