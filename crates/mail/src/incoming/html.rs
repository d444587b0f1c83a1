//! The text of HTML, for bounces that have no plain part.

/// The text of `html`: tags taken away, lines ended where a browser would, the usual entities undone.
///
/// At most as long as `html`, and one pass over it.
#[must_use]
pub fn text(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 2);
    let octets = html.as_bytes();
    let mut at = 0;
    // Within `pre` lines and blanks stand as they are.
    let mut kept = false;
    // Elements that are never closed, each looked for once.
    let mut unclosed: Vec<String> = Vec::new();
    while at < octets.len() {
        match octets[at] {
            b'<' => {
                let rest = &html[at..];
                let end = tag_end(rest);
                let name = tag_name(&rest[1..end.min(rest.len())]);
                kept = match name.as_str() {
                    "pre" | "/pre" => name == "pre",
                    _ => kept,
                };
                match name.as_str() {
                    "script" | "style" | "title" | "head" => {
                        let skipped =
                            if unclosed.contains(&name) { None } else { skip_element(rest, &name) };
                        if skipped.is_none() && !unclosed.contains(&name) {
                            unclosed.push(name);
                        }
                        at += skipped.unwrap_or(end);
                        continue;
                    }
                    "br" | "p" | "/p" | "div" | "/div" | "tr" | "/tr" | "li" | "/li" | "h1"
                    | "h2" | "h3" | "h4" | "/h1" | "/h2" | "/h3" | "hr" | "table" | "/table"
                    | "pre" | "/pre" | "blockquote" | "ul" | "/ul" | "dt" | "dd" => {
                        let blanks = out.trim_end_matches(' ').len();
                        out.truncate(blanks);
                        if !out.ends_with("\n\n") {
                            out.push('\n');
                        }
                    }
                    "td" | "th" | "/td" => out.push(' '),
                    _ => {}
                }
                at += end;
            }
            b'&' => {
                let (character, used) = entity(&html[at..]);
                out.push(character);
                at += used;
            }
            octet @ (b'\n' | b'\t' | b' ') if kept => {
                out.push(char::from(octet));
                at += 1;
            }
            b'\r' if kept => at += 1,
            b'\r' | b'\n' | b'\t' | b' ' => {
                if !out.ends_with([' ', '\n']) {
                    out.push(' ');
                }
                at += 1;
            }
            _ => {
                let length = octets[at..]
                    .iter()
                    .position(|octet| matches!(octet, b'<' | b'&' | b'\r' | b'\n' | b'\t' | b' '))
                    .unwrap_or(octets.len() - at);
                out.push_str(&html[at..at + length]);
                at += length;
            }
        }
    }
    out
}

/// Octets a tag may have.
const TAG_MAXIMUM: usize = 4 << 10;

/// Where a tag at the beginning of `text` ends. A `<` before an address is no tag.
fn tag_end(text: &str) -> usize {
    if let Some(comment) = text.strip_prefix("<!--") {
        return comment.find("-->").map_or(text.len(), |end| end + 7);
    }
    match text.as_bytes().get(1) {
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'!' | b'?') => {}
        _ => return 1,
    }
    let head = super::text::head(text, TAG_MAXIMUM);
    let end = head.find('>').map_or(head.len(), |end| end + 1);
    // `<somebody@example.com>`, written by a server that never heard of entities.
    if text[1..end].contains('@') && !text[1..end].contains([' ', '=', '"']) { 1 } else { end }
}

/// The name of a tag in lower case, with a slash before it where it closes.
fn tag_name(inside: &str) -> String {
    inside
        .bytes()
        .take(12)
        .enumerate()
        .take_while(|(at, octet)| octet.is_ascii_alphanumeric() || *at == 0 && *octet == b'/')
        .map(|(_, octet)| char::from(octet.to_ascii_lowercase()))
        .collect()
}

/// How long an element is whose content is not shown.
fn skip_element(text: &str, name: &str) -> Option<usize> {
    let mut at = 1;
    while let Some(found) = text[at..].find("</") {
        at += found + 2;
        if text.len() >= at + name.len()
            && text.as_bytes()[at..at + name.len()].eq_ignore_ascii_case(name.as_bytes())
        {
            return Some(text[at..].find('>').map_or(text.len(), |end| at + end + 1));
        }
    }
    None
}

/// The character of an entity at the beginning of `text`, and how long the entity is.
fn entity(text: &str) -> (char, usize) {
    const NAMED: [(&str, char); 8] = [
        ("&lt;", '<'),
        ("&gt;", '>'),
        ("&amp;", '&'),
        ("&quot;", '"'),
        ("&nbsp;", ' '),
        ("&apos;", '\''),
        ("&commat;", '@'),
        ("&#64;", '@'),
    ];
    for (name, character) in NAMED {
        if text.starts_with(name) {
            return (character, name.len());
        }
    }
    let number = text.strip_prefix("&#").and_then(|rest| {
        let end = rest.as_bytes().iter().take(8).position(|octet| *octet == b';')?;
        let digits = &rest[..end];
        let code = match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        };
        Some((char::from_u32(code)?, end + 3))
    });
    number.unwrap_or(('&', 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lines_and_addresses() {
        let html = "<html><head><title>x</title><style>p {}</style></head><body>Your message\n to \
                    <b>&lt;a&#64;example.com&gt;</b><br>failed:&nbsp;<p>550 5.1.1 &#x75;nknown</p><!-- no --></body>";
        assert_eq!(
            text(html).trim(),
            "Your message to <a@example.com>\nfailed:\n550 5.1.1 unknown"
        );
        assert_eq!(text("a <b@example.com> c & d <"), "a b@example.com> c & d ");
        assert_eq!(text("<style>never closed"), "never closed");
    }
}
