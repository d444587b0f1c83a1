//! One click to unsubscribe (RFC 8058), and everything that must not.

use mail::verp::{Purpose, ReturnPath, VerpKey};
use reqwest::header::HeaderMap;
use serde_json::json;

use super::Site;

/// What came back, with all of its fields.
async fn whole(request: reqwest::RequestBuilder) -> (u16, HeaderMap, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
}

const CLICK: (&str, &str) = ("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click");

#[tokio::test(flavor = "multi_thread")]
async fn one_click_unsubscribes_and_nothing_else_does() {
    let site = Site::queueing().await;
    let message = json!({ "from": "a@sender.example", "to": "Ada@one.example", "text": "x" });
    let sent = site.post("/api/v1/messages", &message).await.json();
    let id = sent["ids"][0].as_str().unwrap().parse().unwrap();
    let delivery = sent["delivery"].as_str().unwrap().parse().unwrap();
    let key = std::fs::read(site.folder.path().join("data/return-path.key")).unwrap();
    let domain = mail::address::Domain::parse("sender.example").unwrap();
    let ours = ReturnPath::new(domain, vec![VerpKey::new(&key).unwrap()]).unwrap();
    let names = ours.names(id, delivery);
    let token = names.name(Purpose::Unsubscribe);
    let path = format!("/u/{token}");
    let state = async || {
        let found = site.get("/api/v1/quarantine/addresses/ada@one.example").await;
        found["state"].as_str().unwrap().to_owned()
    };

    // Looking changes nothing, whoever looks.
    let (status, fields, page) = whole(site.request("GET", &path)).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(fields["cache-control"], "no-store");
    assert_eq!(fields["referrer-policy"], "no-referrer");
    let policy = fields["content-security-policy"].to_str().unwrap();
    for wanted in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(wanted), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.contains("<form method=\"post\">") && page.contains("value=\"One-Click\""));
    for never in ["<script", "src=", "http", "ada", "one.example", token.as_str()] {
        assert!(!page.to_ascii_lowercase().contains(never), "{never}: {page}");
    }
    assert_eq!(site.ask(site.request("GET", &path)).await.status, 200);
    let (status, _, body) = whole(site.request("HEAD", &path)).await;
    assert_eq!((status, body.as_str()), (200, ""));
    for method in ["PUT", "DELETE", "PATCH"] {
        let (status, fields, _) = whole(site.request(method, &path)).await;
        assert_eq!(status, 405, "{method}");
        let allowed = fields["allow"].to_str().unwrap();
        assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    }
    for (kind, body, wanted) in [
        ("application/x-www-form-urlencoded", String::new(), 400),
        ("application/x-www-form-urlencoded", "List-Unsubscribe=No".into(), 400),
        ("application/x-www-form-urlencoded", "x".repeat(100_000), 413),
    ] {
        assert_eq!(site.send("POST", &path, kind, body).await.status, wanted);
    }
    assert_eq!(state().await, "Valid");

    // Tokens that are not ours get one and the same answer, whatever is wrong with them.
    let strange = ReturnPath::new(
        mail::address::Domain::parse("sender.example").unwrap(),
        vec![VerpKey::new(b"another key of 16+").unwrap()],
    );
    let strange = strange.unwrap().names(id, delivery).name(Purpose::Unsubscribe);
    let mut forged = Vec::new();
    let mut changed = token.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == 'a' { 'b' } else { 'a' });
    for bad in [
        strange,
        changed,
        names.name(Purpose::Bounce),
        names.name(Purpose::MessageId),
        format!("{token}a"),
        token[..token.len() - 1].to_owned(),
        "x".repeat(2_000),
        "%00".into(),
        "%ff".into(),
        "u-a-a-aaaaaaaaaaaaaaaa".into(),
        "nonsense".into(),
    ] {
        let path = format!("/u/{bad}");
        let click = site.request("POST", &path).header("content-type", CLICK.0);
        for (status, mut fields, page) in
            [whole(site.request("GET", &path)).await, whole(click.body(CLICK.1)).await]
        {
            fields.remove("date");
            forged.push((status, format!("{fields:?}"), page));
        }
    }
    assert_eq!(forged[0].0, 404, "{forged:?}");
    assert!(forged.iter().all(|answer| *answer == forged[0]), "{forged:?}");
    // The MAC of a message that was never there is right only for whoever has the key.
    let missing = ours.names(mail::id::MessageId(999), delivery).name(Purpose::Unsubscribe);
    let (status, _, page) = whole(site.request("GET", &format!("/u/{missing}"))).await;
    assert_eq!(status, 410, "{page}");
    assert_eq!(state().await, "Valid");

    // One click; the relays of a large provider may have changed the case.
    let shouted = format!("/u/{}", token.to_ascii_uppercase());
    let done = site.send("POST", &shouted, CLICK.0, CLICK.1).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(done.text.contains("You are unsubscribed"), "{done:?}");
    assert_eq!(state().await, "Denylisted");
    let again = site.send("POST", &path, CLICK.0, CLICK.1).await;
    assert_eq!(again.status, 200, "{again:?}");
    let found = site.get("/api/v1/quarantine/addresses/ada@one.example").await;
    assert_eq!(found["deeds"][0]["what"], "unsubscribe", "{found}");
    assert_eq!(found["deeds"].as_array().unwrap().len(), 1, "twice is once: {found}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_need_no_token_of_access() {
    let http =
        "[http]\ntokens = [{ name = \"boss\", role = \"operator\", token = { file = \"t\" } }]\n";
    let site = Site::start(super::CLOSED_DNS, http, |folder| {
        std::fs::write(folder.join("t"), "a-token-of-some-length").unwrap();
    })
    .await;
    let answer = site.ask(site.request("GET", "/u/nonsense")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(answer.kind, "text/html; charset=utf-8");
    // Behind a proxy the Host field is that of the links.
    let request = site.request("GET", "/u/nonsense").header("host", "news.sender.example");
    assert_eq!(site.ask(request).await.status, 404);
    for path in ["quarantine/addresses", "quarantine/export", "suppression", "qualifications"] {
        let answer = site.ask(site.request("GET", &format!("/api/v1/{path}"))).await;
        answer.problem(401, "Authorization");
    }
    site.stop().await;
}
