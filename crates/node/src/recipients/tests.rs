use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Reads a list and shows each row as a line of text.
fn show(list: impl Read, format: Format) -> Result<Vec<String>, String> {
    let mut recipients = Recipients::new(list, format);
    let mut shown = Vec::new();
    loop {
        match recipients.next_row().map_err(|fault| fault.to_string())? {
            Some(Row::Recipient { line, mailbox, merge_json }) => {
                if !merge_json.is_empty() {
                    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&merge_json)
                        .unwrap();
                }
                shown.push(format!("{line}: {mailbox} {merge_json}"));
            }
            Some(Row::Refused { line, reason }) => shown.push(format!("{line}: REFUSED {reason}")),
            None => break,
        }
    }
    let totals = recipients.totals();
    let refused = shown.iter().filter(|row| row.contains(" REFUSED ")).count() as u64;
    assert_eq!((totals.accepted, totals.refused), (shown.len() as u64 - refused, refused));
    Ok(shown)
}

fn csv(list: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
    let list = list.as_ref();
    let whole = show(list, Format::Detect);
    // Cut into single octets it must come out the same.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((&first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = first;
            self.0 = rest;
            Ok(1)
        }
    }
    if list.len() < 10_000 {
        assert_eq!(show(Drip(list), Format::Detect), whole);
    }
    whole
}

#[test]
fn ordinary_lists() {
    let rows: [(&[u8], &[&str]); 12] = [
        (b"email\na@b.example\n", &["2: a@b.example "]),
        (b"email\r\na@b.example\r\nc@d.example", &["2: a@b.example ", "3: c@d.example "]),
        (b"\xef\xbb\xbfEmail,Name\na@b.example,J\n", &[r#"2: a@b.example {"Name":"J"}"#]),
        (b"name;E-Mail;EMAIL\nx;y;a@B.example\n", &[r#"2: a@b.example {"name":"x","E_Mail":"y"}"#]),
        (b"email\tname\na@b.example\t\n", &[r#"2: a@b.example {"name":""}"#]),
        (
            b"email,First name,2nd\na@b.example,x,y\n",
            &[r#"2: a@b.example {"First_name":"x","_2nd":"y"}"#],
        ),
        (b"email,n\na@b.example,\"x, \"\"y\"\"\"\n", &[r#"2: a@b.example {"n":"x, \"y\""}"#]),
        (
            b"email,n\na@b.example,\"l1\nl2\r\n\"\nc@d.example,z\n",
            &[r#"2: a@b.example {"n":"l1\nl2\r\n"}"#, r#"5: c@d.example {"n":"z"}"#],
        ),
        (b"\n\n email ,n\n\n a@b.example ,\\\x01\n\r\n", &[r#"5: a@b.example {"n":"\\\u0001"}"#]),
        (b"\"email\",\"n\"\n\"a@b.example\",\"\"", &[r#"2: a@b.example {"n":""}"#]),
        (b"email,size\na@b.example,5\" disk\n", &[r#"2: a@b.example {"size":"5\" disk"}"#]),
        (b"email,n\n", &[]),
    ];
    for (list, expected) in rows {
        assert_eq!(csv(list).unwrap(), expected, "{}", list.escape_ascii());
    }
}

#[test]
fn bad_rows_are_refused_and_the_rest_goes_on() {
    let rows: [(&[u8], &str); 9] = [
        (b"nobody,x", "invalid address \"nobody\": there is no @ in the address"),
        (b",x", "invalid address \"\": the address is empty"),
        (b"a@b.example", "the row has 1 columns, but the header row has 2"),
        (b"a@b.example,x,y", "the row has 3 columns, but the header row has 2"),
        (b"a@b.example,\"x\"y", "column 2 goes on after its closing quote"),
        (b"a@b.example,\"x", "column 2 goes on after its closing quote"),
        (
            b"a@b.example,caf\xe9",
            "octet 0xE9 at place 16 of the row is not UTF-8 (Latin-1 or Windows-1252?): save the list as UTF-8",
        ),
        (
            b"a@b@c.example,x",
            "invalid address \"a@b@c.example\": the character '@' may not stand in a domain",
        ),
        (
            b"a\0@b.example,x",
            "invalid address \"a\\0@b.example\": the character '\\0' may not stand in the part before the @",
        ),
    ];
    for (row, reason) in rows {
        let list =
            [&b"email,n\nfirst@x.example,1\n"[..], row, b"\nlast@x.example,\"2\"\n"].concat();
        let expected = [
            r#"2: first@x.example {"n":"1"}"#.to_owned(),
            format!("3: REFUSED {reason}"),
            r#"4: last@x.example {"n":"2"}"#.to_owned(),
        ];
        assert_eq!(csv(&list).unwrap(), expected, "{}", row.escape_ascii());
    }
    // Never closed: found at the end, and the rows after it are still read.
    assert_eq!(
        csv("email,n\na@b.example,\"x\nc@d.example,y\n").unwrap(),
        ["2: REFUSED the quote of column 2 is never closed", r#"3: c@d.example {"n":"y"}"#]
    );
    let wide = format!("email,n\na@b.example{}\nc@d.example,y\n", ",".repeat(300));
    assert_eq!(
        csv(wide).unwrap(),
        ["2: REFUSED the row has more than 256 columns", r#"3: c@d.example {"n":"y"}"#]
    );
}

#[test]
fn lists_that_cannot_be_read_at_all() {
    let utf16: Vec<u8> = "email\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = vec!["c"; 300].join(",");
    let rows: [(&[u8], &str); 13] = [
        (b"", "the list of recipients is empty"),
        (b" \r\n\n", "the list of recipients is empty"),
        (b"\xef\xbb\xbf", "the list of recipients is empty"),
        (b"\xff\xfee\0m\0", "the list of recipients is UTF-16: save it as UTF-8"),
        (&utf16, "the list of recipients is UTF-16 without a byte order mark: save it as UTF-8"),
        (
            b"name,mail\nx,a@b.example\n",
            "line 1: the header row has no column email; found: name, mail",
        ),
        (b"\n\na@b.example\n", "line 3: the header row has no column email; found: a@b.example"),
        (b"email,name,name\n", "line 1: two columns are called name"),
        (b"email,Email\n", "line 1: two columns are called Email"),
        (b"email,,x\n", "line 1: column 2 has no name"),
        (
            b"email\ra@b.example\r",
            "line 1: the header row cannot be read: lines end in CR alone: save the list with LF or CRLF",
        ),
        (
            b"email,caf\xe9\n",
            "line 1: the header row cannot be read: octet 0xE9 at place 10 of the row is not UTF-8 (Latin-1 or Windows-1252?): save the list as UTF-8",
        ),
        (
            wide.as_bytes(),
            "line 1: the header row cannot be read: the row has more than 256 columns",
        ),
    ];
    for (list, expected) in rows {
        assert_eq!(csv(list).unwrap_err(), expected, "{}", list.escape_ascii());
    }
}

#[test]
fn ndjson_keeps_types() {
    let list = concat!(
        "{\"email\":\"a@b.example\",\"n\":1,\"t\":[true,null,{\"x\":\"y\"}]}\n",
        "\n",
        "{\"n\":2,\"Email\":\"c@d.example\"}\r\n",
        "{\"email\":\"e@f.example\"}\n",
        "{\"email\":5}\n",
        "{\"n\":5}\n",
        "[1]\n",
        "{\"email\":\"a@b.example\",\"n\":1,\"n\":2}\n",
        "{\"email\":\"a@b.example\",\n",
        "{\"email\":\"a@b.example\"} x\n",
        "{\"email\":\"nobody\"}\n",
        "{\"email\":\"z@z.example\",\"s\":\"\\ud83d\\ude00\"}",
    );
    let shown = csv(list).unwrap();
    assert_eq!(shown[0], r#"1: a@b.example {"n":1,"t":[true,null,{"x":"y"}]}"#);
    assert_eq!(shown[1], r#"3: c@d.example {"n":2}"#);
    assert_eq!(shown[2], "4: e@f.example ");
    assert_eq!(shown[3], "5: REFUSED the object has no email, or its email is no text");
    assert_eq!(shown[4], "6: REFUSED the object has no email, or its email is no text");
    assert!(shown[5].starts_with("7: REFUSED not a JSON object: "), "{}", shown[5]);
    assert_eq!(shown[6], "8: REFUSED the object has \"n\" twice");
    assert!(shown[7].starts_with("9: REFUSED not a JSON object: EOF"), "{}", shown[7]);
    assert!(shown[8].starts_with("10: REFUSED not a JSON object: trailing"), "{}", shown[8]);
    assert!(shown[9].starts_with("11: REFUSED invalid address"), "{}", shown[9]);
    assert_eq!(shown[10], "12: z@z.example {\"s\":\"😀\"}");
    let deep = format!("{{\"email\":\"a@b.example\",\"x\":{}}}", "[".repeat(100_000));
    assert!(csv(deep).unwrap()[0].contains("recursion limit"));
}

/// So many octets of one kind, without holding them.
fn many(octet: u8, count: u64) -> impl Read {
    io::repeat(octet).take(count)
}

#[test]
fn an_endless_line_is_refused_without_being_held() {
    const HUGE: u64 = 100_000_000;
    for (format, head, tail, expected) in [
        (Format::Csv, "email,n\na@b.example,", "\nc@d.example,y\n", r#"3: c@d.example {"n":"y"}"#),
        (
            Format::Ndjson,
            "{\"email\":\"a@b.example\"}\n{",
            "\n{\"email\":\"c@d.example\"}\n",
            "3: c@d.example ",
        ),
    ] {
        let list = Cursor::new(head).chain(many(b'x', HUGE)).chain(Cursor::new(tail));
        let mut recipients = Recipients::new(list, format);
        let mut rows = Vec::new();
        let mut most = 0;
        while let Some(row) = recipients.next_row().unwrap() {
            rows.push(row);
            most = most.max(recipients.decoder.window.capacity());
        }
        assert!(most < 4 << 20, "{most} octets were held");
        let refused = Row::Refused { line: 2, reason: Reason::TooLong };
        assert!(rows.contains(&refused), "{rows:?}");
        let Some(Row::Recipient { line, mailbox, merge_json }) = rows.last() else { panic!() };
        assert_eq!(format!("{line}: {mailbox} {merge_json}"), expected);
    }
    // White space without end before the header is not held either.
    let blank =
        show(many(b'\n', 3_000_000).chain(Cursor::new("email\na@b.example\n")), Format::Detect);
    assert_eq!(blank.unwrap(), ["3000002: a@b.example "]);
}

#[test]
fn a_quote_that_is_never_closed_costs_its_own_line_only() {
    let rows = "c@d.example,y\n".repeat(150_000);
    let list = format!("email,n\na@b.example,\"x\n{rows}");
    let shown = csv(list).unwrap();
    assert_eq!(shown.len(), 150_001);
    assert_eq!(shown[0], "2: REFUSED the quote of column 2 is never closed");
    assert_eq!(shown[1], r#"3: c@d.example {"n":"y"}"#);
    assert_eq!(shown[150_000], r#"150002: c@d.example {"n":"y"}"#);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::vec(prop::collection::vec("[a-z,;\"\n\r\t \u{e9}\\\\]{0,20}", 2), 1..10),
        crlf: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut list = format!("a,email,b{end}");
        for row in &rows {
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            list.push_str(&format!("{},x@y.example,{}{end}", quote(&row[0]), quote(&row[1])));
        }
        let mut recipients = Recipients::new(list.as_bytes(), Format::Csv);
        for row in &rows {
            let Some(Row::Recipient { merge_json, .. }) = recipients.next_row().unwrap() else {
                panic!("refused: {list:?}")
            };
            let merge: serde_json::Value = serde_json::from_str(&merge_json).unwrap();
            prop_assert_eq!(merge["a"].as_str(), Some(row[0].as_str()));
            prop_assert_eq!(merge["b"].as_str(), Some(row[1].as_str()));
        }
        prop_assert_eq!(recipients.next_row().unwrap(), None);
    }

    #[test]
    fn nothing_from_outside_panics(octets in prop::collection::vec(any::<u8>(), 0..300), header: bool) {
        let mut list = if header { b"email,n\n".to_vec() } else { Vec::new() };
        list.extend_from_slice(&octets);
        let _ = csv(&list);
    }

    #[test]
    fn near_lists_do_not_panic(text in "[a@b.,\"\n\r{}:e]{0,200}", header: bool) {
        let head = if header { "email,n\n" } else { "" };
        let _ = csv(format!("{head}{text}"));
    }
}

/// Prints rows per second: `cargo test --release -- --ignored --nocapture reading_speed`.
#[test]
#[ignore = "a measurement, not a check"]
fn reading_speed() {
    let rows = 1_000_000;
    let mut list = String::from("email,first,last,code\n");
    let mut json = String::new();
    for number in 0..rows {
        list.push_str(&format!(
            "user{number}@example{}.com,Johanna,Doe,X-{number}\n",
            number % 100
        ));
        json.push_str(&format!(
            "{{\"email\":\"user{number}@example{}.com\",\"first\":\"Johanna\",\"code\":{number}}}\n",
            number % 100
        ));
    }
    for (name, list) in [("csv", list), ("ndjson", json)] {
        let begun = std::time::Instant::now();
        let mut recipients = Recipients::new(list.as_bytes(), Format::Detect);
        while recipients.next_row().unwrap().is_some() {}
        assert_eq!(recipients.totals().accepted, rows);
        println!("{name}: {:.0} rows/s", rows as f64 / begun.elapsed().as_secs_f64());
    }
}
