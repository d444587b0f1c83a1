//! `mailweir serve`: a node until it is told to stop.
//!
//! SIGTERM and SIGINT end it in order: listeners close, conversations finish what is in flight, claimed messages go
//! back to the queue. A second signal ends it at once; the next start recovers from the disk.
//! SIGHUP reads the MX rules and the bounce rules again.

use std::io::{ErrorKind, IsTerminal as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use clap::Args;
use control::HttpServer;
use node::config::{Config, LogFormat, SourceConfig};
use node::inmail::{Inmail, InmailBounds};
use node::node::{Node, Questions, StartFault};
use node::submission::{Submission, SubmissionBounds};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::incoming::Incoming;
use crate::output::{count, say};

/// Arguments of `mailweir serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {}

/// Carries `mailweir serve` out.
pub fn run(globals: &Globals, _: &ServeArguments) -> Ended {
    let config = globals.load()?;
    log_to_standard_error(&config.log.level, config.log.format);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("runtime").enable_all().build()?;
    runtime.block_on(serve(config))
}

/// What the program says about itself; the delivery log is a file of its own.
pub(crate) fn log_to_standard_error(level: &str, format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let shown = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only one subscriber can be set; a second `serve` in one process does not exist.
    let set = match format {
        LogFormat::Json => shown.json().try_init(),
        LogFormat::Text => shown.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if let Err(fault) = set {
        eprintln!("mailweir: the log cannot be set up: {fault}");
    }
}

/// Why the node does not start; faults of rules are shown one by one before.
fn start_failure(fault: &StartFault) -> Failure {
    let (which, faults) = match fault {
        StartFault::Rules(faults) => ("MX", faults),
        StartFault::BounceRules(faults) => ("bounce", faults),
        other => return Failure::environment(other.to_string()),
    };
    faults.iter().for_each(|fault| say(&format!("{}\n", fault.render())));
    let count = count(faults.len() as u64, "fault");
    Failure::environment(format!("{count} in the {which} rules; nothing was started"))
}

/// Sources whose address no interface of this machine has. It may come later, so they are no reason not to start.
fn sources_elsewhere(sources: &[SourceConfig]) -> impl Iterator<Item = &SourceConfig> {
    sources.iter().filter(|source| {
        let bound = TcpListener::bind(SocketAddr::new(source.address, 0));
        bound.is_err_and(|fault| fault.kind() == ErrorKind::AddrNotAvailable)
    })
}

async fn reload(questions: Questions) {
    match questions.reload_rules().await {
        Ok(rules) => tracing::info!(
            version = rules.version(),
            "the MX rules and the bounce rules were read again"
        ),
        Err(fault) => tracing::error!("the rules in force stay: {fault}"),
    }
}

async fn serve(config: Config) -> Ended {
    let stop = CancellationToken::new();
    let refused = |fault: &dyn std::fmt::Display| Failure::environment(fault.to_string());
    // Ports first: what is in use is said before anything moves.
    let bounds = SubmissionBounds::default();
    let submission =
        Submission::bind(&config.submission, bounds).map_err(|fault| refused(&fault))?;
    let http_config = config.http.clone();
    let inmail = Inmail::bind(&config, InmailBounds::default()).map_err(|fault| refused(&fault))?;
    let node = Node::start(config).map_err(|fault| start_failure(&fault))?;
    let questions = node.questions();
    let room = node.intake();
    let submission = submission
        .with_pressure(Arc::new(move || room.check_room().err().map(|short| short.to_string())));
    let asked = node.questions().with_submission(submission.counts());
    let http = HttpServer::bind(&http_config, node.intake(), asked);
    let http = match http {
        Ok(http) => http,
        Err(fault) => {
            node.shutdown().await;
            return Err(refused(&fault));
        }
    };
    let incoming = match Incoming::begin(inmail, &node, stop.clone()) {
        Ok(incoming) => incoming,
        Err(fault) => {
            node.shutdown().await;
            return Err(refused(&fault));
        }
    };
    for source in sources_elsewhere(&node.questions().config().sources) {
        tracing::warn!(
            "source {} has the address {}, which does not belong to this machine: nothing can be sent from it",
            source.id,
            source.address
        );
    }
    for address in http.local_addresses()? {
        tracing::info!(%address, "HTTP listens");
    }
    for address in &incoming.addresses {
        tracing::info!(%address, "incoming mail listens");
    }
    let submission = tokio::spawn(submission.run(node.intake(), stop.clone()));
    let http_stop = stop.clone();
    let http = tokio::spawn(async move {
        if let Err(fault) = http.run(http_stop).await {
            tracing::error!(%fault, "the HTTP listener has ended");
        }
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the node runs");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let by_itself = node.ended();
    tokio::pin!(by_itself);
    let broken = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            () = &mut by_itself => break true,
            // A task of its own: a store that hangs must not keep the signals waiting.
            _ = hang_up.recv() => drop(tokio::spawn(reload(questions.clone()))),
        }
    };
    if broken {
        tracing::error!("a part of the node has panicked; ending, so that a new start can recover");
    }
    tracing::info!("stopping: conversations finish what is in flight");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    let ended = async {
        for listener in [submission, http] {
            if let Err(fault) = listener.await {
                tracing::error!(%fault, "a listener has panicked");
            }
        }
        incoming.end().await;
        node.shutdown().await;
    };
    tokio::select! {
        () = ended => {
            tracing::info!("stopped");
            if broken {
                return Err(Failure::environment(
                    "the node ended by a fault of its own; see the log. The next start recovers",
                ));
            }
            Ok(Outcome::Fine)
        }
        _ = terminate.recv() => Err(Failure::refused("stopped at once by a second signal")),
        _ = interrupt.recv() => Err(Failure::refused("stopped at once by a second signal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_other_machines_are_found() {
        let text = |address: &str, id: u32| {
            format!(
                "[[source]]\npublic_id = {id}\naddress = \"{address}\"\nhelo = \"out{id}.example\"\n"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "0123456789abcdef").unwrap();
        let path = folder.path().join("mailweir.toml");
        let rest = "[return_path]\ndomain = \"b.example\"\nkeys = [{ file = \"key\" }]\n\
                    [sender]\ndomain = \"b.example\"\n";
        // 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
        std::fs::write(&path, text("127.0.0.11", 1) + &text("203.0.113.77", 2) + rest).unwrap();
        let config = Config::load(&path).unwrap_or_else(|fault| panic!("{fault}"));
        let elsewhere: Vec<u32> =
            sources_elsewhere(&config.sources).map(|source| source.id.0).collect();
        assert_eq!(elsewhere, [2]);
    }
}
