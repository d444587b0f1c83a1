//! Mail that contradicts itself, encloses what it should not, or is made to cost time.

use std::time::{Duration, Instant};

use super::{found, read};
use crate::incoming::{BODY_MAXIMUM, HEADER_TEXT_MAXIMUM, RECIPIENTS_MAXIMUM};

/// A delivery report with these words for people, this machine's part, and these parts behind it.
fn report(words: &str, machine: &str, behind: &str) -> String {
    format!(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: news@sender.example\nSubject: Undelivered Mail\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"r\"\n\n--r\nContent-Type: text/plain\n\n\
         {words}\n--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n{machine}\n{behind}--r--\n"
    )
}

const ANN: &str = "Final-Recipient: rfc822; ann@shop.example\nAction: failed\nStatus: 5.1.1\n\
                   Diagnostic-Code: smtp; 550 5.1.1 unknown\n";

#[test]
fn believes_the_machine_where_the_parts_contradict_each_other() {
    let words = "<bob@shop.example>: host mx said: 552 5.2.2 mailbox full";
    assert_eq!(
        found(&read(report(words, ANN, "").as_bytes())),
        ["bounce ann@shop.example 5.1.1 550"]
    );
    // A header that names somebody else changes nothing either.
    let mail = format!("X-Failed-Recipients: cleo@shop.example\n{}", report(words, ANN, ""));
    assert_eq!(found(&read(mail.as_bytes())), ["bounce ann@shop.example 5.1.1 550"]);
    // What was delivered is no bounce, whatever the words say.
    let machine = "Final-Recipient: rfc822; ann@shop.example\nAction: delivered\nStatus: 2.0.0\n";
    assert_eq!(
        found(&read(report(words, machine, "").as_bytes())),
        ["delivered ann@shop.example 2.0.0 -"]
    );
    // Late is not failed, though the code is a final one.
    let machine = "Final-Recipient: rfc822; ann@shop.example\nAction: delayed\nStatus: 5.1.1\n";
    assert!(found(&read(report(words, machine, "").as_bytes()))[0].starts_with("delayed ann@"));
    // The same recipient twice, once each way.
    let machine = format!(
        "{ANN}\nFinal-Recipient: rfc822; bob@shop.example\nAction: relayed\nStatus: 2.0.0\n"
    );
    assert_eq!(
        found(&read(report(words, &machine, "").as_bytes())),
        ["bounce ann@shop.example 5.1.1 550", "delivered bob@shop.example 2.0.0 -"]
    );
}

#[test]
fn reads_a_complaint_within_a_delivery_report_as_a_bounce() {
    let feedback = "--r\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nVersion: 1\n\
                    Original-Rcpt-To: bob@shop.example\n\n";
    let complaint = format!(
        "--r\nContent-Type: message/rfc822\n\nFrom: loop@provider.example\nSubject: complaint\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"f\"\n\n{}--f--\n",
        feedback.replace("--r", "--f")
    );
    for behind in [feedback, &complaint] {
        assert_eq!(
            found(&read(report("It failed.", ANN, behind).as_bytes())),
            ["bounce ann@shop.example 5.1.1 550"]
        );
    }
}

#[test]
fn reads_a_bounce_of_a_bounce_as_the_outer_one() {
    let inner = report("<bob@shop.example>: 550 5.1.1 unknown", &ANN.replace("ann", "bob"), "");
    let behind = format!(
        "--r\nContent-Type: message/rfc822\n\n{}",
        inner.replace("--r", "--i").replace("\"r\"", "\"i\"")
    );
    assert_eq!(
        found(&read(report("It failed.", ANN, &behind).as_bytes())),
        ["bounce ann@shop.example 5.1.1 550"]
    );
}

#[test]
fn takes_bounded_time_and_memory_for_anything() {
    let head = "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: news@sender.example\nSubject: failure notice\n";
    let most = 1 << 14;
    let fill = |unit: &str| unit.repeat(most / unit.len());
    let bodies = [
        "@",
        "a@b ",
        "<a@b.example>:\n",
        "<a@b.example>\n",
        "a@b.example,",
        "\"@",
        "<",
        "<a",
        "&#",
        "&amp;",
        "=?",
        "=",
        "=?utf-8?q?",
        ">",
        "> ",
        "--b\n",
        "--b--\n",
        "--b\nContent-Type: multipart/mixed; boundary=b\n\n",
        "--------\n",
        "550 ",
        "550 5.1.1\n",
        "5.1.1",
        "\0",
        "\x1b$B",
        ">>> RCPT TO:<a@b.example>\n<<< 550 no\n",
        "Final-Recipient: rfc822;a@b\n",
        "Final-Recipient: rfc822;a@b\n\n",
        "Diagnostic-Code: smtp;\n",
        "Received: x\n",
        ":",
        "a:\n",
        "\n",
        " \n",
        "\r",
        "(",
        "Begin forwarded message:\n> From: a@b.example\n",
        "----- Original message -----\n",
        "While talking to a:\n",
        "X-A: b\n ",
        "<!--",
        "<pre>",
        "<style>",
        "{\"a\":",
        "[",
        "\u{3000}",
        "語",
    ];
    let types = [
        "text/plain; charset=utf-8",
        "text/plain; charset=utf-16",
        "text/html",
        "multipart/report; boundary=b",
        "message/delivery-status",
        "message/rfc822",
    ];
    let start = Instant::now();
    for body in bodies {
        for content in types {
            let mail = format!("{head}Content-Type: {content}\n\n{}", fill(body));
            let before = start.elapsed();
            let mail = read(mail.as_bytes());
            let took = start.elapsed() - before;
            assert!(took < Duration::from_secs(5), "{body:?} as {content} took {took:?}");
            assert!(mail.reports.len() <= RECIPIENTS_MAXIMUM && mail.text.len() <= BODY_MAXIMUM);
            assert!(mail.header.len() <= HEADER_TEXT_MAXIMUM);
            let kept: usize = mail.reports.iter().map(|one| one.diagnostic.len()).sum();
            assert!(kept < 16 << 20, "{body:?} as {content} keeps {kept} octets");
        }
        // The same in the header.
        let mail = format!("{head}X: {}\n\nbody", fill(body));
        let before = start.elapsed();
        let _ = read(mail.as_bytes());
        assert!(start.elapsed() - before < Duration::from_secs(5), "{body:?} in the header");
    }
}
