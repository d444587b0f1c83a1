//! What comes back: bounces, complaints and answers of the lab and of the test itself, and what follows for the
//! addresses.

use std::sync::atomic::Ordering;

use engine::quarantine::{Author, Channel, Deed, Qualification, State, TextFilter, TextStatus};
use lab::{ReturnsConfig, Span};
use mail::address::Domain;
use mail::failure::{FailureType, Reason};
use mail::id::Priority;
use mail::incoming::MailKind;
use mail::verp::{Purpose, ReturnPath, VerpKey};
use mailweir_node::inmail::{Folder, Inmail, InmailBounds, Origin};
use mailweir_node::intake::{IntakeFault, SingleMessage, StreamName};
use mailweir_node::nondeliverables::{AddressExplained, Addressee, Erasure, NonDeliverables};
use mailweir_node::retention::forget_ended_before;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

const KEY: &[u8] = b"the key of the return path";

/// A node that takes what comes back.
struct Taking {
    node: Node,
    all: NonDeliverables,
    folder: Folder,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// A lab with one provider, whose returns come to the node.
fn world(block: u8, mood: Mood) -> World {
    let to = std::net::SocketAddr::from(([127, 10, block, 99], 2526));
    let after = Span::from_millis(10);
    let config = LabConfig {
        providers: vec![provider(block, 1, "one", mood)],
        returns: Some(ReturnsConfig { to, after, complaints_to: None }),
        ..LabConfig::default()
    };
    World::of(block, config).more(&format!(
        "[return_path]\ndomain = \"bounce.sender.example\"\nkeys = [{{ value = \"{}\" }}]\n\
         [inmail]\nlisten = [\"{to}\"]\n",
        String::from_utf8_lossy(KEY)
    ))
}

fn start(world: &World) -> Taking {
    let config = world.config();
    let bound = Inmail::bind(&config, InmailBounds::default()).unwrap();
    let node = Node::start(config).unwrap_or_else(|fault| panic!("{fault}"));
    let inmail = bound.open(&node.intake()).unwrap();
    let (all, folder, shutdown) =
        (node.nondeliverables(), inmail.folder(), CancellationToken::new());
    let task = tokio::spawn(inmail.run(all.returned_mail(), shutdown.clone()));
    Taking { node, all, folder, shutdown, task }
}

impl Taking {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.node.shutdown().await;
    }

    async fn address(&self, address: &str) -> AddressExplained {
        self.all.explain(&Mailbox::parse(address).unwrap()).await.unwrap()
    }

    /// Waits until an address is in this state.
    async fn comes_to(&self, address: &str, state: State) -> AddressExplained {
        eventually(&format!("{address}: {state}"), async || {
            let found = self.address(address).await;
            (found.explanation.condition.state == state).then_some(found)
        })
        .await
    }

    /// How many failures of this reason came back by mail.
    fn came_back(&self, wanted: Reason) -> u64 {
        let failures = self.all.counts().failures();
        failures
            .into_iter()
            .filter(|(reason, _, channel, _)| {
                *reason == wanted && *channel == Channel::Asynchronous
            })
            .map(|(.., count)| count)
            .sum()
    }

    fn kind(&self, wanted: MailKind) -> u64 {
        let kinds = self.all.counts().kinds();
        kinds.into_iter().find(|(kind, _)| *kind == wanted).unwrap().1
    }

    /// Brings a mail as the listener would.
    async fn bring(&self, to: &str, text: String) {
        let origin = Origin { recipients: vec![to.into()], ..Origin::default() };
        self.folder.keep(origin, text.into_bytes()).await.unwrap();
    }
}

/// How the return paths of the node are made.
fn return_path(key: &[u8]) -> ReturnPath {
    let domain = Domain::parse("bounce.sender.example").unwrap();
    ReturnPath::new(domain, vec![VerpKey::new(key).unwrap()]).unwrap()
}

/// A report of RFC 3464.
fn report(recipient: &str, words: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.one.example\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\n\
         It could not be delivered.\r\n\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.one.example\r\n\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: failed\r\n\
         Status: 5.0.0\r\nDiagnostic-Code: smtp; {words}\r\n\r\n--x--\r\n"
    )
}

fn author() -> Author {
    Author { who: "test".into(), why: "to see what happens".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_decides_about_the_next_delivery() {
    let world = world(60, Mood::default());
    let taking = start(&world);
    let intake = taking.node.intake();
    let named = |name: &str, count: u64| {
        (0..count).map(|number| format!("{name}{number}@one.example")).collect::<Vec<_>>()
    };
    let ghosts = named("ghost", 20);
    let addresses =
        [ghosts.clone(), named("Angry", 3), named("away", 3), named("person", 3)].concat();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let id = delivery(&intake, addressed(&addresses)).await;
    assert_eq!(settled(&intake, id).await.sent, 29);
    let all_failures =
        || -> u64 { Reason::ALL.map(|reason| taking.came_back(reason)).iter().sum() };
    eventually("everything comes back", async || {
        (all_failures() == 23 && taking.kind(MailKind::AutoReply) == 3).then_some(())
    })
    .await;
    let unknown = taking.came_back(Reason::UserUnknown);
    let full = taking.came_back(Reason::MailboxFull);
    let refused = taking.came_back(Reason::Refused);
    assert_eq!((taking.came_back(Reason::Complaint), unknown + full + refused), (3, 20));
    assert!(unknown > 0 && full > 0, "{:?}", taking.all.counts().failures());
    for number in 0..3 {
        let angry = taking.comes_to(&format!("angry{number}@one.example"), State::Denylisted).await;
        assert_eq!(angry.explanation.condition.reason, Some(Reason::Complaint));
        for name in ["away", "person"] {
            let fine = taking.address(&format!("{name}{number}@one.example")).await;
            assert!(fine.record.is_none(), "{fine:?}");
        }
    }
    let mut quarantined = 0;
    for ghost in &ghosts {
        let found = taking.address(ghost).await;
        let condition = found.explanation.condition;
        match condition.reason {
            Some(Reason::UserUnknown) => {
                assert_eq!(condition.state, State::Quarantined, "{found:?}");
                quarantined += 1;
            }
            _ => assert!(!condition.state.is_refused(), "{found:?}"),
        }
        assert_eq!(found.history.entries.len(), 1, "{found:?}");
        assert_eq!(found.history.entries[0].evidence.delivery, Some(id));
    }
    assert_eq!(quarantined, unknown);
    let counts = taking.all.counts();
    assert_eq!(counts.forged.load(Ordering::Relaxed), 0);
    assert_eq!(counts.foreign.load(Ordering::Relaxed), 0);
    assert_eq!(counts.quarantined.load(Ordering::Relaxed), unknown);

    // Before and after a restart the same are refused.
    let refused_now = async |taking: &Taking| {
        let intake = taking.node.intake();
        let (id, _) = draft(&intake, intake.default_options(), addressed(&addresses)).await;
        let counters = intake.counters(id).await.unwrap();
        let rows = intake.read(move |reads| reads.refusals(id, 0, 100)).await.unwrap();
        assert_eq!(counters.refused, rows.len() as u64);
        rows
    };
    let rows = refused_now(&taking).await;
    assert_eq!(rows.len() as u64, unknown + 3, "{rows:?}");
    let denied = rows.iter().filter(|row| row.reason.starts_with("denylisted: Complaint since "));
    assert_eq!(denied.count(), 3, "{rows:?}");
    let unknown_rows =
        rows.iter().filter(|row| row.reason.starts_with("quarantined: User unknown since 20"));
    assert_eq!(unknown_rows.count() as u64, unknown, "{rows:?}");
    assert_eq!(rows[0].address.as_ref(), addresses[rows[0].line as usize - 1]);
    taking.stop().await;
    let taking = start(&world);
    let again = refused_now(&taking).await;
    assert_eq!(again, rows);
    let message = SingleMessage {
        sender: String::new(),
        recipients: vec![Mailbox::parse("angry1@ONE.example").unwrap()],
        content: b"From: a@sender.example\r\n\r\nhello\r\n".to_vec(),
    };
    let stream =
        StreamName { affinity: "default".into(), priority: Priority::High, tenant: "test".into() };
    let fault = taking.node.intake().submit(&stream, message, None).await.unwrap_err();
    assert!(matches!(fault, IntakeFault::Quarantined(_)), "{fault}");
    assert!(fault.to_string().contains("denylisted: Complaint since 20"), "{fault}");
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_counts_once_and_a_forged_one_never() {
    let world = world(61, Mood::default());
    let taking = start(&world);
    let intake = taking.node.intake();
    let options = intake.default_options();
    let recipients = addressed(&["a@one.example", "b@one.example"]);
    let (id, first) = delivery_with(&intake, options, recipients).await;
    assert_eq!(settled(&intake, id).await.sent, 2);
    let counts = taking.all.counts();
    let value = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let text = report("a@one.example", "550 5.1.1 User unknown");

    let forged = return_path(b"some other secret key").encode(first, id);
    taking.bring(&forged, text.clone()).await;
    // It names a real address, but proves nothing.
    taking.bring("complaints@bounce.sender.example", format!("X-A: b\r\n{text}")).await;
    eventually("forged", async || (value(&counts.forged) == 2).then_some(())).await;
    let other = report("nobody@elsewhere.example", "550 5.1.1 User unknown");
    taking.bring("complaints@bounce.sender.example", other).await;
    eventually("foreign", async || (value(&counts.foreign) == 1).then_some(())).await;
    let untouched = taking.address("a@one.example").await;
    assert!(untouched.record.is_none(), "{untouched:?}");

    let genuine = return_path(KEY).encode(first, id);
    taking.bring(&genuine.to_uppercase(), text.clone()).await;
    taking.comes_to("a@one.example", State::Quarantined).await;
    // The same by another way, and with the same octets again.
    taking.bring(&genuine, format!("Received: from relay.example\r\n{text}")).await;
    taking.bring(&genuine, format!("Received: from relay2.example\r\n{text}")).await;
    eventually("repeated", async || (value(&counts.repeated) == 2).then_some(())).await;
    assert_eq!(taking.came_back(Reason::UserUnknown), 1);
    let found = taking.address("a@one.example").await;
    assert_eq!(found.history.entries.len(), 1);
    // Who holds the return path of one message can say nothing about another address.
    let second = MessageId(first.0 + 1);
    let of_second = return_path(KEY).encode(second, id);
    let about_third = report("c@one.example", "550 5.1.1 User unknown");
    taking.bring(&of_second, about_third).await;
    taking.comes_to("b@one.example", State::Quarantined).await;
    assert!(taking.address("c@one.example").await.record.is_none());
    let today = u32::try_from(intake.now().as_secs() / 86_400).unwrap();
    let strays = taking.all.strays(today).await.unwrap();
    let of = |wanted: &str| -> u64 {
        strays.iter().filter(|(_, kind, _)| kind.word() == wanted).map(|(.., count)| count).sum()
    };
    assert_eq!((of("forged"), of("foreign"), of("repeated")), (2, 1, 2), "{strays:?}");
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_member_of_a_list_fails_is_not_the_fault_of_the_list() {
    let world = world(73, Mood { unknown_users: 0.0, ..Mood::default() });
    let taking = start(&world);
    let intake = taking.node.intake();
    let names = ["expanded", "delayed", "both", "nowhere"];
    let addresses = names.map(|name| format!("{name}@one.example"));
    let recipients = addressed(&addresses.each_ref().map(String::as_str));
    let (id, first) = delivery_with(&intake, intake.default_options(), recipients).await;
    assert_eq!(settled(&intake, id).await.sent, 4);
    let member = report("member@inside.example", "550 5.1.1 User unknown");
    let field = "Final-Recipient: rfc822; member@inside.example\r\n";
    let paths = return_path(KEY);
    let bounce = |number: u64| paths.encode(MessageId(first.0 + number), id);
    let own = |name: &str, action: &str, status: &str| {
        format!(
            "Final-Recipient: rfc822; {name}@One.example\r\nAction: {action}\r\nStatus: {status}\r\n\r\n"
        )
    };
    // Ours comes first, or last; it has failed itself; it is named nowhere, as it was forwarded.
    let before = |own: String| member.replace(field, &format!("{own}{field}"));
    let after = |own: String| member.replace("\r\n--x--", &format!("\r\n{own}--x--"));
    taking.bring(&bounce(0), before(own("expanded", "expanded", "2.0.0"))).await;
    taking.bring(&bounce(1), after(own("delayed", "delayed", "4.4.1"))).await;
    let both = own("both", "expanded", "2.0.0") + &own("both", "failed", "5.1.1");
    taking.bring(&bounce(2), before(both)).await;
    taking.bring(&bounce(3), member.clone()).await;
    taking.comes_to("both@one.example", State::Quarantined).await;
    taking.comes_to("nowhere@one.example", State::Quarantined).await;
    eventually("all are read", async || (taking.kind(MailKind::Bounce) == 4).then_some(())).await;
    taking.stop().await;
    let taking = start(&world);
    for name in ["expanded@one.example", "delayed@one.example"] {
        let found = taking.address(name).await;
        assert!(found.record.is_none(), "{found:?}");
    }
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_text_means_is_said_later_and_taken_back() {
    let world = world(62, Mood::default());
    let taking = start(&world);
    let intake = taking.node.intake();
    let options = intake.default_options();
    let recipients = addressed(&["a@one.example", "b@one.example"]);
    let (id, first) = delivery_with(&intake, options, recipients).await;
    assert_eq!(settled(&intake, id).await.sent, 2);
    let text = report("a@one.example", "599 the frobnicator does not glorp");
    taking.bring(&return_path(KEY).encode(first, id), text).await;
    let filter = TextFilter { status: Some(TextStatus::ToQualify), by_person: false };
    let text = eventually("a text to qualify", async || {
        taking.all.texts(filter, None, 10).await.unwrap().into_iter().next()
    })
    .await;
    assert!(text.first_raw.contains("frobnicator"), "{text:?}");
    assert_eq!(text.occurrences, 1);
    let found = taking.address("a@one.example").await;
    assert!(!found.explanation.condition.state.is_refused(), "{found:?}");
    let said = Qualification {
        reason: Reason::UserUnknown,
        failure_type: FailureType::Hard,
        status: TextStatus::Keep,
    };
    let preview = taking.all.preview_qualification(text.key, Some(said)).await.unwrap();
    assert_eq!(preview.states.len(), 1, "{preview:?}");
    assert_eq!(taking.address("a@one.example").await.explanation.condition.state, State::Valid);
    taking.all.qualify(text.key, Some(said), author()).await.unwrap();
    taking.comes_to("a@one.example", State::Quarantined).await;
    eventually("refused", async || intake.refused(&Mailbox::parse("A@one.example").unwrap())).await;
    // What comes after it was said is taken back with the rest.
    let second = return_path(KEY).encode(MessageId(first.0 + 1), id);
    let words = "599 the frobnicator does not glorp";
    taking.bring(&second, report("b@one.example", words)).await;
    taking.comes_to("b@one.example", State::Quarantined).await;
    taking.stop().await;
    let taking = start(&world);
    assert!(taking.node.intake().refused(&Mailbox::parse("a@one.example").unwrap()).is_some());
    taking.all.qualify(text.key, None, author()).await.unwrap();
    taking.comes_to("a@one.example", State::Valid).await;
    taking.comes_to("b@one.example", State::Valid).await;
    let text = taking.all.text(text.key).await.unwrap().unwrap();
    assert_eq!((text.by_rule.status, text.occurrences), (TextStatus::ToQualify, 2), "{text:?}");
    eventually("not refused", async || {
        let refused = taking.node.intake().refused(&Mailbox::parse("a@one.example").unwrap());
        refused.is_none().then_some(())
    })
    .await;
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_to_who_wants_no_more_although_it_is_queued() {
    let world = world(63, Mood { unknown_users: 0.0, ..Mood::default() });
    let taking = start(&world);
    let intake = taking.node.intake();
    let addresses =
        ["link@one.example", "mail@one.example", "told@one.example", "stays@one.example"];
    let (id, first) = draft(&intake, intake.default_options(), addressed(&addresses)).await;
    let paths = return_path(KEY);
    let names = |number: u64| paths.names(MessageId(first.0 + number), id);
    let token = names(0).name(Purpose::Unsubscribe);
    assert!(taking.all.read_unsubscribe(&token.replace('u', "b")).await.is_err());
    assert!(taking.all.unsubscribe(&names(0).name(Purpose::Bounce)).await.is_err());
    let out = taking.all.unsubscribe(&token).await.unwrap();
    assert_eq!(out.addressee, Addressee::Known("link@one.example".into()));
    taking.all.unsubscribe(&token).await.unwrap();
    let to = paths.address(&names(1), Purpose::Unsubscribe);
    taking.bring(&to, "From: me@one.example\r\nSubject: unsubscribe\r\n\r\n".into()).await;
    taking.comes_to("mail@one.example", State::Denylisted).await;
    let told = Mailbox::parse("told@one.example").unwrap();
    taking.all.act(vec![(told, Deed::Deny)], author()).await.unwrap();
    intake.start(id).await.unwrap();
    let counters = settled(&intake, id).await;
    assert_eq!((counters.sent, counters.failed), (1, 3), "{counters:?}");
    let ended = explained(&taking.node, first).await;
    assert!(ended.last_reply.contains("denylisted"), "{ended:?}");
    assert_eq!(taking.all.counts().unsubscribed.load(Ordering::Relaxed), 2);
    let link = Mailbox::parse("link@one.example").unwrap();
    taking.all.act(vec![(link, Deed::Release)], author()).await.unwrap();
    let id = delivery(&intake, addressed(&["link@one.example"])).await;
    assert_eq!(settled(&intake, id).await.sent, 1);
    taking.stop().await;
    let report = world.lab.stop();
    assert_eq!(report.totals.accepted, 2, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_in_the_session_counts_the_same() {
    let world = world(64, Mood { unknown_users: 1.0, ..Mood::default() });
    let taking = start(&world);
    let intake = taking.node.intake();
    let id = delivery(&intake, addressed(&["x@one.example", "y@nowhere.test"])).await;
    assert_eq!(settled(&intake, id).await.failed, 2);
    let found = taking.comes_to("x@one.example", State::Quarantined).await;
    assert_eq!(found.explanation.condition.reason, Some(Reason::UserUnknown));
    assert_eq!(&*found.history.entries[0].evidence.provider, "lab");
    let domain = taking.comes_to("y@nowhere.test", State::WithErrors).await;
    assert_eq!(domain.explanation.condition.counts.of(Reason::InvalidDomain), 1);
    assert!(taking.all.texts(TextFilter::default(), None, 10).await.unwrap().len() >= 2);
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bounce_rules_judge_the_ledger_anew() {
    let words = "550 the frobnicator does not glorp";
    let mood = Mood {
        unknown_users: 1.0,
        replies: [(lab::Situation::UnknownUser, words.to_owned())].into(),
        ..Mood::default()
    };
    let world = world(66, mood).more("[bounce_rules]\nfile = \"bounce.toml\"\n");
    let rules = |rule: &str| {
        let text = format!("schema_version = 1\nversion = \"local\"\n{rule}");
        std::fs::write(world.path("bounce.toml"), text).unwrap();
    };
    let rule = |words: &str| {
        format!(
            "[[rule]]\nname = \"local-glorp\"\nprovider = \"the lab\"\ntext = ['{words}']\n\
             reason = \"User unknown\"\nmatches = [\"550 {words}\", \"550 here {words}\"]\n\
             matches_not = [\"550 hello\"]\n"
        )
    };
    rules(&rule("something else entirely"));
    let taking = start(&world);
    let intake = taking.node.intake();
    let id = delivery(&intake, addressed(&["a@one.example"])).await;
    assert_eq!(settled(&intake, id).await.failed, 1);
    let known = eventually("evidence", async || {
        let found = taking.address("a@one.example").await;
        found.record.is_some().then_some(found)
    })
    .await;
    assert!(!known.explanation.condition.state.is_refused(), "{known:?}");
    rules(&rule("frobnicator does not glorp"));
    taking.node.questions().reload_rules().await.unwrap();
    taking.comes_to("a@one.example", State::Quarantined).await;
    rules(&rule("something else entirely"));
    taking.node.questions().reload_rules().await.unwrap();
    taking.comes_to("a@one.example", known.explanation.condition.state).await;
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_message_is_forgotten_still_works() {
    let world = world(67, Mood { unknown_users: 0.0, ..Mood::default() });
    let taking = start(&world);
    let intake = taking.node.intake();
    let names = ["link", "mail", "late", "angry", "secret", "stays"];
    let addresses = names.map(|name| format!("{name}@one.example"));
    let addresses = addresses.each_ref().map(String::as_str);
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, addressed(&addresses)).await;
    assert_eq!(settled(&intake, id).await.sent, 6);
    let now = intake.now();
    assert_eq!(
        forget_ended_before(&intake, now, mail::time::Timestamp::EPOCH).await.unwrap().messages,
        6
    );
    assert!(intake.read(move |reads| reads.message(first)).await.unwrap().is_none());

    let paths = return_path(KEY);
    let names = |number: u64| paths.names(MessageId(first.0 + number), id);
    let refused = |address: &str| intake.refused(&Mailbox::parse(address).unwrap());
    let token = names(0).name(Purpose::Unsubscribe);
    for _ in 0..2 {
        let out = taking.all.unsubscribe(&token).await.unwrap();
        assert!(matches!(out.addressee, Addressee::Hashed(_)), "{out:?}");
    }
    assert!(refused("Link@ONE.example").is_some());
    let to = paths.address(&names(1), Purpose::Unsubscribe);
    taking.bring(&to, "From: me@one.example\r\nSubject: unsubscribe\r\n\r\n".into()).await;
    eventually("by mail", async || refused("mail@one.example")).await;
    // A bounce names the address; its hash shows that it is the one to which the message went.
    let bounce = |number| paths.address(&names(number), Purpose::Bounce);
    let words = "550 5.1.1 User unknown";
    taking.bring(&bounce(2), report("late@one.example", words)).await;
    let late = taking.comes_to("late@one.example", State::Quarantined).await;
    assert_eq!(late.history.entries[0].evidence.delivery, Some(id));
    taking.bring(&bounce(5), report("late2@one.example", words)).await;
    eventually("kept aside", async || (aside(&world) == 1).then_some(())).await;
    assert!(taking.address("late2@one.example").await.record.is_none());
    // Complaints, one with the address and one without.
    taking.bring(&bounce(3), complaint("abuse", "Original-Rcpt-To: angry@one.example\r\n")).await;
    let angry = taking.comes_to("angry@one.example", State::Denylisted).await;
    assert_eq!(angry.explanation.condition.reason, Some(Reason::Complaint));
    taking.bring(&bounce(4), complaint("abuse", "")).await;
    eventually("redacted", async || refused("secret@one.example")).await;
    assert!(refused("stays@one.example").is_none());
    assert_eq!(taking.all.counts().unsubscribed.load(Ordering::Relaxed), 2);
    // When the hashes are gone too, nothing is known.
    let later = intake.now();
    forget_ended_before(&intake, later, later).await.unwrap();
    assert!(taking.all.unsubscribe(&names(5).name(Purpose::Unsubscribe)).await.is_err());
    taking.stop().await;
}

/// A report of a feedback loop (RFC 5965).
fn complaint(kind: &str, fields: &str) -> String {
    format!(
        "From: loop@provider.example\r\nSubject: FW: news\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=x\r\n\r\n--x\r\n\r\n\
         This is an abuse report.\r\n\r\n--x\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: {kind}\r\nUser-Agent: Loop/1.0\r\nVersion: 1\r\n{fields}\r\n--x\r\n\
         Content-Type: message/rfc822\r\n\r\nFrom: news@sender.example\r\nTo: redacted\r\n\
         Subject: news\r\n\r\nhello\r\n--x--\r\n"
    )
}

/// Mails that were kept aside.
fn aside(world: &World) -> usize {
    let folder = world.path("data/inmail/aside");
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "eml"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_erased_everywhere() {
    let mood = Mood {
        unknown_users: 1.0,
        replies: [(lab::Situation::UnknownUser, "550 5.1.1 <{recipient}> unknown".to_owned())]
            .into(),
        ..Mood::default()
    };
    let world = world(68, mood);
    let taking = start(&world);
    let intake = taking.node.intake();
    let id = delivery(&intake, addressed(&["Gone@one.example"])).await;
    assert_eq!(settled(&intake, id).await.failed, 1);
    taking.comes_to("gone@one.example", State::Quarantined).await;
    let (refusing, _) =
        draft(&intake, intake.default_options(), addressed(&["gone@one.example", "b@one.example"]))
            .await;
    let gone = Mailbox::parse("gone@ONE.example").unwrap();
    let erased = taking.all.forget(&gone, author()).await.unwrap();
    assert_eq!((erased.known, erased.messages, erased.refusals, erased.waiting), (true, 1, 1, 0));
    assert_eq!(taking.all.forget(&gone, author()).await.unwrap(), Erasure::default());
    assert!(intake.refused(&gone).is_some());
    let rows = intake.read(move |reads| reads.refusals(refusing, 0, 9)).await.unwrap();
    assert_eq!(&*rows[0].address, "(erased)");
    let texts = taking.all.texts(TextFilter::default(), None, 99).await.unwrap();
    assert!(!format!("{texts:?}").to_lowercase().contains("gone@"), "{texts:?}");
    // What waits is not sent, and erased when it has come to its end.
    let b = Mailbox::parse("b@one.example").unwrap();
    assert_eq!(taking.all.forget(&b, author()).await.unwrap().waiting, 1);
    intake.start(refusing).await.unwrap();
    assert_eq!(settled(&intake, refusing).await.failed, 1);
    assert_eq!(taking.all.forget(&b, author()).await.unwrap().messages, 1);
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_late_does_not_bring_an_erased_address_back() {
    let world = world(74, Mood { unknown_users: 0.0, ..Mood::default() });
    let taking = start(&world);
    let intake = taking.node.intake();
    let recipients = addressed(&["gone@one.example"]);
    let (id, first) = delivery_with(&intake, intake.default_options(), recipients).await;
    assert_eq!(settled(&intake, id).await.sent, 1);
    let gone = Mailbox::parse("gone@one.example").unwrap();
    assert_eq!(taking.all.forget(&gone, author()).await.unwrap().messages, 1);
    let to = return_path(KEY).encode(first, id);
    taking.bring(&to, report("gone@one.example", "550 5.1.1 User unknown")).await;
    taking.bring(&to, complaint("abuse", "Original-Rcpt-To: gone@one.example\r\n")).await;
    eventually("both are read", async || {
        let read = (taking.kind(MailKind::Bounce), taking.kind(MailKind::Feedback));
        (read == (1, 1)).then_some(())
    })
    .await;
    let found = taking.address("gone@one.example").await;
    assert!(found.record.is_none(), "{found:?}");
    assert_eq!((taking.came_back(Reason::UserUnknown), aside(&world)), (1, 0));
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_that_comes_again_and_again_is_no_outage() {
    let world = world(75, Mood { unknown_users: 0.0, ..Mood::default() })
        .more("[quarantine.outage_guard]\nhistory = 50\n");
    let taking = start(&world);
    let intake = taking.node.intake();
    let good: Vec<String> = (0..400).map(|number| format!("good{number}@one.example")).collect();
    let recipients = addressed(&good.iter().map(String::as_str).collect::<Vec<_>>());
    let (id, first) = delivery_with(&intake, intake.default_options(), recipients).await;
    assert_eq!(settled(&intake, id).await.sent, 400);
    let to = return_path(KEY).encode(first, id);
    let text = report("good0@one.example", "550 5.1.1 User unknown");
    for number in 0..200 {
        taking.bring(&to, format!("Received: from relay{number}.example\r\n{text}")).await;
    }
    let repeated = || taking.all.counts().repeated.load(Ordering::Relaxed);
    eventually("all but one are repetitions", async || (repeated() == 199).then_some(())).await;
    let holds = taking.all.holds(9).await.unwrap();
    assert!(holds.is_empty(), "{holds:?}");
    taking.comes_to("good0@one.example", State::Quarantined).await;
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_ill_quarantines_nobody_until_somebody_confirms_it() {
    let world = world(69, Mood { unknown_users: 0.0, ..Mood::default() })
        .more("[quarantine.outage_guard]\nhistory = 50\n");
    let taking = start(&world);
    let intake = taking.node.intake();
    let named = |name: &str, count: u64| {
        (0..count).map(|number| format!("{name}{number}@one.example")).collect::<Vec<_>>()
    };
    let of = |names: &[String]| addressed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let id = delivery(&intake, of(&named("good", 400))).await;
    assert_eq!(settled(&intake, id).await.sent, 400);
    world.lab.set_mood("one", Mood { unknown_users: 1.0, ..Mood::default() }).unwrap();
    let ill = named("ill", 200);
    let id = delivery(&intake, of(&ill)).await;
    assert_eq!(settled(&intake, id).await.failed, 200);
    let hold = eventually("an alert", async || {
        let holds = taking.all.holds(9).await.unwrap();
        holds.into_iter().next()
    })
    .await;
    assert!(hold.ended.is_none() && hold.sudden_permille >= 200, "{hold:?}");
    assert_eq!(taking.all.counts().guard_alerts.load(Ordering::Relaxed), 1);
    let refused = || {
        let boxes = ill.iter().map(|address| Mailbox::parse(address).unwrap());
        boxes.filter(|mailbox| intake.refused(mailbox).is_some()).count()
    };
    // Those that were believed before the guard was sure are doubted too.
    let held = async || {
        let found = taking.address(&ill[199]).await;
        (!found.history.entries.is_empty() && refused() == 0).then_some(found)
    };
    let found = eventually("nobody is quarantined", held).await;
    assert!(format!("{:?}", found.explanation).contains("HeldByOutageGuard"), "{found:?}");
    taking.all.end_hold(hold.hold, true, author()).await.unwrap();
    eventually("confirmed", async || (refused() == 200).then_some(())).await;
    assert!(taking.all.holds(9).await.unwrap()[0].ended.is_some());
    taking.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complaints_are_told_apart_and_monsters_cost_little() {
    let world = world(72, Mood { unknown_users: 0.0, ..Mood::default() })
        .more("max_message_bytes = 67108864\nspool_period = \"1s\"\n");
    let taking = start(&world);
    let intake = taking.node.intake();
    let names = ["fine", "angry", "out", "many", "large", "next"];
    let addresses = names.map(|name| format!("{name}@one.example"));
    let addresses = addresses.each_ref().map(String::as_str);
    let (id, first) = delivery_with(&intake, intake.default_options(), addressed(&addresses)).await;
    assert_eq!(settled(&intake, id).await.sent, 6);
    let paths = return_path(KEY);
    let bounce = |number: u64| paths.encode(MessageId(first.0 + number), id);

    // The user took it back; a report about signatures; one of a kind that is not known.
    for kind in ["not-spam", "auth-failure"] {
        taking.bring(&bounce(0), complaint(kind, "")).await;
    }
    taking.bring(&bounce(0), complaint("glorp", "")).await;
    eventually("aside", async || (aside(&world) == 1).then_some(())).await;
    // Nobody is named in it: the return path says whom it is about.
    taking.bring(&bounce(1), complaint("abuse", "")).await;
    taking.comes_to("angry@one.example", State::Denylisted).await;
    taking.bring(&bounce(2), complaint("opt-out", "")).await;
    let out = taking.comes_to("out@one.example", State::Denylisted).await;
    assert_eq!(out.explanation.condition.reason, None);
    assert!(taking.address("fine@one.example").await.record.is_none());

    // It claims ten thousand recipients, and has one.
    let one = |name: &str| {
        format!(
            "Final-Recipient: rfc822; {name}@one.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 User unknown\r\n\r\n"
        )
    };
    let claimed: String = (0..10_000).map(|number| one(&format!("p{number}"))).collect();
    let whole = report("many@one.example", "550 5.1.1 User unknown");
    let text = whole.replace(
        "Final-Recipient: rfc822; many",
        &format!("{claimed}Final-Recipient: rfc822; many"),
    );
    taking.bring(&bounce(3), text).await;
    taking.comes_to("many@one.example", State::Quarantined).await;
    assert!(taking.address("p7@one.example").await.record.is_none());

    // Fifty megabytes, as the returned message is so large: read as far as it says something.
    let spool = world.path("data/inmail/spool");
    let filler = "x".repeat(998) + "\r\n";
    let returned = "--x\r\nContent-Type: message/rfc822\r\n\r\nSubject: news\r\n\r\n";
    let end = format!("{returned}{}\r\n--x--\r\n", filler.repeat(50_000));
    let text = report("large@one.example", "550 5.1.1 User unknown").replace("--x--\r\n", &end);
    let text = format!("To: {}\r\n{text}", bounce(4));
    assert!(text.len() > 50_000_000);
    std::fs::write(spool.join("a.part"), text).unwrap();
    std::fs::rename(spool.join("a.part"), spool.join("a.eml")).unwrap();
    taking.comes_to("large@one.example", State::Quarantined).await;
    // Larger than allowed: it stays where it is, and polling goes on.
    std::fs::write(spool.join("b.part"), filler.repeat(70_000)).unwrap();
    std::fs::rename(spool.join("b.part"), spool.join("b.eml")).unwrap();
    let text = report("next@one.example", "550 5.1.1 User unknown");
    std::fs::write(spool.join("c.part"), format!("To: {}\r\n{text}", bounce(5))).unwrap();
    std::fs::rename(spool.join("c.part"), spool.join("c.eml")).unwrap();
    taking.comes_to("next@one.example", State::Quarantined).await;
    assert!(spool.join("b.eml").exists() && !spool.join("c.eml").exists());
    taking.stop().await;
}
