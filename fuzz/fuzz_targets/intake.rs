//! Any octets as what a client says to our listener.
//!
//! The first octet chooses the listener's settings, the second the size of the pieces in which the rest arrives. However
//! they are cut, the same messages and replies come out; no message has a bare CR or LF or a NUL in it; what is held stays
//! within the bounds.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mail::reply::Reply;
use mail::time::Timestamp;
use smtp::server::{
    Access, ENDLESS_LINE, MOST_PENDING, OfferedRecipient, ServerEvent, ServerLimits, ServerSession,
    ServerSettings,
};

const MESSAGE_OCTETS: u64 = 4_096;

type Policy = fn(&OfferedRecipient<'_>) -> Option<Reply>;

fn policy(offered: &OfferedRecipient<'_>) -> Option<Reply> {
    assert!(!offered.recipient.contains(['\r', '\n', '\0']), "{:?}", offered.recipient);
    offered.recipient.starts_with("gone@").then(|| Reply::line(550, "5.1.1 quarantined"))
}

fn settings(choice: u8) -> ServerSettings {
    let flag = |bit: u8| choice & (1 << bit) != 0;
    ServerSettings {
        host_name: "we.test".into(),
        lmtp: flag(0),
        starttls: flag(1),
        tls_required: flag(2),
        logins: flag(3),
        auth_in_clear: flag(4),
        access: match (flag(5), flag(6)) {
            (true, _) => Access::Everybody,
            (false, true) => Access::OwnRecipientsOnly,
            (false, false) => Access::Authenticated,
        },
        limits: ServerLimits {
            message_octets: MESSAGE_OCTETS,
            recipients: 3,
            ..ServerLimits::default()
        },
        ..ServerSettings::default()
    }
}

fn check(event: &ServerEvent) {
    let ServerEvent::Message(message) = event else { return };
    assert!(!message.recipients.is_empty());
    assert!(message.content.len() as u64 <= MESSAGE_OCTETS);
    let names = message.recipients.iter().chain([&message.sender]);
    assert!(names.into_iter().all(|name| !name.contains(['\r', '\n', '\0'])), "{message:?}");
    let mut before = 0;
    for octet in message.content.iter().copied().chain([0xFF]) {
        assert_ne!(octet, 0, "a NUL");
        assert_eq!(octet == b'\n', before == b'\r', "a bare CR or LF");
        before = octet;
    }
}

/// The whole conversation.
fn play(choice: u8, octets: &[u8], size: usize) -> (Vec<ServerEvent>, Vec<u8>) {
    let now = Timestamp::from_secs(1_000);
    let mut session =
        ServerSession::new(Arc::new(settings(choice)), policy as Policy, false, now);
    let (mut events, mut sent) = (Vec::new(), Vec::new());
    let mut pieces = octets.chunks(size);
    loop {
        while let Some(piece) = session.next_to_send() {
            sent.extend_from_slice(&piece);
        }
        if let Some(event) = session.poll_event() {
            check(&event);
            match &event {
                ServerEvent::StartTls => session.tls_established(now),
                ServerEvent::Authenticate { user, .. } => {
                    let good = user.len() % 2 == 0;
                    session.auth_result(now, good);
                }
                ServerEvent::Message(_) => {
                    session.message_result(now, &Reply::line(250, "2.0.0 queued"));
                }
                ServerEvent::Closed { .. } => {}
            }
            events.push(event);
            continue;
        }
        let most = 2 * MESSAGE_OCTETS as usize + ENDLESS_LINE + MOST_PENDING + octets.len();
        assert!(session.held_octets() <= most, "{} octets", session.held_octets());
        match pieces.next() {
            Some(piece) => session.receive(now, piece),
            None => return (events, sent),
        }
    }
}

fuzz_target!(|octets: &[u8]| {
    let [choice, size, rest @ ..] = octets else { return };
    let whole = play(*choice, rest, usize::from(*size) + 1);
    // STARTTLS forgets what came in the same piece, and speaking out of turn is judged by what has come: what ends a session
    // may differ, what was accepted before may not.
    let other = play(*choice, rest, 1);
    let messages = |played: &(Vec<ServerEvent>, Vec<u8>)| {
        let is_message = |event: &&ServerEvent| matches!(event, ServerEvent::Message(_));
        played.0.iter().filter(is_message).cloned().collect::<Vec<_>>()
    };
    let (whole, other) = (messages(&whole), messages(&other));
    let both = whole.len().min(other.len());
    assert_eq!(whole[..both], other[..both]);
});
