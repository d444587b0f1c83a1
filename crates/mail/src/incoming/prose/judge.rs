//! How an address stands in a text, and what that says about it.

use super::super::address::{self, Found};
use super::super::{RECIPIENTS_MAXIMUM, codes, signs};
use super::{
    ANSWERS, COMMANDS, Candidate, Known, LISTED, MENTIONED, NAMED, REFUSED, REPLIED, TOLD, said,
};

/// An address that led to another: no strength, but a mark for the address above it.
const ALIAS: u8 = u8::MAX;

/// Every address of the text with how it stands there.
pub fn candidates<'a>(lines: &[&'a str], known: Known<'_>) -> Vec<Candidate<'a>> {
    let mut out = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if memchr::memchr(b'@', line.as_bytes()).is_none() || line.len() > 4000 {
            continue;
        }
        let mut at = 0;
        let mut first = true;
        let mut on_line = 0;
        let mut before: Option<(u8, usize)> = None;
        while let Some(found) = address::next(line, at) {
            on_line += 1;
            if on_line > 200 || out.len() > 4 * RECIPIENTS_MAXIMUM {
                break;
            }
            at = found.end;
            let (strength, tail) = match before {
                // A list on one line: each stands as the first does.
                Some((strength, end))
                    if line[end..found.start].chars().all(|character| {
                        matches!(character, ' ' | '\t' | ',' | ';' | '<' | '>' | '"' | '\'')
                    }) =>
                {
                    (Some(strength), "")
                }
                _ => judge(lines, number, found, first),
            };
            first = false;
            let Some(strength) = strength else { continue };
            before = Some((strength, found.end));
            let address = &line[found.start..found.end];
            if strength == ALIAS {
                // It belongs to the address above, which it led to.
                match out.last_mut() {
                    Some(Candidate {
                        alias: alias @ None, line: above, strength: LISTED, ..
                    }) if *above + 4 > number => {
                        *alias = Some(address);
                    }
                    _ => out.push(Candidate {
                        address,
                        line: number,
                        strength: TOLD,
                        tail: "",
                        alias: None,
                    }),
                }
                continue;
            }
            let strength = discount(address, strength, known);
            out.push(Candidate { address, line: number, strength, tail, alias: None });
        }
    }
    out
}

/// Takes something off for addresses that seldom are recipients of ours.
fn discount(address: &str, strength: u8, known: Known<'_>) -> u8 {
    let local = address.split('@').next().unwrap_or_default();
    if address::is_service(address) {
        return strength.saturating_sub(2);
    }
    if known.sender.iter().any(|us| address::same(us, address)) {
        return if strength >= REPLIED { strength - 1 } else { MENTIONED };
    }
    let helper = [
        "help",
        "support",
        "helpdesk",
        "info",
        "noreply",
        "no-reply",
        "service",
        "admin",
        "webmaster",
        "feedback",
    ];
    if helper.iter().any(|known| local.eq_ignore_ascii_case(known)) {
        strength.saturating_sub(1)
    } else {
        strength
    }
}

/// Characters that may stand before an address at the beginning of a line.
const BULLETS: [char; 17] =
    [' ', '\t', '<', '"', '\'', '(', '*', '-', '>', '•', '·', '[', '`', '=', '|', '　', '\u{feff}'];

/// How an address stands in its line, and what of the line belongs to its reason. `None` where it is somebody else's for certain.
fn judge<'a>(lines: &[&'a str], number: usize, found: Found, first: bool) -> (Option<u8>, &'a str) {
    let line = lines[number];
    let before = &line[..found.start];
    let after = &line[found.end..];
    let lead = before.trim_matches(BULLETS);
    if first && lead.is_empty() {
        // The label may stand on the line above: `Message-ID:`, then what looks like an address.
        let foreign = number > 0
            && after.trim_matches(['>', ' ', '\t', '"']).is_empty()
            && label_above(lines[number - 1]).is_some_and(|label| judge_label(&label).is_none());
        if foreign {
            return (None, "");
        }
        return if continues_reason(lines, number) {
            (Some(TOLD), line)
        } else {
            judge_leading(before, after)
        };
    }
    let mut lower = String::with_capacity(before.len().min(200));
    let mut from = before.len().saturating_sub(200);
    while !before.is_char_boundary(from) {
        from += 1;
    }
    lower.extend(before[from..].chars().flat_map(char::to_lowercase));
    let spoken = lower.trim_end_matches([' ', '\t', '<', '"', '\'', '(', '[', '*', '`']);
    if lower.contains("rcpt to") {
        return (Some(judge_rcpt(lines, number)), line);
    }
    // An alias under the address it leads to.
    if ["expanded from", "generated from", "generated by", "originally", "forwarded from"]
        .iter()
        .any(|words| spoken.trim_end_matches([':', ' ']).ends_with(words))
    {
        return (Some(ALIAS), "");
    }
    if is_foreign(spoken) {
        return (None, "");
    }
    if let Some(label) = spoken.strip_suffix([':', '：', '=', '→']) {
        return (judge_label(label.trim()), line);
    }
    let opening = lead.trim_start_matches(['<', '>', ' ', '#', '\'', '"']);
    let digits = opening.as_bytes();
    if digits.len() >= 3
        && matches!(digits[0], b'4' | b'5')
        && digits[1].is_ascii_digit()
        && digits[2].is_ascii_digit()
    {
        // `554 <somebody>... 550 Host unknown`: the second is what the other host said.
        let inner = after.trim_start_matches(['>', '.', ' ']);
        let nested = after.trim_start_matches('>').starts_with("...")
            && codes::find(inner.get(..4).unwrap_or_default(), false).reply.is_some();
        return (Some(LISTED), if nested { inner } else { line });
    }
    let words = lead.split_whitespace().count();
    let rest = after.trim_start_matches(['>', '"', '\'', ')', ']', ' ', ';', ',']);
    let named = words <= 4
        && (rest.is_empty()
            || rest.starts_with([':', '('])
            || rest.starts_with("<mailto:")
            || rest.starts_with("on "))
        && before.trim_end().ends_with(['<', '(', ':']);
    if named && first && !spoken.ends_with([',', ';']) {
        if speaks_of_failure(lead) {
            return (Some(LISTED), line);
        }
        let tail = rest.strip_prefix(':').unwrap_or("");
        return (Some(REPLIED), tail);
    }
    if speaks_of_failure(line) || points_at(spoken) {
        return (Some(TOLD), line);
    }
    (Some(MENTIONED), "")
}

/// Lines above an address that are looked through for the recipient whose reason they continue.
const CONTINUED_MAXIMUM: usize = 8;

/// Whether an indented line that begins with an address is a part of the reason of the recipient above
/// it, and its address not one more recipient: of `<ann@example.com>: host said: 550-Verification
/// failed for`, then `    <news@example.net> 550 no such user`, only the first failed.
fn continues_reason(lines: &[&str], number: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let deep = indent(lines[number]);
    let mut above = lines[..number].iter().rev().take(CONTINUED_MAXIMUM);
    if deep == 0 || above.clone().next().is_some_and(|line| line.trim_end().ends_with([':', ','])) {
        return false;
    }
    let Some(start) = above.find(|line| indent(line) < deep || leading(line).is_some()) else {
        return false;
    };
    // A paragraph of its own, or an address in the same column, is another entry.
    let reason = leading(start).filter(|_| indent(start) < deep);
    reason.is_some_and(|rest| {
        rest.strip_prefix(':').is_some_and(|words| words.chars().any(char::is_alphabetic))
    })
}

/// What stands behind the address with which a line begins.
fn leading(line: &str) -> Option<&str> {
    let found = address::next(line, 0)?;
    let is_first = line[..found.start].trim_matches(BULLETS).is_empty();
    is_first.then(|| line[found.end..].trim_start_matches(['>', '"', '\'']))
}

/// The label that a line consists of, in lower case.
fn label_above(line: &str) -> Option<String> {
    let label = line.trim().strip_suffix([':', '：'])?;
    (label.len() <= 40).then(|| label.to_lowercase())
}

/// An address at the beginning of its line.
fn judge_leading<'a>(before: &str, after: &'a str) -> (Option<u8>, &'a str) {
    let mut rest = after.trim_start_matches(['>', '"', '\'', '*', '`']);
    if let Some(link) = rest
        .trim_start()
        .strip_prefix("<mailto:")
        .or_else(|| rest.trim_start().strip_prefix("[mailto:"))
    {
        rest = link.find(['>', ']']).map_or("", |end| &link[end + 1..]);
    }
    let trimmed = rest.trim_start();
    if trimmed.trim_end_matches([')', ']', ',', ';', ' ', '\t', '\r', '.']).is_empty() {
        return (Some(LISTED), "");
    }
    if is_dated(trimmed) {
        return (Some(LISTED), "");
    }
    if let Some(reason) = trimmed.strip_prefix([':', ';', ',', '|', '：']) {
        // A list on one line: what follows is the next address, no reason.
        let next = reason.split_whitespace().next().unwrap_or_default();
        let listed = trimmed.starts_with([',', ';']) && next.contains('@');
        return (Some(LISTED), if listed { "" } else { reason });
    }
    if trimmed.starts_with(['.', '…', '#', '[', '(', '-', '=', '–', '—']) || rest.starts_with('\t')
    {
        return (Some(LISTED), trimmed);
    }
    let codes = codes::find(trimmed, false);
    if codes.reply.is_some() || codes.status.is_some() || speaks_of_failure(trimmed) {
        return (Some(LISTED), trimmed);
    }
    // In brackets at the beginning of a line it is a heading even before plain words.
    (Some(if before.trim_end().ends_with('<') { REPLIED } else { NAMED }), trimmed)
}

/// Whether words after an address say when it failed: `on Thu, 29 Apr`, `am 29.04.`, `le 29/04`.
fn is_dated(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    word.chars().count() <= 4
        && word.chars().all(char::is_alphabetic)
        && text[word.len()..].bytes().take(24).any(|octet| octet.is_ascii_digit())
        && text.len() < 80
        && codes::find(text, false).reply.is_none()
}

/// An address in a `RCPT TO`: refused where the next answer is a refusal.
fn judge_rcpt(lines: &[&str], number: usize) -> u8 {
    for line in lines[number + 1..].iter().take(3) {
        let line = line.trim();
        if said(line, &COMMANDS).is_some() {
            return TOLD;
        }
        if let Some(answer) = said(line, &ANSWERS) {
            return match answer.as_bytes().first() {
                Some(b'4' | b'5') => REFUSED,
                Some(b'2') => MENTIONED,
                _ => TOLD,
            };
        }
    }
    TOLD
}

/// An address behind a label.
fn judge_label(label: &str) -> Option<u8> {
    const RECIPIENTS: &[&str] = &[
        "recipient",
        "rcpt",
        "addressed",
        "deliver",
        "fail",
        "address",
        "destin",
        "empf",
        "adress",
        "user",
        "mailbox",
        "account",
        "inbox",
        "reach",
        "reject",
        "bounce",
        "unknown",
        "invalid",
        "indirizz",
        "endere",
        "direcc",
        "mottag",
        "modtag",
        "ontvang",
        "vastaanott",
        "címzett",
        "příjemce",
        "odbiorc",
        "alıcı",
        "получател",
        "адрес",
        "одержувач",
        "宛",
        "送信先",
        "受信者",
        "メールアドレス",
        "收件",
        "받는",
        "수신",
        "full",
        "error",
        "not found",
        "message for",
        "mail for",
        "forward",
    ];
    const OTHERS: &[&str] = &[
        "from",
        "sender",
        "message-id",
        "messageid",
        "subject",
        "reply",
        "contact",
        "return-path",
        "von",
        "absender",
        "expéditeur",
        "remitente",
        "mittente",
        "отправитель",
        "差出人",
        "发件人",
        "help",
        "support",
        "cc",
        "postmaster",
        "admin",
        "queue-id",
        " id",
    ];
    let word = label.trim_start_matches(BULLETS);
    if OTHERS.iter().any(|known| word.ends_with(known) || word == *known)
        && !word.contains("recipient")
    {
        return None;
    }
    if matches!(
        word,
        "to" | "an" | "à" | "a" | "para" | "til" | "till" | "aan" | "do" | "komu" | "кому" | "per"
    ) {
        return Some(NAMED);
    }
    if RECIPIENTS.iter().any(|known| word.contains(known)) || speaks_of_failure(word) {
        return Some(LISTED);
    }
    Some(if word.len() <= 40 { NAMED } else { MENTIONED })
}

/// Whether the words before an address say that it is the sender, a helper or a name of a message.
fn is_foreign(spoken: &str) -> bool {
    const BEFORE: &[&str] = &[
        "mail from:",
        "mail from",
        "message-id:",
        "message-id",
        " from",
        "from:",
        "sender",
        "contact",
        "reply-to",
        "reply to",
        "write to",
        "mail to postmaster",
        "send mail to",
        "send a mail to",
        "send an email to",
        "send email to",
        "e-mail to our",
        "help from",
        "assistance",
        "questions to",
        "report to",
        "helo",
        "ehlo",
        " by",
        "return-path:",
        "envelope-from",
        "on behalf of",
        "id",
        "f=",
        "von",
        "kontakt",
        "absender",
        "de la part de",
        "administrator at",
        "administrator",
        "postmaster at",
        "please mail",
        "please e-mail",
        "please email",
        "forward this",
        "forwarded to",
        "email us at",
        "for help",
        "mailto",
    ];
    let word = spoken.trim_end_matches([':', ' ', '<']);
    word == "from"
        || word == "cc"
        || BEFORE.iter().any(|known| {
            spoken.ends_with(known) && {
                let start = spoken.len() - known.len();
                start == 0
                    || !spoken.as_bytes()[start - 1].is_ascii_alphanumeric()
                    || known.starts_with(' ')
            }
        })
}

/// Whether the words before an address lead to it: `to`, `user`, `for` and the like.
fn points_at(spoken: &str) -> bool {
    let word = spoken.rsplit([' ', '\t']).next().unwrap_or_default();
    matches!(
        word,
        "to" | "user"
            | "for"
            | "recipient"
            | "mailbox"
            | "account"
            | "address"
            | "an"
            | "für"
            | "empfänger"
            | "à"
            | "a"
            | "para"
            | "al"
            | "till"
            | "til"
            | "aan"
            | "voor"
    )
}

/// Whether a line has the words of a failure.
pub fn speaks_of_failure(line: &str) -> bool {
    signs::TEXTS.has(line, signs::Sign::Failure)
}
