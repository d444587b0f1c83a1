//! Handshakes that are none, headers that are odd, and connections that end in a bad moment.

use std::time::Instant;

use rustls::pki_types::ServerName;

use super::super::message::{examine, stored_content};
use super::access::tls_site;
use super::messages::SETTINGS;
use super::*;
use crate::prepare::{ContentSpec, Template};

/// A length in so many octets, and what it is the length of.
fn counted(octets: &[u8], width: usize) -> Vec<u8> {
    let length = u32::try_from(octets.len()).unwrap().to_be_bytes();
    [&length[4 - width..], octets].concat()
}

/// The first record of a client that offers this version and asks for this name.
fn client_hello(version: [u8; 2], name: &[u8]) -> Vec<u8> {
    let extension =
        |kind: u16, octets: &[u8]| [&kind.to_be_bytes(), &counted(octets, 2)[..]].concat();
    let extensions = [
        extension(0, &counted(&[&[0][..], &counted(name, 2)].concat(), 2)),
        // Groups x25519 and P-256, points uncompressed, ECDSA with P-256.
        extension(10, &counted(&[0, 29, 0, 23], 2)),
        extension(11, &counted(&[0], 1)),
        extension(13, &counted(&[4, 3, 8, 4], 2)),
    ]
    .concat();
    let body = [
        &version[..],
        &[7; 32],
        &counted(&[], 1),
        &counted(&[0xc0, 0x2b, 0xc0, 0x2f], 2),
        &counted(&[0], 1),
        &counted(&extensions, 2),
    ]
    .concat();
    let handshake = [&[1][..], &counted(&body, 3)].concat();
    [&[22, 3, 1][..], &counted(&handshake, 2)].concat()
}

/// Group 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let (site, connector) = tls_site(folder.path());
    // What comes back first: an alert, a handshake, or nothing.
    for (what, octets, wanted) in [
        ("garbage", vec![b'x'; 200], Some(21)),
        ("a line", b"EHLO evil.example\r\n".to_vec(), Some(21)),
        ("records of no length", [22, 3, 1, 0, 0].repeat(100), Some(21)),
        ("a record of 65,535", [&[22, 3, 1, 255, 255][..], &[0; 100]].concat(), Some(21)),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40], None),
        ("data before the handshake", vec![23, 3, 3, 0, 1, 0], Some(21)),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16, 7, 0, 0xc0], Some(21)),
        ("version 1.0", client_hello([3, 1], b"submit.example"), Some(21)),
        ("the right name", client_hello([3, 3], b"submit.example"), Some(22)),
        ("an unknown name", client_hello([3, 3], b"other.example"), Some(22)),
        ("NUL in the name", client_hello([3, 3], b"submit.example\0.evil"), Some(21)),
        ("escapes in the name", client_hello([3, 3], b"\x1b[2J\r\n"), Some(21)),
        ("no name", client_hello([3, 3], b""), Some(21)),
        ("a name of 60,000", client_hello([3, 3], &vec![b'a'; 10_000]), Some(21)),
    ] {
        let mut client = site.greeted().await;
        assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
        client.send(&octets).await;
        client.stream.shutdown().await.unwrap();
        while client.more().await {}
        assert_eq!(client.octets.first().copied(), wanted, "{what}: {:?}", client.octets);
    }
    // The next one is served.
    let mut client = site.greeted().await;
    assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
    let name = ServerName::try_from("submit.example").unwrap();
    let mut client = Client::new(connector.connect(name, client.stream).await.unwrap());
    client.say("EHLO client.example").await;
    assert_eq!(client.say(LOGIN).await, "235 2.7.0 authenticated");
    assert_eq!(&client.deliver("").await[..3], "250");
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

/// Groups 20 and 21: the header as it is stored, and whether it can be sent later.
#[test]
fn odd_headers() {
    let lines = |line: &str, count: usize| format!("{line}\r\n").repeat(count);
    let many_senders = format!("From: {}z@x.example\r\n", "a@x.example,\r\n ".repeat(10_000));
    for (what, header, wanted) in [
        ("100,000 fields", lines("X-A: b", 100_000), Ok(())),
        ("10 MB", lines(&format!("X-A: {}", "b".repeat(900)), 11_000), Ok(())),
        ("10,000 folds", format!("Subject: a\r\n{}", lines(" b", 10_000)), Ok(())),
        ("folds of blanks", format!("Subject: a\r\n{}", lines(" ", 10_000)), Ok(())),
        ("no header", String::new(), Ok(())),
        ("no From", lines("Subject: a", 1), Ok(())),
        ("From of 10,000", many_senders, Ok(())),
        ("From of nobody", lines("From:", 1), Ok(())),
        ("two Message-ID", lines("Message-ID: <a@x.example>", 2), Ok(())),
        ("a date in 99999", lines("Date: Mon, 1 Jan 99999 00:00:00 +9999", 1), Ok(())),
        ("a date of words", lines("Date: {{ now }}", 1), Ok(())),
        (
            "two From",
            "From: a@x.example\r\nfrom: b@x.example\r\n".into(),
            Err("more than one From"),
        ),
        ("no colon", lines("no colon", 1), Err("no field")),
        ("a name with a space", lines("X A: b", 1), Err("no field")),
        ("a space before the colon", lines("X-A : b", 1), Ok(())),
        (
            "two From, one with a space",
            "From: a@x.example\r\nFrom : b@x.example\r\n".into(),
            Err("more than one From"),
        ),
        ("no name", lines(": b", 1), Err("no field")),
        ("a name beyond ASCII", lines("X-\u{fc}: b", 1), Err("no field")),
        ("a name with an escape", lines("X-\u{1b}: b", 1), Err("no field")),
        ("a fold in front", lines(" X: b", 1), Err("continuation")),
        ("our own number", lines("X-Mailweir-Id: m1", 3), Ok(())),
        (
            "Bcc and Return-Path",
            "Bcc: c@x.example\r\nReturn-Path: <d@x.example>\r\n".into(),
            Ok(()),
        ),
    ] {
        let begun = Instant::now();
        let content = format!("{header}\r\nbody\r\n").into_bytes();
        match (examine(&content), wanted) {
            (Ok(examined), Ok(())) => {
                let stored = stored_content(&content, "Received: x\r\n", &examined.removed);
                let spec = ContentSpec::single_message(stored);
                Template::compile(&spec, SETTINGS.clone())
                    .unwrap_or_else(|f| panic!("{what}: {f}"));
            }
            (Err(fault), Err(words)) => assert!(fault.contains(words), "{what}: {fault}"),
            (found, _) => panic!("{what}: {found:?}"),
        }
        assert!(begun.elapsed().as_secs() < 10, "{what} took {:?}", begun.elapsed());
    }
}

/// Group 25: the client is gone when its message has come. It is queued whole, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_behind_the_dot() {
    let site = Site::start("");
    for _ in 0..5 {
        let mut client = site.greeted().await;
        client.send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n").await;
        for _ in 0..3 {
            client.reply().await;
        }
        client.send("Subject: a\r\n\r\nwhole\r\n.\r\n").await;
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let mut client = site.greeted().await;
    assert_eq!(&client.deliver("").await[..3], "250");
    // Those that came before have been dealt with, one way or the other, when all connections are closed.
    client.say("QUIT").await;
    let begun = Instant::now();
    while site.counts.connections_open.load(Ordering::Relaxed) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "connections stay open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let queued = site.queued().await;
    assert!((1..=6).contains(&queued.len()), "{queued:?}");
    for message in &queued {
        let content = site.content(message).await;
        assert!(content.ends_with("\r\n\r\nwhole\r\n") || content.ends_with("\r\n\r\ntext\r\n"));
    }
    site.stop().await;
}
