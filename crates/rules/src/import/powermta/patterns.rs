//! `<smtp-pattern-list>` with the backoff of the domains that use it: reactions.

use core::time::Duration;

use super::super::draft::{DirectiveId, Draft, DraftReaction, DraftRule};
use super::super::example::{no_hit, tried};
use super::super::rate::{self, Throttle};
use super::{Block, Contents, DomainBlock, Line};
use crate::span::show_span;

/// Patterns of one reaction: each has an example, and a rule takes 64.
const MOST_PATTERNS: usize = 60;
/// How long backoff lasts where nothing is said.
const BACKOFF_LASTS: Duration = Duration::from_secs(3_600);

/// A pattern that puts a domain into backoff.
struct Usable {
    id: DirectiveId,
    pattern: String,
    /// A reply that it matches.
    matches: String,
}

/// Makes reactions of the lists that domains use.
pub(super) fn reactions(
    draft: &mut Draft<'_>,
    root: &Contents,
    blocks: &[DomainBlock],
    rules: &[DraftRule],
) {
    let generic = blocks.iter().position(|block| block.is_generic() && block.virtual_mta.is_none());
    let lists: Vec<&Block> = root.named("smtp-pattern-list").collect();
    let mut usable: Vec<Vec<Usable>> = Vec::new();
    for list in &lists {
        usable
            .push(list.inside.lines.iter().filter_map(|line| read_pattern(draft, line)).collect());
    }
    let mut used = vec![false; lists.len()];
    for (at, (block, rule)) in blocks.iter().zip(rules).enumerate() {
        let Some(line) = block.last("smtp-pattern-list") else { continue };
        let name = line.value.trim();
        let Some(number) = lists.iter().position(|list| list.argument.trim() == name) else {
            draft.not_taken(line.id, format!("there is no <smtp-pattern-list {name}>"));
            continue;
        };
        if let Some(why) = rule.unreachable.clone() {
            draft.not_taken(line.id, why);
            continue;
        }
        if block.virtual_mta.is_some() {
            draft.not_taken(line.id, "a reaction is about whichever source heard the reply; say it outside of the <virtual-mta>");
            continue;
        }
        used[number] = true;
        let base = generic.filter(|base| *base != at).map(|base| &blocks[base]);
        one_list(draft, block, base, rule, line, &usable[number]);
    }
    for (list, used) in lists.iter().zip(used) {
        match used {
            true => draft.taken(list.id, "reactions of the domains that use it"),
            false => {
                let why = "no <domain> that became a rule uses it";
                draft.not_taken(list.id, why);
                for line in &list.inside.lines {
                    draft.withdraw(&[line.id], why);
                    draft.not_taken(line.id, why);
                }
            }
        }
    }
    for block in blocks {
        for line in block.lines.iter().filter(|line| line.name.starts_with("backoff-")) {
            if !draft.has_fate(line.id) {
                let why = match line.name.as_str() {
                    "backoff-notify" => {
                        "alerts are in `mailweir stat alerts` and at /api/v1/alerts"
                    }
                    "backoff-to-normal-after-delivery" => {
                        "a reaction ends in steps, not at the first delivery"
                    }
                    "backoff-reroute-to-virtual-mta" => {
                        "mail goes to other sources of its affinity by itself"
                    }
                    "backoff-max-msg-rate"
                    | "backoff-max-connect-rate"
                    | "backoff-retry-after"
                    | "backoff-to-normal-after"
                    | "backoff-max-msg-per-hour" => {
                        "no smtp-pattern-list puts the domain into backoff, or the rates decide"
                    }
                    _ => "not a directive that is known here",
                };
                draft.not_taken(line.id, why);
            }
        }
    }
}

/// `reply /pattern/ mode=backoff`.
fn read_pattern(draft: &mut Draft<'_>, line: &Line) -> Option<Usable> {
    let parts = line.value.trim().strip_prefix('/').and_then(|rest| rest.rsplit_once('/'));
    let Some((pattern, action)) = parts.filter(|_| line.name == "reply") else {
        draft.not_taken(line.id, "it is not `reply /pattern/ mode=backoff`");
        return None;
    };
    let action = action.trim().to_ascii_lowercase();
    if action != "mode=backoff" {
        let why = match action.as_str() {
            "mode=normal" => "a reaction ends by itself, in steps".to_owned(),
            "skip-mx" => "bounce rules say which replies lead to another path (other-path)".to_owned(),
            other if other.starts_with("bounce-queue") => {
                "mail of a queue is not failed at one stroke; pause the delivery, or let its validity end".to_owned()
            }
            other => format!("the action {other} is not known here"),
        };
        draft.not_taken(line.id, why);
        return None;
    }
    match tried(pattern) {
        Ok(matches) => Some(Usable { id: line.id, pattern: pattern.to_owned(), matches }),
        Err(why) => {
            draft.not_taken(line.id, why);
            None
        }
    }
}

/// The reactions of one domain with its list.
fn one_list(
    draft: &mut Draft<'_>,
    block: &DomainBlock,
    base: Option<&DomainBlock>,
    rule: &DraftRule,
    line: &Line,
    usable: &[Usable],
) {
    let find = |name: &str| block.last(name).or_else(|| base.and_then(|base| base.last(name)));
    let rate_of = |name: &str| {
        let line = find(name)?;
        match rate::powermta(&line.value) {
            Some(Throttle::Rate(rate)) => Some((rate, line.id)),
            _ => None,
        }
    };
    let span_of = |name: &str| {
        let line = find(name)?;
        rate::span(&line.value, 1)
            .filter(|span| *span >= Duration::from_secs(1))
            .map(|span| (span, line.id))
    };
    let to_normal = span_of("backoff-to-normal-after");
    let mut lasts = to_normal.map_or(BACKOFF_LASTS, |(span, _)| span);
    let mut rests_on: Vec<(DirectiveId, String)> = Vec::new();
    if let Some((span, id)) = to_normal {
        rests_on
            .push((id, format!("reaction: for = {}; then it recovers in steps", show_span(span))));
    }
    let mut effect = Vec::new();
    if let Some((rate, id)) = rate_of("backoff-max-msg-rate") {
        let per_hour = rate.per_hour().min(60_000_000);
        effect.push(format!("messages_per_hour = {per_hour}"));
        rests_on
            .push((id, format!("reaction: slow to {per_hour} messages an hour, spread evenly")));
    }
    if let Some((rate, id)) = rate_of("backoff-max-connect-rate") {
        let per_hour = rate.per_hour().min(1_000_000);
        effect.push(format!("connections_per_hour = {per_hour}"));
        rests_on
            .push((id, format!("reaction: slow to {per_hour} connections an hour, spread evenly")));
    }
    if effect.is_empty() {
        // Without a rate, backoff means: later again.
        effect.push("action = \"suspend\"".to_owned());
        if let Some((span, id)) = span_of("backoff-retry-after") {
            lasts = span;
            rests_on.push((id, format!("reaction: suspend for {}", show_span(span))));
        }
    } else {
        effect.insert(0, "action = \"slow\"".to_owned());
    }
    let lasts = lasts.min(Duration::from_secs(30 * 86_400));
    if usable.is_empty() {
        draft.not_taken(line.id, "none of its patterns could be taken");
        return;
    }
    for part in usable.chunks(MOST_PATTERNS) {
        let Some(other) = no_hit(part.iter().map(|one| one.pattern.as_str())) else {
            draft.not_taken(line.id, "together its patterns match every reply");
            continue;
        };
        let mut directives: Vec<DirectiveId> = part.iter().map(|one| one.id).collect();
        directives.push(line.id);
        draft.reactions.push(DraftReaction {
            label: format!("{}-backoff", block.label.replace('*', "all")),
            masks: if block.is_generic() { Vec::new() } else { rule.masks.clone() },
            text: part.iter().map(|one| one.pattern.clone()).collect(),
            matches: part.iter().map(|one| one.matches.clone()).collect(),
            matches_not: other.to_owned(),
            hits: 1,
            within: Duration::from_secs(3_600),
            scope: "source-at-provider",
            effect: effect.clone(),
            lasts: Some(lasts),
            goes_on: false,
            directives,
        });
    }
    let what = effect.join(", ");
    for one in usable {
        draft.differs(
            one.id,
            format!(
                "reaction of {}: {what} for {}; it ends in steps",
                block.label,
                show_span(lasts)
            ),
        );
    }
    draft.taken(line.id, "reactions of the domain");
    for (id, words) in rests_on {
        draft.differs(id, words);
    }
}
