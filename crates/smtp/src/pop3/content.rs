//! Reads a message that ends with CR LF `.` CR LF (RFC 1939, 3), and takes its dot-stuffing away.
//!
//! **Promise.** However the octets are cut, the same content comes out and the end is found at the
//! same octet. Bare CRs and LFs are content, since mailboxes hold such mail; a bare LF begins a line
//! only where the server is known to end its lines so. What is behind the limit is counted, not
//! kept.

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
    /// After a CR.
    Return,
}

/// What reading led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All octets were taken; more are needed.
    More,
    /// The end was found; so many octets were taken.
    End(usize),
}

/// The reader of one message.
#[derive(Debug)]
pub(super) struct Content {
    place: Place,
    /// The content within the limit.
    pub(super) kept: Vec<u8>,
    /// Octets of content, kept or not.
    pub(super) octets: usize,
    limit: usize,
    bare: bool,
}

impl Content {
    /// A reader that keeps `limit` octets; `bare`: bare LFs end lines.
    pub(super) const fn new(limit: usize, bare: bool) -> Self {
        Self { place: Place::LineStart, kept: Vec::new(), octets: 0, limit, bare }
    }

    /// Whether nothing was cut.
    pub(super) const fn is_whole(&self) -> bool {
        self.octets == self.kept.len()
    }

    /// Reads on.
    pub(super) fn read(&mut self, input: &[u8]) -> Progress {
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match (self.place, octet) {
                (Place::LineStart, b'.') => self.place = Place::Dot,
                (Place::Dot, b'\r') => self.place = Place::DotReturn,
                (Place::DotReturn, b'\n') => return Progress::End(at + 1),
                (Place::Dot, b'\n') if self.bare => return Progress::End(at + 1),
                (Place::DotReturn, _) => {
                    // The dot was stuffing after all; this octet is looked at again.
                    self.keep(b"\r");
                    self.place = Place::Return;
                    continue;
                }
                (place, b'\n') => {
                    self.keep(b"\n");
                    let ends = place == Place::Return || self.bare;
                    self.place = if ends { Place::LineStart } else { Place::Inside };
                }
                (_, b'\r') => {
                    self.keep(b"\r");
                    self.place = Place::Return;
                }
                _ => {
                    let rest = &input[at..];
                    let length = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    self.keep(&rest[..length]);
                    self.place = Place::Inside;
                    at += length;
                    continue;
                }
            }
            at += 1;
        }
        Progress::More
    }

    fn keep(&mut self, octets: &[u8]) {
        let room = self.limit.saturating_sub(self.octets);
        self.octets += octets.len();
        self.kept.extend_from_slice(&octets[..octets.len().min(room)]);
    }
}
