//! Live progress: bars on a terminal, a line each second otherwise, nothing for programs.
//!
//! It goes to standard error, so that standard output holds results only. The number of bars is
//! bounded: the largest providers have one each, the others one together.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::{clock_time, fit, short};
use super::watch::{Row, Snapshot};
use super::world::World;
use crate::output::{number, say};

/// Providers with a bar of their own.
const BARS: usize = 12;
/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where progress is shown.
pub(crate) enum Progress {
    /// Nowhere.
    Silent,
    /// As lines.
    Lines(Lines),
    /// As bars.
    Bars(Box<Bars>),
}

/// Lines on standard error.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    last: Option<Instant>,
    before: Option<(Duration, u64)>,
}

/// Bars on standard error.
pub(crate) struct Bars {
    all: MultiProgress,
    feed: Option<ProgressBar>,
    head: ProgressBar,
    rows: Vec<(Vec<usize>, ProgressBar)>,
    foot: ProgressBar,
    width: usize,
    before: (Duration, u64, f64),
}

impl Progress {
    /// Bars when standard error is a terminal, else lines.
    pub(crate) fn for_people() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        if all.is_hidden() {
            return Self::Lines(Lines::default());
        }
        Self::Bars(Box::new(Bars {
            all,
            feed: None,
            head: ProgressBar::hidden(),
            rows: Vec::new(),
            foot: ProgressBar::hidden(),
            width: crate::output::terminal_width().unwrap_or(80).into(),
            before: (Duration::ZERO, 0, 0.0),
        }))
    }

    /// Recipients have been accepted.
    pub(crate) fn accepted(&mut self, accepted: u64, of: u64, time: Duration) {
        let rate = per_second(accepted, time);
        match self {
            Self::Silent => {}
            Self::Lines(lines) => {
                if lines.due() || accepted == of {
                    let (accepted, of) = (number(accepted), number(of));
                    say(&format!("accepted {accepted} of {of} recipients ({rate}/s)"));
                }
            }
            Self::Bars(bars) => {
                let feed = bars.feed.get_or_insert_with(|| {
                    let bar = bars.all.add(ProgressBar::new(of));
                    bar.set_style(style("accepting {bar:30.cyan/dim}  {msg}"));
                    bar
                });
                feed.set_position(accepted);
                let (accepted_words, of_words) = (number(accepted), number(of));
                let words = format!("{accepted_words} of {of_words} on disk, {rate}/s");
                feed.set_message(fit(&words, bars.width.saturating_sub(43)));
                if accepted == of {
                    feed.finish();
                }
            }
        }
    }

    /// The delivery as it is now.
    pub(crate) fn sending(&mut self, world: &World, snapshot: &Snapshot) {
        match self {
            Self::Silent => {}
            Self::Lines(lines) => lines.sending(snapshot),
            Self::Bars(bars) => bars.sending(world, snapshot),
        }
    }

    /// Says what is being done between two stages.
    pub(crate) fn stage(&mut self, words: &str) {
        match self {
            Self::Silent => {}
            Self::Lines(_) => say(words),
            Self::Bars(bars) => bars.foot.set_message(words.to_owned()),
        }
    }

    /// Takes everything away.
    pub(crate) fn end(&mut self) {
        if let Self::Bars(bars) = self {
            // A terminal that is gone needs no clearing.
            let _ = bars.all.clear();
        }
    }
}

fn per_second(count: u64, time: Duration) -> String {
    number((count as f64 / time.as_secs_f64().max(0.001)) as u64)
}

/// The style of a bar; the templates are constants of this module.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template of a bar is well formed")
        .progress_chars("━━─")
}

impl Lines {
    fn due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }

    fn sending(&mut self, snapshot: &Snapshot) {
        if !self.due() {
            return;
        }
        let sent = snapshot.sum(|row| row.sent);
        let (time, before) = self.before.unwrap_or_default();
        self.before = Some((snapshot.elapsed, sent));
        let rate = per_second(sent.saturating_sub(before), snapshot.elapsed.saturating_sub(time));
        let mut line = format!(
            "{:>3} s  sent {:>7} ({:>6}/s)  failed {:>6}  waiting {:>7}  connections {:>4}",
            snapshot.elapsed.as_secs(),
            number(sent),
            rate,
            number(snapshot.sum(|row| row.failed)),
            number(snapshot.sum(|row| row.waiting)),
            snapshot.connections,
        );
        if let Some(held) = snapshot.reasons().first() {
            line += &format!("  most for: {}", short(&held.reason));
        }
        say(&line);
    }
}

/// Width of the names.
const NAME: usize = 15;
/// Width of the three figures with their gaps.
const FIGURES: usize = 8 + 8 + 9;

impl Bars {
    fn prepare(&mut self, world: &World, snapshot: &Snapshot) {
        let mut order: Vec<usize> =
            (0..snapshot.rows.len()).filter(|place| snapshot.rows[*place].recipients > 0).collect();
        order.sort_by_key(|place| core::cmp::Reverse(snapshot.rows[*place].recipients));
        let bar = self.bar_width();
        let line = |all: &MultiProgress, template: &str| {
            let bar = all.add(ProgressBar::new(1));
            bar.set_style(style(template));
            bar
        };
        self.head = line(&self.all, "{msg:.bold}");
        let split = order.len().min(BARS);
        let (own, others) = order.split_at(split);
        let mut groups: Vec<(String, Vec<usize>)> =
            own.iter().map(|place| (world.plans[*place].name.clone(), vec![*place])).collect();
        if !others.is_empty() {
            groups.push((format!("{} others", others.len()), others.to_vec()));
        }
        let template = format!("{{prefix:{NAME}}} {{bar:{bar}.green/dim}}{{msg}}");
        for (name, places) in groups {
            let bar = line(&self.all, &template);
            bar.set_prefix(name);
            let most: u64 = places.iter().map(|place| snapshot.rows[*place].recipients).sum();
            bar.set_length(most);
            self.rows.push((places, bar));
        }
        self.foot = line(&self.all, "{msg}");
    }

    fn bar_width(&self) -> usize {
        match self.width {
            0..90 => 12,
            90..120 => 24,
            _ => 36,
        }
    }

    fn sending(&mut self, world: &World, snapshot: &Snapshot) {
        if self.rows.is_empty() {
            self.prepare(world, snapshot);
        }
        let room = self.width.saturating_sub(NAME + 1 + self.bar_width() + FIGURES + 2 + 1);
        let space = NAME + 1 + self.bar_width();
        self.head.set_message(format!(
            "{:space$}{:>8}{:>8}{:>9}  {}",
            "MX group", "sent", "failed", "waiting", "waits for"
        ));
        for (places, bar) in &self.rows {
            let rows = || places.iter().map(|place| &snapshot.rows[*place]);
            let sum = |figure: fn(&Row) -> u64| rows().map(figure).sum::<u64>();
            let held = rows().flat_map(|row| &row.held).max_by_key(|held| held.messages);
            let why = held.map(|held| match clock_time(held.until, snapshot.now) {
                Some(time) => format!("{}, {time}", short(&held.reason)),
                None => short(&held.reason).to_owned(),
            });
            bar.set_position(sum(|row| row.sent + row.failed + row.ended));
            bar.set_message(format!(
                "{:>8}{:>8}{:>9}  {}",
                number(sum(|row| row.sent)),
                number(sum(|row| row.failed)),
                number(sum(|row| row.waiting)),
                fit(&why.unwrap_or_default(), room),
            ));
        }
        let line = self.foot_line(snapshot);
        self.foot.set_message(line);
    }

    fn foot_line(&mut self, snapshot: &Snapshot) -> String {
        let sent = snapshot.sum(|row| row.sent);
        let (time, before, rate) = self.before;
        let passed = snapshot.elapsed.saturating_sub(time);
        let rate = if passed >= LINE_EVERY {
            let rate = sent.saturating_sub(before) as f64 / passed.as_secs_f64();
            self.before = (snapshot.elapsed, sent, rate);
            rate
        } else if before == 0 {
            sent as f64 / snapshot.elapsed.as_secs_f64().max(0.1)
        } else {
            rate
        };
        let line = format!(
            "{} s: {} sent, {}/s, {} connections open",
            snapshot.elapsed.as_secs(),
            number(sent),
            number(rate as u64),
            number(snapshot.connections as u64)
        );
        fit(&line, self.width.saturating_sub(1))
    }
}
