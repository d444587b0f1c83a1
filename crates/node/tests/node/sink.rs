//! A mail server that keeps what it is given, for tests that read messages.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A message as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// What stood behind `MAIL FROM:`, with parameters.
    pub(crate) sender: String,
    /// What stood behind `RCPT TO:`.
    pub(crate) recipient: String,
    /// Header and body, dots unstuffed.
    pub(crate) content: Vec<u8>,
}

/// The running server. It ends with the runtime.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl Sink {
    /// Listens on a free port of this address.
    pub(crate) async fn start(address: [u8; 4]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::from(address), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = Arc::clone(&all);
                // A client that goes away in the middle ends its conversation, nothing else.
                tokio::spawn(async move { drop(converse(stream, &all).await) });
            }
        });
        Self { address, kept }
    }

    /// How many messages have come so far.
    pub(crate) fn count(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    /// What has come so far, by recipient.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let mut kept = self.kept.lock().unwrap().clone();
        kept.sort_by(|one, other| one.recipient.cmp(&other.recipient));
        kept
    }
}

async fn converse(stream: TcpStream, all: &Mutex<Vec<Kept>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink.example ESMTP\r\n").await?;
    let mut message = Kept::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        let after = |prefix: &str| text.strip_prefix(prefix).map(str::to_string);
        let reply: &[u8] = if text.starts_with("EHLO ") {
            b"250-sink.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n"
        } else if let Some(sender) = after("MAIL FROM:") {
            message.sender = sender;
            b"250 2.1.0 fine\r\n"
        } else if let Some(recipient) = after("RCPT TO:") {
            message.recipient = recipient;
            b"250 2.1.5 fine\r\n"
        } else if text == "DATA" {
            stream.write_all(b"354 go on\r\n").await?;
            loop {
                line.clear();
                if stream.read_until(b'\n', &mut line).await? == 0 {
                    return Ok(());
                }
                if line == b".\r\n" {
                    break;
                }
                let unstuffed = line.strip_prefix(b".").unwrap_or(&line);
                message.content.extend_from_slice(unstuffed);
            }
            all.lock().unwrap().push(core::mem::take(&mut message));
            b"250 2.0.0 kept\r\n"
        } else if text == "QUIT" {
            stream.write_all(b"221 2.0.0 bye\r\n").await?;
            return Ok(());
        } else {
            b"500 5.5.1 what?\r\n"
        };
        stream.write_all(reply).await?;
    }
}
