//! What becomes of messages.

use std::sync::LazyLock;

use lab::load::{LoadPlan, LoadResult, run};
use mail::id::{DeliveryId, Priority};
use proptest::prelude::*;
use store::{RefusedWrite, StoreFault};

use super::super::message::{examine, reply_to, stored_content};
use super::*;
use crate::intake::{IntakeFault, NULL_SENDER};
use crate::prepare::{ContentSpec, SenderSettings, Template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_in_the_queue_before_its_250() {
    let site = Site::start("");
    let mut client = site.connect().await;
    assert_eq!(
        client.say("EHLO client.example").await,
        "250-submit.example\n250-PIPELINING\n250-SIZE 100000\n250-8BITMIME\n250-SMTPUTF8\n\
         250-CHUNKING\n250 ENHANCEDSTATUSCODES"
    );
    let answer = client.deliver("From: a@shop.example\r\nX-Mailweir-Else: stays\r\n").await;
    let queued = site.queued().await;
    assert_eq!(answer, format!("250 2.0.0 accepted as {}", queued[0].id));
    assert_eq!((&*queued[0].address, &*queued[0].sender), ("b@one.example", "a@shop.example"));
    let content = site.content(&queued[0]).await;
    let (trace, rest) = content.split_once("From:").unwrap();
    assert_eq!(rest, " a@shop.example\r\nX-Mailweir-Else: stays\r\nSubject: hello\r\n\r\ntext\r\n");
    let front = "Received: from client.example ([127.0.0.1])\r\n\tby submit.example with ESMTP id ";
    assert!(trace.starts_with(front) && trace.ends_with(" +0000\r\n"), "{trace}");
    let delivery = site.intake.delivery(queued[0].delivery).await.unwrap().unwrap();
    let options = delivery.delivery.options;
    assert_eq!((&*options.tenant, &*options.affinity), ("smtp", "default"));
    assert_eq!(options.priority, Priority::High);
    assert_eq!(client.say("QUIT").await, "221 2.0.0 bye");
    assert_eq!(client.reply().await, "closed");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_come_in_order_when_all_is_sent_at_once() {
    let site = Site::start("");
    let mut client = site.greeted().await;
    // The null sender, a repeated recipient, an invalid one, a chunked message in two parts, then
    // another behind it: all before any answer.
    client
        .send(
            "MAIL FROM:<>\r\nRCPT TO:<b@one.example>\r\nRCPT TO:<b@one.example>\r\n\
             RCPT TO:<c@two.example>\r\nRCPT TO:<c@two..example>\r\nRCPT TO:<postmaster>\r\n\
             BDAT 12\r\nSubject: x\r\nBDAT 7 LAST\r\n\r\n.\r\nyz\
             MAIL FROM:<a@shop.example>\r\nRCPT TO:<d@one.example>\r\n\
             BDAT 6 LAST\r\n\r\ntextQUIT\r\n",
        )
        .await;
    let answers = client.rest().await;
    let queued = site.queued().await;
    let ids: Vec<String> = queued.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(
        answers,
        format!(
            "250 2.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n250 2.1.5 recipient ok\r\n\
             250 2.1.5 recipient ok\r\n501 5.1.3 this is not an address\r\n\
             553 5.1.3 postmaster needs a domain here\r\n250 2.0.0 chunk taken\r\n\
             250 2.0.0 accepted as {}-{}\r\n250 2.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n\
             250 2.0.0 accepted as {}\r\n221 2.0.0 bye\r\n",
            ids[0], ids[1], ids[2]
        )
    );
    assert_eq!(ids.len(), 3, "the repeated recipient gets one copy");
    assert_eq!(&*queued[0].sender, NULL_SENDER);
    assert!(site.content(&queued[1]).await.ends_with("Subject: x\r\n\r\n.\r\nyz"));
    let counts = &site.counts;
    assert_eq!(counts.messages_accepted.load(Ordering::Relaxed), 2);
    assert_eq!(counts.recipients_accepted.load(Ordering::Relaxed), 3);
    assert_eq!(counts.replies_permanent.load(Ordering::Relaxed), 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_obeyed_and_removed() {
    let site = Site::start("require_auth = \"beyond-loopback\"\n");
    let mut client = site.greeted().await;
    let header = "X-Mailweir-Priority: low\r\nx-mailweir-affinity: second\r\n\
                  X-MAILWEIR-IDEMPOTENCY-KEY: stream/second/Low\r\n";
    let first = client.deliver(header).await;
    assert_eq!(&first[..3], "250", "{first}");
    assert_eq!(client.deliver(header).await, first, "the same key, the same message");
    let queued = site.queued().await;
    assert_eq!(queued.len(), 1);
    assert!(!site.content(&queued[0]).await.to_lowercase().contains("mailweir"));
    let delivery = site.intake.delivery(queued[0].delivery).await.unwrap().unwrap();
    assert_eq!(delivery.delivery.options.priority, Priority::Low);
    assert_eq!(delivery.delivery.options.affinity, "second");
    assert_eq!(
        client.deliver(&format!("{header}X-Other: 1\r\n")).await,
        "554 5.5.4 the idempotency key was used for a different request; use a new key"
    );
    for (header, wanted) in [
        ("X-Mailweir-Affinity: third\r\n", "affinity \"third\" does not exist; there are: "),
        ("X-Mailweir-Priority: urgent\r\n", "x-mailweir-priority must be high, normal or low"),
        ("X-Mailweir-Priority: low\r\nX-Mailweir-Priority: low\r\n", "given twice"),
        ("X-Mailweir-Idempotency-Key: a\r\n b\r\n", "one word of visible ASCII"),
        ("X-Mailweir-Idempotency-Key:\r\n", "one word of visible ASCII"),
        (&format!("X-Mailweir-Idempotency-Key: {}\r\n", "k".repeat(256)), "at most 255"),
        ("no field\r\n", "the header has a line that is no field"),
        (" folded: first\r\n", "the header begins with a continuation"),
        ("From: a@b.example\r\nfrom: c@d.example\r\n", "more than one From"),
    ] {
        let answer = client.deliver(header).await;
        assert!(answer.starts_with("554 5.6.0 ") && answer.contains(wanted), "{answer}");
    }
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggling_never_makes_two_messages() {
    let site = Site::start("");
    let evil = "MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nSubject: evil\r\n\
                \r\nevil\r\n.\r\nQUIT\r\n";
    for form in [
        "\n.\n",
        "\r.\r",
        "\r\n.\n",
        "\n.\r\n",
        "\r\n.\r",
        "\r.\r\n",
        "\n.\r",
        "\r.\n",
        "\r\n\r.\r\n",
        "\n\r\n.\r",
        "\r\r\n.\r\n",
        "\r\n.\r\r\n",
        "\n\n.\n\n",
    ] {
        let mut client = site.greeted().await;
        client.send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n").await;
        for _ in 0..3 {
            client.reply().await;
        }
        client.send(format!("Subject: a\r\n\r\nbody{form}{evil}")).await;
        let answers = client.rest().await;
        assert_eq!(answers, "550 5.6.11 the message has a bare CR or LF\r\n", "{form:?}");
        assert_eq!(site.queued().await.len(), 0, "{form:?}");
    }
    // With NUL, and with dots that are none, there is one end: the last.
    for (form, wanted) in [("\r\n\0.\r\n", 550), ("\r\n.\0\r\n", 550), ("\r\n..\r\n", 250)] {
        let mut client = site.greeted().await;
        client.send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n").await;
        for _ in 0..3 {
            client.reply().await;
        }
        client.send(format!("Subject: a\r\n\r\nbody{form}{evil}")).await;
        let answers = client.rest().await;
        assert!(answers.starts_with(&wanted.to_string()), "{form:?} {answers}");
    }
    assert_eq!(site.queued().await.len(), 1);
    assert_eq!(&*site.queued().await[0].sender, "a@shop.example");
    site.stop().await;
}

#[test]
fn faults_of_intake_have_their_codes() {
    let full = StoreFault::DiskFull { path: "/data/queue".into(), detail: "13".into() };
    let sick = StoreFault::Corrupt { path: "/data/queue".into(), detail: "11".into() };
    let large = RefusedWrite::TooLarge { what: "the content (octets)", size: 2, limit: 1 };
    for (fault, wanted) in [
        (full.into(), "452 4.3.1 no room for more mail now, try again later"),
        (sick.into(), "451 4.3.0 the queue takes nothing now, try again later"),
        (IntakeFault::Refused(large), "552 5.3.4 the content (octets) is 2, at most 1 is allowed"),
        (
            IntakeFault::Refused(RefusedWrite::EmptyAddress { line: 1 }),
            "553 5.1.3 line 1: the address or its domain is empty",
        ),
        (
            IntakeFault::Quarantined("a@b.example: quarantined: User unknown".into()),
            "550 5.7.1 nothing is sent to this recipient, a@b.example: quarantined: User unknown",
        ),
        (
            IntakeFault::Invalid("a\r\n250 smuggled \u{fc}\u{202e}".into()),
            "554 5.6.0 a  250 smuggled ??",
        ),
        (
            IntakeFault::Refused(RefusedWrite::BadOptions("x")),
            "451 4.3.0 the queue takes nothing now, try again later",
        ),
    ] {
        assert_eq!(String::from_utf8_lossy(reply_to(&fault).raw()), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_is_not_queued() {
    let site = Site::start("");
    let begin = "MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\n";
    for part in
        ["DATA\r\nSubject: a\r\n\r\ntext\r\n.", "BDAT 10 LAST\r\nSubject:", "BDAT 2\r\n\r\n"]
    {
        let mut client = site.greeted().await;
        client.send(format!("{begin}{part}")).await;
        client.stream.shutdown().await.unwrap();
        let answers = client.rest().await;
        assert!(!answers.contains("accepted"), "{answers}");
    }
    assert_eq!(site.queued().await.len(), 0);
    // A client that ends its direction behind the dot still hears the answer.
    let mut client = site.greeted().await;
    client.send(format!("{begin}BDAT 2 LAST\r\n\r\n")).await;
    client.stream.shutdown().await.unwrap();
    assert!(client.rest().await.contains("250 2.0.0 accepted as m"));
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

/// A load over some connections; what was accepted is in the queue.
async fn load(connections: usize, messages: u64) -> LoadResult {
    let site = Site::start("");
    let mut plan = LoadPlan::new(site.address, vec!["one.example".into(), "two.example".into()]);
    (plan.connections, plan.messages) = (connections, messages);
    let result = tokio::task::spawn_blocking(move || run(plan)).await.unwrap().unwrap();
    assert_eq!((result.messages, result.refused), (messages, 0));
    assert_eq!(site.counts.messages_accepted.load(Ordering::Relaxed), messages);
    let all = site.intake.read(|reads| reads.deliveries(DeliveryId(0), 10)).await.unwrap();
    assert_eq!(all.iter().map(|record| record.counters.accepted).sum::<u64>(), messages);
    site.stop().await;
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_over_many_connections_is_queued_whole() {
    load(20, 1_000).await;
}

/// `cargo test --release -p mailweir-node --lib load_figure -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be run in release"]
async fn load_figure() {
    for connections in [1, 20, 100] {
        let result = load(connections, 20_000 * (connections as u64).min(5)).await;
        eprintln!("{connections} connections: {result:?}");
    }
}

/// Pieces from which headers are put together.
const PIECES: [&str; 14] = [
    "From: a@b.example\r\n",
    "From",
    ":",
    " ",
    "\t",
    "\r\n",
    "x",
    "Subject: y\r\n",
    "X-Mailweir-",
    "Priority: low\r\n",
    "\u{fc}",
    "X-Mailweir-Affinity: z\r\n",
    "\r\n\r\n",
    "Bcc: c@d.example\r\n",
];

pub(super) static SETTINGS: LazyLock<Arc<SenderSettings>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(crate::sender::settings(&config(folder.path(), "")).unwrap())
});

proptest! {
    /// Whatever is accepted here can be prepared later.
    #[test]
    fn what_is_accepted_can_be_prepared(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12)
    ) {
        let content = pieces.concat().into_bytes();
        if let Ok(examined) = examine(&content) {
            let stored = stored_content(&content, "Received: x\r\n", &examined.removed);
            let spec = ContentSpec::single_message(stored);
            let compiled = Template::compile(&spec, SETTINGS.clone());
            prop_assert!(compiled.is_ok(), "{:?}", compiled.err());
            let removed: usize = examined.removed.iter().map(|part| part.len()).sum();
            let options = examined.options;
            let given = options.priority.is_some() || options.affinity.is_some();
            prop_assert_eq!(removed > 0, given);
        }
    }
}
