//! Small looks at texts.

/// Whether a text is a local part and a domain.
pub fn is_mailbox(text: &str) -> bool {
    text.find('@').is_some_and(|sign| sign > 0 && sign + 1 < text.len())
}

/// Whether a subject is that of an answer or a forwarded mail.
pub fn is_answered(subject: &str) -> bool {
    let octets = subject.as_bytes();
    ["re:", "aw:", "sv:", "antw:", "re["].iter().any(|mark| {
        octets.len() >= mark.len() && octets[..mark.len()].eq_ignore_ascii_case(mark.as_bytes())
    })
}

/// Whether the line that holds `at` is quoted.
pub fn is_quoted(text: &str, at: usize) -> bool {
    let line = memchr::memrchr(b'\n', &text.as_bytes()[..at]).map_or(0, |end| end + 1);
    let line = text[line..].trim_start_matches([' ', '\t']);
    line.starts_with('>') && !line.starts_with(">>>")
}

/// The beginning of a text, at most `most` octets.
pub fn head(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The beginning of a text as its own.
pub fn cut(text: &str, most: usize) -> String {
    head(text.trim(), most).to_owned()
}

/// A text in one line, at most `most` octets.
pub fn one_line(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for word in text.split_ascii_whitespace() {
        if out.len() + word.len() + 1 > most {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        if word.bytes().any(|octet| octet.is_ascii_control()) {
            out.extend(word.chars().filter(|character| !character.is_control()));
        } else {
            out.push_str(word);
        }
    }
    out
}
