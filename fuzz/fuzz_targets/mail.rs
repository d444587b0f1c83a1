//! Any octets as a mail: no panic, bounded answers, the same answer twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::incoming::{self, limits};

fuzz_target!(|octets: &[u8]| {
    let mail = incoming::read(octets);
    assert!(mail.reports.len() <= limits::RECIPIENTS_MAXIMUM);
    assert!(mail.text.len() <= limits::BODY_MAXIMUM);
    assert!(mail.reports.iter().all(|report| report.diagnostic.len() < 20_000));
    assert_eq!(mail, incoming::read(octets));
});
