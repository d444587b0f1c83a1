//! Content by BDAT (RFC 3030): what a receiver owes, and what it notices about the sender.
//!
//! The octets that BDAT states are taken whatever they are, also when the answer will be a refusal. Behind a BDAT
//! that failed only RSET puts a conversation in order: MAIL, RCPT and DATA in front of it are recorded as faults of the client.
//! A BDAT without a figure ends the conversation, for nobody knows what follows it.

use super::{Session, Step};
use crate::octets::Input;

/// A chunk whose octets are coming.
#[derive(Debug)]
pub(super) struct Chunk {
    left: u64,
    last: bool,
    /// What it is refused with, when it has come.
    refusal: Option<(&'static [u8], u16)>,
}

/// How the chunks of the present transaction stand.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The one that is coming.
    coming: Option<Chunk>,
    /// One at least was taken.
    begun: bool,
    /// One was refused, and no RSET has come.
    failed: bool,
}

impl Chunks {
    /// Whether octets of a chunk are awaited.
    pub(super) const fn coming(&self) -> bool {
        self.coming.is_some()
    }

    /// RSET, EHLO, or the end of a transaction.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Session {
    pub(super) fn begin_chunk(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Step {
        if self.mood.unknown_bdat {
            return self.senseless(b"502 5.5.1 Command not understood\r\n", 502, out);
        }
        let Some((left, last)) = read(rest) else {
            self.record.fault("bdat_without_a_figure");
            self.refuse(b"501 5.5.4 BDAT <octets> [LAST] is due\r\n", "data", 501, out);
            return Step::Close;
        };
        if self.mood.no_chunking {
            self.record.fault("bdat_without_offer");
        }
        let refusal: Option<(&'static [u8], u16)> = if self.chunks.failed {
            Some((b"503 5.5.1 RSET first\r\n", 503))
        } else if self.recipients.is_empty() {
            Some(self.nobody_to_take_it())
        } else {
            None
        };
        if refusal.is_none() {
            if self.mood.hang_in_data {
                return Step::Hang;
            }
            if !self.chunks.begun {
                self.begin_content();
                self.chunks.begun = true;
            }
        }
        self.chunks.coming = Some(Chunk { left, last, refusal });
        Step::Done
    }

    /// Takes what there is of the chunk.
    pub(super) fn take_chunk(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Step {
        let Some(mut chunk) = self.chunks.coming.take() else { return Step::Done };
        let waiting = input.waiting();
        let run = usize::try_from(chunk.left).map_or(waiting.len(), |left| left.min(waiting.len()));
        chunk.left -= run as u64;
        let complete = chunk.left == 0;
        if chunk.refusal.is_none() {
            self.take_run(&waiting[..run], complete && chunk.last);
        }
        input.take(run);
        if !complete {
            self.chunks.coming = Some(chunk);
            return Step::NeedInput;
        }
        if let Some((text, code)) = chunk.refusal {
            self.refuse(text, "data", code, out);
            self.chunks.failed = true;
            return Step::Done;
        }
        if !chunk.last {
            out.extend_from_slice(b"250 2.0.0 Taken, go on\r\n");
            return Step::Done;
        }
        let accepted = self.accepted;
        let step = self.end_data(out);
        self.chunks.failed = self.accepted == accepted;
        step
    }

    /// Whether a command may come in a transaction that stands so; false when it was refused.
    pub(super) fn in_order_with_chunks(&mut self, out: &mut Vec<u8>) -> bool {
        if self.chunks.failed {
            self.record.fault("no_reset_behind_a_failed_bdat");
        } else if !self.chunks.begun {
            return true;
        }
        self.refuse(b"503 5.5.1 Bad sequence of commands\r\n", "command", 503, out);
        false
    }
}

/// The figure behind BDAT, and whether LAST stands behind it.
fn read(rest: &[u8]) -> Option<(u64, bool)> {
    let mut words = rest.strip_prefix(b" ")?.split(|octet| *octet == b' ');
    let digits = words.next().filter(|word| word.iter().all(u8::is_ascii_digit))?;
    let octets = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((octets, last))
}
