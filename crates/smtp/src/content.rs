//! Message content on its way into and out of DATA and BDAT.
//!
//! **Promise.** What [`prepare`] lets through has no bare CR, no bare LF and no NUL, and goes out with
//! CR LF at its end. [`PreparedContent::dot_stuffed`] can be written after the 354 and followed by `.` CR LF:
//! no line of it is a lone dot, so no receiver, strict or lenient, can find the end of the message inside it
//! (RFC 5321, 2.3.8 and 4.5.2). Behind BDAT the content goes as it is: its [`size`](PreparedContent::size) was
//! said before, and no octet of it can end it (RFC 3030). Content that would have to be changed, other than by
//! dot-stuffing and a missing last line end, is refused: changing it would break its DKIM signature.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memmem};

/// Content that cannot be sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadContent {
    /// A CR without LF or an LF without CR.
    #[error("the content has a CR or LF that is not part of a CR LF pair")]
    BareLineEnd,
    /// A NUL octet (RFC 5321 forbids it even with 8BITMIME).
    #[error("the content has a NUL octet")]
    Nul,
}

/// Content that was found fit for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedContent {
    /// The content, shared with the original: what goes behind BDAT.
    pub plain: Bytes,
    /// Lines that begin with a dot.
    dots: usize,
    /// Whether a CR LF must be written behind the content.
    pub needs_line_end: bool,
    /// Octets before dot-stuffing, with the last line end: what SIZE= and BDAT state (RFC 1870, RFC 3030).
    pub size: u64,
    /// Whether any octet is above 127, so that 8BITMIME is needed.
    pub eight_bit: bool,
}

impl PreparedContent {
    /// What goes behind the 354. Content without a line that begins with a dot is not copied.
    #[must_use]
    pub fn dot_stuffed(&self) -> Bytes {
        if self.dots == 0 {
            self.plain.clone()
        } else {
            Bytes::from(dot_stuff(&self.plain).into_owned())
        }
    }

    /// Whether a server that does not know BDAT, and reads what is behind it as commands, could find one in it that begins
    /// a content: a line with DATA or BDAT at its beginning, in any case. Without one no mail can be handed over.
    #[must_use]
    pub fn could_be_commands(&self) -> bool {
        self.plain.split(|octet| *octet == b'\n').any(|line| {
            let word = line.trim_ascii_start().get(..4).unwrap_or_default();
            word.eq_ignore_ascii_case(b"DATA") || word.eq_ignore_ascii_case(b"BDAT")
        })
    }
}

/// Checks content; it is not copied.
///
/// # Errors
/// [`BadContent`].
pub fn prepare(content: &Bytes) -> Result<PreparedContent, BadContent> {
    let dots = check_lines(content)?;
    let needs_line_end = !content.is_empty() && !content.ends_with(b"\r\n");
    let size = content.len() as u64 + if needs_line_end { 2 } else { 0 };
    let eight_bit = !content.is_ascii();
    Ok(PreparedContent { plain: content.clone(), dots, needs_line_end, size, eight_bit })
}

/// Checks that every CR and LF is part of a CR LF pair and that there is no NUL. Returns how many
/// lines begin with a dot.
///
/// # Errors
/// [`BadContent`].
pub fn check_lines(content: &[u8]) -> Result<usize, BadContent> {
    let mut pairs = 0;
    let mut dots = usize::from(content.first() == Some(&b'.'));
    for end in memchr_iter(b'\n', content) {
        if end == 0 || content[end - 1] != b'\r' {
            return Err(BadContent::BareLineEnd);
        }
        pairs += 1;
        dots += usize::from(content.get(end + 1) == Some(&b'.'));
    }
    // Every LF has its CR; a CR beyond those has no LF.
    if memchr_iter(b'\r', content).count() != pairs {
        return Err(BadContent::BareLineEnd);
    }
    if memchr(0, content).is_some() {
        return Err(BadContent::Nul);
    }
    Ok(dots)
}

/// Doubles the dot at the beginning of each line; borrows when there is none.
#[must_use]
pub fn dot_stuff(content: &[u8]) -> Cow<'_, [u8]> {
    let first = content.first() == Some(&b'.');
    let finder = memmem::Finder::new(b"\n.");
    let mut found = finder.find_iter(content).peekable();
    if !first && found.peek().is_none() {
        return Cow::Borrowed(content);
    }
    let mut stuffed = Vec::with_capacity(content.len() + content.len() / 32 + 16);
    if first {
        stuffed.push(b'.');
    }
    let mut from = 0;
    for line_end in found {
        stuffed.extend_from_slice(&content[from..=line_end]);
        stuffed.push(b'.');
        from = line_end + 1;
    }
    stuffed.extend_from_slice(&content[from..]);
    Cow::Owned(stuffed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stuffs_lines_that_begin_with_a_dot() {
        for (content, wire) in [
            ("", ""),
            ("a\r\n", "a\r\n"),
            (".", ".."),
            (".\r\n.\r\n..\r\n", "..\r\n..\r\n...\r\n"),
            ("a.\r\n.b\r\n", "a.\r\n..b\r\n"),
            ("a\r\n.", "a\r\n.."),
        ] {
            assert_eq!(dot_stuff(content.as_bytes()), wire.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn content_that_is_not_lines_is_refused() {
        for bad in ["a\n", "\n.\n", "a\rb", "a\r", "\r\r\n", "a\r\n\n", "x\r\n.\r", "\n\r"] {
            assert_eq!(
                prepare(&Bytes::from_static(bad.as_bytes())),
                Err(BadContent::BareLineEnd),
                "{bad:?}"
            );
        }
        assert_eq!(prepare(&Bytes::from_static(b"a\0\r\n")), Err(BadContent::Nul));
    }

    #[test]
    fn content_that_a_server_could_take_for_commands_is_seen() {
        for (content, could) in [
            ("", false),
            ("DATA", true),
            ("Subject: x\r\n\r\nRSET\r\nMAIL FROM:<a@b.test>\r\n \tdata\r\n.\r\n", true),
            ("x\r\nbDAT 1 LAST\r\n", true),
            ("x\r\nDatabases\r\n", true),
            ("my DATA\r\nDAT\r\nA\r\nDA\r\n", false),
            ("RSET\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", false),
        ] {
            let prepared = prepare(&Bytes::from(content)).unwrap();
            assert_eq!(prepared.could_be_commands(), could, "{content:?}");
        }
        // Blanks are looked at once.
        let blank = prepare(&Bytes::from(vec![b' '; 60_000])).unwrap();
        assert!(!blank.could_be_commands());
    }

    #[test]
    fn clean_content_is_shared() {
        let content = Bytes::from_static(b"Subject: x\r\n\r\nbody");
        let prepared = prepare(&content).unwrap();
        assert_eq!(prepared.plain.as_ptr(), content.as_ptr());
        assert_eq!(prepared.dot_stuffed().as_ptr(), content.as_ptr());
        assert!(prepared.needs_line_end);
        assert_eq!((prepared.size, prepared.eight_bit), (20, false));
        assert!(prepare(&Bytes::from_static(b"\xc3\xa9\r\n")).unwrap().eight_bit);
    }

    proptest! {
        #[test]
        fn no_end_inside(content in "[.a\r\n]{0,40}") {
            let content = Bytes::from(content.into_bytes());
            if let Ok(prepared) = prepare(&content) {
                prop_assert_eq!(&prepared.plain, &content);
                let mut wire = prepared.dot_stuffed().to_vec();
                if prepared.needs_line_end {
                    wire.extend_from_slice(b"\r\n");
                }
                let lines: Vec<&[u8]> = wire.split(|octet| *octet == b'\n').collect();
                prop_assert!(lines.iter().all(|line| *line != b".\r" && *line != b"."));
                let unstuffed: Vec<u8> = lines
                    .iter()
                    .map(|line| line.strip_prefix(b".").unwrap_or(line))
                    .collect::<Vec<_>>()
                    .join(&b'\n');
                prop_assert!(unstuffed.starts_with(&content));
            }
        }
    }
}
