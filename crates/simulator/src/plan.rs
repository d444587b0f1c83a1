//! What happens in a world, drawn from its seed before it begins: rules, providers and their moods, sources,
//! deliveries, and what is done to them and to the node.

pub(crate) mod draw;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::DeliveryOptions;
use engine::{Affinity, Settings, Source, Sources};
use mail::id::SourceId;
use rules::Levels;
use serde::{Deserialize, Serialize};

use crate::reactions::Reactions;
use crate::sabotage::Sabotage;
use crate::scenario::{is_default, moving, span, stretches};

/// What is drawn, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Recipients of one delivery, at most.
    pub recipients_max: u64,
    /// Deliveries, at most.
    pub deliveries_max: u64,
    /// Crashes, drains and restarts, at most.
    pub restarts_max: u64,
    /// Whether providers have moods and DNS has faults.
    pub faults: bool,
    /// A fault built into the node.
    pub sabotage: Sabotage,
}

impl Default for Plan {
    /// A world of the normal tests: a few hundred messages, some virtual hours.
    fn default() -> Self {
        Self {
            recipients_max: 120,
            deliveries_max: 5,
            restarts_max: 3,
            faults: true,
            sabotage: Sabotage::None,
        }
    }
}

/// How a provider behaves until the faults stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Mood {
    /// Percent of recipients that are unknown.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unknown_percent: u64,
    /// Percent of messages put off.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) temporary_percent: u64,
    /// First tries from each source are put off for some minutes.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) greylists: bool,
    /// 421 to the RCPT TO of each so many-th recipient, every time.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) poison_every: Option<u64>,
    /// 421 to the MAIL FROM after so many messages on a connection.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) refuses_after: Option<u64>,
    /// Closes without a word after so many messages on a connection.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) closes_after: Option<u64>,
    /// 421 in the greeting when more connections are open.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) connections_max: Option<usize>,
    /// 450 to more messages in an hour.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hourly: Option<usize>,
    /// 421 to the RCPT TO of a message when so many were taken in the last minute.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) per_minute: Option<usize>,
    /// Percent of commands that are never answered.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hang_percent: u64,
    /// Percent of messages after whose final dot the connection is dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) drop_percent: u64,
    /// Percent of connections that are refused.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) refuse_percent: u64,
    /// Percent of messages that are taken, answered, and followed by a reset.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) reset_percent: u64,
    /// Percent of connections that are greeted with a 554 and closed.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unwelcome_percent: u64,
    /// Percent of messages after whose final dot nothing is ever said.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) swallow_percent: u64,
    /// Percent of messages that are refused for good after their final dot.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) reject_percent: u64,
    /// Replies come in parts, so far apart.
    #[serde(skip_serializing_if = "is_default", with = "span")]
    pub(crate) drip: Duration,
    /// Time to think before each answer.
    #[serde(skip_serializing_if = "is_default", with = "span")]
    pub(crate) think: Duration,
    /// Offers PIPELINING.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pipelining: bool,
    /// Offers CHUNKING.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) chunking: bool,
    /// Does not know BDAT, though it offers CHUNKING, and reads what stands behind it as commands.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unknown_bdat: bool,
}

impl Mood {
    /// The same server when all is well.
    pub(crate) fn healed(&self) -> Self {
        Self { pipelining: self.pipelining, chunking: self.chunking, ..Self::default() }
    }
}

/// An MX host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) preference: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The way to a provider until the faults stop. Nothing is lost, as TCP sends again: it comes late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// Each piece takes up to so much longer.
    #[serde(skip_serializing_if = "is_default", with = "span")]
    pub(crate) jitter: Duration,
    /// Percent of pieces that arrive in two parts.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) split_percent: u64,
    /// Nothing passes from one time to the other, counted from the beginning.
    #[serde(skip_serializing_if = "is_default", with = "stretches")]
    pub(crate) partitions: Vec<(Duration, Duration)>,
}

/// A provider: its hosts and the domains that point to them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) hosts: Vec<Host>,
    pub(crate) domains: Vec<String>,
    /// One way.
    #[serde(with = "span")]
    pub(crate) latency: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) network: Network,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) mood: Mood,
    /// The mood holds from one time to the other, counted from the beginning; empty: always, until the faults stop.
    #[serde(default, skip_serializing_if = "is_default", with = "stretches")]
    pub(crate) spells: Vec<(Duration, Duration)>,
}

/// What DNS says about a domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Zone {
    /// Points to a provider.
    Mx {
        provider: usize,
        #[serde(with = "span")]
        ttl: Duration,
        /// Every look-up fails until then.
        #[serde(with = "span")]
        servfail_until: Duration,
        /// There is no such domain from one time to the other, counted from the beginning.
        #[serde(default, skip_serializing_if = "is_default", with = "stretches")]
        nothing: Vec<(Duration, Duration)>,
        /// Only the first host is known until then.
        #[serde(with = "span")]
        one_host_until: Duration,
        /// Percent of look-ups that fail until the faults stop.
        fails_percent: u64,
        /// A look-up takes up to this long.
        #[serde(with = "span")]
        slow: Duration,
        /// From some time on it points to another provider.
        #[serde(default, skip_serializing_if = "is_default", with = "moving")]
        moves: Option<(Duration, usize)>,
    },
    /// Does not exist.
    Nothing,
    /// Null MX.
    Null,
}

/// A delivery to come.
#[derive(Clone, Debug)]
pub(crate) struct Mailing {
    pub(crate) options: DeliveryOptions,
    /// Recipient domain of each recipient; streams get them in two portions.
    pub(crate) domains: Vec<String>,
}

/// What is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Deed {
    /// A mailing is handed in and started.
    Start(usize),
    /// The second portion of a stream.
    More(usize),
    Pause(usize),
    Resume(usize),
    Cancel(usize),
    /// Each so many-th recipient of a mailing is denylisted or quarantined.
    Forbid {
        mailing: usize,
        every: u64,
        denied: bool,
    },
    /// The same are free again.
    Free {
        mailing: usize,
        every: u64,
    },
    /// Other rules, or the same at other levels.
    Rules(usize),
    /// Other caps of the sources that are warmed up.
    WarmUp(usize),
    /// Other reaction rules.
    Reactions(usize),
    /// The process dies a few steps later.
    Crash {
        steps: u64,
        restart: Restart,
    },
    /// The process dies right after one of the next commits, before anybody hears of it.
    CrashAtCommit {
        commits: u64,
        restart: Restart,
    },
    /// The process does not run for a while, and the world goes on: stopped by a signal, or the machine was suspended.
    Freeze(#[serde(with = "span")] Duration),
    /// No commit succeeds for a while.
    DiskFull(#[serde(with = "span")] Duration),
    /// The process is asked to stop, and starts again.
    Drain(Restart),
}

impl Deed {
    /// Whether it writes to the store.
    pub(crate) const fn needs_the_store(&self) -> bool {
        matches!(
            self,
            Self::Start(_)
                | Self::More(_)
                | Self::Pause(_)
                | Self::Resume(_)
                | Self::Cancel(_)
                | Self::Forbid { .. }
                | Self::Free { .. }
        )
    }
}

/// How the process comes back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restart {
    #[serde(with = "span")]
    pub(crate) after: Duration,
    /// The machine was booted.
    pub(crate) boot: bool,
    /// Error of the wall clock from now on, in seconds.
    pub(crate) wall_error: i64,
}

/// Share of each wave but the last, which has the rest.
pub(crate) const WAVE_PERCENT: u64 = 30;

/// A world before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) settings: Settings,
    pub(crate) sources: Vec<Source>,
    pub(crate) affinities: Vec<Affinity>,
    /// Recipient domains that a source must not write to.
    pub(crate) excluded: Vec<(SourceId, String)>,
    /// Hourly caps of sources.
    pub(crate) source_limits: BTreeMap<SourceId, u32>,
    /// Caps per hour and day of sources that are warmed up: those of the start, and those that deeds put in their place.
    pub(crate) warm_up: Vec<quota::WarmUpCaps>,
    /// Rules and levels: those of the start, and those that deeds put in their place.
    pub(crate) rules: Vec<(String, Levels)>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) zones: Vec<(String, Zone)>,
    pub(crate) mailings: Vec<Mailing>,
    /// Reaction rules: those of the start, and those that deeds put in their place.
    pub(crate) reactions: Vec<Reactions>,
    pub(crate) deeds: Vec<(Duration, Deed)>,
    /// Moods and DNS faults end here.
    pub(crate) faults_end: Duration,
    pub(crate) commit: Duration,
    /// Requests in one commit, at most.
    pub(crate) commit_requests_max: usize,
    /// How much faster the machine's clock runs, in millionths.
    pub(crate) drift: i64,
    pub(crate) sabotage: Sabotage,
}

impl Script {
    /// What the node is told about its sources.
    pub(crate) fn sources(&self) -> Sources {
        let (sources, affinities) =
            self.sabotage.bend_sources(self.sources.clone(), self.affinities.clone());
        Sources::new(sources, affinities)
            .expect("the drawn sources have their own numbers, weights and affinities")
    }
}
