use proptest::prelude::*;

use super::*;

fn return_path(keys: &[&[u8]]) -> ReturnPath {
    let keys = keys.iter().map(|key| VerpKey::new(key).unwrap()).collect();
    ReturnPath::new(Domain::parse("bounces.example.com").unwrap(), keys).unwrap()
}

const OLD: &[u8] = b"an old key of 16+ octets";
const NEW: &[u8] = b"a new key of 16 or more octets";

#[test]
fn the_form_is_fixed() {
    let address = return_path(&[NEW]).encode(MessageId(9), DeliveryId(4));
    let (local, domain) = address.split_once('@').unwrap();
    assert_eq!(domain, "bounces.example.com");
    assert!(local.starts_with("b-j-e-"), "{local}");
    assert_eq!(local.len(), 6 + 16);
    let longest = return_path(&[NEW]).encode(MessageId(u64::MAX), DeliveryId(u64::MAX));
    assert_eq!(longest.split_once('@').unwrap().0.len(), 46);
}

#[test]
fn keys_rotate() {
    let old = return_path(&[OLD]).encode(MessageId(1), DeliveryId(2));
    let both = return_path(&[NEW, OLD]);
    assert!(both.decode(&old).is_ok());
    assert!(both.decode(&both.encode(MessageId(1), DeliveryId(2))).is_ok());
    assert_ne!(both.encode(MessageId(1), DeliveryId(2)), old);
    assert_eq!(return_path(&[NEW]).decode(&old), Err(VerpFault::Forged));
}

#[test]
fn what_is_not_ours_is_told_from_what_is_damaged() {
    let paths = return_path(&[NEW]);
    let rows = [
        ("", VerpFault::NotOurs),
        ("b-j-e-aaaaaaaaaaaaaaaa", VerpFault::NotOurs),
        ("b-j-e-aaaaaaaaaaaaaaaa@other.example.com", VerpFault::NotOurs),
        ("info@bounces.example.com", VerpFault::NotOurs),
        ("b-team@bounces.example.com", VerpFault::NotOurs),
        ("x-j-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::NotOurs),
        ("b-j-e-aaaaaaaaaaaaaaaa-a@bounces.example.com", VerpFault::NotOurs),
        ("b-j-e-aaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-j--aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-aj-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-777777777777777-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-7777777777777-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-é-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Malformed),
        ("b-j-e-aaaaaaaaaaaaaaaa@bounces.example.com", VerpFault::Forged),
    ];
    for (text, fault) in rows {
        assert_eq!(paths.decode(text), Err(fault), "{text}");
    }
}

#[test]
fn one_purpose_does_not_serve_as_another() {
    let paths = return_path(&[NEW]);
    let names = paths.names(MessageId(7), DeliveryId(3));
    let unsubscribe = names.name(Purpose::Unsubscribe);
    assert_eq!(
        paths.decode_name(&unsubscribe),
        Ok(Verp { purpose: Purpose::Unsubscribe, message: MessageId(7), delivery: DeliveryId(3) })
    );
    let turned = unsubscribe.replacen('u', "b", 1);
    assert_eq!(paths.decode_name(&turned), Err(VerpFault::Forged));
}

#[test]
fn a_key_stays_secret_and_is_long_enough() {
    assert_eq!(VerpKey::new(b"fifteen octets!").unwrap_err(), KeyTooShort { found: 15 });
    let shown = format!("{:?}", return_path(&[b"0123456789abcdef"]));
    assert!(shown.contains("VerpKey(secret)") && !shown.contains("0123"), "{shown}");
}

proptest! {
    #[test]
    fn reads_back_in_any_case(message: u64, delivery: u64, upper: u64) {
        let paths = return_path(&[NEW]);
        let address = paths.encode(MessageId(message), DeliveryId(delivery));
        let folded: String = address
            .chars()
            .enumerate()
            .map(|(index, c)| {
                if upper >> (index % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c }
            })
            .collect();
        let found = paths.decode(&folded);
        let expected = Verp {
            purpose: Purpose::Bounce,
            message: MessageId(message),
            delivery: DeliveryId(delivery),
        };
        prop_assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_flipped_bit_is_refused(message: u64, delivery: u64, place: usize, bit in 0_u8..8) {
        let paths = return_path(&[NEW]);
        let address = paths.encode(MessageId(message), DeliveryId(delivery));
        let local = address.find('@').unwrap();
        let mut octets = address.clone().into_bytes();
        octets[place % local] ^= 1 << bit;
        if let Ok(changed) = String::from_utf8(octets)
            && !changed.eq_ignore_ascii_case(&address)
        {
            prop_assert!(paths.decode(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn nothing_from_outside_panics(text in "\\PC{0,80}") {
        let _ = return_path(&[NEW]).decode_name(&text);
    }
}
