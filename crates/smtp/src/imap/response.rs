//! Reads the responses of an IMAP server: lines, and literals within them (RFC 9051, 4 and 7).
//!
//! **Promise.** However the octets are cut, the same responses come out. A literal is kept up to the
//! limit and counted beyond; a literal without end, or a response whose text is too long, is no
//! response. Memory is bounded by the limit and [`LONGEST_TEXT`].

use memchr::memchr;

/// Longest text of one response outside of literals. A SEARCH with 5,000 numbers has 55,000 octets.
pub const LONGEST_TEXT: usize = 131_072;
/// Literals of one response.
pub const MOST_LITERALS: usize = 16;

/// What reading led to.
#[derive(Debug)]
pub(super) enum Taken {
    /// All octets were taken; more are needed.
    All,
    /// A whole response.
    Response(Response),
}

/// A piece of a response.
#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    /// What was kept of a literal, and whether that is all.
    Literal(Vec<u8>, bool),
}

/// A whole response: text, literals, text.
#[derive(Debug, Default)]
pub(super) struct Response(Vec<Part>);

/// The reader.
#[derive(Debug)]
pub(super) struct Reader {
    response: Response,
    line: Vec<u8>,
    text_octets: usize,
    /// The literal that is being read, its length so far and how much is missing.
    literal: Option<(Vec<u8>, usize, usize)>,
    kept_octets: usize,
    limit: usize,
    endless: usize,
}

impl Reader {
    /// A reader that keeps `limit` octets of literals in a response and gives up beyond `endless`.
    pub(super) fn new(limit: usize, endless: usize) -> Self {
        Self {
            response: Response::default(),
            line: Vec::new(),
            text_octets: 0,
            literal: None,
            kept_octets: 0,
            limit,
            endless,
        }
    }

    /// Reads on; takes what it reads from the front of `input`.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Taken, &'static str> {
        while !input.is_empty() {
            if self.literal.is_some() {
                self.read_literal(input);
                continue;
            }
            let end = memchr(b'\n', input);
            let (part, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
            *input = rest;
            self.text_octets += part.len();
            if self.text_octets > LONGEST_TEXT {
                return Err("a response without end");
            }
            self.line.extend_from_slice(part);
            if end.is_none() {
                return Ok(Taken::All);
            }
            let mut line = core::mem::take(&mut self.line);
            line.pop();
            if line.pop() != Some(b'\r') {
                return Err("a line that does not end with CR LF");
            }
            match literal_length(&line) {
                None => {
                    self.response.0.push(Part::Text(line));
                    self.text_octets = 0;
                    self.kept_octets = 0;
                    return Ok(Taken::Response(core::mem::take(&mut self.response)));
                }
                Some(length) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    if length > self.endless || self.response.0.len() >= 2 * MOST_LITERALS {
                        return Err("a literal without end");
                    }
                    self.response.0.push(Part::Text(line));
                    self.literal = Some((Vec::new(), 0, length));
                    if length == 0 {
                        self.finish_literal();
                    }
                }
            }
        }
        Ok(Taken::All)
    }

    fn read_literal(&mut self, input: &mut &[u8]) {
        let Some((kept, octets, missing)) = &mut self.literal else { return };
        let (part, rest) = input.split_at((*missing).min(input.len()));
        *input = rest;
        let room = self.limit.saturating_sub(self.kept_octets).min(part.len());
        kept.extend_from_slice(&part[..room]);
        self.kept_octets += room;
        *octets += part.len();
        *missing -= part.len();
        if *missing == 0 {
            self.finish_literal();
        }
    }

    fn finish_literal(&mut self) {
        if let Some((kept, octets, _)) = self.literal.take() {
            let whole = kept.len() == octets;
            self.response.0.push(Part::Literal(kept, whole));
        }
    }
}

/// The length at the end of a line, `{123}` or `{123+}`; a number that does not fit is endless.
fn literal_length(line: &[u8]) -> Option<u64> {
    let inner = line.strip_suffix(b"}")?;
    let inner = inner.strip_suffix(b"+").unwrap_or(inner);
    let open = inner.iter().rposition(|octet| *octet == b'{')?;
    let digits = &inner[open + 1..];
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| number(digits).unwrap_or(u64::MAX))
}

/// A number in digits that fits.
pub(super) fn number(word: &[u8]) -> Option<u64> {
    let digits = !word.is_empty() && word.len() <= 19 && word.iter().all(u8::is_ascii_digit);
    digits.then(|| core::str::from_utf8(word).ok()?.parse().ok()).flatten()
}

/// The response code at the front of a text, `[CODE value]`: its words.
fn code(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.trim_ascii_start().strip_prefix(b"[")?;
    let end = memchr(b']', inner)?;
    let inner = &inner[..end];
    let space = memchr(b' ', inner).unwrap_or(inner.len());
    Some((&inner[..space], inner[space..].trim_ascii()))
}

/// Whether a text begins with this response code.
pub(super) fn has_code(text: &[u8], name: &[u8]) -> bool {
    code(text).is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
}

/// The number of a response code.
pub(super) fn code_value(text: &[u8], name: &[u8]) -> Option<u64> {
    let (found, value) = code(text)?;
    found.eq_ignore_ascii_case(name).then(|| number(value)).flatten()
}

/// A word of a FETCH response.
#[derive(Debug)]
enum Token {
    Open,
    Close,
    Atom(Vec<u8>),
    Text(Vec<u8>, bool),
}

impl Response {
    fn head(&self) -> &[u8] {
        match self.0.first() {
            Some(Part::Text(text)) => text,
            _ => &[],
        }
    }

    /// The tag, `*` or `+`.
    pub(super) fn first_word(&self) -> &[u8] {
        self.head().split(|octet| *octet == b' ').next().unwrap_or_default()
    }

    /// The word behind the first one, and the text behind that.
    pub(super) fn status(&self) -> (Vec<u8>, Vec<u8>) {
        let mut words = self.head().splitn(3, |octet| *octet == b' ').skip(1);
        let mut next = || words.next().unwrap_or_default().to_vec();
        (next(), next())
    }

    /// UID and body of a FETCH response, and whether the body was kept whole.
    pub(super) fn body(&mut self) -> Option<(u32, Vec<u8>, bool)> {
        let tokens = self.tokens();
        let mut tokens = tokens.into_iter().skip_while(|token| !matches!(token, Token::Open));
        tokens.next()?;
        let (mut uid, mut body) = (None, None);
        while let Some(name) = tokens.next() {
            let Token::Atom(name) = name else { break };
            match (tokens.next()?, name.to_ascii_uppercase().as_slice()) {
                (Token::Open, _) => {
                    let mut depth = 1;
                    while depth > 0 {
                        match tokens.next()? {
                            Token::Open => depth += 1,
                            Token::Close => depth -= 1,
                            _ => {}
                        }
                    }
                }
                (Token::Close, _) => break,
                (Token::Atom(value), b"UID") => {
                    uid = number(&value).and_then(|value| u32::try_from(value).ok());
                }
                (Token::Text(octets, whole), name) if name.starts_with(b"BODY[]") => {
                    body = Some((octets, whole));
                }
                // NIL: there is no such message any more.
                (Token::Atom(_) | Token::Text(..), _) => {}
            }
        }
        let (octets, whole) = body?;
        Some((uid?, octets, whole))
    }

    /// The words of all parts. Literals are taken out.
    fn tokens(&mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        for part in core::mem::take(&mut self.0) {
            match part {
                Part::Literal(octets, whole) => tokens.push(Token::Text(octets, whole)),
                Part::Text(text) => {
                    let end = if literal_length(&text).is_some() {
                        text.iter().rposition(|octet| *octet == b'{').unwrap_or(text.len())
                    } else {
                        text.len()
                    };
                    split(&text[..end], &mut tokens);
                }
            }
        }
        tokens
    }
}

/// Splits a text into words. Spaces within brackets belong to the word.
fn split(text: &[u8], tokens: &mut Vec<Token>) {
    let mut at = 0;
    while let Some(&octet) = text.get(at) {
        at += 1;
        match octet {
            b' ' => {}
            b'(' => tokens.push(Token::Open),
            b')' => tokens.push(Token::Close),
            b'"' => {
                let mut value = Vec::new();
                while let Some(&octet) = text.get(at) {
                    at += 1;
                    match octet {
                        b'"' => break,
                        b'\\' if at < text.len() => {
                            value.push(text[at]);
                            at += 1;
                        }
                        other => value.push(other),
                    }
                }
                tokens.push(Token::Text(value, true));
            }
            _ => {
                let begin = at - 1;
                let mut brackets = u32::from(octet == b'[');
                while let Some(&octet) = text.get(at) {
                    match octet {
                        b'[' => brackets += 1,
                        b']' => brackets = brackets.saturating_sub(1),
                        b' ' | b'(' | b')' if brackets == 0 => break,
                        _ => {}
                    }
                    at += 1;
                }
                tokens.push(Token::Atom(text[begin..at].to_vec()));
            }
        }
    }
}
