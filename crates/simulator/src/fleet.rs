//! The mail exchangers: small scripted servers over octets, with moods, and the only witnesses of what was
//! really sent.
//!
//! A server reads whole command lines and content as they arrive and answers in order. It writes down
//! every connection, every MAIL FROM and every message it took; the judge believes nothing else.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use mail::id::SourceId;
use mail::time::Timestamp;

use crate::chance::Chance;
use crate::plan::{Mood, Provider};

/// A connection as the far end saw it; times are those at which our side acted.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionSeen {
    pub(crate) source: SourceId,
    pub(crate) target: IpAddr,
    pub(crate) opened: Timestamp,
    pub(crate) closed: Option<Timestamp>,
    pub(crate) mails: u32,
}

/// A MAIL FROM.
#[derive(Clone, Debug)]
pub(crate) struct MailSeen {
    /// When it arrived.
    pub(crate) at: Timestamp,
    /// When it left us.
    pub(crate) sent: Timestamp,
    pub(crate) source: SourceId,
    pub(crate) target: IpAddr,
    /// The recipient, when RCPT came.
    pub(crate) serial: Option<u64>,
}

/// A message that a server took.
#[derive(Clone, Debug)]
pub(crate) struct Accept {
    pub(crate) serial: u64,
    /// When our side read the answer; `None`: it never did.
    pub(crate) answered: Option<Timestamp>,
}

/// Octets that a server writes.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// When they leave.
    pub(crate) at: Timestamp,
    pub(crate) octets: Vec<u8>,
    /// The message whose acceptance they state.
    pub(crate) accept: Option<usize>,
    /// The connection is closed behind them.
    pub(crate) closes: bool,
}

impl Output {
    /// The same in parts of so many octets. What the end of the reply means comes with the last of them.
    pub(crate) fn in_parts(self, length: usize, apart: Duration) -> Vec<Self> {
        let mut parts = Vec::new();
        let (mut rest, mut at) = (&self.octets[..], self.at);
        while rest.len() > length && length > 0 {
            let (first, later) = rest.split_at(length);
            parts.push(Self { at, octets: first.to_vec(), accept: None, closes: false });
            (rest, at) = (later, at + apart);
        }
        parts.push(Self { at, octets: rest.to_vec(), ..self });
        parts
    }
}

#[derive(Clone, Debug)]
struct Socket {
    provider: usize,
    seen: usize,
    input: Vec<u8>,
    in_content: bool,
    /// Octets of a chunk that are still to come.
    in_chunk: Option<usize>,
    /// A BDAT has failed: only RSET is understood.
    reset_due: bool,
    mail: Option<usize>,
    recipient: Option<u64>,
    messages: u64,
    free_at: Timestamp,
    hangs: bool,
    open: bool,
}

/// All servers.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    providers: Vec<Provider>,
    began: Timestamp,
    /// Moods end here.
    faults_end: Timestamp,
    sockets: BTreeMap<u64, Socket>,
    greylisted: BTreeMap<(SourceId, u64), Timestamp>,
    pub(crate) connections: Vec<ConnectionSeen>,
    pub(crate) mails: Vec<MailSeen>,
    pub(crate) accepts: Vec<Accept>,
    /// Refusals for good, by recipient.
    pub(crate) refused: BTreeMap<u64, Timestamp>,
    /// When recipients were taken, by the rate that [`Mood::per_minute`] counts.
    taken_at: Vec<Timestamp>,
    /// When recipients were refused for it.
    pub(crate) refused_for_rate: Vec<Timestamp>,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Fleet {
    pub(crate) fn new(providers: Vec<Provider>, began: Timestamp, faults_end: Timestamp) -> Self {
        Self {
            providers,
            began,
            faults_end,
            sockets: BTreeMap::new(),
            greylisted: BTreeMap::new(),
            connections: Vec::new(),
            mails: Vec::new(),
            accepts: Vec::new(),
            refused: BTreeMap::new(),
            taken_at: Vec::new(),
            refused_for_rate: Vec::new(),
        }
    }

    /// The provider that has an address.
    pub(crate) fn provider_of(&self, target: IpAddr) -> usize {
        let has =
            |provider: &Provider| provider.hosts.iter().any(|h| h.addresses.contains(&target));
        self.providers.iter().position(has).unwrap_or(0)
    }

    /// When a piece arrives that leaves now, in either direction.
    pub(crate) fn arrival(
        &self,
        now: Timestamp,
        provider: usize,
        chance: &mut Chance,
    ) -> Timestamp {
        let Provider { latency, network, .. } = &self.providers[provider];
        if now >= self.faults_end {
            return now + *latency;
        }
        let jitter = match network.jitter.as_millis() {
            0 => 0,
            most => chance.between(0, u64::try_from(most).unwrap_or(0)),
        };
        let at = now + *latency + Duration::from_millis(jitter);
        let within = |(from, until): &&(Duration, Duration)| {
            let (from, until) = (self.began + *from, self.began + *until);
            from <= at && now < until
        };
        let ends = network.partitions.iter().filter(within).map(|(_, until)| self.began + *until);
        ends.max().map_or(at, |end| at.max(end + *latency))
    }

    /// Where a piece is cut in two, if it is.
    pub(crate) fn cut(
        &self,
        now: Timestamp,
        provider: usize,
        length: usize,
        chance: &mut Chance,
    ) -> Option<usize> {
        let percent = self.providers[provider].network.split_percent;
        if percent == 0 || length < 2 || now >= self.faults_end || !chance.percent(percent) {
            return None;
        }
        usize::try_from(chance.between(1, length as u64 - 1)).ok()
    }

    /// How far apart the parts of a reply come, if it comes in parts.
    pub(crate) fn drip(&self, now: Timestamp, provider: usize) -> Option<Duration> {
        Some(self.mood(now, provider).drip).filter(|drip| !drip.is_zero())
    }

    fn mood(&self, now: Timestamp, provider: usize) -> Mood {
        let Provider { mood, spells, .. } = &self.providers[provider];
        let within = |spell: &(Duration, Duration)| {
            self.began + spell.0 <= now && now < self.began + spell.1
        };
        if now < self.faults_end && (spells.is_empty() || spells.iter().any(within)) {
            mood.clone()
        } else {
            mood.healed()
        }
    }

    /// A connection arrives that left us at `sent_at`. `None`: refused.
    pub(crate) fn open(
        &mut self,
        now: Timestamp,
        sent_at: Timestamp,
        socket: u64,
        source: SourceId,
        target: IpAddr,
        chance: &mut Chance,
    ) -> Option<Vec<Output>> {
        let provider = self.provider_of(target);
        let mood = self.mood(now, provider);
        let refused = mood.refuse_percent > 0 && chance.percent(mood.refuse_percent);
        self.connections.push(ConnectionSeen {
            source,
            target,
            opened: sent_at,
            closed: refused.then_some(sent_at),
            mails: 0,
        });
        if refused {
            return None;
        }
        let seen = self.connections.len() - 1;
        let open = self.sockets.values().filter(|s| s.provider == provider && s.open).count();
        self.sockets.insert(
            socket,
            Socket {
                provider,
                seen,
                input: Vec::new(),
                in_content: false,
                in_chunk: None,
                reset_due: false,
                mail: None,
                recipient: None,
                messages: 0,
                free_at: now,
                hangs: false,
                open: true,
            },
        );
        let mut out = Vec::new();
        if mood.connections_max.is_some_and(|max| open >= max) {
            self.say(now, socket, &mood, &mut out, "421 4.7.0 too many connections", true);
        } else if mood.unwelcome_percent > 0 && chance.percent(mood.unwelcome_percent) {
            self.say(now, socket, &mood, &mut out, "554 5.7.1 not from you", true);
        } else if mood.hang_percent > 0 && chance.percent(mood.hang_percent) {
            self.hang(socket);
        } else {
            self.say(now, socket, &mood, &mut out, "220 mx ESMTP", false);
        }
        Some(out)
    }

    fn hang(&mut self, socket: u64) {
        if let Some(socket) = self.sockets.get_mut(&socket) {
            socket.hangs = true;
        }
    }

    fn say(
        &mut self,
        now: Timestamp,
        id: u64,
        mood: &Mood,
        out: &mut Vec<Output>,
        text: &str,
        closes: bool,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.free_at = socket.free_at.max(now) + mood.think;
        if closes {
            socket.open = false;
        }
        let octets = format!("{text}\r\n").into_bytes();
        out.push(Output { at: socket.free_at, octets, accept: None, closes });
    }

    /// Our side has closed, or is gone.
    pub(crate) fn closed_by_us(&mut self, sent_at: Timestamp, id: u64) {
        if let Some(socket) = self.sockets.remove(&id) {
            let seen = &mut self.connections[socket.seen];
            seen.closed = Some(seen.closed.map_or(sent_at, |before| before.min(sent_at)));
        }
    }

    /// When our side read that a message was taken, as far as it has.
    pub(crate) fn accepted_at(&self) -> impl Iterator<Item = Timestamp> {
        self.accepts.iter().filter_map(|accept| accept.answered)
    }

    /// Our side has read an answer.
    pub(crate) fn answer_read(&mut self, now: Timestamp, accept: usize) {
        self.accepts[accept].answered.get_or_insert(now);
    }

    /// Octets arrive that left us at `sent_at`.
    pub(crate) fn receive(
        &mut self,
        now: Timestamp,
        sent_at: Timestamp,
        id: u64,
        octets: &[u8],
        chance: &mut Chance,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        let Some(socket) = self.sockets.get_mut(&id) else { return out };
        if !socket.open || socket.hangs {
            return out;
        }
        socket.input.extend_from_slice(octets);
        let provider = socket.provider;
        let mood = self.mood(now, provider);
        while let Some(socket) = self.sockets.get_mut(&id) {
            if !socket.open || socket.hangs {
                break;
            }
            if socket.in_content {
                let ends = |from: &[u8]| from.windows(5).position(|five| five == b"\r\n.\r\n");
                // A content that is empty is a lone dot.
                let end = if socket.input.starts_with(b".\r\n") {
                    Some(3)
                } else {
                    ends(&socket.input).map(|at| at + 5)
                };
                let Some(end) = end else { break };
                socket.input.drain(..end);
                socket.in_content = false;
                self.content_ended(now, id, &mood, &mut out, chance);
                continue;
            }
            if let Some(left) = socket.in_chunk {
                let part = left.min(socket.input.len());
                socket.input.drain(..part);
                socket.in_chunk = (part < left).then_some(left - part);
                if part < left {
                    break;
                }
                self.chunk_ended(now, id, &mood, &mut out, chance);
                continue;
            }
            let Some(end) = socket.input.windows(2).position(|two| two == b"\r\n") else { break };
            let line = String::from_utf8_lossy(&socket.input[..end]).into_owned();
            socket.input.drain(..end + 2);
            if mood.hang_percent > 0 && chance.percent(mood.hang_percent) {
                socket.hangs = true;
                break;
            }
            self.command((now, sent_at), id, &line, &mood, &mut out, chance);
        }
        out
    }

    fn command(
        &mut self,
        (now, sent_at): (Timestamp, Timestamp),
        id: u64,
        line: &str,
        mood: &Mood,
        out: &mut Vec<Output>,
        chance: &mut Chance,
    ) {
        let upper = line.to_ascii_uppercase();
        if upper.starts_with("EHLO") {
            let offers =
                [(mood.pipelining, "250-PIPELINING\r\n"), (mood.chunking, "250-CHUNKING\r\n")];
            let offers = offers.iter().filter(|(offered, _)| *offered).map(|(_, line)| *line);
            let offer = format!("250-mx\r\n{}250 8BITMIME", offers.collect::<String>());
            self.say(now, id, mood, out, &offer, false);
        } else if upper.starts_with("BDAT ") && !mood.unknown_bdat {
            let octets = upper.strip_prefix("BDAT ").and_then(|rest| rest.strip_suffix(" LAST"));
            let Some(socket) = self.sockets.get_mut(&id) else { return };
            match octets.and_then(|octets| octets.parse().ok()) {
                Some(octets) => socket.in_chunk = Some(octets),
                None => self.say(now, id, mood, out, "501 5.5.4 how many octets", true),
            }
        } else if upper != "RSET" && upper != "QUIT" && self.reset_due(id) {
            self.say(now, id, mood, out, "503 5.5.1 RSET first", false);
        } else if upper.starts_with("MAIL") {
            self.mail_from((now, sent_at), id, mood, out);
        } else if upper.starts_with("RCPT") {
            self.rcpt_to(now, id, &upper, mood, out, chance);
        } else if upper.starts_with("DATA") {
            let Some(socket) = self.sockets.get_mut(&id) else { return };
            if socket.recipient.is_some() {
                socket.in_content = true;
                self.say(now, id, mood, out, "354 go on", false);
            } else {
                self.say(now, id, mood, out, "503 5.5.1 no recipient", false);
            }
        } else if upper.starts_with("RSET") {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.mail = None;
                socket.recipient = None;
                socket.reset_due = false;
            }
            self.say(now, id, mood, out, "250 2.0.0 ok", false);
        } else if upper.starts_with("QUIT") {
            self.say(now, id, mood, out, "221 2.0.0 bye", true);
        } else {
            self.say(now, id, mood, out, "502 5.5.1 what", false);
        }
    }

    fn mail_from(
        &mut self,
        (now, sent): (Timestamp, Timestamp),
        id: u64,
        mood: &Mood,
        out: &mut Vec<Output>,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let seen = &mut self.connections[socket.seen];
        seen.mails += 1;
        self.mails.push(MailSeen {
            at: now,
            sent,
            source: seen.source,
            target: seen.target,
            serial: None,
        });
        socket.mail = Some(self.mails.len() - 1);
        socket.recipient = None;
        socket.messages += 1;
        let count = socket.messages;
        if mood.refuses_after.is_some_and(|max| count > max) {
            self.say(now, id, mood, out, "421 4.7.0 too many messages", true);
        } else if mood.closes_after.is_some_and(|max| count > max) {
            socket.open = false;
            let at = socket.free_at.max(now);
            out.push(Output { at, octets: Vec::new(), accept: None, closes: true });
        } else {
            self.say(now, id, mood, out, "250 2.1.0 ok", false);
        }
    }

    fn rcpt_to(
        &mut self,
        now: Timestamp,
        id: u64,
        line: &str,
        mood: &Mood,
        out: &mut Vec<Output>,
        chance: &mut Chance,
    ) {
        let serial = serial_of(line);
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let (provider, source) = (socket.provider, self.connections[socket.seen].source);
        let (Some(mail), Some(serial)) = (socket.mail, serial) else {
            return self.say(now, id, mood, out, "503 5.5.1 no transaction", false);
        };
        self.mails[mail].serial = Some(serial);
        if mood.poison_every.is_some_and(|every| serial.is_multiple_of(every)) {
            let text = "421 4.3.0 not this recipient, not on this connection";
            return self.say(now, id, mood, out, text, true);
        }
        if mood.greylists {
            let first = *self.greylisted.entry((source, serial)).or_insert(now);
            if now.since(first) < Duration::from_secs(300) {
                let text = "451 4.7.1 greylisted, come back later";
                return self.say(now, id, mood, out, text, false);
            }
        }
        let lately = |fleet: &Self| {
            let of_provider = |mail: &&MailSeen| fleet.provider_of(mail.target) == provider;
            let recent = fleet.mails.iter().rev().take_while(|mail| now.since(mail.at) < HOUR);
            recent.filter(of_provider).count()
        };
        let minute_ago = now.saturating_sub(Duration::from_secs(60));
        let in_minute = self.taken_at.len() - self.taken_at.partition_point(|at| *at <= minute_ago);
        if mood.per_minute.is_some_and(|max| in_minute >= max) {
            self.refused_for_rate.push(now);
            let text = "421 4.7.0 rate limit exceeded, slow down";
            self.say(now, id, mood, out, text, true);
        } else if mood.hourly.is_some_and(|max| lately(self) > max) {
            let text = "450 4.7.28 too many messages from your address this hour";
            self.say(now, id, mood, out, text, false);
        } else if chance.percent(mood.unknown_percent) && mood.unknown_percent > 0 {
            self.refused.insert(serial, now);
            self.say(now, id, mood, out, "550 5.1.1 no such user", false);
        } else if mood.temporary_percent > 0 && chance.percent(mood.temporary_percent) {
            self.say(now, id, mood, out, "452 4.2.2 mailbox full", false);
        } else {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.recipient = Some(serial);
            }
            if mood.per_minute.is_some() {
                self.taken_at.push(now);
            }
            self.say(now, id, mood, out, "250 2.1.5 ok", false);
        }
    }

    fn reset_due(&self, id: u64) -> bool {
        self.sockets.get(&id).is_some_and(|socket| socket.reset_due)
    }

    /// The octets of a BDAT have come. Without a recipient they were for nothing.
    fn chunk_ended(
        &mut self,
        now: Timestamp,
        id: u64,
        mood: &Mood,
        out: &mut Vec<Output>,
        chance: &mut Chance,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let (in_vain, accepts) = (socket.recipient.is_none(), self.accepts.len());
        if in_vain {
            self.say(now, id, mood, out, "503 5.5.1 no recipient", false);
        } else {
            self.content_ended(now, id, mood, out, chance);
        }
        let refused = self.accepts.len() == accepts;
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.reset_due = refused;
        }
    }

    fn content_ended(
        &mut self,
        now: Timestamp,
        id: u64,
        mood: &Mood,
        out: &mut Vec<Output>,
        chance: &mut Chance,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(serial) = socket.recipient.take() else { return };
        socket.mail = None;
        if mood.reject_percent > 0 && chance.percent(mood.reject_percent) {
            self.refused.insert(serial, now);
            return self.say(now, id, mood, out, "554 5.7.1 not this content", false);
        }
        if mood.swallow_percent > 0 && chance.percent(mood.swallow_percent) {
            // Half of those who say nothing have taken the message.
            if chance.percent(50) {
                self.accepts.push(Accept { serial, answered: None });
            }
            return self.hang(id);
        }
        let drops = mood.drop_percent > 0 && chance.percent(mood.drop_percent);
        // Half of those who drop have taken the message.
        if drops && chance.percent(50) {
            socket.open = false;
            let at = socket.free_at.max(now);
            out.push(Output { at, octets: Vec::new(), accept: None, closes: true });
            return;
        }
        self.accepts.push(Accept { serial, answered: None });
        if drops {
            let Some(socket) = self.sockets.get_mut(&id) else { return };
            socket.open = false;
            let at = socket.free_at.max(now);
            out.push(Output { at, octets: Vec::new(), accept: None, closes: true });
            return;
        }
        let accept = self.accepts.len() - 1;
        let resets = mood.reset_percent > 0 && chance.percent(mood.reset_percent);
        self.say(now, id, mood, out, "250 2.0.0 taken", resets);
        if let Some(last) = out.last_mut() {
            last.accept = Some(accept);
        }
    }
}

/// The number in `RCPT TO:<u12@...>`.
fn serial_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("<U")?;
    let (digits, _) = rest.split_once('@')?;
    digits.parse().ok()
}
