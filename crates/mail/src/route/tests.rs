//! The decisions about routes, case by case. Cases are written as text so that a table shows what
//! DNS said beside what follows.

use proptest::prelude::*;

use super::*;

/// `"10 a.example, 20 b.example"` to an answer; `-`, `nx` and `!why` for the others.
fn answer(text: &str) -> MxAnswer {
    match text {
        "-" => MxAnswer::NoData,
        "nx" => MxAnswer::NxDomain,
        _ if text.starts_with('!') => MxAnswer::Temporary(text[1..].to_owned()),
        _ => MxAnswer::Records(
            text.split(", ")
                .map(|record| {
                    let (preference, name) = record.split_once(' ').unwrap();
                    (preference.parse().unwrap(), name.to_owned())
                })
                .collect(),
        ),
    }
}

/// A decision as text.
fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Fault(fault) => format!("{fault:?}"),
        Decision::LookUp(candidates) => {
            let hosts: Vec<String> = candidates
                .hosts
                .iter()
                .map(|h| {
                    let literal = if h.literal.is_some() { "=" } else { "" };
                    format!("{} {literal}{}", h.preference, h.name)
                })
                .collect();
            format!("{}{}", if candidates.implicit { "implicit " } else { "" }, hosts.join(", "))
        }
    }
}

fn own_names() -> Vec<String> {
    vec!["Me.Example.".to_owned(), "me2.example".to_owned()]
}

#[test]
fn decides_by_the_table() {
    let long_label = format!("5 {}.example, 10 good.example", "a".repeat(64));
    let long_name = format!("5 {}example, 10 good.example", "abcd.".repeat(60));
    let names = own_names();
    let own = Own { names: &names, addresses: &[] };
    for (records, wanted) in [
        // Order and normal form.
        ("20 b.example, 10 a.example", "10 a.example, 20 b.example"),
        ("10 B.Example., 10 a.example.", "10 a.example, 10 b.example"),
        ("65535 last.example, 0 first.example", "0 first.example, 65535 last.example"),
        // Duplicates: the better preference counts.
        ("20 a.example, 10 A.example., 30 b.example", "10 a.example, 30 b.example"),
        // Null MX.
        ("0 .", "NullMx"),
        ("10 .", "NullMx"),
        ("0 ., 0 .", "NullMx"),
        ("0 ., 10 a.example", "10 a.example"),
        // No records at all.
        ("-", "implicit 0 dest.example"),
        ("nx", "NoSuchDomain"),
        ("!SERVFAIL", "Temporary { why: \"SERVFAIL\" }"),
        // Targets that RFC 1123 forbids and the world has.
        ("5 mx_1.example, 10 -x-.example", "5 mx_1.example, 10 -x-.example"),
        ("5 192.0.2.7., 10 a.example", "5 =192.0.2.7, 10 a.example"),
        ("5 2001:db8::7", "5 =2001:db8::7"),
        // Targets that cannot be used at all; the domain's own address is never the substitute.
        ("5 a..example, 10 good.example", "10 good.example"),
        ("5 .example, 10 good.example", "10 good.example"),
        ("5 a b.example, 10 good.example", "10 good.example"),
        ("5 bücher.example, 10 good.example", "10 good.example"),
        (&long_label, "10 good.example"),
        (&long_name, "10 good.example"),
        (
            "5 a;b.example",
            "Temporary { why: \"no MX record of dest.example names a usable host\" }",
        ),
        // Ourselves in the list.
        ("10 me.example, 20 a.example", "Loop"),
        ("10 ME2.example, 10 a.example", "Loop"),
        ("10 a.example, 20 me.example, 20 b.example, 30 c.example", "10 a.example"),
        ("10 a.example, 20 me2.example, 15 b.example", "10 a.example, 15 b.example"),
        ("10 a.example, 20 me.example, 15 me2.example", "10 a.example"),
        // A domain that is itself among its MX hosts is not a loop.
        ("10 dest.example", "10 dest.example"),
    ] {
        assert_eq!(shown(&decide("dest.example", answer(records), own)), wanted, "{records}");
    }
    assert_eq!(shown(&decide("ME.example", MxAnswer::NoData, own)), "Loop");
    assert_eq!(
        shown(&decide("x.example", MxAnswer::Records(Vec::new()), own)),
        "implicit 0 x.example"
    );
}

#[test]
fn a_thousand_records_are_cut_to_the_best_hundred() {
    let records: Vec<_> = (0..1_000_u16).rev().map(|n| (n, format!("h{n}.example"))).collect();
    let Decision::LookUp(found) = decide("d.example", MxAnswer::Records(records), Own::default())
    else {
        panic!("a list of hosts is to be looked up");
    };
    assert_eq!(found.hosts.len(), MAX_HOSTS);
    assert_eq!(found.hosts.last().unwrap().preference, 99);
}

/// `"192.0.2.1 192.0.2.2"`, `-`, `6` or `!why` to an answer.
fn addresses(text: &str) -> AddressAnswer {
    match text {
        "-" => AddressAnswer::NoAddress,
        "6" => AddressAnswer::OnlyIpv6,
        _ if text.starts_with('!') => AddressAnswer::Temporary(text[1..].to_owned()),
        _ => AddressAnswer::Found(text.split(' ').map(|a| a.parse().unwrap()).collect()),
    }
}

#[test]
fn assembles_by_the_table() {
    let own = ["198.51.100.1".parse().unwrap()];
    for (records, found, wanted) in [
        ("10 a, 20 b", "192.0.2.1; 192.0.2.2", "10 a [192.0.2.1]; 20 b [192.0.2.2]"),
        // The resolver's order is kept; duplicates go.
        (
            "10 a",
            "192.0.2.2 192.0.2.1 192.0.2.2 2001:db8::1",
            "10 a [192.0.2.2, 192.0.2.1, 2001:db8::1]",
        ),
        ("10 a, 20 b", "192.0.2.1; 192.0.2.1", "10 a [192.0.2.1]; 20 b []"),
        (
            "10 a, 10 b",
            "192.0.2.1 192.0.2.2; 192.0.2.2 192.0.2.3",
            "10 a [192.0.2.1, 192.0.2.2]; 10 b [192.0.2.3]",
        ),
        ("10 a", "::ffff:192.0.2.1 192.0.2.1", "10 a [192.0.2.1]"),
        // Hosts without address.
        ("10 a, 20 b", "-; 192.0.2.2", "10 a []; 20 b [192.0.2.2]"),
        ("10 a, 20 b", "!time-out; 192.0.2.2", "10 a []; 20 b [192.0.2.2]"),
        ("10 a, 20 b", "-; -", "Temporary { why: \"no MX host has an address (a, b)\" }"),
        ("10 a, 20 b", "-; !time-out of b", "Temporary { why: \"time-out of b\" }"),
        (
            "10 a, 20 b, 30 c, 40 d",
            "-; 6; -; -",
            "Temporary { why: \"a, b, c, ...: only IPv6 addresses, and no source here has IPv6\" }",
        ),
        ("10 192.0.2.9", "-", "10 192.0.2.9 [192.0.2.9]"),
        // Implicit MX.
        ("-", "192.0.2.1", "0 dest.example [192.0.2.1]"),
        ("-", "-", "NoMailHost"),
        ("-", "!SERVFAIL", "Temporary { why: \"SERVFAIL\" }"),
        (
            "-",
            "6",
            "Temporary { why: \"dest.example: only IPv6 addresses, and no source here has IPv6\" }",
        ),
        // Our own address.
        ("10 a, 20 b", "198.51.100.1; 192.0.2.2", "Loop"),
        ("10 a, 20 b, 30 c", "192.0.2.1; 192.0.2.2 198.51.100.1; 192.0.2.3", "10 a [192.0.2.1]"),
        (
            "10 a, 20 b",
            "-; 198.51.100.1",
            "Temporary { why: \"no MX host has an address (a, b)\" }",
        ),
        ("-", "198.51.100.1", "Loop"),
    ] {
        let Decision::LookUp(candidates) = decide("dest.example", answer(records), Own::default())
        else {
            panic!("{records}: expected hosts to look up");
        };
        let found: Vec<_> = found.split("; ").map(addresses).collect();
        let own = Own { names: &[], addresses: &own };
        let result = assemble(&candidates, &found, own, 25, Timestamp::from_secs(7));
        let shown = match &result {
            Err(fault) => format!("{fault:?}"),
            Ok(route) => route
                .hosts
                .iter()
                .map(|h| format!("{} {} {:?}", h.preference, h.name, h.addresses))
                .collect::<Vec<_>>()
                .join("; "),
        };
        assert_eq!(shown, wanted, "{records} / {found:?}");
    }
}

#[test]
fn missing_answers_are_temporary_even_for_an_implicit_host() {
    let Decision::LookUp(candidates) = decide("d.example", MxAnswer::NoData, Own::default()) else {
        panic!("expected hosts to look up");
    };
    let fault = assemble(&candidates, &[], Own::default(), 25, Timestamp::EPOCH).unwrap_err();
    assert!(fault.is_temporary(), "{fault:?}");
}

#[test]
fn the_three_hosts_of_yahoo_make_sixteen_targets() {
    let records = "1 mta5.am0.yahoodns.net, 1 mta6.am0.yahoodns.net, 1 mta7.am0.yahoodns.net";
    let Decision::LookUp(candidates) = decide("yahoo.com", answer(records), Own::default()) else {
        panic!("expected hosts to look up");
    };
    let eight = |first: u8| {
        AddressAnswer::Found((first..first + 8).map(|n| IpAddr::from([192, 0, 2, n])).collect())
    };
    let found = [eight(1), eight(5), eight(9)];
    let route = assemble(&candidates, &found, Own::default(), 25, Timestamp::EPOCH).unwrap();
    let targets: Vec<usize> = route.hosts.iter().map(|host| host.addresses.len()).collect();
    assert_eq!(targets, [8, 4, 4]);
}

#[test]
fn domains_are_read_by_the_table() {
    for (domain, wanted) in [
        ("Example.COM", "Name(\"example.com\")"),
        ("example.com.", "Name(\"example.com\")"),
        ("bücher.example", "Name(\"xn--bcher-kva.example\")"),
        ("under_score.example", "Name(\"under_score.example\")"),
        ("[192.0.2.1]", "Address(192.0.2.1)"),
        ("[IPv6:2001:db8::1]", "Address(2001:db8::1)"),
    ] {
        assert_eq!(format!("{:?}", destination(domain).unwrap()), wanted, "{domain}");
    }
    let long = "abcdefg.".repeat(40) + "example";
    let label = "a".repeat(64) + ".example";
    let huge = "ü".repeat(100_000);
    for domain in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\0b",
        "a\r\nb",
        &long,
        &label,
        &huge,
        "192.0.2.1",
        "[192.0.2.1",
        "[192.0.2]",
        "[::1]",
        "[IPv6:zz]",
        "[]",
        "[ü]",
        "ex*mple.com",
        "ab--ü\u{200b}.x\u{fffd}",
    ] {
        let fault = destination(domain);
        assert!(matches!(fault, Err(RouteFault::BadName { .. })), "{domain:?}: {fault:?}");
    }
}

#[test]
fn the_group_is_the_set_of_hosts() {
    let route = |hosts: &[(u16, &str)], addresses: &[IpAddr], relay, lmtp| MxRoute {
        hosts: hosts
            .iter()
            .map(|(preference, name)| MxHost {
                preference: *preference,
                name: (*name).into(),
                addresses: addresses.to_vec(),
            })
            .collect(),
        port: 2525,
        lmtp,
        relay,
        tls: None,
        valid_until: Timestamp::EPOCH,
    };
    let address = [IpAddr::from([192, 0, 2, 1])];
    let base = group_key(&route(&[(10, "a"), (20, "b")], &address, false, false));
    assert_eq!(base, "mx 10 a 20 b");
    assert_eq!(group_key(&route(&[(20, "b"), (10, "a")], &[], false, false)), base);
    for other in [
        route(&[(10, "a")], &address, false, false),
        route(&[(10, "a"), (30, "b")], &address, false, false),
        route(&[(10, "a"), (20, "c")], &address, false, false),
        route(&[(10, "a"), (20, "b")], &address, true, false),
        route(&[(10, "a"), (20, "b")], &address, true, true),
    ] {
        assert_ne!(group_key(&other), base);
    }
    assert_eq!(
        group_key(&route(&[(0, "127.0.1.1"), (1, "r")], &[], true, true)),
        "relay lmtp:2525 0 127.0.1.1 1 r"
    );
}

proptest! {
    #[test]
    fn whatever_dns_says_the_route_holds_its_promises(
        records in prop::collection::vec((0..4_u16, "[a-d._ü]{0,3}"), 0..12),
        found in prop::collection::vec(prop::collection::vec(1..6_u8, 0..4), 0..12),
    ) {
        let names = vec!["a".to_owned()];
        let ours = [IpAddr::from([192, 0, 2, 5])];
        let own = Own { names: &names, addresses: &ours };
        let answer = MxAnswer::Records(records);
        if let Decision::LookUp(candidates) = decide("dest", answer, own) {
            prop_assert!(candidates.hosts.iter().all(|h| &*h.name != "a"));
            let found: Vec<_> = found
                .iter()
                .map(|last| AddressAnswer::Found(
                    last.iter().map(|n| IpAddr::from([192, 0, 2, *n])).collect(),
                ))
                .collect();
            if let Ok(route) = assemble(&candidates, &found, own, 25, Timestamp::EPOCH) {
                let all: Vec<IpAddr> =
                    route.hosts.iter().flat_map(|h| h.addresses.iter().copied()).collect();
                let distinct: HashSet<IpAddr> = all.iter().copied().collect();
                prop_assert!(!all.is_empty());
                prop_assert_eq!(all.len(), distinct.len());
                prop_assert!(!distinct.contains(&ours[0]));
                prop_assert!(
                    route.hosts.is_sorted_by_key(|h| (h.preference, h.name.clone()))
                );
            }
        }
    }

    #[test]
    fn reading_a_domain_never_panics(domain in ".{0,80}") {
        let _ = destination(&domain);
    }
}
