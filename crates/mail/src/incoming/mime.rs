//! The parts of a mail, found by one walk over its octets and without copying any.
//!
//! This is no general MIME reader: it finds the leaves of the tree in their order, each with its kind,
//! its header fields and its raw body, and stops at fixed limits ([`Limit`] says at which). Broken
//! structure is read for what is left of it: a multipart without boundary lines is one text, a
//! missing last boundary ends with the mail, a header may end without an empty line.

use std::borrow::Cow;

use super::Limit;
use super::decode;

/// Octets of a mail that are looked at; what follows is left out.
pub const OCTETS_MAXIMUM: usize = 4 << 20;
/// Octets of one header that are looked at.
pub const HEADER_MAXIMUM: usize = 256 << 10;
/// Fields of one header that are kept.
pub const FIELDS_MAXIMUM: usize = 400;
/// Nesting of multiparts that is followed.
pub const DEPTH_MAXIMUM: usize = 12;
/// Leaves that are kept.
pub const LEAVES_MAXIMUM: usize = 64;
/// Octets of one text that are decoded.
pub const TEXT_MAXIMUM: usize = 128 << 10;

/// Header fields in their order, as they stand in the mail.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Fields<'a> {
    /// The raw value of the first field of that name, without the blanks around it.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The raw values of every field of that name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_bytes();
        self.0
            .iter()
            .filter(move |(known, _)| known.len() == name.len() && known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_ascii())
    }

    /// Whether a field of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().map(|(name, value)| (*name, value.trim_ascii()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The decoded text of the first field of that name, at most `most` octets; empty without one.
    #[must_use]
    pub fn text(&self, name: &str, most: usize) -> String {
        self.first(name).map(|value| decode::words(value, most)).unwrap_or_default()
    }
}

/// Whether `line` begins with a field name and a colon; where the colon is.
#[must_use]
pub fn field_name(line: &[u8]) -> Option<usize> {
    let colon = memchr::memchr(b':', &line[..line.len().min(80)])?;
    let name = line[..colon].trim_ascii_end();
    let good =
        !name.is_empty() && name.iter().all(|octet| matches!(octet, b'!'..=b'9' | b';'..=b'~'));
    good.then_some(colon)
}

/// Splits `octets` into its header fields and what follows them.
pub fn header<'a>(octets: &'a [u8], limits: &mut Vec<Limit>) -> (Fields<'a>, &'a [u8]) {
    let mut fields: Vec<(&[u8], &[u8])> = Vec::with_capacity(24);
    let end = octets.len().min(HEADER_MAXIMUM);
    let mut at = 0;
    while at < end {
        let stop =
            memchr::memchr(b'\n', &octets[at..]).map_or(octets.len(), |found| at + found + 1);
        let line = &octets[at..stop];
        if matches!(line, b"\n" | b"\r\n" | b"\r") {
            return (Fields(fields), &octets[stop..]);
        }
        if matches!(line[0], b' ' | b'\t') {
            // A line of blanks that no field follows is the empty line.
            if line.trim_ascii().is_empty() && !goes_on(&octets[stop..end.max(stop)]) {
                return (Fields(fields), &octets[stop..]);
            }
            // The value grows over its continuation: both are slices of the same octets.
            if let Some((_, value)) = fields.last_mut() {
                let start = value.as_ptr() as usize - octets.as_ptr() as usize;
                *value = &octets[start..stop];
            }
        } else if let Some(colon) = field_name(line) {
            if fields.len() == FIELDS_MAXIMUM {
                Limit::Fields.note(limits);
            } else {
                fields.push((line[..colon].trim_ascii_end(), &line[colon + 1..]));
            }
        } else if !line.starts_with(b">From ") && !line.starts_with(b"From ") {
            // No field: a folded line that lost its indentation, where the header goes on after it;
            // else the empty line before the body was lost.
            match fields.last_mut() {
                Some((_, value)) if goes_on(&octets[stop..end.max(stop)]) => {
                    let start = value.as_ptr() as usize - octets.as_ptr() as usize;
                    *value = &octets[start..stop];
                }
                _ => return (Fields(fields), &octets[at..]),
            }
        }
        at = stop;
    }
    if at < octets.len() {
        Limit::Header.note(limits);
        let rest = &octets[at..];
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return (Fields(fields), rest);
        }
        let blank = [&b"\n\n"[..], b"\n\r\n"]
            .iter()
            .filter_map(|mark| memchr::memmem::find(rest, mark).map(|found| found + mark.len()))
            .min();
        return (Fields(fields), &rest[blank.unwrap_or(rest.len())..]);
    }
    (Fields(fields), &[])
}

/// Whether a header goes on here: a field that mail has stands in the next lines, before any empty one.
#[must_use]
pub fn goes_on(octets: &[u8]) -> bool {
    const USUAL: [&[u8]; 16] = [
        b"received",
        b"from",
        b"to",
        b"cc",
        b"subject",
        b"date",
        b"message-id",
        b"mime-version",
        b"return-path",
        b"content-type",
        b"content-transfer-encoding",
        b"delivered-to",
        b"auto-submitted",
        b"reply-to",
        b"sender",
        b"references",
    ];
    for line in octets.split(|octet| *octet == b'\n').take(4) {
        if line.trim_ascii().is_empty() {
            return false;
        }
        let known = field_name(line).is_some_and(|colon| {
            let name = line[..colon].trim_ascii_end();
            name.starts_with(b"X-") || USUAL.iter().any(|usual| usual.eq_ignore_ascii_case(name))
        });
        if known {
            return true;
        }
    }
    false
}

/// What a leaf holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text for people.
    Plain,
    /// The same as HTML.
    Html,
    /// The machine's part of a delivery report (RFC 3464, 6533).
    DeliveryStatus,
    /// The machine's part of a feedback report (RFC 5965).
    Feedback,
    /// The machine's part of a read receipt (RFC 8098).
    Receipt,
    /// A whole message, ours as a rule.
    Message,
    /// The header of a message.
    MessageHeader,
    /// Anything else.
    Other,
}

/// A part without parts.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Its own header; that of the mail where the mail has one part.
    pub fields: Fields<'a>,
    /// Its body as it stands.
    pub body: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// The body without its transfer encoding, cut to [`TEXT_MAXIMUM`].
    pub fn octets(&self, limits: &mut Vec<Limit>) -> Cow<'a, [u8]> {
        let mut body = self.body;
        if body.len() > TEXT_MAXIMUM {
            Limit::Text.note(limits);
            body = &body[..TEXT_MAXIMUM];
        }
        decode::transfer(body, self.fields.first("content-transfer-encoding").unwrap_or_default())
    }

    /// The body as text.
    pub fn text(&self, limits: &mut Vec<Limit>) -> Cow<'a, str> {
        let label = self
            .fields
            .first("content-type")
            .and_then(|value| parameter(value, b"charset"))
            .unwrap_or_default();
        match self.octets(limits) {
            Cow::Borrowed(octets) => decode::text(octets, &label),
            Cow::Owned(octets) => Cow::Owned(decode::text(&octets, &label).into_owned()),
        }
    }
}

/// The type and subtype of a `Content-Type` value, without parameters and comments.
fn media_type(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii_start();
    let end = value
        .iter()
        .position(|octet| matches!(octet, b';' | b' ' | b'\t' | b'\r' | b'\n' | b'('))
        .unwrap_or(value.len());
    &value[..end]
}

/// A parameter of a `Content-Type` value, quotes undone.
#[must_use]
pub fn parameter<'a>(value: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut rest = &value[memchr::memchr(b';', value)? + 1..];
    loop {
        rest = rest.trim_ascii_start();
        while let [b';', after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        let sign = memchr::memchr2(b'=', b';', rest)?;
        if rest[sign] == b';' {
            rest = &rest[sign..];
            continue;
        }
        let key = rest[..sign].trim_ascii();
        let found = key.eq_ignore_ascii_case(name);
        rest = rest[sign + 1..].trim_ascii_start();
        if let [b'"', after @ ..] = rest {
            let mut end = 0;
            while end < after.len() && after[end] != b'"' {
                end += 1 + usize::from(after[end] == b'\\');
            }
            let end = end.min(after.len());
            if found {
                let raw = &after[..end];
                if memchr::memchr2(b'\\', b'\n', raw).is_none() {
                    return Some(Cow::Borrowed(raw));
                }
                let mut plain = Vec::with_capacity(raw.len());
                let mut octets = raw.iter();
                while let Some(octet) = octets.next() {
                    match octet {
                        b'\\' => plain.extend(octets.next()),
                        b'\r' | b'\n' => {}
                        _ => plain.push(*octet),
                    }
                }
                return Some(Cow::Owned(plain));
            }
            rest = &after[(end + 1).min(after.len())..];
        } else {
            let end = rest
                .iter()
                .position(|octet| matches!(octet, b';' | b' ' | b'\t' | b'\r' | b'\n'))
                .unwrap_or(rest.len());
            if found {
                return Some(Cow::Borrowed(&rest[..end]));
            }
            rest = &rest[end..];
        }
    }
}

/// What a media type means to us.
fn kind_of(media: &[u8]) -> Kind {
    const KNOWN: [(&[u8], Kind); 15] = [
        (b"text/plain", Kind::Plain),
        (b"text", Kind::Plain),
        (b"text/html", Kind::Html),
        (b"message/rfc822", Kind::Message),
        (b"message/delivery-status", Kind::DeliveryStatus),
        (b"message/global-delivery-status", Kind::DeliveryStatus),
        (b"text/rfc822-headers", Kind::MessageHeader),
        (b"text/rfc822-header", Kind::MessageHeader),
        (b"message/rfc822-headers", Kind::MessageHeader),
        (b"message/global", Kind::Message),
        (b"message/global-headers", Kind::MessageHeader),
        (b"message/feedback-report", Kind::Feedback),
        (b"message/disposition-notification", Kind::Receipt),
        (b"text/rfc822", Kind::Message),
        (b"message/partial", Kind::Message),
    ];
    KNOWN.iter().find(|(name, _)| media.eq_ignore_ascii_case(name)).map_or(
        if media.len() > 5 && media[..5].eq_ignore_ascii_case(b"text/") {
            Kind::Plain
        } else {
            Kind::Other
        },
        |(_, kind)| *kind,
    )
}

/// The leaves of an entity whose header was read already.
pub fn leaves<'a>(
    fields: Fields<'a>,
    body: &'a [u8],
    out: &mut Vec<Leaf<'a>>,
    limits: &mut Vec<Limit>,
) {
    // An explicit stack instead of recursion: parts still to be looked at, the next one last.
    let mut waiting: Vec<(Fields<'a>, &'a [u8], usize)> = vec![(fields, body, 0)];
    while let Some((fields, body, depth)) = waiting.pop() {
        if out.len() == LEAVES_MAXIMUM {
            Limit::Parts.note(limits);
            return;
        }
        let content = fields.first("content-type").unwrap_or_default();
        let media = media_type(content);
        let named = media.len() > 10 && media[..10].eq_ignore_ascii_case(b"multipart/");
        // Whoever loses `Content-Type` leaves the boundary lines: soon in the text, or they are those
        // of a message that the text returns.
        let lines = if named { 60 } else { 6 };
        if named || media.is_empty() && depth == 0 {
            if depth == DEPTH_MAXIMUM {
                Limit::Depth.note(limits);
            } else {
                let start = waiting.len();
                split(content, body, lines, |part| {
                    if waiting.len() < start + LEAVES_MAXIMUM {
                        let (fields, body) = part_header(part, limits);
                        waiting.push((fields, body, depth + 1));
                    }
                });
                if waiting.len() > start {
                    waiting[start..].reverse();
                    continue;
                }
            }
            out.push(Leaf { kind: Kind::Plain, fields, body });
            continue;
        }
        let kind = if media.is_empty() { Kind::Plain } else { kind_of(media) };
        out.push(Leaf { kind, fields, body });
    }
}

/// The header and body of a part. One that begins with no field at all is only a body.
fn part_header<'a>(part: &'a [u8], limits: &mut Vec<Limit>) -> (Fields<'a>, &'a [u8]) {
    let (fields, body) = header(part, limits);
    // `Hi: this` in the first line of a body is not a header: at least one field must be MIME's.
    let mime = fields
        .iter()
        .any(|(name, _)| name.len() > 7 && name[..8].eq_ignore_ascii_case(b"content-"));
    if mime || part.starts_with(b"\n") || part.starts_with(b"\r\n") {
        (fields, body)
    } else {
        (Fields::default(), part)
    }
}

/// Gives the parts between the boundary lines of a multipart to `part`. Where the boundary is not
/// named, or no line has it, the first line that looks like one is taken, if it is among the first `lines`.
fn split<'a>(content: &'a [u8], body: &'a [u8], lines: usize, mut part: impl FnMut(&'a [u8])) {
    let named = parameter(content, b"boundary").filter(|found| !found.is_empty());
    if let Some(named) = named
        && split_at(&named, body, &mut part)
    {
        return;
    }
    let lines = body.split(|octet| *octet == b'\n').take(lines);
    let mut lines = lines.map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let looks = line.len() > 8 && line.starts_with(b"--") && !line.contains(&b' ');
        // A rule of dashes is followed by anything, a boundary by the fields of a part.
        let mut following = lines.clone();
        if looks
            && following
                .next()
                .is_some_and(|next| next.len() > 8 && next[..8].eq_ignore_ascii_case(b"content-"))
        {
            split_at(&line[2..], body, &mut part);
            return;
        }
    }
}

/// Gives the parts between the lines of one boundary to `part`; whether there was one.
fn split_at<'a>(boundary: &[u8], body: &'a [u8], part: &mut impl FnMut(&'a [u8])) -> bool {
    let boundary = boundary.trim_ascii_end();
    let finder = memchr::memmem::Finder::new(boundary);
    let mut from = None;
    let mut any = false;
    let mut at = 0;
    while let Some(found) = finder.find(&body[at..]).map(|found| found + at) {
        at = found + boundary.len();
        // The line must begin with two hyphens; some put blanks before them.
        let Some(dashes) = found.checked_sub(2).filter(|dashes| &body[*dashes..found] == b"--")
        else {
            continue;
        };
        let line = memchr::memrchr(b'\n', &body[..dashes]).map_or(0, |end| end + 1);
        if !body[line..dashes].iter().all(|octet| matches!(octet, b' ' | b'\t')) {
            continue;
        }
        let rest = &body[at..];
        let stop = memchr::memchr(b'\n', rest).map_or(body.len(), |end| at + end + 1);
        let tail = body[at..stop].trim_ascii();
        // A longer boundary that begins like this one is another.
        if !(tail.is_empty() || tail == b"--" || tail.starts_with(b"--") && tail.len() < 4) {
            continue;
        }
        if let Some(start) = from {
            part(&body[start..line.max(start)]);
        }
        any = true;
        from = if tail.starts_with(b"--") { None } else { Some(stop) };
        at = stop;
    }
    if let Some(start) = from {
        part(&body[start..]);
    }
    any
}
