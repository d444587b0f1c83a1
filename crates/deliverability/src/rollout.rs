//! Who gets which bundle, and when a roll-out stops or goes on: decisions without a clock, a file or chance.
//!
//! # Who is chosen
//!
//! A stage of `share` percent covers that share of the clients, rounded down, and at least one. Those that have the
//! bundle already count first; then come those with the smallest hash of version and name. So with every version
//! other clients are the first, a growing share only adds clients, and neither a new client nor a removed one takes
//! the bundle away from somebody who has it.
//!
//! # What a client is given
//!
//! The newest bundle that is neither halted nor expired, that its program can apply, and whose stage covers it; else
//! the one that it says it has, also if that is halted or expired. Never an older one than that: clients refuse whatever
//! is older than what they have seen, also after a roll-back. What a client was only sent, and does not say it has, is
//! nothing that it keeps: once halted, it does not get it.
//!
//! # When a roll-out stops or goes on
//!
//! Every stage that is still open ([`open`]) is judged, not only the newest. One halts when enough clients that have the
//! bundle have said `refused`, `rolled-back` or `alarm` of it. It goes on by itself, where that is asked for, after a time
//! without any of these, and not before one client has said that it is in force.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use mail::time::Timestamp;
use rules::bundle::ClientVersion;
pub use rules::bundle::ReportState;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Percent of all clients: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct Share(u8);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(100);

    /// So many percent; `None`: not 1 to 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent >= 1 && percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// Percent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// How many of so many clients: rounded down, and at least one.
    #[must_use]
    pub const fn of(self, clients: usize) -> usize {
        let covered = clients.saturating_mul(self.0 as usize) / 100;
        if covered == 0 && clients > 0 { 1 } else { covered }
    }
}

impl From<Share> for u8 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl TryFrom<u8> for Share {
    type Error = String;

    fn try_from(percent: u8) -> Result<Self, String> {
        Self::new(percent).ok_or_else(|| format!("{percent} is no share: percent from 1 to 100"))
    }
}

/// A bundle on its way to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its version.
    pub version: u64,
    /// To how many it goes.
    pub share: Share,
    /// Whether it goes to nobody who has not got it yet.
    pub halted: bool,
    /// Since when it has this share and is not halted.
    pub since: Timestamp,
    /// Reports before this moment do not count: it was pushed, or a person has resumed it.
    pub judged_from: Timestamp,
    /// From when on clients refuse it.
    pub expires: Timestamp,
    /// The oldest program that may apply it.
    pub minimum_client: ClientVersion,
}

/// A client, as far as a roll-out goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// The newest bundle that it was sent whole or that it said is in force; 0: none. It is counted among those that have
    /// it.
    pub has: u64,
    /// The newest one that it says it has, in force or taken back: it refuses all that are older. 0: it says of none.
    pub remembers: u64,
}

/// Where a client stands among those that wait for a bundle: the smaller, the sooner.
fn turn(version: u64, name: &str) -> u64 {
    let digest = Sha256::new().chain_update(version.to_be_bytes()).chain_update(name).finalize();
    let (first, _) = digest.split_first_chunk::<8>().expect("a SHA-256 has 32 octets");
    u64::from_be_bytes(*first)
}

/// Which of these clients a stage covers, in their order.
#[must_use]
pub fn covered(version: u64, share: Share, clients: &[Standing]) -> Vec<bool> {
    let mut covers: Vec<bool> = clients.iter().map(|client| client.has >= version).collect();
    let have = covers.iter().filter(|has| **has).count();
    let room = share.of(clients.len()).saturating_sub(have);
    let numbered = clients.iter().enumerate();
    let mut waiting: Vec<(u64, &str, usize)> = numbered
        .filter(|(_, client)| client.has < version)
        .map(|(number, client)| (turn(version, &client.name), client.name.as_str(), number))
        .collect();
    if room < waiting.len() {
        waiting.sort_unstable();
    }
    waiting.iter().take(room).for_each(|(_, _, number)| covers[*number] = true);
    covers
}

/// The stages that still go to somebody: neither halted nor expired, and not overtaken by a newer one that goes to all
/// clients which could apply the older one.
#[must_use]
pub fn open(stages: &[Stage], now: Timestamp) -> Vec<Stage> {
    let runs = |stage: &&Stage| !stage.halted && stage.expires > now;
    let overtaken = |stage: &Stage| {
        stages.iter().filter(runs).any(|newer| {
            newer.version > stage.version
                && newer.share == Share::ALL
                && newer.minimum_client <= stage.minimum_client
        })
    };
    stages.iter().filter(runs).filter(|stage| !overtaken(stage)).copied().collect()
}

/// The version that a client is given; `None`: nothing is published for it. `program`: the version of its program, as
/// far as it has said. `covers` tells whether a stage covers it, and is asked of as few stages as possible.
///
/// # Errors
/// What `covers` fails with.
pub fn offer<E>(
    stages: &[Stage],
    client: &Standing,
    program: Option<ClientVersion>,
    now: Timestamp,
    mut covers: impl FnMut(&Stage) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    let may_come = |stage: &&Stage| {
        let able = program.is_none_or(|program| program >= stage.minimum_client);
        // Whoever has one is given none that is older.
        !stage.halted && stage.expires > now && stage.version > client.remembers && able
    };
    let mut coming: Vec<&Stage> = stages.iter().filter(may_come).collect();
    coming.sort_unstable_by_key(|stage| core::cmp::Reverse(stage.version));
    for stage in coming {
        if covers(stage)? {
            return Ok(Some(stage.version));
        }
    }
    Ok(stages.iter().map(|stage| stage.version).find(|version| *version == client.remembers))
}

/// The versions that all clients are given, in their order. `program` tells the version of the program of the client
/// with this number, as far as it has said.
#[must_use]
pub fn offers(
    stages: &[Stage],
    clients: &[Standing],
    program: impl Fn(usize) -> Option<ClientVersion>,
    now: Timestamp,
) -> Vec<Option<u64>> {
    let mut covers: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    let numbered = clients.iter().enumerate();
    let offers = numbered.map(|(number, client)| {
        let covered = |stage: &Stage| {
            let all = covers
                .entry(stage.version)
                .or_insert_with(|| covered(stage.version, stage.share, clients));
            Ok::<bool, Infallible>(all[number])
        };
        let Ok(offered) = offer(stages, client, program(number), now, covered);
        offered
    });
    offers.collect()
}

/// What clients that have a bundle have said of it since [`Stage::judged_from`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Clients that have said something against it.
    pub against: u32,
    /// Clients that have said that it is in force.
    pub in_force: u32,
    /// When the last one spoke against it.
    pub last_against: Option<Timestamp>,
}

/// Whether a roll-out that goes on is to be halted now.
#[must_use]
pub const fn must_halt(stage: &Stage, reports: &Reports, halt_after_reports: u32) -> bool {
    !stage.halted && reports.against >= halt_after_reports
}

/// Whether a staged bundle goes to all clients now. `after`: the time without alarms that is asked for.
#[must_use]
pub fn may_advance(stage: &Stage, reports: &Reports, after: Duration, now: Timestamp) -> bool {
    let quiet_since = reports.last_against.map_or(stage.since, |last| last.max(stage.since));
    !stage.halted
        && stage.share < Share::ALL
        && stage.expires > now
        && reports.in_force > 0
        && now.since(quiet_since) >= after
}

#[cfg(test)]
mod tests;
