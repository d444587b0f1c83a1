//! A list of recipients on its way to the node: read once, never held, counted as it goes.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use node::recipients::{Decoder, Format, ListFault, Step};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::exit::Failure;

/// How much is read to find out whether the list can be understood at all: the longest row and some.
const MOST_HEAD: usize = node::recipients::ROW_LIMIT + (64 << 10);

/// A list whose beginning has been understood.
pub struct List {
    /// What was read of it, and what comes after.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Its media type.
    pub content_type: &'static str,
    /// Its size in octets; `None` for a pipe.
    pub size: Option<u64>,
}

/// Opens a file, or standard input for `-`, and reads as far as the first row, so that a list that is
/// none is refused before a delivery is made of it.
///
/// # Errors
/// It cannot be read, or no row of it can be understood.
pub async fn open(path: &Path) -> Result<List, Failure> {
    let shown = path.display();
    let cannot = |fault: io::Error| Failure::environment(format!("cannot read {shown}: {fault}"));
    let (mut reader, size): (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) =
        if path == Path::new("-") {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
            (Box::new(tokio::fs::File::from_std(std::fs::File::from(stdin))), None)
        } else {
            let file = tokio::fs::File::open(path).await.map_err(cannot)?;
            let about = file.metadata().await.map_err(cannot)?;
            if about.is_dir() {
                return Err(Failure::environment(format!("cannot read {shown}: it is a folder")));
            }
            (Box::new(file), about.is_file().then_some(about.len()))
        };
    let head = read_head(&mut reader).await.map_err(|fault| match fault {
        HeadFault::Io(fault) => cannot(fault),
        HeadFault::List(fault) => Failure::environment(format!("{shown}: {fault}")),
    })?;
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    let first = text.iter().find(|octet| !octet.is_ascii_whitespace());
    let content_type = if first == Some(&b'{') { "application/x-ndjson" } else { "text/csv" };
    Ok(List { reader: Box::new(io::Cursor::new(head).chain(reader)), content_type, size })
}

enum HeadFault {
    Io(io::Error),
    List(ListFault),
}

/// Reads until the decoder has a row.
async fn read_head(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, HeadFault> {
    let mut decoder = Decoder::new(Format::Detect);
    let mut head = Vec::new();
    let mut part = vec![0; 64 << 10];
    while head.len() < MOST_HEAD {
        match decoder.next().map_err(HeadFault::List)? {
            Step::Row(_) | Step::End => break,
            Step::NeedInput => {
                let count = reader.read(&mut part).await.map_err(HeadFault::Io)?;
                if count == 0 {
                    decoder.finish();
                } else {
                    decoder.push(&part[..count]);
                    head.extend_from_slice(&part[..count]);
                }
            }
        }
    }
    Ok(head)
}

/// A reader that counts.
pub struct Counted<R> {
    reader: R,
    octets: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// Counts what is read from `reader` in `octets`.
    pub fn new(reader: R, octets: Arc<AtomicU64>) -> Self {
        Self { reader, octets }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.octets.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &[u8]) -> Result<(&'static str, Vec<u8>), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, content).unwrap();
        crate::runtime().unwrap().block_on(async {
            let mut list = open(&path).await.map_err(|failure| failure.to_string())?;
            assert_eq!(list.size, Some(content.len() as u64));
            let mut whole = Vec::new();
            list.reader.read_to_end(&mut whole).await.unwrap();
            Ok((list.content_type, whole))
        })
    }

    #[test]
    fn the_whole_list_arrives_with_its_kind() {
        let mut large = b"email,name\n".to_vec();
        for number in 0..50_000 {
            large.extend(format!("a{number}@example.com,Ann\n").into_bytes());
        }
        for (content, kind) in [
            (large, "text/csv"),
            (b"\xef\xbb\xbf{\"email\":\"a@b.example\"}\n".to_vec(), "application/x-ndjson"),
            (b"email\n".to_vec(), "text/csv"),
            (b"email\nnot an address\n".to_vec(), "text/csv"),
        ] {
            let (found, whole) = opened(&content).unwrap();
            assert_eq!(found, kind);
            assert_eq!(whole, content);
        }
    }

    #[test]
    fn a_list_that_is_none_is_refused_first() {
        for (content, wanted) in [
            (&b""[..], "empty"),
            (b"name,city\nAnn,Rome\n", "email"),
            (b"\xff\xfee\0m\0a\0i\0l\0", "UTF-16"),
        ] {
            let fault = opened(content).unwrap_err();
            assert!(fault.contains(wanted), "{fault}");
        }
    }
}
