//! Makes a failing world small: leaves out one thing after the other for as long as it fails in the same way.
//!
//! What is left is a seed and a list of cuts, which can be run again ([`run_cut`](crate::run_cut)), and written as a
//! [`scenario`](crate::scenario()) that is kept as a test.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::plan::{Deed, Network, Plan, Script, Zone};
use crate::reactions::Reactions;
use crate::{Outcome, run_cut};

/// One thing left out of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// The exchangers of this provider take everything.
    Mood(usize),
    /// The way to this provider is good.
    Network(usize),
    /// DNS answers at once, always and always the same.
    Names,
    /// Clocks run true.
    Drift,
    /// A commit takes all that waits.
    Commits,
    /// There are no reaction rules.
    Reactions,
    /// No source has a cap.
    SourceLimits,
    /// This mailing has no waves.
    Waves(usize),
    /// This mailing has no cap.
    Cap(usize),
    /// This deed is not done.
    Deed(usize),
    /// Of this mailing only the first so many recipients are left.
    Recipients(usize, usize),
}

/// Runs while shrinking, at most.
const RUNS_MAX: usize = 400;

pub(crate) fn apply(script: &mut Script, cuts: &[Cut]) {
    let mut undone = BTreeSet::new();
    for cut in cuts {
        match *cut {
            Cut::Mood(provider) => {
                let mood = &mut script.providers[provider].mood;
                *mood = mood.healed();
            }
            Cut::Network(provider) => script.providers[provider].network = Network::default(),
            Cut::Names => script.zones.iter_mut().for_each(|(_, zone)| heal(zone)),
            Cut::Drift => script.drift = 0,
            Cut::Commits => script.commit_requests_max = usize::MAX,
            Cut::Reactions => {
                script.reactions.iter_mut().for_each(|one| *one = Reactions::default());
            }
            Cut::SourceLimits => {
                script.source_limits.clear();
                script.warm_up.iter_mut().for_each(|caps| caps.sources.clear());
            }
            Cut::Waves(mailing) => script.mailings[mailing].options.waves.clear(),
            Cut::Cap(mailing) => script.mailings[mailing].options.messages_per_hour = None,
            Cut::Deed(deed) => drop(undone.insert(deed)),
            Cut::Recipients(mailing, left) => script.mailings[mailing].domains.truncate(left),
        }
    }
    // What is paused and not resumed would wait for ever: both go together.
    let resumed: BTreeSet<usize> = undone
        .iter()
        .filter_map(|deed| match script.deeds.get(*deed)? {
            (_, Deed::Resume(mailing)) => Some(*mailing),
            _ => None,
        })
        .collect();
    let mut number = 0;
    script.deeds.retain(|(_, deed)| {
        number += 1;
        let for_ever = matches!(deed, Deed::Pause(mailing) if resumed.contains(mailing));
        !for_ever && !undone.contains(&(number - 1))
    });
}

fn heal(zone: &mut Zone) {
    if let Zone::Mx {
        servfail_until, nothing, one_host_until, fails_percent, slow, moves, ..
    } = zone
    {
        *servfail_until = Duration::ZERO;
        nothing.clear();
        *one_host_until = Duration::ZERO;
        *fails_percent = 0;
        *slow = Duration::from_millis(1);
        *moves = None;
    }
}

/// How a world fails, without the figures.
fn kind(outcome: &Outcome) -> Option<String> {
    let words = outcome.violations.first()?;
    Some(words.chars().filter(char::is_ascii_alphabetic).take(40).collect())
}

/// The cuts that leave a world failing as it does, and what it then says; `None`: it does not fail.
#[must_use]
pub fn shrink(seed: u64, plan: &Plan) -> Option<(Vec<Cut>, Outcome)> {
    let mut outcome = run_cut(seed, plan, &[]);
    let wanted = kind(&outcome)?;
    let script = crate::script(seed, plan);
    let mut cuts = Vec::new();
    let mut runs = 0;
    let mut attempt = |cuts: &mut Vec<Cut>, outcome: &mut Outcome, cut: Cut| {
        runs += 1;
        cuts.push(cut);
        let tried = (runs <= RUNS_MAX).then(|| run_cut(seed, plan, cuts));
        match tried.filter(|tried| kind(tried).as_ref() == Some(&wanted)) {
            Some(still) => *outcome = still,
            None => drop(cuts.pop()),
        }
        cuts.last() == Some(&cut)
    };
    let providers = 0..script.providers.len();
    let mailings = 0..script.mailings.len();
    let whole =
        [Cut::Names, Cut::Drift, Cut::Commits, Cut::SourceLimits, Cut::Reactions].into_iter();
    let whole = whole.chain(providers.clone().map(Cut::Mood)).chain(providers.map(Cut::Network));
    let parts = mailings.clone().map(Cut::Waves).chain(mailings.clone().map(Cut::Cap));
    // Later deeds first: they hang on earlier ones.
    let deeds = (0..script.deeds.len()).rev().map(Cut::Deed);
    for cut in whole.chain(parts).chain(deeds) {
        attempt(&mut cuts, &mut outcome, cut);
    }
    for mailing in mailings {
        let mut left = script.mailings[mailing].domains.len();
        while left > 1 && attempt(&mut cuts, &mut outcome, Cut::Recipients(mailing, left / 2)) {
            left /= 2;
        }
    }
    // Of several cuts of one mailing only the last says anything.
    let last = |at: usize, cuts: &[Cut]| match cuts[at] {
        Cut::Recipients(mailing, _) => !cuts[at + 1..]
            .iter()
            .any(|later| matches!(later, Cut::Recipients(other, _) if *other == mailing)),
        _ => true,
    };
    let kept = (0..cuts.len()).filter(|at| last(*at, &cuts)).map(|at| cuts[at]).collect();
    Some((kept, outcome))
}
