//! Octets as they come in, and what is read out of them: paths of commands, the key of a message.
//!
//! Everything here works on borrowed octets, keeps no more than a fixed buffer, and answers `None`
//! to what it cannot read.

/// Octets received and not yet understood. Of fixed size, so no client can make it grow.
pub(crate) struct Input {
    octets: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    /// An input of 32 KiB.
    pub(crate) fn new() -> Self {
        Self { octets: vec![0; 32 * 1024].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Where the next octets go; never empty, since a session leaves at most a command line.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.octets.len() || self.start > self.octets.len() / 2 {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.octets[self.end..]
    }

    /// Notes that so many octets have been put into the room.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Notes that so many octets have been understood.
    pub(crate) fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// Drops everything, as RFC 3207 section 4.2 asks of both sides before a handshake.
    pub(crate) fn clear(&mut self) {
        self.start = self.end;
    }
}

/// The address and the parameters of ` FROM:<...> ...`, given the word with its blank and colon.
pub(crate) fn path<'a>(rest: &'a [u8], word: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (start, rest) = rest.split_at_checked(word.len())?;
    if !start.eq_ignore_ascii_case(word) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    let end = memchr::memchr(b'>', rest)?;
    let parameters = &rest[end + 1..];
    let separated = parameters.is_empty() || parameters[0] == b' ';
    (separated && end <= 512).then_some((&rest[..end], parameters))
}

/// The identity of a message: its `X-Mailweir-Id`, or else its `Message-ID`.
pub(crate) fn find_key(message: &[u8]) -> Option<Vec<u8>> {
    let mut message_id = None;
    let mut rest = message;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        match line.first() {
            None => break,
            Some(b'X' | b'x') => {
                if let Some(value) = header_value(line, b"x-mailweir-id:", rest) {
                    return Some(value.to_vec());
                }
            }
            Some(b'M' | b'm') if message_id.is_none() => {
                message_id = header_value(line, b"message-id:", rest);
            }
            Some(_) => {}
        }
    }
    message_id.map(<[u8]>::to_vec)
}

/// The value of a header line, which may have been folded onto the next line.
fn header_value<'a>(line: &'a [u8], name: &[u8], next: &'a [u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    let value = value.trim_ascii();
    let folded = value.is_empty() && matches!(next.first(), Some(b' ' | b'\t'));
    let value = if folded {
        next.split(|byte| *byte == b'\n').next().unwrap_or(b"").trim_ascii()
    } else {
        value
    };
    (!value.is_empty()).then(|| &value[..value.len().min(512)])
}

/// Appends a number in hexadecimal.
pub(crate) fn hexadecimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[(value & 15) as usize];
        value >>= 4;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
