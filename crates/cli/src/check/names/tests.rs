use std::collections::BTreeMap;
use std::path::Path;

use super::super::Verdict;
use super::*;

/// A zone written as `name TYPE value` lines; `!` as value is SERVFAIL.
struct Zone(BTreeMap<(String, &'static str), Vec<String>>);

impl Zone {
    fn new(text: &str) -> Self {
        let mut records: BTreeMap<(String, &'static str), Vec<String>> = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = line.splitn(3, ' ');
            let (name, kind) = (parts.next().unwrap(), parts.next().unwrap());
            let kind = ["TXT", "A", "PTR", "MX"].into_iter().find(|known| *known == kind).unwrap();
            let value = parts.next().unwrap().to_owned();
            records.entry((name.to_owned(), kind)).or_default().push(value);
        }
        Self(records)
    }

    fn find(&self, name: &str, kind: &'static str) -> Result<Vec<String>, LookupFault> {
        match self.0.get(&(name.to_owned(), kind)) {
            Some(values) if values.iter().any(|value| value == "!") => {
                Err(LookupFault::Temporary("SERVFAIL".to_owned()))
            }
            Some(values) => Ok(values.clone()),
            None if self.0.keys().any(|(other, _)| other == name) => Err(LookupFault::NoRecord),
            None => Err(LookupFault::NoSuchName),
        }
    }
}

impl Names for Zone {
    async fn texts(&self, name: &str) -> Result<Vec<String>, LookupFault> {
        self.find(name, "TXT")
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupFault> {
        Ok(self.find(name, "A")?.iter().map(|text| text.parse().unwrap()).collect())
    }

    async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, LookupFault> {
        self.find(&address.to_string(), "PTR")
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<(u16, String)>, LookupFault> {
        Ok(self.find(name, "MX")?.into_iter().map(|host| (10, host)).collect())
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    crate::runtime().unwrap().block_on(future)
}

#[test]
fn spf_records_are_judged() {
    let zone = Zone::new(
        "ip.example TXT v=spf1 ip4:198.51.100.0/24 ip6:2001:db8::/32 -all
         ip.example TXT unrelated
         a.example TXT v=spf1 a ~all
         a.example A 198.51.100.7
         wide.example TXT v=spf1 a:a.example/24 ?all
         mx.example TXT v=spf1 mx -all
         mx.example MX a.example
         inc.example TXT v=spf1 include:none-of-us.example include:ip.example -all
         none-of-us.example TXT v=spf1 -all
         to.example TXT v=spf1 redirect=ip.example
         open.example TXT V=SPF1 ip4:192.0.2.1
         two.example TXT v=spf1 -all
         two.example TXT v=spf1 +all
         typo.example TXT v=spf1 ipv4:198.51.100.7 -all
         family.example TXT v=spf1 ip4:2001:db8::1 -all
         loop.example TXT v=spf1 include:loop.example -all
         macro.example TXT v=spf1 exists:%{i}.x.example -all
         early.example TXT v=spf1 ip4:198.51.100.7 exists:%{i}.x.example -all
         gone.example TXT v=spf1 include:nowhere.example -all
         void.example TXT v=spf1 a:v1.example a:v2.example a:v3.example -all
         sick.example TXT !
         spf10.example TXT v=spf10 -all
         unknown-modifier.example TXT v=spf1 exp=x.example ip4:198.51.100.7 -all",
    );
    let four: IpAddr = [198, 51, 100, 7].into();
    let six: IpAddr = "2001:db8::25".parse().unwrap();
    let other: IpAddr = [203, 0, 113, 9].into();
    for (domain, address, wanted) in [
        ("ip.example", four, "Pass"),
        ("ip.example", six, "Pass"),
        ("ip.example", other, "Fail"),
        ("a.example", four, "Pass"),
        ("a.example", other, "SoftFail"),
        ("wide.example", [198, 51, 100, 200].into(), "Pass"),
        ("wide.example", other, "Neutral"),
        ("mx.example", four, "Pass"),
        ("mx.example", other, "Fail"),
        ("inc.example", four, "Pass"),
        ("inc.example", other, "Fail"),
        ("to.example", four, "Pass"),
        ("to.example", other, "Fail"),
        ("open.example", four, "Neutral"),
        ("two.example", four, "Wrong"),
        ("typo.example", four, "Wrong"),
        ("family.example", four, "Wrong"),
        ("loop.example", four, "Wrong"),
        ("macro.example", four, "Unknown"),
        ("early.example", four, "Pass"),
        ("gone.example", four, "Wrong"),
        ("void.example", four, "Wrong"),
        ("sick.example", four, "NoAnswer"),
        ("spf10.example", four, "None"),
        ("absent.example", four, "None"),
        ("unknown-modifier.example", four, "Pass"),
    ] {
        let result = format!("{:?}", block_on(spf::check(&zone, domain, address)));
        assert!(result.starts_with(wanted), "{domain} {address}: {result}, wanted {wanted}");
    }
}

#[test]
fn ten_lookups_are_the_most() {
    let chain = |length: u32| {
        let mut text = String::new();
        for step in 1..=length {
            text += &format!("c{step}.example TXT v=spf1 include:c{}.example -all\n", step + 1);
        }
        text + &format!("c{}.example TXT v=spf1 +all\n", length + 1)
    };
    let address: IpAddr = [198, 51, 100, 7].into();
    let result = |length| block_on(spf::check(&Zone::new(&chain(length)), "c1.example", address));
    assert_eq!(result(10), SpfResult::Pass);
    assert!(matches!(result(11), SpfResult::Wrong(_)));
}

fn config(folder: &Path, more: &str) -> Config {
    let text = format!(
        "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.1\"\n\
         public_address = \"198.51.100.7\"\nhelo = \"out1.example.com\"\n{more}"
    );
    Config::parse(&text, "test.toml", folder).unwrap()
}

fn summary(findings: &[Finding]) -> String {
    let word = |finding: &Finding| match finding.verdict {
        Verdict::Ok => format!("ok {}", finding.check),
        Verdict::Warn => format!("warn {}: {}", finding.check, finding.found),
        Verdict::Fail => format!("FAIL {}: {}", finding.check, finding.found),
    };
    findings.iter().map(word).collect::<Vec<_>>().join("\n")
}

const RETURN_PATH: &str =
    "[return_path]\ndomain = \"bounce.example.com\"\nkeys = [{ file = \"key\" }]\n";

#[test]
fn names_and_addresses_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let config = config(folder.path(), RETURN_PATH);
    for (zone, wanted) in [
        (
            "198.51.100.7 PTR out1.example.com
             out1.example.com A 198.51.100.7
             bounce.example.com MX in.example.com
             bounce.example.com TXT v=spf1 ip4:198.51.100.7 -all",
            "ok PTR of s1\nok MX of the return path\nok SPF for s1",
        ),
        (
            "198.51.100.7 PTR Out1.Example.com.
             out1.example.com A 203.0.113.1
             bounce.example.com MX .
             bounce.example.com TXT v=spf1 -all",
            "warn PTR of s1: out1.example.com has 203.0.113.1, not 198.51.100.7\n\
             warn MX of the return path: bounce.example.com has a null MX: it takes no mail, so bounces are lost\n\
             warn SPF for s1: bounce.example.com forbids 198.51.100.7 (-all)",
        ),
        (
            "198.51.100.7 PTR dsl-7.provider.example
             bounce.example.com MX !",
            "warn PTR of s1: 198.51.100.7 points to dsl-7.provider.example, but HELO is out1.example.com\n\
             warn MX of the return path: bounce.example.com: DNS gave no answer: SERVFAIL; bounces are lost and \
             receivers may refuse the sender\n\
             warn SPF for s1: bounce.example.com has no SPF record",
        ),
        (
            "other.example A 192.0.2.1",
            "warn PTR of s1: 198.51.100.7 (not an address of the Internet) has no PTR: the name does not exist\n\
             warn MX of the return path: bounce.example.com: the name does not exist; bounces are lost and \
             receivers may refuse the sender\n\
             warn SPF for s1: bounce.example.com has no SPF record",
        ),
    ] {
        let found = block_on(check(&config, &Zone::new(zone)));
        let dkim = found.iter().position(|finding| finding.check == "DKIM").unwrap();
        // Documentation addresses are not told apart everywhere; the rest of the words must stand.
        let shown = summary(&found[..dkim]);
        let plain = |text: &str| text.replace(" (not an address of the Internet)", "");
        assert_eq!(plain(&shown), plain(wanted));
        assert!(found.iter().all(|one| (one.verdict == Verdict::Ok) == one.mend.is_empty()));
    }
}

#[test]
fn dkim_records_must_match_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(folder.path().join("s1.pem"), ed25519.serialize_pem()).unwrap();
    let record = |pair: &rcgen::KeyPair| {
        let pem = pair.serialize_pem();
        let text = DkimKeyText { domain: "example.com".to_owned(), selector: "s1".to_owned(), pem };
        DkimKeys::load([&text]).unwrap().iter().next().unwrap().dns_record()
    };
    let (ours, theirs) = (record(&ed25519), record(&other));
    let more = "[[dkim]]\ndomain = \"example.com\"\nselector = \"s1\"\nkey_file = \"s1.pem\"\n";
    let config = config(folder.path(), more);
    for (text, wanted) in [
        (ours.clone(), "ok"),
        (ours.replace(';', " ;").replace("p=", "p = ").replacen("AA", "A A", 1), "ok"),
        (theirs, "another key"),
        ("v=DKIM1; k=ed25519; p=".to_owned(), "revoked"),
        (ours.replace("k=ed25519; ", ""), "k=rsa"),
        (ours.replace("DKIM1", "DKIM2"), "version"),
        (format!("{ours}; t=y:s"), "t=y"),
        ("v=spf1 -all".to_owned(), "not of version"),
        ("!".to_owned(), "SERVFAIL"),
    ] {
        let zone = Zone::new(&format!("s1._domainkey.example.com TXT {text}"));
        let found = block_on(signatures(&zone, &config.dkim));
        assert_eq!(found.len(), 1);
        assert!(summary(&found).contains(wanted), "{text}: {}", summary(&found));
        assert_eq!(found[0].verdict == Verdict::Ok, wanted == "ok");
    }
    let found = block_on(signatures(&Zone::new(""), &config.dkim));
    assert!(found[0].mend.contains(&ours), "{}", found[0].mend);
    std::fs::write(folder.path().join("s1.pem"), "no key").unwrap();
    let found = block_on(signatures(&Zone::new(""), &config.dkim));
    assert_eq!(found[0].verdict, Verdict::Fail);
}

#[test]
fn an_rsa_record_may_be_in_either_form() {
    let key = "A".repeat(32) + "MIIBCgKCAQEAzz";
    let ours = format!("v=DKIM1; k=rsa; p={key}");
    assert_eq!(record_fault(&ours, &ours), None);
    assert_eq!(record_fault(&format!("p={}", &key[32..]), &ours), None);
    assert!(record_fault(&format!("p={}", &key[33..]), &ours).is_some());
}
