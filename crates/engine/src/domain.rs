//! A recipient domain with backlog: where its mail goes and when the next of it is due.

use std::sync::Arc;

use mail::route::RouteFault;
use mail::time::Timestamp;

/// The number of a domain in the engine's table.
pub(crate) type DomainIx = usize;

/// What is known of a domain's route.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteState {
    /// Nothing yet.
    Unknown,
    /// It was asked for.
    Asked,
    /// It belongs to this MX group; to be asked again after the given time.
    In { group: usize, valid_until: Timestamp, refreshing: bool },
    /// It takes no mail at all; to be asked again after the given time.
    Permanent { fault: RouteFault, until: Timestamp },
    /// DNS failed; to be asked again at the given time.
    Temporary { why: String, until: Timestamp },
}

/// A recipient domain.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) name: Arc<str>,
    /// Per priority: earliest due time of what the store holds; never: nothing.
    pub(crate) due: [Timestamp; 3],
    /// Per priority: due mail that belongs to deliveries that may not send now.
    pub(crate) parked: [bool; 3],
    /// Per priority: a claim is on its way.
    pub(crate) claiming: [bool; 3],
    /// Per priority: the group for which the claim was made.
    pub(crate) claim_group: [Option<usize>; 3],
    /// Per priority: it stands in its group's line of domains to be claimed.
    pub(crate) in_line: [bool; 3],
    pub(crate) route: RouteState,
    pub(crate) dns_failures: u32,
    /// Messages of it in a window or on a connection.
    pub(crate) held: u32,
    /// The time for which it is in the table of wakes.
    pub(crate) wake: Timestamp,
}

impl Domain {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            due: [Timestamp::NEVER; 3],
            parked: [false; 3],
            claiming: [false; 3],
            claim_group: [None; 3],
            in_line: [false; 3],
            route: RouteState::Unknown,
            dns_failures: 0,
            held: 0,
            wake: Timestamp::NEVER,
        }
    }

    /// Whether the store holds mail for it, as far as is known.
    pub(crate) fn has_backlog(&self) -> bool {
        self.due.iter().any(|due| *due != Timestamp::NEVER)
    }

    /// Whether nothing is known or expected of it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.has_backlog() && self.held == 0 && self.claiming == [false; 3]
    }

    /// Whether mail of this priority could be claimed at `now`.
    pub(crate) fn claimable(&self, lane: usize, now: Timestamp) -> bool {
        self.due[lane] <= now && !self.parked[lane] && !self.claiming[lane]
    }
}
