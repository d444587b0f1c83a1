//! The grammar of command lines (RFC 5321, 4.1.1 and 4.1.2).

use mail::address::Mailbox;

/// Why a path cannot be taken, as the end of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPath {
    /// Not `<address>`.
    Syntax,
    /// UTF-8 without SMTPUTF8.
    NeedsSmtpUtf8,
}

/// Splits a command line into its verb and what follows, without the spaces around it.
pub(super) fn verb(line: &str) -> (&str, &str) {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    (verb, rest.trim_matches(' '))
}

/// Takes `<path>` from the front of `text`: what is inside the brackets and the parameters behind
/// them. A `>` inside a quoted local part does not end the path.
pub(super) fn bracketed(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let mut quoted = false;
    let mut escaped = false;
    for (at, octet) in inner.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &inner[at + 1..];
                let spaced = rest.is_empty() || rest.starts_with(' ');
                return spaced.then(|| (&inner[..at], rest.trim_matches(' ')));
            }
            _ => {}
        }
    }
    None
}

/// An address in its normal form. Source routes, which RFC 5321 asks to accept and ignore, are
/// refused: nobody but probes for open relays sends them.
pub(super) fn address(path: &str, smtputf8: bool) -> Result<String, BadPath> {
    if !path.is_ascii() && !smtputf8 {
        return Err(BadPath::NeedsSmtpUtf8);
    }
    if path.starts_with(' ') || path.ends_with(' ') || path.starts_with('@') {
        return Err(BadPath::Syntax);
    }
    match Mailbox::parse(path) {
        Ok(mailbox) => Ok(mailbox.as_str().to_owned()),
        Err(_) => Err(BadPath::Syntax),
    }
}

/// The parameters of MAIL FROM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MailParameters {
    /// Octets announced; `u64::MAX` for a figure that does not fit.
    pub(super) size: Option<u64>,
    pub(super) smtputf8: bool,
}

/// Reads the parameters of MAIL FROM.
///
/// # Errors
/// The whole reply that refuses them.
pub(super) fn mail_parameters(text: &str) -> Result<MailParameters, &'static str> {
    let mut read = MailParameters::default();
    let mut seen: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key.to_ascii_uppercase(), Some(value)),
            None => (word.to_ascii_uppercase(), None),
        };
        match (key.as_str(), value) {
            ("SIZE", Some(digits)) if is_size(digits) => {
                read.size = Some(digits.parse().unwrap_or(u64::MAX));
            }
            ("BODY", Some(kind))
                if kind.eq_ignore_ascii_case("7BIT") || kind.eq_ignore_ascii_case("8BITMIME") => {}
            ("SMTPUTF8", None) => read.smtputf8 = true,
            // RFC 4954, 5: whom the client vouches for. We do not pass it on.
            ("AUTH", Some(value)) if !value.is_empty() => {}
            ("SIZE" | "BODY" | "SMTPUTF8" | "AUTH", _) => {
                return Err("501 5.5.4 a parameter has a value that it cannot have");
            }
            _ => return Err("555 5.5.4 a parameter is not known here"),
        }
        if seen.contains(&key) {
            return Err("501 5.5.4 a parameter is given twice");
        }
        seen.push(key);
    }
    Ok(read)
}

/// One to twenty digits (RFC 1870, 3).
fn is_size(digits: &str) -> bool {
    (1..=20).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// The size and LAST of a BDAT command; `None` when they cannot be read, so that nothing is known
/// about where the next command begins.
pub(super) fn chunk(arguments: &str) -> Option<(u64, bool)> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    let digits = words.next().filter(|digits| is_size(digits))?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    if words.next().is_some() {
        return None;
    }
    Some((digits.parse().ok()?, last))
}

/// Whether a text can be a client's name: a domain or an address literal, read generously.
pub(super) fn is_client_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.chars().all(|character| {
            character.is_alphanumeric() || matches!(character, '.' | '-' | '_' | ':' | '[' | ']')
        })
}
