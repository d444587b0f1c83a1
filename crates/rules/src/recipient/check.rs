//! Faults that show only between rules: names, masks that can never win, and examples.

use super::parse::ReadRule;
use crate::index::{Entry, MaskIndex};
use crate::parse::Reader;
use crate::parse::versioned::unique_names;

/// Steps that the check for masks that never win may take: about a second in the worst case.
const MOST_STEPS: usize = 50_000_000;

/// Every name is there once.
pub(super) fn names<T>(reader: &mut Reader<'_, '_>, rules: &[ReadRule<T>]) {
    let named = rules.iter().filter(|read| !read.rule.to.name.is_empty());
    let named = named.map(|read| (&*read.rule.to.name, &read.name, &read.rule.to.place));
    unique_names(reader, named, "logs and levels");
}

/// Every mask can win for some domain, and every rule wins for its examples.
pub(super) fn reach<T>(reader: &mut Reader<'_, '_>, rules: &[ReadRule<T>]) {
    let mut index = MaskIndex::default();
    let mut steps = 0;
    for (number, read) in (0_u32..).zip(rules) {
        if !read.sound {
            continue;
        }
        let to = &read.rule.to;
        for (mask_number, mask) in (0_u32..).zip(&to.masks) {
            let at = &read.masks[mask_number as usize];
            for entry in index.lists_covering(mask).flatten().filter(|entry| entry.rule < number) {
                let earlier = &rules[entry.rule as usize].rule.to;
                let wide = &earlier.masks[entry.mask as usize];
                steps += wide.as_str().len() * mask.as_str().len();
                if steps > MOST_STEPS {
                    let help = "use fewer or simpler masks";
                    reader.fault(at.clone(), "too many masks up to here to be compared", help);
                    return;
                }
                if wide.covers(mask) {
                    let message = format!(
                        "mask `{mask}` can never win: `{wide}` of rule `{}` in line {} comes first",
                        earlier.name, earlier.place.line
                    );
                    let help = "put the particular rule before the general one, or drop the mask";
                    reader.fault(at.clone(), message, help);
                    break;
                }
            }
            index.insert(Entry { rule: number, mask: mask_number }, mask);
        }
        examples(reader, rules, &index, number);
    }
}

/// The examples of a rule; `index` holds the masks of all rules up to and including it.
fn examples<T>(reader: &mut Reader<'_, '_>, rules: &[ReadRule<T>], index: &MaskIndex, number: u32) {
    let read = &rules[number as usize];
    let to = &read.rule.to;
    let matched = |name: &str| to.masks.iter().any(|mask| mask.matches(name));
    for (name, at) in to.matches.iter().zip(&read.matches) {
        if !matched(name) {
            let message = format!("rule `{}` does not match its example `{name}`", to.name);
            reader.fault(at.clone(), message, "mend the mask or the example");
            continue;
        }
        let folded = name.to_ascii_lowercase();
        let takes = |entry: &&Entry| {
            entry.rule < number
                && rules[entry.rule as usize].rule.to.masks[entry.mask as usize].matches(&folded)
        };
        let lists = index.lists(folded.as_bytes());
        if let Some(first) = lists.filter_map(|list| list.iter().find(takes)).min() {
            let first = &rules[first.rule as usize].rule.to;
            let message = format!(
                "`{name}` goes to rule `{}` in line {}, which comes first",
                first.name, first.place.line
            );
            let help = "put the particular rule before the general one, or mend the example";
            reader.fault(at.clone(), message, help);
        }
    }
    for (name, at) in to.matches_not.iter().zip(&read.matches_not) {
        if matched(name) {
            let message = format!("rule `{}` matches its counter-example `{name}`", to.name);
            reader.fault(at.clone(), message, "make the mask narrower or mend the counter-example");
        }
    }
}
