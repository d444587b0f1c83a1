//! Deliveries and single messages, from the request to the store.

use mail::id::MessageId;
use serde_json::{Value, json};

use super::{Site, draft};

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_from_draft_to_cancelled() {
    let site = Site::queueing().await;
    let id = draft(&site).await;
    let path = format!("/api/v1/deliveries/{id}");
    let list = "{\"email\":\"Ada@One.example\",\"first_name\":\"Ada\"}\n\
        {\"email\":\"ada@one.EXAMPLE\",\"first_name\":\"Ada again\"}\n\
        nonsense\n\
        {\"email\":\"not an address\"}\n\
        {\"email\":\"grace@bücher.example\",\"first_name\":\"Grace\"}\n\
        {\"email\":\"grace@xn--bcher-kva.example\",\"first_name\":\"Grace\"}\n";
    let added =
        site.send("POST", &format!("{path}/recipients"), "application/x-ndjson", list).await;
    assert_eq!(added.status, 200, "{added:?}");
    let added = added.json();
    assert_eq!(added["accepted"], 2, "{added}");
    assert_eq!(added["duplicates"], 2, "{added}");
    assert_eq!(added["refused"], 2, "{added}");
    assert_eq!(added["refusals"][0]["line"], 3);
    assert!(added["refusals"][1]["reason"].as_str().unwrap().contains("not an address"));
    let csv = "email;first_name\nlin@two.example;Lin\n\"broken;row\n";
    let added = site.send("POST", &format!("{path}/recipients"), "text/csv", csv).await.json();
    assert_eq!((&added["accepted"], &added["refused"]), (&json!(1), &json!(1)), "{added}");
    let refusals = site.get(&format!("{path}/refusals?limit=2")).await;
    assert_eq!(refusals["refusals"].as_array().unwrap().len(), 2);
    let next = refusals["next"].as_u64().unwrap();
    let rest = site.get(&format!("{path}/refusals?from={next}&limit=1000")).await;
    assert_eq!(rest["refusals"].as_array().unwrap().len(), 3, "{rest}");
    assert_eq!(rest["next"], Value::Null);

    let waits = site.get(&format!("/api/v1/explain/{id}")).await;
    assert_eq!(waits["waiting"]["reason"], "delivery not started", "{waits}");
    assert_eq!(waits["waiting"]["smallest_change"], "start the delivery");

    let started = site.post(&format!("{path}/start"), &json!({})).await;
    assert_eq!(started.status, 200, "{started:?}");
    let started = started.json();
    assert_eq!(started["state"], "running", "{started}");
    assert_eq!(started["options"]["validity"], "5d", "{started}");
    assert_eq!(started["counters"]["accepted"], 3);
    assert!(started["started_at"].is_string());
    let again = site.post(&format!("{path}/start"), &json!({})).await;
    again.problem(409, "is running");

    let found = site.get("/api/v1/explain/ada@one.example").await;
    assert_eq!(found["kind"], "address");
    let message = &found["messages"][0];
    assert_eq!(message["recipient"], "Ada@one.example", "{message}");
    assert!(message["waiting"]["reason"].is_string(), "{message}");
    let number = message["message"].as_str().unwrap();
    let explained = site.get(&format!("/api/v1/explain/{number}")).await;
    assert_eq!(explained["kind"], "message");
    assert_eq!(explained["delivery"], id);
    let domain = site.get("/api/v1/explain/one.example").await;
    assert_eq!(domain["kind"], "domain", "{domain}");
    assert_eq!(domain["route"], Value::Null);
    assert_eq!(domain["temporary"], true, "{domain}");

    let paused = site.post(&format!("{path}/pause"), &json!({ "why": "wrong picture" })).await;
    assert_eq!(paused.json()["state"], "paused", "{paused:?}");
    let waits = site.get(&format!("/api/v1/explain/{id}")).await;
    assert_eq!(waits["waiting"]["reason"], "delivery paused", "{waits}");
    assert_eq!(waits["domains"][0]["waiting"]["reason"], "delivery paused", "{waits}");
    // Without a body too.
    let resumed = site.ask(site.request("POST", &format!("{path}/resume"))).await;
    assert_eq!(resumed.json()["state"], "running", "{resumed:?}");
    let cancelled = site.post(&format!("{path}/cancel"), &json!({ "why": "test" })).await;
    assert_eq!(cancelled.json()["state"], "cancelled", "{cancelled:?}");
    site.post(&format!("{path}/resume"), &json!({})).await.problem(409, "is cancelled");
    // Twice is no fault of anybody, or is said; the state stays in any case.
    let twice = site.post(&format!("{path}/cancel"), &json!({})).await;
    assert!(twice.status == 200 || twice.status == 409, "{twice:?}");
    assert_eq!(site.get(&path).await["state"], "cancelled");
    let audit = site.node.as_ref().unwrap().intake();
    let audit = audit.read(|reads| reads.audit(10)).await.unwrap();
    assert!(audit.iter().any(|entry| &*entry.why == "wrong picture" && &*entry.who == "http"));

    let second = draft(&site).await;
    let page = site.get("/api/v1/deliveries?limit=1").await;
    assert_eq!(page["deliveries"][0]["id"], id);
    let after = page["next"].as_str().unwrap();
    let page = site.get(&format!("/api/v1/deliveries?after={after}&limit=1000")).await;
    assert_eq!(page["deliveries"][0]["id"], second);
    assert_eq!(page["next"], Value::Null);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_effect_once() {
    let site = Site::queueing().await;
    let body = json!({ "options": { "name": "once" } }).to_string();
    let keyed = |path: &str, key: &str, body: &str| {
        let request = site.request("POST", path).header("content-type", "application/json");
        site.ask(request.header("idempotency-key", key).body(body.to_owned()))
    };
    let first = keyed("/api/v1/deliveries", "k1", &body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = keyed("/api/v1/deliveries", "k1", &body).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.text, first.text);
    let other = json!({ "options": { "name": "other" } }).to_string();
    keyed("/api/v1/deliveries", "k1", &other).await.problem(409, "idempotency key");
    let message = json!({ "from": "a@sender.example", "to": "b@one.example", "text": "x" });
    keyed("/api/v1/messages", "k1", &message.to_string()).await.problem(409, "idempotency key");
    for key in ["", "k".repeat(256).as_str(), "a b"] {
        keyed("/api/v1/deliveries", key, &body).await.problem(422, "Idempotency-Key");
    }
    let long = keyed("/api/v1/deliveries", &"k".repeat(255), &body).await;
    assert_eq!(long.status, 201);

    let first = keyed("/api/v1/messages", "m1", &message.to_string()).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = keyed("/api/v1/messages", "m1", &message.to_string()).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["ids"], first.json()["ids"]);
    assert_eq!(again.json()["delivery"], first.json()["delivery"]);

    let mut race = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = site.request("POST", "/api/v1/deliveries").body(body.clone());
        let request = request.header("content-type", "application/json");
        let sent = request.header("idempotency-key", "race").send();
        race.spawn(async {
            let response = sent.await.unwrap();
            (response.status(), response.text().await.unwrap())
        });
    }
    let answers = race.join_all().await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert!(answers.iter().all(|(_, text)| *text == answers[0].1), "{answers:?}");

    // First messages of a new stream, all at once: one delivery, and none is lost.
    let mut race = tokio::task::JoinSet::new();
    for number in 0..50 {
        let message = json!({
            "from": "a@sender.example", "to": format!("b{number}@one.example"), "text": "x",
            "tenant": "new",
        });
        let request = site.request("POST", "/api/v1/messages").body(message.to_string());
        let sent = request.header("content-type", "application/json").send();
        race.spawn(async {
            let response = sent.await.unwrap();
            let status = response.status();
            (status, response.json::<Value>().await.unwrap())
        });
    }
    let answers = race.join_all().await;
    assert!(answers.iter().all(|(status, _)| *status == 202), "{answers:?}");
    let delivery = answers[0].1["delivery"].as_str().unwrap();
    assert!(answers.iter().all(|(_, answer)| answer["delivery"] == delivery), "{answers:?}");
    let shown = site.get(&format!("/api/v1/deliveries/{delivery}")).await;
    assert_eq!(shown["counters"]["accepted"], 50, "{shown}");
    site.stop().await;
}

/// The stored content of a message.
async fn stored(site: &Site, id: &str) -> String {
    let id: MessageId = id.parse().unwrap();
    let intake = site.node.as_ref().unwrap().intake();
    let content = intake
        .read(move |reads| {
            let message = reads.message(id)?.unwrap();
            Ok(reads.content(message.content)?.unwrap())
        })
        .await
        .unwrap();
    String::from_utf8(content.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn single_messages() {
    let site = Site::queueing().await;
    let answer = site
        .post(
            "/api/v1/messages",
            &json!({
                "from": "Böhm, Eva <eva@sender.example>",
                "to": ["Ada <ada@one.example>", { "name": "Q, \"R\"", "address": "r@two.example" }, "ADA@one.example"],
                "subject": "Your order {{ 7*7 }} – thanks",
                "html": "<p>Hello {{ name }}</p>",
                "text": "Hello {% raw %}",
                "headers": { "X-Order": "17" },
                "sender": "orders@sender.example",
                "priority": "normal",
            }),
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = answer.json();
    let ids = answer["ids"].as_array().unwrap();
    // The third recipient is the first one again: one copy only, whatever the case of the local part.
    assert_eq!(ids.len(), 2, "{answer}");
    assert!(answer["delivery"].as_str().unwrap().starts_with('d'));
    let text = stored(&site, ids[0].as_str().unwrap()).await;
    assert!(text.contains("X-Order: 17\r\n"), "{text}");
    assert!(text.contains("{% raw %}"), "{text}");
    assert!(text.contains("<p>Hello {{ name }}</p>"), "{text}");
    assert!(!text.contains("Böhm") && text.is_ascii(), "{text}");
    assert!(text.contains("multipart/alternative"), "{text}");
    let delivery = answer["delivery"].as_str().unwrap();
    let shown = site.get(&format!("/api/v1/deliveries/{delivery}")).await;
    assert_eq!(shown["stream"], true, "{shown}");
    assert_eq!(shown["options"]["priority"], "normal", "{shown}");

    let complete =
        "From: Eva <eva@sender.example>\r\nTo: x@one.example\r\nSubject: s\r\n\r\nbody\r\n";
    let request = |recipients: &str| {
        site.request("POST", "/api/v1/messages")
            .header("content-type", "message/rfc822")
            .header("x-mailweir-recipients", recipients)
    };
    let answer =
        site.ask(request("x@one.example, \"a,b\"@two.example").body(complete.to_owned())).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["ids"].as_array().unwrap().len(), 2);
    assert_eq!(stored(&site, answer["ids"][1].as_str().unwrap()).await, complete);
    for (recipients, body, wanted) in [
        ("x@one.example", "Subject: no from\r\n\r\nx\r\n", "no From"),
        ("x@one.example", "From: a@b.example\r\nFrom: c@d.example\r\n\r\nx", "more than one From"),
        ("x@one.example", "From: a@b.example\r\nbroken line\r\n\r\nx", "no field"),
        ("x@one.example", "From: a@b.example\r\n\r\na\0b", "NUL"),
        ("x@one.example,y", complete, "invalid address \"y\""),
        (" , ", complete, "from 1 to 100"),
    ] {
        site.ask(request(recipients).body(body.to_owned())).await.problem(422, wanted);
    }
    let many: Vec<String> = (0..101).map(|n| format!("p{n}@one.example")).collect();
    let body = json!({ "from": "a@b.example", "to": many, "text": "x" });
    site.post("/api/v1/messages", &body).await.problem(422, "at most 100");
    for (body, wanted) in [
        (json!({ "to": "a@b.example", "text": "x" }), "missing field `from`"),
        (json!({ "from": "a@b.example", "to": [], "text": "x" }), "at least one recipient"),
        (json!({ "from": "a@b.example", "to": "a@b.example" }), "needs text or html"),
        (json!({ "from": "a@b.example", "to": 5, "text": "x" }), "an address or a list"),
        (
            json!({ "from": "a@b.example", "to": "a@b.example", "text": "x", "affinity": "no" }),
            "affinity",
        ),
        (json!({ "from": "a@b.example", "to": "a@b.example", "text": "x", "cc": "y" }), "`cc`"),
    ] {
        site.post("/api/v1/messages", &body).await.problem(422, wanted);
    }
    site.stop().await;
}
