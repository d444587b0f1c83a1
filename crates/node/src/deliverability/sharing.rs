//! Texts that nobody has qualified, on their way to the instance.
//!
//! **Promise.** What leaves is normalised: addresses, names of hosts, numbers and ids were replaced when the text was
//! met. That is not believed but looked at once more: a text with anything like an address, or with a long run
//! of digits, stays here ([`may_leave`]), and so does one that was cut, because its key would not be that of its words.
//! Nothing leaves unless the operator has said so (`share_unknown_texts`).

use engine::quarantine::TextRecord;
use mail::id::SourceId;
use rules::RuleSet;
use rules::bounce::Key;
use serde::Serialize;

/// Texts in one request.
pub(super) const MOST_TEXTS: usize = 1_000;
/// Octets of texts in one request; the protocol allows 1 MiB with everything around them.
const MOST_OCTETS: usize = 900 * 1024;
/// Characters of a text.
const LONGEST_TEXT: usize = 2_000;
/// So many digits in a row may be somebody's number.
const LONG_RUN: usize = 7;

/// A text as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedText {
    /// The MD5 of the text, as 32 hexadecimal digits.
    pub key: String,
    /// The text, normalised.
    pub text: String,
    /// Whose text it is, where that is known.
    pub provider: String,
    /// How often this client has met it.
    pub occurrences: u32,
    /// When first, RFC 3339.
    pub first: String,
    /// When last, RFC 3339.
    pub last: String,
}

/// A text as it may be sent; `None`: it stays here.
///
/// The host that said it does not leave, because it may be that of one customer; what leaves is the MX rule that it
/// falls under, and nothing where that is the generic one.
#[must_use]
pub fn shared(record: &TextRecord, rules: &RuleSet) -> Option<SharedText> {
    let text = &*record.normalised;
    let whole = Key::of(text).to_string() == record.key.to_string();
    (whole && may_leave(text)).then(|| SharedText {
        key: record.key.to_string(),
        text: text.to_owned(),
        provider: provider_of(record, rules),
        occurrences: record.occurrences,
        first: record.first_at.to_string(),
        last: record.last_at.to_string(),
    })
}

/// The name of the MX rule of the host that said it.
fn provider_of(record: &TextRecord, rules: &RuleSet) -> String {
    let every_source = SourceId(0);
    let rule = match record.host.is_empty() {
        true => rules.generic_id(),
        false => rules.find(&record.host, every_source),
    };
    match rule == rules.generic_id() {
        true => String::new(),
        false => rules.rule(rule).name.to_string(),
    }
}

/// Whether nothing in a text can be anybody's address or number.
#[must_use]
pub fn may_leave(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    // As they are; in VERP and in URLs; in HTML; full width.
    let signs = ["@", "%40", "=40", "&#64;", "&#x40;", "&commat;", "\u{ff20}", "\u{fe6b}"];
    let mut run = 0;
    let long_run = text.chars().any(|letter| {
        // Dashes within a number do not end it. Blanks and dots do: reply codes stand side by side.
        run = match letter {
            _ if letter.is_numeric() => run + 1,
            '-' if run > 0 => run,
            _ => 0,
        };
        run >= LONG_RUN
    });
    let fits = !text.is_empty() && text.chars().count() <= LONGEST_TEXT;
    fits && !long_run && !signs.iter().any(|sign| lower.contains(sign))
}

/// Cuts texts into what fits into one request each.
pub(super) fn requests(texts: &[SharedText]) -> Vec<&[SharedText]> {
    let mut requests = Vec::new();
    let (mut begin, mut octets) = (0, 0);
    for (place, text) in texts.iter().enumerate() {
        // As JSON a text may be up to six times as long; what is around it is short.
        let size = serde_json::to_string(text).map_or(MOST_OCTETS, |json| json.len());
        if place - begin == MOST_TEXTS || octets + size > MOST_OCTETS {
            requests.push(&texts[begin..place]);
            (begin, octets) = (place, 0);
        }
        octets += size + 1;
    }
    requests.push(&texts[begin..]);
    requests.retain(|request| !request.is_empty());
    requests
}

#[cfg(test)]
mod tests {
    use engine::quarantine::{Qualification, TextKey, TextStatus};
    use mail::failure::{FailureType, Reason};
    use mail::time::Timestamp;
    use rules::bounce::normalise;

    use super::*;

    fn record(text: &str) -> TextRecord {
        let qualification = Qualification {
            reason: Reason::NotDefined,
            failure_type: FailureType::Soft,
            status: TextStatus::ToQualify,
        };
        TextRecord {
            key: TextKey(*Key::of(text).octets()),
            normalised: text.into(),
            first_raw: "550 jane@example.org".into(),
            host: "gmail-smtp-in.l.google.com".into(),
            by_rule: qualification,
            rule: "".into(),
            version: "1".into(),
            by_person: None,
            qualified_by: "".into(),
            occurrences: 3,
            first_at: Timestamp::from_secs(1),
            last_at: Timestamp::from_secs(2),
        }
    }

    fn shared(record: &TextRecord) -> Option<SharedText> {
        super::shared(record, &RuleSet::compile(rules::shipped(), &rules::Levels::default(), 1))
    }

    #[test]
    fn the_provider_is_named_and_no_host() {
        let provider = |host: &str| {
            let record = TextRecord { host: host.into(), ..record("552 box closed") };
            shared(&record).unwrap().provider
        };
        assert_eq!(provider("gmail-smtp-in.l.google.com"), "google");
        assert_eq!(provider("mx.one-customer.example"), "");
        assert_eq!(provider(""), "");
    }

    #[test]
    fn no_address_and_no_long_number_leaves() {
        for text in [
            "550 5.7.1 [TSS04] Messages from #IP# temporarily deferred",
            "552 box of * is closed",
            "554 AUP#In-1310 refused; see https://example.net/help/4.7",
            "421 4.7.28 try again in 300 seconds",
        ] {
            assert!(may_leave(text), "{text}");
            assert!(shared(&record(text)).is_some());
        }
        for text in [
            "550 no jane@example.org here",
            "550 no jane%40example.org here",
            "550 bounce+jane=40example.org",
            "550 jane&#64;example.org",
            "550 jane\u{ff20}example.org",
            "550 customer 1234567",
            "550 call 555-12-345-67",
            "550 \u{661}\u{662}\u{663}\u{664}\u{665}\u{666}\u{667}",
            "",
            &"x".repeat(2_001),
        ] {
            assert!(!may_leave(text), "{text}");
            assert_eq!(shared(&record(text)), None);
        }
        let cut =
            TextRecord { normalised: "552 box of".into(), ..record("552 box of * is closed") };
        assert_eq!(shared(&cut), None);
        let sent = serde_json::to_string(&shared(&record("552 box of * is closed"))).unwrap();
        assert!(!sent.contains("jane"), "the raw text stays here: {sent}");
    }

    proptest::proptest! {
        /// Whatever a server says, what leaves holds neither an address nor a number.
        #[test]
        fn whatever_is_said(
            words in "[ -~]{0,60}", local in "[a-z0-9.]{1,12}", number in 1_000_000_u64..,
        ) {
            let rules = RuleSet::compile(rules::shipped(), &rules::Levels::default(), 1);
            let said = normalise(&format!("550 {words} {local}@example.org {number} {words}"));
            if let Some(sent) = super::shared(&record(&said), &rules) {
                proptest::prop_assert!(!sent.text.contains('@'));
                proptest::prop_assert!(!sent.text.contains(&number.to_string()));
            }
        }
    }

    #[test]
    fn requests_keep_to_the_bounds_of_the_protocol() {
        let rules = RuleSet::compile(rules::shipped(), &rules::Levels::default(), 1);
        let shared = |record: &TextRecord| super::shared(record, &rules);
        let text = |number: usize| shared(&record(&format!("552 box {number}"))).unwrap();
        let texts: Vec<_> = (0..2_500).map(text).collect();
        let sizes: Vec<_> = requests(&texts).iter().map(|request| request.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let long: Vec<_> = (0..1_000)
            .map(|n| shared(&record(&format!("{}{n}", "\u{1}".repeat(1_900)))).unwrap())
            .collect();
        let all = requests(&long);
        assert_eq!(all.iter().map(|request| request.len()).sum::<usize>(), 1_000);
        for request in all {
            assert!(serde_json::to_string(request).unwrap().len() < 1 << 20);
        }
        assert!(requests(&[]).is_empty());
    }
}
