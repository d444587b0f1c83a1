//! Faults of the machine: DNS, disk, permissions.

use std::process::Command;

use lab::{DnsFaults, Mood, Span};
use mailweir_node::intake::IntakeFault;

use super::small_disk::SmallDisk;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_dns_mail_waits_and_does_not_fail() {
    let world = World::one(70, Mood::default());
    world.lab.set_dns_faults(DnsFaults { servfail: true, ..DnsFaults::default() }).unwrap();
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 20)).await;
    let found = waits_for(&node, first, "DNS temporary failure").await;
    let waiting = found.waiting.unwrap();
    assert!(waiting.detail.contains("SERVFAIL") && waiting.next_at.is_some(), "{waiting:?}");
    assert_eq!((found.state.as_str(), found.attempts), ("queued", 0));
    world.lab.set_dns_faults(DnsFaults::default()).unwrap();
    let counters = settled(&intake, id).await;
    assert_eq!((counters.sent, counters.failed), (20, 0), "{counters:?}");
    let ended = world.end(node).await;
    assert_eq!(ended.log.len(), 20);
}

/// Whatever DNS does, mail waits with the reason, and goes when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_that_lies_is_silent_or_slow_loses_no_mail() {
    let none = DnsFaults::default();
    // The fault, and whether its mail waits.
    let cases = [
        (DnsFaults { truncate: true, ..none }, false),
        (DnsFaults { drop_share: 0.5, ..none }, false),
        (DnsFaults { drop_share: 1.0, ..none }, true),
        (DnsFaults { wrong_id_share: 1.0, ..none }, true),
        (DnsFaults { delay: Some(Span::from_millis(4_000)), ..none }, true),
    ];
    let mut one = provider(75, 1, "one", Mood::default());
    one.domains = (0..cases.len()).map(|case| format!("case{case}.example")).collect();
    let world = World::new(75, vec![one]);
    let node = world.start();
    let intake = node.intake();
    let mut deliveries = Vec::new();
    for (case, (fault, waits)) in cases.into_iter().enumerate() {
        world.lab.set_dns_faults(fault).unwrap();
        let domain = format!("case{case}.example");
        let options = intake.default_options();
        let (id, first) = delivery_with(&intake, options, recipients(&[&domain], 3)).await;
        if waits {
            let found = waits_for(&node, first, "DNS temporary failure").await;
            assert_eq!((found.state.as_str(), found.attempts), ("queued", 0), "{found:?}");
            let waiting = found.waiting.unwrap();
            assert!(one_line(&waiting.detail) && waiting.next_at.is_some(), "{waiting:?}");
        } else {
            let counters = settled(&intake, id).await;
            assert_eq!(counters.sent, 3, "{fault:?}: {counters:?}");
        }
        deliveries.push(id);
    }
    world.lab.set_dns_faults(none).unwrap();
    for id in deliveries {
        let counters = settled(&intake, id).await;
        assert_eq!((counters.sent, counters.failed), (3, 0), "{counters:?}");
    }
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 15);
    assert_eq!(ended.report.duplicates.extra_copies, 0);
}

/// Whether intake takes a delivery with so many recipients.
async fn takes(intake: &Intake, count: u64) -> Result<DeliveryId, IntakeFault> {
    let created = intake.create(intake.default_options(), Some(&content()), None).await?;
    let Created::New(id) = created else { panic!("{created:?}") };
    intake.append(id, recipients(&["two.example"], count)).await?;
    intake.start(id).await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_everything_and_loses_nothing() {
    let slow = Mood { latency: Some(Span::from_millis(5)), ..Mood::default() };
    let world =
        World::new(71, vec![provider(71, 1, "one", slow), provider(71, 2, "two", Mood::default())])
            .more("[limits]\nfree_disk_bytes = 0\n");
    let Some(disk) = SmallDisk::mount(world.path("data"), 96) else { return };
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 2_000)).await;
    sent(&intake, id, 50).await;
    disk.fill();
    // The database has some room left in its files; it comes to an end.
    let mut accepted = Vec::new();
    let fault = eventually("a refusal", async || match takes(&intake, 500).await {
        Ok(id) => {
            accepted.push(id);
            None
        }
        Err(fault) => Some(fault),
    })
    .await;
    assert!(matches!(fault, IntakeFault::NoRoom(_)), "{fault}");
    let fault = fault.to_string();
    assert!(one_line(&fault) && fault.contains("full"), "{fault}");
    assert!(intake.health().is_err());
    waits_for(&node, MessageId(first.0 + 1_999), "store cannot commit").await;
    // What was on its way comes to its end; then nothing more is sent.
    let quiet = eventually("silence", async || {
        let before = world.lab.report().totals.accepted;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (world.lab.report().totals.accepted == before).then_some(before)
    })
    .await;
    assert!(quiet < 2_000, "{quiet}");
    disk.free();
    world.set_mood("one", Mood::default());
    let later = eventually("room", async || takes(&intake, 10).await.ok()).await;
    accepted.push(later);
    let mut all = 2_000;
    assert_eq!(settled(&intake, id).await.sent, 2_000);
    for id in accepted {
        let counters = settled(&intake, id).await;
        assert_eq!(counters.sent, counters.accepted, "{counters:?}");
        all += counters.sent;
    }
    node.shutdown().await;
    let report = world.lab.report();
    // Nobody lost, nobody twice.
    assert_eq!(report.duplicates.unique_accepted, all);
    assert_eq!(report.duplicates.extra_copies, 0, "{report:#?}");
    drop(disk);
}

/// Before the disk is full, intake stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_stops_while_there_is_still_room_for_outcomes() {
    let world = World::one(72, Mood::default()).more("[limits]\nfree_disk_bytes = 12_000_000\n");
    let Some(disk) = SmallDisk::mount(world.path("data"), 24) else { return };
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 10)).await;
    std::fs::write(disk.path().join("ballast"), vec![7; 14_000_000]).unwrap();
    let fault = eventually("a refusal", async || takes(&intake, 1).await.err()).await;
    assert!(matches!(fault, IntakeFault::NoRoom(_)), "{fault}");
    let fault = fault.to_string();
    assert!(one_line(&fault) && fault.contains("free_disk_bytes"), "{fault}");
    // What is there is still delivered.
    assert_eq!(settled(&intake, id).await.sent, 10);
    disk.free();
    eventually("room", async || takes(&intake, 1).await.ok()).await;
    node.shutdown().await;
    drop(disk);
}

/// A full queue is told to the callers, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_stops_at_the_length_of_the_queue() {
    let world = World::new(
        73,
        vec![provider(73, 2, "two", Mood { refuse_connection: true, ..Mood::default() })],
    )
    .more("[limits]\nqueue_messages = 1_000\nfree_disk_bytes = 0\n");
    let node = world.start();
    let intake = node.intake();
    let mut accepted = Vec::new();
    let fault = eventually("a refusal", async || match takes(&intake, 100).await {
        Ok(id) => {
            accepted.push(id);
            None
        }
        Err(fault) => Some(fault),
    })
    .await;
    assert!(accepted.len() >= 10, "{}", accepted.len());
    assert!(matches!(fault, IntakeFault::NoRoom(_)), "{fault}");
    assert!(fault.to_string().contains("queue_messages"), "{fault}");
    world.set_mood("two", Mood::default());
    for id in accepted {
        let counters = settled(&intake, id).await;
        assert_eq!(counters.pending(), 0, "{counters:?}");
    }
    eventually("room", async || takes(&intake, 1).await.ok()).await;
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_is_refused() {
    let world = World::one(74, Mood::default());
    // Root may write anywhere but on a disk that is mounted for reading.
    let Some(disk) = SmallDisk::mount(world.path("data"), 4) else { return };
    let remount = async |how: &str| {
        let options = format!("remount,{how}");
        // The node's look at the disk may hold a file open for a moment after its end.
        eventually("a remount", async || {
            let mount =
                Command::new("mount").args(["-o", &options]).arg(disk.path()).output().unwrap();
            mount.status.success().then_some(())
        })
        .await;
    };
    remount("ro").await;
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("data"), "{fault}");
    remount("rw").await;
    world.start().shutdown().await;
    remount("ro").await;
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("mounted for writing"), "{fault}");
    remount("rw").await;
    world.start().shutdown().await;
    drop(disk);
}
