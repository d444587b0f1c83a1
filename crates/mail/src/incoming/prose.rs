//! Bounces as people read them: which addresses failed, and the words that say why.
//!
//! There are hundreds of wordings and a few structures. This reader knows the structures: an
//! address on its own line with the reason below, `<address>: reason`, `Recipient: address`, a
//! sentence with the address in it, the transcript of a session. Every address in the text is judged by
//! what stands around it; the best judged are the recipients, and the text from each to the next is its reason.

use super::{Limit, RECIPIENTS_MAXIMUM, address, codes};

mod halves;
mod judge;

pub use halves::{Halves, halves};

use judge::{candidates, speaks_of_failure};

/// Lines of a text that are looked at.
const LINES_MAXIMUM: usize = 4000;
/// Lines of one paragraph before an address that are looked at.
const PARAGRAPH_MAXIMUM: usize = 40;
/// Octets of a reason.
const REASON_MAXIMUM: usize = 1500;

/// Recipients of one text whose reasons are completed from elsewhere in it.
const COMPLETED_MAXIMUM: usize = 50;
/// Octets after the sentence that names the recipient that are taken as reason too.
const SENTENCES_MAXIMUM: usize = 400;
/// The marks of our side's commands in transcripts.
const COMMANDS: [&str; 3] = [">>>", "-->", "=>"];
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
    /// The address that led to this one: to it the mail was sent.
    alias: Option<&'a str>,
}

impl<'a> Candidate<'a> {
    /// The address that the mail was sent to, as far as it is known.
    fn sent_to(&self) -> &'a str {
        self.alias.unwrap_or(self.address)
    }
}

/// The recipients of a bounce's text, in their order; the text is the report's half.
pub fn recipients(text: &str, known: Known<'_>, limits: &mut Vec<Limit>) -> Vec<Recipient> {
    let lines: Vec<&str> = text.lines().take(LINES_MAXIMUM).collect();
    let mut candidates = candidates(&lines, known);
    if !known.failed.is_empty() && !contradicts(&candidates, known.failed) {
        return of_header(&lines, &candidates, known.failed);
    }
    let best = candidates.iter().map(|one| one.strength).max().unwrap_or(MENTIONED);
    let least = best.min(LISTED);
    let others = single_address(&candidates, least);
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
            if candidates.len() > 1 { one.sent_to().to_ascii_lowercase() } else { String::new() };
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
        found.push(Recipient { address: one.sent_to().to_owned(), reason, strength: one.strength });
    }
    if let [only] = &mut *found {
        for line in others {
            merge(&mut only.reason, &squeeze([line].into_iter()));
        }
    }
    complete(&lines, &mut found, alone);
    found
}

/// The lines with codes in which the one recipient stands less prominently than where it is listed:
/// `550 5.1.1 Recipient ann@example.com not found`. None where there are several recipients.
fn single_address<'a>(candidates: &[Candidate<'a>], least: u8) -> Vec<&'a str> {
    let mut prominent = candidates.iter().filter(|one| one.strength >= least);
    let Some(first) = prominent.next() else { return Vec::new() };
    if candidates.len() > 20 || !prominent.all(|one| address::same(one.address, first.address)) {
        return Vec::new();
    }
    let weaker = |one: &&Candidate<'a>| {
        (TOLD..least).contains(&one.strength)
            && address::same(one.address, first.address)
            && has_codes(one.tail)
    };
    candidates.iter().filter(weaker).map(|one| one.tail).collect()
}

/// Recipients named by their local parts alone, each on an indented line below one that ends with
/// a colon, or behind `User` or the like: addresses at `domain`.
#[must_use]
pub fn local_recipients(text: &str, domain: &str) -> Vec<Recipient> {
    let lines: Vec<&str> = text.lines().take(LINES_MAXIMUM).collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let word = line.trim();
        let named = line.starts_with([' ', '\t'])
            && (2..=64).contains(&word.len())
            && word.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-+".contains(&octet))
            && word.bytes().any(|octet| octet.is_ascii_lowercase());
        let above =
            lines[..number].iter().rev().map(|line| line.trim_end()).find(|line| !line.is_empty());
        if named
            && above.is_some_and(|above| above.ends_with(':'))
            && found.len() < COMPLETED_MAXIMUM
        {
            let reason = paragraph_before(&lines, number);
            found.push(Recipient { address: format!("{word}@{domain}"), reason, strength: NAMED });
        }
    }
    if let [only] = &mut *found {
        // Of one alone the whole text speaks.
        only.reason = squeeze(lines.iter().copied());
    }
    found
}

/// Whether the text lists as many recipients as the header names, and they are others: the header then
/// holds what an address was rewritten to, and the text what we wrote.
fn contradicts(candidates: &[Candidate<'_>], failed: &[String]) -> bool {
    let mut listed: Vec<&str> = Vec::new();
    for one in candidates {
        let is_known = failed.iter().any(|known| {
            address::same(known, one.address)
                || one.alias.is_some_and(|alias| address::same(known, alias))
        });
        if is_known || listed.len() > failed.len() {
            return false;
        }
        if one.strength >= LISTED && !listed.iter().any(|known| address::same(known, one.address)) {
            listed.push(one.address);
        }
    }
    listed.len() == failed.len()
}

/// The recipients that the header names, each with its words.
fn of_header(lines: &[&str], candidates: &[Candidate<'_>], failed: &[String]) -> Vec<Recipient> {
    let mut found = Vec::with_capacity(failed.len());
    for address in failed {
        let mut words = String::new();
        let mut sent_to = address.as_str();
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
            sent_to = one.alias.unwrap_or(sent_to);
        }
        found.push(Recipient { address: sent_to.to_owned(), reason: words, strength: REFUSED });
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
                if refuses(&one.reason, false) && letters(&remote) >= 8 {
                    // Ours says `User unknown` of whatever was answered to a `RCPT`.
                    one.reason = remote;
                } else {
                    one.reason.insert(0, ' ');
                    one.reason.insert_str(0, &remote);
                }
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
        if alone && one.strength == TOLD && !has_codes(&one.reason) {
            // A sentence that names the recipient is seldom the one that says why.
            let rest = squeeze(lines.iter().copied());
            if let Some(at) = rest.find(one.reason.as_str()) {
                let rest = &rest[at..];
                let mut end = rest.len().min(one.reason.len() + SENTENCES_MAXIMUM);
                while !rest.is_char_boundary(end) {
                    end -= 1;
                }
                one.reason = rest[..end].to_owned();
            }
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
    if line.bytes().any(|octet| octet.is_ascii_control()) {
        out.extend(
            line[..end].chars().filter(|character| !character.is_control() || *character == '\t'),
        );
    } else {
        out.push_str(&line[..end]);
    }
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
    let start = (one.line + 1).min(next);
    for (at, line) in lines[start..next].iter().enumerate() {
        let line = line.trim();
        let below = lines.get(start + at + 1).map_or("", |line| line.trim());
        // `Technical details:` above an empty line or a rule is a heading.
        let heading =
            line.ends_with(':') && line.len() < 60 && (below.is_empty() || is_rule(below));
        // The next command of a transcript is about something else.
        if out.len() > REASON_MAXIMUM
            || said(line, &COMMANDS).is_some()
            || is_conversation(line) && letters(&out) >= 8
        {
            break;
        }
        if line.is_empty() || is_rule(line) || is_heading(line) || heading {
            if letters(&out) >= 8 {
                break;
            }
            continue;
        }
        push_words(&mut out, line);
    }
    let silent = letters(&out) < 4;
    // `Undeliverable address: ann@example.com`, and nothing more.
    let label = out.len() == tail.len()
        && tail.trim_end_matches(['>', '"', '\'', ' ', '.']).ends_with(one.address);
    if silent || !has_codes(&out) && (label || !speaks_of_failure(&out)) {
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
    let from = line.saturating_sub(PARAGRAPH_MAXIMUM);
    let above = &lines[from..line];
    let Some(last) = above.iter().rposition(|line| !line.trim().is_empty()) else {
        return String::new();
    };
    let first =
        above[..last].iter().rposition(|line| line.trim().is_empty()).map_or(0, |blank| blank + 1);
    let (first, last) = (from + first, from + last);
    squeeze(lines[first..=last].iter().copied().filter(|line| !is_heading(line.trim())))
}

/// Whether a line is a heading within rules: `--- Transcript of session follows ---`.
fn is_heading(line: &str) -> bool {
    line.len() > 8
        && (line.starts_with("---") || line.starts_with("===") || line.starts_with("***"))
        && line.ends_with(['-', '=', '*'])
}

/// Whether a line of a transcript begins the talk with another host.
fn is_conversation(line: &str) -> bool {
    let words = line.trim_start_matches(['.', ' ']);
    words.get(..16).is_some_and(|start| start.eq_ignore_ascii_case("while talking to"))
}

/// The lines of a session's transcript that answer for an address: refusals that name it, or every refusal where it is alone.
/// With `remote` only what the other server said, not what ours made of it.
///
/// What the other server says to nobody by name belongs to whom our server names next, and to everybody
/// where it names nobody.
fn transcript(lines: &[&str], wanted: &str, alone: bool, remote: bool) -> String {
    let mut out = String::new();
    let mut pending = String::new();
    let (mut asked, mut ignored, mut of_sender, mut concluded) = (true, false, false, false);
    for line in lines {
        let trimmed = line.trim();
        let command = said(trimmed, &COMMANDS);
        let given = if command.is_some() { None } else { said(trimmed, &ANSWERS) };
        if command.is_some() || given.is_some() || is_conversation(trimmed) {
            if concluded {
                pending.clear();
            }
            concluded = false;
        }
        if let Some(command) = command {
            let verb = command.as_bytes().get(..4).unwrap_or_default();
            asked = !verb.eq_ignore_ascii_case(b"rcpt") || contains(command, wanted);
            of_sender = verb.eq_ignore_ascii_case(b"mail");
            // A refused EHLO is followed by a HELO, and after QUIT nothing matters.
            ignored = verb.eq_ignore_ascii_case(b"ehlo") || verb.eq_ignore_ascii_case(b"quit");
            continue;
        }
        let answer = given.unwrap_or(trimmed);
        if !refuses(answer, given.is_some()) || given.is_some() && ignored {
            continue;
        }
        let names = contains(answer, wanted);
        let names_another = !names && !of_sender && names_somebody(answer);
        match given {
            Some(_) if alone || names => append_bounded(&mut out, answer),
            Some(_) if asked && !names_another => append_bounded(&mut pending, answer),
            Some(_) => {}
            None => {
                let somebody = names_somebody(answer);
                if concluded && !somebody {
                    pending.clear();
                    concluded = false;
                }
                if names {
                    append_bounded(&mut out, &pending);
                    pending.clear();
                }
                if !remote && (alone || names) {
                    append_bounded(&mut out, answer);
                }
                concluded |= somebody;
            }
        }
    }
    if out.is_empty() && !concluded { pending } else { out }
}

/// Whether a line of a transcript refuses something; `given` says that the other server said it.
fn refuses(answer: &str, given: bool) -> bool {
    let digits = answer.as_bytes();
    // `503 Need RCPT` only says that every recipient had been refused before.
    if answer.starts_with("503") && contains(answer, "rcpt") {
        return false;
    }
    if given {
        return !matches!(digits.first(), Some(b'2' | b'3'));
    }
    digits.len() > 3
        && matches!(digits[0], b'4' | b'5')
        && digits[1..3].iter().all(u8::is_ascii_digit)
        && matches!(digits[3], b' ' | b'-')
        || answer.contains("said: 4")
        || answer.contains("said: 5")
}

/// Whether a line holds an address in angle brackets.
fn names_somebody(line: &str) -> bool {
    line.find('<').is_some_and(|open| {
        let rest = &line[open..];
        rest.find('>').is_some_and(|close| rest[..close].contains('@'))
    })
}

/// Appends words while there is room for them.
fn append_bounded(out: &mut String, words: &str) {
    if out.len() < REASON_MAXIMUM && !words.is_empty() {
        push_words(out, words);
    }
}

/// What stands behind the first of the marks that show who speaks in a transcript; time stamps and
/// `Sent` or `Received` may stand before it.
fn said<'a>(line: &'a str, marks: &[&str]) -> Option<&'a str> {
    let mut end = line.len().min(60);
    memchr::memchr2(b'<', b'>', &line.as_bytes()[..end])?;
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
