//! Replies that a regular expression matches, made of the expression itself: an imported rule has no examples,
//! and every rule of ours must have them.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::bounce::{fold_words_into, pattern};

/// Octets of an example.
const LONGEST: usize = 1_000;
/// Replies of which one serves as the counter-example.
const OTHERS: [&str; 4] = [
    "550 5.1.1 no such user here",
    "452 4.2.2 the mailbox is full",
    "250 2.0.0 queued as 7F3",
    "354 go ahead",
];

/// Makes a reply that a pattern matches, if our reaction rules can use the pattern.
///
/// # Errors
///
/// Why it cannot be used here, in words.
pub(super) fn tried(written: &str) -> Result<String, String> {
    if written.chars().count() > 500 {
        return Err("the pattern is longer than 500 characters".to_owned());
    }
    if written.chars().any(char::is_control) {
        return Err("the pattern holds a control character".to_owned());
    }
    let read = pattern::read(written).map_err(|fault| format!("the pattern {fault}"))?;
    let compiled =
        pattern::compile(&read.source).map_err(|fault| format!("the pattern {fault}"))?;
    let hir = regex_syntax::ParserBuilder::new()
        .nest_limit(32)
        .unicode(false)
        .utf8(false)
        .build()
        .parse(&read.source)
        .map_err(|_| "the pattern is no regular expression".to_owned())?;
    // Where any letter will do a blank reads best; but several blanks are read as one, which a pattern with blanks
    // around its `.*` does not match.
    let spelt = [b' ', b'x'].into_iter().filter_map(|any| {
        let mut text = Vec::new();
        spell(&hir, any, &mut text)?;
        String::from_utf8(text).ok()
    });
    // A reply begins with a code, unless the pattern says how it begins.
    let mut candidates = spelt.flat_map(|text| [format!("450 4.7.1 {text}"), text]);
    let matches = candidates.find(|reply| matches_folded(&compiled, reply));
    let matches = matches.ok_or("no reply could be made that the pattern matches")?;
    no_hit([written]).ok_or("the pattern matches every reply")?;
    Ok(matches)
}

/// A reply that none of these patterns matches.
pub(super) fn no_hit<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let mut others = OTHERS.to_vec();
    for pattern in patterns {
        others.retain(|reply| !hits(pattern, reply));
    }
    others.first().copied()
}

/// Whether a pattern that [`tried`] accepts matches a reply.
pub(super) fn hits(written: &str, reply: &str) -> bool {
    pattern::read(written)
        .and_then(|read| pattern::compile(&read.source))
        .is_ok_and(|compiled| matches_folded(&compiled, reply))
}

/// Whether a pattern matches a reply as the reaction rules read it: words apart by one blank, in small letters.
fn matches_folded(compiled: &regex::bytes::Regex, reply: &str) -> bool {
    let mut folded = String::new();
    fold_words_into(&mut folded, reply);
    compiled.is_match(folded.as_bytes())
}

/// Appends a short text that the expression matches; `None`: there is none, or it is too long.
fn spell(hir: &Hir, any: u8, out: &mut Vec<u8>) -> Option<()> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(class) => out.push(letter_of(class, any)?),
        HirKind::Capture(capture) => spell(&capture.sub, any, out)?,
        HirKind::Alternation(parts) => spell(parts.first()?, any, out)?,
        HirKind::Concat(parts) => {
            for part in parts {
                spell(part, any, out)?;
                if out.len() > LONGEST {
                    return None;
                }
            }
        }
        HirKind::Repetition(repetition) => {
            // What may be left out is left out, but words joined by `.*` read better with a blank.
            let once = repetition.min == 0 && repetition.max.is_none();
            for _ in 0..repetition.min.max(u32::from(once)).min(1_001) {
                spell(&repetition.sub, any, out)?;
                if out.len() > LONGEST {
                    return None;
                }
            }
        }
    }
    (out.len() <= LONGEST).then_some(())
}

/// A plain letter of a class: `any` if the class has it, else a digit or a small letter where it has one.
fn letter_of(class: &Class, any: u8) -> Option<u8> {
    let has = |letter: u8| match class {
        Class::Bytes(class) => {
            class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&letter))
        }
        Class::Unicode(class) => class
            .ranges()
            .iter()
            .any(|range| (range.start()..=range.end()).contains(&char::from(letter))),
    };
    [any, b' ']
        .into_iter()
        .chain(b'0'..=b'9')
        .chain(b'a'..=b'z')
        .chain(b'!'..=b'~')
        .find(|one| has(*one))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_are_made() {
        for written in [
            r"\[TSS04\]",
            r"^421 4\.7\.0 \[(TS0[12]|TSS04)\]",
            r"(?i)too many (connections|sessions) from \d+\.\d+",
            r"unusual rate.*mail",
            r"too many .* from \S+ today",
            r"(rate|flow) limit(ed)? exceeded$",
            "Dépassement",
            // The blank at the end of the first branch is not in the reply as it is read; the last branch matches it.
            r"^\? |a| .$$",
        ] {
            let made = tried(written).unwrap_or_else(|why| panic!("{written}: {why}"));
            assert!(hits(written, &made), "{written}: {made}");
        }
        for bad in ["", ".*", "(", r"(?<=a)b", r"(a)\1", r"[\s\S]", "a{2000}", "a\u{0}"] {
            assert!(tried(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_made_is_true(written in r"[a-c .*+?()\[\]|\\d0-9^$]{0,20}") {
            if let Ok(made) = tried(&written) {
                prop_assert!(hits(&written, &made));
                let other = no_hit([written.as_str()]).expect("it was tried");
                prop_assert!(!hits(&written, other));
            }
        }
    }
}
