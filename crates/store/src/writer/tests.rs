//! The writer over a store that breaks and blocks on demand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::contract::Reads;
use crate::memory::MemoryStore;

/// A store that waits for a word before each batch and fails while it is told to.
struct Staged {
    inner: MemoryStore,
    gate: Receiver<()>,
    broken: Arc<AtomicBool>,
    batches: Arc<AtomicUsize>,
}

fn full() -> StoreFault {
    StoreFault::DiskFull { path: "mailweir.db".into(), detail: "staged".into() }
}

impl Store for Staged {
    fn apply(&mut self, batch: &[Write]) -> Result<Vec<Written>, StoreFault> {
        // A gate whose other end is gone stands open.
        let _open = self.gate.recv();
        self.batches.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) { Err(full()) } else { self.inner.apply(batch) }
    }

    fn probe(&mut self) -> Result<(), StoreFault> {
        if self.broken.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    }

    fn reads(&self) -> &dyn Reads {
        self.inner.reads()
    }
}

struct Stage {
    writer: Writer,
    open: Sender<()>,
    broken: Arc<AtomicBool>,
    batches: Arc<AtomicUsize>,
}

fn stage(options: WriterOptions) -> Stage {
    let (open, gate) = channel();
    let broken = Arc::new(AtomicBool::new(false));
    let batches = Arc::new(AtomicUsize::new(0));
    let store = Staged {
        inner: MemoryStore::new("a"),
        gate,
        broken: Arc::clone(&broken),
        batches: Arc::clone(&batches),
    };
    let writer = Writer::start(Box::new(store), options).unwrap();
    Stage { writer, open, broken, batches }
}

fn quick() -> WriterOptions {
    WriterOptions { probe_every: Duration::from_millis(5), ..WriterOptions::default() }
}

fn setting(value: usize) -> Write {
    Write::PutSetting { key: "last".into(), value: value.to_string().into() }
}

/// A reply that tells its number and answer.
fn tell(number: usize, to: &Sender<(usize, Result<Written, StoreFault>)>) -> Reply {
    let to = to.clone();
    Box::new(move |answer| to.send((number, answer)).unwrap())
}

#[test]
fn joins_what_waits_and_drains_at_shutdown() {
    let stage = stage(quick());
    let handle = stage.writer.handle();
    let (sender, answers) = channel();
    for number in 0..100 {
        handle.send(setting(number), tell(number, &sender));
    }
    drop(stage.open);
    let store = stage.writer.shutdown().unwrap();
    drop(sender);
    let order: Vec<_> = answers.iter().collect();
    let expected: Vec<_> = (0..100).map(|number| (number, Ok(Written::Done))).collect();
    assert_eq!(order, expected);
    assert_eq!(store.reads().setting("last").unwrap().as_deref(), Some("99"));
    let batches = stage.batches.load(Ordering::SeqCst);
    assert!(batches <= 2, "the first may go alone, the rest goes together: {batches}");
    assert_eq!(handle.apply(setting(7)), Err(StoreFault::Closed));
}

#[test]
fn a_batch_ends_at_its_size() {
    let stage = stage(WriterOptions { batch_rows: 10, ..quick() });
    let (sender, answers) = channel();
    for number in 0..100 {
        stage.writer.handle().send(setting(number), tell(number, &sender));
    }
    drop(stage.open);
    assert!(stage.writer.shutdown().is_some());
    drop(sender);
    assert_eq!(answers.iter().count(), 100);
    let batches = stage.batches.load(Ordering::SeqCst);
    assert!((10..=11).contains(&batches), "{batches}");
}

#[test]
fn a_full_channel_gives_the_request_back() {
    let stage = stage(WriterOptions { capacity: 3, ..quick() });
    let handle = stage.writer.handle();
    let (sender, answers) = channel();
    let mut taken = 0;
    let refused = loop {
        match handle.try_send(setting(taken), tell(taken, &sender)) {
            Ok(()) => taken += 1,
            Err(back) => break back,
        }
    };
    assert_eq!(refused.0, setting(taken));
    assert!((3..=7).contains(&taken), "{taken}");
    drop(stage.open);
    handle.send(refused.0, refused.1);
    assert!(stage.writer.shutdown().is_some());
    drop(sender);
    assert_eq!(answers.iter().filter(|(_, answer)| answer.is_ok()).count(), taken + 1);
}

#[test]
fn a_fault_is_told_to_all_and_healed_by_itself() {
    let stage = stage(quick());
    drop(stage.open);
    let handle = stage.writer.handle();
    assert_eq!(handle.apply(setting(1)), Ok(Written::Done));
    stage.broken.store(true, Ordering::SeqCst);
    assert_eq!(handle.apply(setting(2)), Err(full()));
    assert_eq!(handle.health(), Health::Sick(full()));
    assert_eq!(handle.apply(setting(3)), Err(full()));
    stage.broken.store(false, Ordering::SeqCst);
    let begin = Instant::now();
    while handle.health() != Health::Healthy {
        assert!(begin.elapsed() < Duration::from_secs(10), "it never healed");
        std::thread::yield_now();
    }
    assert_eq!(handle.apply(setting(4)), Ok(Written::Done));
    let store = stage.writer.shutdown().unwrap();
    assert_eq!(store.reads().setting("last").unwrap().as_deref(), Some("4"));
}

#[test]
fn a_sick_writer_shuts_down_and_answers_everybody() {
    let stage = stage(quick());
    drop(stage.open);
    stage.broken.store(true, Ordering::SeqCst);
    let (sender, answers) = channel();
    for number in 0..50 {
        stage.writer.handle().send(setting(number), tell(number, &sender));
    }
    assert!(stage.writer.shutdown().is_some());
    drop(sender);
    let answers: Vec<_> = answers.iter().map(|(_, answer)| answer).collect();
    assert_eq!(answers, vec![Err(full()); 50]);
}

#[test]
fn a_thread_that_has_ended_is_not_healthy() {
    let store = Box::new(MemoryStore::new("a"));
    let writer = Writer::start(store, quick()).unwrap();
    let handle = writer.handle();
    assert_eq!(handle.health(), Health::Healthy);
    handle.send(
        Write::RenewLeases { until: mail::time::Timestamp::EPOCH },
        Box::new(|_| panic!("for this test")),
    );
    assert!(writer.shutdown().is_none(), "a reply has panicked");
    assert_eq!(handle.health(), Health::Sick(StoreFault::Closed));
}
