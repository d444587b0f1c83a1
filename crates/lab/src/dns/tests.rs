use super::*;
use crate::internet;

fn ask(server: &Server, name: &str, kind: RecordType, largest: Option<usize>) -> Message {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name_of(name).unwrap(), kind));
    let octets = server.respond(&query.to_vec().unwrap(), largest, server.faults()).unwrap();
    Message::from_vec(&octets).unwrap()
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {}", plain(&record.name), record.data)).collect()
}

fn world() -> Server {
    let mut config = internet::demo(1);
    config.providers[0].domains.push("*.campaign-a.example".to_owned());
    config.servfail = vec!["broken.example".to_owned()];
    config.nxdomain.push("never.campaign-a.example".to_owned());
    config.source = vec![crate::SourceName {
        address: Ipv4Addr::new(127, 0, 0, 11),
        name: "m1.sender.example".to_owned(),
    }];
    config.txt = vec![crate::TextRecord {
        name: "k._domainkey.sender.example".to_owned(),
        text: "k".repeat(300),
    }];
    config.check().unwrap();
    Server::new(&config)
}

#[test]
fn mx_comes_with_preferences_and_addresses() {
    let answer = ask(&world(), "Gmail.com", RecordType::MX, None);
    assert_eq!(answer.metadata.id, 77);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    let mx = shown(&answer.answers);
    assert_eq!(mx.len(), 5);
    assert_eq!(mx[0], "gmail.com 5 gmail-smtp-in.l.google.com.");
    assert_eq!(answer.answers[0].ttl, 300);
    assert_eq!(shown(&answer.additionals)[0], "gmail-smtp-in.l.google.com 127.1.0.1");
}

#[test]
fn every_kind_of_name_has_its_answer() {
    use RecordType as T;
    use ResponseCode as C;
    let server = world();
    let table: [(&str, T, C, &[&str]); 14] = [
        ("mta5.am0.yahoodns.net", T::AAAA, C::NoError, &[]),
        ("news.campaign-a.example", T::MX, C::NoError, &["5 gmail-smtp-in"]),
        ("a.b.campaign-a.example", T::MX, C::NoError, &["5 gmail-smtp-in"]),
        ("campaign-a.example", T::MX, C::NXDomain, &[]),
        ("never.campaign-a.example", T::MX, C::NXDomain, &[]),
        ("no-mail-here.example", T::MX, C::NoError, &["0 ."]),
        ("gone-company.example", T::MX, C::NXDomain, &[]),
        ("nobody.knows.example", T::A, C::NXDomain, &[]),
        ("broken.example", T::MX, C::ServFail, &[]),
        ("no-mx-record.example", T::MX, C::NoError, &[]),
        ("no-mx-record.example", T::A, C::NoError, &["127.1.210.1"]),
        ("old-name.example", T::MX, C::NoError, &["alder-books.example", "10 mx1.alder-books"]),
        ("11.0.0.127.in-addr.arpa", T::PTR, C::NoError, &["m1.sender.example"]),
        ("k._domainkey.sender.example", T::TXT, C::NoError, &["kkkk"]),
    ];
    for (name, kind, code, wanted) in table {
        let answer = ask(&server, name, kind, None);
        assert_eq!(answer.metadata.response_code, code, "{name}");
        let found = shown(&answer.answers);
        assert_eq!(found.is_empty(), wanted.is_empty(), "{name}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{name}: {found}");
        }
        let negative = wanted.is_empty() && code != C::ServFail;
        let authority = answer.authorities.first().map(Record::record_type);
        assert_eq!(authority, negative.then_some(T::SOA), "{name}");
    }
    let report = server.report();
    assert_eq!((report.queries, report.queries_for_mx), (14, 9));
    assert_eq!(report.no_such_name, 4);
}

#[test]
fn aliases_that_run_in_a_circle_end() {
    let alias =
        |name: &str, target: &str| crate::Alias { name: name.into(), target: target.into() };
    let config = LabConfig {
        cname: vec![alias("a.example", "b.example"), alias("b.example", "a.example")],
        ..LabConfig::default()
    };
    let answer = ask(&Server::new(&config), "a.example", RecordType::MX, None);
    assert_eq!(answer.answers.len(), MOST_ALIASES + 1);
}

#[test]
fn long_answers_are_truncated_over_udp_only() {
    let server = world();
    let over_tcp = ask(&server, "yahoo.com", RecordType::MX, None);
    assert_eq!(over_tcp.additionals.len(), 24);
    let bare = ask(&server, "yahoo.com", RecordType::MX, Some(200));
    assert!(!bare.metadata.truncation);
    assert_eq!((bare.answers.len(), bare.additionals.len()), (3, 0));
    let over_udp = ask(&server, "yahoo.com", RecordType::MX, Some(60));
    assert!(over_udp.metadata.truncation);
    assert!(over_udp.answers.is_empty());
    assert!(!ask(&server, "orange.fr", RecordType::MX, Some(512)).metadata.truncation);
    server.set_faults(DnsFaults { truncate: true, ..DnsFaults::default() });
    assert!(ask(&server, "orange.fr", RecordType::MX, Some(512)).metadata.truncation);
}

#[test]
fn rubbish_is_answered_or_passed_over() {
    let server = world();
    let respond = |octets: &[u8]| server.respond(octets, Some(512), DnsFaults::default());
    for silent in [&b""[..], b"abc", &[0u8, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(respond(silent), None, "{silent:?}");
    }
    let mut broken = vec![9, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    broken.extend([63, 1, 2]);
    let answer = Message::from_vec(&respond(&broken).unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id, 0x0909);
    let mut chance = crate::chance::Sequence::new(5);
    for _ in 0..2_000 {
        let octets: Vec<u8> = (0..chance.below(80)).map(|_| chance.next() as u8).collect();
        let _ = respond(&octets);
    }
}
