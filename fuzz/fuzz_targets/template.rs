//! Any texts as a template and its merge data.
//!
//! A message that comes out has lines of at most 998 octets that end in CR LF, no bare CR or LF, no NUL, is within its limit,
//! and the merge data has made no header field.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use mail::address::Domain;
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use mail::verp::{ReturnPath, VerpKey};
use node::dkim::DkimKeys;
use node::prepare::{
    AddressSpec, ContentSpec, HeaderSpec, RawSpec, RenderInput, SenderSettings, Template,
    TemplateSpec,
};

const OUTPUT_LIMIT: usize = 256 << 10;

static SETTINGS: LazyLock<Arc<SenderSettings>> = LazyLock::new(|| {
    let domain = Domain::parse("bounces.example.com").expect("a good domain");
    let key = VerpKey::new(&[9; 32]).expect("long enough");
    Arc::new(SenderSettings {
        return_path: ReturnPath::new(domain, vec![key]).expect("one key"),
        dkim: DkimKeys::default(),
        unsubscribe_base: Some("https://mail.example.com/".into()),
        unsubscribe_mailto: None,
        feedback_sender: "mailweir".into(),
        output_limit: OUTPUT_LIMIT,
    })
});

/// The names of the header's fields.
fn fields(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let begins = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    begins.map(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase()).collect()
}

fn render(template: &Template, merge_json: &str) -> Option<Vec<u8>> {
    let input = RenderInput {
        message_id: MessageId(1),
        delivery: DeliveryId(1),
        recipient: "ann@example.org",
        merge_json,
        now: Timestamp::from_secs(1_800_000_000),
    };
    let content = template.render(&input).ok()?.content;
    assert!(content.len() <= OUTPUT_LIMIT + (64 << 10), "{} octets", content.len());
    assert!(content.ends_with(b"\r\n"));
    let mut before = 0;
    for octet in content.iter().copied() {
        assert_ne!(octet, 0, "a NUL");
        assert_eq!(octet == b'\n', before == b'\r', "a bare CR or LF");
        before = octet;
    }
    assert!(content.split(|octet| *octet == b'\n').all(|line| line.len() <= 999));
    Some(content.to_vec())
}

fuzz_target!(|octets: &[u8]| {
    let Some((kind, rest)) = octets.split_first() else { return };
    if kind & 1 == 1 {
        let raw = RawSpec { message: rest.to_vec(), ..RawSpec::default() };
        if let Ok(template) = Template::compile(&ContentSpec::Raw(raw), Arc::clone(&SETTINGS)) {
            let _ = render(&template, "");
        }
        return;
    }
    let text = String::from_utf8_lossy(rest);
    let mut parts = text.split('\u{1f}').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let value = part();
    let spec = TemplateSpec {
        subject: part(),
        text: Some(part()),
        html: (kind & 2 != 0).then(&mut part),
        to_name: part(),
        headers: vec![HeaderSpec { name: "X-Any".into(), value: part() }],
        from: AddressSpec { name: part(), address: "news@example.com".into() },
        ..TemplateSpec::default()
    };
    let Ok(template) = Template::compile(&ContentSpec::Template(spec), Arc::clone(&SETTINGS)) else {
        return;
    };
    let merge = |value: &str| serde_json::json!({ "name": value, "list": [value, 1] }).to_string();
    let (Some(one), Some(other)) =
        (render(&template, &merge("x")), render(&template, &merge(&value)))
    else {
        return;
    };
    // A template may choose by what the value is; what it cannot do is to let the value name a field.
    if !text.contains("{%") {
        assert_eq!(fields(&one), fields(&other), "{value:?}");
    }
});
