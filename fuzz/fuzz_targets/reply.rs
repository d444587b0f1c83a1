//! Any octets as what a server says in a session: read, normalised, keyed and judged.
//!
//! The first octet says in pieces of how many octets they arrive. However they are cut, the same replies come out; a text
//! has one key; the judge with its memory says what the rules say without it; nothing is Hard that was only deferred.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use mail::failure::FailureType;
use mail::reply::Reply;
use rules::bounce::{self, BounceJudge, BounceRules, Evidence, Key, Qualification};
use smtp::reply_reader::{BrokenReply, LONGEST_LINE, MOST_LINES, MOST_OCTETS, ReplyReader};

thread_local! {
    static JUDGE: RefCell<BounceJudge> = RefCell::new(BounceJudge::new(BounceRules::shipped()));
}

/// What comes out of the reader when the octets arrive in pieces of this size.
fn read(octets: &[u8], size: usize) -> (Vec<Reply>, Option<BrokenReply>) {
    let mut reader = ReplyReader::default();
    let mut replies = Vec::new();
    for mut piece in octets.chunks(size) {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(reply)) => {
                    assert!(reply.text_lines().count() <= MOST_LINES);
                    replies.push(reply.to_reply());
                }
                Ok(None) => break,
                Err(fault) => return (replies, Some(fault)),
            }
        }
    }
    (replies, None)
}

fn judge(text: &str, provider: &str) {
    let normalised = bounce::normalise(text);
    // A word of one letter can become `#DOMAIN#`, never more.
    assert!(normalised.len() <= 8 * bounce::MOST_OCTETS, "{} octets", normalised.len());
    assert!(!normalised.contains('\n'));
    let evidence = Evidence::reply(text, provider);
    JUDGE.with_borrow_mut(|judge| {
        let nobody = |_: &Key| -> Option<Qualification> { None };
        let plain = judge.rules().classify(&evidence);
        for _ in 0..2 {
            let judged = judge.judge(&evidence, &nobody);
            assert_eq!(judged.normalised, normalised);
            assert_eq!(judged.key, Key::of(&normalised));
            assert_eq!(judged.verdict, plain, "{text:?}");
        }
        if matches!(bounce::codes_in(&normalised).0, Some(400..500)) {
            assert_ne!(plain.failure_type, FailureType::Hard, "{text:?}: {plain:?}");
        }
    });
}

fuzz_target!(|octets: &[u8]| {
    let Some((size, octets)) = octets.split_first() else { return };
    let (replies, fault) = read(octets, octets.len().max(1));
    assert_eq!(read(octets, usize::from(*size) + 1), (replies.clone(), fault));
    for reply in &replies {
        assert!(reply.raw().len() <= MOST_OCTETS.max(LONGEST_LINE));
        let _ = reply.enhanced();
        judge(&String::from_utf8_lossy(reply.raw()), "mx1.provider.example");
    }
    // A line of a file of replies has no form that it must have.
    judge(&String::from_utf8_lossy(octets), "provider.example");
});
