//! Answers to "why is this mail waiting?".

use core::net::IpAddr;

use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use serde::Serialize;

use crate::domain::{NO_SOURCE_PAUSE, RouteState};
use crate::engine::Engine;
use crate::event::QuotaWait;
use crate::group::{Group, GroupCounts};
use crate::line::LineKey;
use crate::path::{Path, RestCause};
use crate::reason::{WaitReason, Waiting};
use crate::window::lane;
use quota::PathKey;

/// An MX group as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct GroupView {
    /// Its key: the MX hosts with their preferences.
    pub key: String,
    /// One of its domains.
    pub sample_domain: String,
    /// The name of the rule that governs its first host for the first source.
    pub rule: String,
    /// The domains whose mail goes there, as far as known.
    pub domains: u32,
    /// Messages claimed and waiting for a connection.
    pub window: usize,
    /// Connections open or being opened.
    pub connections: usize,
    /// Messages handed to connections.
    pub in_flight: usize,
    /// Counts since the start.
    pub counts: GroupCounts,
    /// Why it is not sending, if it has something to send.
    pub waiting: Option<Waiting>,
}

/// A path as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct PathView {
    /// Our side.
    pub source: SourceId,
    /// Their side.
    pub target: IpAddr,
    /// Name of the MX host.
    pub mx_host: String,
    /// Its preference.
    pub preference: u16,
    /// The rule that governs it.
    pub rule: String,
    /// Connections open or being opened.
    pub connections: u32,
    /// Tokens held.
    pub tokens: u32,
    /// It rests until then; `None`: it does not.
    pub resting_until: Option<Timestamp>,
    /// Why.
    pub rest_cause: Option<RestCause>,
    /// What was said or happened last.
    pub last_fault: String,
    /// The limit that it waits for.
    pub wait: Option<QuotaWait>,
    /// The reactions in force that are about it, `R7 google-rate@2026-11-21`.
    pub reactions: Vec<String>,
    /// The reaction that lets no further connection be opened on it now, and until when.
    pub held_by_reaction: Option<Waiting>,
}

impl Engine {
    /// All MX groups.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupView> {
        self.groups
            .iter()
            .flatten()
            .map(|group| {
                let rule = group.targets.first().zip(self.sources.iter().next()).map_or_else(
                    String::new,
                    |(target, source)| {
                        let rule = self.rules.find(&target.host, source.id);
                        self.rules.rule(rule).name.to_string()
                    },
                );
                GroupView {
                    key: group.key.clone(),
                    sample_domain: group.sample_domain.to_string(),
                    rule,
                    domains: group.domains,
                    window: group.window.len(),
                    connections: group.connections.len(),
                    in_flight: group.in_flight,
                    counts: group.counts,
                    waiting: self.waiting_of(group),
                }
            })
            .collect()
    }

    /// The paths of a domain whose route is known.
    #[must_use]
    pub fn paths_of(&self, domain: &str, now: Timestamp) -> Vec<PathView> {
        let group =
            self.domain_by_name.get(domain).and_then(|ix| self.domains[*ix].as_ref()).and_then(
                |domain| match domain.route {
                    RouteState::In { group, .. } => self.groups[group].as_ref(),
                    _ => None,
                },
            );
        let Some(group) = group else { return Vec::new() };
        let mut views = Vec::new();
        for target in &group.targets {
            for source in self.sources.iter() {
                let rule = self.rules.find(&target.host, source.id);
                let key = PathKey { source: source.id, target: target.address };
                let path = self.paths.get(&key);
                let releases = self.lines.releases(LineKey::new(&self.rules, rule, key));
                views.push(PathView {
                    source: source.id,
                    target: target.address,
                    mx_host: target.host.to_string(),
                    preference: target.preference,
                    rule: self.rules.rule(rule).name.to_string(),
                    reactions: self.reactions_about(source.id, target.address, &target.host),
                    held_by_reaction: self.reaction_against(now, key, &target.host),
                    connections: path.map_or(0, |path| path.connections),
                    tokens: path
                        .map_or(0, |path| path.purses.iter().map(|purse| purse.usable(now)).sum()),
                    resting_until: path.filter(|path| path.rests(now)).map(|path| path.rest_until),
                    rest_cause: path.filter(|path| path.rests(now)).map(|path| path.rest_cause),
                    last_fault: path.map_or_else(String::new, |path| path.last_fault.to_string()),
                    wait: path.and_then(|path| {
                        path.active_token_wait(now, None)
                            .or_else(|| path.active_permit_wait(now, releases))
                            .cloned()
                    }),
                });
            }
        }
        views
    }

    /// Why a group has not sent what it has. Where each path that was tried has failed, that is told and not the budget,
    /// because tokens alone would not help.
    pub(crate) fn waiting_of(&self, group: &Group) -> Option<Waiting> {
        let waiting = self.waits_itself(group)?;
        // Without a time it is looked at in a moment, and then it is known whether the paths rest.
        let for_budget = matches!(waiting.reason, WaitReason::Quota { .. } | WaitReason::InTurn)
            && waiting.until != Timestamp::NEVER;
        match self.failing_path(group).filter(|_| for_budget) {
            None => Some(waiting),
            Some(path) => Some(Waiting {
                reason: WaitReason::PathResting {
                    cause: path.rest_cause,
                    last: path.last_fault.to_string(),
                },
                // It is tried neither before it has rested nor without a token.
                until: waiting.until.max(path.rest_until),
            }),
        }
    }

    /// Where each path of a group that was tried has failed since it took a message last, the one that may be tried
    /// first again.
    fn failing_path(&self, group: &Group) -> Option<&Path> {
        let mut first: Option<&Path> = None;
        for target in &group.targets {
            for source in self.sources.iter() {
                let key = PathKey { source: source.id, target: target.address };
                let Some(path) = self.paths.get(&key) else { continue };
                if path.failures == 0 && path.has_taken {
                    return None;
                }
                let sooner = first.is_none_or(|before| path.rest_until < before.rest_until);
                if path.failures > 0 && sooner {
                    first = Some(path);
                }
            }
        }
        first
    }

    /// What a group waits for. One that stands in a line is looked at when the line is.
    fn waits_itself(&self, group: &Group) -> Option<Waiting> {
        if let Some((_, keys)) =
            group.outside.as_ref().filter(|_| group.has_line() && group.window.len() == 0)
        {
            return Some(self.outside_reason(self.last, keys));
        }
        let waiting = group.waiting.clone()?;
        let looks = group.turns.keys().map(|key| self.lines.look_at(*key));
        let look = looks.filter(|at| *at != Timestamp::NEVER).min();
        let until = look.map_or(waiting.until, |look| waiting.until.max(look));
        Some(Waiting { until, ..waiting })
    }

    /// Why a queued message waits. `due` comes from the store (the epoch for a message that is not in the queue but
    /// held by this engine), and so does `tried`: whether it was put off before.
    #[must_use]
    pub fn why(
        &self,
        now: Timestamp,
        message: MessageId,
        delivery: DeliveryId,
        recipient: &str,
        due: Timestamp,
        tried: bool,
    ) -> Waiting {
        let never = Timestamp::NEVER;
        if self.draining {
            return Waiting { reason: WaitReason::NodeDraining, until: never };
        }
        let Some(delivery) = self.deliveries.get(&delivery) else {
            return Waiting { reason: WaitReason::DeliveryNotStarted, until: never };
        };
        match delivery.open_until(now) {
            Err(waiting) => return waiting,
            Ok(Some(end)) if message > end => {
                let until = delivery.wave_opens_at(message).unwrap_or(never);
                return Waiting { reason: WaitReason::WaveNotOpen, until };
            }
            Ok(_) => {}
        }
        let domain = recipient.rsplit_once('@').map_or(recipient, |(_, domain)| domain);
        let affinity = &delivery.options.affinity;
        if self.sources.admitted(affinity, domain).is_empty() {
            let reason = WaitReason::NoSource { affinity: affinity.clone() };
            // It is looked at again now and then: the configuration may have changed.
            let until = if due > now { due } else { now + NO_SOURCE_PAUSE };
            return Waiting { reason, until };
        }
        if due > now {
            let reason = if tried { WaitReason::RetryScheduled } else { WaitReason::NotDue };
            return Waiting { reason, until: due };
        }
        if let Some(wait) = self.capped.get(&delivery.id) {
            return wait.clone();
        }
        self.why_domain(domain, lane(delivery.options.priority))
    }

    /// Why due mail for a domain waits.
    fn why_domain(&self, domain: &str, lane: usize) -> Waiting {
        let soon = Timestamp::NEVER;
        let known = self.domain_by_name.get(domain).and_then(|ix| self.domains[*ix].as_ref());
        let Some(known) = known else {
            return Waiting { reason: WaitReason::InTurn, until: soon };
        };
        match &known.route {
            RouteState::Unknown | RouteState::Asked => {
                Waiting { reason: WaitReason::FindingRoute, until: soon }
            }
            RouteState::Temporary { why, until } => Waiting {
                reason: WaitReason::DnsTemporaryFailure { why: why.clone() },
                until: *until,
            },
            RouteState::Permanent { .. } => Waiting { reason: WaitReason::InTurn, until: soon },
            RouteState::In { group, .. } => self.groups[*group]
                .as_ref()
                .and_then(|group| self.waiting_of(group))
                .unwrap_or(Waiting {
                    reason: if known.claiming[lane] {
                        WaitReason::InTurn
                    } else {
                        WaitReason::Connecting
                    },
                    until: soon,
                }),
        }
    }

    /// Why due mail for each of these domains waits; for tables.
    #[must_use]
    pub fn why_domains<'a>(
        &self,
        domains: impl Iterator<Item = &'a str>,
    ) -> Vec<(&'a str, Waiting)> {
        domains.map(|domain| (domain, self.why_domain(domain, 1))).collect()
    }

    /// The MX group (its key) of a domain, when its route is known.
    #[must_use]
    pub fn group_key_of(&self, domain: &str) -> Option<&str> {
        let ix = self.domain_by_name.get(domain)?;
        match self.domains[*ix].as_ref()?.route {
            RouteState::In { group, .. } => self.groups[group].as_ref().map(|g| g.key.as_str()),
            _ => None,
        }
    }

    /// Messages in all windows, connections open or being opened, domains known.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.window_messages, self.connections.len(), self.domain_by_name.len())
    }
}
