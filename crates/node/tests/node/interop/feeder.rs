//! A client of ours that hands mail to a peer, for it to pass on: each step awaited, nothing clever.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::random::Sample;

/// OpenSMTPD takes no more in one session.
const MOST_IN_SESSION: usize = 100;

/// Hands all samples in over four connections at a time, in clear. Answers when the last was accepted.
pub(super) fn feed(to: SocketAddr, samples: &[Sample]) {
    std::thread::scope(|scope| {
        for part in samples.chunks(samples.len().div_ceil(4)) {
            scope.spawn(move || {
                for session in part.chunks(MOST_IN_SESSION) {
                    Connection::open(to).feed(session);
                }
            });
        }
    });
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// What the answer to EHLO said.
    offered: String,
}

impl Connection {
    fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut connection = Self { stream: BufReader::new(stream), offered: String::new() };
        connection.reply("the greeting", '2');
        connection.offered = connection.say("EHLO client.example", '2');
        connection
    }

    fn feed(mut self, samples: &[Sample]) {
        for sample in samples {
            let utf8 = if sample.needs_smtputf8() { " SMTPUTF8" } else { "" };
            assert!(self.offered.contains("8BITMIME"), "{}", self.offered);
            self.say(&format!("MAIL FROM:<{}> BODY=8BITMIME{utf8}", sample.sender.text()), '2');
            for recipient in &sample.recipients {
                self.say(&format!("RCPT TO:<{recipient}>"), '2');
            }
            self.say("DATA", '3');
            let content = smtp::content::dot_stuff(&sample.content);
            self.write(&content);
            self.say(if content.ends_with(b"\r\n") { "." } else { "\r\n." }, '2');
        }
        self.say("QUIT", '2');
    }

    fn write(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).unwrap();
    }

    /// Writes a line; the whole reply, which must be of this class.
    fn say(&mut self, line: &str, class: char) -> String {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply(line, class)
    }

    fn reply(&mut self, to: &str, class: char) -> String {
        let mut whole = String::new();
        loop {
            let begin = whole.len();
            let count = self.stream.read_line(&mut whole).unwrap();
            assert!(count > 0, "closed after {to}: {whole}");
            if whole.as_bytes().get(begin + 3) != Some(&b'-') {
                assert!(whole.starts_with(class), "{to}: {whole}");
                return whole;
            }
        }
    }
}
