//! The bodies that a format rule asks for: one left out, or a text made of the HTML; and what is too large for it.

use std::borrow::Cow;

use rules::recipient::{FormatTreatment, Structure};

use super::TemplateSpec;
use super::body::charset_of;

/// The content with the bodies that a rule asks for.
pub(super) fn shaped(spec: &TemplateSpec, structure: Structure) -> Cow<'_, TemplateSpec> {
    let made = || spec.text.clone().or_else(|| spec.html.as_deref().map(plain));
    let (html, text) = match structure {
        Structure::AsWritten => return Cow::Borrowed(spec),
        Structure::Html if spec.html.is_some() => (spec.html.clone(), None),
        Structure::Html => return Cow::Borrowed(spec),
        Structure::Multipart => (spec.html.clone(), made()),
        Structure::Text => (None, made()),
    };
    Cow::Owned(TemplateSpec { html, text, ..spec.clone() })
}

/// What of a content passes the limits that a format rule states, for people: bodies before merging, in the rule's
/// character sets, and the files that the HTML shows.
pub(super) fn warnings(spec: &TemplateSpec, format: &FormatTreatment) -> Vec<String> {
    let octets = |text: &Option<String>, charset| {
        let charset = charset_of(charset);
        text.as_ref().map_or(0, |text| charset.encode(text).map_or(text.len(), |own| own.len()))
    };
    let shown = || spec.attachments.iter().filter(|file| file.content_id.is_some());
    let images: usize = shown().map(|file| file.content.len()).sum();
    let figures = [
        ("octets of text", octets(&spec.text, format.text_charset), format.text_octets_max),
        ("octets of HTML", octets(&spec.html, format.html_charset), format.html_octets_max),
        ("octets of pictures", images, format.images_octets_max),
        ("pictures", shown().count(), format.images_max),
    ];
    let passed = figures.into_iter().filter_map(|(what, have, most)| {
        let most = most.filter(|most| have as u64 > *most)?;
        Some(format!("{have} {what}; the domain takes {most}"))
    });
    passed.collect()
}

/// The text of an HTML template. What is in `{{ }}`, `{% %}` and `{# #}` stays, except within tags; elements that
/// begin or end a block begin a line; the places of links follow their words.
fn plain(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 2);
    let mut link: Option<String> = None;
    let mut rest = html;
    while !rest.is_empty() {
        if let Some(end) = marker_end(rest) {
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if rest.starts_with('<') {
            let end = tag_end(rest);
            let tag = &rest[..end];
            rest = &rest[end..];
            let name = tag_name(tag);
            match name.as_str() {
                "style" | "script" | "title" => {
                    let close = format!("</{name}");
                    rest = find_folded(rest, &close).map_or("", |at| &rest[at..]);
                }
                "a" => link = attribute(tag, "href").filter(|place| !place.starts_with('#')),
                "/a" => {
                    if let Some(place) = link.take() {
                        out.push_str(" (");
                        out.push_str(&place);
                        out.push(')');
                    }
                }
                "td" | "th" => out.push(' '),
                "li" => out.push_str("\n- "),
                "br" | "p" | "/p" | "div" | "/div" | "tr" | "/ul" | "/ol" | "table" | "/table"
                | "h1" | "/h1" | "h2" | "/h2" | "h3" | "/h3" | "hr" => out.push('\n'),
                _ => {}
            }
        } else if let Some((letter, length)) = entity(rest) {
            out.push(letter);
            rest = &rest[length..];
        } else {
            let letter = rest.chars().next().unwrap_or(' ');
            out.push(if letter.is_whitespace() { ' ' } else { letter });
            rest = &rest[letter.len_utf8()..];
        }
    }
    tidied(&out)
}

/// The end of a marker that begins here.
fn marker_end(text: &str) -> Option<usize> {
    let close = match text.get(..2)? {
        "{{" => "}}",
        "{%" => "%}",
        "{#" => "#}",
        _ => return None,
    };
    text.find(close).map(|at| at + 2)
}

/// The end of a tag or comment that begins here.
fn tag_end(text: &str) -> usize {
    let found = match text.starts_with("<!--") {
        true => text.find("-->").map(|at| at + 3),
        false => text.find('>').map(|at| at + 1),
    };
    found.unwrap_or(text.len())
}

/// The name of a tag in lower case, with `/` for one that ends an element.
fn tag_name(tag: &str) -> String {
    let inner = tag.trim_start_matches('<');
    let end = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '/');
    let name = inner.split(end).next().unwrap_or_default();
    let ends = name.starts_with('/');
    let bare = name.trim_matches('/').to_ascii_lowercase();
    if ends { format!("/{bare}") } else { bare }
}

/// A quoted attribute of a tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let at = find_folded(tag, &format!("{name}="))? + name.len() + 1;
    let quote = tag[at..].chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let value = &tag[at + 1..];
    value.find(quote).map(|end| value[..end].trim().replace("&amp;", "&"))
}

/// Where a text of ASCII stands, whatever its case.
fn find_folded(text: &str, wanted: &str) -> Option<usize> {
    text.as_bytes()
        .windows(wanted.len())
        .position(|found| found.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The character of an entity that begins here, and the length of the entity.
fn entity(text: &str) -> Option<(char, usize)> {
    let end =
        text.starts_with('&').then(|| text.bytes().take(12).position(|octet| octet == b';'))??;
    let name = text.get(1..end)?;
    let letter = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(number)?
        }
    };
    Some((letter, end + 1))
}

/// One blank between words, at most one empty line between lines.
fn tidied(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty = 1;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        empty = if words.is_empty() { empty + 1 } else { 0 };
        if empty < 2 {
            out.push_str(&words.join(" "));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_told() {
        let spec = TemplateSpec { text: Some("\u{3042}".repeat(40)), ..TemplateSpec::default() };
        let limited = |most| FormatTreatment {
            text_charset: rules::recipient::Charset::ShiftJis,
            text_octets_max: Some(most),
            ..FormatTreatment::default()
        };
        // Two octets a letter in this set, not three.
        assert!(warnings(&spec, &limited(80)).is_empty());
        assert_eq!(warnings(&spec, &limited(79)), ["80 octets of text; the domain takes 79"]);
    }

    #[test]
    fn every_character_set_of_a_rule_can_be_written() {
        for charset in rules::recipient::Charset::ALL {
            let known = mail::compose::TextCharset::for_name(charset.word());
            assert_eq!(known.map(|known| known.name()).as_deref(), Some(charset.word()));
        }
    }

    #[test]
    fn html_becomes_text_with_its_markers() {
        let cases = [
            (
                "<p>Dear {{ name }},</p><p>a &amp; b<br>c &#12354;</p>",
                "Dear {{ name }},\n\na & b\nc \u{3042}\n",
            ),
            ("<style>p{}</style>x<STYLE>y</STYLE>z", "xz\n"),
            (
                "<a href=\"https://x.example/?a=1&amp;b={{ id }}\">Go</a>",
                "Go (https://x.example/?a=1&b={{ id }})\n",
            ),
            ("{% if a < b %}<b>yes</b>{% endif %}", "{% if a < b %}yes{% endif %}\n"),
            ("<ul><li>one</li><li>two</li></ul>", "- one\n- two\n"),
            ("<!-- no > --><td>a</td><td>b</td>", "a b\n"),
            ("a < b", "a\n"),
            ("&bogus; &", "&bogus; &\n"),
        ];
        for (html, text) in cases {
            assert_eq!(plain(html), text, "{html}");
        }
    }
}
