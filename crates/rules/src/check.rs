//! Faults that show only between rules: names, the generic rule, what can never win, and examples.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::index::{Entry, MaskIndex};
use crate::parse::{Kind, ReadRule, Reader};
use crate::sources::SourceSet;

/// Steps that the check for unreachable rules may take: about a second in the worst case. Ordinary
/// files need some thousands; only files made of masks with equal ends and wildcards everywhere come
/// near.
const MOST_STEPS: usize = 50_000_000;

/// Every name is there once.
pub(crate) fn names(reader: &mut Reader<'_, '_>, rules: &[ReadRule]) {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for read in rules.iter().filter(|read| !read.rule.name.is_empty()) {
        match seen.entry(&read.rule.name) {
            Slot::Vacant(slot) => {
                slot.insert(read.rule.place.line);
            }
            Slot::Occupied(first) => reader.fault(
                read.name.clone(),
                format!(
                    "rule name `{}` is taken by the rule in line {}",
                    read.rule.name,
                    first.get()
                ),
                "names are unique: levels, logs and answers use them",
            ),
        }
    }
}

/// The generic rule is there, once, at the end.
pub(crate) fn generic(reader: &mut Reader<'_, '_>, rules: &[ReadRule], kind: Kind) {
    let Some((last, before)) = rules.split_last() else { return };
    for read in before.iter().filter(|read| read.rule.is_generic()) {
        let at = read.rule.masks.iter().position(|mask| mask.as_str() == "*");
        let at = at.and_then(|at| read.masks.get(at)).unwrap_or(&read.header).clone();
        reader.fault(
            at,
            "the rule with mask `*` and all sources is not the last one",
            "nothing behind it can ever win: move it to the end, or give it `sources`",
        );
    }
    // Where masks or sources could not be read, that has been said, and this cannot be known.
    let readable = last.sound || last.rule.is_generic();
    let elsewhere = before.iter().any(|read| read.rule.is_generic());
    if kind == Kind::Complete && readable && !elsewhere && !last.rule.is_generic() {
        reader.fault(
            last.header.clone(),
            "the last rule is not the generic one: it must have the mask `*` and all sources",
            "end the file with a rule that has `mask = \"*\"`; every other rule inherits from it",
        );
    }
}

/// Every mask can win for some name and source, and every rule wins for its examples.
pub(crate) fn reach(reader: &mut Reader<'_, '_>, rules: &[ReadRule]) {
    let mut index = MaskIndex::default();
    let mut steps = 0;
    for (number, read) in (0_u32..).zip(rules) {
        if !read.sound {
            continue;
        }
        for (mask_number, mask) in (0_u32..).zip(&read.rule.masks) {
            let at = &read.masks[mask_number as usize];
            steps += masks_that_cover(reader, rules, &index, read, mask_number as usize);
            // The examples of the rule before count too, and are seen here.
            if steps > MOST_STEPS {
                reader.fault(
                    at.clone(),
                    "too many masks up to here have the same end and wildcards in the middle",
                    "they cannot all be checked for rules that never win; use fewer or simpler masks",
                );
                return;
            }
            index.insert(Entry { rule: number, mask: mask_number }, mask);
        }
        steps += examples(reader, rules, &index, number, read);
    }
}

/// Reports the mask if earlier rules take every name and source from it. Returns the steps taken.
fn masks_that_cover(
    reader: &mut Reader<'_, '_>,
    rules: &[ReadRule],
    index: &MaskIndex,
    read: &ReadRule,
    mask_number: usize,
) -> usize {
    let mask = &read.rule.masks[mask_number];
    let mut steps = 0;
    let mut taken: Option<SourceSet> = None;
    let mut first: Option<(&ReadRule, &str)> = None;
    for entry in index.lists_covering(mask).flatten() {
        let earlier = &rules[entry.rule as usize];
        let wide = &earlier.rule.masks[entry.mask as usize];
        if core::ptr::eq(earlier, read) {
            // Masks of one rule may overlap: it wins either way.
            continue;
        }
        steps += wide.as_str().len() * mask.as_str().len();
        if wide.covers(mask) {
            let so_far = taken.get_or_insert_with(|| earlier.rule.sources.clone());
            *so_far = so_far.union(&earlier.rule.sources);
            first.get_or_insert((earlier, wide.as_str()));
        }
        if steps > MOST_STEPS {
            return steps;
        }
    }
    if let (Some(taken), Some((earlier, wide))) = (taken, first)
        && taken.is_superset(&read.rule.sources)
    {
        reader.fault(
            read.masks[mask_number].clone(),
            format!(
                "mask `{mask}` can never win: `{wide}` of rule `{}` in line {} comes first",
                earlier.rule.name, earlier.rule.place.line
            ),
            "put the particular rule before the general one, or drop the mask",
        );
    }
    steps
}

/// The examples of a rule; `index` holds the masks of all rules up to and including it. Returns the
/// steps taken.
fn examples(
    reader: &mut Reader<'_, '_>,
    rules: &[ReadRule],
    index: &MaskIndex,
    number: u32,
    read: &ReadRule,
) -> usize {
    let mut steps = 0;
    let matched = |name: &str| read.rule.masks.iter().any(|mask| mask.matches(name));
    for (name, at) in read.rule.matches.iter().zip(&read.matches) {
        if !matched(name) {
            reader.fault(
                at.clone(),
                format!("rule `{}` does not match its example `{name}`", read.rule.name),
                "mend the mask or the example",
            );
            continue;
        }
        let (earlier, taken_steps) = winner_before(rules, index, number, read, name);
        steps += taken_steps;
        if let Some(earlier) = earlier {
            reader.fault(
                at.clone(),
                format!(
                    "`{name}` goes to rule `{}` in line {}, which comes first",
                    earlier.rule.name, earlier.rule.place.line
                ),
                "put the particular rule before the general one, or mend the example",
            );
        }
    }
    for (name, at) in read.rule.matches_not.iter().zip(&read.matches_not) {
        if matched(name) {
            reader.fault(
                at.clone(),
                format!("rule `{}` matches its counter-example `{name}`", read.rule.name),
                "make the mask narrower or mend the counter-example",
            );
        }
    }
    steps
}

/// The first of the earlier rules that together take `name` for every source of `read`, and the steps
/// taken.
fn winner_before<'rules>(
    rules: &'rules [ReadRule],
    index: &MaskIndex,
    number: u32,
    read: &ReadRule,
    name: &str,
) -> (Option<&'rules ReadRule>, usize) {
    let mut steps = 0;
    let end = name.strip_suffix('.').unwrap_or(name);
    let mut taken: Option<SourceSet> = None;
    let mut first: Option<u32> = None;
    for list in index.lists(end.as_bytes()) {
        for entry in list.iter().take_while(|entry| entry.rule < number) {
            let earlier = &rules[entry.rule as usize].rule;
            steps += earlier.masks[entry.mask as usize].as_str().len() + name.len();
            if earlier.masks[entry.mask as usize].matches(name) {
                let so_far = taken.get_or_insert_with(|| earlier.sources.clone());
                *so_far = so_far.union(&earlier.sources);
                first = Some(first.map_or(entry.rule, |first| first.min(entry.rule)));
            }
        }
    }
    let all_taken = taken.is_some_and(|taken| taken.is_superset(&read.rule.sources));
    (first.filter(|_| all_taken).map(|first| &rules[first as usize]), steps)
}
