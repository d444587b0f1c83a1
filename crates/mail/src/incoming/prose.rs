//! Bounces as people read them: which addresses failed, and the words that say why.
//!
//! There are hundreds of wordings and a few structures. This reader knows the structures: an
//! address on its own line with the reason below, `<address>: reason`, `Recipient: address`, a
//! sentence with the address in it, the transcript of a session. Every address in the text is judged by
//! what stands around it; the best judged are the recipients, and the text from each to the next is its reason.

use super::address::{self, Found};
use super::codes;
use super::mime;
use super::{Limit, RECIPIENTS_MAXIMUM};

/// Lines of a text that are looked at.
const LINES_MAXIMUM: usize = 4000;
/// Octets of a reason.
const REASON_MAXIMUM: usize = 1500;

/// Recipients of one text whose reasons are completed from elsewhere in it.
const COMPLETED_MAXIMUM: usize = 50;
/// The marks of the other side's answers in transcripts.
const ANSWERS: [&str; 3] = ["<<<", "<--", "<="];

/// Nothing speaks for the address.
const MENTIONED: u8 = 0;
/// It stands behind `To:` or the like.
const NAMED: u8 = 1;
/// It stands in a sentence about a failure, or in a `RCPT TO`.
const TOLD: u8 = 2;
/// It stands behind a reply code, or with a name on its own line.
const REPLIED: u8 = 3;
/// It stands at the beginning of a line, alone or before its reason, or behind a label.
const LISTED: u8 = 4;
/// Its `RCPT TO` was answered with a refusal.
const REFUSED: u8 = 5;

/// A recipient found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The address as it stands there.
    pub address: String,
    /// The words that belong to it, in one line; the whole section where none is nearer.
    pub reason: String,
    /// How surely this is a failed recipient: 0 to 5.
    pub strength: u8,
}

/// A text in its two halves.
#[derive(Clone, Copy, Debug)]
pub struct Halves<'a> {
    /// What the server says.
    pub report: &'a str,
    /// The message it returns, from its header on; empty where none is in the text.
    pub returned: &'a str,
}

/// Words in a line of dashes, or before a colon, that introduce the returned message.
const RETURNS: &[&str] = &[
    "original message",
    "original mail",
    "copy of the message",
    "copy of your message",
    "copy of the original",
    "unsent message",
    "returned message",
    "returned mail follows",
    "message header",
    "header of the",
    "headers of the",
    "message text follows",
    "message follows",
    "mail follows",
    "beginning of message",
    "below this line",
    "original headers",
    "original text",
    "undelivered message",
    "undeliverable message",
    "rejected message",
    "failed message",
    "message contents follow",
    "message contents",
    "message body",
    "first part of",
    "start of returned",
    "start of message",
    "start of included",
    "beginning of original",
    "ursprüngliche nachricht",
    "originalnachricht",
    "kopie der nachricht",
    "header der",
    "kopfzeilen der",
    "message d'origine",
    "message original",
    "en-têtes",
    "copie du message",
    "mensaje original",
    "encabezados",
    "messaggio originale",
    "intestazioni originali",
    "mensagem original",
    "oorspronkelijk",
    "original meddelande",
    "oryginal",
    "исходное сообщение",
    "исходного сообщения",
    "исходное письмо",
    "оригинальное сообщение",
    "元のメール",
    "元のメッセージ",
    "原メッセージ",
    "オリジナル",
    "原邮件",
    "原始邮件",
    "原始郵件",
    "원본 메",
    "원래 메",
];

/// Fields that only a message's own header has.
const HEADER_ONLY: &[&str] = &[
    "received",
    "return-path",
    "dkim-signature",
    "x-received",
    "arc-seal",
    "mime-version",
    "delivered-to",
    "x-google-smtp-source",
    "x-google-dkim-signature",
    "x-originating-ip",
    "authentication-results",
    "received-spf",
    "content-type",
    "content-transfer-encoding",
    "domainkey-signature",
    "x-mailer",
    "x-apparently-to",
    "x-apparently-from",
    "errors-to",
    "resent-from",
    "x-originalarrivaltime",
    "x-authentication-warning",
    "arc-message-signature",
];

/// Parts a text where the returned message begins.
#[must_use]
pub fn halves(text: &str) -> Halves<'_> {
    let mut at = 0;
    let mut lines = 0;
    while at < text.len() && lines < LINES_MAXIMUM {
        let stop =
            memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |end| at + end + 1);
        let line = text[at..stop].trim();
        if !line.is_empty() {
            if introduces(line) {
                let returned =
                    header_start(&text[stop..]).map_or("", |start| &text[stop + start..]);
                // A heading before the report itself introduces nothing.
                if !returned.is_empty()
                    || line.starts_with(['-', '=', '*', '_'])
                    || text[stop..].trim().len() < 40
                {
                    return Halves { report: &text[..at], returned };
                }
            }
            if is_header_line(line) && follows_header(&text[stop..]) {
                let start = paragraph_start(text, at);
                return Halves { report: &text[..start], returned: &text[start..] };
            }
        }
        at = stop;
        lines += 1;
    }
    Halves { report: text, returned: "" }
}

/// Whether a line announces the returned message.
fn introduces(line: &str) -> bool {
    if line.len() > 120 {
        return false;
    }
    let ruled = ["--", "==", "**", "__", "|-"].iter().any(|rule| line.starts_with(rule));
    let ends = line.ends_with([':', '：']) || ends_with_follows(line);
    (ruled || ends) && {
        let lower = line.to_lowercase();
        RETURNS.iter().any(|words| lower.contains(words))
    }
}

/// Whether a line ends with `follows` or `following`, with a point or not.
fn ends_with_follows(line: &str) -> bool {
    let line = line.trim_end_matches(['.', '-', ' ', '*', '=']);
    ["follows", "follow", "following", "folgt", "attached", "below"].iter().any(|word| {
        line.len() >= word.len()
            && line.is_char_boundary(line.len() - word.len())
            && line[line.len() - word.len()..].eq_ignore_ascii_case(word)
    })
}

/// Whether a line is one of a message's own header and can hardly be anything else.
fn is_header_line(line: &str) -> bool {
    let Some(colon) = line.as_bytes().iter().take(40).position(|octet| *octet == b':') else {
        return false;
    };
    let name = &line[..colon];
    HEADER_ONLY.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether text goes on as a header does: with another field or a folded line.
fn follows_header(text: &str) -> bool {
    let mut lines = text.lines();
    let Some(line) = lines.next() else { return true };
    line.trim().is_empty()
        || line.starts_with([' ', '\t'])
        || mime::field_name(line.trim_start().as_bytes()).is_some()
}

/// Where the block of fields begins that the line at `at` belongs to.
fn paragraph_start(text: &str, at: usize) -> usize {
    let mut start = at;
    while start > 0 {
        let before = &text[..start - 1];
        let line = memchr::memrchr(b'\n', before.as_bytes()).map_or(0, |end| end + 1);
        let candidate = &text[line..start];
        if candidate.trim().is_empty() || mime::field_name(candidate.as_bytes()).is_none() {
            break;
        }
        start = line;
    }
    start
}

/// Where a header begins within the next lines.
fn header_start(text: &str) -> Option<usize> {
    let mut at = 0;
    for _ in 0..12 {
        let line = text[at..].split_inclusive('\n').next()?;
        let trimmed = line.trim_start();
        let ruled = trimmed.starts_with(['-', '=', '*', '|']);
        if !ruled && mime::field_name(trimmed.as_bytes()).is_some() && !trimmed.starts_with("http")
        {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// What the reader knows beside the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// To whom the bounce came: our side, hardly the one who failed.
    pub sender: &'a [String],
    /// The recipients the header names (`X-Failed-Recipients`).
    pub failed: &'a [String],
}

struct Candidate<'a> {
    address: &'a str,
    line: usize,
    strength: u8,
    /// What stands on the same line and belongs to the reason.
    tail: &'a str,
}

/// The recipients of a bounce's text, in their order; the text is the report's half.
pub fn recipients(text: &str, known: Known<'_>, limits: &mut Vec<Limit>) -> Vec<Recipient> {
    let lines: Vec<&str> = text.lines().take(LINES_MAXIMUM).collect();
    let mut candidates = candidates(&lines, known);
    if !known.failed.is_empty() {
        return of_header(&lines, &candidates, known.failed);
    }
    let best = candidates.iter().map(|one| one.strength).max().unwrap_or(MENTIONED);
    let least = best.min(LISTED);
    candidates.retain(|one| one.strength >= least);
    if least == MENTIONED {
        // Something that is only mentioned may be anybody, unless it is the only one.
        candidates.dedup_by(|one, other| address::same(one.address, other.address));
        candidates.retain(|one| {
            !address::is_service(one.address)
                && !known.sender.iter().any(|us| address::same(us, one.address))
        });
        if candidates.len() != 1 {
            return Vec::new();
        }
    }
    let stops: Vec<usize> = candidates.iter().map(|one| one.line).collect();
    let mut found: Vec<Recipient> = Vec::with_capacity(candidates.len().min(64));
    let mut index = std::collections::HashMap::new();
    let alone = candidates.iter().all(|one| address::same(one.address, candidates[0].address));
    for (at, one) in candidates.iter().enumerate() {
        let next =
            stops[at + 1..].iter().copied().find(|line| *line > one.line).unwrap_or(lines.len());
        let reason = reason(&lines, one, next);
        let key =
            if candidates.len() > 1 { one.address.to_ascii_lowercase() } else { String::new() };
        if let Some(place) = index.get(&key) {
            let entry: &mut Recipient = &mut found[*place];
            merge(&mut entry.reason, &reason);
            continue;
        }
        if found.len() == RECIPIENTS_MAXIMUM {
            Limit::Recipients.note(limits);
            break;
        }
        index.insert(key, found.len());
        found.push(Recipient { address: one.address.to_owned(), reason, strength: one.strength });
    }
    complete(&lines, &mut found, alone);
    found
}

/// The recipients that the header names, each with its words.
fn of_header(lines: &[&str], candidates: &[Candidate<'_>], failed: &[String]) -> Vec<Recipient> {
    let mut found = Vec::with_capacity(failed.len());
    for address in failed {
        let mut words = String::new();
        for (at, one) in candidates
            .iter()
            .enumerate()
            .filter(|(_, one)| one.strength >= TOLD && address::same(one.address, address))
        {
            let next = candidates[at + 1..]
                .iter()
                .find(|other| {
                    other.line > one.line
                        && other.strength >= LISTED
                        && failed
                            .iter()
                            .any(|other_failed| address::same(other_failed, other.address))
                })
                .map_or(lines.len(), |other| other.line);
            merge(&mut words, &reason(lines, one, next));
        }
        found.push(Recipient { address: address.clone(), reason: words, strength: REFUSED });
    }
    let alone = found.len() == 1;
    complete(lines, &mut found, alone);
    found
}

/// Adds to each reason what it lacks: the transcript's reply, or the whole text.
fn complete(lines: &[&str], found: &mut [Recipient], alone: bool) {
    // Several addresses on lines of their own share the reason below the last.
    for at in (1..found.len()).rev() {
        if letters(&found[at - 1].reason) < 4 && letters(&found[at].reason) >= 4 {
            found[at - 1].reason = found[at].reason.clone();
        }
    }
    let spoken = lines.iter().any(|line| said(line.trim(), &ANSWERS).is_some());
    // Each looks through every line, so a long list has to do without.
    for one in found.iter_mut().take(COMPLETED_MAXIMUM) {
        if spoken {
            // What the remote server said stands before what ours made of it.
            let remote = transcript(lines, &one.address, alone, true);
            if has_codes(&remote) && !one.reason.starts_with(&remote) {
                one.reason.insert(0, ' ');
                one.reason.insert_str(0, &remote);
            }
        }
        if !has_codes(&one.reason) {
            let mut more = transcript(lines, &one.address, alone, false);
            if more.is_empty() && alone {
                more = coded_paragraph(lines);
            }
            merge(&mut one.reason, &more);
        }
        if alone && letters(&one.reason) < 4 {
            one.reason = squeeze(lines.iter().copied());
        }
    }
}

/// What a server said in a transcript about an address, or about any where it is `alone`; else the
/// first paragraph with a code. Empty where nothing was said.
#[must_use]
pub fn said_about(text: &str, address: &str, alone: bool) -> String {
    let lines: Vec<&str> = text.lines().take(LINES_MAXIMUM).collect();
    for remote in [true, false] {
        let said = transcript(&lines, address, alone, remote);
        if has_codes(&said) {
            return said;
        }
    }
    if alone { coded_paragraph(&lines) } else { String::new() }
}

/// Appends text that is not there yet.
fn merge(reason: &mut String, more: &str) {
    if more.is_empty() || reason.contains(more) || reason.len() > REASON_MAXIMUM {
        return;
    }
    if !reason.is_empty() {
        reason.push(' ');
    }
    reason.push_str(more);
}

/// How many letters are in a text; numbers and signs give no reason.
fn letters(text: &str) -> usize {
    text.chars().filter(|character| character.is_alphabetic()).count()
}

/// Lines in one, blanks and rules left out, at most [`REASON_MAXIMUM`].
fn squeeze<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for line in lines {
        let line = line.trim();
        if line.is_empty() || is_rule(line) {
            continue;
        }
        push_words(&mut out, line);
        if out.len() > REASON_MAXIMUM {
            break;
        }
    }
    out
}

/// Appends a line's words after a space, NULs and other controls left out.
fn push_words(out: &mut String, line: &str) {
    if !out.is_empty() {
        out.push(' ');
    }
    let mut end = line.len().min(REASON_MAXIMUM);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    out.extend(
        line[..end].chars().filter(|character| !character.is_control() || *character == '\t'),
    );
}

/// Whether a line is only a rule of dashes or the like.
fn is_rule(line: &str) -> bool {
    line.bytes().all(|octet| {
        matches!(octet, b'-' | b'=' | b'*' | b'_' | b' ' | b'.' | b'|' | b'+' | b'#' | b'~')
    })
}

/// The words that belong to a candidate: from its line to `next`, at most one paragraph that says something.
fn reason(lines: &[&str], one: &Candidate<'_>, next: usize) -> String {
    let mut out = String::new();
    let tail = one.tail.trim();
    if !tail.is_empty() {
        push_words(&mut out, tail);
    }
    for line in &lines[(one.line + 1).min(next)..next] {
        let line = line.trim();
        if out.len() > REASON_MAXIMUM {
            break;
        }
        if line.is_empty() || is_rule(line) || is_heading(line) {
            if letters(&out) >= 8 {
                break;
            }
            continue;
        }
        push_words(&mut out, line);
    }
    let silent = letters(&out) < 4;
    if silent || !has_codes(&out) && !speaks_of_failure(&out) {
        // The reason may stand before the address.
        let before = paragraph_before(lines, one.line);
        // A heading over a list is no reason: `The following addresses failed:`.
        // And what names another address is that one's.
        if !before.is_empty()
            && !before.ends_with(':')
            && !before.contains('@')
            && (silent || speaks_of_failure(&before))
        {
            if !out.is_empty() {
                out.insert(0, ' ');
            }
            out.insert_str(0, &before);
        }
    }
    out
}

/// Whether a text holds a reply or status code.
fn has_codes(text: &str) -> bool {
    let codes = codes::find(text, false);
    codes.reply.is_some() || codes.status.is_some()
}

/// The paragraph that ends before a line, in one line.
fn paragraph_before(lines: &[&str], line: usize) -> String {
    let Some(last) = lines[..line].iter().rposition(|line| !line.trim().is_empty()) else {
        return String::new();
    };
    let first =
        lines[..last].iter().rposition(|line| line.trim().is_empty()).map_or(0, |blank| blank + 1);
    squeeze(lines[first..=last].iter().copied().filter(|line| !is_heading(line.trim())))
}

/// Whether a line is a heading within rules: `--- Transcript of session follows ---`.
fn is_heading(line: &str) -> bool {
    line.len() > 8
        && (line.starts_with("---") || line.starts_with("===") || line.starts_with("***"))
        && line.ends_with(['-', '=', '*'])
}

/// The lines of a session's transcript that answer for an address: refusals that name it, or every refusal where it is alone.
/// With `remote` only what the other server said, not what ours made of it.
fn transcript(lines: &[&str], wanted: &str, alone: bool, remote: bool) -> String {
    let mut out = String::new();
    let mut asked = false;
    for line in lines {
        let trimmed = line.trim();
        if let Some(command) = said(trimmed, &[">>>", "-->", "=>"]) {
            asked = contains(command, wanted);
            continue;
        }
        let given = said(trimmed, &ANSWERS);
        let answer = given.unwrap_or(trimmed);
        let digits = answer.as_bytes();
        let coded = digits.len() > 3
            && matches!(digits[0], b'4' | b'5')
            && digits[1..3].iter().all(u8::is_ascii_digit)
            && matches!(digits[3], b' ' | b'-');
        let coded = coded || answer.contains("said: 4") || answer.contains("said: 5");
        if remote && given.is_none() {
            continue;
        }
        let success = given.is_some() && matches!(digits.first(), Some(b'2' | b'3'));
        if (coded || given.is_some() && !success)
            && (alone || asked || contains(answer, wanted))
            && out.len() < REASON_MAXIMUM
        {
            push_words(&mut out, answer);
        }
    }
    out
}

/// What stands behind the first of the marks that show who speaks in a transcript; time stamps and
/// `Sent` or `Received` may stand before it.
fn said<'a>(line: &'a str, marks: &[&str]) -> Option<&'a str> {
    let mut end = line.len().min(60);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let head = &line[..end];
    let at = marks.iter().filter_map(|mark| head.find(mark).map(|at| (at, mark.len()))).min()?;
    // An arrow within an angle bracket's text is punctuation.
    let before = &head[..at.0];
    if before.contains(['@', '<']) { None } else { Some(line[at.0 + at.1..].trim_start()) }
}

/// The first paragraph that holds a reply or status code.
fn coded_paragraph(lines: &[&str]) -> String {
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let text = squeeze(paragraph.iter().copied());
        if has_codes(&text) {
            return text;
        }
    }
    String::new()
}

/// Whether `line` holds `word`, in any case.
fn contains(line: &str, word: &str) -> bool {
    line.len() >= word.len()
        && line
            .as_bytes()
            .windows(word.len().max(1))
            .any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Every address of the text with how it stands there.
fn candidates<'a>(lines: &[&'a str], known: Known<'_>) -> Vec<Candidate<'a>> {
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
            let strength = discount(address, strength, known);
            out.push(Candidate { address, line: number, strength, tail });
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
        return judge_leading(before, after);
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
        return (Some(TOLD), "");
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
        return (Some(LISTED), line);
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
        let tail = rest.strip_prefix(':').unwrap_or("");
        return (Some(REPLIED), tail);
    }
    if speaks_of_failure(line) || points_at(spoken) {
        return (Some(TOLD), line);
    }
    (Some(MENTIONED), "")
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
        return (Some(LISTED), reason);
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
        if said(line, &[">>>", "-->"]).is_some() {
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
fn speaks_of_failure(line: &str) -> bool {
    super::signs::TEXTS.has(line, super::signs::Sign::Failure)
}
