//! Messages as they arrive: signatures that an independent verifier accepts, content that nobody changed.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use engine::work::SendMode;
use lab::Mood;
use mail::id::Priority;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{
    AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt,
};
use mailweir_node::dkim::{DkimKeyText, DkimKeys};
use mailweir_node::intake::{Accepted, NULL_SENDER, SingleMessage, StreamName};
use store::Once;

use super::sink::{Kept, Sink};
use super::*;

/// The answers of DNS.
struct Records(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

/// A node that sends everything to a sink.
async fn to_sink(block: u8, more: &str) -> (World, Sink) {
    let world = World::one(block, Mood::default());
    let sink = Sink::start([127, 9, block, 9]).await;
    let relay = format!("[[relay]]\ndomains = [\"*\"]\nhosts = [\"{}\"]\n", sink.address);
    (world.more(&relay).more(more), sink)
}

fn stream() -> StreamName {
    StreamName { affinity: "default".into(), priority: Priority::High, tenant: "shop".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_verify_where_the_mail_arrives() {
    let texts: Vec<DkimKeyText> = [("rsa", &rcgen::PKCS_RSA_SHA256), ("ed", &rcgen::PKCS_ED25519)]
        .into_iter()
        .map(|(selector, algorithm)| DkimKeyText {
            domain: "sender.example".into(),
            selector: selector.into(),
            pem: rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem(),
        })
        .collect();
    let more: String = ["rsa", "ed"]
        .map(|name| {
            format!("[[dkim]]\ndomain = \"sender.example\"\nselector = \"{name}\"\nkey_file = \"{name}.pem\"\n")
        })
        .concat();
    let world = World::one(50, Mood::default());
    let sink = Sink::start([127, 9, 50, 9]).await;
    for text in &texts {
        std::fs::write(world.path(&format!("{}.pem", text.selector)), &text.pem).unwrap();
    }
    let relay = format!("[[relay]]\ndomains = [\"*\"]\nhosts = [\"{}\"]\n", sink.address);
    let world = world.more(&relay).more(&more);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 20)).await;
    assert_eq!(settled(&intake, id).await.sent, 20);
    // A single message is signed too.
    let message = SingleMessage {
        sender: "bounce@sender.example".into(),
        recipients: vec![Mailbox::parse("z@one.example").unwrap()],
        content: b"From: a@sender.example\r\nSubject: x\r\n\r\n.dot\r\nend\r\n".to_vec(),
    };
    intake.submit(&stream(), message, None).await.unwrap();
    eventually("21 messages", async || (sink.kept().len() == 21).then_some(())).await;
    node.shutdown().await;

    let keys = DkimKeys::load(&texts).unwrap();
    let records = Records(
        keys.iter()
            .map(|key| {
                let record = DomainKey::parse(key.dns_record().as_bytes()).unwrap();
                let name = format!("{}.", key.dns_name()).into_boxed_str();
                (name, Txt::DomainKey(Arc::new(record)))
            })
            .collect(),
    );
    // A resolver without servers: whatever is not among the records cannot be found.
    let verifier =
        MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).unwrap();
    for kept in sink.kept() {
        let parsed = AuthenticatedMessage::parse(&kept.content).unwrap();
        let parameters = Parameters::new(&parsed).with_txt_cache(&records);
        let outputs = verifier.verify_dkim(parameters).await;
        let results: Vec<_> = outputs.iter().map(|output| output.result().clone()).collect();
        assert_eq!(results, [DkimResult::Pass, DkimResult::Pass], "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_message_arrives_as_it_was() {
    let (world, sink) = to_sink(51, "").await;
    let node = world.start();
    let intake = node.intake();
    let body =
        "a line\r\n.leading dot\r\n..two\r\n\r\ntrailing blanks  \r\n\u{e4}\u{f6}\r\n.\r\n.\r\nend";
    let header = "Date: Sat, 21 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@shop.example>\r\n\
         From: Shop <shop@sender.example>\r\nTo: b@one.example\r\nSubject: {{ not a template }}\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n";
    let content = format!("{header}\r\n{body}\r\n").into_bytes();
    let to = |address: &str| Mailbox::parse(address).unwrap();
    let single = |sender: &str, address: &str| SingleMessage {
        sender: sender.into(),
        recipients: vec![to(address)],
        content: content.clone(),
    };
    let once = Once { tenant: "shop".into(), key: "order 1".into(), digest: [1; 32] };
    let first = single("app+1@sender.example", "a@one.example");
    let accepted = intake.submit(&stream(), first.clone(), Some(once.clone())).await.unwrap();
    let Accepted::New(appended) = accepted else { panic!("{accepted:?}") };
    let again = intake.submit(&stream(), first.clone(), Some(once.clone())).await.unwrap();
    let Accepted::Repeated(earlier) = again else { panic!("{again:?}") };
    assert_eq!(earlier.first, appended.first);
    let other = Once { digest: [2; 32], ..once };
    assert!(intake.submit(&stream(), first, Some(other)).await.is_err());
    intake.submit(&stream(), single(NULL_SENDER, "b@one.example"), None).await.unwrap();
    intake.submit(&stream(), single("", "c@one.example"), None).await.unwrap();
    intake
        .submit(&stream(), single("j\u{f6}rg@sender.example", "d@one.example"), None)
        .await
        .unwrap();
    eventually("four messages", async || (sink.count() == 4).then_some(())).await;
    node.shutdown().await;
    let kept = sink.kept();
    assert_eq!(kept.len(), 4);
    for message in &kept {
        let at = memchr::memmem::find(&message.content, b"\r\n\r\n").unwrap();
        let text = String::from_utf8(message.content.clone()).unwrap();
        assert_eq!(&text[at + 4..], format!("{body}\r\n"));
        for line in header.lines() {
            assert!(text[..at + 2].contains(&format!("{line}\r\n")), "{line} is not in {text}");
        }
        assert_eq!(text.matches("Message-ID:").count(), 1, "{text}");
    }
    let sender = |at: usize| kept[at].sender.split(' ').next().unwrap().to_string();
    assert_eq!(sender(0), "<app+1@sender.example>");
    assert_eq!(sender(1), "<>");
    assert!(sender(2).len() > 20 && sender(2).ends_with("m1.sender.example>"), "{}", sender(2));
    // The return path alone can make SMTPUTF8 necessary.
    let asks = |kept: &Kept| kept.sender.contains(" SMTPUTF8");
    assert_eq!(kept.iter().map(asks).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(sender(3), "<j\u{f6}rg@sender.example>");
    let recipients: Vec<&str> = kept.iter().map(|kept: &Kept| kept.recipient.as_str()).collect();
    assert_eq!(
        recipients,
        ["<a@one.example>", "<b@one.example>", "<c@one.example>", "<d@one.example>"]
    );
}

/// A relay takes the place of the MX, for the domains that it is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_takes_mail_in_place_of_the_mx() {
    let any = Mood { any_domain: true, ..Mood::default() };
    let world = World::new(
        52,
        vec![provider(52, 1, "one", Mood::default()), provider(52, 2, "relay", any)],
    );
    let port = world.port;
    let world = world.more(&format!(
        "[[relay]]\ndomains = [\"*.corp.example\", \"two.example\"]\nhosts = [\"127.9.52.2:{port}\"]\n"
    ));
    let node = world.start();
    let intake = node.intake();
    let domains = ["one.example", "two.example", "a.corp.example", "b.corp.example"];
    let id = delivery(&intake, recipients(&domains, 100)).await;
    assert_eq!(settled(&intake, id).await.sent, 100);
    let options = DeliveryOptions { mode: SendMode::Dry, ..intake.default_options() };
    let (dry, _) = delivery_with(&intake, options, recipients(&domains, 8)).await;
    assert_eq!(settled(&intake, dry).await.sent, 8);
    let ended = world.end(node).await;
    let accepted = |name: &str| ended.report.provider(name).unwrap().accepted;
    assert_eq!((accepted("one"), accepted("relay")), (25, 75));
    assert_eq!(ended.report.dns.queries_for_mx, 1);
}
