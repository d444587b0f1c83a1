//! `mailweir deliverability`: bundles of rules, signed by an instance and applied by its clients.
//!
//! Keys, publishing and looking at bundles need no server and no configuration. What is in force is a matter of the
//! running node, which is asked over HTTP. `serve` runs an instance; what publishers do with one they do over HTTP or
//! HTTPS, too.

mod clients;
mod following;
mod instance;
mod keygen;
mod look;
mod publish;
mod pushing;
mod serving;
mod texts;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rules::bundle::{BundleFault, LARGEST_BUNDLE, Sealed};

use crate::exit::{Ended, Failure};
use crate::globals::{Globals, read_bounded};
use crate::mx::render;

/// `mailweir deliverability`
#[derive(Debug, Args)]
pub struct DeliverabilityArguments {
    #[command(subcommand)]
    command: DeliverabilityCommand,
}

#[derive(Debug, Subcommand)]
enum DeliverabilityCommand {
    /// Make a key that signs bundles
    Keygen(keygen::KeygenArguments),
    /// Write the rules that come with the program into a folder, to publish a bundle from
    Begin(publish::BeginArguments),
    /// Make and sign a bundle from a folder of rules and lists
    #[command(long_about = publish::LONG_ABOUT)]
    Publish(publish::PublishArguments),
    /// Check a bundle as a client does: signature, times, and every example of every rule
    Verify(look::VerifyArguments),
    /// What is in a bundle
    Show(look::ShowArguments),
    /// What one bundle changes against another, rule by rule
    Diff(look::DiffArguments),
    /// Fetch the instance's bundle now and put it in force
    #[command(long_about = following::SYNC_ABOUT)]
    Sync(following::SyncArguments),
    /// What the running node has in force: bundle, age, versions kept, the last one refused, the instance
    Status(following::StatusArguments),
    /// Who put which bundle in force, and when
    History(following::HistoryArguments),
    /// Verify a bundle and put it in force in the running node, without a restart
    Apply(following::ApplyArguments),
    /// Put an earlier bundle in force again
    Rollback(following::RollbackArguments),
    /// Run an instance until it is told to stop: clients fetch from it, publishers push to it
    Serve(serving::ServeArguments),
    /// Make a file with a token for a publisher
    Token(serving::TokenArguments),
    /// Give a bundle to an instance, which gives it to a share of its clients
    Push(pushing::PushArguments),
    /// Publish the content of an earlier bundle of an instance again, under a new version
    Revert(pushing::RevertArguments),
    /// How bundles of an instance stand with its clients; go on, halt, resume
    Rollout(pushing::RolloutArguments),
    /// Who may fetch from an instance, and how far each is
    Clients(clients::ClientsArguments),
    /// Texts that clients of an instance could not qualify: list, show, qualify, export
    Texts(texts::TextsArguments),
    /// Who has done what at an instance, when, and why
    Audit(clients::AuditArguments),
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: &DeliverabilityArguments) -> Ended {
    match &arguments.command {
        DeliverabilityCommand::Keygen(arguments) => keygen::run(globals, arguments),
        DeliverabilityCommand::Begin(arguments) => publish::begin(arguments),
        DeliverabilityCommand::Publish(arguments) => publish::run(globals, arguments),
        DeliverabilityCommand::Verify(arguments) => look::verify(globals, arguments),
        DeliverabilityCommand::Show(arguments) => look::show(globals, arguments),
        DeliverabilityCommand::Diff(arguments) => look::diff(globals, arguments),
        DeliverabilityCommand::Sync(arguments) => following::sync(globals, arguments),
        DeliverabilityCommand::Status(arguments) => following::status(globals, arguments),
        DeliverabilityCommand::History(arguments) => following::history(globals, arguments),
        DeliverabilityCommand::Apply(arguments) => following::apply(globals, arguments),
        DeliverabilityCommand::Rollback(arguments) => following::rollback(globals, arguments),
        DeliverabilityCommand::Serve(arguments) => serving::serve(globals, arguments),
        DeliverabilityCommand::Token(arguments) => serving::token(globals, arguments),
        DeliverabilityCommand::Push(arguments) => pushing::push(globals, arguments),
        DeliverabilityCommand::Revert(arguments) => pushing::revert(globals, arguments),
        DeliverabilityCommand::Rollout(arguments) => pushing::rollout(globals, arguments),
        DeliverabilityCommand::Clients(arguments) => clients::run(globals, arguments),
        DeliverabilityCommand::Texts(arguments) => texts::run(globals, arguments),
        DeliverabilityCommand::Audit(arguments) => clients::audit(globals, arguments),
    }
}

/// The octets of a bundle. What is too large is not read.
pub fn read_bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    let about = std::fs::metadata(path).map_err(|fault| {
        Failure::environment(format!("cannot read {}: {fault}", path.display()))
    })?;
    if about.len() > LARGEST_BUNDLE as u64 {
        let fault = BundleFault::TooLarge { octets: about.len(), most: LARGEST_BUNDLE as u64 };
        return Err(refused(path, &fault));
    }
    read_bounded(path)
}

/// The parts of a bundle whose octets were read.
fn split<'bytes>(path: &Path, bytes: &'bytes [u8]) -> Result<Sealed<'bytes>, Failure> {
    Sealed::split(bytes).map_err(|fault| refused(path, &fault))
}

/// Why a bundle is refused, with pictures of every faulty rule.
pub fn refused(path: &Path, fault: &BundleFault) -> Failure {
    let mut words = String::new();
    if let BundleFault::Rules { faults, .. } = fault {
        words = format!("{}\n\n", render(faults));
    }
    Failure::refused(format!("{words}{}: {fault} ({})", path.display(), fault.name()))
}

/// A faulty thing of the machine or the person.
fn broken(fault: impl std::fmt::Display) -> Failure {
    Failure::environment(fault.to_string())
}

/// A path with something behind its name: `key` → `key.pub`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
