//! The configuration of PowerMTA.
//!
//! Read are `<domain>` blocks, also within `<virtual-mta>`, with what they say of limits, TLS, routes, retries and
//! backoff; `domain-macro`; lists of MX roll-ups; `<smtp-pattern-list>`; `<virtual-mta>` and pools as sources and
//! affinities. Limits count per domain queue and virtual MTA there; ours count per source over all MX hosts of a
//! rule.

use std::collections::{BTreeMap, BTreeSet};

use super::ReadInclude;
use super::domains::mask_of;
use super::draft::{DirectiveId, Draft, DraftRule, shown};
use super::kumomta::unknown_hosts;
use crate::diagnostic::{Diagnostic, Source};
use crate::words::Scope;

mod domain;
mod lines;
mod machine;
mod patterns;

use lines::{Block, Contents, Line};

/// Names that one macro stands for, with those of macros within it.
const MOST_NAMES: usize = 10_000;
/// Macros within macros.
const DEEPEST_MACRO: usize = 8;

/// What is known of the whole configuration.
#[derive(Debug, Default)]
struct Known {
    macros: BTreeMap<String, Vec<String>>,
    /// Masks of MX hosts by the name of their roll-up.
    rollups: BTreeMap<String, Vec<(String, DirectiveId)>>,
    /// Public ids of the virtual MTAs.
    sources: BTreeMap<String, u32>,
}

/// A `<domain>` block, or several for the same names joined.
#[derive(Debug)]
struct DomainBlock {
    header: DirectiveId,
    label: String,
    names: Vec<String>,
    virtual_mta: Option<String>,
    lines: Vec<Line>,
    /// Why its names cannot be used.
    fault: Option<String>,
}

impl DomainBlock {
    fn is_generic(&self) -> bool {
        self.names == ["*"]
    }

    /// The last directive of a name: that is the one that holds.
    fn last(&self, name: &str) -> Option<&Line> {
        self.lines.iter().rev().find(|line| line.name == name)
    }
}

/// Reads files into the draft; answers the faults of the files.
pub(super) fn read(
    draft: &mut Draft<'_>,
    files: &[Source<'_>],
    include: &mut ReadInclude<'_>,
) -> Vec<Diagnostic> {
    let mut root = Contents::default();
    let faults = lines::read(draft, files, include, &mut root);
    if faults.is_empty() {
        translate(draft, &root);
    }
    faults
}

fn translate(draft: &mut Draft<'_>, root: &Contents) {
    let mut known = Known::default();
    macros(draft, root, &mut known);
    rollups(draft, root, &mut known);
    machine::virtual_mtas(draft, root, &mut known);
    machine::globals(draft, root);
    let mut blocks = Vec::new();
    for block in &root.blocks {
        match block.name.as_str() {
            "domain" => gather(draft, &mut blocks, block, None, &known),
            "virtual-mta" => {
                for inner in &block.inside.blocks {
                    match inner.name.as_str() {
                        "domain" => {
                            gather(draft, &mut blocks, inner, Some(&block.argument), &known)
                        }
                        _ => unknown_block(draft, inner),
                    }
                }
            }
            "virtual-mta-pool" | "smtp-pattern-list" | "domain-macro" | "mx-rollup-list" => {
                for inner in &block.inside.blocks {
                    unknown_block(draft, inner);
                }
            }
            _ => unknown_block(draft, block),
        }
    }
    queues(draft, &mut blocks);
    used_rollups(draft, root, &known, &blocks);
    let mut rules: Vec<DraftRule> = Vec::new();
    for block in &blocks {
        let mut rule = hosts(draft, block, &known);
        for line in &block.lines {
            domain::directive(draft, block, &mut rule, line);
        }
        rules.push(rule);
    }
    for at in 0..blocks.len() {
        let same = |one: &DomainBlock| one.names == blocks[at].names && one.virtual_mta.is_none();
        if blocks[at].virtual_mta.is_some()
            && let Some(base) = blocks.iter().position(same)
            && rules[base].unreachable.is_none()
        {
            let base = rules[base].clone();
            rules[at].complete_from(&base);
        }
    }
    patterns::reactions(draft, root, &blocks, &rules);
    draft.rules = rules;
}

/// A block that means nothing here, with all that is in it.
fn unknown_block(draft: &mut Draft<'_>, block: &Block) {
    let why = match block.name.as_str() {
        "bounce-category-patterns" => {
            "bounce categories are not bounce rules: those want a reason, a type and examples"
        }
        "source" | "smtp-user" | "smtp-listener" => {
            "who may hand mail in is said in [submission] and [http] of the configuration"
        }
        "acct-file"
        | "http-access"
        | "feedback-loop-processor"
        | "bounce-processor"
        | "pickup-options" => "it steers something other than delivery limits",
        _ => "not a block that is known here",
    };
    draft.not_taken(block.id, why);
    for line in &block.inside.lines {
        draft.not_taken(line.id, format!("within <{}>: {why}", block.name));
    }
    for inner in &block.inside.blocks {
        unknown_block(draft, inner);
    }
}

/// Names in a list: separated by blanks and commas, in braces or not.
fn names_in(text: &str) -> Vec<String> {
    text.split(|letter: char| letter.is_whitespace() || matches!(letter, ',' | '{' | '}' | '"'))
        .filter(|name| !name.is_empty())
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

/// `domain-macro NAME a, b` and `<domain-macro NAME>`.
fn macros(draft: &mut Draft<'_>, root: &Contents, known: &mut Known) {
    for line in root.lines.iter().filter(|line| line.name == "domain-macro") {
        let mut names = names_in(&line.value).into_iter();
        let Some(name) = names.next() else {
            draft.not_taken(line.id, "it names no macro");
            continue;
        };
        let all: Vec<String> = names.collect();
        draft.taken(line.id, format!("the macro ${name}: {} names", all.len()));
        known.macros.insert(name.trim_start_matches('$').to_owned(), all);
    }
    for block in root.named("domain-macro") {
        let name = block.argument.trim().trim_start_matches('$').to_ascii_lowercase();
        let mut all = Vec::new();
        for line in &block.inside.lines {
            // A name alone, or `domain NAME`.
            let text = match line.name.as_str() {
                "domain" => line.value.clone(),
                name => format!("{name} {}", line.value),
            };
            all.extend(names_in(&text));
            draft.taken(line.id, format!("part of the macro ${name}"));
        }
        draft.taken(block.id, format!("the macro ${name}: {} names", all.len()));
        known.macros.insert(name, all);
    }
}

/// What names stand for; `$name` is a macro.
fn expand(
    known: &Known,
    names: &[String],
    open: &mut Vec<String>,
    out: &mut Vec<String>,
) -> Result<(), String> {
    for name in names {
        let Some(inner) = name.strip_prefix('$') else {
            if out.len() >= MOST_NAMES {
                return Err(format!("its macros stand for more than {MOST_NAMES} names"));
            }
            if !out.contains(name) {
                out.push(name.clone());
            }
            continue;
        };
        if open.iter().any(|one| one == inner) {
            return Err(format!("the macro ${} stands for itself", shown(inner)));
        }
        if open.len() >= DEEPEST_MACRO {
            return Err(format!("macros within macros, deeper than {DEEPEST_MACRO}"));
        }
        let Some(all) = known.macros.get(inner) else {
            return Err(format!("there is no macro ${}", shown(inner)));
        };
        open.push(inner.to_owned());
        expand(known, all, open, out)?;
        open.pop();
    }
    Ok(())
}

/// `<mx-rollup-list>` with `mx MASK NAME`.
fn rollups(draft: &mut Draft<'_>, root: &Contents, known: &mut Known) {
    for block in root.named("mx-rollup-list") {
        for line in &block.inside.lines {
            let parts = names_in(&line.value);
            match (line.name.as_str(), parts.as_slice()) {
                ("mx", [mask, name]) => match mask_of(mask) {
                    // Whether it comes to anything is known when the <domain> blocks are.
                    Some(mask) => {
                        known.rollups.entry(name.clone()).or_default().push((mask, line.id))
                    }
                    None => draft.not_taken(
                        line.id,
                        "a mask is a host name with `*` and `?`; patterns are not",
                    ),
                },
                _ => draft.not_taken(line.id, "it is not `mx MASK NAME`"),
            }
        }
    }
}

/// Says of each roll-up whether a `<domain>` block states something for it: without one, no rule is written.
fn used_rollups(draft: &mut Draft<'_>, root: &Contents, known: &Known, blocks: &[DomainBlock]) {
    let mut any = false;
    for (name, masks) in &known.rollups {
        let used = blocks.iter().any(|block| block.names.contains(name));
        any |= used;
        for (mask, id) in masks {
            match used {
                true => draft.taken(*id, format!("mask {mask} of the rule {name}")),
                false => draft.not_taken(
                    *id,
                    format!(
                        "no <domain {}> states a limit for it, so no rule is written",
                        shown(name)
                    ),
                ),
            }
        }
    }
    for block in root.named("mx-rollup-list") {
        match any {
            true => draft.taken(block.id, "names for masks of MX hosts"),
            false => draft.not_taken(block.id, "no <domain> uses a name of it"),
        }
    }
}

/// Takes a `<domain>` block into the list, joined with earlier ones for the same names.
fn gather(
    draft: &mut Draft<'_>,
    blocks: &mut Vec<DomainBlock>,
    block: &Block,
    virtual_mta: Option<&String>,
    known: &Known,
) {
    let written = names_in(&block.argument);
    let mut names = Vec::new();
    let fault = match expand(known, &written, &mut Vec::new(), &mut names) {
        Err(why) => Some(why),
        Ok(()) if names.is_empty() => Some("it names no domain".to_owned()),
        Ok(()) if names.len() > 1 && names.iter().any(|name| name == "*") => {
            Some("`*` beside other names".to_owned())
        }
        Ok(()) => None,
    };
    for inner in &block.inside.blocks {
        unknown_block(draft, inner);
    }
    let virtual_mta = virtual_mta.map(|name| name.trim().to_owned());
    let same = |one: &&mut DomainBlock| {
        one.names == names
            && one.virtual_mta == virtual_mta
            && one.fault.is_none()
            && fault.is_none()
    };
    if let Some(earlier) = blocks.iter_mut().find(same) {
        let place = draft.place(earlier.header).clone();
        draft.taken(block.id, format!("joined with the block in {place}"));
        earlier.lines.extend(block.inside.lines.iter().cloned());
        return;
    }
    if let Some(why) = &fault {
        draft.not_taken(block.id, why.clone());
        for line in &block.inside.lines {
            draft.not_taken(line.id, why.clone());
        }
        return;
    }
    let label = written.first().map_or("", |name| name.trim_start_matches('$')).to_owned();
    let lines = block.inside.lines.clone();
    blocks.push(DomainBlock { header: block.id, label, names, virtual_mta, lines, fault });
}

/// `queue-to`: the domains of a block join the queue of another.
fn queues(draft: &mut Draft<'_>, blocks: &mut [DomainBlock]) {
    for at in 0..blocks.len() {
        let Some(line) = blocks[at].last("queue-to").cloned() else { continue };
        let target = line.value.trim().trim_end_matches('.').to_ascii_lowercase();
        let vmta = blocks[at].virtual_mta.clone();
        let of = |one: &DomainBlock| one.names.contains(&target) && one.virtual_mta == vmta;
        match blocks.iter().position(of).filter(|to| *to != at) {
            Some(to) => {
                let names = blocks[at].names.clone();
                for name in names {
                    if !blocks[to].names.contains(&name) && !blocks[to].is_generic() {
                        blocks[to].names.push(name);
                    }
                }
                draft.taken(line.id, format!("its MX hosts join the rule of {target}"));
            }
            None => draft.not_taken(line.id, format!("there is no block for {target}")),
        }
    }
}

/// A rule for the MX hosts of a block.
fn hosts(draft: &mut Draft<'_>, block: &DomainBlock, known: &Known) -> DraftRule {
    let label = match (&block.virtual_mta, block.is_generic()) {
        (None, false) => block.label.clone(),
        (None, true) => "default".to_owned(),
        (Some(vmta), false) => format!("{} from {vmta}", block.label),
        (Some(vmta), true) => format!("default from {vmta}"),
    };
    let mut rule = DraftRule::new(&label, block.header);
    rule.rank = match (block.is_generic(), block.virtual_mta.is_some()) {
        (false, true) => 0,
        (false, false) => 1,
        (true, true) => 2,
        (true, false) => 3,
    };
    if block.is_generic() {
        rule.masks = vec!["*".to_owned()];
        rule.scope = Scope::Path;
        draft.differs(
            block.header,
            "the generic rule: limits count per source and target address (scope `path`), there per domain and virtual MTA; shipped rules inherit its figures",
        );
    } else {
        let (rolled, plain): (Vec<String>, Vec<String>) =
            block.names.iter().cloned().partition(|name| known.rollups.contains_key(name));
        let mut seen = BTreeSet::new();
        for name in &rolled {
            rule.masks.extend(
                known.rollups[name]
                    .iter()
                    .map(|(mask, _)| mask)
                    .filter(|mask| seen.insert((*mask).clone()))
                    .cloned(),
            );
        }
        let (masks, unknown) = draft.masks_of(&plain);
        rule.masks.extend(masks.into_iter().filter(|mask| seen.insert(mask.clone())));
        rule.domains = plain.iter().filter(|name| !unknown.contains(name)).cloned().collect();
        match (rule.masks.is_empty(), unknown.is_empty()) {
            (true, _) => {
                let why = unknown_hosts(&unknown);
                draft.not_taken(block.header, why.clone());
                rule.unreachable = Some(why);
            }
            (false, false) => {
                draft.differs(block.header, format!("left out: {}", unknown_hosts(&unknown)));
            }
            (false, true) => draft.differs(
                block.header,
                "limits hold for every domain behind these MX hosts, per source over all of them",
            ),
        }
    }
    if let Some(vmta) = &block.virtual_mta {
        match known.sources.get(vmta) {
            Some(id) => rule.sources = vec![*id],
            None => rule.unreachable = Some(format!("there is no <virtual-mta {}>", shown(vmta))),
        }
    }
    rule
}
