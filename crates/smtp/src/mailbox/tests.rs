//! Plays conversations with a mailbox server from text, for the tests of all protocols.

use super::*;

/// Settings that most transcripts use: 10 messages of 60 octets, in clear.
pub(crate) fn settings() -> FetchSettings {
    FetchSettings {
        user: "box".into(),
        password: "se cret".into(),
        protection: Protection::Clear,
        folder: "INBOX".into(),
        messages: 10,
        session_time: Duration::from_secs(100),
        reply_timeout: Duration::from_secs(300),
        message_octets: 60,
        ignore_size: false,
        left: HashSet::new(),
    }
}

/// One line for each event.
fn shown(event: &FetchEvent) -> String {
    match event {
        FetchEvent::StartTls => "start TLS".into(),
        FetchEvent::Message(FetchedMessage { identity, octets, whole }) => {
            let cut = if *whole { "" } else { " (cut)" };
            format!("message {identity:?} {:?}{cut}", String::from_utf8_lossy(octets))
        }
        FetchEvent::Closed(end) => {
            let FetchEnd { cause, held, fetched, deleted, unconfirmed, refused, cut, during } = end;
            let left = *refused as usize + cut.len();
            let during = during.as_ref().map_or(String::new(), |id| format!(" during {id:?}"));
            format!(
                "closed: {cause}; held {held}, fetched {fetched}, deleted {deleted}, \
                 unconfirmed {unconfirmed}, left {left}{during}"
            )
        }
    }
}

/// A session, and what it has said and told.
pub(crate) struct Played<S> {
    pub(crate) session: S,
    now: Timestamp,
    pub(crate) transcript: String,
}

impl<S: MailboxSession> Played<S> {
    pub(crate) fn new(make: impl FnOnce(Timestamp) -> S) -> Self {
        let now = Timestamp::from_secs(1_000);
        Self { session: make(now), now, transcript: String::new() }
    }

    fn look(&mut self) {
        while let Some(octets) = self.session.next_to_send() {
            for line in String::from_utf8_lossy(&octets).split_terminator("\r\n") {
                self.transcript.push_str(&format!("C: {line}\n"));
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.transcript.push_str(&format!("E: {}\n", shown(&event)));
        }
    }

    /// Octets from the server, in pieces of at most `cut`.
    pub(crate) fn receive(&mut self, octets: &[u8], cut: usize) {
        for piece in octets.chunks(cut.max(1)) {
            self.session.receive(self.now, piece);
            self.look();
        }
    }

    /// One step of a script.
    pub(crate) fn step(&mut self, line: &str, cut: usize) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("C" | "E", _) => return,
            ("S", text) => {
                self.transcript.push_str(&format!("{line}\n"));
                let text = format!("{text}\r\n").replace('|', "\r\n").replace('~', "\n");
                return self.receive(text.as_bytes(), cut);
            }
            ("T", seconds) => {
                self.transcript.push_str(&format!("{line}\n"));
                self.now = self.now + Duration::from_secs(seconds.parse().unwrap());
                self.session.tick(self.now);
            }
            (word, _) => {
                self.transcript.push_str(&format!("{line}\n"));
                match word {
                    "kept" => self.session.message_kept(self.now, true),
                    "not kept" => self.session.message_kept(self.now, false),
                    "tls ok" => self.session.tls_established(self.now),
                    "lost" => self.session.connection_lost(),
                    "finish" => self.session.finish(),
                    other => panic!("no such step: {other}"),
                }
            }
        }
        self.look();
    }
}

/// Plays the inputs of a script and compares the whole conversation with it, for several cuts.
///
/// Inputs: `S:` the server sends a line (`|` stands for CR LF, `~` for a bare LF inside it), `T:` so
/// many seconds pass, `kept`, `not kept`, `tls ok`, `lost`, `finish`. Outputs: `C:` the client sends
/// a line, `E:` an event.
pub(crate) fn check<S: MailboxSession>(make: impl Fn(Timestamp) -> S, script: &str) {
    let wanted: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for cut in [usize::MAX, 1, 7] {
        let mut played = Played::new(&make);
        for line in &wanted {
            played.step(line, cut);
        }
        let got: Vec<&str> = played.transcript.lines().collect();
        assert_eq!(got, wanted, "cut {cut}\n{}", played.transcript);
    }
}
