//! `mailweir deliverability push`, `revert` and `rollout`: bundles on their way to the clients of an instance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use mail::time::Timestamp;
use node::deliverability::keys::SigningKey;
use rules::bundle::{Draft, MEDIA_TYPE, Sealed};
use serde_json::{Value, json};

use super::instance::{Asked, InstanceArguments, InstanceClient};
use super::{broken, read_bundle, refused, split};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, count, moment, print, print_json, printable};

#[derive(Debug, Args)]
pub(super) struct PushArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    /// The bundle
    bundle: PathBuf,
    /// Percent of the clients that get it first [default: what the instance's configuration says]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    share: Option<u8>,
    /// For the audit trail
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct RevertArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    /// The version whose content is published again
    version: u64,
    /// The private key: it lies with the publisher, never on the instance
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Percent of the clients that get it first
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    share: u8,
    /// From when on it is not applied any more
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=400))]
    expires: u64,
    /// Keep the new bundle in this file, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// For the audit trail and the notes of the bundle
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct RolloutArguments {
    #[command(subcommand)]
    command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// How the newest bundles stand with the clients
    Show {
        #[command(flatten)]
        instance: InstanceArguments,
    },
    /// Give a bundle to more clients
    Advance(GuideArguments),
    /// Give a bundle to nobody who has not got it yet
    Halt(GuideArguments),
    /// Go on with a bundle that is halted; what was said against it before does not count any more
    Resume(GuideArguments),
}

#[derive(Debug, Args)]
struct GuideArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    /// The version of the bundle
    version: u64,
    /// Percent of the clients from now on [default: advance to 100, resume as before]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    share: Option<u8>,
    /// For the audit trail
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) fn push(globals: &Globals, arguments: &PushArguments) -> Ended {
    let client = InstanceClient::new(&arguments.instance)?;
    let octets = read_bundle(&arguments.bundle)?;
    // What is no bundle is said here, before anything is sent.
    split(&arguments.bundle, &octets)?;
    let share = arguments.share.map(|share| share.to_string());
    sent(globals, &client, octets, share, &arguments.why)
}

/// Pushes octets and says what became of them.
fn sent(
    globals: &Globals,
    client: &InstanceClient,
    octets: Vec<u8>,
    share: Option<String>,
    why: &str,
) -> Ended {
    let mut asked = Asked::octets(&["bundles"], MEDIA_TYPE, octets).with("X-Mailweir-Why", why);
    if let Some(share) = share {
        asked = asked.with("X-Mailweir-Share", share);
    }
    let answer = client.ask(asked)?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let bundle = &answer["bundle"];
    let begin = match answer["new"] == true {
        true => "bundle",
        false => "it was there already: bundle",
    };
    let (version, share) = (&bundle["version"], &bundle["share"]);
    let mut words = format!("{begin} {version} goes to {share} % of the clients");
    if bundle["share"] != 100 {
        let _ = write!(words, "; `rollout advance {version}` gives it to all");
    }
    print(&words)?;
    Ok(Outcome::Fine)
}

pub(super) fn revert(globals: &Globals, arguments: &RevertArguments) -> Ended {
    let client = InstanceClient::new(&arguments.instance)?;
    let key = SigningKey::read(&arguments.key).map_err(broken)?;
    let known = client.ask(Asked::get(&["bundles"]))?;
    let versions = known["bundles"].as_array().into_iter().flatten();
    let newest = versions.filter_map(|bundle| bundle["version"].as_u64()).max().unwrap_or(0);
    let version = arguments.version.to_string();
    let octets = client.ask_octets(Asked::get(&["bundles", &version]))?;
    let named = PathBuf::from(format!("bundle {version}"));
    let sealed = split(&named, &octets)?;
    // The newest statements of keys: the key may have changed since.
    let latest = match newest == arguments.version {
        true => octets.clone(),
        false => client.ask_octets(Asked::get(&["bundles", &newest.to_string()]))?,
    };
    let keys = split(&named, &latest)?.manifest().keys.clone();
    let octets = reverted(arguments, &key, &sealed, newest, keys, &named)?;
    if let Some(path) = &arguments.out {
        super::publish::write_whole(path, &octets)?;
    }
    let why = match arguments.why.as_str() {
        "" => format!("back to version {version}"),
        why => format!("back to version {version}: {why}"),
    };
    sent(globals, &client, octets, Some(arguments.share.to_string()), &why)
}

/// The content of a bundle, under the version after the newest one.
fn reverted(
    arguments: &RevertArguments,
    key: &SigningKey,
    sealed: &Sealed<'_>,
    newest: u64,
    keys: Vec<rules::bundle::KeyStatement>,
    named: &Path,
) -> Result<Vec<u8>, Failure> {
    let created = Timestamp::from_secs(node::clock::read_clocks().wall / 1_000_000);
    let mut notes = format!("The content of version {}", arguments.version);
    if !arguments.why.is_empty() {
        let _ = write!(notes, ": {}", arguments.why);
    }
    let sections: BTreeMap<_, _> =
        sealed.sections().iter().map(|(kind, text)| (*kind, (*text).to_owned())).collect();
    let draft = Draft {
        version: newest + 1,
        created,
        expires: created + Duration::from_secs(86_400 * arguments.expires),
        minimum_client: sealed.manifest().minimum_client,
        keys,
        notes,
        sections,
    };
    draft.seal(&key.public(), |message| key.sign(message)).map_err(|fault| refused(named, &fault))
}

pub(super) fn rollout(globals: &Globals, arguments: &RolloutArguments) -> Ended {
    let (action, guide) = match &arguments.command {
        RolloutCommand::Show { instance } => return show(globals, instance),
        RolloutCommand::Advance(guide) => ("advance", guide),
        RolloutCommand::Halt(guide) => ("halt", guide),
        RolloutCommand::Resume(guide) => ("resume", guide),
    };
    let client = InstanceClient::new(&guide.instance)?;
    let mut body = json!({ "version": guide.version, "action": action, "why": guide.why });
    if let Some(share) = guide.share {
        body["share"] = share.into();
    }
    let answer = client.ask(Asked::json(&["rollout"], &body))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let (version, share) = (&answer["bundle"]["version"], &answer["bundle"]["share"]);
    print(&match answer["bundle"]["halted"] == true {
        true => format!("bundle {version} is halted: nobody gets it who has not got it yet"),
        false => format!("bundle {version} goes to {share} % of the clients"),
    })?;
    Ok(Outcome::Fine)
}

fn show(globals: &Globals, instance: &InstanceArguments) -> Ended {
    let answer = InstanceClient::new(instance)?.ask(Asked::get(&["rollout"]))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut words = format!("{}; ", count(number(&answer["clients"]), "client"));
    let _ = match answer["advance_after_hours"].as_u64() {
        Some(hours) => writeln!(words, "to all after {hours} h without alarms"),
        None => writeln!(words, "to all only on command"),
    };
    let mut table = output::table(&[
        ">bundle", "state", ">share", ">covers", ">got", ">applied", ">well", ">bad", "since",
    ]);
    let mut halted = String::new();
    for stage in answer["stages"].as_array().into_iter().flatten() {
        let said = &stage["clients"];
        let bad =
            ["refused", "rolled_back", "alarm"].map(|key| number(&said[key])).iter().sum::<u64>();
        let state = match (stage["halted"] == true, number(&stage["share"])) {
            (true, _) => "HALTED",
            (false, 100) => "for all",
            (false, _) => "staged",
        };
        table.add_row([
            stage["version"].to_string(),
            state.to_owned(),
            format!("{} %", stage["share"]),
            stage["covers"].to_string(),
            said["given"].to_string(),
            said["applied"].to_string(),
            said["well"].to_string(),
            bad.to_string(),
            short(&stage["since"]),
        ]);
        if stage["halted"] == true {
            let why = printable(stage["why"].as_str().unwrap_or_default());
            let _ = writeln!(halted, "bundle {} is halted: {why}", stage["version"]);
        }
    }
    print(&format!("{words}\n{table}\n{halted}"))?;
    Ok(Outcome::Fine)
}

/// A moment to the minute.
pub(super) fn short(value: &Value) -> String {
    let text = moment(Some(value));
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}
