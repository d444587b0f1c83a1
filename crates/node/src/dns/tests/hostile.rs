//! Answers of name servers that are none, and names that hold what no name of a host has.

use super::*;

/// The beginning of a record about the name that was asked for: MX, IN, a minute.
const MX: &str = "c00c000f00010000003c";

/// Groups 76 and 78: whatever cannot be read is temporary, and says so.
#[tokio::test]
async fn answers_that_are_no_answers() {
    let label = |length: usize| format!("{length:02x}{}", "61".repeat(length));
    let records = [
        ("label-64", format!("{}00{}", label(64), &MX[4..])),
        ("name-256", format!("{}00{}", label(63).repeat(5), &MX[4..])),
        ("forward", format!("c0ff{}0004000ac00c", &MX[4..])),
        ("past-the-end", format!("ffff{}0004000ac00c", &MX[4..])),
        ("length-past-the-end", format!("{MX}ffff000ac00c")),
        ("length-0", format!("{MX}0000")),
        ("length-1", format!("{MX}000100")),
        ("length-too-short", format!("{MX}0002000a")),
        ("target-past-the-end", format!("{MX}0004000ac0ff")),
        ("target-cut", format!("{MX}0005000a3f6161")),
        ("cut", MX.to_owned()),
        ("no-record", String::from("c0")),
    ];
    let mut zone = String::from(
        "
        tcp-0.example MX !empty
        tcp-full.example MX !zeros 65535
        tcp-short.example MX !zeros 3
        ",
    );
    for (name, octets) in &records {
        zone.push_str(&format!("{name}.example MX !raw {octets}\n"));
    }
    let names = records.iter().map(|(name, _)| *name).chain(["tcp-0", "tcp-full", "tcp-short"]);
    let table: Vec<(String, String)> = names
        .map(|name| {
            let domain = format!("{name}.example");
            let wanted = format!("temporary: MX of {domain}: ...+5");
            (domain, wanted)
        })
        .collect();
    let table: Vec<(&str, &str)> =
        table.iter().map(|(domain, wanted)| (domain.as_str(), wanted.as_str())).collect();
    check(&zone, false, &table).await;
}

/// Groups 79, 84 and 85: labels may hold any octet. None of them becomes a part of a host's name, and none reaches a text
/// for people.
#[tokio::test]
async fn names_with_octets_of_any_kind() {
    let named = |label: &str| {
        let octets: String = label.bytes().map(|octet| format!("{octet:02x}")).collect();
        let name = format!("{:02x}{octets}076578616d706c6500", label.len());
        let length = name.len() / 2;
        (name, length)
    };
    let labels = [
        ("escape", "\u{1b}[2J"),
        ("crlf", "a\r\nRCPT"),
        ("nul", "a\0b"),
        ("space", "a b"),
        ("dot", "a.b"),
        ("slash", "../a"),
        ("utf8", "\u{202e}a"),
        ("mark", "?"),
    ];
    let mut zone = String::new();
    for (at, (name, label)) in labels.iter().enumerate() {
        let (octets, length) = named(label);
        zone.push_str(&format!("{name}.example MX !raw {MX}{:04x}000a{octets}\n", length + 2));
        let pointer = format!("c00c000c00010000003c{length:04x}{octets}");
        let reverse = reverse(&format!("192.0.2.{at}"));
        zone.push_str(&format!("{reverse} PTR !raw {pointer}\n"));
    }
    for number in 0..100 {
        zone.push_str(&format!("{} 60 PTR n{number}.example\n", reverse("192.0.2.200")));
    }
    zone.push_str(&format!("{} PTR !cut\n", reverse("192.0.2.200")));
    zone.push_str("texts.example TXT !cut\n");
    for number in 0..250 {
        zone.push_str(&format!("texts.example 60 TXT {number}{}\n", "x".repeat(200)));
    }
    let server = FakeServer::start(&zone).await;
    let resolver = Resolver::new(&quick(&server)).unwrap();
    let plain = |text: &str| text.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ');
    for (at, (name, _)) in labels.iter().enumerate() {
        let found = text(&resolver.route(&format!("{name}.example"), NOW).await);
        assert!(plain(&found), "{name}: {found}");
        assert!(!found.contains("a.b") && !found.contains('/'), "{name}: {found}");
        // No host, so nothing was connected to and nothing was asked about it.
        assert!(found.starts_with("temporary: ") || found.starts_with("No"), "{name}: {found}");
        let address = IpAddr::from([192, 0, 2, u8::try_from(at).unwrap()]);
        let names = resolver.names_of(address).await.unwrap();
        assert!(names.len() == 1 && plain(&names[0]), "{name}: {names:?}");
    }
    assert_eq!(resolver.names_of([192, 0, 2, 200].into()).await.unwrap().len(), 100);
    assert_eq!(resolver.texts("texts.example").await.unwrap().len(), 250);
}
