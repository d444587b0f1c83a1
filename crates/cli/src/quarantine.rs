//! `mailweir quarantine`: which addresses are not written to, why, and what can be done about it.

use clap::{Args, Subcommand};
use engine::quarantine::{State, TextKey};
use mail::failure::Reason;
use serde_json::{Map, Value, json};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};

/// Paragraphs are one line each, for the terminal to fold.
const FORGET_LONG_ABOUT: &str = "\
Erase an address everywhere: what is recorded against it, its messages that are at their end, refusals of \
deliveries, texts of servers that quote it. Only its hash stays, on the suppression list, so that nobody writes to \
it again. Cannot be undone.

Messages that still wait are not sent any more; give the command again when they have come to their end. The \
delivery log, incoming mail that was kept aside, and backups are files of their own.";

pub mod lists;
pub mod text;

/// `mailweir quarantine`
#[derive(Debug, Args)]
pub struct QuarantineArguments {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// Addresses in a state, quarantined ones if nothing else is said
    List(ListArguments),
    /// How many addresses are in which state, and what arrived that changed nothing
    Counts(NodeArguments),
    /// Where an address stands, and what people did to it
    Show(OneAddress),
    /// Why an address stands there: every reply and bounce that was recorded, and what it did
    Explain(OneAddress),
    /// Quarantine addresses by hand, until somebody releases them
    Add(AddArguments),
    /// Never write to these addresses, whatever happens, until somebody releases them
    Deny(ActArguments),
    /// Always write to these addresses, whatever errors they have
    Allow(ActArguments),
    /// Let addresses go: what stood against them (or for them) is over
    Release(ActArguments),
    /// Make failures void: an outage, a wrong rule. Shows the difference; --apply does it
    Undo(UndoArguments),
    /// Let count again what an undo made void. Shows the difference; --apply does it
    Restore(RestoreArguments),
    /// Judge every address anew, after [quarantine] was changed. Shows the difference; --apply does it
    Rejudge(Applying),
    /// Alerts of the outage guard: providers whose "user unknown" is held back
    Alerts(NodeArguments),
    /// End an alert: the replies were true, they count
    Confirm(OneHold),
    /// End an alert: the replies were false, they are void
    Dismiss(OneHold),
    /// Erase an address everywhere; only its hash stays, on the suppression list. Cannot be undone
    #[command(long_about = FORGET_LONG_ABOUT)]
    Forget(OneForgotten),
    /// Take addresses with their states from CSV
    #[command(long_about = lists::IMPORT_LONG_ABOUT)]
    Import(lists::ImportArguments),
    /// Write addresses with their states as CSV
    Export(lists::ExportArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Valid, with-errors, quarantined, denylisted, allowlisted, or all
    #[arg(long, value_name = "STATE", default_value = "quarantined", value_parser = state)]
    state: Wanted,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    node: NodeArguments,
}

/// Which addresses.
#[derive(Debug, Args)]
struct Filter {
    /// Only for this reason, such as user-unknown
    #[arg(long, value_name = "REASON")]
    reason: Option<Reason>,
    /// Only of this domain
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

impl Filter {
    fn parameters(&self, state: &Wanted) -> Vec<(&'static str, String)> {
        let state = state.0.map(|state| ("state", state.to_string()));
        let reason = self.reason.map(|reason| ("reason", reason.to_string()));
        let domain = self.domain.clone().map(|domain| ("domain", domain));
        state.into_iter().chain(reason).chain(domain).collect()
    }
}

/// A state; `None`: all.
#[derive(Clone, Copy, Debug)]
struct Wanted(Option<State>);

fn state(word: &str) -> Result<Wanted, String> {
    if word.eq_ignore_ascii_case("all") {
        return Ok(Wanted(None));
    }
    word.parse().map(|state| Wanted(Some(state))).map_err(|fault| format!("{fault}, all"))
}

#[derive(Debug, Args)]
struct OneAddress {
    /// The address
    address: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct ActArguments {
    /// The addresses
    #[arg(required = true, num_args = 1..=1_000)]
    addresses: Vec<String>,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct AddArguments {
    /// Why they are bad
    #[arg(long, value_name = "REASON", default_value = "user-unknown")]
    reason: Reason,
    #[command(flatten)]
    act: ActArguments,
}

/// What shows the difference first.
#[derive(Debug, Args)]
pub struct Applying {
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Do it; without this only the difference is shown
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
#[group(id = "selection", required = true, multiple = true, args = ["provider", "text", "rule", "reason", "from", "to"])]
struct UndoArguments {
    /// Of this provider: the MX group as recorded, or the domain of the addresses
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// With this text: its key, as `qualification list` shows it
    #[arg(long, value_name = "KEY")]
    text: Option<TextKey>,
    /// Judged by this bounce rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// With this reason, such as user-unknown
    #[arg(long, value_name = "REASON")]
    reason: Option<Reason>,
    /// From this moment on, such as 2026-11-21T07:00:00Z
    #[arg(long, value_name = "TIME", value_parser = crate::output::read_moment)]
    from: Option<jiff::Timestamp>,
    /// Up to this moment
    #[arg(long, value_name = "TIME", value_parser = crate::output::read_moment)]
    to: Option<jiff::Timestamp>,
    #[command(flatten)]
    applying: Applying,
}

#[derive(Debug, Args)]
struct RestoreArguments {
    /// Number of the task that undid something
    task: u64,
    #[command(flatten)]
    applying: Applying,
}

#[derive(Debug, Args)]
struct OneForgotten {
    /// The address
    address: String,
    /// Why; for the record. It must not name the address
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct OneHold {
    /// Number of the alert
    hold: u64,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: QuarantineArguments) -> Ended {
    match arguments.command {
        QuarantineCommand::List(arguments) => list(globals, &arguments),
        QuarantineCommand::Counts(node) => ask(globals, &node, "counts", text::counts),
        QuarantineCommand::Show(one) => address(globals, &one, text::shown),
        QuarantineCommand::Explain(one) => address(globals, &one, text::explained),
        QuarantineCommand::Add(arguments) => {
            act(globals, "quarantine", Some(arguments.reason), &arguments.act)
        }
        QuarantineCommand::Deny(arguments) => act(globals, "deny", None, &arguments),
        QuarantineCommand::Allow(arguments) => act(globals, "allow", None, &arguments),
        QuarantineCommand::Release(arguments) => act(globals, "release", None, &arguments),
        QuarantineCommand::Undo(arguments) => undo(globals, &arguments),
        QuarantineCommand::Restore(arguments) => {
            let mut body = Map::new();
            body.insert("task".into(), arguments.task.into());
            apply(globals, &arguments.applying, &["quarantine", "restore"], body)
        }
        QuarantineCommand::Rejudge(applying) => {
            apply(globals, &applying, &["quarantine", "rejudge"], Map::new())
        }
        QuarantineCommand::Alerts(node) => ask(globals, &node, "holds", text::alerts),
        QuarantineCommand::Confirm(one) => end(globals, &one, "confirm"),
        QuarantineCommand::Dismiss(one) => end(globals, &one, "dismiss"),
        QuarantineCommand::Forget(one) => forget(globals, &one),
        QuarantineCommand::Import(arguments) => lists::import(globals, &arguments),
        QuarantineCommand::Export(arguments) => lists::export(globals, &arguments),
    }
}

/// Shows an answer in the form that is asked for.
///
/// # Errors
/// Standard output cannot be written.
pub fn tell(globals: &Globals, answer: &Value, text: impl FnOnce(&Value) -> String) -> Ended {
    if globals.json() {
        print_json(answer)?
    } else {
        print(&text(answer))?
    }
    Ok(Outcome::Fine)
}

fn ask(globals: &Globals, node: &NodeArguments, what: &str, text: fn(&Value) -> String) -> Ended {
    let client = NodeClient::new(globals, node)?;
    let answer = crate::runtime()?.block_on(client.get(&["quarantine", what]))?;
    tell(globals, &answer, text)
}

fn address(globals: &Globals, one: &OneAddress, text: fn(&Value) -> String) -> Ended {
    let client = NodeClient::new(globals, &one.node)?;
    let answer =
        crate::runtime()?.block_on(client.get(&["quarantine", "addresses", &one.address]))?;
    tell(globals, &answer, text)
}

fn list(globals: &Globals, arguments: &ListArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let parameters = arguments.filter.parameters(&arguments.state);
    let path = ["quarantine", "addresses"];
    let pages = pages(&client, &path, "addresses", parameters, arguments.limit);
    let (addresses, more) = crate::runtime()?.block_on(pages)?;
    let answer = json!({ "addresses": addresses, "more": more });
    tell(globals, &answer, text::addresses)
}

/// As many entries as are asked for, page by page, and whether there are more.
///
/// # Errors
/// The node refuses, or answers with something else than pages.
pub async fn pages(
    client: &NodeClient,
    path: &[&str],
    name: &str,
    parameters: Vec<(&'static str, String)>,
    limit: u32,
) -> Result<(Vec<Value>, bool), Failure> {
    const PAGE: usize = 1_000;
    let limit = limit as usize;
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    while found.len() < limit {
        let mut asked = parameters.clone();
        asked.push(("limit", (limit - found.len()).min(PAGE).to_string()));
        asked.extend(after.clone().map(|after| ("after", after)));
        let mut page = client.get_with(path, &asked).await?;
        let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
        match page.get_mut(name).map(Value::take) {
            Some(Value::Array(list)) => found.extend(list),
            _ => return Err(Failure::environment(format!("the node's answer has no list {name}"))),
        }
        if next.is_none() || next == after {
            return Ok((found, false));
        }
        after = next;
    }
    Ok((found, true))
}

fn act(globals: &Globals, deed: &str, reason: Option<Reason>, arguments: &ActArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let mut body = json!({ "deed": deed, "addresses": arguments.addresses, "why": arguments.why });
    if let Some(reason) = reason {
        body["reason"] = reason.word().into();
    }
    let answer = crate::runtime()?.block_on(client.post(&["quarantine", "deeds"], &body))?;
    tell(globals, &answer, text::changes)
}

fn forget(globals: &Globals, one: &OneForgotten) -> Ended {
    let client = NodeClient::new(globals, &one.node)?;
    let body = json!({ "address": one.address, "why": one.why });
    let answer = crate::runtime()?.block_on(client.post(&["quarantine", "forget"], &body))?;
    tell(globals, &answer, text::forgotten)
}

fn undo(globals: &Globals, arguments: &UndoArguments) -> Ended {
    let mut body = Map::new();
    for (name, value) in [
        ("provider", arguments.provider.clone()),
        ("text", arguments.text.map(|key| key.to_string())),
        ("rule", arguments.rule.clone()),
        ("reason", arguments.reason.map(|reason| reason.to_string())),
        ("from", arguments.from.map(|at| at.to_string())),
        ("to", arguments.to.map(|at| at.to_string())),
    ] {
        if let Some(value) = value {
            body.insert(name.into(), value.into());
        }
    }
    apply(globals, &arguments.applying, &["quarantine", "undo"], body)
}

/// How long the end of a task is waited for before the command says that it goes on.
const TASK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Shows what a change would do, or does it and waits for its end.
///
/// # Errors
/// The node refuses.
pub fn apply(
    globals: &Globals,
    applying: &Applying,
    path: &[&str],
    mut body: Map<String, Value>,
) -> Ended {
    let client = NodeClient::new(globals, &applying.node)?;
    body.insert("why".into(), applying.why.as_str().into());
    body.insert("apply".into(), applying.apply.into());
    let answer = crate::runtime()?.block_on(async {
        let mut answer = client.post(path, &Value::Object(body)).await?;
        if let Some(task) = answer.get("task").and_then(Value::as_u64) {
            answer["done"] = wait_for(&client, task).await?.into();
        }
        Ok::<_, Failure>(answer)
    })?;
    tell(globals, &answer, text::outcome)
}

/// Whether a task came to its end while it was waited for.
async fn wait_for(client: &NodeClient, task: u64) -> Result<bool, Failure> {
    let begun = std::time::Instant::now();
    loop {
        let answer = client.get(&["quarantine", "tasks"]).await?;
        let tasks = answer.get("tasks").and_then(Value::as_array);
        let at_work = |one: &Value| one.get("task").and_then(Value::as_u64) == Some(task);
        if !tasks.is_some_and(|tasks| tasks.iter().any(at_work)) {
            return Ok(true);
        }
        if begun.elapsed() > TASK_PATIENCE {
            return Ok(false);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

fn end(globals: &Globals, one: &OneHold, verb: &str) -> Ended {
    let client = NodeClient::new(globals, &one.node)?;
    let number = one.hold.to_string();
    let body = json!({ "why": one.why });
    let path = ["quarantine", "holds", &number, verb];
    let answer = crate::runtime()?.block_on(client.post(&path, &body))?;
    let one = json!({ "holds": [answer] });
    if globals.json() {
        print_json(&answer)?
    } else {
        print(&text::alerts(&one))?
    }
    Ok(Outcome::Fine)
}
