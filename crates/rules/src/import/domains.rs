//! From recipient domains, by which other servers set limits, to masks on MX hosts, by which we do.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use mail::mask::Mask;

use super::ImportOptions;
use crate::file::WrittenRule;
use crate::parse::mask_fault;

/// Masks of a rule, at most.
pub(super) const MOST_MASKS: usize = 64;

/// The masks for the MX hosts of a domain: those of the shipped rule that names the domain or that matches the
/// hosts which were looked up, else these hosts. `None`: nobody knows.
pub(super) fn hosts_of(options: &ImportOptions, domain: &str) -> Option<Vec<String>> {
    let domain = domain.trim_end_matches('.').to_ascii_lowercase();
    if let Some(found) = options.mx_hosts.get(&domain) {
        let mut hosts: Vec<String> = found
            .iter()
            .filter_map(|host| mask_of(host))
            .filter(|host| !host.contains('*'))
            .collect();
        hosts.sort();
        hosts.dedup();
        hosts.truncate(MOST_MASKS);
        if hosts.is_empty() {
            return None;
        }
        let particular = crate::shipped().rules().iter().filter(|rule| !rule.is_generic());
        let matches_all = |rule: &&std::sync::Arc<WrittenRule>| {
            hosts.iter().all(|host| rule.masks.iter().any(|mask| mask.matches(host)))
        };
        return Some(match particular.into_iter().find(matches_all) {
            Some(rule) => shipped_hosts(rule),
            None => hosts,
        });
    }
    known_domains().get(&*domain).map(|rule| shipped_hosts(rule))
}

fn shipped_hosts(rule: &WrittenRule) -> Vec<String> {
    rule.masks.iter().map(|mask| mask.as_str().to_owned()).collect()
}

/// The shipped rules by the mail domains that they name.
fn known_domains() -> &'static BTreeMap<&'static str, &'static WrittenRule> {
    static KNOWN: OnceLock<BTreeMap<&'static str, &'static WrittenRule>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let rules = crate::shipped().rules().iter();
        rules.flat_map(|rule| rule.domains.iter().map(move |domain| (&**domain, &**rule))).collect()
    })
}

/// The shipped rule, other than the generic one, that has exactly these masks or more.
pub(super) fn shipped_within(masks: &[Mask]) -> Option<&'static WrittenRule> {
    let rules = crate::shipped().rules().iter().filter(|rule| !rule.is_generic());
    let inside = |rule: &&std::sync::Arc<WrittenRule>| {
        rule.masks.iter().all(|inner| masks.iter().any(|outer| outer.covers(inner)))
    };
    rules.into_iter().find(inside).map(|rule| &**rule)
}

/// The text of a mask in its one spelling; `None`: it cannot be one.
pub(super) fn mask_of(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let short = text.len() <= 250;
    (short && mask_fault(&text).is_none()).then_some(text)
}

/// A name that a mask matches: `*` as `any`, `?` as `1`.
pub(super) fn name_for(mask: &str, any: &str) -> String {
    mask.replace('*', any).replace('?', "1")
}

/// A short name for a rule made of any text; empty where nothing of it can stand in one.
pub(super) fn short_name(text: &str) -> String {
    let mut name = String::new();
    for letter in text.to_ascii_lowercase().chars() {
        let plain = letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        match plain {
            true => name.push(letter),
            false if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            false => {}
        }
        if name.len() >= 48 {
            break;
        }
    }
    name.trim_matches(['-', '.']).to_owned()
}
