//! The whole listener in front of a real node, over real sockets.

use std::net::SocketAddr;
use std::path::Path;

use mailweir_control::HttpServer;
use node::config::Config;
use node::node::Node;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod deliverability;
mod deliveries;
mod document;
mod failures;
mod operation;
mod quarantine;
mod refused;
mod streams;
mod unsubscribe;

/// A node with its listener.
struct Site {
    node: Option<Node>,
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    folder: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    kind: String,
    retry_after: Option<String>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|fault| panic!("{fault}: {}", self.text))
    }

    /// Checks that it is a problem in the right form.
    fn problem(&self, status: u16, wanted: &str) -> Value {
        assert_eq!(self.status, status, "{wanted}: {self:?}");
        assert_eq!(self.kind, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().starts_with("urn:mailweir:problem:"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(wanted), "{detail:?} does not say {wanted:?}");
        problem
    }
}

/// DNS that answers nobody: mail stays in the queue.
const CLOSED_DNS: &str = "127.0.0.1:9";

impl Site {
    async fn start(dns: &str, more: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let text = format!(
            r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.21"
helo = "m1.sender.example"
[[source]]
public_id = 2
address = "127.0.0.22"
helo = "m2.sender.example"
[dns]
servers = ["{dns}"]
query_timeout = "200ms"
attempts = 1
route_timeout = "1s"
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
listen = []
{more}
"#
        );
        let mut config = Config::parse(&text, "test.toml", folder.path())
            .unwrap_or_else(|fault| panic!("{fault}"));
        config.http.listen = vec!["127.0.0.1:0".parse().unwrap()];
        let http = config.http.clone();
        let node = Node::start(config).unwrap();
        let server = HttpServer::bind(&http, node.intake(), node.questions()).unwrap();
        let address = server.local_addresses().unwrap()[0];
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(stop.clone()));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { node: Some(node), address, client, stop, server, folder }
    }

    async fn queueing() -> Self {
        Self::start(CLOSED_DNS, "", |_| ()).await
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().to_string(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let field = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let answer = Answer {
            status: response.status(),
            kind: field("content-type").unwrap_or_default(),
            retry_after: field("retry-after"),
            text: response.text().await.unwrap(),
        };
        document::check(&method, &path, &answer);
        answer
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(self.request("GET", path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<String>) -> Answer {
        let request = self.request(method, path).header("content-type", kind).body(body.into());
        self.ask(request).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string()).await
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.server.await.unwrap().unwrap();
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }
}

fn content() -> Value {
    json!({
        "kind": "template",
        "from": { "name": "Shop", "address": "news@sender.example" },
        "subject": "Hello {{ first_name }}",
        "text": "Dear {{ first_name }}",
    })
}

async fn draft(site: &Site) -> String {
    let body = json!({ "options": { "name": "Spring" }, "content": content() });
    let answer = site.post("/api/v1/deliveries", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}
