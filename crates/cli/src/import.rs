//! `mailweir import`: what another mail server was told, as rules of ours. Needs no server and no configuration.
//!
//! The translation is [`rules::import`]; here files are read and written, included files are looked for inside the
//! folder of the first file only, and with `--lookup` DNS is asked for the MX hosts of domains that the shipped
//! rules do not know. Nothing that exists is overwritten unless `--overwrite` says so.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rules::import::{
    Dialect, ImportFile, ImportNames, ImportOptions, ImportVerdict, Imported, import,
};
use serde_json::{Value, json};

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, read_bounded};
use crate::mx::{render, resolver};
use crate::output::{self, count, print, print_json, print_raw, printable};

/// Domains that are looked up, at most.
const MOST_LOOKUPS: usize = 10_000;

/// Faults of files that are shown; where there are more, it is the file that is wrong.
const MOST_FAULTS: usize = 10;

/// `mailweir import`
#[derive(Debug, Args)]
pub struct ImportArguments {
    #[command(subcommand)]
    command: ImportCommand,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Shaping files of KumoMTA (TOML), in the order in which it reads them
    Kumomta(FilesArguments),
    /// The configuration of PowerMTA; files that it includes are read from its folder
    Powermta(FilesArguments),
    /// main.cf, master.cf and the text of the transport and TLS policy tables of Postfix
    Postfix(FilesArguments),
}

#[derive(Debug, Args)]
struct FilesArguments {
    /// The files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write MX rules here; domain rules, reactions and what belongs into the configuration beside it,
    /// as NAME.domains.toml, NAME.reactions.toml and NAME.config.toml [default: write nothing]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long, requires = "out")]
    overwrite: bool,
    /// The public_id of a source that the files name; may be repeated
    #[arg(long, value_name = "NAME=PUBLIC_ID", value_parser = source)]
    source: Vec<(String, u32)>,
    /// The MX hosts of a recipient domain; may be repeated
    #[arg(long, value_name = "DOMAIN=HOST,HOST", value_parser = mx)]
    mx: Vec<(String, Vec<String>)>,
    /// Ask DNS for the MX hosts of domains that the shipped rules do not know
    #[arg(long)]
    lookup: bool,
    /// Ask this name server
    #[arg(long, value_name = "IP:PORT", requires = "lookup")]
    dns: Option<SocketAddr>,
    /// Show only what differs or was not taken
    #[arg(long)]
    differences: bool,
}

fn source(text: &str) -> Result<(String, u32), String> {
    let (name, id) = text.rsplit_once('=').ok_or("write NAME=PUBLIC_ID, such as ip-1=3")?;
    match id.parse() {
        Ok(id) if id > 0 && !name.is_empty() => Ok((name.to_owned(), id)),
        _ => Err("a public_id is a number from 1, such as in ip-1=3".to_owned()),
    }
}

fn mx(text: &str) -> Result<(String, Vec<String>), String> {
    let (domain, hosts) =
        text.split_once('=').ok_or("write DOMAIN=HOST, such as corp.example=mx1.corp.example")?;
    let hosts: Vec<String> =
        hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
    match hosts.is_empty() || domain.is_empty() {
        true => Err("name at least one host, such as corp.example=mx1.corp.example".to_owned()),
        false => Ok((domain.to_ascii_lowercase(), hosts)),
    }
}

/// Carries the command out.
///
/// # Errors
/// A file cannot be read or has faults, or a file cannot be written.
pub fn run(globals: &Globals, arguments: &ImportArguments) -> Ended {
    let (dialect, arguments) = match &arguments.command {
        ImportCommand::Kumomta(arguments) => (Dialect::Kumomta, arguments),
        ImportCommand::Powermta(arguments) => (Dialect::Powermta, arguments),
        ImportCommand::Postfix(arguments) => (Dialect::Postfix, arguments),
    };
    let files = arguments
        .files
        .iter()
        .map(|path| Ok(ImportFile { name: path.display().to_string(), bytes: read_bounded(path)? }))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut options = ImportOptions {
        sources: arguments.source.iter().cloned().collect(),
        mx_hosts: arguments.mx.iter().cloned().collect(),
        version: today(),
        names: names(arguments.out.as_deref()),
    };
    let folder = arguments.files[0].parent().unwrap_or(Path::new("")).to_owned();
    let mut imported = translate(dialect, &files, &options, &folder)?;
    if arguments.lookup && !imported.unknown_domains.is_empty() {
        options.mx_hosts.extend(look_up(globals, arguments.dns, &imported.unknown_domains)?);
        imported = translate(dialect, &files, &options, &folder)?;
    }
    let made = outputs(arguments.out.as_deref(), &imported);
    if arguments.out.is_some() {
        write(&made, arguments.overwrite)?;
    }
    match globals.json() {
        true => print_json(&answer(dialect, &imported, &made, arguments.out.is_some()))?,
        false => {
            print(&text(&imported, &made, arguments))?;
            if arguments.out.is_none() {
                // To be copied into files: no line of it is broken.
                for made in &made {
                    print_raw(&format!("\n# ---- {}\n{}", made.path.display(), made.text))?;
                }
            }
        }
    }
    Ok(Outcome::Fine)
}

/// The day (UTC), as the version of the files.
fn today() -> String {
    let now = node::clock::SteadyClock::start_at_wall().now().to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

fn translate(
    dialect: Dialect,
    files: &[ImportFile],
    options: &ImportOptions,
    folder: &Path,
) -> Result<Imported, Failure> {
    let mut include = |name: &str| included(folder, name);
    import(dialect, files, options, &mut include).map_err(|faults| {
        let shown = &faults[..faults.len().min(MOST_FAULTS)];
        let total = match faults.len() - shown.len() {
            0 => count(faults.len() as u64, "fault"),
            more => {
                format!("{}, of which {more} are not shown", count(faults.len() as u64, "fault"))
            }
        };
        Failure::refused(format!("{}\n\n{total}; nothing was imported", render(shown)))
    })
}

/// A file that another one includes: inside the folder, also where it is a link.
fn included(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let inside = folder.canonicalize().map_err(|fault| fault.to_string())?;
    let path =
        inside.join(name).canonicalize().map_err(|fault| format!("cannot read it: {fault}"))?;
    if !path.starts_with(&inside) {
        return Err("it is a link out of the folder".to_owned());
    }
    read_bounded(&path).map_err(|failure| failure.to_string())
}

/// The MX hosts of domains, as far as DNS knows them.
fn look_up(
    globals: &Globals,
    dns: Option<SocketAddr>,
    domains: &[String],
) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let config = globals.load_without_secrets()?;
    let resolver = resolver(config.as_ref(), dns)?;
    let runtime = crate::runtime()?;
    let mut found = BTreeMap::new();
    if let Some(first) = domains.get(MOST_LOOKUPS) {
        output::say(&format!(
            "only {MOST_LOOKUPS} domains are looked up, up to {}",
            printable(first)
        ));
    }
    for domain in domains.iter().take(MOST_LOOKUPS) {
        match runtime.block_on(resolver.exchangers(domain)) {
            Ok(hosts) if !hosts.is_empty() => {
                let hosts = hosts.into_iter().map(|(_, host)| host).collect();
                found.insert(domain.clone(), hosts);
            }
            Ok(_) => output::say(&format!("{}: no MX record", printable(domain))),
            Err(fault) => output::say(&format!("{}: {fault}", printable(domain))),
        }
    }
    Ok(found)
}

/// The path of a file beside the MX rules: `mx.toml` and `domains` give `mx.domains.toml`.
fn beside(out: &Path, kind: &str) -> PathBuf {
    out.with_extension(format!("{kind}.toml"))
}

fn names(out: Option<&Path>) -> ImportNames {
    let out = out.unwrap_or(Path::new("mx.toml"));
    // The configuration finds files from its own folder, which is where they are most often put.
    let name = |path: PathBuf| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    ImportNames {
        mx: name(out.to_owned()),
        domains: name(beside(out, "domains")),
        reactions: name(beside(out, "reactions")),
    }
}

/// A file that comes out: its path, what it is, its text.
struct Made<'a> {
    path: PathBuf,
    what: &'static str,
    text: &'a str,
}

fn outputs<'a>(out: Option<&Path>, imported: &'a Imported) -> Vec<Made<'a>> {
    let out = out.unwrap_or(Path::new("mx.toml"));
    [
        (out.to_owned(), "MX rules", &imported.mx),
        (beside(out, "domains"), "domain rules", &imported.domains),
        (beside(out, "reactions"), "reaction rules", &imported.reactions),
        (beside(out, "config"), "sections for the configuration", &imported.config),
    ]
    .into_iter()
    .filter_map(|(path, what, text)| Some(Made { path, what, text: text.as_deref()? }))
    .collect()
}

/// Writes all files, or none where one exists that must not be overwritten.
fn write(made: &[Made<'_>], overwrite: bool) -> Result<(), Failure> {
    if let Some(there) = made.iter().find(|made| made.path.exists()).filter(|_| !overwrite) {
        return Err(Failure::environment(format!(
            "{} exists; nothing was written. --overwrite replaces it",
            there.path.display()
        )));
    }
    for made in made {
        let shown = made.path.display();
        let mut options = OpenOptions::new();
        options.write(true).create_new(!overwrite).create(overwrite).truncate(overwrite);
        let written =
            options.open(&made.path).and_then(|mut file| file.write_all(made.text.as_bytes()));
        written.map_err(|fault| Failure::environment(format!("cannot write {shown}: {fault}")))?;
    }
    Ok(())
}

/// For programs.
fn answer(dialect: Dialect, imported: &Imported, made: &[Made<'_>], written: bool) -> Value {
    let of = |verdict| imported.report.count(verdict);
    let entries: Vec<Value> = imported
        .report
        .entries
        .iter()
        .map(|entry| {
            json!({
                "file": &*entry.place.file, "line": entry.place.line, "column": entry.place.column,
                "directive": entry.directive, "value": entry.value, "verdict": entry.verdict,
                "words": entry.words,
            })
        })
        .collect();
    let files: Vec<Value> = made
        .iter()
        .map(|made| {
            json!({ "path": made.path.display().to_string(), "what": made.what, "text": made.text })
        })
        .collect();
    json!({
        "from": dialect.word(), "directives": imported.report.entries.len(),
        "taken": of(ImportVerdict::Taken), "differs": of(ImportVerdict::Differs),
        "not_taken": of(ImportVerdict::NotTaken), "entries": entries,
        "notes": imported.report.notes, "unknown_domains": imported.unknown_domains,
        "written": written, "files": files,
    })
}

/// For people: the report by file, then what came out.
fn text(imported: &Imported, made: &[Made<'_>], arguments: &FilesArguments) -> String {
    let mut text = String::new();
    let mut file: Option<&str> = None;
    for entry in &imported.report.entries {
        if arguments.differences && entry.verdict == ImportVerdict::Taken {
            continue;
        }
        if file != Some(&entry.place.file) {
            file = Some(&entry.place.file);
            text += &format!("{}\n", printable(&entry.place.file));
        }
        let value = match entry.value.is_empty() {
            true => String::new(),
            false => format!(" {}", printable(&entry.value)),
        };
        text += &format!(
            "{:>6}  {:9}  {}{value}\n{:19}{}\n",
            entry.place.line,
            entry.verdict.words(),
            printable(&entry.directive),
            "",
            printable(&entry.words)
        );
    }
    let of = |verdict| output::number(imported.report.count(verdict) as u64);
    text += &format!(
        "\n{}: {} taken, {} differ in meaning, {} not taken\n",
        count(imported.report.entries.len() as u64, "directive"),
        of(ImportVerdict::Taken),
        of(ImportVerdict::Differs),
        of(ImportVerdict::NotTaken)
    );
    for note in &imported.report.notes {
        text += &format!("note: {}\n", printable(note));
    }
    if !imported.unknown_domains.is_empty() {
        let known: Vec<String> =
            imported.unknown_domains.iter().take(5).map(|domain| printable(domain)).collect();
        let more = imported.unknown_domains.len().saturating_sub(5);
        let more =
            if more > 0 { format!(" and {}", count(more as u64, "other")) } else { String::new() };
        text += &format!(
            "note: the MX hosts of {}{more} are not known; --lookup asks DNS\n",
            known.join(", ")
        );
    }
    let verb = if arguments.out.is_some() { "written" } else { "not written (--out)" };
    if made.is_empty() {
        text += "nothing of it becomes a rule\n";
    }
    for made in made {
        let rules = made.text.lines().filter(|line| *line == "[[rule]]").count();
        let many = match rules {
            0 => String::new(),
            rules => format!(", {}", count(rules as u64, "rule")),
        };
        text += &format!("{verb}: {} ({}{many})\n", made.path.display(), made.what);
    }
    text
}
