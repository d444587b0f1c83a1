//! The receiving side of one SMTP conversation (RFC 5321), as a machine over octets.
//!
//! [`Session::step`] takes at most one command, or one run of message data, from the [`Input`] and
//! appends the reply to what is to be sent; the caller decides when it is sent, which is how the
//! replies to pipelined commands come to travel in one write. It owns no socket; the moment is
//! told to it. It is written apart from the engine's own SMTP code, so that the two cannot share a mistake.
//!
//! Behind DATA only CRLF.CRLF ends a message, behind BDAT only its count. A command line ends with CRLF and has at most 4,096 octets; a
//! bare LF in a command is refused. After 20 senseless commands the conversation ends.

mod chunk;

use std::net::IpAddr;
use std::sync::Arc;

use memchr::memmem;
use serde::Serialize;
use tokio::sync::watch;

use crate::body::BodyHash;
use crate::chance::{hash64, hash64_folded};
use crate::mood::{Mood, StartTls};
use crate::octets::{Input, find_key, hexadecimal, path};
use crate::recorder::{Fate, Recorder, SourceRecord, Tally};
use crate::returns::{Returns, Taken};
use crate::site::{Site, Verdict};
use crate::wording::{Situation, render};
use chunk::Chunks;

const LONGEST_COMMAND: usize = 4_096;
const LONGEST_TEXT_LINE: usize = 1_000;
const MOST_SENSELESS: u32 = 20;
const DEFAULT_SIZE_LIMIT: u64 = 50 * 1024 * 1024;
const DEFAULT_RECIPIENTS: u32 = 100;
/// Headers are searched for the key this far; real header blocks end long before.
const LARGEST_HEADER: usize = 64 * 1024;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More octets are needed.
    NeedInput,
    /// A reply has been appended, or data was taken in; go on.
    Done,
    /// Send what is there and close.
    Close,
    /// Send what is there, then swallow everything and say nothing more.
    Hang,
    /// Send what is there and begin the handshake.
    StartTls(StartTls),
}

/// What all sessions of a lab share.
pub(crate) struct World {
    /// Where everything is written down.
    pub recorder: Recorder,
    /// Whether message data is examined.
    pub inspect: bool,
    /// What comes back, where it may.
    pub returns: Option<Arc<Returns>>,
}

/// One conversation.
pub(crate) struct Session {
    world: Arc<World>,
    site: Arc<Site>,
    moods: watch::Receiver<Arc<Mood>>,
    mood: Arc<Mood>,
    record: Arc<SourceRecord>,
    host: Arc<str>,
    source: IpAddr,
    source_text: String,
    id: u64,
    in_data: bool,
    chunks: Chunks,
    greeted: bool,
    secure: bool,
    sender: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    data: DataState,
    tally: Tally,
    mail: u64,
    accepted: u64,
    senseless: u32,
    journal: Vec<u8>,
    /// The moment of the octets in hand, in microseconds since the lab started.
    pub now: u64,
}

/// How far the data of the present message has come.
#[derive(Default)]
struct DataState {
    size: u64,
    at_start: bool,
    header: Vec<u8>,
    header_ended: bool,
    key: Option<Vec<u8>>,
    line: usize,
    /// Told of what comes only where a journal is written.
    body: BodyHash,
}

/// A line of the journal.
#[derive(Serialize)]
struct JournalLine<'a> {
    time_micros: u64,
    outcome: &'static str,
    provider: &'a str,
    source: IpAddr,
    sender: &'a str,
    recipient: &'a str,
    id: Option<&'a str>,
    key: String,
    body: String,
}

impl Session {
    /// A conversation at a host of a site.
    pub(crate) fn new(
        world: Arc<World>,
        site: Arc<Site>,
        record: Arc<SourceRecord>,
        host: Arc<str>,
        source: IpAddr,
        id: u64,
    ) -> Self {
        let mut moods = site.mood();
        let mood = Arc::clone(&moods.borrow_and_update());
        Self {
            world,
            site,
            moods,
            mood,
            record,
            host,
            source,
            source_text: source.to_string(),
            id,
            in_data: false,
            chunks: Chunks::default(),
            greeted: false,
            secure: false,
            sender: None,
            recipients: Vec::new(),
            data: DataState::default(),
            tally: Tally::default(),
            mail: 0,
            accepted: 0,
            senseless: 0,
            journal: Vec::new(),
            now: 0,
        }
    }

    /// The mood in force.
    pub(crate) fn mood(&self) -> &Mood {
        &self.mood
    }

    /// Takes up a changed mood and notes the moment; to be called when octets have arrived.
    pub(crate) fn arrive(&mut self, now: u64) {
        self.now = now;
        // An error means that the site is gone, which the lab's end brings about.
        if self.moods.has_changed().unwrap_or(false) {
            self.mood = Arc::clone(&self.moods.borrow_and_update());
        }
    }

    /// Writes down what has happened; to be called before the replies are sent, so that no sender
    /// ever knows more than the recorder.
    pub(crate) fn write_down(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        self.record.add(self.now, tally, self.mail, self.accepted);
        if !self.journal.is_empty() {
            self.world.recorder.journal(&self.journal);
            self.journal.clear();
        }
    }

    /// Appends the greeting. `crowded`: too many connections of this source are open.
    pub(crate) fn greet(&mut self, crowded: bool, out: &mut Vec<u8>) -> Step {
        if crowded {
            self.say(Situation::TooManyConnections, "connect", b"", out);
            return Step::Close;
        }
        if self.mood.greeting_554 {
            self.say(Situation::GreetingRefused, "connect", b"", out);
            return Step::Close;
        }
        out.extend_from_slice(b"220 ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b" ESMTP ready\r\n");
        Step::Done
    }

    /// Begins anew behind a handshake (RFC 3207 section 4.2).
    pub(crate) fn secured(&mut self) {
        self.secure = true;
        self.greeted = false;
        self.reset();
        self.record.secured();
    }

    /// Takes one command or one run of data.
    pub(crate) fn step(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Step {
        if self.in_data {
            return self.take_data(input, out);
        }
        if self.chunks.coming() {
            return self.take_chunk(input, out);
        }
        let waiting = input.waiting();
        let Some(end) = memchr::memchr(b'\n', waiting) else {
            if waiting.len() < LONGEST_COMMAND {
                return Step::NeedInput;
            }
            self.record.fault("command_too_long");
            self.refuse(b"500 5.5.2 Line too long\r\n", "command", 500, out);
            return Step::Close;
        };
        let more_waits = waiting.len() > end + 1;
        let step = match waiting[..end].strip_suffix(b"\r") {
            Some(line) if line.len() <= LONGEST_COMMAND => self.command(line, more_waits, out),
            Some(_) => {
                self.record.fault("command_too_long");
                self.refuse(b"500 5.5.2 Line too long\r\n", "command", 500, out);
                Step::Close
            }
            None => {
                self.record.fault("bare_lf_in_command");
                self.senseless(b"500 5.5.2 Lines end with CRLF\r\n", 500, out)
            }
        };
        input.take(end + 1);
        step
    }

    fn command(&mut self, line: &[u8], more_waits: bool, out: &mut Vec<u8>) -> Step {
        let mut verb = [0u8; 4];
        let length = line.len().min(4);
        verb[..length].copy_from_slice(&line[..length]);
        verb.make_ascii_uppercase();
        // What stands behind BDAT is its content.
        if more_waits && self.mood.no_pipelining && &verb != b"BDAT" {
            self.record.fault("pipelined_without_offer");
        }
        if more_waits && matches!(&verb, b"EHLO" | b"HELO" | b"DATA" | b"STAR") {
            self.record.fault("sent_ahead_of_a_reply_that_must_be_awaited");
        }
        let rest = line.get(4..).unwrap_or(b"");
        match &verb {
            b"MAIL" => self.mail_from(rest, out),
            b"RCPT" => self.rcpt_to(rest, out),
            b"DATA" if rest.is_empty() => self.begin_data(out),
            b"BDAT" => self.begin_chunk(rest, out),
            b"EHLO" | b"HELO" => self.hello(&verb, rest, out),
            b"RSET" if rest.is_empty() => {
                self.reset();
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                Step::Done
            }
            b"NOOP" => {
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                Step::Done
            }
            b"VRFY" => {
                out.extend_from_slice(b"252 2.1.5 Send some mail, I will try\r\n");
                Step::Done
            }
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                Step::Close
            }
            b"STAR" if rest.eq_ignore_ascii_case(b"TTLS") => self.start_tls(out),
            _ => self.senseless(b"500 5.5.1 Command not understood\r\n", 500, out),
        }
    }

    fn hello(&mut self, verb: &[u8; 4], rest: &[u8], out: &mut Vec<u8>) -> Step {
        if rest.first() != Some(&b' ') || rest.trim_ascii().is_empty() {
            return self.senseless(b"501 5.5.4 A name is due\r\n", 501, out);
        }
        self.reset();
        self.greeted = true;
        if verb == b"HELO" {
            out.extend_from_slice(b"250 ");
            out.extend_from_slice(self.host.as_bytes());
            out.extend_from_slice(b"\r\n");
            return Step::Done;
        }
        out.extend_from_slice(b"250-");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b"\r\n");
        let size = self.size_limit();
        out.extend_from_slice(format!("250-SIZE {size}\r\n").as_bytes());
        let offers: [(bool, &[u8]); 5] = [
            (!self.mood.no_pipelining, b"250-PIPELINING\r\n"),
            (!self.mood.no_chunking, b"250-CHUNKING\r\n"),
            (!self.mood.no_8bitmime, b"250-8BITMIME\r\n"),
            (!self.mood.no_smtputf8, b"250-SMTPUTF8\r\n"),
            (self.mood.starttls != StartTls::None && !self.secure, b"250-STARTTLS\r\n"),
        ];
        for (offered, line) in offers {
            if offered {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
        Step::Done
    }

    fn start_tls(&mut self, out: &mut Vec<u8>) -> Step {
        if self.secure {
            return self.senseless(b"503 5.5.1 TLS is on already\r\n", 503, out);
        }
        match self.mood.starttls {
            StartTls::None => self.senseless(b"502 5.5.1 STARTTLS is not offered\r\n", 502, out),
            StartTls::Refuses => {
                self.refuse(b"454 4.7.0 TLS not available just now\r\n", "starttls", 454, out);
                Step::Done
            }
            kind => {
                out.extend_from_slice(b"220 2.0.0 Ready to start TLS\r\n");
                if kind == StartTls::Injects {
                    // What a man in the middle would inject (CVE-2011-0411, seen from the client).
                    out.extend_from_slice(b"250-injected.lab.invalid\r\n250 PIPELINING\r\n");
                }
                Step::StartTls(kind)
            }
        }
    }

    fn mail_from(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Step {
        let Some((sender, parameters)) = path(rest, b" FROM:") else {
            return self.senseless(b"501 5.5.4 MAIL FROM:<address> is due\r\n", 501, out);
        };
        self.tally.mail += 1;
        self.mail += 1;
        if !self.in_order_with_chunks(out) {
            return Step::Done;
        }
        if !self.greeted || self.sender.is_some() {
            self.record.fault("mail_out_of_order");
            return self.senseless(b"503 5.5.1 Bad sequence of commands\r\n", 503, out);
        }
        if self.mood.require_starttls && !self.secure {
            return self.say(Situation::TlsRequired, "mail", b"", out);
        }
        let most = self.mood.max_messages_per_connection.map(u64::from);
        if most.is_some_and(|most| self.mail > most) {
            self.say(Situation::TooManyMessages, "mail", b"", out);
            return Step::Close;
        }
        if let Some(most) = self.mood.messages_per_hour {
            self.write_down();
            if self.record.accepted_in_last_hour(self.now) >= most as usize {
                return self.say(Situation::HourQuota, "mail", b"", out);
            }
        }
        for parameter in parameters.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            if let Some(step) = self.mail_parameter(parameter, out) {
                return step;
            }
        }
        let sender = sender.to_vec();
        self.sender = Some(sender);
        out.extend_from_slice(b"250 2.1.0 Ok\r\n");
        Step::Done
    }

    /// Judges one parameter of MAIL; `None` when it is fine.
    fn mail_parameter(&mut self, parameter: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let cut = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
        let (keyword, value) = (&parameter[..cut], parameter.get(cut + 1..).unwrap_or(b""));
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            let size: Option<u64> = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            return match size {
                Some(size) if size <= self.size_limit() => None,
                Some(_) => Some(self.say(Situation::TooLarge, "mail", b"", out)),
                None => Some(self.senseless(b"501 5.5.4 SIZE is a number\r\n", 501, out)),
            };
        }
        let offered = (keyword.eq_ignore_ascii_case(b"BODY") && !self.mood.no_8bitmime)
            || (keyword.eq_ignore_ascii_case(b"SMTPUTF8") && !self.mood.no_smtputf8);
        if offered {
            return None;
        }
        self.record.fault("parameter_not_offered");
        self.refuse(b"555 5.5.4 Parameter not known\r\n", "mail", 555, out);
        Some(Step::Done)
    }

    fn rcpt_to(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Step {
        let Some((recipient, _)) = path(rest, b" TO:") else {
            return self.senseless(b"501 5.5.4 RCPT TO:<address> is due\r\n", 501, out);
        };
        if !self.in_order_with_chunks(out) {
            return Step::Done;
        }
        let Some(sender) = &self.sender else {
            // Behind a refused MAIL in one group of commands this is what a client cannot help.
            self.refuse(b"503 5.5.1 MAIL first\r\n", "rcpt", 503, out);
            return Step::Done;
        };
        let most = self.mood.max_recipients.unwrap_or(DEFAULT_RECIPIENTS) as usize;
        if self.recipients.len() >= most {
            return self.say(Situation::TooManyRecipients, "rcpt", b"", out);
        }
        self.world.recorder.recipient(recipient);
        match self.site.judge(&self.mood, recipient, sender, self.source, self.now) {
            Verdict::Welcome => {
                self.recipients.push(recipient.to_vec());
                out.extend_from_slice(b"250 2.1.5 Ok\r\n");
                Step::Done
            }
            Verdict::WrongHost => {
                self.record.fault("recipient_of_another_provider");
                self.refuse(b"550 5.7.1 Relaying denied\r\n", "rcpt", 550, out);
                Step::Done
            }
            Verdict::Refused(situation) => self.say(situation, "rcpt", recipient, out),
        }
    }

    fn begin_data(&mut self, out: &mut Vec<u8>) -> Step {
        if !self.in_order_with_chunks(out) {
            return Step::Done;
        }
        if self.recipients.is_empty() {
            let (text, code) = self.nobody_to_take_it();
            self.refuse(text, "data", code, out);
            return Step::Done;
        }
        out.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        if self.mood.hang_in_data {
            return Step::Hang;
        }
        self.in_data = true;
        self.begin_content();
        Step::Done
    }

    /// What content without a recipient is refused with.
    const fn nobody_to_take_it(&self) -> (&'static [u8], u16) {
        if self.sender.is_some() {
            (b"554 5.5.1 No valid recipients\r\n", 554)
        } else {
            (b"503 5.5.1 MAIL and RCPT first\r\n", 503)
        }
    }

    fn begin_content(&mut self) {
        self.data.size = 0;
        self.data.at_start = true;
        self.data.header.clear();
        self.data.header_ended = !self.world.recorder.wants_keys() && self.world.returns.is_none();
        self.data.key = None;
        self.data.line = 0;
        self.data.body = BodyHash::default();
    }

    fn take_data(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Step {
        let waiting = input.waiting();
        if self.data.at_start {
            if waiting.len() < 3 && b".\r\n".starts_with(waiting) {
                return Step::NeedInput;
            }
            self.data.at_start = false;
            if waiting.starts_with(b".\r\n") {
                input.take(3);
                return self.end_data(out);
            }
        }
        match memmem::find(waiting, b"\r\n.\r\n") {
            Some(at) => {
                self.take_run(&waiting[..at + 2], true);
                input.take(at + 5);
                self.end_data(out)
            }
            None => {
                // The last four octets may be the first of the end.
                let run = waiting.len().saturating_sub(4);
                if run == 0 {
                    return Step::NeedInput;
                }
                self.take_run(&waiting[..run], false);
                input.take(run);
                Step::NeedInput
            }
        }
    }

    /// Takes a run of message data. `last`: the message ends with it.
    fn take_run(&mut self, run: &[u8], last: bool) {
        self.data.size += run.len() as u64;
        self.tally.data_octets += run.len() as u64;
        if self.world.inspect {
            self.inspect(run);
        }
        if self.world.recorder.has_journal() {
            self.data.body.take(run, self.in_data);
        }
        if self.data.header_ended {
            return;
        }
        // What is sent back later needs the header itself.
        if last && self.data.header.is_empty() && self.world.returns.is_none() {
            self.data.header_ended = true;
            self.data.key = find_key(run);
            return;
        }
        let room = LARGEST_HEADER.saturating_sub(self.data.header.len());
        // The end of the headers may lie across two runs.
        let from = self.data.header.len().saturating_sub(3);
        self.data.header.extend_from_slice(&run[..run.len().min(room)]);
        let found = memmem::find(&self.data.header[from..], b"\r\n\r\n").is_some();
        if found || last || self.data.header.len() >= LARGEST_HEADER {
            self.data.header_ended = true;
            self.data.key = find_key(&self.data.header);
        }
    }

    /// Looks for line ends and lengths that RFC 5321 sections 2.3.8 and 4.5.3.1.6 forbid.
    fn inspect(&mut self, run: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', run) {
            let line = &run[start..end];
            // An LF that begins a run has its CR, if any, in the run before.
            if end > 0 && line.last() != Some(&b'\r') {
                self.record.fault("bare_lf_in_data");
            }
            if self.data.line + line.len() + 1 > LONGEST_TEXT_LINE + 1 {
                self.record.fault("text_line_too_long");
            }
            if line.len() > 1 && memchr::memchr(b'\r', &line[..line.len() - 1]).is_some() {
                self.record.fault("bare_cr_in_data");
            }
            self.data.line = 0;
            start = end + 1;
        }
        self.data.line += run.len() - start;
    }

    fn end_data(&mut self, out: &mut Vec<u8>) -> Step {
        self.in_data = false;
        let step = self.finish_message(out);
        self.reset();
        let most = self.mood.max_messages_per_connection.map(u64::from);
        if step == Step::Done
            && self.mood.close_silently
            && most.is_some_and(|most| self.mail >= most)
        {
            return Step::Close;
        }
        step
    }

    fn finish_message(&mut self, out: &mut Vec<u8>) -> Step {
        if self.data.size > self.size_limit() {
            return self.say(Situation::TooLarge, "dot", b"", out);
        }
        let recipients = std::mem::take(&mut self.recipients);
        let site = Arc::clone(&self.site);
        let first = recipients.first().map_or(&b""[..], Vec::as_slice);
        if site.refuses_content(&self.mood, first) {
            return self.say(Situation::ContentRefused, "dot", first, out);
        }
        if self.mood.drop_after_dot > 0.0 && site.drops(&self.mood, first, self.now) {
            self.note(&recipients, Fate::Dropped);
            return Step::Close;
        }
        self.note(&recipients, Fate::Accepted);
        self.send_back(&recipients);
        self.accepted += 1;
        self.tally.accepted += u32::try_from(recipients.len()).unwrap_or(u32::MAX);
        if self.mood.replies.contains_key(&Situation::Accepted) {
            return self.say(Situation::Accepted, "dot", first, out);
        }
        out.extend_from_slice(b"250 2.0.0 Ok: queued as ");
        hexadecimal(self.id, out);
        out.push(b'-');
        hexadecimal(self.accepted, out);
        out.extend_from_slice(b"\r\n");
        // The allocation serves again.
        self.recipients = recipients;
        Step::Done
    }

    /// Writes down the fate of the present message for each recipient.
    fn note(&mut self, recipients: &[Vec<u8>], fate: Fate) {
        if !self.world.recorder.wants_keys() {
            if fate == Fate::Dropped {
                recipients.iter().for_each(|_| self.world.recorder.key(0, fate, &self.record));
            }
            return;
        }
        let id = self.data.key.as_deref();
        let shown_id = id.map(String::from_utf8_lossy);
        for recipient in recipients {
            let key = hash64(hash64_folded(0, recipient), id.unwrap_or(b""));
            self.world.recorder.key(key, fate, &self.record);
            if !self.world.recorder.has_journal() {
                continue;
            }
            let text = |octets| String::from_utf8_lossy(octets);
            let line = JournalLine {
                time_micros: self.world.recorder.unix_micros(self.now),
                outcome: match fate {
                    Fate::Accepted => "accepted",
                    Fate::Dropped => "possibly_delivered",
                },
                provider: self.world.recorder.provider_name(self.site.index),
                source: self.source,
                sender: &text(self.sender.as_deref().unwrap_or(b"")),
                recipient: &text(recipient),
                id: shown_id.as_deref(),
                key: format!("{key:016x}"),
                body: format!("{:016x}", self.data.body.hash()),
            };
            // Writing JSON into memory fails only for maps without string keys; there are none.
            if serde_json::to_writer(&mut self.journal, &line).is_ok() {
                self.journal.push(b'\n');
            }
        }
    }

    /// Lets come back what the mood wants.
    fn send_back(&self, recipients: &[Vec<u8>]) {
        let Some(returns) = &self.world.returns else { return };
        for recipient in recipients {
            if let Some(kind) = self.site.comes_back(&self.mood, recipient) {
                let taken = Taken {
                    sender: self.sender.as_deref().unwrap_or(b""),
                    recipient,
                    header: &self.data.header,
                    host: &self.host,
                    wording: self.site.wording,
                    number: (self.id << 20) + self.accepted,
                };
                returns.send_back(kind, &taken);
            }
        }
    }

    fn reset(&mut self) {
        self.chunks.reset();
        self.sender = None;
        self.recipients.clear();
    }

    fn size_limit(&self) -> u64 {
        self.mood.size_limit.unwrap_or(DEFAULT_SIZE_LIMIT)
    }

    /// Says what a situation calls for, closing behind a 421.
    fn say(
        &mut self,
        situation: Situation,
        stage: &'static str,
        recipient: &[u8],
        out: &mut Vec<u8>,
    ) -> Step {
        let mood = Arc::clone(&self.mood);
        let text = match mood.replies.get(&situation) {
            Some(own) => own.as_str(),
            None => self.site.wording.text(situation),
        };
        let code = render(text, recipient, &self.source_text, out);
        if code >= 400 {
            self.record.refused(stage, code);
        }
        if code == 421 { Step::Close } else { Step::Done }
    }

    fn refuse(&self, text: &[u8], stage: &'static str, code: u16, out: &mut Vec<u8>) {
        self.record.refused(stage, code);
        out.extend_from_slice(text);
    }

    /// Refuses a command that makes no sense; too many of them end the conversation.
    fn senseless(&mut self, text: &[u8], code: u16, out: &mut Vec<u8>) -> Step {
        self.refuse(text, "command", code, out);
        self.senseless += 1;
        if self.senseless < MOST_SENSELESS {
            return Step::Done;
        }
        self.refuse(b"421 4.7.0 Too many errors\r\n", "command", 421, out);
        Step::Close
    }
}

#[cfg(test)]
mod tests;
