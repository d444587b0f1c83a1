//! Lists of any length, and requests that are not what they say.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Site, draft};

/// Sends a body in chunks; answers the connection.
async fn chunked(site: &Site, path: &str, kind: &str) -> TcpStream {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n",
        site.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn chunk(stream: &mut TcpStream, octets: &[u8]) {
    stream.write_all(format!("{:x}\r\n", octets.len()).as_bytes()).await.unwrap();
    stream.write_all(octets).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
}

/// The head and body of one answer with a Content-Length.
async fn answered(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return whole;
            }
        }
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer));
        match read.await.expect("an answer in time") {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&text).into_owned(),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_streamed() {
    let site = Site::queueing().await;
    let id = draft(&site).await;
    let path = format!("/api/v1/deliveries/{id}/recipients");
    // A line of 100 MB between two good ones.
    let mut stream = chunked(&site, &path, "text/csv").await;
    chunk(&mut stream, b"email,first_name\nfirst@one.example,A\n").await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        chunk(&mut stream, &piece).await;
    }
    chunk(&mut stream, b"\nsecond@one.example,B\n").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = answered(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"accepted\":2"), "{answer}");
    assert!(answer.contains("\"line\":3,\"reason\":\"the row is longer than"), "{answer}");

    // Merge data beyond the limit costs its own row.
    let list = format!(
        "{{\"email\":\"big@one.example\",\"x\":\"{}\"}}\n{{\"email\":\"small@one.example\"}}\n",
        "x".repeat(70_000)
    );
    let added = site.send("POST", &path, "application/x-ndjson", list).await.json();
    assert_eq!((&added["accepted"], &added["refused"]), (&json!(1), &json!(1)), "{added}");
    assert!(added["refusals"][0]["reason"].as_str().unwrap().contains("merge data"), "{added}");

    // A body that breaks off: what was committed stays, and the whole list may be sent again.
    let id = draft(&site).await;
    let path = format!("/api/v1/deliveries/{id}/recipients");
    let rows: String = (0..3_500).map(|n| format!("p{n}@one.example,P\n")).collect();
    let mut stream = chunked(&site, &path, "text/csv").await;
    chunk(&mut stream, b"email,first_name\n").await;
    chunk(&mut stream, rows.as_bytes()).await;
    stream.write_all(b"zzz\r\n").await.unwrap();
    let answer = answered(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("\"accepted\":3000"), "{answer}");
    let again =
        site.send("POST", &path, "text/csv", format!("email,first_name\n{rows}")).await.json();
    assert_eq!(again["accepted"], 500, "{again}");
    assert_eq!(again["duplicates"], 3_000, "{again}");
    let shown = site.get(&format!("/api/v1/deliveries/{id}")).await;
    assert_eq!(shown["counters"]["accepted"], 3_500, "{shown}");

    // The client goes away in the middle.
    let id = draft(&site).await;
    let mut stream =
        chunked(&site, &format!("/api/v1/deliveries/{id}/recipients"), "text/csv").await;
    chunk(&mut stream, format!("email,first_name\n{rows}").as_bytes()).await;
    drop(stream);
    let mut accepted = 0;
    for _ in 0..100 {
        let shown = site.get(&format!("/api/v1/deliveries/{id}")).await;
        accepted = shown["counters"]["accepted"].as_u64().unwrap();
        if accepted == 3_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(accepted, 3_000);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_two_could_read_differently() {
    let site = Site::queueing().await;
    for (head, body) in [
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"),
        ("Content-Length: 2, 3\r\n", "{}"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: 99999999999999999999\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n"),
        ("Transfer-Encoding: gzip\r\n", "x"),
        ("X A: b\r\n", ""),
        ("X-A : b\r\n", ""),
        ("X-A: b\0\r\n", ""),
        ("X-A: a\r\n b\r\nContent-Length: 2\r\n", "{}"),
        ("Content-Length: +2\r\n", "{}"),
        ("Content-Length: 0x2\r\n", "{}"),
        ("Content-Length: 2 2\r\n", "{}"),
        ("Transfer-Encoding: chunked, identity\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        (" Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "-1\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "2\n{}\n0\n\n"),
        ("Host: other.example\r\nContent-Length: 2\r\n", "{}"),
        ("Host: localhost\r\nContent-Length: 2\r\n", "{}"),
    ] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let request = format!(
            "POST /api/v1/deliveries HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{head}\r\n{body}",
            site.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        if body.is_empty() || body.len() > 15 {
            // More would be waited for.
            stream.shutdown().await.unwrap();
        }
        let answer = answered(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
    }
    assert_eq!(site.get("/api/v1/deliveries").await["deliveries"], json!([]));
    // What RFC 9112, 6.3 gives one reading has that one: the chunks are the body, and nothing follows them.
    for head in [
        "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let request = format!(
            "POST /api/v1/deliveries HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Connection: close\r\n{head}\r\n2;a=b\r\n{{}}\r\n0\r\nContent-Length: 9\r\n\r\n",
            site.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert!(answers.starts_with("HTTP/1.1 201"), "{head:?}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{head:?}: {answers}");
    }
    let made = site.get("/api/v1/deliveries").await;
    assert_eq!(made["deliveries"].as_array().unwrap().len(), 3, "{made}");
    for raw in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET / HTTP/0.9\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(raw.as_bytes()).await.unwrap();
        let answer = answered(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{raw:?}: {answer}");
    }
    // A long path and many fields end the connection or the request, never the process.
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(60_000));
    stream.write_all(long.as_bytes()).await.unwrap();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 4"));
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let fields = "X-A: b\r\n".repeat(200);
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(many.as_bytes()).await.unwrap();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 431"));
    site.stop().await;
}
