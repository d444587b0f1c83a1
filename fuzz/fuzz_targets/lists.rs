//! Any octets as a list of recipients, a quarantine list and a suppression list.
//!
//! However a list is cut, the same rows come out, each with its line; merge data is one JSON object.
#![no_main]

use engine::quarantine::{State, csv};
use libfuzzer_sys::fuzz_target;
use mail::time::Timestamp;
use node::recipients::{Decoder, Format, Row, Step};

/// The rows, and whether the list could be read as a whole.
fn rows(octets: &[u8], size: usize) -> (Vec<Row>, bool) {
    let mut decoder = Decoder::new(Format::Detect);
    let mut rows = Vec::new();
    let mut pieces = octets.chunks(size);
    loop {
        match decoder.next() {
            Err(_) => return (rows, false),
            Ok(Step::End) => return (rows, true),
            Ok(Step::Row(row)) => rows.push(row),
            Ok(Step::NeedInput) => match pieces.next() {
                Some(piece) => decoder.push(piece),
                None => decoder.finish(),
            },
        }
    }
}

fuzz_target!(|octets: &[u8]| {
    let [kind, size, list @ ..] = octets else { return };
    match kind % 3 {
        0 => {
            let whole = rows(list, list.len().max(1));
            assert_eq!(whole, rows(list, usize::from(*size) + 1));
            let mut last = 0;
            for row in whole.0 {
                let line = match row {
                    Row::Refused { line, .. } => line,
                    Row::Recipient { line, merge_json, mailbox } => {
                        let object = merge_json.is_empty()
                            || serde_json::from_str::<serde_json::Value>(&merge_json)
                                .is_ok_and(|value| value.is_object());
                        assert!(object, "{merge_json:?}");
                        assert!(!mailbox.to_string().contains(['\r', '\n', '\0']));
                        line
                    }
                };
                assert!(line > last, "{line} after {last}");
                last = line;
            }
        }
        1 => {
            let defaults = csv::Defaults { state: Some(State::Quarantined), reason: None };
            let _ = csv::import(list, defaults, Timestamp::from_secs(1_000_000), drop);
        }
        _ => drop(csv::import_suppression(list, drop)),
    }
});
