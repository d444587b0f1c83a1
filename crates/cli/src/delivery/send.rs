//! `mailweir delivery send`: hands a mailing over to the running node.
//!
//! Three steps: make the delivery (content and options are checked by the node), stream the
//! recipients, start it. The list is passed on as it is, so line numbers of refused rows are those of
//! the file. When the stream breaks off, the delivery is cancelled: half a list is not sent.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio_util::io::ReaderStream;

use crate::client::{CallFault, NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, number, print, print_json, printable, say};

use super::content::ContentArguments;
use super::stream::{Counted, List, open};
use super::wave::{self, WaveOption};

/// How long a stream may stand still before it is given up.
const STALLED: Duration = Duration::from_secs(300);
/// Refused rows shown; `--refusals` writes all.
const SHOWN_REFUSALS: usize = 20;
/// Refusals asked for at once.
const REFUSALS_PAGE: u64 = 1_000;

/// The long help. Paragraphs are one line each, for the terminal to fold.
pub const LONG_ABOUT: &str = "\
Hand over a mailing to the running node: content, recipients and options.

Recipients are a CSV file with a header row, or one JSON object per line (NDJSON); both have a \
column `email`, and the other columns are the merge variables of the templates ({{ first_name }}). A \
row that cannot be used is refused with its line and reason, the others are accepted. The list is \
streamed and never held in memory.

Waves: --wave 10%@0 --wave 90%@2h sends to a tenth at once and to the rest two hours later.

Exit status 0 when recipients were accepted; 1 when the node refused or no recipient was accepted.";

/// `mailweir delivery send`
#[derive(Debug, Args)]
pub struct SendArguments {
    #[command(flatten)]
    content: ContentArguments,
    /// Recipients: CSV or NDJSON; - is standard input
    #[arg(long, value_name = "FILE")]
    recipients: PathBuf,
    /// A name for people
    #[arg(long, default_value = "")]
    name: String,
    /// The affinity: the named set of sources that it may use
    #[arg(long)]
    affinity: Option<String>,
    /// How urgent it is
    #[arg(long, value_enum)]
    priority: Option<PriorityOption>,
    /// How long its messages may be sent, such as 5d or 12h
    #[arg(long, value_name = "SPAN", value_parser = span)]
    validity: Option<String>,
    /// At most so many messages in any hour, over all providers
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    per_hour: Option<u32>,
    /// A wave: share or count, @, and when; may be repeated
    #[arg(long, value_name = "SIZE@AFTER")]
    wave: Vec<WaveOption>,
    /// Real conversations up to the recipient, but no content is sent
    #[arg(long, conflicts_with = "dry")]
    test: bool,
    /// Everything except connecting
    #[arg(long)]
    dry: bool,
    /// Hand over, but do not start (`mailweir delivery start` does)
    #[arg(long)]
    paused: bool,
    /// Label of the sending application, for logs
    #[arg(long, default_value = "")]
    tenant: String,
    /// Write all refused rows to this file (CSV)
    #[arg(long, value_name = "FILE")]
    refusals: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArguments,
}

/// `--priority`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PriorityOption {
    /// A person waits for it.
    High,
    /// Ordinary mailings.
    Normal,
    /// Whatever may wait for the rest.
    Low,
}

/// A span of time, kept as text: the node reads it again.
fn span(text: &str) -> Result<String, String> {
    rules::parse_span(text).map(|_| text.to_owned()).map_err(|fault| fault.to_string())
}

impl SendArguments {
    /// The options as the API takes them; what is not stated is left to the node.
    fn options(&self) -> Value {
        let mut options = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                options.insert(name.to_owned(), value);
            }
        };
        let text = |text: &String| Some(json!(text)).filter(|_| !text.is_empty());
        set("name", text(&self.name));
        set("tenant", text(&self.tenant));
        set("affinity", self.affinity.as_ref().map(|name| json!(name)));
        set(
            "priority",
            self.priority.map(|priority| match priority {
                PriorityOption::High => json!("high"),
                PriorityOption::Normal => json!("normal"),
                PriorityOption::Low => json!("low"),
            }),
        );
        set("validity", self.validity.as_ref().map(|span| json!(span)));
        set("messages_per_hour", self.per_hour.map(Value::from));
        let waves: Vec<Value> = self.wave.iter().map(|wave| wave.to_json()).collect();
        set("waves", Some(json!(waves)).filter(|_| !waves.is_empty()));
        set("mode", self.test.then(|| json!("test")).or(self.dry.then(|| json!("dry"))));
        Value::Object(options)
    }
}

/// Carries the command out.
///
/// # Errors
/// Files that cannot be read; no node; the node refused.
pub fn run(globals: &Globals, arguments: &SendArguments) -> Ended {
    wave::check(&arguments.wave).map_err(|why| Failure::environment(format!("--wave: {why}")))?;
    let content = arguments.content.read()?;
    let content = serde_json::to_value(&content)
        .map_err(|fault| Failure::environment(format!("the content cannot be sent: {fault}")))?;
    let client = NodeClient::new(globals, &arguments.node)?;
    crate::runtime()?.block_on(async {
        let list = open(&arguments.recipients).await?;
        let body = json!({ "options": arguments.options(), "content": content });
        let made = client.post(&["deliveries"], &body).await?;
        let id = made.get("id").and_then(Value::as_str).ok_or_else(|| {
            Failure::environment("the node did not say which delivery it has made")
        })?;
        hand_over(globals, arguments, &client, id, list).await
    })
}

/// Streams the list, starts the delivery, and says what became of it.
async fn hand_over(
    globals: &Globals,
    arguments: &SendArguments,
    client: &NodeClient,
    id: &str,
    list: List,
) -> Ended {
    let totals = match stream(client, id, list).await {
        Ok(totals) => totals,
        Err(fault) => return Err(give_up(client, id, fault).await),
    };
    let figure = |name: &str| totals.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (accepted, refused) = (figure("accepted"), figure("refused"));
    if let Some(path) = &arguments.refusals {
        write_refusals(client, id, path).await?;
    }
    let started = accepted > 0 && !arguments.paused;
    if started {
        let body = json!({ "why": "mailweir delivery send" });
        let started = client.post(&["deliveries", id, "start"], &body).await;
        if let Err(fault) = started {
            return Err(not_started(id, fault));
        }
    }
    if globals.json() {
        let mut answer = totals.clone();
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("id".to_owned(), json!(id));
            fields.insert("started".to_owned(), json!(started));
        }
        print_json(&answer)?;
        return Ok(Outcome::of(accepted > 0));
    }
    say_refusals(&totals, refused, arguments.refusals.as_deref());
    let state = match (started, accepted) {
        (true, _) => format!("started; `mailweir delivery show {id}` follows it"),
        (false, 0) => "not started, because nobody is in it".to_owned(),
        (false, _) => format!("not started; `mailweir delivery start {id}` does"),
    };
    print(&format!(
        "{id}: {} accepted, {} refused, {} left out\n{id} {state}",
        count(accepted, "recipient"),
        number(refused),
        count(figure("duplicates"), "duplicate")
    ))?;
    Ok(Outcome::of(accepted > 0))
}

/// The refused rows that the node told, with lines and reasons.
fn say_refusals(totals: &Value, refused: u64, file: Option<&Path>) {
    let told = totals.get("refusals").and_then(Value::as_array).into_iter().flatten();
    let mut shown = 0_u64;
    for refusal in told.take(SHOWN_REFUSALS) {
        let line = refusal.get("line").map(ToString::to_string).unwrap_or_default();
        let reason = refusal.get("reason").map(crate::show::plain).unwrap_or_default();
        say(&format!("line {line}: {}", printable(&reason)));
        shown += 1;
    }
    if refused > shown {
        let more = number(refused - shown);
        match file {
            Some(path) => say(&format!("... and {more} more refused rows: {}", path.display())),
            None => say(&format!("... and {more} more refused rows; --refusals FILE writes all")),
        }
    }
}

/// The list is in the queue, but whether the delivery has started is not known.
fn not_started(id: &str, fault: CallFault) -> Failure {
    let words = format!(
        "{fault}; the recipients of {id} are in the queue: `mailweir delivery show {id}` says whether it has started, \
         `mailweir delivery start {id}` starts it"
    );
    match Failure::from(fault) {
        Failure::Refused(_) => Failure::refused(words),
        _ => Failure::environment(words),
    }
}

/// Cancels a delivery whose list did not arrive whole.
async fn give_up(client: &NodeClient, id: &str, fault: CallFault) -> Failure {
    let body = json!({ "why": "the list of recipients did not arrive whole" });
    let cancelled = client.post(&["deliveries", id, "cancel"], &body).await;
    let after = match cancelled {
        Ok(_) => format!("{id} was cancelled, nothing of it is sent"),
        Err(_) => format!(
            "{id} is not started and nothing of it is sent; `mailweir delivery cancel {id}` removes it"
        ),
    };
    match Failure::from(fault) {
        Failure::Refused(words) => Failure::refused(format!("{words}; {after}")),
        failure => Failure::environment(format!("{failure}; {after}")),
    }
}

/// Streams the list and answers the totals.
async fn stream(client: &NodeClient, id: &str, list: List) -> Result<Value, CallFault> {
    let sent = Arc::new(AtomicU64::new(0));
    let reader = Counted::new(list.reader, Arc::clone(&sent));
    let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, 64 << 10));
    let bar = progress(list.size);
    let path = ["deliveries", id, "recipients"];
    let call = client.post_stream(&path, list.content_type, body);
    tokio::pin!(call);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let (mut last, mut still) = (0, Duration::ZERO);
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            _ = tick.tick() => {
                let now = sent.load(Ordering::Relaxed);
                bar.set_position(now);
                still = if now == last { still + tick.period() } else { Duration::ZERO };
                last = now;
                if still >= STALLED {
                    let words = format!("nothing moved for {}", rules::show_span(STALLED));
                    break Err(CallFault::Broken(words));
                }
            }
        }
    };
    bar.finish_and_clear();
    answer
}

/// A bar on a terminal; elsewhere nothing.
fn progress(size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let form = match size {
        Some(_) => "recipients {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        None => "recipients {spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(style)
}

/// Writes all refused rows, page by page.
async fn write_refusals(client: &NodeClient, id: &str, path: &Path) -> Result<(), Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::environment(format!("cannot write {}: {why}", path.display()))
    };
    let file = std::fs::File::create(path).map_err(|fault| cannot(&fault))?;
    let mut out = csv::Writer::from_writer(std::io::BufWriter::new(file));
    out.write_record(["line", "address", "reason"]).map_err(|fault| cannot(&fault))?;
    let mut from = 0_u64;
    loop {
        let parameters = [("from", from.to_string()), ("limit", REFUSALS_PAGE.to_string())];
        let page = client.get_with(&["deliveries", id, "refusals"], &parameters).await?;
        let list = page.get("refusals").and_then(Value::as_array);
        let list = list.map(Vec::as_slice).unwrap_or_default();
        for refusal in list {
            let field = |name: &str| match refusal.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            };
            let row = [field("line"), field("address"), field("reason")];
            out.write_record(row).map_err(|fault| cannot(&fault))?;
        }
        match page.get("next").and_then(Value::as_u64).filter(|next| *next > from) {
            Some(next) => from = next,
            None => break,
        }
    }
    let mut out = out.into_inner().map_err(|fault| cannot(&fault))?;
    out.flush().map_err(|fault| cannot(&fault))
}

#[cfg(test)]
mod tests;
