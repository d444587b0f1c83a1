//! What is being put together: directives with their fates, and rules before they are written.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::domains::hosts_of;
use super::rate::Rate;
use super::report::ImportVerdict;
use super::{Dialect, ImportOptions};
use crate::diagnostic::{Place, names_secret};
use crate::figure::Figure;
use crate::span::show_span;
use crate::words::{Pacing, Scope, TlsPolicy};

/// Directives of all files together.
pub(super) const MOST_DIRECTIVES: usize = 100_000;
/// So many directives of which none is known may still be a file of the right kind.
const FEW_DIRECTIVES: usize = 2;
/// Characters of a name or value in the report.
const LONGEST_SHOWN: usize = 160;
/// Characters of what is said of a directive.
pub(super) const LONGEST_WORDS: usize = 1_000;
/// Connections per source and provider beyond which no level but custom goes.
const MOST_CONNECTIONS: u64 = 100;

/// A directive by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirectiveId(usize);

/// A directive and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) value: String,
    pub(super) fates: Vec<(ImportVerdict, String)>,
}

/// A rule for MX hosts.
#[derive(Clone, Debug)]
pub(super) struct DraftRule {
    /// What its name is made of.
    pub(super) label: String,
    pub(super) masks: Vec<String>,
    pub(super) domains: Vec<String>,
    /// Empty: all.
    pub(super) sources: Vec<u32>,
    pub(super) scope: Scope,
    pub(super) figures: BTreeMap<Figure, (u64, DirectiveId)>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) data_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) tls: Option<TlsPolicy>,
    pub(super) pacing: Option<Pacing>,
    /// What opened the block; where there are no blocks, the first directive that it rests on.
    pub(super) header: DirectiveId,
    /// Whether `header` opened a block, and stands for it in the report.
    pub(super) has_header: bool,
    /// The directives that it rests on.
    pub(super) directives: Vec<DirectiveId>,
    /// Rules of a lower rank are tried first.
    pub(super) rank: u8,
    /// Why there can be no rule: its MX hosts or sources are not known.
    pub(super) unreachable: Option<String>,
}

/// A rule for recipient domains.
#[derive(Clone, Debug)]
pub(super) struct DraftRecipients {
    pub(super) label: String,
    pub(super) masks: Vec<String>,
    pub(super) relay: Vec<String>,
    pub(super) tls: Option<TlsPolicy>,
    pub(super) sign: Option<bool>,
    pub(super) directives: Vec<DirectiveId>,
}

impl DraftRecipients {
    /// Whether what `other` says is not said here yet.
    pub(super) fn can_take(&self, other: &Self) -> bool {
        (self.relay.is_empty() || other.relay.is_empty())
            && (self.tls.is_none() || other.tls.is_none())
            && (self.sign.is_none() || other.sign.is_none())
    }

    /// Says it too.
    pub(super) fn take(&mut self, other: Self) {
        self.relay.extend(other.relay);
        self.tls = self.tls.or(other.tls);
        self.sign = self.sign.or(other.sign);
        self.directives.extend(other.directives);
    }
}

/// A reaction rule.
#[derive(Clone, Debug)]
pub(super) struct DraftReaction {
    pub(super) label: String,
    pub(super) masks: Vec<String>,
    pub(super) text: Vec<String>,
    pub(super) matches: Vec<String>,
    pub(super) matches_not: String,
    pub(super) hits: u64,
    pub(super) within: Duration,
    pub(super) scope: &'static str,
    /// Lines such as `action = "suspend"` and its figures.
    pub(super) effect: Vec<String>,
    pub(super) lasts: Option<Duration>,
    pub(super) goes_on: bool,
    pub(super) directives: Vec<DirectiveId>,
}

/// Everything that is being put together.
#[derive(Debug)]
pub(super) struct Draft<'o> {
    pub(super) dialect: Dialect,
    pub(super) options: &'o ImportOptions,
    pub(super) directives: Vec<Directive>,
    pub(super) rules: Vec<DraftRule>,
    pub(super) recipients: Vec<DraftRecipients>,
    pub(super) reactions: Vec<DraftReaction>,
    /// Sections of the configuration with their lines; a section may be there more than once.
    pub(super) config: Vec<(String, Vec<String>)>,
    pub(super) notes: Vec<String>,
    pub(super) unknown_domains: BTreeSet<String>,
}

impl<'o> Draft<'o> {
    pub(super) fn new(dialect: Dialect, options: &'o ImportOptions) -> Self {
        Self {
            dialect,
            options,
            directives: Vec::new(),
            rules: Vec::new(),
            recipients: Vec::new(),
            reactions: Vec::new(),
            config: Vec::new(),
            notes: Vec::new(),
            unknown_domains: BTreeSet::new(),
        }
    }

    /// Whether there is room for more directives.
    pub(super) fn has_room(&self) -> bool {
        self.directives.len() < MOST_DIRECTIVES
    }

    /// Enters a directive into the report. Unless something is said about it, it is not taken.
    pub(super) fn directive(&mut self, place: Place, name: &str, value: &str) -> DirectiveId {
        let value = match names_secret(name) {
            true => "***".to_owned(),
            false => shown(value),
        };
        self.directives.push(Directive { place, name: shown(name), value, fates: Vec::new() });
        DirectiveId(self.directives.len() - 1)
    }

    pub(super) fn place(&self, id: DirectiveId) -> &Place {
        &self.directives[id.0].place
    }

    pub(super) fn taken(&mut self, id: DirectiveId, words: impl Into<String>) {
        self.fate(id, ImportVerdict::Taken, &words.into());
    }

    pub(super) fn differs(&mut self, id: DirectiveId, words: impl Into<String>) {
        self.fate(id, ImportVerdict::Differs, &words.into());
    }

    pub(super) fn not_taken(&mut self, id: DirectiveId, words: impl Into<String>) {
        self.fate(id, ImportVerdict::NotTaken, &words.into());
    }

    fn fate(&mut self, id: DirectiveId, verdict: ImportVerdict, words: &str) {
        let fates = &mut self.directives[id.0].fates;
        // One that many rules rest on hears the same from each.
        if !fates.iter().any(|(known, said)| *known == verdict && said == words) {
            fates.push((verdict, shortened(words, LONGEST_WORDS)));
        }
    }

    /// Whether something was said about a directive.
    pub(super) fn has_fate(&self, id: DirectiveId) -> bool {
        !self.directives[id.0].fates.is_empty()
    }

    /// Whether there are some directives and none of them has a name that is known here: then the files are of
    /// some other kind. What opens a block or a table says nothing by itself.
    pub(super) fn knows_nothing(&self) -> bool {
        let is_header = |one: &&Directive| one.name.starts_with('[') || one.name.ends_with('>');
        let unknown = |one: &Directive| {
            one.fates.iter().all(|(verdict, words)| {
                *verdict == ImportVerdict::NotTaken && words.contains("known here")
            })
        };
        let mut said = self.directives.iter().filter(|one| !is_header(one));
        said.clone().nth(FEW_DIRECTIVES).is_some() && said.all(unknown)
    }

    /// Says of directives that nothing came of them after all.
    pub(super) fn withdraw(&mut self, ids: &[DirectiveId], words: &str) {
        for id in ids {
            let fates = &mut self.directives[id.0].fates;
            if fates.iter().any(|(verdict, _)| *verdict != ImportVerdict::NotTaken) {
                *fates = vec![(ImportVerdict::NotTaken, words.to_owned())];
            }
        }
    }

    /// Something that holds of the whole, once.
    pub(super) fn note(&mut self, words: impl Into<String>) {
        let words = words.into();
        if !self.notes.contains(&words) {
            self.notes.push(words);
        }
    }

    /// Sets a key of the configuration fragment; `value` is TOML.
    pub(super) fn configure(&mut self, section: &str, key: &str, value: &str) {
        let header = format!("[{section}]");
        let line = format!("{key} = {value}");
        let start = format!("{key} = ");
        match self.config.iter_mut().find(|(one, _)| *one == header) {
            Some((_, lines)) => {
                lines.retain(|line| !line.starts_with(&start));
                lines.push(line);
            }
            None => self.config.push((header, vec![line])),
        }
    }

    /// The MX masks of recipient domains, and those domains that have none.
    pub(super) fn masks_of(&mut self, domains: &[String]) -> (Vec<String>, Vec<String>) {
        let (mut masks, mut unknown) = (Vec::new(), Vec::new());
        for domain in domains {
            match hosts_of(self.options, domain) {
                Some(hosts) => {
                    for mask in hosts {
                        if !masks.contains(&mask) {
                            masks.push(mask);
                        }
                    }
                }
                None => {
                    // What is longer than a DNS name is none.
                    if domain.len() <= 253 {
                        self.unknown_domains.insert(domain.clone());
                    }
                    unknown.push(domain.clone());
                }
            }
        }
        (masks, unknown)
    }

    /// Whether there can be no rule, which is said of the directive then.
    fn goes_nowhere(&mut self, rule: &DraftRule, id: DirectiveId) -> bool {
        if let Some(why) = &rule.unreachable {
            self.not_taken(id, why);
        }
        rule.unreachable.is_some()
    }

    /// States a figure of a rule, within its range; `differences` say in what its meaning differs.
    pub(super) fn figure(
        &mut self,
        rule: &mut DraftRule,
        figure: Figure,
        value: u64,
        id: DirectiveId,
        differences: &[String],
    ) {
        if self.goes_nowhere(rule, id) {
            return;
        }
        let range = figure.range();
        let kept = value.clamp(*range.start(), *range.end());
        let mut differences = differences.to_vec();
        if kept != value {
            differences.push(format!("{value} is beyond what can be stated"));
        }
        if figure == Figure::MaxConnections && kept > MOST_CONNECTIONS {
            differences.push(format!(
                "no level but custom allows more than {MOST_CONNECTIONS} per source and provider"
            ));
        }
        if let Some((_, earlier)) = rule.figures.insert(figure, (kept, id)) {
            let place = self.directives[id.0].place.clone();
            self.withdraw(&[earlier], &format!("{place} says it again, and later"));
        }
        rule.directives.push(id);
        let stated = format!("{} = {}", figure.key(), figure.show(kept));
        self.said(id, &stated, &differences);
    }

    /// Taken, or with differences.
    pub(super) fn said(&mut self, id: DirectiveId, stated: &str, differences: &[String]) {
        match differences {
            [] => self.taken(id, stated),
            _ => self.differs(id, format!("{stated}; {}", differences.join("; "))),
        }
    }

    /// States a rate of messages.
    pub(super) fn message_rate(
        &mut self,
        rule: &mut DraftRule,
        rate: Rate,
        id: DirectiveId,
        besides: &[String],
    ) {
        let mut differences = besides.to_vec();
        if rate.is_below_one_an_hour() {
            differences.push(format!(
                "{} is fewer than one an hour, which no rule can say: 1 an hour, up to 24 a day, is MORE than stated; use a cap of warm-up",
                rate.words()
            ));
        }
        match rate.period {
            3_600 => {
                differences
                    .push("it holds in any 3,600 seconds, no burst goes beyond it".to_owned());
                if rule.pacing.is_none() && rule.unreachable.is_none() {
                    rule.pacing = Some(Pacing::Staircase);
                }
            }
            period if period < 3_600 => {
                differences.push(format!(
                    "{} counts over a sliding hour; pacing `even` spreads it, but a second or a minute has no limit of its own",
                    rate.words()
                ));
                if rule.unreachable.is_none() {
                    rule.pacing = Some(Pacing::Even);
                }
            }
            _ => differences.push(format!(
                "{} as so many an hour; a limit for a longer time exists only as a cap of warm-up",
                rate.words()
            )),
        }
        self.figure(rule, Figure::MessagesPerHour, rate.per_hour(), id, &differences);
    }

    /// States a rate of new connections.
    pub(super) fn connection_rate(
        &mut self,
        rule: &mut DraftRule,
        rate: Rate,
        id: DirectiveId,
        besides: &[String],
    ) {
        let mut differences = besides.to_vec();
        match rate.per_minute() {
            Some(per_minute) => {
                if rate.period != 60 {
                    differences.push(format!("{} counts over any 60 seconds", rate.words()));
                }
                self.figure(rule, Figure::ConnectionsPerMinute, per_minute, id, &differences);
            }
            None => {
                let interval = rate.interval();
                differences.push(format!("{} as a pause between two connections", rate.words()));
                let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
                self.figure(rule, Figure::MinInterval, ms, id, &differences);
            }
        }
    }

    /// States a waiting time of a rule; where it was stated already, the longer one holds.
    pub(super) fn timeout(
        &mut self,
        rule: &mut DraftRule,
        which: Wait,
        span: Duration,
        id: DirectiveId,
        differences: &[String],
    ) {
        if self.goes_nowhere(rule, id) {
            return;
        }
        let longest = Duration::from_secs(if which == Wait::Connect { 600 } else { 3_600 });
        let kept = span.clamp(Duration::from_millis(100), longest);
        let mut differences = differences.to_vec();
        if kept != span {
            differences.push(format!("{} is beyond what can be stated", show_span(span)));
        }
        let slot = match which {
            Wait::Connect => &mut rule.connect_timeout,
            Wait::Data => &mut rule.data_timeout,
            Wait::Other => &mut rule.timeout,
        };
        let kept = slot.map_or(kept, |before| before.max(kept));
        *slot = Some(kept);
        rule.directives.push(id);
        self.said(id, &format!("{} = {}", which.key(), show_span(kept)), &differences);
    }

    /// States whether a rule wants TLS.
    pub(super) fn tls(
        &mut self,
        rule: &mut DraftRule,
        policy: TlsPolicy,
        id: DirectiveId,
        differences: &[String],
    ) {
        if self.goes_nowhere(rule, id) {
            return;
        }
        rule.tls = Some(policy);
        rule.directives.push(id);
        self.said(id, &format!("tls = {policy}"), differences);
    }
}

/// Which waiting time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Connect,
    Data,
    Other,
}

impl Wait {
    const fn key(self) -> &'static str {
        match self {
            Self::Connect => "connect_timeout",
            Self::Data => "data_timeout",
            Self::Other => "timeout",
        }
    }
}

impl DraftRule {
    /// A rule that states nothing yet.
    pub(super) fn new(label: &str, header: DirectiveId) -> Self {
        Self {
            label: label.to_owned(),
            masks: Vec::new(),
            domains: Vec::new(),
            sources: Vec::new(),
            scope: Scope::Source,
            figures: BTreeMap::new(),
            connect_timeout: None,
            data_timeout: None,
            timeout: None,
            tls: None,
            pacing: None,
            header,
            has_header: true,
            directives: Vec::new(),
            rank: 1,
            unreachable: None,
        }
    }

    /// Whether it says anything.
    pub(super) fn states_something(&self) -> bool {
        !self.figures.is_empty()
            || self.connect_timeout.is_some()
            || self.data_timeout.is_some()
            || self.timeout.is_some()
            || self.tls.is_some()
    }

    /// Takes over what `other` states and this one does not.
    pub(super) fn complete_from(&mut self, other: &Self) {
        for (figure, stated) in &other.figures {
            self.figures.entry(*figure).or_insert(*stated);
        }
        self.connect_timeout = self.connect_timeout.or(other.connect_timeout);
        self.data_timeout = self.data_timeout.or(other.data_timeout);
        self.timeout = self.timeout.or(other.timeout);
        self.tls = self.tls.or(other.tls);
        self.pacing = self.pacing.or(other.pacing);
    }
}

/// A text for the report: in one line, without control characters, not too long.
pub(super) fn shown(text: &str) -> String {
    shortened(text, LONGEST_SHOWN)
}

/// The same with a length of its own.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", text[..end].chars().map(plain).collect::<String>()),
        None => text.chars().map(plain).collect(),
    }
}
