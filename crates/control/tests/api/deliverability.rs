//! Bundles over HTTP: applied, refused, taken back, fetched, with what history, status and metrics say of it.

use std::collections::BTreeMap;
use std::time::Duration;

use mail::time::Timestamp;
use node::deliverability::client_version;
use node::deliverability::keys::SigningKey;
use rules::bundle::{Draft, Kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn bundle(key: &SigningKey, version: u64, mx: &str) -> Vec<u8> {
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let draft = Draft {
        version,
        created: Timestamp::from_secs(now.as_secs()),
        expires: now + Duration::from_secs(86_400),
        minimum_client: client_version(),
        keys: Vec::new(),
        notes: String::new(),
        sections: BTreeMap::from([(Kind::Mx, mx.to_owned())]),
    };
    draft.seal(&key.public(), |message| key.sign(message)).unwrap()
}

fn mx(per_hour: u32) -> String {
    format!(
        "schema_version = 1\n[[rule]]\nname = \"generic\"\nmask = \"*\"\nmax_connections = 2\n\
         max_messages_per_connection = 10\nmessages_per_hour = {per_hour}\n"
    )
}

/// An instance that answers every fetch with these octets, and everything else with 204.
async fn instance(octets: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let mut answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
            if head[..read].starts_with(b"GET") {
                let length = octets.len();
                answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.mailweir.bundle\r\n\
                     etag: \"x\"\r\ncontent-length: {length}\r\n\r\n"
                )
                .into_bytes();
                answer.extend_from_slice(&octets);
            }
            let _ = stream.write_all(&answer).await;
        }
    });
    url
}

impl Site {
    async fn apply(&self, octets: &[u8], why: &str) -> Answer {
        let request = self
            .request("POST", "/api/v1/deliverability/bundle")
            .header("content-type", "application/octet-stream")
            .header("x-mailweir-why", why)
            .body(octets.to_vec());
        self.ask(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_are_applied_refused_and_taken_back() {
    let key = SigningKey::generate().unwrap();
    let more = format!("[deliverability]\npublic_keys = [\"{}\"]\n", key.public());
    let site = Site::start(CLOSED_DNS, &more, |_| ()).await;
    let status = site.get("/api/v1/deliverability").await;
    assert!(status["bundle"].is_null() && status["instance"].is_null());
    for version in [1, 2] {
        let octets = bundle(&key, version, &mx(100 * u32::try_from(version).unwrap()));
        let answer = site.apply(&octets, "more").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let applied = answer.json();
        let from = if version == 1 { Value::Null } else { json!(1) };
        assert_eq!((&applied["changed"], &applied["from"]), (&json!(true), &from));
        assert_eq!(applied["to"], version);
    }
    // Refused, with the reason by name, and every faulty rule with its place.
    let stranger = bundle(&SigningKey::generate().unwrap(), 3, &mx(1));
    for (octets, fault) in [
        (&b"<html>"[..], "not-a-bundle"),
        (&stranger, "unknown-key"),
        (&bundle(&key, 2, &mx(201)), "same-version"),
        (&bundle(&key, 1, &mx(100))[..], "older"),
    ] {
        let problem = site.apply(octets, "").await.problem(422, "the rules in force stay");
        assert_eq!(problem["fault"], fault);
    }
    let status = site.get("/api/v1/deliverability").await;
    assert_eq!((&status["bundle"]["version"], &status["kept"]), (&json!(2), &json!([2, 1])));
    assert_eq!(status["trouble"]["fault"], "older");
    assert_eq!((&status["level"], &status["local"]), (&json!("normal"), &json!([])));
    assert_eq!(status["bundle"]["key_trusted"], true);
    let alerts = site.get("/api/v1/alerts").await;
    assert_eq!(alerts["alerts"][0]["code"], "bundle-refused");
    // Taken back, to a version and to the shipped rules; not to what is not kept.
    let path = "/api/v1/deliverability/rollback";
    let back = site.post(path, &json!({ "version": 1, "why": "too much" })).await;
    let back = back.json();
    assert_eq!(
        (&back["from"], &back["to"], &back["changed"]),
        (&json!(2), &json!(1), &json!(true))
    );
    let change = back["difference"].to_string();
    assert!(change.contains("200") && change.contains("100"), "{change}");
    site.post(path, &json!({ "version": 9 })).await.problem(404, "no bundle of version 9");
    site.post(path, &json!({ "why": "no version" })).await;
    assert_eq!(site.post(path, &json!({ "version": null })).await.json()["to"], Value::Null);
    let history = site.get("/api/v1/deliverability/history?limit=3").await;
    let steps = history["history"].as_array().unwrap();
    let ways: Vec<_> =
        steps.iter().map(|step| (step["from"].clone(), step["to"].clone())).collect();
    assert_eq!(
        ways,
        [(json!(1), Value::Null), (json!(2), json!(1)), (json!(1), json!(2))],
        "versions are numbers, not times"
    );
    assert_eq!(steps[1]["why"], "too much");
    assert!(steps[1]["at"].as_str().unwrap().ends_with('Z'));
    let none = site.post("/api/v1/deliverability/sync", &json!({})).await;
    none.problem(409, "no deliverability instance");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_says_what_became_of_it() {
    let key = SigningKey::generate().unwrap();
    let url = instance(bundle(&key, 1, &mx(100))).await;
    let more = |public: &str| {
        format!(
            "[deliverability]\npublic_keys = [\"{public}\"]\nurl = \"{url}\"\nschedule = \"never\"\n\
             token = {{ value = \"a-token-of-this-client\" }}\n"
        )
    };
    let site = Site::start(CLOSED_DNS, &more(&key.public().to_string()), |_| ()).await;
    let path = "/api/v1/deliverability/sync";
    let dry = site.post(path, &json!({ "dry_run": true })).await.json();
    assert_eq!((&dry["outcome"], &dry["dry_run"]), (&json!("would-apply"), &json!(true)));
    let synced = site.post(path, &json!({ "why": "now" })).await.json();
    assert_eq!((&synced["outcome"], &synced["from"]), (&json!("applied"), &Value::Null));
    assert_eq!(synced["to"], 1);
    assert_eq!(synced["difference"], dry["difference"]);
    assert_eq!(site.post(path, &json!({})).await.json()["outcome"], "unchanged");
    let status = site.get("/api/v1/deliverability").await;
    assert_eq!(status["instance"]["url"], url);
    assert!(status["instance"]["last_contact"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&status["instance"]["failures"], &status["since"].is_string()), (&json!(0), &true));
    let metrics = site.ask(site.request("GET", "/metrics")).await.text;
    for line in [
        "mailweir_bundle_version 1\n",
        "mailweir_bundle_syncs_total{outcome=\"applied\"} 1\n",
        "mailweir_bundle_syncs_total{outcome=\"unreachable\"} 0\n",
        "mailweir_instance_failures 0\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    site.post(path, &json!({ "dryrun": true })).await.problem(422, "dryrun");
    site.stop().await;
    // Another key is trusted: the bundle is refused, which is an answer and no problem.
    let other = SigningKey::generate().unwrap().public().to_string();
    let site = Site::start(CLOSED_DNS, &more(&other), |_| ()).await;
    let refused = site.post(path, &json!({})).await.json();
    assert_eq!(
        (&refused["outcome"], &refused["fault"]),
        (&json!("refused"), &json!("unknown-key"))
    );
    site.stop().await;
}
