//! What servers refuse: from the reply to the quarantine, to what a person makes of it.

use std::time::Duration;

use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig};
use serde_json::{Value, json};

use super::Site;

const ADDRESS: &str = "/api/v1/quarantine/addresses/unknown.ann@big.example";

/// Asks until the answer is as it should be; everything here takes its time.
async fn until(site: &Site, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        last = site.get(path).await;
        if good(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{path} stays as it is: {last}");
}

async fn change(site: &Site, path: &str, body: Value) -> Value {
    let answer = site.post(path, &body).await;
    assert_eq!(answer.status, 200, "{path} {answer:?}");
    answer.json()
}

/// Waits until no task is at work. An explanation is judged afresh and may be ahead of the rows.
async fn settled(site: &Site) {
    until(site, "/api/v1/quarantine/tasks", |tasks| tasks["tasks"] == json!([])).await;
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |found| found["state"] == state
}

/// A lab with one provider behind one address, and a site that sends to it.
async fn site_with(name: &str, address: [u8; 4], more: &str) -> (Lab, Site) {
    let mx = MxConfig {
        host: format!("mx.{name}.example"),
        preference: 10,
        addresses: vec![address.into()],
        domains: Vec::new(),
    };
    let provider = ProviderConfig {
        name: name.into(),
        domains: vec![format!("{name}.example")],
        mx: vec![mx],
        ..ProviderConfig::default()
    };
    let lab = Lab::start(LabConfig { providers: vec![provider], ..LabConfig::default() }).unwrap();
    let more = format!("{more}[smtp_client]\nport = {}\ntls_verify = \"never\"\n", lab.port());
    let site = Site::start(&lab.dns_address().to_string(), &more, |_| ()).await;
    (lab, site)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_explained_qualified_undone_and_restored() {
    let (_lab, site) = site_with("big", [127, 9, 8, 1], "").await;
    let message =
        json!({ "from": "a@sender.example", "to": "unknown.ann@big.example", "text": "hello" });
    assert_eq!(site.post("/api/v1/messages", &message).await.status, 202);

    let found = until(&site, ADDRESS, is("Quarantined")).await;
    assert_eq!(found["reason"], "User unknown", "{found}");
    let entry = &found["entries"][0];
    assert_eq!(entry["channel"], "synchronous", "{entry}");
    assert_eq!(entry["counted"], true);
    assert_eq!(entry["verdict"], "error 1 of 1: quarantined");
    assert!(entry["failure"]["reply"].as_str().unwrap().starts_with("550"), "{entry}");
    assert!(!entry["failure"]["rule"].as_str().unwrap().is_empty());
    assert_eq!(found["cause"], entry["entry"]);
    let key = entry["failure"]["text"].as_str().unwrap();

    // The text is in the table, and a person may know better.
    let texts = site.get("/api/v1/qualifications").await;
    assert_eq!(texts["texts"][0]["key"], key, "{texts}");
    assert_eq!(texts["texts"][0]["occurrences"], 1);
    assert_eq!(texts["texts"][0]["meaning"]["reason"], "User unknown");
    let path = format!("/api/v1/qualifications/{key}");
    let preview = change(&site, &path, json!({ "reason": "Refused" })).await;
    assert_eq!(preview["applied"], false, "{preview}");
    let states = json!([{ "from": "Quarantined", "to": "Valid", "addresses": 1 }]);
    assert_eq!(preview["difference"]["states"], states, "{preview}");
    let example = &preview["difference"]["examples"][0];
    assert_eq!(example["address"], "unknown.ann@big.example", "{preview}");
    assert_eq!(site.get(&path).await["by_person"], Value::Null, "a preview changes nothing");
    assert_eq!(site.get(ADDRESS).await["state"], "Quarantined");
    let body = json!({ "reason": "refused", "why": "their filter lies", "apply": true });
    let applied = change(&site, &path, body).await;
    assert!(applied["task"].is_u64(), "{applied}");
    settled(&site).await;
    let found = until(&site, ADDRESS, is("Valid")).await;
    assert_eq!(found["entries"][0]["failure"]["by_person"], true, "{found}");
    assert_eq!(found["entries"][0]["verdict"], "not counted: this reason never counts");
    let said = site.get("/api/v1/qualifications?by_person=true&status=keep").await;
    assert_eq!(said["texts"][0]["qualified_by"], "http", "{said}");
    assert_eq!(said["texts"][0]["by_rule"]["reason"], "User unknown");
    change(&site, &path, json!({ "withdraw": true, "apply": true })).await;
    settled(&site).await;
    until(&site, ADDRESS, is("Quarantined")).await;
    for (body, wanted) in [
        (json!({}), "say what the text means"),
        (json!({ "reason": "Bored" }), "`Bored` is none of"),
        (json!({ "reason": "Refused", "status": "to-qualify" }), "Keep or Ignore"),
        (json!({ "reason": "Refused", "withdraw": true }), "not both"),
    ] {
        site.post(&path, &body).await.problem(422, wanted);
    }
    let strange = format!("/api/v1/qualifications/{}", "0".repeat(32));
    for body in [json!({ "reason": "Refused" }), json!({ "reason": "Refused", "apply": true })] {
        site.post(&strange, &body).await.problem(404, "was ever met");
    }

    // An outage, as it turns out.
    let undo = "/api/v1/quarantine/undo";
    let window = json!({ "provider": "big.example", "from": "2020-01-01T00:00:00Z" });
    let preview = change(&site, undo, window.clone()).await;
    assert_eq!(preview["difference"]["entries"], 1, "{preview}");
    assert_eq!(preview["difference"]["states"], states, "{preview}");
    for other in [
        json!({ "provider": "small.example" }),
        json!({ "to": "2020-01-01T00:00:00Z" }),
        json!({ "rule": "no such rule" }),
        json!({ "reason": "Mailbox full" }),
        json!({ "text": "0".repeat(32) }),
    ] {
        let preview = change(&site, undo, other).await;
        assert_eq!(preview["difference"]["entries"], 0, "{preview}");
    }
    let mut body = window;
    body["apply"] = true.into();
    body["why"] = "their outage".into();
    let task = change(&site, undo, body).await["task"].clone();
    let found = until(&site, ADDRESS, is("Valid")).await;
    assert_eq!(found["entries"][0]["standing"], "void", "{found}");
    settled(&site).await;
    let restore = json!({ "task": task, "why": "no outage", "apply": true });
    change(&site, "/api/v1/quarantine/restore", restore).await;
    settled(&site).await;
    until(&site, ADDRESS, is("Quarantined")).await;
    // Nothing to do for a policy that has not changed.
    let nothing = change(&site, "/api/v1/quarantine/rejudge", json!({})).await;
    assert_eq!(nothing["difference"]["states"], json!([]), "{nothing}");
    for (body, wanted) in [
        (json!({ "apply": true }), "say what is to be undone"),
        (json!({ "from": "yesterday" }), "a time looks like"),
        (json!({ "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" }), "later than"),
        (json!({ "text": "abc" }), "32 hexadecimal digits"),
    ] {
        site.post(undo, &body).await.problem(422, wanted);
    }
    assert_eq!(site.get("/api/v1/quarantine/holds").await["holds"], json!([]));
    let end = "/api/v1/quarantine/holds/7/confirm";
    site.post(end, &json!({})).await.problem(404, "there is no hold 7");
    site.stop().await;
}

/// Sends to so many addresses of the provider and waits until all are settled.
async fn send_to(site: &Site, provider: &str, name: &str, count: u64) {
    let path = format!("/api/v1/deliveries/{}", super::draft(site).await);
    let lines = (0..count).map(|number| {
        let email = format!("{name}{number}@{provider}.example");
        json!({ "email": email, "first_name": "Ann" }).to_string()
    });
    let list = lines.collect::<Vec<_>>().join("\n");
    site.send("POST", &format!("{path}/recipients"), "application/x-ndjson", list).await;
    change(site, &format!("{path}/start"), json!({})).await;
    until(site, &path, |found| {
        let settled = &found["counters"];
        settled["sent"].as_u64().unwrap_or(0) + settled["failed"].as_u64().unwrap_or(0) == count
    })
    .await;
}

/// Makes a provider refuse everybody all at once, and gives the number of the hold that follows.
async fn hold_of(lab: &Lab, site: &Site, provider: &str, name: &str) -> u64 {
    lab.set_mood(provider, Mood { unknown_users: 1.0, ..Mood::default() }).unwrap();
    send_to(site, provider, name, 150).await;
    let open = |found: &Value| {
        let holds = found["holds"].as_array().unwrap();
        holds.iter().any(|hold| hold["ended_at"].is_null())
    };
    let holds = until(site, "/api/v1/quarantine/holds", open).await;
    holds["holds"][0]["hold"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_ends_the_hold_of_the_outage_guard() {
    for (name, address, end, state) in [
        ("ill", [127, 9, 8, 2], "dismiss", "Valid"),
        ("clean", [127, 9, 8, 3], "confirm", "Quarantined"),
    ] {
        let (lab, site) =
            site_with(name, address, "[quarantine.outage_guard]\nhistory = 50\n").await;
        // Both together stay below what the shipped rules let through in five minutes.
        send_to(&site, name, "good", 250).await;
        let hold = hold_of(&lab, &site, name, "doubted").await;
        let last = format!("/api/v1/quarantine/addresses/doubted149@{name}.example");
        let held = until(&site, &last, |found| found["entries"][0]["standing"] == "held").await;
        assert_eq!(held["state"], "Valid", "{held}");
        let path = format!("/api/v1/quarantine/holds/{hold}/{end}");
        change(&site, &path, json!({ "why": "asked them" })).await;
        settled(&site).await;
        let found = until(&site, &last, is(state)).await;
        let holds = site.get("/api/v1/quarantine/holds").await;
        assert!(!holds["holds"][0]["ended_at"].is_null(), "{holds} {found}");
        site.post(&path, &json!({})).await.problem(409, "");
        site.stop().await;
    }
}
