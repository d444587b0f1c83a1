//! The admission set against a map, and its answers.

use std::collections::BTreeMap;

use mail::failure::Reason;
use proptest::prelude::*;

use crate::quarantine::*;

fn hash(name: u64) -> AddressHash {
    AddressHash::of(&format!("user{name}@example.org"))
}

#[test]
fn answers_with_the_reason() {
    let mut set = AdmissionSet::new();
    assert_eq!(set.admit_address("ann@example.org"), Ok(()));
    let ann = AddressHash::of("ann@example.org");
    set.put(&ann, Some(Mark::of(State::Quarantined, Some(Reason::MailboxFull))));
    let refusal = set.admit_address("ann@example.org").unwrap_err();
    assert_eq!(refusal.to_string(), "the address is quarantined: Mailbox full");
    set.put(&ann, Some(Mark::of(State::Denylisted, None)));
    let refusal = set.admit_address("ann@example.org").unwrap_err();
    assert_eq!(refusal.to_string(), "the address is denylisted");
    set.suppress(&ann, true);
    set.put(&ann, Some(Mark::of(State::Allowlisted, None)));
    assert_eq!(set.admit_address("ann@example.org"), Err(Refusal::Suppressed));
    set.put(&ann, None);
    assert_eq!(set.admit_address("ann@example.org"), Err(Refusal::Suppressed));
    assert_eq!((set.mark(&ann).state(), set.mark(&ann).reason()), (None, None));
    set.suppress(&ann, false);
    assert_eq!((set.admit_address("ann@example.org"), set.len()), (Ok(()), 0));
}

#[test]
fn domains_are_suppressed_by_name_or_below() {
    let mut set = AdmissionSet::new();
    set.suppress_domain(DomainMask::parse("Example.org").unwrap(), true);
    set.suppress_domain(DomainMask::parse("*.example.net").unwrap(), true);
    let refused = Err(Refusal::DomainSuppressed);
    for (address, expected) in [
        ("a@example.org", refused),
        ("a@mail.example.org", Ok(())),
        ("a@example.net", Ok(())),
        ("a@mail.example.net", refused),
        ("a@x.y.example.net", refused),
        ("a@badexample.net", Ok(())),
        ("a", Ok(())),
    ] {
        assert_eq!(set.admit_address(address), expected, "{address}");
    }
    set.suppress_domain(DomainMask::parse("example.org").unwrap(), false);
    assert_eq!(set.admit_address("a@example.org"), Ok(()));
}

#[test]
fn marks_keep_every_state_and_reason() {
    for state in State::ALL {
        for reason in Reason::ALL.into_iter().map(Some).chain([None]) {
            let mark = Mark::of(state, reason);
            assert_eq!((mark.state(), mark.reason()), (Some(state), reason));
            assert!(!mark.is_suppressed());
        }
    }
}

#[test]
fn suppression_lines_are_read() {
    let hash = AddressHash::of("ann@example.org");
    for (line, expected) in [
        (hash.to_string(), Suppressed::Address(hash)),
        (hash.to_string().to_uppercase(), Suppressed::Address(hash)),
        (" Ann@EXAMPLE.org ".into(), Suppressed::Address(hash)),
        ("*.Example.org".into(), Suppressed::Domain(DomainMask::parse("*.example.org").unwrap())),
    ] {
        assert_eq!(line.parse(), Ok(expected), "{line}");
    }
    for bad in ["", "x y", "@", "a@b", "*.", &"z".repeat(64)] {
        assert!(bad.parse::<Suppressed>().is_err(), "{bad:?}");
    }
    // The hash of the standard's tools: printf %s ann@example.org | sha256sum
    assert!(hash.to_string().starts_with("438c4c7afe600cdf"), "{hash}");
}

proptest! {
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec((0..300_u64, 0..6_u8, any::<bool>()), 0..2_000)) {
        let mut set = AdmissionSet::new();
        let mut map: BTreeMap<u64, (Option<State>, bool)> = BTreeMap::new();
        for (name, state, suppress) in steps {
            let known = map.entry(name).or_default();
            if state == 5 {
                known.1 = suppress;
                set.suppress(&hash(name), suppress);
            } else {
                known.0 = suppress.then(|| State::ALL[usize::from(state)]);
                set.put(&hash(name), known.0.map(|state| Mark::of(state, Some(Reason::Refused))));
            }
        }
        for name in 0..300 {
            let (state, suppressed) = map.get(&name).copied().unwrap_or_default();
            let mark = set.mark(&hash(name));
            prop_assert_eq!((mark.state(), mark.is_suppressed()), (state, suppressed));
        }
        let known = map.values().filter(|known| **known != (None, false)).count();
        prop_assert_eq!(set.len(), known);
    }
}

/// One table alone, so that many addresses stand behind each other and the end wraps around.
#[test]
fn crowded_tables_lose_nobody() {
    let mut set = AdmissionSet::new();
    let crowd: Vec<AddressHash> = (0..60_000).map(hash).filter(|hash| hash.0[0] == 7).collect();
    assert!(crowd.len() > 150);
    let mark = Mark::of(State::Quarantined, Some(Reason::UserUnknown));
    for hash in &crowd {
        set.put(hash, Some(mark));
    }
    for (index, gone) in crowd.iter().enumerate() {
        set.put(gone, None);
        for (other, hash) in crowd.iter().enumerate() {
            let expected = if other > index { mark } else { Mark::default() };
            assert_eq!(set.mark(hash), expected);
        }
    }
    assert!(set.is_empty());
}
