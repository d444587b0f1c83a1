//! The one program.
//!
//! Every command is a module with a `...Arguments` type (read by clap) and a function that carries it
//! out and answers [`Ended`]. [`Command`] lists them: a new command is one line there and one in
//! [`run`].
//!
//! Exit status: 0 it went well; 1 the answer is negative (a limit broken, a fault in a rule file, the
//! node refused); 2 wrong usage or configuration, or the environment failed. Results go to standard
//! output, faults to standard error. A reader that closes the pipe early has seen enough: status 0.

mod bench;
mod bounce;
mod check;
mod client;
mod deliverability;
mod delivery;
mod demo;
mod dry_run;
mod exit;
mod explain;
mod globals;
mod import;
mod incoming;
mod init;
mod lab;
mod log_lines;
mod machine;
mod mx;
mod output;
mod paths;
mod qualification;
mod quarantine;
mod reaction;
mod reply;
mod rows;
mod serve;
mod show;
mod stat;
mod suppression;
mod warmup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Ended, Failure};
use crate::globals::Globals;

/// Delivers campaign mail without breaking the limits of the mail exchangers that take it.
#[derive(Debug, Parser)]
#[command(name = "mailweir", version, max_term_width = 100, subcommand_required = true)]
struct Arguments {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// All commands, in the order of the help.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything on loopback: a lab, a node, a campaign under the shipped MX rules
    Demo(demo::DemoArguments),
    /// Write a commented configuration for this machine
    Init(init::InitArguments),
    /// Prove the configuration: addresses, ports, data folder, DNS, rules
    Check(check::CheckArguments),
    /// Run a node until it is told to stop
    Serve(serve::ServeArguments),
    /// Why is this mail waiting? Ask the running node about an address, message or delivery
    Explain(explain::ExplainArguments),
    /// Send a mailing; list, show, start, pause, resume and cancel deliveries
    Delivery(delivery::DeliveryArguments),
    /// MX rules: check a file, list them, explain what holds for a domain, try them on recorded mail
    Mx(mx::MxArguments),
    /// Rules of ours from the configuration of KumoMTA, PowerMTA or Postfix, with a report
    Import(import::ImportArguments),
    /// A mail internet on loopback, usable alone
    Lab(lab::LabArguments),
    /// Bounce rules: check a file, try it on what is recorded
    Bounce(bounce::BounceArguments),
    /// What replies of servers mean: reason, type and the rule that decided
    Reply(reply::ReplyArguments),
    /// Texts that servers said: list them, say what they mean
    Qualification(qualification::QualificationArguments),
    /// Addresses that are not written to: list, explain, release, undo, import, export
    Quarantine(quarantine::QuarantineArguments),
    /// Bundles of rules: keys, publish, verify, show, differences
    Deliverability(deliverability::DeliverabilityArguments),
    /// Hashes of addresses, and domains, that nobody writes to: list, add, remove, import
    Suppression(suppression::SuppressionArguments),
    /// Reaction rules: check a file; say what would follow from a reply
    Reaction(reaction::ReactionArguments),
    /// Measure the mail path on loopback
    Bench(bench::BenchArguments),
    /// Warm new sources up: plan, status, and the planner's proposals about levels
    Warmup(warmup::WarmupArguments),
    /// Budgets and limits of the running node; audit of the delivery log
    Stat(stat::StatArguments),
}

/// Carries a command out.
fn run(globals: &Globals, command: Command) -> Ended {
    match command {
        Command::Demo(arguments) => demo::run(globals, &arguments),
        Command::Init(arguments) => init::run(globals, &arguments),
        Command::Check(arguments) => check::run(globals, &arguments),
        Command::Serve(arguments) => serve::run(globals, &arguments),
        Command::Explain(arguments) => explain::run(globals, &arguments),
        Command::Delivery(arguments) => delivery::run(globals, arguments),
        Command::Mx(arguments) => mx::run(globals, arguments),
        Command::Import(arguments) => import::run(globals, &arguments),
        Command::Lab(arguments) => lab::run(globals, &arguments),
        Command::Bounce(arguments) => bounce::run(globals, &arguments),
        Command::Reply(arguments) => reply::run(globals, &arguments),
        Command::Qualification(arguments) => qualification::run(globals, arguments),
        Command::Quarantine(arguments) => quarantine::run(globals, arguments),
        Command::Deliverability(arguments) => deliverability::run(globals, &arguments),
        Command::Suppression(arguments) => suppression::run(globals, &arguments),
        Command::Reaction(arguments) => reaction::run(globals, &arguments),
        Command::Bench(arguments) => bench::run(globals, &arguments),
        Command::Warmup(arguments) => warmup::run(globals, arguments),
        Command::Stat(arguments) => stat::run(globals, arguments),
    }
}

fn main() -> ExitCode {
    let Arguments { globals, command } = Arguments::parse();
    exit::finish(run(&globals, command))
}

/// A runtime of one thread, for commands that ask DNS or a node.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|fault| Failure::environment(format!("cannot start the runtime: {fault}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
