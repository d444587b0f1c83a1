//! Measures the store: recipients accepted, then claimed and settled, all durable.
//!
//! `cargo run --release -p mailweir-store --example measure -- [MESSAGES] [DOMAINS] [BATCH] [CHECKPOINT_PAGES]`

use std::path::Path;
use std::time::Instant;

use engine::work::{DeliveryOptions, Fate, FinalState, Settled};
use mail::time::Timestamp;
use mailweir_store::{
    ClaimFrom, ClaimRequest, ContentKind, DomainId, NewContent, NewRecipient, SqliteOptions,
    SqliteStore, Store as _, StoreFault, Write, Written,
};

/// Rows of one batch; made beforehand so that making them is not measured.
fn recipients(first: u64, count: u64, domains: u64) -> Vec<NewRecipient> {
    (first..first + count)
        .map(|index| {
            // A generator with a full period scatters the domains.
            let domain = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let domain = format!("domain{:03}.example", domain % domains);
            NewRecipient {
                line: index,
                address: format!("recipient.{index}@{domain}").into(),
                folded: "".into(),
                domain: domain.into(),
                merge: format!("{{\"first\":\"Ada\",\"number\":{index}}}").into(),
                sender: "".into(),
            }
        })
        .collect()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.map_or_else(|| "unknown".into(), |line| line["VmHWM:".len()..].trim().to_owned())
}

/// Accepts all recipients; answers the seconds that the store took.
fn accept(
    store: &mut SqliteStore,
    messages: u64,
    domains: u64,
    batch: u64,
) -> Result<(f64, f64), StoreFault> {
    let delivery = mail::id::DeliveryId(1);
    let (mut seconds, mut worst, mut first) = (0.0, 0.0_f64, 0);
    while first < messages {
        let recipients = recipients(first, batch.min(messages - first), domains);
        let at = Timestamp::from_millis(1_800_000_000_000 + first);
        let write = Write::Append { delivery, content: None, recipients, at, once: None };
        let begin = Instant::now();
        store.apply(std::slice::from_ref(&write))?;
        let spent = begin.elapsed().as_secs_f64();
        seconds += spent;
        worst = worst.max(spent);
        first += batch;
    }
    Ok((seconds, worst))
}

/// Claims from 16 domains at a time and settles what was claimed in the same transaction as the next
/// claims, as a busy writer thread does.
fn deliver(store: &mut SqliteStore) -> Result<(u64, f64), StoreFault> {
    let delivery = mail::id::DeliveryId(1);
    let at = Timestamp::from_secs(1_900_000_000);
    let begin = Instant::now();
    let mut waiting: Vec<DomainId> =
        store.reads().due_domains(DomainId(0), u32::MAX)?.iter().map(|due| due.id).collect();
    let (mut settled, mut count) = (Vec::new(), 0);
    while !waiting.is_empty() || !settled.is_empty() {
        let round: Vec<DomainId> = waiting.drain(..waiting.len().min(16)).collect();
        let mut batch = vec![Write::Settle(std::mem::take(&mut settled))];
        batch.extend(round.iter().map(|domain| {
            Write::Claim(ClaimRequest {
                domain: *domain,
                deliveries: vec![ClaimFrom { delivery, through: None, at_most: None }],
                due_until: at,
                limit: 256,
                lease_until: at,
            })
        }));
        for (index, answer) in store.apply(&batch)?.into_iter().enumerate() {
            match answer {
                Written::Settled(report) => count += u64::from(report.settled),
                Written::Claimed(claimed) => {
                    if claimed.next_due.is_some() {
                        waiting.push(round[index - 1]);
                    }
                    settled.extend(claimed.messages.iter().map(|message| Settled {
                        id: message.id,
                        delivery,
                        fate: Fate::Final(FinalState::Sent),
                        attempts: 1,
                        last_reply: "250 2.0.0 Ok: queued as 4F2A91C03B".into(),
                        at,
                    }));
                }
                other => panic!("unexpected answer {other:?}"),
            }
        }
    }
    Ok((count, begin.elapsed().as_secs_f64()))
}

fn measure(folder: &Path, arguments: &[u64; 4]) -> Result<(), StoreFault> {
    let [messages, domains, batch, checkpoint] = *arguments;
    let options = SqliteOptions { checkpoint_pages: checkpoint as u32, ..SqliteOptions::default() };
    let mut store = SqliteStore::open(folder, options.clone())?;
    let content = NewContent { kind: ContentKind::Template, body: b"Hello"[..].into() };
    let options_of_delivery = Box::new(DeliveryOptions::default());
    store.apply(&[Write::CreateDelivery {
        options: options_of_delivery,
        content: Some(content),
        at: Timestamp::from_secs(1_800_000_000),
        once: None,
    }])?;
    let (seconds, worst) = accept(&mut store, messages, domains, batch)?;
    println!(
        "accepted {messages} in {seconds:.2} s: {:.0}/s; slowest batch of {batch} {:.0} ms",
        messages as f64 / seconds,
        worst * 1e3
    );
    let delivery = mail::id::DeliveryId(1);
    store.apply(&[Write::Start { delivery, at: Timestamp::from_secs(1_800_000_001) }])?;
    drop(store);
    let begin = Instant::now();
    let mut store = SqliteStore::open(folder, options)?;
    println!("opened again in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let due = store.reads().due_domains(DomainId(0), u32::MAX)?.len();
    println!("{due} due domains listed in {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let address = &recipients(messages / 2, 1, domains)[0].address;
    let found = store.reads().messages_by_address(address, 10)?.len();
    println!("{found} message by address in {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    let (count, seconds) = deliver(&mut store)?;
    println!("claimed and settled {count} in {seconds:.2} s: {:.0}/s", count as f64 / seconds);
    let record = store.reads().delivery(delivery)?;
    println!("{:?}", record.map(|record| record.counters));
    println!("peak resident memory {}", peak_memory());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = [1_000_000, 100, 4_000, 16_384];
    for (slot, text) in arguments.iter_mut().zip(std::env::args().skip(1)) {
        *slot = text.parse()?;
    }
    let folder = tempfile::tempdir()?;
    measure(folder.path(), &arguments)?;
    for entry in std::fs::read_dir(folder.path())? {
        let entry = entry?;
        println!("{:?}: {} MB", entry.file_name(), entry.metadata()?.len() >> 20);
    }
    Ok(())
}
