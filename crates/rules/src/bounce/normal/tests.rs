use proptest::prelude::*;

use super::*;

#[test]
fn keys_are_those_of_the_figures() {
    for (text, key) in [
        ("550 \"Unknown user\"", "8d54d1a1ff4b73384faf3ebcce8b625b"),
        ("Exclusion of duplicates (based on address)", "735055133b1816c7ac5d2d487d4fd131"),
    ] {
        let normalised = normalise(text);
        assert_eq!(normalised, text);
        assert_eq!(Key::of(&normalised).to_string(), key);
        assert_eq!(Key::from_hex(key), Some(Key::of(text)));
    }
    assert_eq!(Key::from_hex("8d54"), None);
    assert_eq!(Key::from_hex(&"g".repeat(32)), None);
}

#[test]
fn what_changes_from_mail_to_mail_is_replaced() {
    for (text, want) in [
        ("550 <jane@example.com> No such user here", "550 <*> No such user here"),
        (
            "550 jane@example.com unknown address ((jane@example.com))",
            "550 * unknown address ((*))",
        ),
        ("550 5.1.1 user@...: no such user", "550 5.1.1 *: no such user"),
        ("DNS query failed for 'ourdan.com'", "DNS query failed for '#DOMAIN#'"),
        (
            "221 mx.example.com Service closing transmission channel",
            "221 #DOMAIN# Service closing transmission channel",
        ),
        (
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred - 4.16.55.1; see https://postmaster.example/error-codes",
            "421 4.7.0 [TSS04] Messages from #IP# temporarily deferred - #IP#; see https://postmaster.example/error-codes",
        ),
        (
            "550-5.1.1 The account does\n550-5.1.1 not exist. Learn more at\n550 5.1.1 https://support.example.com/mail/?p=NoSuchUser c2-202229zmZBNM3agi23.222 - gsmtp",
            "550 5.1.1 The account does not exist. Learn more at https://support.example.com/mail/?p=NoSuchUser #xxx# - gsmtp",
        ),
        (
            "552-Requested mail action aborted: exceeded storage allocation\r\n552-Quota exceeded.\r\n552 See https://postmaster.example/en/case?c=r1503",
            "552 Requested mail action aborted: exceeded storage allocation Quota exceeded. See https://postmaster.example/en/case?c=r1503",
        ),
        (
            "550 Too many messages. IB504 <http://x.example/help?ip=192.0.2.7>",
            "550 Too many messages. IB504 <http://x.example/help?ip=#IP#>",
        ),
        (
            "550 5.1.0 <a@b.example> sender rejected. AUP#In-1310",
            "550 5.1.0 <*> sender rejected. AUP#In-1310",
        ),
        (
            "550 5.5.1 Recipient rejected - OXSEU001_403",
            "550 5.5.1 Recipient rejected - OXSEU001_403",
        ),
        (
            "554 5.4.14 Hop count exceeded ATTR34 [TY0PEP000000000.JPNP255.PROD.OUTLOOK.COM 2025-01-06T03:22:22.000Z 00000564B00B940B]",
            "554 5.4.14 Hop count exceeded ATTR34 [#DOMAIN# #xxx# #xxx#]",
        ),
        ("550 error 550 happened", "550 error 550 happened"),
        ("522_mailbox_full;size=3", "522_mailbox_full;size=#xxx#"),
        (
            "550 5.1.1 resolver.adr.recipnotfound; x.adr.example",
            "550 5.1.1 resolver.adr.recipnotfound; #DOMAIN#",
        ),
        ("451 try again in 300 seconds", "451 try again in #xxx# seconds"),
        ("550 rejected.Please try again", "550 rejected.Please try again"),
        ("550 [2001:db8::1] has no PTR", "550 [#IP#] has no PTR"),
        ("554 IP=192.0.2.254 - A problem occurred. (BL)", "554 IP=#IP# - A problem occurred. (BL)"),
        ("450 host x.example:25 said no at 12:30:01", "450 host #DOMAIN#:#xxx# said no at #xxx#"),
        ("  550\t two   blanks \r\n", "550 two blanks"),
        ("", ""),
    ] {
        assert_eq!(normalise(text), want, "{text}");
    }
}

#[test]
fn a_reply_has_one_key_however_its_lines_are_joined() {
    for lines in [
        "550-5.1.1 The email account that you tried\n550-5.1.1 to reach is none. Please try\n550 5.1.1 unnecessary spaces.",
        "550-Verification failed for <jane@example.com>\n550-No such user here\n550 Sender verify failed",
        "550-5.1.1 no\n550-5.1.1 such user\n550 5.1.1 jane@example.com at 550 Elm Street",
        "552-5.2.2 full\n552 5.2.2 of mail",
    ] {
        let want = normalise(lines);
        assert_eq!(
            want.matches(&lines[..3]).count(),
            1 + usize::from(lines.contains("Elm")),
            "{want}"
        );
        for joint in [" ", "\r\n", "\r\n\t", "  "] {
            assert_eq!(normalise(&lines.replace('\n', joint)), want, "{joint:?}");
        }
    }
}

#[test]
fn a_long_text_is_cut() {
    let text = "ü".repeat(MOST_OCTETS);
    assert!(normalise(&text).len() <= MOST_OCTETS);
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,200}") {
        let _ = normalise(&text);
    }

    #[test]
    fn never_panics_on_dense_text(text in "[a-zA-Z0-9@.:#=*%/ \\-_<>\\[\\]\n;~+!é]{0,120}") {
        let _ = normalise(&text);
    }

    #[test]
    fn ids_addresses_and_hosts_do_not_change_the_key(
        local in "[a-z][a-z0-9.+]{0,10}[a-z]", host in "[a-z]{2,8}\\.[a-z]{2,6}\\.example",
        octets in proptest::array::uniform4(0_u8..=255), id in "[0-9A-F]{2}[0-9]{6}[A-F][0-9]{2}",
    ) {
        let [a, b, c, d] = octets;
        let text = format!("550 5.1.1 <{local}@{host}>: rejected by {host} [{a}.{b}.{c}.{d}] ({id})");
        prop_assert_eq!(normalise(&text), "550 5.1.1 <*>: rejected by #DOMAIN# [#IP#] (#xxx#)");
    }
}
