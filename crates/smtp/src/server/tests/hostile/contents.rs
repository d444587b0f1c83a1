//! Contents that end where they should not, or are odd: DATA and BDAT.

use super::*;

/// Group 14: all fourteen forms of smuggling. Whatever a receiver elsewhere takes for the end of the
/// content, here the session ends or the octets are content.
#[test]
fn fourteen_forms_of_smuggling() {
    const BARE: &str = "550 5.6.11 ## bare CR or LF in a message";
    let evil = "MAIL FROM:<e@x.test>\r\nRCPT TO:<v@x.test>\r\nDATA\r\nevil\r\n.\r\n";
    let forms: [(u8, &str, &str); 11] = [
        (1, "\n.\n", BARE),
        (2, "\n.\r\n", BARE),
        (3, "\r\n.\n", BARE),
        (4, "\r.\r", BARE),
        (5, "\r.\r\n", BARE),
        (6, "\r\n.\r", BARE),
        (7, "\r\n\0.\r\n", "550 5.6.11"),
        (8, "\r\n.\0\r\n", "550 5.6.11"),
        (9, "\n\r.\n\r", BARE),
        (10, "\r\r\n.\r\r\n", BARE),
        (11, "\r\n \r\n .\r\n", " << content"),
    ];
    for (number, form, wanted) in forms {
        // As a client that pipelines sends it, whole and cut anywhere.
        let sent = format!("before{form}{evil}");
        for cut in 0..sent.len() {
            let octets = format!("{TO_DATA}{sent}");
            let cuts = [TO_DATA.len(), TO_DATA.len() + cut];
            let found = said_in_pieces(open(), EHLO, octets.as_bytes(), &cuts);
            let found = found.strip_prefix("250 2.1.0|250 2.1.5|354|").unwrap();
            let whole = match wanted {
                " << content" => {
                    let content = sent.strip_suffix(".\r\n").unwrap().escape_default();
                    format!("250 2.0.0 << {content}")
                }
                wanted => wanted.to_owned(),
            };
            assert_eq!(found, whole, "form {number} cut at {cut}");
        }
        // Inside a chunk nothing is an end: the message is refused whole, or is whole.
        let size = sent.len();
        let found = said(format!("{TO_CHUNK}BDAT {size} LAST\r\n{sent}"));
        let found = found.strip_prefix("250 2.1.0|250 2.1.5|").unwrap();
        let wanted = match wanted {
            " << content" => format!("250 2.0.0 << {}", sent.escape_default()),
            _ => "550 5.6.11".to_owned(),
        };
        assert_eq!(found, wanted, "form {number} in a chunk");
        // And in two chunks, cut anywhere.
        for cut in 1..size {
            let octets = [
                format!("{TO_CHUNK}BDAT {cut}\r\n{}", &sent[..cut]),
                format!("BDAT {} LAST\r\n{}", size - cut, &sent[cut..]),
            ];
            let found = said(octets.concat());
            let found = found.strip_prefix("250 2.1.0|250 2.1.5|250 2.0.0|").unwrap();
            assert_eq!(found, wanted, "form {number} in two chunks, {cut}");
        }
    }
    // 12: the true end, split over every subset of its segment boundaries.
    let whole = format!("{TO_DATA}text\r\n.\r\n");
    let end = whole.len();
    for subset in 0_u8..16 {
        let mut cuts = vec![TO_DATA.len()];
        cuts.extend((0..4).filter(|bit| subset & (1 << bit) != 0).map(|bit| end - 4 + bit));
        let found = said_in_pieces(open(), EHLO, whole.as_bytes(), &cuts);
        assert_eq!(found, "250 2.1.0|250 2.1.5|354|250 2.0.0 << text\\r\\n", "{cuts:?}");
    }
    // 13: the end and a command in one segment, without PIPELINING having been offered.
    let octets = format!("{TO_DATA}text\r\n.\r\nMAIL FROM:<e@x.test>\r\n");
    let mut cuts: Vec<usize> =
        memchr::memchr_iter(b'\n', TO_DATA.as_bytes()).map(|at| at + 1).collect();
    cuts.truncate(3);
    assert_eq!(
        said_in_pieces(open(), b"HELO c.test\r\n", octets.as_bytes(), &cuts),
        "250 2.1.0|250 2.1.5|354|250 2.0.0|554 5.5.0 << text\\r\\n ## the client spoke out of turn"
    );
    // 14: the true end inside a chunk.
    let inside = format!("text\r\n.\r\n{evil}");
    let octets = format!("{TO_CHUNK}BDAT {} LAST\r\n{inside}", inside.len());
    let wanted = format!("250 2.1.0|250 2.1.5|250 2.0.0 << {}", inside.escape_default());
    assert_eq!(said(octets), wanted);
}

/// Groups 15, 20 and 22: contents that are odd. What the header means is judged where the message is
/// queued; here only its size, its lines and its hops.
#[test]
fn odd_contents() {
    let lines = |line: &str, count: usize| format!("{line}\r\n").repeat(count);
    let table: [(String, &str); 14] = [
        ("x".repeat(998), "250 2.0.0"),
        ("x".repeat(999), "550 5.6.0"),
        ("x".repeat(10 << 20), "550 5.6.0"),
        (lines("..", 1_000), "250 2.0.0"),
        (lines("...", 1_000), "250 2.0.0"),
        ("\u{fc}".into(), "250 2.0.0"),
        (lines("Received: from a", 99), "250 2.0.0"),
        (lines("Received: from a", 100), "554 5.4.6"),
        (lines("RECEIVED: by we.test", 101), "554 5.4.6"),
        (lines("X-A: b", 100_000), "250 2.0.0"),
        (format!("Subject: a\r\n{}", lines(" folded", 10_000)), "250 2.0.0"),
        (lines(&format!("X-A: {}", "b".repeat(900)), 12_000), "250 2.0.0"),
        (lines("no header at all", 3), "250 2.0.0"),
        ("".into(), "250 2.0.0"),
    ];
    for (content, wanted) in table {
        let octets = format!("{TO_DATA}{content}\r\n.\r\nNOOP\r\n");
        let found = said_in_pieces(open(), EHLO, octets.as_bytes(), &[TO_DATA.len()]);
        let found = found.split(" << ").next().unwrap();
        let shown = &content[..content.len().min(20)];
        assert_eq!(found, format!("250 2.1.0|250 2.1.5|354|{wanted}|250 2.0.0"), "{shown}");
    }
    // Without an end it is not a message, whatever its length; far beyond the limit the session ends.
    let never = format!("{TO_DATA}{}", lines("x", 1_000));
    let found = said_in_pieces(open(), EHLO, never.as_bytes(), &[TO_DATA.len()]);
    assert_eq!(found, "250 2.1.0|250 2.1.5|354");
}

/// Group 16: sizes of chunks.
#[test]
fn sizes_of_chunks() {
    const UNREADABLE: &str = "501 5.5.4 ## BDAT without a size that can be read";
    const TOO_LARGE: &str = "552 5.3.4 ## a chunk too large";
    for (command, wanted) in [
        ("BDAT 0", "250 2.0.0"),
        ("BDAT 0 LAST", "250 2.0.0 << "),
        ("BDAT 00000000000000000000 LAST", "250 2.0.0 << "),
        ("BDAT 000000000000000000000 LAST", UNREADABLE),
        ("BDAT", UNREADABLE),
        ("BDAT LAST", UNREADABLE),
        ("BDAT -0", UNREADABLE),
        ("BDAT -1", UNREADABLE),
        ("BDAT +1", UNREADABLE),
        ("BDAT 1.0", UNREADABLE),
        ("BDAT 0x1", UNREADABLE),
        ("BDAT 1 2", UNREADABLE),
        ("BDAT 1 LAST LAST", UNREADABLE),
        ("BDAT 1LAST", UNREADABLE),
        ("BDAT \u{0661}", UNREADABLE),
        ("BDAT 2147483648", TOO_LARGE),
        ("BDAT 4294967296", TOO_LARGE),
        ("BDAT 9223372036854775807", TOO_LARGE),
        ("BDAT 9223372036854775808", TOO_LARGE),
        ("BDAT 18446744073709551615 LAST", TOO_LARGE),
        ("BDAT 18446744073709551616", UNREADABLE),
        ("BDAT 99999999999999999999", UNREADABLE),
        ("BDAT 5 LAST\r\nab", ""),
        ("BDAT 2 LAST\r\nabcd", "250 2.0.0|500 5.5.2 << ab"),
        ("BDAT 1 LAST\r\na\u{0}", "250 2.0.0|500 5.5.2 << a"),
    ] {
        let found = said(format!("{TO_CHUNK}{command}\r\n"));
        let found = found.strip_prefix("250 2.1.0|250 2.1.5").unwrap();
        assert_eq!(found.trim_start_matches('|'), wanted, "{command}");
    }
    check_table(
        &open(),
        &[
            (b"BDAT 4\r\nQUITNOOP\r\n", "503 5.5.1|250 2.0.0"),
            (b"MAIL FROM:<>\r\nBDAT 4 LAST\r\nQUITNOOP\r\n", "250 2.1.0|503 5.5.1|250 2.0.0"),
            (
                b"MAIL FROM:<>\r\nRCPT TO:<r@x.test>\r\nBDAT 1 LAST\r\naBDAT 1 LAST\r\nb",
                "250 2.1.0|250 2.1.5|250 2.0.0|503 5.5.1 << a",
            ),
            (
                b"MAIL FROM:<>\r\nRCPT TO:<r@x.test>\r\nBDAT 1\r\naDATA\r\n",
                "250 2.1.0|250 2.1.5|250 2.0.0|503 5.5.1",
            ),
            (
                b"MAIL FROM:<>\r\nRCPT TO:<r@x.test>\r\nBDAT 1\r\naRSET\r\nBDAT 1 LAST\r\nb",
                "250 2.1.0|250 2.1.5|250 2.0.0|250 2.0.0|503 5.5.1",
            ),
            (
                b"MAIL FROM:<>\r\nRCPT TO:<r@x.test>\r\nBDAT 1\r\naMAIL FROM:<>\r\n",
                "250 2.1.0|250 2.1.5|250 2.0.0|503 5.5.1",
            ),
        ],
    );
    // After DATA the word is content; the sums of many chunks are held to the limit without overflow.
    let octets = format!("{TO_DATA}BDAT 5 LAST\r\n.\r\n");
    assert_eq!(
        said_in_pieces(open(), EHLO, octets.as_bytes(), &[TO_DATA.len()]),
        "250 2.1.0|250 2.1.5|354|250 2.0.0 << BDAT 5 LAST\\r\\n"
    );
    let limits = ServerLimits { message_octets: 10, ..open().limits };
    let tight = ServerSettings { limits, ..open() };
    let octets =
        format!("{TO_CHUNK}BDAT 9\r\n123456789BDAT 1048576\r\n{}NOOP\r\n", "x".repeat(1 << 20));
    assert_eq!(
        said_in_pieces(tight, EHLO, octets.as_bytes(), &[]),
        "250 2.1.0|250 2.1.5|250 2.0.0|552 5.3.4|250 2.0.0"
    );
}
