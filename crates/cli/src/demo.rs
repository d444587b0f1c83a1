//! `mailweir demo`: the whole system on loopback, in about a minute.
//!
//! It starts the lab (a DNS server and the MX hosts of well-known providers, all on 127.0.0.0/8), a
//! node with three sources and an empty database, hands over a personalised campaign, and lets it be
//! sent under the shipped MX rules until everything that may go now has gone. Bounces, complaints and
//! automatic replies come back to the node's listener for its return path. Then the same list is handed
//! over once more. At the end it tells what became of the mail, what the receiving side saw beside each limit,
//! what came back, who was refused the second time, and when the rest will have gone.
//!
//! **Promise.** Nothing leaves the machine. Exit status 0 only when the receiving side saw no limit
//! passed, the auditor agrees, no message came twice and none is unaccounted for; when everything that was
//! sent back was read and matched; and when exactly those were refused who are in quarantine or on the
//! denylist, and nobody tried to write to them. A temporary folder is removed at the end, also after an interrupt.
//!
//! **Bounds.** Recipients are streamed; what is kept per recipient is only what the lab keeps to find
//! duplicates, and the addresses that may not be written to. The time is bounded by [`longest`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use control::HttpServer;
use engine::work::DeliveryOptions;
use lab::Lab;
use mail::id::MessageId;
use mail::time::Timestamp;
use node::config::Config;
use node::inmail::{Inmail, InmailBounds};
use node::intake::{Created, IntakeFault};
use node::node::{Node, StartFault};
use rules::Level;
use store::{DATABASE_FILE, MessageState, SqliteOptions, SqliteStore, Store as _, Write, Written};
use tokio_util::sync::CancellationToken;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::incoming::Incoming;
use crate::output::{count, print, print_json, terminal_width};

mod account;
mod again;
mod feed;
mod forecast;
mod progress;
mod returns;
mod returns_text;
mod tally;
mod text;
mod watch;
mod world;

#[cfg(test)]
mod tests;

use account::{Account, Stored, Witnesses};
use again::Second;
use feed::{Fed, Listed};
use progress::Progress;
use returns::{Readings, Returned};
use tally::{Tail, Tally};
use watch::{FinishedBy, Snapshot};
use world::{Folder, World};

/// Shortest time limit of the sending.
const SENDING: Duration = Duration::from_secs(45);
/// Recipients for which a second is added to it.
const PER_SECOND: u64 = 5_000;
/// The second delivery is sent for so long at most.
const SECOND: Duration = Duration::from_secs(2);
/// Tries to find the kept node at rest, so that the witnesses tell of the same moment.
const STABLE_TRIES: u32 = 20;

const LONG_ABOUT: &str = "\
The whole system on loopback: a lab with a DNS server and the MX hosts of well-known providers, a node
with three sources, and a personalised campaign sent under the shipped MX rules. Nothing leaves the machine.

Ends when everything that may go now has gone. What must wait for its limit is shown with its reason
and the time at which it will have gone. Bounces, complaints and automatic replies come back over SMTP;
then the same list is handed over once more, and who may not be written to any more is refused.

Exit status 1 when a limit was passed, a message came twice or is unaccounted for, something that came
back was not understood, or somebody was written to who must not be.";

/// `mailweir demo`
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT)]
pub struct DemoArguments {
    /// Recipients of the campaign
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    recipients: u64,
    /// Moves all chances: who is written to, which addresses are unknown
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// How hard the figures are pressed: slow, normal, fast, very-fast, boost, custom
    #[arg(long, default_value_t = Level::Normal)]
    level: Level,
    /// Stay up afterwards, with the HTTP API, until ctrl-c; the folder is kept
    #[arg(long)]
    keep: bool,
    /// Folder for configuration, database and log; it is kept [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// What is to be shown.
#[derive(Clone, Debug)]
struct Settings {
    recipients: u64,
    seed: u64,
    level: Level,
    keep: bool,
    data_dir: Option<PathBuf>,
}

/// Carries the command out.
///
/// # Errors
/// The environment does not let lab or node start, or the data folder is in use.
pub fn run(globals: &Globals, arguments: &DemoArguments) -> Ended {
    let settings = Settings {
        recipients: arguments.recipients,
        seed: arguments.seed,
        level: arguments.level,
        keep: arguments.keep,
        data_dir: arguments.data_dir.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|fault| Failure::environment(format!("cannot start the runtime: {fault}")))?;
    runtime.block_on(async {
        let end = CancellationToken::new();
        watch_signals(&end)?;
        let json = globals.json();
        let mut progress = if json { Progress::Silent } else { Progress::for_people() };
        if !json {
            introduce(&settings)?;
        }
        let done = perform(&settings, &mut progress, &end, json).await;
        progress.end();
        done
    })
}

/// Cancels `end` at ctrl-c or SIGTERM.
fn watch_signals(end: &CancellationToken) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let fault = |fault| Failure::environment(format!("cannot watch for signals: {fault}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let end = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        end.cancel();
    });
    Ok(())
}

fn introduce(settings: &Settings) -> Result<(), Failure> {
    let words = format!(
        "A campaign to {} at level {}. Nothing leaves this machine: its internet is on 127.0.0.0/8.",
        count(settings.recipients, "recipient"),
        settings.level,
    );
    print(&text::wrapped(&words, terminal_width().unwrap_or(100)))
}

/// Runs the demonstration and prints its result.
async fn perform(
    settings: &Settings,
    progress: &mut Progress,
    end: &CancellationToken,
    json: bool,
) -> Ended {
    let mut stage = Stage::set_up(settings)?;
    let shown = stage.show(settings, progress, end).await;
    let shown = match shown {
        Ok(shown) => shown,
        Err(failure) => {
            stage.close().await;
            return Err(failure);
        }
    };
    if !settings.keep {
        let account = stage.conclude(shown, settings, progress).await?;
        progress.end();
        present(&account, json)?;
        if !json {
            print(&next_steps(settings))?;
        }
        return Ok(Outcome::of(account.good()));
    }
    stage.stay(shown, settings, progress, end, json).await
}

fn present(account: &Account, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(account);
    }
    print(&text::report(account, terminal_width()))
}

/// How long the sending may take at most.
fn longest(recipients: u64) -> Duration {
    SENDING.max(Duration::from_secs(recipients / PER_SECOND))
}

/// Everything that runs.
struct Stage {
    world: World,
    lab: Lab,
    config: Config,
    before: Stored,
    tail: Tail,
    tally: Tally,
    node: Node,
    /// The listener for the return path; ends before the node.
    incoming: Option<Incoming>,
    /// When the node was started, in its time.
    began: Timestamp,
    /// What had been read then.
    readings: Readings,
    /// Last, so that everything in it is closed before it is removed.
    folder: Folder,
}

/// What was shown.
struct Shown {
    fed: Fed,
    snapshot: Snapshot,
    finished_by: FinishedBy,
    gone: Vec<Option<Timestamp>>,
    second: Option<Second>,
}

impl Stage {
    /// Starts lab and node.
    fn set_up(settings: &Settings) -> Result<Self, Failure> {
        let mut folder = Folder::prepare(settings.data_dir.as_deref())?;
        let return_path = free_port(world::RETURN_PATH)?;
        let world = World::new(settings.seed, settings.level, return_path)?;
        let key = folder.dkim_key()?;
        let lab = world.start(&key)?;
        let http = settings.keep.then(|| free_port(Ipv4Addr::LOCALHOST)).transpose()?;
        // First of all: another demonstration may be running here, whose configuration must stay.
        let before = stored_before(&folder.data_dir())?;
        let config = folder.configure(&lab, settings.level, (return_path, http))?;
        let tail = Tail::open(&config.log.delivery_log)?;
        let mut tally = Tally::default();
        for (domain, queued) in &before.queued {
            tally.expect(&world, domain, *queued);
        }
        let refused = |fault: &dyn std::fmt::Display| Failure::environment(fault.to_string());
        let inmail =
            Inmail::bind(&config, InmailBounds::default()).map_err(|fault| refused(&fault))?;
        let node = Node::start(config.clone()).map_err(|fault| start_failure(&fault))?;
        let began = node.questions().now();
        let incoming = Incoming::begin(inmail, &node, CancellationToken::new())
            .map_err(|fault| refused(&fault))?;
        if settings.keep {
            folder.keep();
        }
        Ok(Self {
            world,
            lab,
            config,
            before,
            tail,
            tally,
            node,
            incoming: Some(incoming),
            began,
            readings: Readings::default(),
            folder,
        })
    }

    /// Hands the campaign over and watches it until everything that may go has gone.
    async fn show(
        &mut self,
        settings: &Settings,
        progress: &mut Progress,
        end: &CancellationToken,
    ) -> Result<Shown, Failure> {
        let intake = self.node.intake();
        let questions = self.node.questions();
        let failure = |fault: IntakeFault| Failure::environment(fault.to_string());
        // Mail that an earlier run in this folder has kept and not read does not belong to this one.
        self.all_read().await;
        self.readings = self.readings_now();
        let options = DeliveryOptions { name: "spring".into(), ..intake.default_options() };
        let created = intake.create(options, Some(&world::campaign()), None).await;
        let Created::New(delivery) = created.map_err(failure)? else {
            return Err(Failure::environment("the delivery exists already, which cannot be"));
        };
        let amount = (settings.recipients, settings.seed);
        let nobody = &mut Listed::default();
        let fed = tokio::select! {
            fed = feed::feed(&intake, delivery, &self.world, amount, nobody, progress) => fed?,
            () = end.cancelled() => {
                return Err(Failure::environment(
                    "stopped by hand while the recipients were handed over",
                ));
            }
        };
        for (domain, recipients) in &fed.by_domain {
            self.tally.expect(&self.world, domain, *recipients);
        }
        intake.start(delivery).await.map_err(failure)?;
        let witnesses = (&mut self.tail, &mut self.tally);
        let most = longest(settings.recipients);
        let (mut snapshot, finished_by) =
            watch::watch(&questions, &self.world, witnesses, most, progress, end.cancelled())
                .await?;
        let second = match finished_by {
            FinishedBy::Interrupt => None,
            _ => Some(self.show_again(amount, &mut snapshot, progress, end).await?),
        };
        progress.stage("running the engine ahead to see when the rest will have gone");
        let gone = forecast::forecast(&questions, &self.world, &self.tally, &snapshot).await?;
        Ok(Shown { fed, snapshot, finished_by, gone, second })
    }

    /// Lets everything come back, and hands the same list over once more.
    async fn show_again(
        &mut self,
        amount: (u64, u64),
        snapshot: &mut Snapshot,
        progress: &mut Progress,
        end: &CancellationToken,
    ) -> Result<Second, Failure> {
        let (intake, questions) = (self.node.intake(), self.node.questions());
        progress.stage("reading the bounces, complaints and replies that come back");
        self.all_read().await;
        progress.stage("handing the same list over once more");
        let second = Second::hand_over(&intake, &self.world, amount).await?;
        self.lab.watch_for(second.refused());
        self.tally.apart = Some((second.delivery, 0));
        let failure = |fault: IntakeFault| Failure::environment(fault.to_string());
        intake.start(second.delivery).await.map_err(failure)?;
        let witnesses = (&mut self.tail, &mut self.tally);
        let stop = end.cancelled();
        watch::until_quiet(&questions, &self.world, witnesses, SECOND, stop).await?;
        progress.stage("taking back what is left of the second delivery");
        again::take_back(&intake, second.delivery).await?;
        // The tokens that it held come back, and mail of the first delivery goes on with them.
        let witnesses = (&mut self.tail, &mut self.tally);
        let stop = end.cancelled();
        watch::until_quiet(&questions, &self.world, witnesses, SECOND, stop).await?;
        self.all_read().await;
        // What the first delivery waits for may have changed meanwhile.
        snapshot.look_again(&questions, &self.world, &self.tally).await?;
        Ok(second)
    }

    /// Waits until everything that was sent back has been read.
    async fn all_read(&self) {
        if let Some(incoming) = &self.incoming {
            returns::all_read(&self.lab, &incoming.counts).await;
        }
    }

    fn readings_now(&self) -> Readings {
        let all = self.node.nondeliverables();
        self.incoming
            .as_ref()
            .map_or(self.readings, |incoming| Readings::now(&all, &incoming.counts))
    }

    /// What the witnesses of returned mail say now.
    fn returned(&self) -> Returned {
        Returned { lab: self.lab.returns(), readings: (self.readings, self.readings_now()) }
    }

    /// Ends node and lab and draws up the account from what is on the disk.
    async fn conclude(
        mut self,
        mut shown: Shown,
        settings: &Settings,
        progress: &mut Progress,
    ) -> Result<Account, Failure> {
        progress.stage("closing the node and counting what is on the disk");
        let counts = self.incoming.as_ref().map(|incoming| Arc::clone(&incoming.counts));
        if let Some(incoming) = self.incoming.take() {
            incoming.end().await;
        }
        let lab_record = self.lab.returns();
        let all = self.node.nondeliverables();
        let read = counts.map_or(self.readings, |counts| Readings::now(&all, &counts));
        drop(all);
        let returned = Returned { lab: lab_record, readings: (self.readings, read) };
        self.node.shutdown().await;
        let apart = shown.second.as_ref().map(|second| second.delivery);
        let after = Stored::count(open_store(&self.config.data_dir)?.reads(), apart, self.began)
            .map_err(|fault| Failure::environment(fault.to_string()))?;
        self.tail.read(&self.world, &mut self.tally)?;
        let audit = self.tail.audit(&self.world)?;
        let lab = self.lab.stop();
        shown.snapshot.recount(&self.tally);
        let account = Account::new(
            &Witnesses {
                world: &self.world,
                stored: (&self.before, &after),
                tally: &self.tally,
                audit: &audit,
                lab: &lab,
                snapshot: &shown.snapshot,
                gone: &shown.gone,
                returned: &returned,
                second: shown.second.as_ref(),
            },
            shown.finished_by,
        );
        Ok(complete(account, &shown, settings))
    }

    /// Ends the listener and then the node.
    async fn close(self) {
        if let Some(incoming) = self.incoming {
            incoming.end().await;
        }
        self.node.shutdown().await;
    }

    /// Draws up the account, prints it and stays until somebody ends it.
    async fn stay(
        mut self,
        mut shown: Shown,
        settings: &Settings,
        progress: &mut Progress,
        end: &CancellationToken,
        json: bool,
    ) -> Ended {
        let account = match self.account_at_rest(&mut shown, settings).await {
            Ok(account) => account,
            Err(failure) => {
                self.close().await;
                return Err(failure);
            }
        };
        progress.end();
        let served = self.serve(&account, end, json).await;
        let (folder, stays) = (self.folder.path.clone(), self.folder.stays());
        self.close().await;
        if !json && stays {
            print(&format!("\nended in order; {} was kept", folder.display()))?;
        }
        served?;
        Ok(Outcome::of(account.good()))
    }

    /// The account of a running node, taken at a moment at which nothing moves.
    async fn account_at_rest(
        &mut self,
        shown: &mut Shown,
        settings: &Settings,
    ) -> Result<Account, Failure> {
        let intake = self.node.intake();
        let failure = |fault: IntakeFault| Failure::environment(fault.to_string());
        let mut last = None;
        for _ in 0..STABLE_TRIES {
            let returned = self.returned();
            let (apart, began) = (shown.second.as_ref().map(|second| second.delivery), self.began);
            let after = intake.read(move |reads| Stored::count(reads, apart, began)).await;
            let after = after.map_err(failure)?;
            self.tail.read(&self.world, &mut self.tally)?;
            let audit = self.tail.audit(&self.world)?;
            let lab = self.lab.report();
            shown.snapshot.recount(&self.tally);
            let account = Account::new(
                &Witnesses {
                    world: &self.world,
                    stored: (&self.before, &after),
                    tally: &self.tally,
                    audit: &audit,
                    lab: &lab,
                    snapshot: &shown.snapshot,
                    gone: &shown.gone,
                    returned: &returned,
                    second: shown.second.as_ref(),
                },
                shown.finished_by,
            );
            let good = account.unaccounted == 0 && account.came_back.difference == 0;
            last = Some(complete(account, shown, settings));
            if good {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        last.ok_or_else(|| Failure::environment("no account could be drawn up"))
    }

    /// Prints, and serves HTTP until the end.
    async fn serve(
        &self,
        account: &Account,
        end: &CancellationToken,
        json: bool,
    ) -> Result<(), Failure> {
        present(account, json)?;
        let questions = self.node.questions();
        let server = HttpServer::bind(&self.config.http, self.node.intake(), questions)
            .map_err(|fault| Failure::environment(fault.to_string()))?;
        let address = server
            .local_addresses()
            .ok()
            .and_then(|all| all.first().copied())
            .ok_or_else(|| Failure::environment("the HTTP listener has no address"))?;
        if !json {
            print(&self.kept_steps(address).await?)?;
        }
        server.run(end.clone()).await.map_err(|fault| Failure::environment(fault.to_string()))
    }

    /// What to try while it stays up.
    async fn kept_steps(&self, address: SocketAddr) -> Result<String, Failure> {
        let folder = self.folder.path.display();
        let write = |name: &str, text: &str| {
            let path = self.folder.path.join(name);
            std::fs::write(&path, text).map_err(|fault| {
                Failure::environment(format!("cannot write {}: {fault}", path.display()))
            })
        };
        write(
            "recipients.csv",
            "email,first_name\nada@gmail.com,Ada\nben@orange.fr,Ben\nvera@gmx.de,Vera\n",
        )?;
        write("letter.txt", "Dear {{ first_name }},\n\nthis is a letter.\n")?;
        let waiting = self.somebody_who_waits().await.unwrap_or("ada@gmail.com".to_owned());
        let program = text::program();
        let config = self.folder.config_file();
        Ok(format!(
            "\n\
What to try next, in another terminal

  export MAILWEIR_CONFIG={config}

  {program} explain {waiting}
  {program} mx explain gmail.com
  {program} stat show
  {program} stat audit
  {program} delivery list
  {program} delivery send --from 'Shop <news@{domain}>' --subject 'Hello {{{{ first_name }}}}' \\
      --text {folder}/letter.txt --recipients {folder}/recipients.csv

  curl http://{address}/api/v1/deliveries
  curl http://{address}/metrics

It stays up and goes on sending as the limits open. ctrl-c ends it; {folder} stays.",
            config = config.display(),
            domain = world::SENDER_DOMAIN,
        ))
    }

    /// A recipient whose message is in the queue.
    async fn somebody_who_waits(&self) -> Option<String> {
        let intake = self.node.intake();
        let found = intake.read(|reads| {
            let messages = reads.messages(MessageId(0), 20_000)?;
            Ok(messages
                .into_iter()
                .find(|found| !matches!(found.state, MessageState::Final { .. }))
                .map(|found| found.address.to_string()))
        });
        found.await.ok().flatten()
    }
}

/// Puts in what only the demonstration itself knows.
fn complete(account: Account, shown: &Shown, settings: &Settings) -> Account {
    let seconds = shown.fed.time.as_secs_f64();
    Account {
        recipients: settings.recipients,
        refused_at_admission: shown.fed.refused.len() as u64,
        accepted_per_second: (shown.fed.accepted as f64 / seconds.max(0.001)) as u64,
        level: settings.level.to_string(),
        seed: settings.seed,
        accepting_seconds: seconds,
        seconds: shown.snapshot.moved.as_secs_f64(),
        ..account
    }
}

fn start_failure(fault: &StartFault) -> Failure {
    Failure::environment(fault.to_string())
}

/// A port of an address of this machine that is free now.
fn free_port(address: Ipv4Addr) -> Result<SocketAddr, Failure> {
    TcpListener::bind((address, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|fault| Failure::environment(format!("cannot open a port on {address}: {fault}")))
}

fn open_store(folder: &Path) -> Result<SqliteStore, Failure> {
    let options = SqliteOptions { node: world::NODE.to_owned(), ..SqliteOptions::default() };
    SqliteStore::open(folder, options).map_err(|fault| Failure::environment(fault.to_string()))
}

/// What an earlier run in the same folder left.
fn stored_before(folder: &Path) -> Result<Stored, Failure> {
    let failure = |fault: store::StoreFault| Failure::environment(fault.to_string());
    node::data_dir::make(folder).map_err(|fault| {
        Failure::environment(format!("cannot make {}: {fault}", folder.display()))
    })?;
    if !folder.join(DATABASE_FILE).exists() {
        return Ok(Stored::default());
    }
    let mut store = open_store(folder)?;
    // What a killed run had claimed goes back into the queue, so that it is counted there.
    let now = node::clock::SteadyClock::start_at_wall().now();
    loop {
        let written = store.apply(&[Write::ReleaseParts { now }]).map_err(failure)?;
        if !matches!(written.first(), Some(Written::Released(released)) if released.more) {
            break;
        }
    }
    Stored::count(store.reads(), None, now).map_err(failure)
}

/// What to try after a demonstration that has ended.
fn next_steps(settings: &Settings) -> String {
    let program = text::program();
    let other = if settings.level == Level::Boost { "normal" } else { "boost" };
    format!(
        "\n\
What to try next

  the same campaign at another level
    {program} demo --level {other}
  stay up: explain, stat, HTTP API, a mailing of your own
    {program} demo --keep
  the limits of an MX host, and where the figures come from
    {program} mx explain gmail-smtp-in.l.google.com
  a configuration for this machine; then `check` and `serve`
    {program} init",
    )
}
