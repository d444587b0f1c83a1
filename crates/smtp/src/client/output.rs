//! Octets that wait to be written, and how many were.
//!
//! **Promise.** Commands that follow each other leave in one piece; content leaves as the shared
//! buffer it came in, never copied. Every octet has a position in the stream, so the session knows
//! whether a command, or a final dot, had left when a reply came or the connection was lost.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use mail::time::Timestamp;

/// The write timer starts again only when so many octets more have left: a server that takes one
/// octet at a time does not hold a connection for ever.
const BLOCK: u64 = 1_024;

/// The stream towards the server.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Pieces whose order is fixed.
    pieces: VecDeque<Bytes>,
    /// Commands after the last piece.
    commands: BytesMut,
    /// Position of the end of all that was queued.
    queued: u64,
    /// Position up to which the shell has written.
    written: u64,
    /// When the last block had been written, and its end.
    block_at: Timestamp,
    block_end: u64,
}

impl Output {
    /// Adds the parts of commands, as they are to be written.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.commands.extend_from_slice(part);
            self.queued += part.len() as u64;
        }
    }

    /// Adds content.
    pub(super) fn push_content(&mut self, content: Bytes) {
        if !self.commands.is_empty() {
            self.pieces.push_back(self.commands.split().freeze());
        }
        self.queued += content.len() as u64;
        if !content.is_empty() {
            self.pieces.push_back(content);
        }
    }

    /// The next piece to write.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        (!self.commands.is_empty()).then(|| self.commands.split().freeze())
    }

    /// Takes note of what was written.
    pub(super) fn written(&mut self, now: Timestamp, octets: usize) {
        if octets == 0 {
            return;
        }
        self.written = (self.written + octets as u64).min(self.queued);
        if self.written == self.queued || self.written - self.block_end >= BLOCK {
            self.block_at = now;
            self.block_end = self.written;
        }
    }

    /// Forgets all that was not handed out.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.commands.clear();
    }

    /// Position of the end of what was queued.
    pub(super) fn end(&self) -> u64 {
        self.queued
    }

    /// Whether everything before `position` was written.
    pub(super) fn has_passed(&self, position: u64) -> bool {
        self.written >= position
    }

    /// Octets queued and not yet written.
    pub(super) fn unwritten(&self) -> u64 {
        self.queued - self.written
    }

    /// When the last block was written.
    pub(super) fn block_at(&self) -> Timestamp {
        self.block_at
    }
}
