//! From a reply to a reaction.

use core::time::Duration;
use std::sync::Arc;

use mail::id::{DeliveryId, SourceId};
use mail::reply::Reply;
use mail::time::Timestamp;
use quota::PathKey;
use rules::bounce::Action;
use rules::reaction::{RateCut, ReactionRule, ReactionScope, ReactionStage, Said};
use rules::{RuleId, Scope};

use super::force::{About, FullFigures, Reaction};
use crate::engine::Engine;
use crate::event::Command;

/// An alert that nothing else follows from stands so long.
const ALERT_STANDS: Duration = Duration::from_secs(86_400);

/// Where fewer messages than this were taken in an hour, a share of them says nothing.
const LEAST_RATE: u32 = 60;

/// Octets of a reply that are kept with a reaction.
const HEARD_MAX: usize = 512;

/// What hits are counted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counted {
    Path(PathKey),
    /// At the provider that the rule's masks name, or (without masks) that this MX host stands for.
    SourceAtProvider(SourceId, Option<Arc<str>>),
    /// A delivery at the MX group that this host stands for: what one provider takes says nothing about another.
    Delivery(DeliveryId, Arc<str>),
    Source(SourceId),
}

/// A reply that refused something.
pub(crate) struct Heard<'a> {
    pub(crate) reply: &'a Reply,
    pub(crate) stage: ReactionStage,
    pub(crate) path: PathKey,
    pub(crate) mx_host: &'a Arc<str>,
    /// The MX rule of the path.
    pub(crate) rule: RuleId,
    /// The MX group.
    pub(crate) group: usize,
    /// The delivery whose message was refused.
    pub(crate) delivery: Option<DeliveryId>,
    /// What the bounce rules made of it.
    pub(crate) judged: Option<Action>,
}

impl Engine {
    /// Shows a refusal to the reaction rules; the reaction that began or was renewed by it, for the log.
    pub(crate) fn heard(&mut self, now: Timestamp, heard: &Heard<'_>) -> Option<Arc<str>> {
        let rules = Arc::clone(&self.reactions.rules);
        let text = String::from_utf8_lossy(heard.reply.raw());
        let said =
            Said { text: &text, mx_host: heard.mx_host, stage: heard.stage, judged: heard.judged };
        let mut cited: Option<Arc<str>> = None;
        for rule in rules.matching(&said) {
            let written = rule.written();
            let Some(counted) = self.counted(rule, heard) else { continue };
            let bound = (written.hits, written.within);
            if !self.reactions.hits.count(now, rule.name(), &counted, bound) {
                continue;
            }
            let by_rule = self.react(now, rule, heard);
            cited = cited.or(by_rule);
        }
        cited
    }

    /// Whom a rule's hits count for; `None`: nobody, because the reply was not about what the rule is about.
    fn counted(&self, rule: &ReactionRule, heard: &Heard<'_>) -> Option<Counted> {
        let source = heard.path.source;
        Some(match rule.written().scope {
            ReactionScope::Path => Counted::Path(heard.path),
            ReactionScope::SourceAtProvider => {
                let host = rule.masks().is_empty().then(|| self.first_host(heard.group));
                Counted::SourceAtProvider(source, host)
            }
            ReactionScope::Delivery => {
                Counted::Delivery(heard.delivery?, self.first_host(heard.group))
            }
            ReactionScope::Source => Counted::Source(source),
        })
    }

    /// The host that an MX group is known by.
    fn first_host(&self, group: usize) -> Arc<str> {
        let group = self.groups[group].as_ref();
        let first = group.and_then(|group| group.targets.first());
        first.map_or_else(|| Arc::from(""), |target| Arc::clone(&target.host))
    }

    fn react(
        &mut self,
        now: Timestamp,
        rule: &ReactionRule,
        heard: &Heard<'_>,
    ) -> Option<Arc<str>> {
        let written = rule.written();
        let words: String = heard.reply.to_string().chars().take(HEARD_MAX).collect();
        if written.effect.stop_delivery
            && let Some(delivery) = heard.delivery
            // Of a stream each message is on its own.
            && self.deliveries.get(&delivery).is_some_and(|known| !known.options.stream)
        {
            let by = format!("{}@{}", rule.name(), self.reactions.rules.version());
            let why = words.into_boxed_str();
            let cited = Arc::from(by.as_str());
            let by = by.into_boxed_str();
            self.commands.push_back(Command::StopDelivery { delivery, why, by });
            return Some(cited);
        }
        if !written.effect.lasts() && !written.effect.alert {
            return None;
        }
        let about = self.about_of(rule, heard)?;
        let before = self.reactions.in_force.iter().map(|one| &one.reaction);
        let before = before.into_iter().find(|one| one.about == about && one.rule == **rule.name());
        let lasts = if written.effect.lasts() { written.lasts } else { ALERT_STANDS };
        let until = now + lasts;
        let percent = matches!(written.effect.rate, Some(RateCut::Percent(_)));
        let (full, lower) = self.figures(rule, heard);
        let reaction = Reaction {
            id: before.map_or(self.reactions.next_id, |one| one.id),
            rule: rule.name().to_string(),
            version: self.reactions.rules.version().to_string(),
            effect: written.effect.clone(),
            began: before.map_or(now, |one| one.began),
            // What a person has prolonged stays so.
            until: before.map_or(until, |one| one.until.max(until)),
            recovery: written.recovery,
            full,
            lower,
            refused_at: percent.then(|| self.taken_lately(now, &about)),
            times: before.map_or(1, |one| one.times.saturating_add(1)),
            heard: words,
            mx_host: heard.mx_host.to_string(),
            changes: before.map_or_else(Vec::new, |one| one.changes.clone()),
            ended: None,
            about,
        };
        self.reactions.next_id = self.reactions.next_id.max(reaction.id + 1);
        let cited = Arc::from(reaction.cited());
        self.begin(now, reaction);
        self.look_at_reactions(now);
        self.enforce(now);
        Some(cited)
    }

    fn about_of(&self, rule: &ReactionRule, heard: &Heard<'_>) -> Option<About> {
        let source = heard.path.source;
        Some(match rule.written().scope {
            ReactionScope::Path => About::Path { source, target: heard.path.target },
            ReactionScope::Source => About::Source { source },
            ReactionScope::Delivery => About::Delivery { delivery: heard.delivery? },
            ReactionScope::SourceAtProvider => {
                let mut hosts: Vec<String> =
                    rule.masks().iter().map(|mask| mask.as_str().to_owned()).collect();
                if hosts.is_empty()
                    && let Some(group) = self.groups[heard.group].as_ref()
                {
                    hosts = group.targets.iter().map(|target| target.host.to_string()).collect();
                    hosts.sort_unstable();
                    hosts.dedup();
                }
                About::SourceAtProvider { source, hosts }
            }
        })
    }

    /// The figures that a reaction recovers to, and those of the lower level where it wants one.
    fn figures(
        &self,
        rule: &ReactionRule,
        heard: &Heard<'_>,
    ) -> (FullFigures, Option<FullFigures>) {
        let source = heard.path.source;
        // Of budgets per path a provider has as many as targets; one path has one.
        let per_path = self.rules.rule(heard.rule).scope == Scope::Path;
        let wide = rule.written().scope != ReactionScope::Path && per_path;
        let targets = self.groups[heard.group].as_ref().map_or(1, |group| group.targets.len());
        let times = if wide { u32::try_from(targets).unwrap_or(u32::MAX).max(1) } else { 1 };
        let figures = |limits: rules::Limits| {
            let per_hour = limits.messages_per_hour.saturating_mul(times);
            FullFigures {
                messages_per_hour: per_hour,
                connections: limits.max_connections.saturating_mul(times),
                connections_per_hour: limits
                    .connections_per_minute
                    .map_or(per_hour, |minute| minute.saturating_mul(60).saturating_mul(times)),
            }
        };
        let levels = rule.written().effect.lower_levels;
        let lower =
            (levels > 0).then(|| figures(self.rules.limits_below(heard.rule, source, levels)));
        (figures(self.rules.limits(heard.rule, source)), lower)
    }

    /// Messages an hour that were taken lately of what a reaction is about.
    fn taken_lately(&self, now: Timestamp, about: &About) -> u32 {
        let mut per_hour = 0_u64;
        for (key, path) in &self.paths {
            if about.is_about(key.source, key.target, &path.mx_host) {
                let (count, over) = path.taken.lately(now);
                let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
                per_hour += u64::from(count) * 3_600_000 / millis;
            }
        }
        u32::try_from(per_hour).unwrap_or(u32::MAX).max(LEAST_RATE)
    }

    /// A message was taken: what must be heard in a row begins anew.
    pub(crate) fn taken(&mut self, group: usize, path: PathKey, delivery: DeliveryId) {
        if self.reactions.hits.is_empty() {
            return;
        }
        let rules = Arc::clone(&self.reactions.rules);
        let in_a_row = rules.rules().iter().filter(|rule| rule.written().in_a_row);
        for rule in in_a_row {
            let host = || self.first_host(group);
            let counted = match rule.written().scope {
                ReactionScope::Path => Counted::Path(path),
                ReactionScope::Source => Counted::Source(path.source),
                ReactionScope::Delivery => Counted::Delivery(delivery, host()),
                ReactionScope::SourceAtProvider => {
                    let named = rule.masks().is_empty().then(host);
                    Counted::SourceAtProvider(path.source, named)
                }
            };
            self.reactions.hits.forget(rule.name(), &counted);
        }
    }
}
