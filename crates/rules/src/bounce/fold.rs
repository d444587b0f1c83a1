//! Folding: the one spelling in which texts and patterns are compared.
//!
//! Servers say the same thing as `Unknown User`, `unknown user` and `UNKNOWN USER`, and write or
//! drop accents as their character sets allow. Both a text and the patterns are folded before they
//! meet: lower case, Latin letters without their marks, `ß` as `ss`, typographic quotes as plain
//! ones, full-width forms as plain ASCII, `ё` as `е`.

/// `text` folded, appended to `out`.
pub fn fold_into(out: &mut String, text: &str) {
    if text.is_ascii() {
        let start = out.len();
        out.push_str(text);
        out[start..].make_ascii_lowercase();
        return;
    }
    for letter in text.chars() {
        fold_letter(out, letter);
    }
}

/// The words of `text` folded, one blank before each but the first in `out`.
pub(crate) fn fold_words_into(out: &mut String, text: &str) {
    for word in text.split_ascii_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        fold_into(out, word);
    }
}

/// A regular expression folded: what follows a backslash stands as it was written.
pub(crate) fn folded_pattern(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            fold_letter(&mut out, letter);
            continue;
        }
        out.push(letter);
        let Some(escaped) = letters.next() else { break };
        out.push(escaped);
        // `\p{Greek}` and `\x{1F600}`: up to the closing brace.
        if matches!(escaped, 'p' | 'P' | 'x' | 'u' | 'U') && letters.as_str().starts_with('{') {
            for inner in letters.by_ref() {
                out.push(inner);
                if inner == '}' {
                    break;
                }
            }
        }
    }
    out
}

/// One character folded.
fn fold_letter(out: &mut String, letter: char) {
    if letter.is_ascii() {
        out.push(letter.to_ascii_lowercase());
        return;
    }
    let plain = match letter {
        'à'..='å' | 'À'..='Å' | 'ā' | 'Ā' | 'ă' | 'Ă' | 'ą' | 'Ą' => "a",
        'ç' | 'Ç' | 'ć' | 'Ć' | 'č' | 'Č' => "c",
        'ď' | 'Ď' | 'đ' | 'Đ' | 'ð' | 'Ð' => "d",
        'è'..='ë' | 'È'..='Ë' | 'ē' | 'Ē' | 'ę' | 'Ę' | 'ě' | 'Ě' | 'ė' | 'Ė' => "e",
        'ğ' | 'Ğ' => "g",
        'ì'..='ï' | 'Ì'..='Ï' | 'ī' | 'Ī' | 'ı' | 'İ' | 'į' | 'Į' => "i",
        'ľ' | 'Ľ' | 'ł' | 'Ł' | 'ĺ' | 'Ĺ' => "l",
        'ñ' | 'Ñ' | 'ń' | 'Ń' | 'ň' | 'Ň' => "n",
        'ò'..='ö' | 'Ò'..='Ö' | 'ø' | 'Ø' | 'ő' | 'Ő' | 'ō' | 'Ō' => "o",
        'ř' | 'Ř' | 'ŕ' | 'Ŕ' => "r",
        'ś' | 'Ś' | 'š' | 'Š' | 'ş' | 'Ş' | 'ș' | 'Ș' => "s",
        'ť' | 'Ť' | 'ţ' | 'Ţ' | 'ț' | 'Ț' => "t",
        'ù'..='ü' | 'Ù'..='Ü' | 'ů' | 'Ů' | 'ű' | 'Ű' | 'ū' | 'Ū' => "u",
        'ý' | 'Ý' | 'ÿ' | 'Ÿ' => "y",
        'ź' | 'Ź' | 'ż' | 'Ż' | 'ž' | 'Ž' => "z",
        'ß' | 'ẞ' => "ss",
        'æ' | 'Æ' => "ae",
        'œ' | 'Œ' => "oe",
        // Vietnamese letters carry two marks.
        '\u{1ea0}'..='\u{1eb7}' => "a",
        '\u{1eb8}'..='\u{1ec7}' => "e",
        '\u{1ec8}'..='\u{1ecb}' => "i",
        '\u{1ecc}'..='\u{1ee3}' | 'ơ' | 'Ơ' => "o",
        '\u{1ee4}'..='\u{1ef1}' | 'ư' | 'Ư' | 'ũ' | 'Ũ' => "u",
        '\u{1ef2}'..='\u{1ef9}' => "y",
        'ģ' | 'Ģ' => "g",
        'ķ' | 'Ķ' => "k",
        'ņ' | 'Ņ' => "n",
        'ļ' | 'Ļ' => "l",
        'ų' | 'Ų' => "u",
        'ё' | 'Ё' => "е",
        'ά' | 'Ά' => "α",
        'έ' | 'Έ' => "ε",
        'ή' | 'Ή' => "η",
        'ί' | 'Ί' | 'ϊ' | 'ΐ' => "ι",
        'ό' | 'Ό' => "ο",
        'ύ' | 'Ύ' | 'ϋ' | 'ΰ' => "υ",
        'ώ' | 'Ώ' => "ω",
        'ς' => "σ",
        '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{b4}' => "'",
        '\u{201c}'..='\u{201f}' | '«' | '»' => "\"",
        '\u{2010}'..='\u{2015}' => "-",
        '\u{3000}' => " ",
        // A mark of its own, left by decomposed text.
        '\u{300}'..='\u{36f}' => "",
        _ => {
            let narrow = match letter {
                // Full-width forms stand 0xFEE0 above ASCII.
                '\u{ff01}'..='\u{ff5e}' => char::from_u32(letter as u32 - 0xfee0).unwrap_or(letter),
                other => other,
            };
            out.extend(narrow.to_lowercase());
            return;
        }
    };
    out.push_str(plain);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> String {
        let mut out = String::new();
        fold_into(&mut out, text);
        out
    }

    #[test]
    fn texts_of_many_spellings_meet() {
        for (text, want) in [
            ("Unknown USER", "unknown user"),
            ("Boîte aux lettres PLEINE", "boite aux lettres pleine"),
            ("ungültige Größe", "ungultige grosse"),
            ("KULLANICI bulunamadı İ", "kullanici bulunamadi i"),
            ("doesn\u{2019}t", "doesn't"),
            ("Ящик переполнен, ещё", "ящик переполнен, еще"),
            ("ＵＳＥＲ", "user"),
            ("Άγνωστος ΧΡΉΣΤΗΣ", "αγνωστοσ χρηστησ"),
            ("Người dùng không tồn tại", "nguoi dung khong ton tai"),
            ("Nezināms ķ", "nezinams k"),
            ("e\u{301}", "e"),
        ] {
            assert_eq!(folded(text), want);
        }
        assert_eq!(folded_pattern(r"\S+ \P{Greek} É\\B"), r"\S+ \P{Greek} e\\b");
    }
}
