//! `mailweir deliverability serve` and `token`.
//!
//! SIGTERM and SIGINT end an instance in order; SIGHUP has it read its certificate again.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use deliverability::config::Config;
use deliverability::{Clock, Server};
use mail::time::Timestamp;
use node::clock::read_clocks;
use node::config::LogFormat;
use node::deliverability::keys::write_new;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use web::Certificate;

use super::broken;
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, print, print_json};

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// Only read and check the configuration
    #[arg(long)]
    check: bool,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// The file; it must not be there
    file: PathBuf,
}

pub(super) fn serve(globals: &Globals, arguments: &ServeArguments) -> Ended {
    let path = globals.config.as_ref().ok_or_else(|| {
        Failure::environment(
            "name the configuration of the instance: --config instance.toml; see docs/deliverability-instance.md",
        )
    })?;
    let config = Config::load(path).map_err(broken)?;
    if arguments.check {
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        let (tls, share) = (config.tls.is_some(), config.rollout.share.percent());
        if globals.json() {
            print_json(&serde_json::json!({
                "ok": true, "listen": listen, "tls": tls, "data_dir": config.data_dir, "share": share,
                "public_keys": config.public_keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>(),
                "publishers": config.publishers.iter().map(|one| &one.name).collect::<Vec<_>>(),
            }))?;
        } else {
            let how = if tls { "HTTPS" } else { "HTTP" };
            let (keys, publishers) = (config.public_keys.len(), config.publishers.len());
            print(&format!(
                "ok: {how} on {}, {}, {}; a bundle goes to {share} % first",
                listen.join(", "),
                count(keys as u64, "key"),
                count(publishers as u64, "publisher"),
            ))?;
        }
        return Ok(Outcome::Fine);
    }
    crate::serve::log_to_standard_error(&arguments.log_level, LogFormat::Text);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("runtime").enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Ended {
    // The clock of the machine as it is now: an instance lives on when somebody sets it right.
    let clock: Clock = Arc::new(|| Timestamp::from_micros(read_clocks().wall));
    let server = Server::start(config, clock).map_err(broken)?;
    for address in server.local_addresses()? {
        tracing::info!(%address, "the instance listens");
    }
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    let certificate = server.certificate();
    let stop = CancellationToken::new();
    let serving = server.run(stop.clone());
    tokio::pin!(serving);
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            ended = &mut serving => {
                ended?;
                return Ok(Outcome::Fine);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match certificate.as_ref().map(Certificate::read_again) {
                None => tracing::info!("there is no certificate to be read again"),
                Some(Ok(())) => tracing::info!("the certificate was read again"),
                Some(Err(fault)) => tracing::error!("the certificate before stays: {fault}"),
            },
        }
    }
    tracing::info!("stopping: requests under way are finished");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    tokio::select! {
        ended = &mut serving => {
            ended?;
            Ok(Outcome::Fine)
        }
        _ = terminate.recv() => Err(Failure::refused("stopped at once by a second signal")),
        _ = interrupt.recv() => Err(Failure::refused("stopped at once by a second signal")),
    }
}

pub(super) fn token(globals: &Globals, arguments: &TokenArguments) -> Ended {
    let none = || Failure::environment("the system gives no randomness for a token");
    let token = web::new_token().ok_or_else(none)?;
    write_new(&arguments.file, &format!("{token}\n"), 0o600).map_err(broken)?;
    match globals.json() {
        true => print_json(&serde_json::json!({ "file": arguments.file }))?,
        false => print(&format!(
            "{}  (keep it safe: whoever has it may publish)\n\nthe instance needs in its configuration:\n\n\
             [[publisher]]\nname = \"...\"\ntoken_file = \"{}\"\n",
            arguments.file.display(),
            arguments.file.display(),
        ))?,
    }
    Ok(Outcome::Fine)
}
