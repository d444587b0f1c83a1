//! MX rules: who comes first, examples, names, and the text.

use std::collections::BTreeSet;

use mail::mask::Mask;

use super::super::Dialect;
use super::super::domains::{MOST_MASKS, name_for, shipped_within, short_name};
use super::super::draft::{Draft, DraftRule};
use super::{example_of, heading, list, quoted, settle, write_all};
use crate::figure::Figure;
use crate::index::{Entry, MaskIndex};
use crate::sources::SourceSet;
use crate::span::show_span;

/// A rule that is ready to be written.
struct Ready {
    name: String,
    rule: DraftRule,
    matches: Option<String>,
    matches_not: Option<String>,
    published: Vec<String>,
    place: String,
}

pub(super) fn mx_rules(draft: &mut Draft<'_>) -> Option<String> {
    let mut rules = core::mem::take(&mut draft.rules);
    for rule in &rules {
        // What is not known here was said of each directive already.
        if rule.unreachable.is_none() && !rule.states_something() {
            draft.taken(rule.header, "it states no limit that becomes a rule");
        }
    }
    rules.retain(|rule| rule.unreachable.is_none() && rule.states_something());
    keep_shipped_ceilings(draft, &mut rules);
    rules.sort_by_key(|rule| rule.rank);
    let rules = without_shadows(draft, rules);
    let mut names = BTreeSet::new();
    let mut before = Before::default();
    let mut ready = Vec::new();
    for rule in rules {
        let masks: Vec<Mask> = rule.masks.iter().map(|mask| Mask::new(mask)).collect();
        let sources = sources_of(&rule);
        let matches = example_of(&rule.masks, |name| before.takes(name, &sources));
        let other = rule.masks.iter().map(|mask| format!("{}.example.net", name_for(mask, "mx")));
        let matches_not = other
            .chain(["mx.nobody.invalid".to_owned()])
            .find(|name| !masks.iter().any(|mask| mask.matches(name)));
        let name = name_of(&rule, &masks, &mut names);
        let published = published(draft, &rule, &masks);
        let place = draft.place(rule.header).to_string();
        if rule.has_header {
            let words = format!("rule {name} for MX hosts {}", brief_list(&rule.masks));
            draft.taken(rule.header, words);
        }
        before.push(masks, sources);
        ready.push(Ready { name, rule, matches, matches_not, published, place });
    }
    let without_hour: Vec<String> = ready
        .iter()
        .filter(|one| !one.rule.figures.contains_key(&crate::Figure::MessagesPerHour))
        .map(|one| one.name.clone())
        .collect();
    if !without_hour.is_empty() {
        let base = ready
            .iter()
            .find(|one| one.rule.masks == ["*"] && one.rule.sources.is_empty())
            .and_then(|one| one.rule.figures.get(&crate::Figure::MessagesPerHour));
        let words = match base {
            Some((figure, _)) => format!(
                "{} state no messages per hour and inherit the {} of the generic rule, at each source",
                brief_list(&without_hour),
                crate::show_number(*figure)
            ),
            None => format!(
                "{} state no messages per hour. Nothing is unlimited here: they inherit the 2,500 per hour and source of the shipped generic rule",
                brief_list(&without_hour)
            ),
        };
        draft.note(words);
    }
    let (dialect, mut refusals) = (draft.dialect, Vec::new());
    // The rules that passed last: checking them takes most of the time of an import.
    let checked = core::cell::RefCell::new(None);
    let text = settle(
        ready,
        |ready| {
            write_all(heading(dialect, "MX rules", None), ready, |one| write_rule(dialect, one))
        },
        |text| {
            let file = crate::parse_local("imported", text.as_bytes())?;
            checked.replace(Some(file));
            Ok(())
        },
        |one, why| {
            let mut ids = one.rule.directives.clone();
            ids.push(one.rule.header);
            refusals.push((ids, why.to_owned()));
        },
    );
    for (ids, why) in refusals {
        draft.withdraw(&ids, &why);
    }
    if let Some(local) = checked.into_inner().filter(|_| text.is_some()) {
        for replaced in crate::replaced(&local, crate::shipped()) {
            lost_figures(draft, &replaced);
        }
    }
    text
}

/// Says, figure by figure, what a shipped rule said and the imported rule in its place does not.
fn lost_figures(draft: &mut Draft<'_>, replaced: &crate::Replaced) {
    if replaced.dropped.is_empty() {
        return;
    }
    let gone: Vec<String> = replaced.dropped.iter().map(ToString::to_string).collect();
    draft.note(format!(
        "rule {} takes the place of the shipped rule {}, which says what this one does not: {}. State in it what shall go on",
        replaced.by,
        replaced.shipped,
        gone.join("; ")
    ));
}

/// Holds the generic rule to the shipped one's figures: every shipped rule that states none of its own inherits them,
/// and no import may press all providers harder than before. What is for all hosts from one source alone would come
/// before every shipped rule, so it is no rule at all.
fn keep_shipped_ceilings(draft: &mut Draft<'_>, rules: &mut Vec<DraftRule>) {
    let Some(shipped) = crate::shipped().generic() else { return };
    for rule in rules.iter_mut().filter(|rule| rule.masks == ["*"] && rule.sources.is_empty()) {
        for (figure, (value, id)) in &mut rule.figures {
            let Some(cap) = shipped.figures.get(*figure).map(|stated| stated.value) else {
                continue;
            };
            if figure.passes(*value, cap) {
                let otherwise = match figure {
                    Figure::MessagesPerHour => ", or [rules] hourly_base in the configuration",
                    _ => "",
                };
                draft.differs(
                    *id,
                    format!(
                        "KEPT at the shipped {}, because every shipped rule that states none inherits it and {} would loosen them all: state more at the rules that may{otherwise}",
                        figure.show(cap),
                        figure.show(*value)
                    ),
                );
                *value = cap;
            }
        }
    }
    rules.retain(|rule| {
        let all_hosts = rule.masks == ["*"] && !rule.sources.is_empty();
        if all_hosts {
            let why = "a rule for all hosts from one source would come before every shipped rule and loosen those that say less; a cap for the source is said in [[source]] or by warm-up";
            draft.withdraw(&rule.directives, why);
            draft.not_taken(rule.header, why);
        }
        !all_hosts
    });
}

fn sources_of(rule: &DraftRule) -> SourceSet {
    let ids: Vec<String> = rule.sources.iter().map(ToString::to_string).collect();
    SourceSet::parse(&ids.join(",")).unwrap_or_else(|_| SourceSet::all())
}

/// The rules that are tried before the next one.
#[derive(Default)]
struct Before {
    index: MaskIndex,
    rules: Vec<(Vec<Mask>, SourceSet)>,
}

impl Before {
    fn push(&mut self, masks: Vec<Mask>, sources: SourceSet) {
        let rule = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        for (mask, text) in (0_u32..).zip(&masks) {
            self.index.insert(Entry { rule, mask }, text);
        }
        self.rules.push((masks, sources));
    }

    fn of(&self, entry: &Entry) -> (&Mask, &SourceSet) {
        let (masks, sources) = &self.rules[entry.rule as usize];
        (&masks[entry.mask as usize], sources)
    }

    /// Whether they take a name from all of these sources.
    fn takes(&self, name: &str, sources: &SourceSet) -> bool {
        let lists = self.index.lists(name.as_bytes());
        let hit =
            lists.flatten().map(|entry| self.of(entry)).filter(|(mask, _)| mask.matches(name));
        Self::all(hit.map(|(_, set)| set)).is_some_and(|all| all.is_superset(sources))
    }

    /// The first of those that together take a mask from all of these sources.
    fn covers(&self, mask: &Mask, sources: &SourceSet) -> Option<usize> {
        let lists = self.index.lists_covering(mask);
        let hit: Vec<&Entry> =
            lists.flatten().filter(|entry| self.of(entry).0.covers(mask)).collect();
        let all = Self::all(hit.iter().map(|entry| self.of(entry).1))?;
        let first = hit.iter().map(|entry| entry.rule as usize).min();
        first.filter(|_| all.is_superset(sources))
    }

    fn all<'a>(sets: impl Iterator<Item = &'a SourceSet>) -> Option<SourceSet> {
        sets.fold(None, |all: Option<SourceSet>, set| {
            Some(all.map_or_else(|| set.clone(), |all| all.union(set)))
        })
    }
}

/// Drops masks that earlier rules take, and rules that have none left; says so.
fn without_shadows(draft: &mut Draft<'_>, rules: Vec<DraftRule>) -> Vec<DraftRule> {
    let mut before = Before::default();
    let mut kept: Vec<DraftRule> = Vec::new();
    for mut rule in rules {
        let sources = sources_of(&rule);
        let mut lost: Option<(String, usize)> = None;
        rule.masks.retain(|text| {
            let first = before.covers(&Mask::new(text), &sources);
            if let Some(at) = first {
                lost.get_or_insert((text.clone(), at));
            }
            first.is_none()
        });
        if let Some((mask, at)) = &lost {
            let place = draft.place(kept[*at].header).clone();
            if rule.masks.is_empty() {
                let words = format!(
                    "its MX hosts ({mask}) are those of the rule that comes from {place}, which is tried first"
                );
                draft.withdraw(&rule.directives, &words);
                if rule.has_header {
                    draft.not_taken(rule.header, words);
                }
                continue;
            }
            draft.differs(
                rule.header,
                format!("{mask} stays with the rule that comes from {place}, which is tried first"),
            );
        }
        if rule.masks.len() > MOST_MASKS {
            let words = format!("more than {MOST_MASKS} masks: the others are left out");
            draft.differs(rule.header, words);
            rule.masks.truncate(MOST_MASKS);
        }
        before.push(rule.masks.iter().map(|mask| Mask::new(mask)).collect(), sources);
        kept.push(rule);
    }
    kept
}

/// A free name: that of the shipped rule that this one replaces, else one made of its label.
fn name_of(rule: &DraftRule, masks: &[Mask], names: &mut BTreeSet<String>) -> String {
    let label = match short_name(&rule.label) {
        empty if empty.is_empty() => "imported".to_owned(),
        label => label,
    };
    let replaced = shipped_within(masks).filter(|_| rule.sources.is_empty() && rule.masks != ["*"]);
    let is_shipped = |name: &str| {
        let same =
            crate::shipped().rules().iter().any(|rule| *rule.name == *name && !rule.is_generic());
        same && replaced.is_none_or(|shipped| *shipped.name != *name)
    };
    let first = replaced.map_or(label.clone(), |shipped| shipped.name.to_string());
    let own = format!("{label}-own");
    let numbered = (2_u32..).map(|number| format!("{label}-{number}"));
    let free = [first, label.clone(), own]
        .into_iter()
        .chain(numbered)
        .find(|name| !names.contains(name) && !is_shipped(name))
        .expect("some number is free");
    names.insert(free.clone());
    free
}

/// Ceilings that the shipped rule of the same hosts has; says where a figure passes one.
fn published(draft: &mut Draft<'_>, rule: &DraftRule, masks: &[Mask]) -> Vec<String> {
    let Some(shipped) = shipped_within(masks).filter(|_| rule.masks != ["*"]) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for (figure, (value, id)) in &rule.figures {
        let (Some(cap), Some(key)) = (shipped.cap(*figure), figure.published_key()) else {
            continue;
        };
        let shown = figure.show(cap);
        if figure.passes(*value, cap) {
            draft.differs(
                *id,
                format!(
                    "it passes the {shown} that the provider publishes or gave (shipped rule {}); lower it unless it was agreed",
                    shipped.name
                ),
            );
        } else {
            lines.push(format!("{key} = {cap}"));
        }
    }
    lines
}

/// A few of many names.
fn brief_list(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(4).map(String::as_str).collect();
    match names.len() {
        0..=4 => shown.join(", "),
        all => format!("{} and {} more", shown.join(", "), all - 4),
    }
}

fn write_rule(dialect: Dialect, one: &Ready) -> String {
    let rule = &one.rule;
    let mut text = format!("[[rule]]\nname = {}\n", quoted(&one.name));
    if one.name != rule.label && !rule.label.trim().is_empty() {
        let plain: String =
            rule.label.chars().filter(|letter| !letter.is_control()).take(200).collect();
        text += &format!("provider = {}\n", quoted(&plain));
    }
    text += &format!("mask = {}\n", list(&rule.masks));
    if !rule.sources.is_empty() {
        let ids: Vec<String> = rule.sources.iter().map(ToString::to_string).collect();
        text += &format!("sources = {}\n", quoted(&ids.join(",")));
    }
    text += &format!("scope = {}\n", quoted(&rule.scope.to_string()));
    for (figure, (value, _)) in &rule.figures {
        let value = match figure {
            crate::Figure::MinInterval => {
                quoted(&show_span(core::time::Duration::from_millis(*value)))
            }
            _ => value.to_string(),
        };
        text += &format!("{} = {value}\n", figure.key());
    }
    for line in &one.published {
        text += &format!("{line}\n");
    }
    for (key, span) in [
        ("connect_timeout", rule.connect_timeout),
        ("data_timeout", rule.data_timeout),
        ("timeout", rule.timeout),
    ] {
        if let Some(span) = span {
            text += &format!("{key} = {}\n", quoted(&show_span(span)));
        }
    }
    if let Some(tls) = rule.tls {
        text += &format!("tls = {}\n", quoted(&tls.to_string()));
    }
    if let Some(pacing) = rule.pacing {
        text += &format!("pacing = {}\n", quoted(&pacing.to_string()));
    }
    let from = format!("imported from {}: {}", dialect.name(), one.place);
    text += &format!("source_of_figures = {}\nconfidence = \"low\"\n", quoted(&from));
    if let Some(name) = &one.matches {
        text += &format!("matches = {}\n", quoted(name));
    }
    if let Some(name) = &one.matches_not {
        text += &format!("matches_not = {}\n", quoted(name));
    }
    if !rule.domains.is_empty() {
        let domains: Vec<String> = rule.domains.iter().take(1_000).cloned().collect();
        text += &format!("domains = {}\n", list(&domains));
    }
    text
}
