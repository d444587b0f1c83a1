//! Addresses by hand, lists in and out, the suppression list.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Site;

async fn act(site: &Site, body: Value) -> Value {
    let answer = site.post("/api/v1/quarantine/deeds", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn explained(site: &Site, address: &str) -> Value {
    site.get(&format!("/api/v1/quarantine/addresses/{address}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_by_hand() {
    let site = Site::queueing().await;
    let none = explained(&site, "nobody@one.example").await;
    assert_eq!(none["state"], "Valid", "{none}");
    assert_eq!(none["known"], false);
    assert_eq!(none["refused"], Value::Null);
    assert_eq!(none["since"], Value::Null);

    let changed = act(
        &site,
        json!({ "deed": "quarantine", "reason": "user-unknown", "why": "returned letter",
            "addresses": ["Ada@One.Example", "bob@two.example"] }),
    )
    .await;
    assert_eq!(changed["changes"].as_array().unwrap().len(), 2, "{changed}");
    assert_eq!(changed["changes"][0]["address"], "ada@one.example");
    assert_eq!(changed["changes"][0]["after"]["state"], "Quarantined");
    act(&site, json!({ "deed": "deny", "addresses": ["carl@two.example"] })).await;
    act(&site, json!({ "deed": "allow", "addresses": ["dora@two.example"] })).await;

    let ada = explained(&site, "ADA@one.example").await;
    assert_eq!(ada["state"], "Quarantined", "{ada}");
    assert_eq!(ada["reason"], "User unknown");
    assert!(ada["refused"].as_str().unwrap().contains("quarantined"), "{ada}");
    assert_eq!(ada["deeds"][0]["why"], "returned letter");
    assert_eq!(ada["deeds"][0]["who"], "http");
    assert_eq!(ada["cause"], ada["deeds"][0]["deed"]);
    let carl = explained(&site, "carl@two.example").await;
    assert_eq!(carl["state"], "Denylisted", "{carl}");
    assert_eq!(explained(&site, "dora@two.example").await["refused"], Value::Null);

    let page = site.get("/api/v1/quarantine/addresses?limit=2").await;
    assert_eq!(page["addresses"].as_array().unwrap().len(), 2, "{page}");
    let next = page["next"].as_str().unwrap();
    let rest = site.get(&format!("/api/v1/quarantine/addresses?limit=1000&after={next}")).await;
    assert_eq!(rest["addresses"].as_array().unwrap().len(), 2, "{rest}");
    assert_eq!(rest["next"], Value::Null);
    for (filter, wanted) in [
        ("state=quarantined", vec!["ada@one.example", "bob@two.example"]),
        ("state=Denylisted", vec!["carl@two.example"]),
        ("reason=user-unknown&domain=TWO.example", vec!["bob@two.example"]),
        ("domain=missing.example", vec![]),
    ] {
        let found = site.get(&format!("/api/v1/quarantine/addresses?{filter}")).await;
        let found: Vec<&str> = found["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["address"].as_str().unwrap())
            .collect();
        assert_eq!(found, wanted, "{filter}");
    }
    let counts = site.get("/api/v1/quarantine/counts").await;
    let quarantined = json!({ "state": "Quarantined", "reason": "User unknown", "addresses": 2 });
    assert!(counts["addresses"].as_array().unwrap().contains(&quarantined), "{counts}");

    // Admission: refused on hand-over, while the others are taken.
    let id = super::draft(&site).await;
    let list = "email,first_name\nada@one.example,A\nnew@one.example,N\ndora@two.example,D\n";
    let path = format!("/api/v1/deliveries/{id}/recipients");
    let added = site.send("POST", &path, "text/csv", list).await.json();
    assert_eq!((&added["accepted"], &added["refused"]), (&json!(2), &json!(1)), "{added}");

    act(&site, json!({ "deed": "release", "addresses": ["ada@one.example"] })).await;
    let ada = explained(&site, "ada@one.example").await;
    assert_eq!((&ada["state"], &ada["refused"]), (&json!("Valid"), &Value::Null), "{ada}");
    assert_eq!(ada["deeds"].as_array().unwrap().len(), 2);
    let audit = site.node.as_ref().unwrap().intake();
    let audit = audit.read(|reads| reads.audit(20)).await.unwrap();
    assert!(audit.iter().any(|entry| &*entry.why == "returned letter"), "{audit:?}");

    for (body, wanted) in [
        (json!({ "deed": "quarantine", "addresses": ["a@b.example"] }), "reason: say why"),
        (json!({ "deed": "deny", "addresses": ["a@b.example"], "reason": "Refused" }), "only a"),
        (json!({ "deed": "burn", "addresses": ["a@b.example"] }), "unknown variant `burn`"),
        (json!({ "deed": "deny", "addresses": [] }), "from 1 to 1000"),
        (json!({ "deed": "deny", "addresses": ["a@b.example", "nobody"] }), "addresses[1]"),
        (json!({ "deed": "deny", "addresses": ["a@b.example"], "why": "x\r\ny" }), "U+000D"),
        (json!({ "deed": "deny" }), "missing field `addresses`"),
    ] {
        site.post("/api/v1/quarantine/deeds", &body).await.problem(422, wanted);
    }
    for (path, wanted) in [
        ("addresses?state=gone", "`gone` is none of Valid, With errors"),
        ("addresses?domain=-", "domain"),
        ("addresses?colour=red", "unknown parameter"),
        ("addresses/nobody", "this is no address"),
    ] {
        let path = format!("/api/v1/quarantine/{path}");
        site.ask(site.request("GET", &path)).await.problem(422, wanted);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_in_and_out() {
    let site = Site::queueing().await;
    let import = |body: &str| {
        site.request("POST", "/api/v1/quarantine/import")
            .header("content-type", "text/csv")
            .body(body.to_owned())
    };
    let list = "address;reason\nAda@one.example;User unknown\nnot an address;User unknown\n\
        bob@one.example;Mailbox full\nada@ONE.example;Account disabled\ncarl@one.example;Bored\n";
    site.ask(import(list)).await.problem(422, "no column `state`");
    let taken = site.ask(import(list).header("x-mailweir-state", "quarantined")).await;
    assert_eq!(taken.status, 200, "{taken:?}");
    let taken = taken.json();
    assert_eq!((&taken["taken"], &taken["refused"]), (&json!(3), &json!(2)), "{taken}");
    assert_eq!(taken["refusals"][0]["line"], 3, "{taken}");
    assert!(taken["refusals"][1]["reason"].as_str().unwrap().contains("Bored"), "{taken}");
    // The last row of an address wins.
    assert_eq!(explained(&site, "ada@one.example").await["reason"], "Account disabled");
    let found = explained(&site, "bob@one.example").await;
    assert_eq!(found["deeds"][0]["why"], "import", "{found}");

    let all = site.ask(site.request("GET", "/api/v1/quarantine/export")).await;
    assert_eq!(all.text.lines().count(), 3, "{all:?}");
    assert!(all.text.starts_with("address,state,reason,since"), "{all:?}");
    let some = site.ask(site.request("GET", "/api/v1/quarantine/export?reason=mailbox-full")).await;
    assert_eq!(some.text.lines().count(), 2, "{some:?}");
    // What came out goes in again and changes nothing.
    let again = site.ask(import(&all.text)).await.json();
    assert_eq!((&again["taken"], &again["refused"]), (&json!(2), &json!(0)), "{again}");
    let same = site.ask(site.request("GET", "/api/v1/quarantine/export")).await;
    assert_eq!(same.text, all.text);

    for (kind, body, status, wanted) in [
        ("text/csv", "", 422, "first line must name the columns"),
        ("text/csv", "email,state\nx@y.example,valid\n", 422, "first line must name the columns"),
        ("text/csv", "address,state,age\n", 422, "`age` is not known"),
        ("application/json", "{}", 415, "text/csv"),
    ] {
        let answer = site.send("POST", "/api/v1/quarantine/import", kind, body).await;
        answer.problem(status, wanted);
    }
    let bad = site.ask(import(list).header("x-mailweir-state", "dead")).await;
    bad.problem(422, "X-Mailweir-State");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_streamed_and_may_break_off() {
    let site = Site::queueing().await;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let head = format!(
        "POST /api/v1/quarantine/import HTTP/1.1\r\nHost: {}\r\nContent-Type: text/csv\r\n\
         X-Mailweir-State: Denylisted\r\nTransfer-Encoding: chunked\r\n\r\n",
        site.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut rows = "address\n".to_owned();
    for number in 0..3_500 {
        rows += &format!("p{number}@one.example\n");
    }
    // The last row looks whole and is not: who knows what would have followed.
    rows += "cut@one.exam";
    stream.write_all(format!("{:x}\r\n{rows}\r\nzzz\r\n", rows.len()).as_bytes()).await.unwrap();
    let mut answer = vec![0; 65_536];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("\"taken\":3000"), "{answer}");
    let rows = rows.replace("cut@one.exam", "");
    let again = site
        .ask(
            site.request("POST", "/api/v1/quarantine/import")
                .header("content-type", "text/csv")
                .header("x-mailweir-state", "Denylisted")
                .body(rows),
        )
        .await;
    assert_eq!(again.json()["taken"], 3_500, "{again:?}");
    let all = site.ask(site.request("GET", "/api/v1/quarantine/export?state=denylisted")).await;
    assert_eq!(all.text.lines().count(), 3_501);
    assert!(!all.text.contains("cut@"), "half a row was taken");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suppression() {
    let site = Site::queueing().await;
    let path = "/api/v1/suppression";
    let body = json!({ "add": ["Ada@one.example", "*.spam.example", "bad.example"], "why": "law" });
    let added = site.post(path, &body).await;
    assert_eq!(added.json(), json!({ "added": 3, "removed": 0 }), "{added:?}");
    let list = site.get(&format!("{path}?limit=1")).await;
    let first = &list["entries"][0];
    assert_eq!(first["kind"], "hash", "{list}");
    assert_eq!(first["why"], "law");
    let ada = explained(&site, "ada@one.example").await;
    assert_eq!(first["entry"], ada["hash"], "the address itself is not kept");
    assert!(ada["refused"].as_str().unwrap().contains("suppression list"), "{ada}");
    let next = list["next"].as_str().unwrap();
    let rest = site.get(&format!("{path}?after={next}")).await;
    let rest: Vec<&str> = rest["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["entry"].as_str().unwrap())
        .collect();
    assert_eq!(rest.len(), 2);
    assert!(rest.contains(&"*.spam.example") && rest.contains(&"bad.example"), "{rest:?}");
    let refused = explained(&site, "x@very.spam.example").await;
    assert!(refused["refused"].as_str().unwrap().contains("domain"), "{refused}");

    let lines = "# from elsewhere\n\nBob@one.example\nother.example\nwhat is this\n";
    let taken = site.send("POST", &format!("{path}/import"), "text/plain", lines).await.json();
    assert_eq!((&taken["taken"], &taken["refused"]), (&json!(2), &json!(1)), "{taken}");
    assert_eq!(taken["refusals"][0]["line"], 5, "{taken}");
    let removed = site.post(path, &json!({ "remove": ["bad.example", "ada@one.example"] })).await;
    assert_eq!(removed.json()["removed"], 2);
    assert_eq!(explained(&site, "ada@one.example").await["refused"], Value::Null);
    for (body, wanted) in [
        (json!({}), "from 1 to 1000"),
        (json!({ "add": ["a b"] }), "add[0]"),
        (json!({ "add": "x.example" }), "invalid type"),
    ] {
        site.post(path, &body).await.problem(422, wanted);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_erased_and_stays_suppressed() {
    let site = Site::queueing().await;
    let deed = json!({ "deed": "deny", "addresses": ["Ada@one.example"], "why": "asked" });
    site.post("/api/v1/quarantine/deeds", &deed).await.json();
    let path = "/api/v1/quarantine/forget";
    let body = json!({ "address": "Ada@one.example", "why": "letter of ADA@one.example" });
    site.post(path, &body).await.problem(422, "must not name the address");
    site.post(path, &json!({ "address": "nobody" })).await.problem(422, "address");
    let hash = explained(&site, "ada@one.example").await["hash"].clone();
    let body = json!({ "address": "Ada@one.example", "why": "letter of 3 March" });
    let erased = site.post(path, &body).await.json();
    let wanted = json!({
        "hash": hash, "known": true, "messages": 0, "refusals": 0, "texts": 0, "waiting": 0,
    });
    assert_eq!(erased, wanted);
    let ada = explained(&site, "ada@one.example").await;
    assert_eq!((&ada["known"], &ada["deeds"]), (&json!(false), &json!([])), "{ada}");
    assert!(ada["refused"].as_str().unwrap().contains("suppression list"), "{ada}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_a_column_that_the_template_needs_is_refused_early() {
    let site = Site::queueing().await;
    let content = json!({
        "kind": "template", "from": { "name": "Shop", "address": "a@sender.example" },
        "subject": "For {{ first_name }}",
        "html": "<p>{{ city }} {{ first_name }} {{ title|default('') }}</p>",
    });
    let body = json!({ "options": { "name": "Spring" }, "content": content });
    let id = site.post("/api/v1/deliveries", &body).await.json();
    let path = format!("/api/v1/deliveries/{}", id["id"].as_str().unwrap());
    let path = format!("{path}/recipients");
    let lacking = "email,first_name\nann@one.example,Ann\n";
    let answer = site.send("POST", &path, "text/csv", lacking).await;
    answer.problem(422, "no column city (the template's html asks for it)");
    let whole = "email,first_name,city\nann@one.example,Ann,Oslo\n";
    assert_eq!(site.send("POST", &path, "text/csv", whole).await.json()["accepted"], 1);
    // Rows of JSON have their own members each.
    let row = "{\"email\":\"bob@one.example\"}\n";
    assert_eq!(site.send("POST", &path, "application/x-ndjson", row).await.json()["accepted"], 1);
    site.stop().await;
}
