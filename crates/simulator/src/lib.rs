//! A world in one thread: a virtual clock, mail exchangers with moods, crashes, and checkers that stand outside.
//!
//! The production engine, quota ledger and SMTP client run here against servers, name servers, disks and clocks that
//! are drawn from a seed. The clock jumps to whatever happens next, so hours pass in milliseconds. The process can
//! die between any two steps; what was not committed is lost.
//!
//! **Promise.** [`run`] answers with every violation of what must always hold (DESIGN 12) that its checkers
//! found. The same seed and plan give the same world, step by step: [`Outcome::log_hash`] is the
//! history as a number, and [`replay`] prints it.
//!
//! **Absences.** No clock (but for telling the simulator's own speed), no socket, no file, no thread, no chance but the seed.
//!
//! [`ahead()`] uses the same engine for another question: when will the mail that waits now have gone?

pub mod ahead;
pub mod approach;
pub mod audit;
mod chance;
mod days;
mod fleet;
mod judge;
mod log;
mod node;
mod plan;
mod reactions;
pub mod replay;
mod sabotage;
mod scenario;
mod shell;
mod shrink;
mod world;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use ahead::{AheadCourse, AheadGroup, AheadInput, AheadReport, Latency, Left, Waiting, ahead};
pub use days::{DaysPlan, DaysReport, LimitKept, days};
pub use plan::Plan;
pub use replay::{
    Answer, Demand, DemandBounds, DemandRow, ReplayInput, ReplayReport, Started, send_again,
};
pub use sabotage::Sabotage;
pub use shrink::{Cut, shrink};

use chance::Chance;
use plan::Script;
use world::World;

/// What a world led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Its history as a number.
    pub log_hash: u64,
    /// How long it lasted by its own clock.
    pub virtual_hours: f64,
    /// Messages accepted.
    pub messages: u64,
    /// Messages taken by a server more than once, all of them with a cause unless a violation says otherwise.
    pub duplicates: u64,
    /// What the checkers found, at most 20 of a world; empty: nothing.
    pub violations: Vec<String>,
}

/// Lets one world run to its end.
#[must_use]
pub fn run(seed: u64, plan: &Plan) -> Outcome {
    live(seed, plan, &[], false).0
}

/// Lets one world run without some things that were drawn for it.
#[must_use]
pub fn run_cut(seed: u64, plan: &Plan, cuts: &[Cut]) -> Outcome {
    live(seed, plan, cuts, false).0
}

/// A world as text, without some things that were drawn for it: to be kept as a test under `scenarios/`.
#[must_use]
pub fn scenario(seed: u64, plan: &Plan, cuts: &[Cut]) -> String {
    let mut chance = Chance::new(seed);
    let mut script = Script::draw(&mut chance, plan);
    shrink::apply(&mut script, cuts);
    scenario::write(&script, &chance, seed % 3_600)
}

/// Lets the world of such a text run to its end.
///
/// # Errors
/// What in the text is not understood, and where.
pub fn run_scenario(text: &str, sabotage: Sabotage) -> Result<Outcome, String> {
    let (script, chance, second) = scenario::read(text, sabotage)?;
    Ok(live_script(second, script, chance, false).0)
}

/// Lets the world of such a text run, to be looked at; `verbose`: with every event and command.
///
/// # Errors
/// What in the text is not understood, and where.
pub fn replay_scenario(text: &str, verbose: bool) -> Result<(Outcome, Vec<String>), String> {
    let (script, chance, second) = scenario::read(text, Sabotage::None)?;
    Ok(live_script(second, script, chance, verbose))
}

fn script(seed: u64, plan: &Plan) -> Script {
    Script::draw(&mut Chance::new(seed), plan)
}

/// Lets a world of the default plan run again, to be looked at; `verbose`: with every event and command.
#[must_use]
pub fn replay(seed: u64, verbose: bool) -> (Outcome, Vec<String>) {
    live(seed, &Plan::default(), &[], verbose)
}

/// Lets one world run twice and compares the histories (checker 8).
#[must_use]
pub fn run_twice(seed: u64, plan: &Plan) -> Outcome {
    let mut first = run(seed, plan);
    let second = run(seed, plan);
    if first.log_hash != second.log_hash {
        first.violations.push("8: the same seed led to another history".into());
    }
    first
}

fn live(seed: u64, plan: &Plan, cuts: &[Cut], verbose: bool) -> (Outcome, Vec<String>) {
    let mut chance = Chance::new(seed);
    let mut script = Script::draw(&mut chance, plan);
    shrink::apply(&mut script, cuts);
    live_script(seed, script, chance, verbose)
}

fn live_script(seed: u64, script: Script, chance: Chance, verbose: bool) -> (Outcome, Vec<String>) {
    let mut world = World::new(seed, script, chance, verbose);
    if verbose {
        let script = format!("{:#?}", world.script);
        world.log.lines.extend(script.lines().map(str::to_owned));
    }
    world.run();
    world.judge.conclude(&world.fleet, &world.disk.store, &world.script);
    let outcome = Outcome {
        seed,
        log_hash: world.log.hash(),
        virtual_hours: (world.now - world.began).as_secs_f64() / 3_600.0,
        messages: world.next_serial - 1,
        duplicates: world.judge.duplicates,
        violations: core::mem::take(&mut world.judge.violations),
    };
    (outcome, world.log.lines)
}

/// What many worlds led to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many were run, each twice.
    pub seeds: u64,
    /// Violations, each with its seed and how to replay it.
    pub violations: Vec<String>,
    /// Messages accepted in all of them.
    pub messages: u64,
    /// Messages taken twice, with cause.
    pub duplicates: u64,
    /// Seeds (each twice) in a second of real time.
    pub seeds_per_second: f64,
    /// Virtual hours (both runs counted) in a second of real time.
    pub virtual_hours_per_second: f64,
}

/// Runs `count` worlds of the default plan from seed `from` on, each twice.
#[must_use]
pub fn seeds(from: u64, count: u64) -> Summary {
    let plan = Plan::default();
    let began = Instant::now();
    let mut summary = Summary { seeds: count, ..Summary::default() };
    let mut hours = 0.0;
    for seed in from..from.saturating_add(count) {
        let outcome = run_twice(seed, &plan);
        hours += 2.0 * outcome.virtual_hours;
        summary.messages += outcome.messages;
        summary.duplicates += outcome.duplicates;
        for text in outcome.violations {
            summary
                .violations
                .push(format!("seed {seed}: {text}\n    replay: {}", replay_words(seed)));
        }
    }
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    summary.seeds_per_second = count as f64 / seconds;
    summary.virtual_hours_per_second = hours / seconds;
    summary
}

/// The command that shows a world again.
#[must_use]
pub fn replay_words(seed: u64) -> String {
    format!(
        "cargo run --release -p mailweir-simulator --example simulate -- --seed {seed} --verbose"
    )
}
