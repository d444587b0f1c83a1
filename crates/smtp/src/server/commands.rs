//! What each command line means to the session.

use super::login::{self, Step};
use super::parse::{self, BadPath};
use super::text::TextReader;
use super::{
    Access, Admission, Mode, OfferedRecipient, ServerEvent, ServerSession, Transaction,
    reader_patience,
};

impl<A: Admission> ServerSession<A> {
    /// Answers one whole line.
    pub(super) fn answer_line(&mut self, line: &[u8]) {
        // Without EHLO nobody was told that commands may be sent in groups.
        self.must_wait = !self.extended;
        let text =
            core::str::from_utf8(line).ok().filter(|text| !text.chars().any(char::is_control));
        let Some(text) = text else {
            self.mode = Mode::Command;
            return self.refuse("500 5.5.2 the line has octets that no command has");
        };
        if let Mode::Login(dialogue) = &self.mode {
            let step = login::go_on(dialogue.clone(), text);
            return self.login_step(step);
        }
        let (verb, rest) = parse::verb(text);
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" if !self.settings.lmtp => self.hello(rest, true),
            "HELO" if !self.settings.lmtp => self.hello(rest, false),
            "LHLO" if self.settings.lmtp => self.hello(rest, true),
            "MAIL" => self.mail(rest),
            "RCPT" => self.recipient(rest),
            "DATA" => self.data(rest),
            "BDAT" => self.chunk(rest),
            "RSET" => {
                self.transaction = None;
                self.idle("250 2.0.0 forgotten");
            }
            "NOOP" => self.idle("250 2.0.0 ok"),
            "VRFY" => self.idle("252 2.0.0 not told; send the mail and see"),
            "HELP" => self.idle("214 2.0.0 see RFC 5321"),
            "QUIT" => self.say_and_close("221 2.0.0 bye", "QUIT"),
            "STARTTLS" => self.starttls(rest),
            "AUTH" => self.auth(rest),
            "EXPN" | "ETRN" | "TURN" => self.refuse("502 5.5.1 this command is not offered"),
            _ => self.refuse("500 5.5.2 this is no command"),
        }
    }

    /// Answers a command that leads to no message, within bounds.
    fn idle(&mut self, reply: &str) {
        self.idle_commands += 1;
        if self.idle_commands > self.settings.limits.idle_commands {
            self.say_and_close("421 4.7.0 too many commands without mail", "idle commands");
        } else {
            self.say(reply);
        }
    }

    fn hello(&mut self, name: &str, extended: bool) {
        self.must_wait = true;
        if !parse::is_client_name(name) {
            return self.refuse("501 5.5.4 a host name or address literal is needed");
        }
        self.transaction = None;
        self.helo = Some(name.to_owned());
        self.extended = extended;
        let own = self.settings.host_name.clone();
        if !extended {
            return self.idle(&format!("250 {own}"));
        }
        let mut answer = format!(
            "250-{own}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n\
             250-SMTPUTF8\r\n250-CHUNKING\r\n",
            self.settings.limits.message_octets
        );
        if self.settings.starttls && !self.tls {
            answer.push_str("250-STARTTLS\r\n");
        }
        if self.offers_auth() {
            answer.push_str("250-AUTH PLAIN LOGIN\r\n");
        }
        answer.push_str("250 ENHANCEDSTATUSCODES");
        self.idle(&answer);
    }

    fn offers_auth(&self) -> bool {
        self.has_logins() && (self.tls || self.settings.auth_in_clear)
    }

    /// Whether anybody can log in here at all, now or after STARTTLS.
    fn has_logins(&self) -> bool {
        let settings = &self.settings;
        settings.logins
            && settings.access != Access::OwnRecipientsOnly
            && (self.tls || settings.starttls || settings.auth_in_clear)
    }

    fn mail(&mut self, rest: &str) {
        if self.helo.is_none() {
            return self.refuse("503 5.5.1 say EHLO first");
        }
        if self.settings.tls_required && !self.tls {
            return self.refuse("530 5.7.0 say STARTTLS first");
        }
        if self.settings.access == Access::Authenticated && self.user.is_none() {
            return self.refuse("530 5.7.0 authentication is required");
        }
        if self.transaction.is_some() {
            return self.refuse("503 5.5.1 a message is open already");
        }
        let Some((path, parameters)) = argument(rest, "FROM:").and_then(parse::bracketed) else {
            return self.refuse("501 5.5.4 the form is MAIL FROM:<address>");
        };
        let parameters = match parse::mail_parameters(parameters) {
            Ok(parameters) => parameters,
            Err(reply) => return self.refuse(reply),
        };
        if parameters.size.is_some_and(|size| size > self.settings.limits.message_octets) {
            return self.refuse("552 5.3.4 the message is too large");
        }
        let sender = if path.is_empty() {
            String::new()
        } else {
            match parse::address(path, parameters.smtputf8) {
                Ok(sender) => sender,
                // Whoever sends bounces may call himself what he likes: nothing goes back there.
                Err(BadPath::Syntax)
                    if self.settings.access == Access::OwnRecipientsOnly
                        && path.len() <= 254
                        && path.bytes().all(|octet| octet.is_ascii_graphic()) =>
                {
                    path.to_owned()
                }
                Err(BadPath::Syntax) => {
                    return self.refuse("501 5.1.7 the return path is not an address");
                }
                Err(BadPath::NeedsSmtpUtf8) => {
                    return self.refuse("553 5.6.7 such an address needs SMTPUTF8");
                }
            }
        };
        self.transaction =
            Some(Transaction { sender, smtputf8: parameters.smtputf8, ..Transaction::default() });
        self.say("250 2.1.0 sender ok");
    }

    fn recipient(&mut self, rest: &str) {
        let Some(open) = &mut self.transaction else {
            return self.refuse("503 5.5.1 say MAIL first");
        };
        if open.chunks.is_some() {
            return self.refuse("503 5.5.1 the content has begun");
        }
        let Some((path, parameters)) = argument(rest, "TO:").and_then(parse::bracketed) else {
            return self.refuse("501 5.5.4 the form is RCPT TO:<address>");
        };
        if !parameters.is_empty() {
            return self.refuse("555 5.5.4 a parameter is not known here");
        }
        // RFC 5321, 4.1.1.3: the one name that stands without a domain.
        let read = if path.eq_ignore_ascii_case("postmaster") {
            Ok("postmaster".to_owned())
        } else {
            parse::address(path, open.smtputf8)
        };
        let recipient = match read {
            Ok(recipient) => recipient,
            Err(BadPath::Syntax) => return self.refuse("501 5.1.3 this is not an address"),
            Err(BadPath::NeedsSmtpUtf8) => {
                return self.refuse("553 5.6.7 such an address needs SMTPUTF8");
            }
        };
        if open.recipients.len() >= self.settings.limits.recipients {
            return self.say("452 4.5.3 too many recipients for one message");
        }
        let offered = OfferedRecipient {
            user: self.user.as_deref(),
            sender: &open.sender,
            recipient: &recipient,
        };
        if let Some(reply) = self.admission.refuse(&offered) {
            self.errors += u32::from(reply.code() >= 500);
            if self.errors > self.settings.limits.errors {
                return self.say_and_close("421 4.7.0 too many errors", "too many errors");
            }
            return self.say_reply(&reply);
        }
        open.recipients.push(recipient);
        self.say("250 2.1.5 recipient ok");
    }

    fn data(&mut self, rest: &str) {
        self.must_wait = true;
        if !rest.is_empty() {
            return self.refuse("501 5.5.4 DATA has no argument");
        }
        match &self.transaction {
            None => self.refuse("503 5.5.1 say MAIL first"),
            Some(open) if open.chunks.is_some() => {
                self.refuse("503 5.5.1 the content has begun with BDAT");
            }
            Some(open) if open.recipients.is_empty() => {
                self.refuse("554 5.5.1 no recipient was accepted");
            }
            Some(_) => {
                self.mode = Mode::Text(TextReader::new(self.settings.limits.message_octets));
                self.block = 0;
                self.say("354 end with a dot on a line of its own");
            }
        }
    }

    /// BDAT (RFC 3030). Its octets follow whatever the answer will be, so they are always taken.
    fn chunk(&mut self, rest: &str) {
        let Some((size, last)) = parse::chunk(rest) else {
            return self.say_and_close(
                "501 5.5.4 the form is BDAT size [LAST]",
                "BDAT without a size that can be read",
            );
        };
        if size > reader_patience(&self.settings) {
            return self.say_and_close("552 5.3.4 the chunk is far too large", "a chunk too large");
        }
        let limit = self.settings.limits.message_octets;
        let mut keep = false;
        if let Some(open) = self.transaction.as_mut().filter(|open| !open.recipients.is_empty()) {
            let so_far = open.chunks.get_or_insert_default().len() as u64;
            keep = so_far.saturating_add(size) <= limit;
        }
        self.block = 0;
        if size == 0 {
            self.finish_chunk(last, keep);
        } else {
            self.mode = Mode::Chunk { missing: size, last, keep };
        }
    }

    /// Answers a chunk whose octets have all come.
    pub(super) fn finish_chunk(&mut self, last: bool, keep: bool) {
        self.mode = Mode::Command;
        let Some(open) = self.transaction.as_mut().filter(|open| !open.recipients.is_empty())
        else {
            return self.refuse("503 5.5.1 no recipient was accepted");
        };
        if !keep {
            // RFC 3030, 2: after a failed chunk the client must start again.
            self.transaction = None;
            return self.refuse("552 5.3.4 the message is too large");
        }
        if last {
            let content = open.chunks.take().unwrap_or_default();
            self.finish_content(content, false);
        } else {
            self.say("250 2.0.0 chunk taken");
        }
    }

    fn starttls(&mut self, rest: &str) {
        self.must_wait = true;
        if self.tls {
            return self.refuse("503 5.5.1 this is TLS already");
        }
        if !self.settings.starttls {
            return self.refuse("502 5.5.1 this command is not offered");
        }
        if !rest.is_empty() {
            return self.refuse("501 5.5.4 STARTTLS has no argument");
        }
        self.mode = Mode::AwaitsTls { announced: false };
        self.say("220 2.0.0 go ahead");
    }

    fn auth(&mut self, rest: &str) {
        self.must_wait = true;
        if !self.has_logins() {
            return self.refuse("502 5.5.1 this command is not offered");
        }
        if self.helo.is_none() {
            return self.refuse("503 5.5.1 say EHLO first");
        }
        if !self.offers_auth() {
            return self.refuse("538 5.7.11 say STARTTLS first");
        }
        if self.user.is_some() || self.transaction.is_some() {
            return self.refuse("503 5.5.1 not now");
        }
        let step = login::begin(rest);
        self.login_step(step);
    }

    fn login_step(&mut self, step: Step) {
        self.must_wait = true;
        match step {
            Step::Ask(dialogue, reply) => {
                self.mode = Mode::Login(dialogue);
                self.say(reply);
            }
            Step::Check { user, password } => {
                self.mode = Mode::AwaitsLogin { user: user.clone() };
                self.events.push_back(ServerEvent::Authenticate { user, password });
            }
            Step::Fail(reply) => {
                self.mode = Mode::Command;
                self.refuse(reply);
            }
        }
    }
}

/// What follows a keyword with its colon, in any case, with or without a space behind it.
fn argument<'a>(rest: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| tail.trim_start_matches(' '))
}
