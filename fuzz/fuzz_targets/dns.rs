//! Any octets as the answer of a name server: a socket on loopback answers each question with them.
//!
//! No panic, no endless asking, at most a hundred hosts, and no host with a name that no later step could take.
#![no_main]

use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mail::time::Timestamp;
use node::config::DnsConfig;
use node::dns::Resolver;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

/// What is answered behind the two octets of the question's number.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Site {
    runtime: Runtime,
    resolver: Resolver,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let address: SocketAddr = runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket on loopback");
        let address = socket.local_addr().expect("it is bound");
        tokio::spawn(async move {
            let mut question = [0; 4_096];
            while let Ok((length, asker)) = socket.recv_from(&mut question).await {
                let tail = ANSWER.lock().expect("nobody panics with it").clone();
                let [first, tail @ ..] = &tail[..] else { continue };
                // Half of the answers repeat the question, as those of all name servers do.
                let mut answer = question[..2].to_vec();
                if first & 1 == 0 && length >= 12 {
                    answer.extend_from_slice(&[0x81, first >> 4]);
                    answer.extend_from_slice(&question[4..6]);
                    answer.extend_from_slice(tail.get(..6).unwrap_or(&[0; 6]));
                    // Without the additional record that the question ends with.
                    let end = question[12..length].iter().position(|octet| *octet == 0);
                    let end = end.map_or(length, |end| (12 + end + 5).min(length));
                    answer.extend_from_slice(&question[12..end]);
                    answer.extend_from_slice(tail.get(6..).unwrap_or_default());
                } else {
                    answer.extend_from_slice(tail);
                }
                answer.truncate(4_096);
                let _ = socket.send_to(&answer, asker).await;
            }
        });
        address
    });
    let config = DnsConfig {
        servers: vec![address],
        query_timeout: Duration::from_millis(20),
        attempts: 1,
        route_timeout: Duration::from_millis(100),
        ..DnsConfig::default()
    };
    let resolver = runtime.block_on(async { Resolver::new(&config) }).expect("one server");
    Site { runtime, resolver }
});

fuzz_target!(|octets: &[u8]| {
    *ANSWER.lock().expect("nobody panics with it") = octets.to_vec();
    let site = &*SITE;
    let now = Timestamp::from_secs(1_800_000_000);
    site.resolver.forget();
    let (route, until) = site.runtime.block_on(site.resolver.route("a.example", now));
    assert!(until > now);
    if let Ok(route) = route {
        assert!(!route.hosts.is_empty() && route.hosts.len() <= 100);
        for host in &route.hosts {
            assert!(host.name.bytes().all(|octet| octet.is_ascii_graphic()), "{:?}", host.name);
        }
    }
});
