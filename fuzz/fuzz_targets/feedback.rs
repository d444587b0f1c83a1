//! Any octets as the machine's part of a feedback report, and as the message it encloses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::incoming;

fuzz_target!(|octets: &[u8]| {
    let (machine, enclosed) = octets.split_at(octets.len() / 2);
    let mut mail = b"From: loop@provider.example\nTo: loop@sender.example\n\
        Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n\
        --b\nContent-Type: message/feedback-report\n\n"
        .to_vec();
    mail.extend_from_slice(machine);
    mail.extend_from_slice(b"\n--b\nContent-Type: message/rfc822\n\n");
    mail.extend_from_slice(enclosed);
    mail.extend_from_slice(b"\n--b--\n");
    let _ = incoming::read(&mail);
});
