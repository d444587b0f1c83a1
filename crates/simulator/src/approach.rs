//! A provider that answers 421 above a rate that nobody told us: how near do we come, and at what price?
//!
//! One source, one target that takes so many messages in any minute and refuses the rest, and MX rules that allow half
//! as much again. With the shipped reaction rules the flow is cut when the refusals begin and rises until they begin
//! again; without, it stays at what the MX rules allow. The figures are those of docs/proof.md.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::{DeliveryOptions, RetrySchedule};
use engine::{Affinity, Settings, Source};
use mail::id::SourceId;
use mail::time::Timestamp;
use rules::Levels;

use crate::chance::Chance;
use crate::plan::{Deed, Host, Mailing, Mood, Network, Provider, Script, Zone};
use crate::reactions::Reactions;
use crate::sabotage::Sabotage;
use crate::world::World;

/// What such a run led to, from ten minutes after its beginning on.
#[derive(Clone, Debug, PartialEq)]
pub struct Approach {
    /// Messages a minute that the provider takes.
    pub limit: u32,
    /// Messages that it took.
    pub taken: u64,
    /// Messages that it refused for their rate.
    pub refused: u64,
    /// Minutes that were measured.
    pub minutes: u64,
    /// The least and the most that it took in a whole minute.
    pub least_and_most: (u64, u64),
    /// What the judge found.
    pub violations: Vec<String>,
}

impl Approach {
    /// The share of answers that were refusals, in per mille.
    #[must_use]
    pub fn refused_permille(&self) -> u64 {
        self.refused * 1_000 / (self.refused + self.taken).max(1)
    }

    /// What was taken of what would have been, in per mille.
    #[must_use]
    pub fn reached_permille(&self) -> u64 {
        self.taken * 1_000 / (u64::from(self.limit) * self.minutes).max(1)
    }
}

/// Left out of the figures: the way to the rate is not the rate.
const SETTLING: Duration = Duration::from_secs(600);

/// Runs for `hours` against a provider that takes `limit` messages a minute; `reacts`: with the shipped reaction
/// rules, or with none.
#[must_use]
pub fn approach(limit: u32, hours: u32, reacts: bool) -> Approach {
    let script = script(limit, hours, reacts);
    let seed = 1;
    let mut world = World::new(seed, script, Chance::new(seed), false);
    world.run();
    world.judge.conclude(&world.fleet, &world.disk.store, &world.script);
    let from = world.began + SETTLING;
    let minutes = u64::from(hours) * 60 - SETTLING.as_secs() / 60;
    let until = from + Duration::from_secs(minutes * 60);
    let within = |at: &Timestamp| from <= *at && *at < until;
    let taken: Vec<Timestamp> = world.fleet.accepted_at().filter(within).collect();
    let mut each = vec![0_u64; usize::try_from(minutes).unwrap_or(0)];
    for at in &taken {
        let minute = usize::try_from(at.since(from).as_secs() / 60).unwrap_or(usize::MAX);
        if let Some(count) = each.get_mut(minute) {
            *count += 1;
        }
    }
    let least = each.iter().copied().min().unwrap_or(0);
    let most = each.iter().copied().max().unwrap_or(0);
    Approach {
        limit,
        taken: taken.len() as u64,
        refused: world.fleet.refused_for_rate.iter().filter(|at| within(at)).count() as u64,
        minutes,
        least_and_most: (least, most),
        violations: core::mem::take(&mut world.judge.violations),
    }
}

/// Recipients that the store takes in one write.
const APPENDED_MAX: u64 = 10_000;

fn script(limit: u32, hours: u32, reacts: bool) -> Script {
    let span = Duration::from_secs(u64::from(hours) * 3_600);
    let domain = "d0.p0.example".to_owned();
    let address = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
    let host = Host { name: "mx0.p0.example".into(), preference: 10, addresses: vec![address] };
    let provider = Provider {
        hosts: vec![host],
        domains: vec![domain.clone()],
        latency: Duration::from_millis(20),
        network: Network::default(),
        mood: Mood { pipelining: true, per_minute: usize::try_from(limit).ok(), ..Mood::default() },
        spells: Vec::new(),
    };
    let zone = Zone::Mx {
        provider: 0,
        ttl: Duration::from_secs(3_600),
        servfail_until: Duration::ZERO,
        nothing: Vec::new(),
        one_host_until: Duration::ZERO,
        fails_percent: 0,
        slow: Duration::from_millis(5),
        moves: None,
    };
    let per_hour = u64::from(limit) * 90;
    let rules = format!(
        "schema_version = 1\n[[rule]]\nname = \"rest\"\nmask = \"*\"\nmax_connections = 10\nmax_messages_per_connection = 100\nmessages_per_hour = {per_hour}\npacing = \"even\"\n"
    );
    // A little more than can go: what is left at the end expires.
    let recipients = u64::from(limit) * 66 * u64::from(hours);
    let mailings = recipients.div_ceil(APPENDED_MAX);
    let each = usize::try_from(recipients / mailings).unwrap_or(usize::MAX);
    let options = DeliveryOptions {
        validity: span,
        retry: RetrySchedule::default(),
        ..DeliveryOptions::default()
    };
    let source = Source {
        id: SourceId(1),
        weight: 1,
        include_domains: vec![],
        exclude_domains: vec![],
        ipv6: false,
    };
    Script {
        settings: Settings { seed: 1, ..Settings::default() },
        sources: vec![source],
        affinities: vec![Affinity { name: "default".into(), sources: vec![SourceId(1)] }],
        excluded: Vec::new(),
        source_limits: BTreeMap::new(),
        warm_up: vec![quota::WarmUpCaps::default()],
        rules: vec![(rules, Levels::default())],
        providers: vec![provider],
        zones: vec![(domain.clone(), zone)],
        mailings: (0..mailings)
            .map(|_| Mailing { options: options.clone(), domains: vec![domain.clone(); each] })
            .collect(),
        reactions: vec![if reacts { Reactions::shipped() } else { Reactions::default() }],
        deeds: (0..mailings)
            .map(|number| (Duration::ZERO, Deed::Start(usize::try_from(number).unwrap_or(0))))
            .collect(),
        faults_end: span,
        commit: Duration::from_millis(5),
        commit_requests_max: 1_000,
        drift: 0,
        sabotage: Sabotage::None,
    }
}
