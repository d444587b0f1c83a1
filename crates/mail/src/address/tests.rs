use proptest::prelude::*;

use super::*;

#[test]
fn reads_and_normalises() {
    let rows = [
        ("user@example.com", "user@example.com", false),
        ("User.Name+tag@EXAMPLE.Com", "User.Name+tag@example.com", false),
        ("\"john\"@example.com", "john@example.com", false),
        ("\"john.doe\"@example.com", "john.doe@example.com", false),
        ("\"john doe\"@example.com", "\"john doe\"@example.com", false),
        ("\"a\\b\\\"c\"@example.com", "\"ab\\\"c\"@example.com", false),
        ("\"a@b\"@example.com", "\"a@b\"@example.com", false),
        ("\"a..b\"@example.com", "\"a..b\"@example.com", false),
        ("user@MÜLLER.de", "user@xn--mller-kva.de", false),
        ("user@XN--MLLER-KVA.de", "user@xn--mller-kva.de", false),
        ("user@例え。jp", "user@xn--r8jz45g.jp", false),
        ("jörg@müller.de", "jörg@xn--mller-kva.de", true),
        ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v", true),
        ("a!#$%&'*+-/=?^_`{|}~@x.y", "a!#$%&'*+-/=?^_`{|}~@x.y", false),
        ("a@r3---sn-4g5e6nl7.example", "a@r3---sn-4g5e6nl7.example", false),
    ];
    for (text, normal, smtputf8) in rows {
        let mailbox = Mailbox::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert_eq!(mailbox.as_str(), normal, "{text}");
        assert_eq!(mailbox.needs_smtputf8(), smtputf8, "{text}");
        assert_eq!(Mailbox::parse(normal).as_ref(), Ok(&mailbox));
        assert_eq!(format!("{}@{}", mailbox.local(), mailbox.domain()), normal);
    }
}

#[test]
fn refuses_with_the_reason() {
    use AddressFault as F;
    let rows = [
        ("", F::Empty),
        ("user", F::NoAt),
        ("john doe", F::NoAt),
        ("@example.com", F::LocalEmpty),
        ("\"\"@example.com", F::LocalEmpty),
        ("@relay.example:user@example.com", F::SourceRoute),
        ("@a,@b:user@example.com", F::SourceRoute),
        ("user(comment)@example.com", F::Comment),
        ("<user@example.com>", F::AngleBrackets),
        ("John Doe <user@example.com>", F::AngleBrackets),
        (" user@example.com", F::LocalCharacter(' ')),
        ("us er@example.com", F::LocalCharacter(' ')),
        ("user\r\n@example.com", F::LocalCharacter('\r')),
        ("us\0er@example.com", F::LocalCharacter('\0')),
        ("us,er@example.com", F::LocalCharacter(',')),
        (";id@example.com", F::LocalCharacter(';')),
        (".user@example.com", F::LocalDots),
        ("user.@example.com", F::LocalDots),
        ("us..er@example.com", F::LocalDots),
        ("\"user@example.com", F::LocalQuotes),
        ("\"user\"x@example.com", F::LocalQuotes),
        ("\"user\\", F::LocalQuotes),
        ("\"us\r\ner\"@example.com", F::LocalCharacter('\r')),
        ("\"us\\\ner\"@example.com", F::LocalCharacter('\n')),
        ("us\u{202e}er@example.com", F::LocalCharacter('\u{202e}')),
        ("us\u{85}er@example.com", F::LocalCharacter('\u{85}')),
        ("us\u{2028}er@example.com", F::LocalCharacter('\u{2028}')),
        ("us\u{200b}er@example.com", F::LocalCharacter('\u{200b}')),
        ("user@[192.0.2.1]", F::AddressLiteral),
        ("user@[IPv6:2001:db8::1]", F::AddressLiteral),
        ("user@", F::Domain(DomainFault::Empty)),
        ("user@localhost", F::Domain(DomainFault::NotQualified)),
        ("user@192.0.2.1", F::Domain(DomainFault::Numeric)),
        ("user@example..com", F::Domain(DomainFault::Label)),
        ("user@.example.com", F::Domain(DomainFault::Label)),
        ("user@example.com.", F::Domain(DomainFault::Label)),
        ("user@-example.com", F::Domain(DomainFault::Label)),
        ("user@example-.com", F::Domain(DomainFault::Label)),
        ("user@exa_mple.com", F::Domain(DomainFault::Character('_'))),
        ("user@exa mple.com", F::Domain(DomainFault::Character(' '))),
        ("user@a@example.com", F::Domain(DomainFault::Character('@'))),
        ("user@example.com\r\nRCPT", F::Domain(DomainFault::Character('\r'))),
        ("user@müller\u{202e}.de", F::Domain(DomainFault::Character('\u{202e}'))),
        ("user@müller.de/x", F::Domain(DomainFault::Character('/'))),
        ("user@xn--zzzzzzzzzzzzzz9.de", F::Domain(DomainFault::NotInternational)),
    ];
    for (text, fault) in rows {
        assert_eq!(Mailbox::parse(text), Err(fault), "{text:?}");
    }
}

#[test]
fn limits_are_exact() {
    let local = "a".repeat(64);
    assert!(Mailbox::parse(&format!("{local}@example.com")).is_ok());
    assert_eq!(Mailbox::parse(&format!("a{local}@example.com")), Err(AddressFault::LocalTooLong));
    let label = "d".repeat(63);
    assert!(Domain::parse(&format!("{label}.{label}.{label}.{}", "d".repeat(61))).is_ok());
    assert_eq!(
        Domain::parse(&format!("{label}.{label}.{label}.{}", "d".repeat(62))),
        Err(DomainFault::TooLong)
    );
    assert_eq!(Domain::parse(&format!("{label}d.com")), Err(DomainFault::Label));
    let domain = format!("{label}.{label}.{}", "d".repeat(61));
    assert_eq!(Mailbox::parse(&format!("{local}@{domain}")).unwrap().as_str().len(), 254);
    assert_eq!(Mailbox::parse(&format!("{local}@{domain}d")), Err(AddressFault::TooLong));
    assert_eq!(Mailbox::parse(&"a".repeat(1 << 20)), Err(AddressFault::TooLong));
}

#[test]
fn folds_for_comparison() {
    let key = |text| Mailbox::parse(text).unwrap().folded_key().into_owned();
    assert_eq!(key("John.Doe@Example.COM"), "john.doe@example.com");
    assert_eq!(key("JÖRG@example.com"), key("jörg@example.com"));
}

/// The grammar again, written as plainly as possible.
fn grammar_holds(mailbox: &Mailbox) -> bool {
    let local = mailbox.local();
    let local_holds =
        if let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            let mut escaped = false;
            inner.chars().all(|character| {
                let fine = escaped || character != '"';
                escaped = !escaped && character == '\\';
                fine && !character.is_control()
            }) && !escaped
        } else {
            local.split('.').all(|atom| {
                !atom.is_empty()
                    && atom.chars().all(|character| {
                        !character.is_ascii()
                            || character.is_ascii_alphanumeric()
                            || "!#$%&'*+-/=?^_`{|}~".contains(character)
                    })
            })
        };
    local_holds
        && local.len() <= 64
        && mailbox.as_str().len() <= 254
        && mailbox.domain().contains('.')
        && mailbox.domain().split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|octet| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}

proptest! {
    #[test]
    fn what_is_read_obeys_the_grammar_and_reads_back(
        text in prop_oneof![
            "[a-zA-Z0-9.!+\"\\\\ (<>,;:\u{e4}\u{202e}@-]{0,20}@[a-zA-Z0-9.\u{fc}_@-]{0,20}",
            "\"[ -~\u{e4}]{0,12}\"@[a-z]{1,5}\\.[a-z\u{df}\u{fc}]{1,4}",
            "\\PC{0,40}",
        ]
    ) {
        if let Ok(mailbox) = Mailbox::parse(&text) {
            prop_assert!(grammar_holds(&mailbox), "{text:?} -> {mailbox:?}");
            prop_assert_eq!(Mailbox::parse(mailbox.as_str()), Ok(mailbox));
        }
    }

    #[test]
    fn ordinary_addresses_are_read(
        local in "[a-z0-9_+-]{1,20}(\\.[a-z0-9]{1,10}){0,3}",
        domain in "[a-z]{1,20}(\\.[a-z0-9]{1,10}){0,3}\\.[a-z]{2,8}",
    ) {
        let text = format!("{local}@{domain}");
        let mailbox = Mailbox::parse(&text);
        prop_assert_eq!(mailbox.as_ref().map(Mailbox::as_str), Ok(text.as_str()));
    }
}
