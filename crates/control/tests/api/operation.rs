//! Statistics, metrics, rules, paths, beginning and end.

use std::time::Duration;

use lab::{Lab, LabConfig, MxConfig, ProviderConfig};
use mailweir_control::HttpServer;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{CLOSED_DNS, Site, draft};

#[tokio::test(flavor = "multi_thread")]
async fn statistics_metrics_and_rules() {
    let rules = "[rules]\nmx = \"local.toml\"\n";
    let good = |limit: u32| {
        format!(
            "schema_version = 1\n[[rule]]\nname = \"one\"\nmask = \"*.one.example\"\nmessages_per_hour = {limit}\n"
        )
    };
    let site = Site::start(CLOSED_DNS, rules, |folder| {
        std::fs::write(folder.join("local.toml"), good(100)).unwrap();
    })
    .await;
    let stat = site.get("/api/v1/stat").await;
    assert_eq!(stat["store"], json!({ "healthy": true, "fault": null, "no_room": null }), "{stat}");
    assert!(stat["clock_drift_micros"].is_i64());
    assert_eq!(stat["groups_total"], 0);
    let version = stat["rules_version"].as_u64().unwrap();
    let local = site.folder.path().join("local.toml");
    std::fs::write(&local, "[[rule]]\nnonsense = 0\n").unwrap();
    let reload = site.ask(site.request("POST", "/api/v1/stat/reload")).await;
    let problem = reload.problem(422, "those in force stay");
    let fault = &problem["faults"][0];
    assert!(fault["file"].as_str().unwrap().ends_with("local.toml"), "{problem}");
    assert!(fault["line"].as_u64() >= Some(1) && fault["column"].as_u64() >= Some(1), "{problem}");
    assert!(fault["rendered"].as_str().unwrap().contains('|'), "{problem}");
    assert_eq!(site.get("/api/v1/stat").await["rules_version"], version);
    std::fs::write(&local, good(200)).unwrap();
    let reload = site.ask(site.request("POST", "/api/v1/stat/reload")).await;
    assert_eq!(reload.json()["rules_version"], version + 1, "{reload:?}");
    // The same rules again are the same version.
    let reload = site.ask(site.request("POST", "/api/v1/stat/reload")).await;
    assert_eq!(reload.json()["rules_version"], version + 1, "{reload:?}");
    std::fs::remove_file(&local).unwrap();
    site.ask(site.request("POST", "/api/v1/stat/reload")).await.problem(422, "local.toml");

    let id = draft(&site).await;
    let list = "email,first_name\na@one.example,A\nb@one.example,B\n";
    let path = format!("/api/v1/deliveries/{id}/recipients");
    assert_eq!(site.send("POST", &path, "text/csv", list).await.status, 200);
    let answer = site.ask(site.request("GET", "/metrics")).await;
    assert!(answer.kind.starts_with("application/openmetrics-text"), "{answer:?}");
    let text = answer.text;
    for line in [
        "# TYPE mailweir_messages_sent counter",
        "mailweir_messages_sent_total 0",
        "mailweir_queue_messages 2",
        concat!("mailweir_node_info{node=\"node\",version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "mailweir_store_healthy 1",
        "mailweir_deliveries{state=\"draft\"} 1",
        "mailweir_deliveries{state=\"paused\"} 0",
        "# UNIT mailweir_clock_drift_seconds seconds",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("one.example"), "{text}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_budgets_of_a_domain() {
    // Three MX hosts with eight addresses each, of which 16 are distinct: 32 paths for two sources.
    let mx = (0..3_u8)
        .map(|host| MxConfig {
            host: format!("mx{host}.big.example"),
            preference: 10,
            addresses: (0..8).map(|n| [127, 9, 7, host * 4 + n + 1].into()).collect(),
            domains: Vec::new(),
        })
        .collect();
    let provider = ProviderConfig {
        name: "big".into(),
        domains: vec!["big.example".into()],
        mx,
        ..ProviderConfig::default()
    };
    let lab = Lab::start(LabConfig { providers: vec![provider], ..LabConfig::default() }).unwrap();
    let more = format!("[smtp_client]\nport = {}\ntls_verify = \"never\"\n", lab.port());
    let site = Site::start(&lab.dns_address().to_string(), &more, |_| ()).await;
    let paths = site.get("/api/v1/paths/big.example").await;
    assert_eq!(paths["targets"], 16, "{paths}");
    assert_eq!(paths["paths_total"], 32, "{paths}");
    assert_eq!(paths["paths"].as_array().unwrap().len(), 32);
    assert_eq!(paths["route"]["hosts"].as_array().unwrap().len(), 3);
    assert_eq!(paths["rules"].as_array().unwrap().len(), 6);
    let budget = &paths["paths"][0]["budgets"][0];
    assert_eq!(budget["scope"], "source", "{budget}");
    assert_eq!(budget["used_in_window"], 0);
    // Scope source: one budget for each of the two sources, whatever the targets.
    let limit = budget["limit_per_hour"].as_u64().unwrap();
    assert_eq!(paths["ceiling_per_hour"], 2 * limit, "{paths}");
    assert_eq!(paths["paths"][0]["live"], Value::Null);
    let none = site.get("/api/v1/paths/missing.example").await;
    assert_eq!(none["route"], Value::Null);
    assert_eq!(none["temporary"], false, "{none}");

    // A message for real; afterwards the paths are alive and the budget has counted.
    let message = json!({ "from": "a@sender.example", "to": "b@big.example", "text": "hello" });
    let sent = site.post("/api/v1/messages", &message).await.json();
    let number = sent["ids"][0].as_str().unwrap();
    let mut explained = Value::Null;
    for _ in 0..200 {
        explained = site.get(&format!("/api/v1/explain/{number}")).await;
        if explained["state"] == "sent" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(explained["state"], "sent", "{explained}");
    assert!(explained["last_reply"].as_str().unwrap().starts_with("250"), "{explained}");
    assert!(explained["settled_at"].as_str().unwrap().ends_with('Z'));
    let domain = site.get("/api/v1/explain/big.example").await;
    let used: u64 = domain["paths"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|path| path["live"].is_object())
        .map(|path| path["budgets"][0]["used_in_window"].as_u64().unwrap())
        .max()
        .unwrap();
    assert!(used >= 1, "{domain}");
    let stat = site.get("/api/v1/stat").await;
    assert_eq!(stat["counts"]["sent"], 1, "{stat}");
    assert_eq!(stat["groups"][0]["counts"]["sent"], 1, "{stat}");
    assert_eq!(stat["budgets"][0]["rule"], stat["groups"][0]["rule"], "{stat}");
    site.stop().await;
    assert_eq!(lab.stop().totals.accepted, 1);
}

/// Whoever balances load by readiness must not send mail where it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_is_not_ready() {
    let site = Site::start(CLOSED_DNS, "[limits]\nqueue_messages = 1\n", |_| ()).await;
    assert_eq!(site.get("/readyz").await["status"], "ready");
    let id = draft(&site).await;
    let list = "email,first_name\na@one.example,A\nb@one.example,B\n";
    let path = format!("/api/v1/deliveries/{id}/recipients");
    assert_eq!(site.send("POST", &path, "text/csv", list).await.status, 200);
    let mut answer = site.ask(site.request("GET", "/readyz")).await;
    for _ in 0..200 {
        if answer.status != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        answer = site.ask(site.request("GET", "/readyz")).await;
    }
    answer.problem(503, "no room for more mail");
    let message = json!({ "from": "a@b.example", "to": "b@c.example", "text": "x" });
    site.post("/api/v1/messages", &message).await.problem(503, "limits.queue_messages (1)");
    let stat = site.get("/api/v1/stat").await;
    assert!(stat["store"]["no_room"].as_str().unwrap().contains("2 messages"), "{stat}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_node_accepts_nothing() {
    let mut site = Site::queueing().await;
    let id = draft(&site).await;
    site.node.take().unwrap().shutdown().await;
    let list = "email,first_name\na@one.example,A\n";
    let path = format!("/api/v1/deliveries/{id}/recipients");
    let message = json!({ "from": "a@b.example", "to": "b@c.example", "text": "x" });
    for answer in [
        site.send("POST", &path, "text/csv", list).await,
        site.post("/api/v1/messages", &message).await,
        site.post("/api/v1/deliveries", &json!({})).await,
        site.ask(site.request("GET", "/api/v1/stat")).await,
        site.ask(site.request("GET", "/readyz")).await,
    ] {
        answer.problem(503, "");
        assert_eq!(answer.retry_after.as_deref(), Some("5"), "{answer:?}");
    }
    assert_eq!(site.get("/healthz").await["status"], "alive");
    let address = site.address;
    site.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named() {
    let site = Site::queueing().await;
    let node = site.node.as_ref().unwrap();
    let bind = |address: &str| {
        let http =
            node::config::HttpConfig { listen: vec![address.parse().unwrap()], tokens: Vec::new() };
        HttpServer::bind(&http, node.intake(), node.questions()).err().unwrap().to_string()
    };
    let taken = site.address.to_string();
    assert!(bind(&taken).contains(&format!("cannot listen for HTTP on {taken}")));
    assert!(bind("0.0.0.0:0").contains("without tokens"));
    site.stop().await;
}
