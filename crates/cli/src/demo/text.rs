//! The end of a demonstration, for people: tables that fit the terminal, and what to try next.

use mail::time::Timestamp;

use super::account::{Account, Measure, ProviderAccount};
use super::returns_text;
use super::watch::FinishedBy;
use super::world::SOURCES;
use crate::output::{count, fits, number, span, table};
use crate::rows::Rows;

/// Width of output that is not on a terminal.
const PLAIN_WIDTH: u16 = 100;
/// From this width on, one table holds everything.
const WIDE: u16 = 156;

/// What stands for a time that comes after the validity of the delivery.
const EXPIRES: &str = "expires first";

/// A text in at most so many columns, with an ellipsis where something is missing.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    if columns == 0 { String::new() } else { format!("{}…", kept.trim_end()) }
}

/// The clock time of a moment in the zone of this machine; with its day when that is not today.
pub(crate) fn clock_time(at: Timestamp, now: Timestamp) -> Option<String> {
    let zoned = |time: Timestamp| {
        let micros = i64::try_from(time.as_micros()).ok()?;
        let time = jiff::Timestamp::from_microsecond(micros).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::system()))
    };
    if at == Timestamp::NEVER {
        return None;
    }
    // Minutes are rounded up: at that time it will have gone.
    let at = zoned(Timestamp::from_micros(at.as_micros().next_multiple_of(60_000_000)))?;
    let now = zoned(now)?;
    let form = match (at.date() - now.date()).get_days() {
        0 => "%H:%M",
        days if days < 7 => "%a %H:%M",
        _ => "%b %-d %H:%M",
    };
    Some(at.strftime(form).to_string())
}

/// How this program was called, for commands that can be copied.
pub(crate) fn program() -> String {
    // Cargo tells its children where it is.
    if std::env::var_os("CARGO").is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        return "cargo run --release --".to_owned();
    }
    std::env::args().next().unwrap_or_else(|| "mailweir".to_owned())
}

/// The whole report.
pub(crate) fn report(account: &Account, width: Option<u16>) -> String {
    let width = width.unwrap_or(PLAIN_WIDTH);
    let mut text = String::from("\n");
    if width >= WIDE {
        text += &format!("{}\n", one_table(account));
    } else {
        text += &format!("{}\n\n", delivered(account, width));
        text +=
            "What the receiving side saw: the most of any one source / its limit in the MX rules\n";
        text += &format!("{}\n", received(account, width));
    }
    text.push('\n');
    text += &returns_text::came_back(&account.came_back, width);
    if let Some(second) = &account.second_delivery {
        text += &returns_text::again(second, width);
    }
    for line in summary(account) {
        text += &wrapped(&line, width);
    }
    text
}

/// What became of the mail: with as much as fits.
fn delivered(account: &Account, width: u16) -> Rows {
    let full = delivered_with(account, true, true);
    if fits(&full, Some(width)) {
        return full;
    }
    let without_span = delivered_with(account, true, false);
    if fits(&without_span, Some(width)) {
        return without_span;
    }
    let mut least = delivered_with(account, false, false);
    least.set_width(width);
    least
}

fn delivered_with(account: &Account, with_total: bool, with_span: bool) -> Rows {
    let from = usize::from(!with_total);
    let columns = ["Provider", ">Total", ">Sent", ">Failed", ">Waiting", "Waits for"];
    let last = if with_span { "Gone by (in)" } else { "Gone by" };
    let mut names: Vec<&str> = columns.into_iter().chain([last]).collect();
    names.drain(1..1 + from);
    let mut rows = table(&names);
    let mut add = |mut cells: Vec<String>| {
        cells.drain(1..1 + from);
        rows.add_row(cells);
    };
    for provider in &account.providers {
        let mut cells = figures(provider);
        cells.push(reason(provider));
        cells.push(gone_by(provider, account.now, with_span));
        add(cells);
    }
    let mut cells = totals(account);
    cells.extend([String::new(), last_gone(account, with_span)]);
    add(cells);
    rows
}

/// What the receiving side saw.
fn received(account: &Account, width: u16) -> Rows {
    let columns = [
        "Provider",
        ">Connections at once",
        ">Messages on one connection",
        ">Messages in any hour",
    ];
    let mut rows = table(&columns);
    rows.set_width(width);
    for provider in &account.providers {
        if let Some(cells) = measured(provider) {
            let [connections, messages, hour] = cells;
            rows.add_row([provider.name.clone(), connections, messages, hour]);
        }
    }
    rows
}

fn one_table(account: &Account) -> Rows {
    let columns = [
        "Provider",
        ">Total",
        ">Sent",
        ">Failed",
        ">Waiting",
        "Waits for",
        "Gone by (in)",
        ">Connections at once",
        ">On one of them",
        ">In any hour",
    ];
    let mut rows = table(&columns);
    for provider in &account.providers {
        let mut cells = figures(provider);
        cells.push(reason(provider));
        cells.push(gone_by(provider, account.now, true));
        cells.extend(measured(provider).unwrap_or_default());
        rows.add_row(cells);
    }
    let mut cells = totals(account);
    cells.extend([String::new(), last_gone(account, true)]);
    cells.extend(["seen / limit", "seen / limit", "seen / limit"].map(str::to_owned));
    rows.add_row(cells);
    rows
}

fn figures(provider: &ProviderAccount) -> Vec<String> {
    vec![
        provider.name.clone(),
        number(provider.recipients),
        number(provider.sent),
        number(provider.failed + provider.ended),
        number(provider.waiting),
    ]
}

fn totals(account: &Account) -> Vec<String> {
    let failed = account.failed + account.expired + account.cancelled;
    let total = account.accepted + account.from_earlier_runs;
    let mut cells = vec!["all".to_owned()];
    cells.extend([total, account.sent, failed, account.waiting].map(number));
    cells
}

fn reason(provider: &ProviderAccount) -> String {
    provider.waiting_reason.as_deref().map(short).unwrap_or_default().to_owned()
}

/// A wait reason in few columns.
pub(crate) fn short(reason: &str) -> &str {
    match reason {
        "path resting: unreachable" => "unreachable",
        "path resting: refused" => "refusing us",
        "path resting: broken off" => "breaking off",
        "DNS temporary failure" => "DNS fails",
        "retry scheduled" => "its retry",
        other => other,
    }
}

fn gone_by(provider: &ProviderAccount, now: Timestamp, with_span: bool) -> String {
    match provider.gone_at {
        Some(at) => moment(at, now, with_span),
        None if provider.waiting == 0 => String::new(),
        None if !provider.out_of_reach => EXPIRES.to_owned(),
        None => "not foreseeable".to_owned(),
    }
}

/// When the last of it will have gone.
fn last_gone(account: &Account, with_span: bool) -> String {
    let foreseeable = || account.providers.iter().filter(|found| !found.out_of_reach);
    if foreseeable().any(|found| found.waiting > 0 && found.gone_at.is_none()) {
        return EXPIRES.to_owned();
    }
    let last = account.providers.iter().filter_map(|provider| provider.gone_at).max();
    last.map(|at| moment(at, account.now, with_span)).unwrap_or_default()
}

fn moment(at: Timestamp, now: Timestamp, with_span: bool) -> String {
    let time = clock_time(at, now).unwrap_or_default();
    if with_span { format!("{time} ({})", span(at.since(now))) } else { time }
}

/// `4 / 5`, for the three limits.
fn measured(provider: &ProviderAccount) -> Option<[String; 3]> {
    let limits = provider.limits?;
    let shown = |found: Measure| format!("{} / {}", number(found.seen), number(found.limit.into()));
    Some([limits.connections, limits.messages_per_connection, limits.messages_per_hour].map(shown))
}

/// Sentences, each a paragraph.
fn summary(account: &Account) -> Vec<String> {
    let mut lines = vec![format!(
        "Accepted {} durably in {:.2} s ({}/s); delivered {} in {:.1} s.",
        count(account.accepted, "recipient"),
        account.accepting_seconds,
        number(account.accepted_per_second),
        number(account.sent),
        account.seconds,
    )];
    let yes = |good: bool| if good { "yes" } else { "NO" };
    lines.push(format!(
        "Limits held on the receiving side: {}. Auditor over the delivery log: {}. Unaccounted: {}. Duplicates: {}.",
        yes(account.limits_held),
        if account.audit.limits_held { "all budgets held" } else { "NOT HELD" },
        number(account.unaccounted),
        number(account.duplicates),
    ));
    if account.unaccounted > 0 {
        let found = account.differences;
        lines.push(format!(
            "UNACCOUNTED: {} in the store, {} between store and delivery log, {} between store and \
             receiving side.",
            number(found.store),
            number(found.delivery_log),
            number(found.receiving_side)
        ));
    }
    lines.extend(account.limit_violations.iter().map(|found| format!("LIMIT PASSED: {found}")));
    if account.possibly_delivered > 0 {
        lines.push(format!(
            "{} broken off after the final dot: the receiving side may have them, and they are tried again.",
            count(account.possibly_delivered, "conversation")
        ));
    }
    lines.extend(returns_text::about_returns(&account.came_back));
    lines.extend(account.second_delivery.iter().flat_map(returns_text::about_again));
    if account.refused_at_admission > 0 {
        lines.push(format!(
            "{} refused at admission: quarantined by what an earlier run met.",
            count(account.refused_at_admission, "recipient"),
        ));
    }
    if account.from_earlier_runs > 0 {
        lines.push(format!(
            "{} were left in this folder by an earlier run.",
            count(account.from_earlier_runs, "message")
        ));
    }
    lines.extend(why_it_waits(account));
    lines.extend(about_level(&account.level));
    let ended = match account.finished_by {
        FinishedBy::Time => "Stopped by its time limit: more could have gone.",
        FinishedBy::Interrupt => "Stopped by hand: more could have gone.",
        FinishedBy::Still => "Stopped because nothing moved any more.",
        FinishedBy::Settled | FinishedBy::Waiting => return lines,
    };
    lines.push(ended.to_owned());
    lines
}

/// What to know when the tables of two levels are compared.
fn about_level(level: &str) -> Option<String> {
    match level {
        "normal" => None,
        "custom" => Some(
            "Level custom takes the figures as the rules state them: with the shipped rules it sends what normal sends, \
             until your own MX rules say otherwise."
                .to_owned(),
        ),
        _ => Some(
            "A provider that stays the same at several levels has hard figures, which it published or gave and no level \
             passes; `mailweir mx level show` marks them with `!`."
                .to_owned(),
        ),
    }
}

/// Why mail waits, in words.
fn why_it_waits(account: &Account) -> Vec<String> {
    let mut lines = Vec::new();
    let waiting = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let reasons = account.providers.iter().flat_map(|found| &found.waiting_reasons);
        reasons.filter(|(name, _)| wanted(name)).map(|(_, messages)| messages).sum()
    };
    let quota = waiting(&|reason| reason.ends_with("quota"));
    if quota > 0
        && let Some((name, hour)) = &account.example
    {
        lines.push(format!(
            "{} for a limit, and that is the point: at level {}, {name} takes {} an hour from each \
             of the {} sources, {} in five minutes. Faster is what gets senders blocked, so the \
             rest waits, each message with its reason and its time.",
            verb(quota, "waits", "wait"),
            account.level,
            number(u64::from(*hour)),
            SOURCES.len(),
            number(u64::from(*hour) / 12),
        ));
    }
    let put_off = waiting(&|reason| reason == "retry scheduled");
    if put_off > 0 {
        lines.push(format!(
            "{} for a later try, because the receiving side put it off: greylisting, full or busy servers.",
            verb(put_off, "waits", "wait"),
        ));
    }
    let away = waiting(&|reason| reason.starts_with("path resting") || reason.starts_with("DNS"));
    if away > 0 {
        lines.push(format!(
            "{} for hosts that do not answer; they are tried again, less and less often.",
            verb(away, "waits", "wait"),
        ));
    }
    lines
}

/// `1 message waits`, `2 messages wait`.
fn verb(messages: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(messages, "message"), if messages == 1 { one } else { many })
}

/// A paragraph in lines of at most the width.
pub(crate) fn wrapped(paragraph: &str, width: u16) -> String {
    let width = usize::from(width.clamp(40, 120));
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text.push('\n');
    text
}
