//! Measures the ledger of evidence: entries recorded durably, the admission set filled and asked, an
//! outage previewed and undone.
//!
//! `cargo run --release -p mailweir-store --example measure_ledger -- [ADDRESSES] [BATCH]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::quarantine::{
    AddressHash, AdmissionSet, Assumption, Author, Channel, Difference, Evidence, Failure, Finding,
    LedgerWrite, LedgerWritten, Mark, MetText, NewEntry, Policy, Qualification, Selection, State,
    TextKey, TextStatus, Work,
};
use mail::failure::{FailureType, Reason};
use mail::time::Timestamp;
use mailweir_store::{LedgerPlace, SqliteOptions, SqliteStore, Store as _, StoreFault};
use mailweir_store::{Write, Written};

const BEGIN: Timestamp = Timestamp::from_secs(1_800_000_000);

fn address(index: u64) -> String {
    // A generator with a full period scatters the names, as a list is not sorted either.
    let name = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    format!("recipient.{name:x}@domain{:03}.example", index % 100)
}

fn entry(index: u64) -> NewEntry {
    let reasons = [Reason::UserUnknown, Reason::MailboxFull, Reason::InactiveUser];
    let reason = reasons[(index % 3) as usize];
    let (failure_type, status) = (FailureType::Hard, TextStatus::Keep);
    let qualification = Qualification { reason, failure_type, status };
    let key = TextKey([(index % 50) as u8; 16]);
    let reply =
        "550 5.1.1 The email account that you tried to reach does not exist. Please try again";
    let at = Timestamp::from_millis(BEGIN.as_millis() + index);
    let (rule, version): (Arc<str>, Arc<str>) = ("user-unknown.generic".into(), "2026-11".into());
    let text = MetText {
        key,
        normalised: reply.into(),
        raw: reply.into(),
        host: "mx.example".into(),
        qualification,
        rule: Arc::clone(&rule),
        version: Arc::clone(&version),
        at,
    };
    let failure = Failure { text: key, reply: reply.into(), qualification, rule, version };
    let evidence = Evidence {
        address: address(index).into(),
        provider: format!("mx{:03}.example", index % 100).into(),
        at,
        delivery: None,
        message: Some(mail::id::MessageId(index)),
        channel: Channel::Synchronous,
        authentic: true,
        finding: Finding::Failed(failure),
    };
    NewEntry { evidence, hold: None, text: Some(text), seen: Vec::new() }
}

fn memory(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.map_or_else(|| "unknown".into(), |line| line[field.len()..].trim().to_owned())
}

fn apply(store: &mut SqliteStore, write: LedgerWrite) -> Result<LedgerWritten, StoreFault> {
    match store.apply(&[Write::Quarantine(Box::new(write))])?.pop() {
        Some(Written::Quarantine(written)) => Ok(*written),
        other => panic!("unexpected answer {other:?}"),
    }
}

fn record(store: &mut SqliteStore, addresses: u64, batch: u64) -> Result<(), StoreFault> {
    let policy = Arc::new(Policy::default());
    let (mut seconds, mut first) = (0.0, 0);
    while first < addresses {
        let entries = (first..addresses.min(first + batch)).map(entry).collect();
        let write = LedgerWrite::Record { entries, policy: Arc::clone(&policy), now: BEGIN };
        let begin = Instant::now();
        apply(store, write)?;
        seconds += begin.elapsed().as_secs_f64();
        first += batch;
    }
    println!("recorded {addresses} in {seconds:.2} s: {:.0}/s", addresses as f64 / seconds);
    Ok(())
}

fn fill(store: &SqliteStore) -> Result<AdmissionSet, StoreFault> {
    let (begin, mut set, mut after) = (Instant::now(), AdmissionSet::new(), 0);
    loop {
        let page = store.reads().marks(after, 10_000)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|known| set.put(&AddressHash::of(&known.address), Some(known.mark)));
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("admission set of {} filled from disk in {:.2} s", set.len(), seconds);
    Ok(set)
}

fn undo(store: &mut SqliteStore, addresses: u64) -> Result<(), StoreFault> {
    let to = Timestamp::from_millis(BEGIN.as_millis() + addresses / 10);
    let selection = Selection { from: BEGIN, to, ..Selection::default() };
    let work = Work::Undo { selection };
    let policy = Arc::new(Policy::default());
    let assumption = Assumption { policy: Policy::default(), qualification: None };
    let (begin, mut shown) = (Instant::now(), Difference::default());
    let mut place = Some(LedgerPlace::default());
    while let Some(after) = place {
        let page = store.reads().preview(&work, &assumption, after, 10_000, BEGIN)?;
        shown.join(page.0);
        place = page.1;
    }
    println!("preview of {} entries in {:.2} s", shown.entries, begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let start = LedgerWrite::Start { work, author: Author::default(), now: BEGIN };
    let LedgerWritten::Started(task) = apply(store, start)? else { panic!("not started") };
    let (mut done, mut worst) = (false, 0.0_f64);
    while !done {
        let go_on = LedgerWrite::GoOn { task, limit: 1_000, policy: policy.clone(), now: BEGIN };
        let stretch = Instant::now();
        let LedgerWritten::Worked(worked) = apply(store, go_on)? else { panic!("no work") };
        worst = worst.max(stretch.elapsed().as_secs_f64());
        done = worked.done;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("undone in {seconds:.2} s; slowest stretch of 1000 took {:.0} ms", worst * 1e3);
    Ok(())
}

fn ask(addresses: u64) {
    let before = memory("VmRSS:");
    let mut set = AdmissionSet::new();
    let mark = Mark::of(State::Quarantined, Some(Reason::UserUnknown));
    let names: Vec<String> = (0..100_000).map(|index| address(index * 2)).collect();
    let (begin, mut worst) = (Instant::now(), 0.0_f64);
    for index in 0..addresses {
        let one = Instant::now();
        set.put(&AddressHash::of(&address(index)), Some(mark));
        worst = worst.max(one.elapsed().as_secs_f64());
    }
    let nanos = begin.elapsed().as_nanos() as f64 / addresses as f64;
    let octets = set.octets() as f64 / addresses as f64;
    println!(
        "admission set of {addresses}: {octets:.1} octets each ({before} to {} resident)",
        memory("VmRSS:")
    );
    println!("put in {nanos:.0} ns each, slowest {:.2} ms", worst * 1e3);
    let begin = Instant::now();
    let refused = names.iter().filter(|name| set.admit_address(name).is_err()).count();
    let nanos = begin.elapsed().as_nanos() as f64 / names.len() as f64;
    println!("asked in {nanos:.0} ns each; {refused} of {} refused", names.len());
}

fn measure(folder: &Path, addresses: u64, batch: u64) -> Result<(), StoreFault> {
    let mut store = SqliteStore::open(folder, SqliteOptions::default())?;
    record(&mut store, addresses, batch)?;
    drop(store);
    let mut store = SqliteStore::open(folder, SqliteOptions::default())?;
    let set = fill(&store)?;
    assert_eq!(set.len() as u64, addresses, "everybody is in it");
    undo(&mut store, addresses)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = [1_000_000, 2_000];
    for (slot, text) in arguments.iter_mut().zip(std::env::args().skip(1)) {
        *slot = text.parse()?;
    }
    ask(arguments[0]);
    let folder = tempfile::tempdir()?;
    measure(folder.path(), arguments[0], arguments[1])?;
    for entry in std::fs::read_dir(folder.path())? {
        let entry = entry?;
        println!("{:?}: {} MB", entry.file_name(), entry.metadata()?.len() >> 20);
    }
    println!("peak resident memory {}", memory("VmHWM:"));
    Ok(())
}
