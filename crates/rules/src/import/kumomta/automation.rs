//! `automation`: what KumoMTA's traffic shaping automation does when a reply matches.

use core::time::Duration;

use super::super::draft::{DirectiveId, Draft, DraftReaction, DraftRule};
use super::super::example::{no_hit, tried};
use super::super::rate::{self, Rate};
use super::{About, Block, Setting, Value};
use crate::span::show_span;

/// Hits that a reaction may wait for.
const MOST_HITS: u64 = 100;

/// What an action comes to.
enum Done {
    /// These lines, over this scope; the words say what differs.
    Effect { lines: Vec<String>, scope: &'static str, differs: Option<String> },
    /// Nothing, and why.
    Nothing(String),
}

/// Makes a reaction of one entry.
pub(super) fn reaction(draft: &mut Draft<'_>, block: &Block, rule: &DraftRule, item: &[Setting]) {
    if let Some(why) = rule.unreachable.clone() {
        for setting in item {
            draft.not_taken(setting.id, why.clone());
        }
        return;
    }
    let find = |key: &str| item.iter().find(|setting| setting.key == key);
    let all: Vec<DirectiveId> = item.iter().map(|setting| setting.id).collect();
    let give_up = |draft: &mut Draft<'_>, id: DirectiveId, why: &str| {
        for other in &all {
            let words =
                if *other == id { why } else { "the entry that it belongs to was not taken" };
            draft.not_taken(*other, words);
        }
    };
    let Some(regex) = find("regex") else {
        if let Some(first) = all.first() {
            give_up(draft, *first, "the entry has no `regex`");
        }
        return;
    };
    let written = texts(&regex.value);
    let patterns: Vec<String> =
        written.iter().map(|text| within_slashes(text).unwrap_or(text).to_owned()).collect();
    let mut examples = Vec::new();
    for pattern in &patterns {
        match tried(pattern) {
            Ok(made) => examples.push(made),
            Err(why) => return give_up(draft, regex.id, &why),
        }
    }
    if examples.is_empty() {
        return give_up(draft, regex.id, "it is no pattern");
    }
    let Some(matches_not) = no_hit(patterns.iter().map(String::as_str)) else {
        return give_up(draft, regex.id, "together its patterns match every reply");
    };
    let Some(action) = find("action") else {
        return give_up(draft, regex.id, "the entry has no `action`");
    };
    let Some(lasts) = find("duration").and_then(|one| match &one.value {
        Value::Text(text) => rate::span(text, 1).filter(|span| *span >= Duration::from_secs(1)),
        _ => None,
    }) else {
        return give_up(draft, action.id, "the entry has no `duration` that can be read");
    };
    let Some((hits, within, trigger_differs)) = trigger(find("trigger"), lasts) else {
        let id = find("trigger").map_or(action.id, |one| one.id);
        return give_up(
            draft,
            id,
            "it is no trigger such as \"Immediate\" or { Threshold = \"5/hour\" }",
        );
    };
    let actions = match &action.value {
        Value::List(items) => items.clone(),
        one => vec![one.clone()],
    };
    let (mut made, mut not_made) = (0, Vec::new());
    for one in &actions {
        match done(one) {
            Done::Nothing(why) => not_made.push(why),
            Done::Effect { lines, scope, differs } => {
                made += 1;
                let label = match &block.about {
                    About::Default => "all".to_owned(),
                    About::Provider(name) | About::Domain(name) => name.clone(),
                };
                draft.reactions.push(DraftReaction {
                    label: format!("{label}-{}", lines_word(&lines)),
                    masks: if block.about == About::Default {
                        Vec::new()
                    } else {
                        rule.masks.clone()
                    },
                    text: patterns.clone(),
                    matches: examples.clone(),
                    matches_not: matches_not.to_owned(),
                    hits,
                    within,
                    scope,
                    effect: lines.clone(),
                    lasts: Some(lasts.min(Duration::from_secs(30 * 86_400))),
                    goes_on: false,
                    directives: all.clone(),
                });
                let words = format!("reaction: {} for {}", lines.join(", "), show_span(lasts));
                let mut differences = vec!["it ends in steps, not at once".to_owned()];
                differences.extend(differs);
                draft.said(action.id, &words, &differences);
            }
        }
    }
    if made == 0 {
        let why = not_made.join("; ");
        return give_up(draft, action.id, &why);
    }
    for why in not_made {
        draft.not_taken(action.id, why);
    }
    let words = "reaction: text; searched without regard to case and accents";
    let slashes = written.iter().any(|text| within_slashes(text).is_some()).then(|| {
        "the slashes around a pattern are taken as its delimiters, not as letters of the reply"
            .to_owned()
    });
    draft.said(regex.id, words, &slashes.into_iter().collect::<Vec<_>>());
    for setting in item {
        match setting.key.as_str() {
            "regex" | "action" => {}
            "duration" => draft.taken(setting.id, format!("reaction: for = {}", show_span(lasts))),
            "trigger" => match &trigger_differs {
                Some(words) => draft.differs(setting.id, words.clone()),
                None => draft.taken(setting.id, "reaction: at the first hit"),
            },
            "match_internal" => {
                draft.not_taken(
                    setting.id,
                    "only what a server said is looked at, not our own words",
                );
            }
            _ => draft.not_taken(setting.id, "not a part of an automation that is known here"),
        }
    }
}

/// What stands between the slashes of `/pattern/` or `/pattern/i`. KumoMTA itself takes slashes as letters, and a
/// pattern that wants them at both ends finds no reply: whoever writes them means delimiters.
fn within_slashes(pattern: &str) -> Option<&str> {
    let (inner, flags) = pattern.trim().strip_prefix('/')?.rsplit_once('/')?;
    let flags_only = flags.chars().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'u'));
    (flags_only && !inner.is_empty()).then_some(inner)
}

/// A short word for the name of a rule.
fn lines_word(lines: &[String]) -> &'static str {
    match lines.first() {
        Some(line) if line.contains("suspend") => "suspend",
        Some(line) if line.contains("fewer") => "fewer",
        _ => "slow",
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Text(text) => vec![text.clone()],
        Value::List(items) => items.iter().flat_map(texts).take(64).collect(),
        _ => Vec::new(),
    }
}

/// How many hits in which time, and what differs.
fn trigger(setting: Option<&Setting>, lasts: Duration) -> Option<(u64, Duration, Option<String>)> {
    let at_once = (1, Duration::from_secs(3_600), None);
    let Some(setting) = setting else { return Some(at_once) };
    let threshold = match &setting.value {
        Value::Text(word) if word == "Immediate" => return Some(at_once),
        Value::Table(fields) => match fields.first() {
            Some((key, Value::Text(text))) if key == "Threshold" => text,
            _ => return None,
        },
        _ => return None,
    };
    let (Rate { count, period }, _) = rate::kumomta(threshold)?;
    let hits = count.clamp(1, MOST_HITS);
    let within = Duration::from_secs(period.min(7 * 86_400));
    let mut words = format!(
        "reaction: {hits} hits within {}; KumoMTA counts within the duration ({}) whatever the trigger says",
        show_span(within),
        show_span(lasts)
    );
    if hits != count {
        words += &format!("; more than {MOST_HITS} hits cannot be waited for");
    }
    Some((hits, within, Some(words)))
}

fn done(action: &Value) -> Done {
    match action {
        Value::Text(word) => match word.as_str() {
            "Suspend" => Done::Effect {
                lines: vec!["action = \"suspend\"".to_owned()],
                scope: "source-at-provider",
                differs: None,
            },
            "SuspendCampaign" => Done::Effect {
                lines: vec!["action = \"suspend\"".to_owned()],
                scope: "delivery",
                differs: Some("a campaign is a delivery here, and all its mail is suspended".to_owned()),
            },
            "SuspendTenant" => Done::Nothing("mail of a tenant cannot be suspended here".to_owned()),
            "Bounce" | "BounceTenant" | "BounceCampaign" => Done::Nothing(
                "a reaction never fails mail that was not tried; a bounce rule says what a reply means for its message"
                    .to_owned(),
            ),
            other => Done::Nothing(format!("the action {other} is not known here")),
        },
        Value::Table(fields) => match fields.first() {
            Some((key, Value::Table(config))) if key == "SetConfig" || key == "SetDomainConfig" => {
                set_config(config)
            }
            _ => Done::Nothing("the action is not known here".to_owned()),
        },
        _ => Done::Nothing("the action cannot be read".to_owned()),
    }
}

/// `SetConfig = { name = "max_message_rate", value = "1/minute" }`.
fn set_config(config: &[(String, Value)]) -> Done {
    let field = |key: &str| config.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let Some(Value::Text(name)) = field("name") else {
        return Done::Nothing("SetConfig has no `name`".to_owned());
    };
    let rate = match field("value") {
        Some(Value::Text(text)) => rate::kumomta(text).map(|(rate, _)| rate),
        _ => None,
    };
    let number = match field("value") {
        Some(Value::Whole(number)) => Some(*number),
        Some(Value::Text(text)) => rate::number(text),
        _ => None,
    };
    let scope = "source-at-provider";
    match (name.as_str(), rate, number) {
        ("max_message_rate", Some(rate), _) => Done::Effect {
            lines: vec![
                "action = \"slow\"".to_owned(),
                format!("messages_per_hour = {}", rate.per_hour().min(60_000_000)),
            ],
            scope,
            differs: Some("spread evenly".to_owned()),
        },
        ("max_connection_rate", Some(rate), _) => Done::Effect {
            lines: vec![
                "action = \"slow\"".to_owned(),
                format!("connections_per_hour = {}", rate.per_hour().min(1_000_000)),
            ],
            scope,
            differs: Some("spread evenly".to_owned()),
        },
        ("connection_limit", _, Some(limit)) if limit > 0 => Done::Effect {
            lines: vec![
                "action = \"fewer-connections\"".to_owned(),
                format!("connections = {}", limit.min(10_000)),
            ],
            scope,
            differs: None,
        },
        ("max_deliveries_per_connection", ..) => Done::Nothing(
            "a reaction does not change the messages per connection; the level below does (lower-level)"
                .to_owned(),
        ),
        (other, ..) => Done::Nothing(format!("a reaction cannot set {other}")),
    }
}
