//! Any octets as what a server says to our client while three messages wait.
//!
//! Every message is answered once; the session ends once; what it writes has no line that it was not asked to write: no bare
//! CR or LF, no second end of data, and behind BDAT the content and nothing else.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mail::time::Timestamp;
use smtp::client::{ClientEvent, ClientSession, ClientSettings, Envelope, Timeouts, TlsMode};

const MESSAGES: u64 = 3;

const CONTENT: &[u8] = b"Subject: x\r\n\r\n.a line with a dot\r\n..\r\n.\r\nend\r\n";

fn envelope(token: u64) -> Envelope {
    Envelope {
        token,
        sender: "b@we.test".into(),
        recipient: format!("r{token}@x.test").into(),
        content: Bytes::from_static(CONTENT),
        smtputf8: token == 2,
        test_only: token == 3,
        send_before: Timestamp::NEVER,
    }
}

fuzz_target!(|octets: &[u8]| {
    let [choice, size, rest @ ..] = octets else { return };
    let now = Timestamp::from_secs(1_000);
    let tls = match choice & 3 {
        0 => TlsMode::Disabled,
        1 => TlsMode::Required,
        _ => TlsMode::Opportunistic,
    };
    let settings = ClientSettings {
        helo: "we.test".into(),
        tls,
        lmtp: choice & 4 != 0,
        timeouts: Timeouts::default(),
        max_messages: 2 + u32::from(choice & 8),
        pipelining: choice & 16 == 0,
        chunking: choice & 64 == 0,
    };
    let mut session = ClientSession::new(settings, now);
    let mut next = 1;
    let mut answered = Vec::new();
    let mut closed = 0;
    let mut sent = Vec::new();
    let mut pieces = rest.chunks(usize::from(*size) + 1);
    let mut over = false;
    loop {
        if next <= MESSAGES && (session.wants_message() || session.is_closed()) {
            session.enqueue(now, envelope(next));
            next += 1;
        }
        let mut written = 0;
        while let Some(piece) = session.next_to_send() {
            written += piece.len();
            sent.extend_from_slice(&piece);
        }
        session.written(now, written);
        if let Some(event) = session.poll_event() {
            match event {
                ClientEvent::StartTls if choice & 32 == 0 => session.tls_established(now),
                ClientEvent::StartTls => session.tls_failed(now, "bad certificate"),
                ClientEvent::Done { token, .. } => answered.push(token),
                ClientEvent::Closed(_) => closed += 1,
                ClientEvent::Ready { .. } => {}
            }
            continue;
        }
        match pieces.next() {
            Some(piece) => session.receive(now, piece),
            None if over && next > MESSAGES => break,
            None => {
                over = true;
                session.connection_lost(now, "the end");
            }
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..next).collect::<Vec<_>>());
    assert_eq!(closed, 1);
    let mut rest = sent.as_slice();
    while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        if let Some(octets) = line.strip_prefix(b"BDAT ") {
            assert_eq!(octets, format!("{} LAST\r\n", CONTENT.len()).as_bytes());
            assert!(rest.starts_with(&CONTENT[..CONTENT.len().min(rest.len())]), "another content");
            rest = &rest[CONTENT.len().min(rest.len())..];
            let next = [&b"MAIL "[..], b"RSET\r", b"QUIT\r"];
            assert!(rest.is_empty() || next.iter().any(|verb| rest.starts_with(verb)), "more behind it");
        }
    }
    let mut before = 0;
    for octet in sent {
        assert_eq!(octet == b'\n', before == b'\r', "a bare CR or LF");
        before = octet;
    }
});
