//! An instance on loopback that says what a test tells it to, also what no instance should.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a client asked.
#[derive(Clone, Debug)]
pub(in crate::deliverability) struct Heard {
    /// `GET /v1/bundle`
    pub(in crate::deliverability) what: String,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    pub(in crate::deliverability) body: String,
}

impl Heard {
    pub(in crate::deliverability) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    pub(in crate::deliverability) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What the instance does.
#[derive(Clone, Debug)]
pub(in crate::deliverability) enum Deed {
    /// Writes octets.
    Say(Vec<u8>),
    /// Writes an octet every few milliseconds, for ever.
    Drip(Duration),
    /// Says nothing more, and keeps the connection.
    Hang,
}

pub(in crate::deliverability) fn say(text: impl Into<Vec<u8>>) -> Vec<Deed> {
    vec![Deed::Say(text.into())]
}

/// A whole answer.
pub(in crate::deliverability) fn answer(status: &str, fields: &str, body: &[u8]) -> Vec<Deed> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{fields}\r\n");
    say([head.as_bytes(), body].concat())
}

/// A bundle as an instance sends it.
pub(in crate::deliverability) fn published(octets: &[u8], etag: &str) -> Vec<Deed> {
    let fields = format!("content-type: application/vnd.mailweir.bundle\r\netag: \"{etag}\"\r\n");
    answer("200 OK", &fields, octets)
}

type Script = dyn Fn(&Heard) -> Vec<Deed> + Send + Sync;

/// A running instance.
pub(in crate::deliverability) struct FakeInstance {
    pub(in crate::deliverability) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl FakeInstance {
    pub(in crate::deliverability) async fn start(
        script: impl Fn(&Heard) -> Vec<Deed> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(None, script).await
    }

    pub(in crate::deliverability) async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Heard) -> Vec<Deed> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let (hearing, acting) = (Arc::clone(&heard), Arc::clone(&script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, script, tls) = (Arc::clone(&hearing), Arc::clone(&acting), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &heard, &script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &heard, &script).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, heard, script }
    }

    /// Answers otherwise from now on.
    pub(in crate::deliverability) fn turn(
        &self,
        script: impl Fn(&Heard) -> Vec<Deed> + Send + Sync + 'static,
    ) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub(in crate::deliverability) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub(in crate::deliverability) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// What was asked for of a path.
    pub(in crate::deliverability) fn heard_of(&self, what: &str) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.what == what).collect()
    }
}

/// One request and its answer; the connection is closed after it.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    heard: &Mutex<Vec<Heard>>,
    script: &Mutex<Arc<Script>>,
) {
    let Some(request) = read(&mut stream).await else { return };
    let script = Arc::clone(&script.lock().unwrap());
    let deeds = script(&request);
    heard.lock().unwrap().push(request);
    for deed in deeds {
        let done = match deed {
            Deed::Say(octets) => stream.write_all(&octets).await,
            Deed::Drip(every) => loop {
                if let Err(fault) = stream.write_all(b"x").await {
                    break Err(fault);
                }
                let _ = stream.flush().await;
                tokio::time::sleep(every).await;
            },
            Deed::Hang => {
                // Until the client goes away.
                let _ = stream.read(&mut [0; 16]).await;
                Ok(())
            }
        };
        if done.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Heard> {
    let mut octets = Vec::new();
    let end = loop {
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => octets.extend_from_slice(&buffer[..read]),
        }
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(octets[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let what = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let fields = lines.map(|line| line.split_once(": ").unwrap());
    let fields: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let mut heard = Heard { what, fields, body: String::new() };
    let length: usize = heard.field("content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = octets[end + 4..].to_vec();
    while body.len() < length {
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => body.extend_from_slice(&buffer[..read]),
        }
    }
    heard.body = String::from_utf8(body).unwrap();
    Some(heard)
}
