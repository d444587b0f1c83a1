//! What is refused, and how it is said.

use serde_json::json;

use super::{CLOSED_DNS, Site, content, draft};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said() {
    let site = Site::queueing().await;
    let id = draft(&site).await;
    let json = "application/json";
    let at = |rest: &str| format!("/api/v1/deliveries/{id}{rest}");
    let deep = format!("{{\"content\":{{\"kind\":\"template\",\"x\":{}", "[".repeat(10_000));
    let big = format!("{{\"options\":{{\"name\":\"{}\"}}}}", "a".repeat(11 << 20));
    let raw_bad = r#"{"content":{"kind":"raw","message":"%%%"}}"#;
    let template = |change: &str| {
        format!(
            r#"{{"content":{{"kind":"template","from":{{"address":"a@b.example"}},{change}}}}}"#
        )
    };
    let recipients = at("/recipients");
    let (start, pause) = (at("/start"), at("/pause"));
    let content = at("/content");
    let table: Vec<(&str, &str, &str, String, u16, &str)> = vec![
        ("GET", "/api/v1/nothing", "", String::new(), 404, "no route"),
        ("GET", "/", "", String::new(), 404, "no route"),
        ("DELETE", "/api/v1/deliveries", "", String::new(), 405, "Allow"),
        ("GET", "/api/v1/deliveries/d9", "", String::new(), 404, "there is no delivery d9"),
        ("GET", "/api/v1/deliveries/12", "", String::new(), 404, "expected d<number>"),
        ("GET", "/api/v1/deliveries/d9223372036854775808", "", String::new(), 404, "there is no"),
        ("GET", "/api/v1/deliveries/d1%2F..%2F..", "", String::new(), 404, "expected d<number>"),
        ("GET", "/api/v1/deliveries/d1%00", "", String::new(), 400, "control character"),
        ("GET", "/api/v1/deliveries/%ff", "", String::new(), 400, "UTF-8"),
        ("GET", "/api/v1/deliveries?limit=0", "", String::new(), 422, "limit: a number from 1"),
        ("GET", "/api/v1/deliveries?limit=-1", "", String::new(), 422, "limit"),
        ("GET", "/api/v1/deliveries?limit=1000000000", "", String::new(), 422, "limit"),
        ("GET", "/api/v1/deliveries?sort=x'--", "", String::new(), 422, "unknown parameter"),
        ("GET", "/api/v1/deliveries?limit=1&limit=2", "", String::new(), 422, "twice"),
        ("GET", "/api/v1/deliveries?after=m1", "", String::new(), 422, "after: d<number>"),
        ("POST", "/api/v1/deliveries?dry=1", json, "{}".into(), 422, "no parameters"),
        ("GET", "/api/v1/explain/m99", "", String::new(), 404, "there is no message m99"),
        ("GET", "/api/v1/explain/d99", "", String::new(), 404, "there is no delivery d99"),
        ("GET", "/api/v1/explain/a@b@c", "", String::new(), 422, "this is no address"),
        ("GET", "/api/v1/explain/x..y", "", String::new(), 422, "no message (m123)"),
        ("GET", "/api/v1/paths/-", "", String::new(), 422, "this is no domain"),
        ("GET", "/api/v1/paths/one.example?affinity=no", "", String::new(), 422, "no affinity"),
        ("POST", "/api/v1/deliveries", "text/plain", "{}".into(), 415, "application/json"),
        ("POST", "/api/v1/deliveries", "", "{}".into(), 415, "application/json"),
        ("POST", "/api/v1/deliveries", json, "{".into(), 400, "not JSON"),
        ("POST", "/api/v1/deliveries", json, "{} x".into(), 400, "trailing characters"),
        ("POST", "/api/v1/deliveries", json, r#"{"option":{}}"#.into(), 422, "`option`"),
        (
            "POST",
            "/api/v1/deliveries",
            json,
            r#"{"options":{},"options":{}}"#.into(),
            422,
            "duplicate field",
        ),
        (
            "POST",
            "/api/v1/deliveries",
            json,
            r#"{"options":{"affinity":"no"}}"#.into(),
            422,
            "affinity",
        ),
        ("POST", "/api/v1/deliveries", json, deep, 400, "recursion limit"),
        ("POST", "/api/v1/deliveries", json, big, 413, "larger than"),
        ("POST", "/api/v1/deliveries", json, raw_bad.into(), 422, "nvalid symbol"),
        ("POST", "/api/v1/deliveries", json, template(r#""text":"{% if %}""#), 422, "text:1:"),
        ("POST", "/api/v1/deliveries", json, template(r#""subject":"no body""#), 422, ""),
        ("POST", "/api/v1/deliveries", json, template(r#""text":"x","txt":"y""#), 422, "`txt`"),
        ("PUT", &content, json, r#"{"kind":"html"}"#.into(), 422, "unknown variant `html`"),
        ("PUT", &content, "message/rfc822", "no message".into(), 422, "no "),
        ("PUT", &content, "text/html", "<p>".into(), 415, "message/rfc822"),
        (
            "PUT",
            "/api/v1/deliveries/d99/content",
            "message/rfc822",
            "From: a@b.example\r\n\r\nx\r\n".into(),
            404,
            "d99",
        ),
        ("POST", &start, json, r#"{"why":"a\u0000"}"#.into(), 422, "why: contains"),
        ("POST", &start, json, r#"{"because":"a"}"#.into(), 422, "`because`"),
        ("POST", &start, "text/plain", "go".into(), 415, "application/json"),
        ("POST", "/api/v1/deliveries/d99/start", "", String::new(), 404, "d99"),
        ("POST", &pause, "", String::new(), 409, "is a draft"),
        ("POST", &recipients, "text/plain", "a@b.example".into(), 415, "text/csv"),
        ("POST", &recipients, "text/csv; charset=latin1", "email\n".into(), 415, "UTF-8"),
        ("POST", &recipients, "text/csv", String::new(), 422, "empty"),
        (
            "POST",
            &recipients,
            "text/csv",
            "mail,name\na@b.example,A\n".into(),
            422,
            "no column email",
        ),
        ("POST", &recipients, "text/csv", "email,email\n".into(), 422, "two columns"),
        (
            "POST",
            "/api/v1/deliveries/d99/recipients",
            "text/csv",
            "email\na@b.example\n".into(),
            404,
            "d99",
        ),
        ("POST", "/api/v1/messages", "text/plain", "hello".into(), 415, "message/rfc822"),
        (
            "POST",
            "/api/v1/messages",
            "message/rfc822",
            "From: a@b.example\r\n\r\n".into(),
            422,
            "x-mailweir-recipients",
        ),
    ];
    for (method, path, kind, body, status, wanted) in table {
        let mut request = site.request(method, path).body(body);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = site.ask(request).await;
        eprintln!("{method} {path} {status}");
        answer.problem(status, wanted);
    }
    let gzip = site.request("POST", &recipients).header("content-type", "text/csv");
    let answer = site.ask(gzip.header("content-encoding", "gzip").body("x")).await;
    answer.problem(415, "Content-Encoding");
    let other = site.request("GET", "/api/v1/stat").header("host", "rebound.example");
    site.ask(other).await.problem(403, "localhost");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_breaks_out_of_a_header() {
    let site = Site::queueing().await;
    let breaks = ["\r\nBcc: x@y.example", "\nX: y", "\r", "\0", "\u{85}", "\u{2028}", "\u{2029}"];
    for text in breaks {
        let bad = format!("a{text}");
        for (field, change) in [
            ("subject", json!({ "subject": bad })),
            ("from.name", json!({ "from": { "name": bad, "address": "a@b.example" } })),
            ("from.address", json!({ "from": { "address": format!("{bad}@b.example") } })),
            ("reply_to.name", json!({ "reply_to": { "name": bad, "address": "a@b.example" } })),
            ("to_name", json!({ "to_name": bad })),
            ("headers[0].value", json!({ "headers": [{ "name": "X-A", "value": bad }] })),
            ("headers[0].name", json!({ "headers": [{ "name": bad, "value": "x" }] })),
            ("feedback_id.campaign", json!({ "feedback_id": { "campaign": bad } })),
            ("unsubscribe.url", json!({ "unsubscribe": { "mode": "own", "url": bad } })),
            (
                "attachments[0].name",
                json!({ "attachments": [{ "name": bad, "content_type": "text/plain", "content": "" }] }),
            ),
        ] {
            let mut content = content();
            for (name, value) in change.as_object().unwrap() {
                content[name] = value.clone();
            }
            let answer = site.post("/api/v1/deliveries", &json!({ "content": content })).await;
            let problem = answer.problem(422, field);
            assert_eq!(problem["field"], field, "{problem}");
        }
        for (field, change) in [
            ("subject", json!({ "subject": bad })),
            ("from", json!({ "from": format!("{bad} <a@b.example>") })),
            ("from", json!({ "from": format!("{bad}@b.example") })),
            ("to[0]", json!({ "to": [{ "name": bad, "address": "a@b.example" }] })),
            ("to[0]", json!({ "to": format!("{bad}@b.example") })),
            ("reply_to", json!({ "reply_to": { "name": bad, "address": "a@b.example" } })),
            ("headers.X-A", json!({ "headers": { "X-A": bad } })),
            ("headers", json!({ "headers": { bad.clone(): "x" } })),
            ("sender", json!({ "sender": format!("{bad}@b.example") })),
            ("tenant", json!({ "tenant": bad })),
            ("affinity", json!({ "affinity": bad })),
        ] {
            let mut message =
                json!({ "from": "a@sender.example", "to": "b@one.example", "text": "x" });
            for (name, value) in change.as_object().unwrap() {
                message[name] = value.clone();
            }
            let problem = site.post("/api/v1/messages", &message).await.problem(422, field);
            assert_eq!(problem["field"], field, "{problem}");
        }
    }
    for name in ["DKIM-Signature", "Return-Path", "Bcc", "Received", "From", "X A", "X:", "Ü", ""]
    {
        let message = json!({
            "from": "a@sender.example", "to": "b@one.example", "text": "x", "headers": { name: "x" },
        });
        site.post("/api/v1/messages", &message).await.problem(422, "headers");
        let mut content = content();
        content["headers"] = json!([{ "name": name, "value": "x" }]);
        site.post("/api/v1/deliveries", &json!({ "content": content }))
            .await
            .problem(422, "header");
    }
    let long = format!("https://a.example/{}", "a".repeat(10_000));
    for url in [
        long.as_str(),
        "http://a.example/",
        "javascript:alert(1)",
        "https://ü.example/",
        "https://",
    ] {
        let mut content = content();
        content["unsubscribe"] = json!({ "mode": "own", "url": url });
        let answer = site.post("/api/v1/deliveries", &json!({ "content": content })).await;
        answer.problem(422, "unsubscribe.url: an https URL");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_roles() {
    let http = r#"
[http]
tokens = [
  { name = "watch", role = "reader", token = { file = "reader" } },
  { name = "shop", role = "sender", token = { file = "sender" } },
  { name = "boss", role = "operator", token = { file = "operator" } },
]"#;
    let site = Site::start(CLOSED_DNS, http, |folder| {
        for name in ["reader", "sender", "operator"] {
            std::fs::write(folder.join(name), format!("{name}-token-0123456789")).unwrap();
        }
    })
    .await;
    let bearer = |method: &str, path: &str, who: &str| {
        site.request(method, path).bearer_auth(format!("{who}-token-0123456789"))
    };
    let none = site.ask(site.request("GET", "/api/v1/stat")).await;
    none.problem(401, "Authorization");
    let query = "/api/v1/stat?access_token=reader-token-0123456789";
    site.ask(site.request("GET", query)).await.problem(401, "Authorization");
    site.ask(bearer("GET", "/api/v1/stat", "stranger")).await.problem(401, "Authorization");
    for path in ["/api/v1/stat", "/metrics", "/api/v1/deliveries", "/api/v1/openapi.json"] {
        let answer = site.ask(bearer("GET", path, "reader")).await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(site.ask(site.request("GET", path)).await.status, 200, "{path}");
    }
    let body = || json!({ "content": content() }).to_string();
    let create = |who: &str| {
        bearer("POST", "/api/v1/deliveries", who)
            .header("content-type", "application/json")
            .header("idempotency-key", "same")
            .body(body())
    };
    site.ask(create("reader")).await.problem(403, "\"watch\" does not have the role sender");
    let mine = site.ask(create("sender")).await;
    assert_eq!(mine.status, 201, "{mine:?}");
    // The same key of another token is another key.
    let other = site.ask(create("operator")).await;
    assert_eq!(other.status, 201, "{other:?}");
    let id = mine.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        site.ask(bearer("GET", &format!("/api/v1/deliveries/{id}"), "reader")).await.json()["options"]
            ["tenant"],
        "shop"
    );
    let cancel = format!("/api/v1/deliveries/{id}/cancel");
    site.ask(bearer("POST", &cancel, "sender")).await.problem(403, "operator");
    assert_eq!(site.ask(bearer("POST", &cancel, "operator")).await.status, 200);
    site.ask(bearer("POST", "/api/v1/stat/reload", "sender")).await.problem(403, "operator");
    site.stop().await;
}
