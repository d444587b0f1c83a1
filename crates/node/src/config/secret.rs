//! Secrets: read from the environment or a file, and never shown.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The largest file that is read as a secret.
const MAX_SECRET_BYTES: u64 = 65_536;

/// A password, token or key. `Debug` shows only that there is one, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// A secret from its text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this must not log or store what it returns.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads the first 64 KiB of a file at most; line ends at its end do not belong to the secret.
    ///
    /// # Errors
    /// What is wrong, with the path: unreadable, not text, too long or empty.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let about =
            std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        // A FIFO would block for ever, a device might never end.
        if !about.is_file() {
            return Err(format!("{shown} is no regular file"));
        }
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut text))
            .map_err(|error| format!("cannot read {shown}: {error}"))?;
        if text.len() as u64 > MAX_SECRET_BYTES {
            return Err(format!("{shown} is longer than {MAX_SECRET_BYTES} bytes"));
        }
        let text = String::from_utf8(text).map_err(|_| format!("{shown} is not UTF-8 text"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(format!("{shown} is empty"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_without_their_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "a b \r\n\n").unwrap();
        let secret = Secret::from_file(&path).unwrap();
        assert_eq!(secret.expose(), "a b ");
        assert_eq!(format!("{secret:?}"), "Secret(not shown)");
        for (content, wanted) in
            [(&b"\n"[..], "is empty"), (b"\xff", "is not UTF-8"), (&[b'a'; 70_000], "is longer")]
        {
            std::fs::write(&path, content).unwrap();
            let fault = Secret::from_file(&path).unwrap_err();
            assert!(fault.contains(wanted), "{fault}");
        }
        assert!(Secret::from_file(folder.path()).unwrap_err().contains("no regular file"));
        assert!(
            Secret::from_file(&folder.path().join("none")).unwrap_err().contains("cannot read")
        );
    }
}
