//! Mail that somebody passed on within a text: where it begins, and what it was before.
//!
//! A program that forwards writes a mark, the header as its user reads it (names of the fields in his
//! language), and the text, which it may quote. What is found here is read as a mail of its own; whether it
//! tells anything is decided there.

use super::super::text;

/// What programs write above a mail that they forward.
const MARKS: [&str; 22] = [
    "begin forwarded message",
    "forwarded message",
    "original message",
    "forwarded by",
    "forwarded mail",
    "weitergeleitete nachricht",
    "anfang der weitergeleiteten",
    "ursprüngliche nachricht",
    "originalnachricht",
    "message transféré",
    "début du message",
    "message d'origine",
    "mensaje reenviado",
    "mensaje original",
    "mensagem encaminhada",
    "mensagem original",
    "messaggio inoltrato",
    "пересылаемое сообщение",
    "пересланное сообщение",
    "转发邮件",
    "転送",
    "원본 메",
];

/// Names of fields as programs show them, and as they are.
const NAMES: [(&str, &[&str]); 4] = [
    (
        "From",
        &[
            "from",
            "von",
            "de",
            "da",
            "från",
            "fra",
            "van",
            "od",
            "от",
            "expéditeur",
            "发件人",
            "差出人",
        ],
    ),
    (
        "Subject",
        &[
            "subject",
            "betreff",
            "objet",
            "asunto",
            "assunto",
            "oggetto",
            "ämne",
            "emne",
            "onderwerp",
            "temat",
            "тема",
            "主题",
            "件名",
        ],
    ),
    ("To", &["to", "an", "à", "para", "a", "till", "til", "aan", "do", "кому", "收件人", "宛先"]),
    (
        "Date",
        &[
            "date",
            "sent",
            "datum",
            "gesendet",
            "envoyé",
            "fecha",
            "enviado",
            "data",
            "inviato",
            "дата",
            "发送时间",
            "日時",
        ],
    ),
];

/// Lines before which a mark must stand.
const LINES_BEFORE: usize = 12;

/// The forwarded mail in `text`, with its own header, if its forwarder wrote hardly a word. `own` gets
/// what he wrote and says whether that speaks against taking it.
pub fn forwarded(text: &str, own: impl Fn(&str) -> bool) -> Option<String> {
    let mut at = 0;
    for _ in 0..LINES_BEFORE {
        let line = text[at..].split_inclusive('\n').next()?;
        let stop = at + line.len();
        if is_mark(line) {
            let words = text[..at].trim();
            return if words.len() >= 200 || own(words) { None } else { inner(&text[stop..]) };
        }
        at = stop;
    }
    None
}

/// Whether a line says that a forwarded mail follows.
fn is_mark(line: &str) -> bool {
    let line = line.trim();
    if line.len() > 100 || !(line.starts_with(['-', '_', '=']) || line.ends_with([':', '：'])) {
        return false;
    }
    let lower = line.to_lowercase();
    MARKS.iter().any(|mark| lower.contains(mark))
}

/// The mail below the mark: quotation undone, the names of its fields put back.
fn inner(text: &str) -> Option<String> {
    let text = text::head(text, super::mime::TEXT_MAXIMUM);
    let first = text.lines().find(|line| !line.trim().is_empty())?;
    let quoted = first.starts_with('>');
    let mut out = String::with_capacity(text.len() + 32);
    let (mut in_header, mut fields) = (true, 0);
    for line in text.lines() {
        let line = match line.strip_prefix('>').filter(|_| quoted) {
            Some(rest) => rest.strip_prefix(' ').unwrap_or(rest),
            None => line,
        };
        if in_header {
            if line.trim().is_empty() {
                if fields == 0 {
                    continue;
                }
                in_header = false;
            } else if let Some((name, value)) = field(line) {
                fields += usize::from(matches!(name, "From" | "Subject"));
                out.push_str(name);
                out.push(':');
                out.push_str(value);
                out.push('\n');
                continue;
            } else if fields == 0 {
                return None;
            }
        }
        out.push_str(line);
        out.push('\n');
    }
    (fields > 0).then_some(out)
}

/// The field that a line of a shown header is, by its real name.
fn field(line: &str) -> Option<(&'static str, &str)> {
    // Some show the names in bold.
    let line = line.trim_start_matches(['*', ' ', '\t']);
    let (name, value) = line.split_once([':', '：'])?;
    let name = name.trim_matches(['*', ' ', '\t', '\u{a0}']).to_lowercase();
    let (real, _) = NAMES.iter().find(|(_, shown)| shown.contains(&name.as_str()))?;
    Some((real, value.trim_start_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_forwarded() {
        let plain = "FYI\n\n---------- Forwarded message ---------\nVon: A <a@example.com>\nBetreff: x\n\nbody\n";
        assert_eq!(
            forwarded(plain, |_| false).unwrap(),
            "From: A <a@example.com>\nSubject: x\n\nbody\n"
        );
        let quoted = "Begin forwarded message:\n\n> From: a@example.com\n> Subject: x\n>\n>>>> DATA\n> <<< 550\n";
        assert_eq!(
            forwarded(quoted, |_| false).unwrap(),
            "From: a@example.com\nSubject: x\n\n>>> DATA\n<<< 550\n"
        );
        assert_eq!(forwarded(plain, |own| own == "FYI"), None);
        for text in ["", "no mark\n", "-----Original Message-----\n\nno header\n"] {
            assert_eq!(forwarded(text, |_| false), None, "{text}");
        }
    }
}
