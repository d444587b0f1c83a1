//! Lines for permits.
//!
//! MX groups of one budget share its connections. A group that was refused one for want of connections stands in the
//! budget's line; each release gives the group in front its turn. A turn that is not used goes to the
//! next in line. A group whose turn it is, and nobody else while others wait, may ask. The connections of the node as a
//! whole have a line of the same kind.
//!
//! A connection with nothing to do does not make others wait: as many as there are groups in a line are closed at once.
//!
//! Releases that were not seen here (another node's, a lease that expired) must not make a group wait for ever: the
//! group in front looks for itself every few seconds. Nobody else in line is woken.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mail::id::ConnectionId;
use mail::time::Timestamp;
use quota::{PathKey, ScopeKey};
use rules::{RuleId, RuleSet};

use crate::connection::ConnectionState;
use crate::engine::{Engine, Wake};
use crate::event::{QuotaLimit, QuotaWait};
use crate::reason::{WaitReason, Waiting};

/// How long between two looks of the group that waits in front of a line.
pub(crate) const LINE_POLL: Duration = Duration::from_secs(2);

/// Idle connections looked at to find one that is not needed where it is.
const SPARE_LOOKS: usize = 16;

/// Whose connections they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LineKey {
    /// All of this node.
    Node,
    /// Those of a budget of the rules in force.
    Budget {
        /// Its rule.
        rule: RuleId,
        /// What it counts over.
        scope: ScopeKey,
    },
}

impl LineKey {
    /// The budget of a path under a rule.
    pub(crate) fn new(rules: &RuleSet, rule: RuleId, path: PathKey) -> Self {
        Self::Budget { rule, scope: ScopeKey::new(rules.rule(rule).scope, path) }
    }
}

/// Where a group is in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It stands in it.
    Waiting,
    /// It looks for itself.
    Polls,
    /// A permit was released for it.
    Served,
}

/// One line, and what is known of its budget.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Groups that want a connection.
    pub(crate) waiting: VecDeque<usize>,
    /// Groups that have claimed nothing yet, in the order in which they came.
    pub(crate) outside: BTreeSet<(u64, usize)>,
    /// Groups that may claim although they have no connection.
    pub(crate) passes: u32,
    /// Connections open or being opened.
    open: u32,
    /// Those of them that end.
    closing: u32,
    /// Those of them that have nothing to do.
    idle: BTreeSet<ConnectionId>,
    /// The ledger's last refusal of tokens, while it holds.
    pub(crate) tokens: Option<QuotaWait>,
    /// Number of the last release of a permit.
    released: u64,
    /// When it is looked at next; never: nobody waits.
    pub(crate) look_at: Timestamp,
}

impl Line {
    fn new(released: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            outside: BTreeSet::new(),
            passes: 0,
            open: 0,
            closing: 0,
            idle: BTreeSet::new(),
            tokens: None,
            released,
            look_at: Timestamp::NEVER,
        }
    }

    /// The refusal of tokens that still holds at `now`.
    pub(crate) fn token_wait(&self, now: Timestamp) -> Option<&QuotaWait> {
        self.tokens.as_ref().filter(|wait| wait.until.is_some_and(|until| until > now))
    }

    fn is_empty(&self, now: Timestamp) -> bool {
        self.waiting.is_empty()
            && self.outside.is_empty()
            && self.open == 0
            && self.passes == 0
            && self.token_wait(now).is_none()
    }
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) lines: BTreeMap<LineKey, Line>,
    /// Grows with every release, of whatever budget.
    releases: u64,
    /// What counts as the last release of a budget of which nothing is known: later than any that was forgotten.
    forgotten: u64,
    /// Number of the last group that was told to stand outside.
    pub(crate) outside: u64,
}

impl Lines {
    /// A number that changes with each release of a permit of the budget (or what may have been one), and never comes
    /// back to an earlier value.
    pub(crate) fn releases(&self, key: LineKey) -> u64 {
        self.lines.get(&key).map_or(self.forgotten, |line| line.released)
    }

    /// Forgets budgets that nobody waits for.
    pub(crate) fn forget_empty(&mut self, now: Timestamp) {
        let before = self.lines.len();
        self.lines.retain(|_, line| !line.is_empty(now));
        if self.lines.len() < before {
            self.releases += 1;
            self.forgotten = self.releases;
        }
    }

    /// Other rules: every line is dissolved.
    pub(crate) fn dissolve(&mut self) {
        self.lines.clear();
        self.releases += 1;
        self.forgotten = self.releases;
    }

    /// Whether groups stand in a line.
    fn someone_waits(&self, key: LineKey) -> bool {
        self.lines.get(&key).is_some_and(|line| !line.waiting.is_empty())
    }

    /// When a line is looked at next.
    pub(crate) fn look_at(&self, key: LineKey) -> Timestamp {
        self.lines.get(&key).map_or(Timestamp::NEVER, |line| line.look_at)
    }

    pub(crate) fn line(&mut self, key: LineKey) -> &mut Line {
        let forgotten = self.forgotten;
        self.lines.entry(key).or_insert_with(|| Line::new(forgotten))
    }

    fn lines_of(&mut self, key: LineKey, mut change: impl FnMut(&mut Line)) {
        change(self.line(key));
        change(self.line(LineKey::Node));
    }

    /// Counts a connection of a budget.
    pub(crate) fn opened(&mut self, key: LineKey) {
        self.lines_of(key, |line| line.open += 1);
    }

    /// A connection of a budget is going to end.
    pub(crate) fn closing(&mut self, key: LineKey, id: ConnectionId) {
        self.lines_of(key, |line| {
            line.closing += 1;
            line.idle.remove(&id);
        });
    }

    /// A connection of a budget is gone.
    pub(crate) fn closed(&mut self, key: LineKey, id: ConnectionId, was_closing: bool) {
        self.lines_of(key, |line| {
            line.open = line.open.saturating_sub(1);
            line.closing = line.closing.saturating_sub(u32::from(was_closing));
            line.idle.remove(&id);
        });
    }

    /// A connection of a budget has nothing to do.
    pub(crate) fn idle(&mut self, key: LineKey, id: ConnectionId) {
        self.lines_of(key, |line| {
            line.idle.insert(id);
        });
    }

    /// A connection of a budget has something to do again.
    pub(crate) fn busy(&mut self, key: LineKey, id: ConnectionId) {
        self.lines_of(key, |line| {
            line.idle.remove(&id);
        });
    }
}

impl Engine {
    /// Whether a group may ask for a permit now: nobody else waits, or it is its turn.
    pub(crate) fn has_turn(&self, ix: usize, key: LineKey) -> bool {
        match self.groups[ix].as_ref().and_then(|group| group.turns.get(&key)) {
            Some(Turn::Polls | Turn::Served) => true,
            Some(Turn::Waiting) => false,
            None => !self.lines.someone_waits(key),
        }
    }

    /// Uses up the turn of a group, if it had one; returns whether it had.
    pub(crate) fn use_turn(&mut self, ix: usize, key: LineKey) -> bool {
        self.groups[ix].as_mut().is_some_and(|group| group.turns.remove(&key).is_some())
    }

    /// Puts a group into a line, unless it stands in it: at its end, or (`first`) to where it stood in front before.
    pub(crate) fn stand_in_permit_line(
        &mut self,
        now: Timestamp,
        ix: usize,
        key: LineKey,
        first: bool,
    ) -> Waiting {
        if let Some(group) = self.groups[ix].as_mut()
            && group.turns.insert(key, Turn::Waiting) != Some(Turn::Waiting)
        {
            let line = self.lines.line(key);
            if first {
                line.waiting.push_front(ix);
            } else {
                line.waiting.push_back(ix);
            }
            self.close_idle_for_waiters(now, key);
        }
        self.look_later(now, key);
        let until = self.lines.look_at(key);
        Waiting { reason: self.line_reason(key), until }
    }

    /// What a group in a line waits for.
    pub(crate) fn line_reason(&self, key: LineKey) -> WaitReason {
        let LineKey::Budget { rule, scope } = key else {
            return WaitReason::NodeConnectionLimit;
        };
        let wait = QuotaWait {
            until: None,
            limit: QuotaLimit::Connections,
            rule: Box::from(&*self.rules.rule(rule).name),
            source: None,
            figure: self.rules.limits(rule, scope_source(scope)).max_connections,
            used: self.lines.lines.get(&key).map_or(0, |line| line.open),
        };
        WaitReason::Quota { wait }
    }

    /// Makes sure that a line in which somebody waits is looked at again.
    pub(crate) fn look_later(&mut self, now: Timestamp, key: LineKey) {
        let line = self.lines.line(key);
        let ends = line.token_wait(now).and_then(|wait| wait.until);
        let at = match (line.waiting.is_empty(), line.outside.is_empty()) {
            (true, true) => return,
            // Nothing but the end of the wait for tokens helps those outside.
            (true, false) => ends.unwrap_or(now + LINE_POLL),
            (false, _) => now + LINE_POLL,
        };
        if at < line.look_at {
            self.wakes.remove(&(line.look_at, Wake::Line(key)));
            line.look_at = at;
            self.wakes.insert((at, Wake::Line(key)));
        }
    }

    /// The group in front of a line looks for itself.
    pub(crate) fn line_woken(&mut self, now: Timestamp, key: LineKey) {
        let full = self.connections.len() >= self.settings.connections_max;
        let Some(line) = self.lines.lines.get_mut(&key) else { return };
        if line.look_at > now {
            return;
        }
        line.look_at = Timestamp::NEVER;
        let useless = key == LineKey::Node && full;
        if !line.waiting.is_empty() && !useless {
            self.serve_next(key, Turn::Polls);
        }
        self.let_in(now, key);
        self.close_idle_for_waiters(now, key);
        self.look_later(now, key);
    }

    /// A group is forgotten, or needs no permits: so are its places in line.
    pub(crate) fn leave_lines(&mut self, ix: usize) {
        self.come_in(ix);
        self.hand_in_pass(ix);
        let Some(group) = self.groups[ix].as_mut() else { return };
        for (key, turn) in core::mem::take(&mut group.turns) {
            match turn {
                Turn::Waiting => self.lines.line(key).waiting.retain(|member| *member != ix),
                Turn::Polls => {}
                Turn::Served => self.serve_next(key, Turn::Served),
            }
        }
    }

    /// A permit of a budget is free, and a connection of this node: the groups that wait longest have their turn.
    pub(crate) fn permit_released(&mut self, key: LineKey) {
        self.serve_next(key, Turn::Served);
        self.serve_next(LineKey::Node, Turn::Served);
    }

    /// A connection of this node that came to nothing is free.
    pub(crate) fn node_released(&mut self) {
        self.serve_next(LineKey::Node, Turn::Served);
    }

    /// After a group was looked at: turns that it did not use go to the next in line, unless it only
    /// waits for a token that was asked for.
    pub(crate) fn pass_turns_on(&mut self, ix: usize, waits_for_token: &[LineKey]) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        if group.turns.is_empty() {
            return;
        }
        let mut unused = Vec::new();
        group.turns.retain(|key, turn| {
            let of_node = *key == LineKey::Node && !waits_for_token.is_empty();
            let keeps = *turn == Turn::Waiting || of_node || waits_for_token.contains(key);
            if !keeps && *turn == Turn::Served {
                unused.push(*key);
            }
            keeps
        });
        for key in unused {
            self.serve_next(key, Turn::Served);
        }
    }

    fn serve_next(&mut self, key: LineKey, turn: Turn) {
        self.lines.releases += 1;
        let release = self.lines.releases;
        let line = self.lines.line(key);
        // Refusals of the past mean nothing any more.
        line.released = release;
        let next = line.waiting.pop_front();
        if let Some(ix) = next
            && let Some(group) = self.groups[ix].as_mut()
        {
            group.turns.insert(key, turn);
            self.dirty.insert(ix);
        }
    }

    // ------------------------------------------------------------------ idle connections

    /// Closes as many connections that have nothing to do as there are groups in a line, those that end already
    /// counted.
    pub(crate) fn close_idle_for_waiters(&mut self, now: Timestamp, key: LineKey) {
        loop {
            let Some(line) = self.lines.lines.get(&key) else { return };
            if line.closing as usize >= line.waiting.len() {
                return;
            }
            let looks = line.idle.iter().take(SPARE_LOOKS);
            let Some(spare) = looks.copied().find(|id| self.is_spare(now, *id)) else { return };
            self.close(spare);
        }
    }

    /// Whether an idle connection is of no use to its own group.
    fn is_spare(&self, now: Timestamp, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        if connection.state != ConnectionState::Ready || !connection.assigned.is_empty() {
            return false;
        }
        let nothing_to_do = self.groups[connection.group]
            .as_ref()
            .is_none_or(|group| group.window.len() == 0 && group.claims_open == 0);
        let prospects =
            self.paths.get(&connection.path).is_some_and(|path| path.has_prospects(now));
        nothing_to_do || !prospects
    }
}

/// A source of the budget, to look its figures up. Those of a rule's only budget may differ by source; any will do.
fn scope_source(scope: ScopeKey) -> mail::id::SourceId {
    match scope {
        ScopeKey::Path(path) => path.source,
        ScopeKey::Source(source) => source,
        ScopeKey::Rule => mail::id::SourceId(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_was_forgotten_never_looks_as_if_it_had_not_been() {
        let now = Timestamp::from_secs(1);
        let mut lines = Lines::default();
        let key = LineKey::Node;
        let before = lines.releases(key);
        lines.releases += 1;
        let release = lines.releases;
        lines.line(key).released = release;
        assert_ne!(lines.releases(key), before);
        lines.forget_empty(now);
        assert!(lines.lines.is_empty());
        assert_ne!(lines.releases(key), before, "a refusal from before the release is over");
        lines.opened(key);
        assert_ne!(lines.releases(key), before);
    }
}
