//! Normalisation: many texts that say one thing become one text, and that text has a key.
//!
//! What changes from mail to mail is replaced: addresses by `*`, IP addresses by `#IP#`, host names
//! by `#DOMAIN#`, numbers, dates and ids by `#xxx#`. What a server uses to say why stays: the reply
//! code, enhanced status codes, the provider's own codes (`[TSS04]`, `IB504`, `AUP#In-1310`,
//! `OFR_416`), the words, and the address of a help page. The lines of a reply become one, without
//! the codes that every line repeats. The case of letters stays; [`super::fold`] is for comparing.
//!
//! The [`Key`] is the MD5 of the UTF-8 of the result. It tells texts apart and is no protection
//! against forgery: whoever can forge a reply can as well send the text itself.
//!
//! Bounds: [`MOST_OCTETS`] of the text are read. One pass, no recursion on the text.

use core::fmt;

use md5::{Digest as _, Md5};

/// Octets of a text that are looked at; the rest is dropped.
pub const MOST_OCTETS: usize = 8 * 1024;

/// The MD5 of a normalised text. Shown as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of a text that is normalised already.
    #[must_use]
    pub fn of(normalised: &str) -> Self {
        Self(Md5::digest(normalised.as_bytes()).into())
    }

    /// The sixteen octets.
    #[must_use]
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// The key with these octets.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// Reads 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut octets = [0; 16];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *octet = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(octets))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for octet in self.0 {
            write!(out, "{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({self})")
    }
}

/// The normalised text.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MOST_OCTETS));
    normalise_into(&mut out, text);
    out
}

/// The normalised text, into a buffer that is emptied first.
pub fn normalise_into(out: &mut String, text: &str) {
    out.clear();
    let text = &text[..text.floor_char_boundary(MOST_OCTETS)];
    let mut repeated = Repeated::default();
    for (number, line) in text.split('\n').enumerate() {
        let mut start_of_line = true;
        for word in line.split(|letter: char| letter.is_whitespace() || letter.is_control()) {
            if word.is_empty() {
                continue;
            }
            let word = if number == 0 && start_of_line {
                repeated.begin(out, word)
            } else {
                repeated.strip(word, start_of_line)
            };
            start_of_line = false;
            if word.is_empty() {
                continue;
            }
            if !out.is_empty() {
                out.push(' ');
            }
            write_word(out, word);
        }
    }
}

/// Knows the codes with which a reply begins, so that they are not said again for each line.
#[derive(Default)]
struct Repeated<'text> {
    /// `550`
    code: &'text str,
    /// `5.1.1`
    status: &'text str,
    /// The code stood alone where a line of the reply begins, and the status may follow.
    after_code: bool,
    /// More lines of the reply are to come: its last one began with the code and a hyphen.
    continues: bool,
    words: usize,
}

impl<'text> Repeated<'text> {
    /// The first word of the text: what is left of it after its code.
    fn begin(&mut self, out: &mut String, word: &'text str) -> &'text str {
        self.words = 1;
        let Some((code, rest)) = split_code(word) else { return word };
        self.code = code;
        self.continues = word.len() > code.len();
        out.push_str(code);
        self.note_status(rest);
        rest
    }

    fn note_status(&mut self, word: &'text str) {
        if is_status(word) {
            self.status = word;
        }
    }

    /// Any later word, without the codes when it repeats those of the first line.
    fn strip(&mut self, word: &'text str, start_of_line: bool) -> &'text str {
        self.words += 1;
        if self.code.is_empty() {
            return word;
        }
        if self.words == 2 && !start_of_line {
            self.note_status(word);
            return word;
        }
        let after_code = core::mem::take(&mut self.after_code);
        if !self.status.is_empty() && after_code && word == self.status {
            return "";
        }
        let Some((code, rest)) = split_code(word) else { return word };
        if code != self.code {
            return word;
        }
        let joined = word.len() > code.len();
        let repeats_status = !rest.is_empty() && rest == self.status;
        // In the middle of a line the code is a word like any other, unless the lines of a reply were
        // joined, as a report does that has only one line for them.
        let begins_line = start_of_line || self.continues || joined && repeats_status;
        if !begins_line {
            return word;
        }
        // The code without a hyphen begins the last line of a reply.
        self.continues = joined;
        self.after_code = rest.is_empty();
        if repeats_status { "" } else { rest }
    }
}

/// `550-5.1.1` as `550` and `5.1.1`; `550` and `550-` as `550` and nothing.
fn split_code(word: &str) -> Option<(&str, &str)> {
    let digits = word.as_bytes();
    let code = digits.len() >= 3
        && matches!(digits[0], b'2'..=b'5')
        && digits[1].is_ascii_digit()
        && digits[2].is_ascii_digit();
    if !code {
        return None;
    }
    match digits.get(3) {
        None => Some((word, "")),
        Some(b'-') => Some((&word[..3], &word[4..])),
        Some(_) => None,
    }
}

/// Whether the word is an enhanced status code and nothing else.
fn is_status(word: &str) -> bool {
    let mut parts = word.split('.');
    let class = parts.next();
    let short = |part: Option<&str>| {
        part.is_some_and(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit())
        })
    };
    matches!(class, Some("2" | "4" | "5"))
        && short(parts.next())
        && short(parts.next())
        && parts.next().is_none()
}

/// Puts one word, whose variable parts are replaced.
fn write_word(out: &mut String, word: &str) {
    let plain = |letter: &u8| !(letter.is_ascii_digit() || matches!(letter, b'@' | b'.' | b':'));
    if word.as_bytes().iter().all(plain) {
        out.push_str(word);
        return;
    }
    let mut rest = word;
    while !rest.is_empty() {
        if let Some(length) = url_length(rest) {
            write_url(out, &rest[..length]);
            rest = &rest[length..];
            continue;
        }
        // A run of what may belong to a name, a number or an address; anything else stands as it is.
        let end = rest.find(|letter: char| !is_core(letter)).unwrap_or(rest.len());
        if end == 0 {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
            continue;
        }
        write_run(out, &rest[..end]);
        rest = &rest[end..];
    }
}

/// What may stand within a host name, number, id or address.
fn is_core(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
        || matches!(letter, '.' | '-' | '_' | '@' | '+' | ':' | '#' | '=' | '~' | '!' | '%' | '*')
}

/// The length of the URL at the beginning, if there is one.
fn url_length(text: &str) -> Option<usize> {
    let octets = text.as_bytes();
    let scheme = if starts_with_ignoring_case(octets, b"http://") {
        7
    } else if starts_with_ignoring_case(octets, b"https://") {
        8
    } else {
        return None;
    };
    let end = text.find(['>', '<', '"', '\'', ')', ']', ',']).unwrap_or(text.len());
    Some(end.max(scheme))
}

fn starts_with_ignoring_case(octets: &[u8], start: &[u8]) -> bool {
    octets.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// A URL stays, with its long numbers, ids and IP addresses replaced.
fn write_url(out: &mut String, url: &str) {
    let trimmed = url.trim_end_matches(['.', ';', ':', '!', '?']);
    for piece in trimmed.split_inclusive(['/', '?', '&', '=', ';', '#', '%']) {
        let (body, separator) = match piece.char_indices().next_back() {
            Some((at, '/' | '?' | '&' | '=' | ';' | '#' | '%')) => piece.split_at(at),
            _ => (piece, ""),
        };
        if is_ipv4(body) || is_ipv6(body) {
            out.push_str("#IP#");
        } else if body.contains('@') {
            out.push('*');
        } else if body.len() > 24 && body.bytes().any(|letter| letter.is_ascii_digit())
            || longest_digits(body) > 4
        {
            out.push_str("#xxx#");
        } else {
            out.push_str(body);
        }
        out.push_str(separator);
    }
    out.push_str(&url[trimmed.len()..]);
}

fn longest_digits(text: &str) -> usize {
    text.split(|letter: char| !letter.is_ascii_digit()).map(str::len).max().unwrap_or(0)
}

/// A run of core characters.
fn write_run(out: &mut String, run: &str) {
    let mut rest = run;
    while rest.contains('@') {
        let taken = write_address(out, rest);
        rest = &rest[taken..];
    }
    let body = rest.trim_start_matches(['.', ':', '-', '=', '#', '!', '~']);
    out.push_str(&rest[..rest.len() - body.len()]);
    let core = body.trim_end_matches(['.', ':', '-', '=', '#', '!', '~']);
    write_core(out, core);
    out.push_str(&body[core.len()..]);
}

/// What stands up to the end of the first address of a run, which has an `@`; it is an address when
/// something stands before and after it. Returns the octets taken.
fn write_address(out: &mut String, run: &str) -> usize {
    let at = run.find('@').unwrap_or(run.len() - 1);
    let local_start = run[..at].rfind([':', '#']).map_or(0, |colon| colon + 1);
    let in_domain =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | '@');
    let end = run[at + 1..]
        .find(|letter: char| !in_domain(letter))
        .map_or(run.len(), |length| at + 1 + length);
    let domain = run[at + 1..end].trim_end_matches(['.', '-']);
    let elided = run[at + 1..end].starts_with("..");
    if local_start == at || domain.is_empty() && !elided {
        out.push_str(&run[..=at]);
        return at + 1;
    }
    out.push_str(&run[..local_start]);
    out.push('*');
    if domain.is_empty() { end } else { at + 1 + domain.len() }
}

/// A core without punctuation around it, which may hold several things joined.
fn write_core(out: &mut String, core: &str) {
    let mut rest = core;
    while let Some((left, right)) = split_at_joint(rest) {
        write_part(out, left);
        out.push_str(&rest[left.len()..rest.len() - right.len()]);
        rest = right;
    }
    write_part(out, rest);
}

/// One thing.
fn write_part(out: &mut String, part: &str) {
    let plain = !part.bytes().any(|letter| letter.is_ascii_digit() || letter == b'.');
    if plain || part.contains("#xxx#") || is_status(part) || is_code(part) || is_coded_name(part) {
        out.push_str(part);
    } else if is_ipv4(part) || is_ipv6(part) {
        out.push_str("#IP#");
    } else if is_host_name(part) {
        let kept = names_a_list(part) || names_a_cause(part);
        out.push_str(if kept { part } else { "#DOMAIN#" });
    } else if is_stable(part) {
        out.push_str(part);
    } else {
        out.push_str("#xxx#");
    }
}

/// `ip=192.0.2.1`, `550-5.7.1`, `name:value`: the first thing of a run and the rest. The first thing
/// is never joined itself.
fn split_at_joint(core: &str) -> Option<(&str, &str)> {
    if is_ipv6(core) {
        return None;
    }
    if let Some((left, right)) = core.split_once(['=', '+', '!', '*', '~', '%']) {
        return (!left.contains(':')).then_some((left, right)).or_else(|| split_at_colon(core));
    }
    if let Some((code, rest)) = split_code(core).filter(|(_, rest)| !rest.is_empty()) {
        return Some((code, rest));
    }
    split_at_colon(core)
}

/// `host:port`, `word:id`; a time of day is a whole.
fn split_at_colon(core: &str) -> Option<(&str, &str)> {
    let (left, right) = core.split_once(':')?;
    let in_time =
        |letter: u8| letter.is_ascii_digit() || matches!(letter, b':' | b'-' | b'T' | b'Z' | b'.');
    (!core.bytes().all(in_time)).then_some((left, right))
}

/// Three digits that can be a reply code.
fn is_code(core: &str) -> bool {
    core.len() == 3
        && matches!(core.as_bytes()[0], b'2' | b'4' | b'5')
        && core.bytes().all(|digit| digit.is_ascii_digit())
}

/// A reply code and words joined by underscores, as in `522_mailbox_full`.
fn is_coded_name(core: &str) -> bool {
    let Some((code, words)) = core.split_once('_') else { return false };
    let wordy = |letter: u8| letter.is_ascii_alphabetic() || matches!(letter, b'_' | b'-');
    is_code(code) && !words.is_empty() && words.bytes().all(wordy)
}

fn is_ipv4(core: &str) -> bool {
    let mut parts = 0;
    for part in core.split('.') {
        parts += 1;
        if part.is_empty() || part.len() > 3 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
            return false;
        }
    }
    parts == 4
}

fn is_ipv6(core: &str) -> bool {
    let colons = core.bytes().filter(|letter| *letter == b':').count();
    colons >= 2
        && (core.contains("::") || colons == 7)
        && core.bytes().all(|letter| letter.is_ascii_hexdigit() || matches!(letter, b':' | b'.'))
        && core.split([':', '.']).all(|group| group.len() <= 4)
}

/// A host name with at least one dot. `rejected.Please` is two sentences, not a name.
fn is_host_name(core: &str) -> bool {
    let Some((front, last)) = core.rsplit_once('.') else { return false };
    let sentence = last.as_bytes()[..].first().is_some_and(u8::is_ascii_uppercase)
        && last.bytes().any(|letter| letter.is_ascii_lowercase());
    (2..=24).contains(&last.len())
        && last.bytes().all(|letter| letter.is_ascii_alphabetic())
        && !sentence
        && front.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_'))
        })
}

/// Whether a host name is that of a public block list: which one it was is a part of what was said.
fn names_a_list(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "spamhaus",
        "spamcop",
        "dnsbl",
        "sorbs",
        "barracuda",
        "surbl",
        "uribl",
        "rbl.",
        "uceprotect",
    ];
    let lower = name.to_ascii_lowercase();
    WORDS.iter().any(|word| lower.contains(word))
}

/// Whether what looks like a host name is how Exchange names a cause, in whatever case:
/// `resolver.adr.recipnotfound`.
fn names_a_cause(name: &str) -> bool {
    const AREAS: [&str; 6] = [
        "resolver.adr.",
        "resolver.rst.",
        "resolver.grp.",
        "resolver.fwd.",
        "storedrv.",
        "transport.rules.",
    ];
    AREAS
        .iter()
        .any(|area| name.get(..area.len()).is_some_and(|start| start.eq_ignore_ascii_case(area)))
}

/// Whether a core with digits is one of the provider's own codes: letters and then at most six
/// digits, as in `TSS04`, `RL000001`, `AUP#In-1310`, `OFR_416` and `VS98-IP0`; or letters alone.
fn is_stable(core: &str) -> bool {
    if core.len() > 24 || core.contains('.') {
        return !core.bytes().any(|letter| letter.is_ascii_digit());
    }
    let mut lettered = false;
    for part in core.split(['-', '_', '#', ':']) {
        let letters = part.bytes().take_while(u8::is_ascii_alphabetic).count();
        let digits = part.bytes().skip(letters).take_while(u8::is_ascii_digit).count();
        if letters + digits != part.len() || digits > 6 || letters == 0 && (!lettered || digits > 4)
        {
            return false;
        }
        lettered |= letters > 0;
    }
    lettered
}

#[cfg(test)]
mod tests;
