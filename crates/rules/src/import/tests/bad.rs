//! Files that are not what they claim to be, and files that want too much.

use super::*;

#[test]
fn faults_have_their_place() {
    for (dialect, name, bytes, wanted) in [
        (
            Dialect::Kumomta,
            "a.toml",
            &b"[\"x\"\nconnection_limit = 1\n"[..],
            "a.toml:1:5: not TOML",
        ),
        (Dialect::Kumomta, "a.toml", b"a = \"\xff\"", "a.toml:1:6: the file is not UTF-8"),
        (Dialect::Kumomta, "a.toml", b"a = \"\0\"", "a.toml:1:6: not TOML"),
        (
            Dialect::Powermta,
            "config",
            b"<domain x>\nmax-smtp-out 1\n",
            "config:1:1: <domain> is not closed",
        ),
        (Dialect::Powermta, "config", b"</domain>\n", "config:1:1: </domain> closes nothing"),
        (
            Dialect::Powermta,
            "config",
            b"<domain x>\n</virtual-mta>\n",
            "config:2:1: </virtual-mta> closes nothing",
        ),
        (Dialect::Powermta, "config", b"<domain x\n", "config:1:1: a tag without `>`"),
        (Dialect::Powermta, "config", b"max-smtp-out 1\0\n", "config:1:15: a control character"),
        (Dialect::Powermta, "config", b"\xfe\xff", "config:1:1: the file is not UTF-8"),
        (
            Dialect::Postfix,
            "main.cf",
            b"  a = b\n",
            "main.cf:1:1: the first line begins with a blank",
        ),
        (Dialect::Postfix, "main.cf", b"a b\n", "main.cf:1:1: a line without `=`"),
        (Dialect::Postfix, "main.cf", b"a = \0\n", "main.cf:1:5: a control character"),
    ] {
        let files = [ImportFile { name: name.to_owned(), bytes: bytes.to_vec() }];
        let faults = import(dialect, &files, &options(), &mut no_include).unwrap_err();
        let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|one| one.starts_with(wanted)), "{wanted}: {said:?}");
    }
}

#[test]
fn a_long_line_and_too_large_a_file_are_bounded() {
    let long = "x".repeat(1 << 20);
    for (dialect, name, text) in [
        (Dialect::Kumomta, "a.toml", format!("[\"gmail.com\"]\n{long} = \"{long}\"\n")),
        (Dialect::Powermta, "config", format!("<domain {long}>\n{long} {long}\n</domain>\n")),
        (Dialect::Postfix, "main.cf", format!("{long} = {long}\n")),
    ] {
        let found = imported(dialect, &[file(name, &text)]);
        for entry in &found.report.entries {
            let size = entry.directive.len() + entry.value.len() + entry.words.len();
            assert!(size < 2_000, "{size}");
        }
    }
    for dialect in Dialect::ALL {
        let files = [file("main.cf", &"#\n".repeat(3 << 20))];
        let faults = import(dialect, &files, &options(), &mut no_include).unwrap_err();
        assert!(faults[0].message.contains("at most"), "{faults:?}");
        let files: Vec<ImportFile> = (0..70).map(|_| file("main.cf", "")).collect();
        assert!(import(dialect, &files, &options(), &mut no_include).is_err());
    }
}

#[test]
fn too_many_directives_and_blocks_within_blocks_are_faults() {
    let many = "a b\n".repeat(100_001);
    let deep = "<domain x>\n".repeat(2_000);
    for (dialect, name, text, wanted) in [
        (Dialect::Powermta, "config", many.as_str(), "too many directives"),
        (Dialect::Powermta, "config", deep.as_str(), "blocks within each other"),
        (Dialect::Postfix, "transport", &many, "too many directives"),
    ] {
        let faults = import(dialect, &[file(name, text)], &options(), &mut no_include).unwrap_err();
        assert!(faults.iter().any(|fault| fault.message.contains(wanted)), "{:?}", faults[0]);
        assert!(faults.len() <= 201);
    }
    let nested = format!("a = {}{}", "[".repeat(3_000), "]".repeat(3_000));
    assert!(import(Dialect::Kumomta, &[file("a", &nested)], &options(), &mut no_include).is_err());
}

#[test]
fn line_ends_and_byte_order_do_not_matter() {
    for (dialect, name, text) in [
        (Dialect::Kumomta, "a.toml", "[\"gmail.com\"]\nconnection_limit = 3\n"),
        (Dialect::Powermta, "config", "<domain gmail.com>\nmax-smtp-out 3\n</domain>\n"),
    ] {
        let unix = imported(dialect, &[file(name, text)]);
        let dos = imported(dialect, &[file(name, &text.replace('\n', "\r\n"))]);
        assert_eq!(unix, dos);
        assert_eq!(limits(&unix, "aspmx.l.google.com", 1).1, 3);
    }
}

#[test]
fn many_rules_that_shadow_each_other_are_worked_out_in_time() {
    let mut text = String::new();
    for number in 0..500 {
        text += &format!(
            "[provider.p{number}]\nmatch = [{{ MXSuffix = \".n{number}.example\" }}]\nconnection_limit = 3\n"
        );
        text += &format!(
            "[provider.q{number}]\nmatch = [{{ HostName = \"a.n{number}.example\" }}]\nconnection_limit = 3\n"
        );
    }
    let began = std::time::Instant::now();
    let found = imported(Dialect::Kumomta, &[file("a", &text)]);
    assert!(found.mx.unwrap().contains("n499.example"));
    // Seconds where nobody else works; to compare each with each would take far more than a minute.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

/// A file of another product is one fault that names it, and no line of it is shown.
#[test]
fn files_of_another_kind_are_named_and_refused_whole() {
    let powermta = format!(
        "<domain gmail.com>\n  auth-password s3cret\n{}</domain>\n",
        "  max-smtp-out 5\n".repeat(90)
    );
    let kumomta = "[\"default\"]\nconnection_limit = 10\nsmtp_auth_plain_password = \"s3cret\"\n";
    let postfix = "myhostname = mta.example\nsmtp_sasl_password = s3cret\n";
    let own = "[[rule]]\nname = \"s3cret\"\n";
    let neither = "one s3cret\ntwo 2\nthree 3\nfour 4\n";
    for (dialect, name, text, wanted) in [
        (Dialect::Kumomta, "pmta.config", powermta.as_str(), "a PowerMTA configuration"),
        (Dialect::Postfix, "main.cf", &powermta, "a PowerMTA configuration"),
        (Dialect::Powermta, "shaping.toml", kumomta, "a shaping file of KumoMTA"),
        (Dialect::Postfix, "main.cf", kumomta, "a shaping file of KumoMTA"),
        (Dialect::Kumomta, "main.cf", postfix, "a configuration of Postfix"),
        (Dialect::Powermta, "main.cf", postfix, "a configuration of Postfix"),
        (Dialect::Powermta, "mx.toml", own, "a rule file of Mailweir's own"),
        (Dialect::Powermta, "letter", neither, "nothing in it is known"),
    ] {
        let faults = import(dialect, &[file(name, text)], &options(), &mut no_include).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].message.contains(wanted), "{wanted}: {faults:?}");
        assert!(!faults[0].render().contains("s3cret"), "{}", faults[0].render());
    }
}

/// A fault in or behind a line with a secret has its place, and not its line.
#[test]
fn faults_show_no_line_with_a_secret() {
    for (dialect, name, text) in [
        (Dialect::Powermta, "config", "<domain x.example>\nauth-password s3cret\u{1}\n</domain>\n"),
        (
            Dialect::Powermta,
            "config",
            "<domain x.example>\nauth-password \\\n  s3cret\u{1}\n</domain>\n",
        ),
        (Dialect::Kumomta, "a", "[\"a\"]\nconnection_limit = 1\npassword = s3cret\n"),
        (Dialect::Postfix, "main.cf", "myhostname = a\nsmtp_password s3cret\n"),
        (Dialect::Postfix, "sasl_map", "[relay.example] me:s3cret\n"),
    ] {
        let faults = import(dialect, &[file(name, text)], &options(), &mut no_include).unwrap_err();
        for fault in faults {
            assert!(fault.line > 0, "{fault}");
            assert!(!fault.render().contains("s3cret"), "{}", fault.render());
        }
    }
}
