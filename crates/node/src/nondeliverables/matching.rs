//! From a mail that came back to the message of ours that it speaks of.
//!
//! What proves the message, in this order: the address the mail was sent to (our return path or unsubscribe
//! address, in any case, with or without a `+` detail), what came back of our header (Return-Path, Message-ID,
//! List-Unsubscribe), a token in the subject. All of these carry a keyed MAC. `X-Mailweir-Id` names a message but
//! proves nothing.
//!
//! **Absences.** No store: whether the message is still known is asked elsewhere.

use mail::id::MessageId;
use mail::incoming::IncomingMail;
use mail::verp::{ReturnPath, Verp, VerpFault};

/// The field with the number of the message.
const NUMBER_FIELD: &str = "x-mailweir-id";

/// Candidates that are looked at; a MAC is worked out for each that has our form.
const CANDIDATES_MAX: usize = 200;

/// What a mail proves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The message that it certainly speaks of.
    pub(super) genuine: Option<Verp>,
    /// Something has our form, but none of our keys has made it.
    pub(super) forged: bool,
    /// The message that it names without proof.
    pub(super) named: Option<MessageId>,
}

/// Looks for a message of ours. `recipients` are those of the envelope.
pub(super) fn find(paths: &ReturnPath, recipients: &[String], mail: &IncomingMail) -> Found {
    let mut found = Found::default();
    let returned = mail.returned.as_ref();
    let addresses = recipients
        .iter()
        .chain(&mail.to)
        .chain(returned.map(|returned| &returned.return_path))
        .chain(returned.iter().flat_map(|returned| &returned.message_ids))
        .map(|address| name_of(address));
    let links = returned.map_or("", |returned| &returned.list_unsubscribe);
    let words = words_of(links).chain(words_of(&mail.subject));
    for name in addresses.chain(words).take(CANDIDATES_MAX) {
        match paths.decode_name(name) {
            Ok(verp) => {
                found.genuine = Some(verp);
                return found;
            }
            Err(VerpFault::Forged) => found.forged = true,
            Err(VerpFault::NotOurs | VerpFault::Malformed) => {}
        }
    }
    found.named = returned
        .iter()
        .flat_map(|returned| &returned.extensions)
        .find(|(name, _)| name == NUMBER_FIELD)
        .and_then(|(_, value)| value.trim().parse().ok());
    found
}

/// The local part of an address or the left side of a Message-ID, without brackets and `+` detail.
fn name_of(address: &str) -> &str {
    let address = address.trim().trim_start_matches('<').trim_end_matches('>');
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
    local.split('+').next().unwrap_or(local).trim_matches('"')
}

/// What might be a token in a text.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '-')
        .filter(|word| (8..=60).contains(&word.len()) && word.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::address::Domain;
    use mail::id::DeliveryId;
    use mail::incoming::{Returned, read};
    use mail::verp::{Purpose, VerpKey};

    fn paths(key: &[u8]) -> ReturnPath {
        let domain = Domain::parse("bounce.example").unwrap();
        ReturnPath::new(domain, vec![VerpKey::new(key).unwrap()]).unwrap()
    }

    fn returned(change: impl FnOnce(&mut Returned)) -> IncomingMail {
        let mut returned = Returned::default();
        change(&mut returned);
        IncomingMail { returned: Some(returned), ..IncomingMail::default() }
    }

    #[test]
    fn every_place_leads_back_to_the_message() {
        let ours = paths(b"0123456789abcdef");
        let names = ours.names(MessageId(77), DeliveryId(5));
        let name = |purpose| names.name(purpose);
        let bounce = ours.address(&names, Purpose::Bounce);
        let nothing = IncomingMail::default();
        let of = |recipient: String| find(&ours, &[recipient], &nothing);
        let detail = bounce.replace('@', "+later@");
        for found in [
            of(bounce.clone()),
            of(bounce.to_uppercase()),
            of(format!("<{bounce}>")),
            of(detail),
            find(&ours, &[], &IncomingMail { to: vec![bounce.clone()], ..nothing.clone() }),
            find(&ours, &[], &returned(|mail| mail.return_path = bounce.clone())),
            find(
                &ours,
                &[],
                &returned(|mail| {
                    mail.message_ids =
                        vec!["x@y".into(), format!("{}@shop.example", name(Purpose::MessageId))];
                }),
            ),
            find(
                &ours,
                &[],
                &returned(|mail| {
                    let token = name(Purpose::Unsubscribe);
                    mail.list_unsubscribe =
                        format!("<https://shop.example/u/{token}>, <mailto:a@b>");
                }),
            ),
            find(
                &ours,
                &[],
                &IncomingMail {
                    subject: format!("unsubscribe {}", name(Purpose::Unsubscribe)),
                    ..nothing.clone()
                },
            ),
        ] {
            let verp = found.genuine.expect("it is ours");
            assert_eq!((verp.message, verp.delivery), (MessageId(77), DeliveryId(5)));
        }
    }

    #[test]
    fn what_another_key_has_made_is_forged_and_numbers_prove_nothing() {
        let ours = paths(b"0123456789abcdef");
        let other = paths(b"another key of 16");
        let forged = other.encode(MessageId(77), DeliveryId(5));
        let found = find(
            &ours,
            &[forged],
            &returned(|mail| {
                mail.extensions = vec![("x-mailweir-id".into(), "m77".into())];
            }),
        );
        assert_eq!(found, Found { genuine: None, forged: true, named: Some(MessageId(77)) });
        let mail = read(b"From: a@b.example\r\nTo: b-side@bounce.example\r\nSubject: hi-there-all-of-you\r\n\r\nhello\r\n");
        assert_eq!(find(&ours, &["postmaster".into()], &mail), Found::default());
    }
}
