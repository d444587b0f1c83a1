//! Reads the content that follows DATA, up to CR LF `.` CR LF and nothing else.
//!
//! **Promise.** However the octets are cut, the same content comes out and the end is found at the
//! same octet. A CR or LF that is not part of a pair is a fault at once: what other servers might
//! take for an end of data never becomes one here, and is never passed on either (SMTP smuggling).
//! Content over the limit is counted, not kept.

use memchr::memchr2;

/// Where in a line the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    /// After a dot at the start of a line, which is not content.
    Dot,
    /// After CR behind that dot.
    DotReturn,
    Inside,
    /// After a CR that belongs to content.
    Return,
}

/// What reading led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All octets were taken; more are needed.
    More,
    /// The end was found; so many octets were taken.
    End(usize),
    /// A bare CR or LF.
    BareLineEnd,
}

/// The reader of one message's content.
#[derive(Debug)]
pub(super) struct TextReader {
    place: Place,
    /// The content so far, without dot-stuffing.
    pub(super) content: Vec<u8>,
    /// Octets of content, kept or not.
    pub(super) octets: u64,
    limit: u64,
}

impl TextReader {
    /// A reader that keeps at most `limit` octets.
    pub(super) fn new(limit: u64) -> Self {
        Self { place: Place::LineStart, content: Vec::new(), octets: 0, limit }
    }

    /// Whether the content was larger than the limit.
    pub(super) fn overflown(&self) -> bool {
        self.octets > self.limit
    }

    /// Reads on.
    pub(super) fn read(&mut self, input: &[u8]) -> Progress {
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match (self.place, octet) {
                (Place::LineStart, b'.') => {
                    self.place = Place::Dot;
                    at += 1;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotReturn;
                    at += 1;
                }
                (Place::DotReturn, b'\n') => return Progress::End(at + 1),
                (Place::Return, b'\n') => {
                    self.keep(b"\n");
                    self.place = Place::LineStart;
                    at += 1;
                }
                (Place::DotReturn | Place::Return, _) | (_, b'\n') => return Progress::BareLineEnd,
                (_, b'\r') => {
                    self.keep(b"\r");
                    self.place = Place::Return;
                    at += 1;
                }
                _ => {
                    let rest = &input[at..];
                    let length = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    self.keep(&rest[..length]);
                    self.place = Place::Inside;
                    at += length;
                }
            }
        }
        Progress::More
    }

    fn keep(&mut self, octets: &[u8]) {
        self.octets += octets.len() as u64;
        if self.overflown() {
            self.content = Vec::new();
        } else {
            self.content.extend_from_slice(octets);
        }
    }
}
