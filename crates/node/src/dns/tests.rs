//! Routes from a name server on loopback that misbehaves on demand.

use rules::recipient::DomainRuleFile;

use super::*;
use crate::config::TargetPolicy;

pub(crate) mod fake;
mod hostile;

use fake::{FakeServer, reverse};

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

/// Limits that keep the tests quick.
fn quick(server: &FakeServer) -> DnsConfig {
    DnsConfig {
        servers: vec![server.address],
        query_timeout: Duration::from_millis(1_500),
        attempts: 1,
        route_timeout: Duration::from_secs(5),
        own_names: vec!["me.example".into()],
        ..DnsConfig::default()
    }
}

/// A route as text: `10 a.example [192.0.2.1]; ... +seconds`.
fn text(routed: &Routed) -> String {
    let seconds = routed.1.since(NOW).as_secs();
    match &routed.0 {
        Ok(route) => {
            assert_eq!(route.valid_until, routed.1);
            let hosts: Vec<String> = route
                .hosts
                .iter()
                .map(|h| format!("{} {} {:?}", h.preference, h.name, h.addresses))
                .collect();
            format!("{} +{seconds}", hosts.join("; "))
        }
        Err(RouteFault::Temporary { why }) => format!("temporary: {why} +{seconds}"),
        Err(fault) => format!("{fault:?} +{seconds}"),
    }
}

/// Looks up every domain of the table in the zone; `...` at the end of what is wanted: a prefix.
async fn check(zone: &str, ipv6: bool, table: &[(&str, &str)]) {
    let server = FakeServer::start(zone).await;
    let resolver = Resolver::new(&DnsConfig { ipv6, ..quick(&server) }).unwrap();
    // All at once, so that their time-outs overlap.
    let mut tasks = JoinSet::new();
    for (place, (domain, _)) in table.iter().enumerate() {
        let (resolver, domain) = (resolver.clone(), (*domain).to_owned());
        tasks.spawn(async move { (place, text(&resolver.route(&domain, NOW).await)) });
    }
    let mut wrong = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (place, found) = done.unwrap();
        let (domain, wanted) = &table[place];
        let fits = match wanted.split_once("...") {
            Some((start, end)) => found.starts_with(start) && found.ends_with(end),
            None => found == *wanted,
        };
        if !fits {
            wrong.push(format!("{domain}\n  found  {found}\n  wanted {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn good_answers_and_ttls() {
    let zone = "
        plain.example 300 MX 20 b.example
        plain.example 200 MX 10 a.example
        a.example 100 A 192.0.2.1
        a.example 100 A 192.0.2.2
        b.example 400 A 192.0.2.3
        b.example 50 AAAA 2001:db8::3
        implicit.example 70 A 192.0.2.7
        null.example 300 MX 0 .
        both.example 300 MX 0 .
        both.example 300 MX 5 a.example
        loop.example 300 MX 10 me.example
        loop.example 300 MX 20 a.example
        better.example 300 MX 20 me.example
        better.example 300 MX 10 a.example
        twice.example 300 MX 10 a.example
        twice.example 300 MX 20 a2.example
        a2.example 300 A 192.0.2.1
        gone.example 300 MX 10 nothing.example
        half.example 300 MX 10 nothing.example
        half.example 300 MX 20 a.example
        zero.example 0 MX 10 a.example
        huge.example 2147483648 MX 10 a.example
        day.example 2147483647 MX 10 long.example
        long.example 4000000 A 192.0.2.9
        only6.example 300 MX 10 six.example
        six.example 300 AAAA 2001:db8::6
        implicit6.example 300 AAAA 2001:db8::6
        under.example 300 MX 10 mx_1.example
        mx_1.example 300 A 192.0.2.11
        text.example 300 MX 10 192.0.2.12
        last.example 300 MX 65535 a.example
        nodata.example TXT !soa 900
    ";
    let common = [
        ("null.example", "NullMx +300"),
        ("both.example", "5 a.example [192.0.2.1, 192.0.2.2] +60"),
        ("loop.example", "Loop +300"),
        ("better.example", "10 a.example [192.0.2.1, 192.0.2.2] +60"),
        ("none.example", "NoSuchDomain +60"),
        ("nodata.example", "NoMailHost +60"),
        ("text.example", "10 192.0.2.12 [192.0.2.12] +300"),
        ("gone.example", "temporary: no MX host has an address (nothing.example) +5"),
        (
            "a..b",
            "BadName { why: \"an empty label (two dots in a row, or a dot at the start)\" } +86400",
        ),
        ("[192.0.2.77]", "0 192.0.2.77 [192.0.2.77] +86400"),
    ];
    check(zone, true, &common).await;
    check(
        zone,
        true,
        &[
            (
                "plain.example",
                "10 a.example [192.0.2.1, 192.0.2.2]; 20 b.example [192.0.2.3, 2001:db8::3] +50",
            ),
            ("only6.example", "10 six.example [2001:db8::6] +60"),
            ("implicit6.example", "0 implicit6.example [2001:db8::6] +60"),
        ],
    )
    .await;
    check(
        zone,
        false,
        &[
            (
                "Plain.Example.",
                "10 a.example [192.0.2.1, 192.0.2.2]; 20 b.example [192.0.2.3] +100",
            ),
            ("implicit.example", "0 implicit.example [192.0.2.7] +60"),
            ("twice.example", "10 a.example [192.0.2.1, 192.0.2.2]; 20 a2.example [] +100"),
            ("half.example", "10 nothing.example []; 20 a.example [192.0.2.1, 192.0.2.2] +60"),
            ("zero.example", "10 a.example [192.0.2.1, 192.0.2.2] +5"),
            ("huge.example", "10 a.example [192.0.2.1, 192.0.2.2] +5"),
            ("day.example", "10 long.example [192.0.2.9] +86400"),
            (
                "only6.example",
                "temporary: six.example: only IPv6 addresses, and no source here has IPv6 +5",
            ),
            (
                "implicit6.example",
                "temporary: implicit6.example: only IPv6 addresses, and no source here has IPv6 +5",
            ),
            ("under.example", "10 mx_1.example [192.0.2.11] +300"),
            ("last.example", "65535 a.example [192.0.2.1, 192.0.2.2] +100"),
        ],
    )
    .await;
}

#[tokio::test]
async fn failures_are_temporary_and_say_why() {
    let zone = "
        servfail.example MX !code 2
        refused.example MX !code 5
        formerr.example MX !code 1
        notimp.example MX !code 4
        odd.example MX !code 11
        silent.example MX !drop
        garbage.example MX !garbage
        circle.example MX !pointer-loop
        wrong-id.example 300 MX 10 a.example
        wrong-id.example MX !wrong-id
        wrong-question.example 300 MX 10 a.example
        wrong-question.example MX !wrong-question
        elsewhere.example 300 MX 10 a.example
        elsewhere.example MX !elsewhere
        cut.example 300 MX 10 a.example
        cut.example MX !cut always
        referral.example MX !referral
        mx-fails.example MX !code 2
        mx-fails.example 300 A 192.0.2.1
        a.example 300 A 192.0.2.1
        hosts-fail.example 300 MX 10 h1.example
        h1.example A !code 2
        one-fails.example 300 MX 10 h1.example
        one-fails.example 300 MX 20 a.example
    ";
    check(
        zone,
        false,
        &[
            (
                "servfail.example",
                "temporary: MX of servfail.example: SERVFAIL (server 127.0.0.1:...) +5",
            ),
            ("refused.example", "temporary: MX of refused.example: REFUSED...+5"),
            ("formerr.example", "temporary: MX of formerr.example: ...+5"),
            ("notimp.example", "temporary: MX of notimp.example: ...+5"),
            ("odd.example", "temporary: MX of odd.example: response code 11...+5"),
            ("silent.example", "temporary: MX of silent.example: no answer in time...+5"),
            ("garbage.example", "temporary: MX of garbage.example: ...+5"),
            ("circle.example", "temporary: MX of circle.example: ...+5"),
            ("wrong-id.example", "temporary: MX of wrong-id.example: no answer in time...+5"),
            (
                "wrong-question.example",
                "temporary: MX of wrong-question.example: no answer in time...+5",
            ),
            ("elsewhere.example", "temporary: MX of elsewhere.example: no answer in time...+5"),
            ("cut.example", "temporary: MX of cut.example: ...+5"),
            (
                "referral.example",
                "temporary: MX of referral.example: a referral in place of an answer...+5",
            ),
            // Never the address of a domain whose MX could not be found out.
            ("mx-fails.example", "temporary: MX of mx-fails.example: SERVFAIL...+5"),
            ("hosts-fail.example", "temporary: A of h1.example: SERVFAIL...+5"),
            ("one-fails.example", "10 h1.example []; 20 a.example [192.0.2.1] +60"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_wrong_answer_does_not_hide_the_right_one() {
    let zone = "
        a.example 300 A 192.0.2.1
        id.example 300 MX 10 a.example
        id.example MX !wrong-id
        id.example MX !then-right
        question.example 300 MX 10 a.example
        question.example MX !wrong-question
        question.example MX !then-right
        port.example 300 MX 10 a.example
        port.example MX !elsewhere
        port.example MX !then-right
        tcp.example 300 MX 10 a.example
        tcp.example MX !cut
        late.example 300 MX 10 a.example
        late.example MX !delay 100
        old.example 300 MX 10 a.example
        old.example MX !noedns
    ";
    let server = FakeServer::start(zone).await;
    let resolver = Resolver::new(&DnsConfig { attempts: 2, ..quick(&server) }).unwrap();
    for domain in [
        "id.example",
        "question.example",
        "port.example",
        "tcp.example",
        "late.example",
        "old.example",
    ] {
        let found = text(&resolver.route(domain, NOW).await);
        assert_eq!(found, "10 a.example [192.0.2.1] +300", "{domain}");
    }
}

#[tokio::test]
async fn a_large_answer_comes_by_tcp_and_is_cut_to_a_hundred_hosts() {
    let mut zone = String::from("many.example MX !cut\n");
    for n in 0..1_000 {
        zone.push_str(&format!(
            "many.example 300 MX {n} h{n}.example\nh{n}.example 300 A 192.0.2.1\n"
        ));
    }
    let server = FakeServer::start(&zone).await;
    let config = DnsConfig { query_timeout: Duration::from_secs(3), ..quick(&server) };
    let resolver = Resolver::new(&config).unwrap();
    let route = resolver.route("many.example", NOW).await.0.unwrap();
    assert_eq!(route.hosts.len(), 100);
    assert_eq!(&*route.hosts[99].name, "h99.example");
    assert_eq!(server.asked("h100.example A"), 0);
}

#[tokio::test]
async fn aliases_are_followed_to_a_limit() {
    let mut zone = String::from(
        "
        a.example 300 A 192.0.2.1
        alias.example 30 CNAME real.example
        real.example 300 MX 10 a.example
        dangling.example 300 CNAME nothing.example
        bare.example 300 CNAME a.example
        self.example 300 CNAME self.example
        ring1.example 300 CNAME ring2.example
        ring2.example 300 CNAME ring1.example
        target.example 300 MX 10 t.example
        t.example 20 CNAME a.example
        inline.example 300 MX 10 i.example
        i.example 20 CNAME elsewhere.example
        i.example CNAME !with-a 192.0.2.5
        ringed.example 300 MX 10 ring1.example
        chain8.example 300 MX 10 c1.example
        chain9.example 300 MX 10 c0.example
    ",
    );
    for n in 0..8 {
        zone.push_str(&format!("c{n}.example 300 CNAME c{}.example\n", n + 1));
    }
    zone.push_str("c8.example 300 CNAME a.example\n");
    check(
        &zone,
        false,
        &[
            ("alias.example", "10 a.example [192.0.2.1] +30"),
            ("dangling.example", "NoSuchDomain +60"),
            ("bare.example", "0 bare.example [192.0.2.1] +60"),
            (
                "self.example",
                "temporary: the aliases (CNAME) of self.example go round in a circle +5",
            ),
            (
                "ring1.example",
                "temporary: the aliases (CNAME) of ring1.example go round in a circle +5",
            ),
            ("target.example", "10 t.example [192.0.2.1] +20"),
            ("inline.example", "10 i.example [192.0.2.5] +20"),
            (
                "ringed.example",
                "temporary: the aliases (CNAME) of ring1.example go round in a circle +5",
            ),
            ("chain8.example", "10 c1.example [192.0.2.1] +300"),
            ("chain9.example", "temporary: c0.example has more than 8 aliases (CNAME) in a row +5"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_domain_is_asked_for_once_at_a_time_and_then_kept() {
    let zone = "
        a.example 300 A 192.0.2.1
        slow.example 30 MX 10 a.example
        slow.example MX !delay 80
    ";
    let server = FakeServer::start(zone).await;
    let config = DnsConfig { query_timeout: Duration::from_secs(5), ..quick(&server) };
    let resolver = Resolver::new(&config).unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let resolver = resolver.clone();
        tasks.spawn(async move { resolver.route("slow.example", NOW).await.0.unwrap() });
    }
    // One that stops waiting does not stop the others.
    let left = resolver.route("slow.example", NOW);
    assert!(tokio::time::timeout(Duration::from_millis(5), left).await.is_err());
    while let Some(found) = tasks.join_next().await {
        assert_eq!(found.unwrap().hosts.len(), 1);
    }
    let questions = resolver.counts().questions;
    assert_eq!(questions, 2, "MX and A, once each");
    let counts = resolver.counts();
    assert_eq!(counts.routes, 51);
    assert_eq!(counts.joined + counts.from_cache, 50);

    server.replace("slow.example 30 MX 10 b.example\nb.example 300 A 192.0.2.2\n");
    let kept = NOW + Duration::from_secs(29);
    assert_eq!(&*resolver.route("slow.example", kept).await.0.unwrap().hosts[0].name, "a.example");
    let over = NOW + Duration::from_secs(30);
    assert_eq!(&*resolver.route("slow.example", over).await.0.unwrap().hosts[0].name, "b.example");
    resolver.forget();
    server.replace("slow.example 30 MX 10 a.example\na.example 300 A 192.0.2.1\n");
    assert_eq!(&*resolver.route("slow.example", over).await.0.unwrap().hosts[0].name, "a.example");
}

#[tokio::test]
async fn no_more_questions_are_under_way_than_allowed() {
    let domains: Vec<String> = (0..12).map(|n| format!("d{n}.example")).collect();
    let zone: Vec<String> = domains.iter().map(|d| format!("{d} MX !delay 15")).collect();
    let server = FakeServer::start(&zone.join("\n")).await;
    let config = DnsConfig { max_lookups: 3, ..quick(&server) };
    let resolver = Resolver::new(&config).unwrap();
    let mut tasks = JoinSet::new();
    for domain in domains {
        let resolver = resolver.clone();
        tasks.spawn(async move { resolver.route(&domain, NOW).await.0 });
    }
    while let Some(found) = tasks.join_next().await {
        assert_eq!(found.unwrap(), Err(RouteFault::NoMailHost));
    }
    assert_eq!(server.most_open(), 3);
}

#[tokio::test]
async fn our_own_address_is_a_loop() {
    let zone = "
        a.example 300 MX 10 hidden.example
        a.example 300 MX 20 b.example
        hidden.example 300 A 192.0.2.66
        b.example 300 A 192.0.2.1
    ";
    let server = FakeServer::start(zone).await;
    let own_addresses = vec![IpAddr::from([192, 0, 2, 66])];
    let resolver = Resolver::new(&DnsConfig { own_addresses, ..quick(&server) }).unwrap();
    assert_eq!(text(&resolver.route("a.example", NOW).await), "Loop +300");
    assert_eq!(text(&resolver.route("[192.0.2.66]", NOW).await), "Loop +86400");
}

#[tokio::test]
async fn a_temporary_failure_is_soon_tried_again() {
    let server = FakeServer::start("x.example MX !code 2\n").await;
    let resolver = Resolver::new(&quick(&server)).unwrap();
    let (fault, until) = resolver.route("x.example", NOW).await;
    assert!(fault.unwrap_err().is_temporary());
    server.replace("x.example 300 A 192.0.2.1\n");
    assert!(resolver.route("x.example", NOW).await.0.is_err(), "kept for a moment");
    assert!(resolver.route("x.example", until).await.0.is_ok());
}

#[tokio::test]
async fn a_route_takes_no_longer_than_allowed_and_another_server_is_asked() {
    let dead = FakeServer::start("x.example MX !drop\nx.example A !drop\n").await;
    let broken = FakeServer::start("x.example MX !code 2\n").await;
    let good = FakeServer::start("x.example 300 A 192.0.2.1\n").await;
    let config = DnsConfig {
        attempts: 10,
        query_timeout: Duration::from_secs(10),
        route_timeout: Duration::from_millis(200),
        ..quick(&dead)
    };
    let found = text(&Resolver::new(&config).unwrap().route("x.example", NOW).await);
    assert_eq!(found, "temporary: DNS gave no route within 200ms +5");

    let servers = vec![dead.address, broken.address, good.address];
    let resolver = Resolver::new(&DnsConfig { servers, ..quick(&good) }).unwrap();
    assert_eq!(text(&resolver.route("x.example", NOW).await), "0 x.example [192.0.2.1] +60");
    let before = dead.asked("y.example MX");
    assert_eq!(text(&resolver.route("y.example", NOW).await), "NoSuchDomain +60");
    assert_eq!(dead.asked("y.example MX"), before, "the server that answered is asked first");
}

#[tokio::test]
async fn nobody_there_is_temporary() {
    let server = FakeServer::start("").await;
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let resolver = Resolver::new(&DnsConfig { servers: vec![unused], ..quick(&server) }).unwrap();
    let found = text(&resolver.route("x.example", NOW).await);
    assert!(found.starts_with("temporary: MX of x.example: "), "{found}");
}

#[tokio::test]
async fn relays_replace_mx() {
    let text_of = |section: &str| {
        format!(
            "[[source]]\npublic_id = 1\naddress = \"127.0.0.1\"\nhelo = \"a.example\"\n{section}"
        )
    };
    let config = Config::parse(
        &text_of(
            "
            [[relay]]
            domains = [\"example.com\", \"*.corp.example\"]
            hosts = [\"127.0.1.1:2525\", \"[::1]:2525\"]
            lmtp = true
            [[relay]]
            domains = [\"*.example.com\"]
            hosts = [\"r1.example\", \"r2.example\"]
            [[relay]]
            domains = [\"lost.example\"]
            hosts = [\"none.example\"]
            ",
        ),
        "x",
        std::path::Path::new(""),
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let zone = "
        r1.example 40 A 192.0.2.1
        r2.example 30 A 192.0.2.2
        r2.example 30 A 192.0.2.1
        other.example 300 A 192.0.2.3
    ";
    let server = FakeServer::start(zone).await;
    let resolver = Resolver::with_relays(&quick(&server), 2_626, &config.relays).unwrap();
    for domain in ["example.com", "a.corp.example"] {
        let routed = resolver.route(domain, NOW).await;
        assert_eq!(text(&routed), "0 127.0.1.1 [127.0.1.1]; 1 ::1 [::1] +86400");
        let route = routed.0.unwrap();
        assert_eq!((route.port, route.lmtp, route.relay), (2_525, true, true));
    }
    let routed = resolver.route("x.example.com", NOW).await;
    assert_eq!(text(&routed), "0 r1.example [192.0.2.1]; 1 r2.example [192.0.2.2] +30");
    assert_eq!(resolver.route("y.example.com", NOW).await, routed);
    assert_eq!(server.asked("r1.example A"), 1, "both domains share the relay's answer");
    let lost = text(&resolver.route("lost.example", NOW).await);
    assert_eq!(lost, "temporary: no MX host has an address (none.example) +5");
    let route = resolver.route("other.example", NOW).await.0.unwrap();
    assert_eq!((route.port, route.relay), (2_626, false));
    for asked in ["example.com MX", "x.example.com MX", "lost.example MX"] {
        assert_eq!(server.asked(asked), 0);
    }
    assert!(TargetPolicy::loopback_only().check_relay([127, 0, 1, 1].into()).is_ok());
}

#[tokio::test]
async fn records_for_checks() {
    let zone = format!(
        "
        a.example 60 TXT v=spf1|-all
        a.example 60 A 192.0.2.1
        a.example 60 AAAA 2001:db8::1
        b.example TXT !code 2
        {} 60 PTR a.example
        {} 60 PTR six.example
        ",
        reverse("192.0.2.1"),
        reverse("2001:db8::1")
    );
    let server = FakeServer::start(&zone).await;
    let resolver = Resolver::new(&quick(&server)).unwrap();
    assert_eq!(resolver.texts("a.example").await, Ok(vec!["v=spf1-all".to_owned()]));
    let addresses = resolver.addresses("a.example").await.unwrap();
    assert_eq!(format!("{addresses:?}"), "[192.0.2.1, 2001:db8::1]");
    assert_eq!(resolver.names_of(addresses[0]).await, Ok(vec!["a.example".to_owned()]));
    assert_eq!(resolver.names_of(addresses[1]).await, Ok(vec!["six.example".to_owned()]));
    assert_eq!(resolver.exchangers("a.example").await, Err(LookupFault::NoRecord));
    assert_eq!(resolver.texts("none.example").await, Err(LookupFault::NoSuchName));
    assert!(matches!(resolver.texts("b.example").await, Err(LookupFault::Temporary(_))));
}

/// A relay that a bundle names is held to what an MX host may be; one of the operator is not.
#[tokio::test]
async fn a_relay_of_a_bundle_reaches_no_private_address() {
    let server = FakeServer::start("inside.example 60 A 10.1.2.3\nmx.other.example 60 A 192.0.2.7\nother.example 60 MX 10 mx.other.example\n").await;
    let resolver = Resolver::new(&quick(&server)).unwrap();
    let file = |relay: &str| {
        let text = format!(
            "schema_version = 1\nversion = \"1\"\n[[rule]]\nname = \"partner\"\n\
             mask = \"partner.example\"\nrelay = [\"{relay}\"]\ntls = \"required\"\n\
             matches = [\"partner.example\"]\nmatches_not = [\"other.example\"]\n[[rule]]\n\
             name = \"all\"\nmask = \"*\"\ntls = \"disabled\"\nmatches = [\"a.example\"]\n"
        );
        DomainRuleFile::parse("domains.toml", text.as_bytes()).unwrap()
    };
    let policy = TargetPolicy::default();
    for relay in ["10.1.2.3:2525", "inside.example:2525", "127.0.0.1:2525", "[::1]:2525"] {
        // As the connection is made: by the kind of the route.
        let reaches = async |rules: DomainRules| {
            resolver.set_domain_rules(Arc::new(rules));
            let route = resolver.route("partner.example", NOW).await.0.unwrap();
            assert_eq!((route.port, route.tls), (2_525, Some(RelayTls::Required)), "{relay}");
            let address = route.hosts[0].addresses[0];
            match route.relay {
                true => policy.check_relay(address).is_ok(),
                false => policy.check(address).is_ok(),
            }
        };
        let (file, shipped) = (file(relay), shipped_domain_rules());
        let of_bundle = DomainRules::compile(&DomainRuleFile::combine(None, &file));
        assert!(!reaches(of_bundle).await, "{relay}");
        let local = DomainRules::compile(&DomainRuleFile::combine(Some(&file), shipped));
        assert!(reaches(local).await, "{relay}");
    }
    // The TLS policy of a domain rule without a relay holds for the MX hosts.
    let route = resolver.route("other.example", NOW).await.0.unwrap();
    assert_eq!((&*route.hosts[0].name, route.tls), ("mx.other.example", Some(RelayTls::Disabled)));
}
