//! `mailweir serve`: a node until it is told to stop.
//!
//! SIGTERM and SIGINT end it in order: listeners close, conversations finish what is in flight, claimed messages go
//! back to the queue. A second signal ends it at once; the next start recovers from the disk.
//! SIGHUP reads the MX rules again.

use std::io::IsTerminal as _;
use std::sync::Arc;

use clap::Args;
use control::HttpServer;
use node::config::{Config, LogFormat};
use node::node::Node;
use node::submission::{Submission, SubmissionBounds};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;

/// Arguments of `mailweir serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {}

/// Carries `mailweir serve` out.
pub fn run(globals: &Globals, _: &ServeArguments) -> Ended {
    let config = globals.load()?;
    log_to_standard_error(&config);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("runtime").enable_all().build()?;
    runtime.block_on(serve(config))
}

/// What the program says about itself; the delivery log is a file of its own.
fn log_to_standard_error(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let shown = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only one subscriber can be set; a second `serve` in one process does not exist.
    let set = match config.log.format {
        LogFormat::Json => shown.json().try_init(),
        LogFormat::Text => shown.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if let Err(fault) = set {
        eprintln!("mailweir: the log cannot be set up: {fault}");
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
    let node = Node::start(config).map_err(|fault| refused(&fault))?;
    let questions = node.questions();
    let room = node.intake();
    let submission = submission
        .with_pressure(Arc::new(move || room.check_room().err().map(|short| short.to_string())));
    let http = HttpServer::bind(&http_config, node.intake(), node.questions());
    let http = match http {
        Ok(http) => http,
        Err(fault) => {
            node.shutdown().await;
            return Err(refused(&fault));
        }
    };
    for address in submission.addresses() {
        tracing::info!(%address, "submission listens");
    }
    for address in http.local_addresses()? {
        tracing::info!(%address, "HTTP listens");
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
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match questions.reload_rules().await {
                Ok(rules) => tracing::info!(version = rules.version(), "the MX rules were read again"),
                Err(fault) => tracing::error!(%fault, "the MX rules in force stay"),
            },
        }
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
        node.shutdown().await;
    };
    tokio::select! {
        () = ended => {
            tracing::info!("stopped");
            Ok(Outcome::Fine)
        }
        _ = terminate.recv() => Err(Failure::refused("stopped at once by a second signal")),
        _ = interrupt.recv() => Err(Failure::refused("stopped at once by a second signal")),
    }
}
