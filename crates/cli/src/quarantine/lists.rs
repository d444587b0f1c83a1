//! Lists of addresses with their states: CSV to the node and from it, streamed both ways.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::quarantine::State;
use mail::failure::Reason;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::text::addresses_count;
use super::{Filter, Wanted, state, tell};
use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, printable, say};

/// Refused rows that are shown.
const SHOWN: usize = 20;

/// Paragraphs are one line each, for the terminal to fold.
pub const IMPORT_LONG_ABOUT: &str = "\
Take addresses with their states from CSV: invalid addresses that are known from elsewhere, before the \
first mail is sent.

The first row names the columns, separated by comma, semicolon or tabulator: address (needed), state, \
reason, since, until, errors, last_error_at. That is what `export` writes. A file without the column \
state needs --state. The last row of an address wins.

Rows that cannot be used are refused one by one, with their lines; exit status 1 when there were any.";

#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The file, or - for standard input
    file: PathBuf,
    /// State of rows that have none, such as quarantined or denylisted
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    /// Reason of rows that have none, such as user-unknown
    #[arg(long, value_name = "REASON")]
    reason: Option<Reason>,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "import")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Where to; without it standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Valid, with-errors, quarantined, denylisted, allowlisted, or all
    #[arg(long, value_name = "STATE", default_value = "all", value_parser = state)]
    state: Wanted,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    node: NodeArguments,
}

/// Hands a list over.
///
/// # Errors
/// The file cannot be read; the node refuses it as a whole.
pub fn import(globals: &Globals, arguments: &ImportArguments) -> Ended {
    if !arguments.why.is_ascii() {
        return Err(Failure::environment("--why: only ASCII characters here"));
    }
    let client = NodeClient::new(globals, &arguments.node)?;
    let mut fields = vec![("X-Mailweir-Why", arguments.why.clone())];
    fields.extend(arguments.state.map(|state| ("X-Mailweir-State", state.to_string())));
    fields.extend(arguments.reason.map(|reason| ("X-Mailweir-Reason", reason.to_string())));
    let answer = crate::runtime()?.block_on(async {
        let body = reqwest::Body::wrap_stream(ReaderStream::new(open(&arguments.file).await?));
        let path = ["quarantine", "import"];
        Ok::<_, Failure>(client.post_stream_with(&path, "text/csv", &fields, body).await?)
    })?;
    tell(globals, &answer, imported)?;
    Ok(Outcome::of(answer.get("refused").and_then(Value::as_u64) == Some(0)))
}

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// It cannot be read, or is a folder.
pub async fn open(path: &Path) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>, Failure> {
    let cannot = |fault: std::io::Error| {
        Failure::environment(format!("cannot read {}: {fault}", path.display()))
    };
    if path == Path::new("-") {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
        return Ok(Box::new(tokio::fs::File::from_std(std::fs::File::from(stdin))));
    }
    let file = tokio::fs::File::open(path).await.map_err(cannot)?;
    if file.metadata().await.map_err(cannot)?.is_dir() {
        return Err(Failure::environment(format!(
            "cannot read {}: it is a folder",
            path.display()
        )));
    }
    Ok(Box::new(file))
}

fn imported(answer: &Value) -> String {
    let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
    let text = format!(
        "{} taken, {} changed, {} refused\n",
        count(number("taken"), "row"),
        addresses_count(number("changed")),
        count(number("refused"), "row"),
    );
    text + &refusals(answer)
}

/// The rows that were refused, with their lines.
pub fn refusals(answer: &Value) -> String {
    let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut text = String::new();
    let refusals = answer.get("refusals").and_then(Value::as_array);
    for refusal in refusals.into_iter().flatten().take(SHOWN) {
        let word = |name| refusal.get(name).and_then(Value::as_str).unwrap_or_default();
        let line = refusal.get("line").and_then(Value::as_u64).unwrap_or(0);
        text +=
            &format!("line {line}: {}: {}\n", printable(word("reason")), printable(word("text")));
    }
    let shown = refusals.map_or(0, |list| list.len().min(SHOWN)) as u64;
    if number("refused") > shown {
        text += &format!("... and {} more\n", number("refused") - shown);
    }
    text
}

/// Fetches a list.
///
/// # Errors
/// The node refuses; the connection or the file breaks off.
pub fn export(globals: &Globals, arguments: &ExportArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let parameters = arguments.filter.parameters(&arguments.state);
    let path = ["quarantine", "export"];
    let fetch = |out: &mut dyn std::io::Write| {
        crate::runtime()?.block_on(client.get_stream(&path, &parameters, out))
    };
    let Some(place) = &arguments.output else {
        fetch(&mut std::io::stdout().lock())?;
        return Ok(Outcome::Fine);
    };
    // Written aside, so that half a list never stands there under the name of a whole one.
    let aside = place.with_added_extension("part");
    let cannot = |fault: std::io::Error| {
        Failure::environment(format!("cannot write {}: {fault}", aside.display()))
    };
    let mut file = std::io::BufWriter::new(std::fs::File::create(&aside).map_err(cannot)?);
    let written = fetch(&mut file).and_then(|()| {
        let file = file.into_inner().map_err(|fault| cannot(fault.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&aside, place)).map_err(cannot)
    });
    if written.is_err() {
        // It is of no use to anybody; that it cannot be removed changes nothing about the fault.
        let _ = std::fs::remove_file(&aside);
    }
    written?;
    say(&format!("written to {}", place.display()));
    Ok(Outcome::Fine)
}
