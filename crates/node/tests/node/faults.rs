//! Faults of the machine: DNS, disk, permissions.

use std::path::PathBuf;
use std::process::Command;

use lab::{DnsFaults, Mood, Span};
use mailweir_node::intake::IntakeFault;

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

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A small disk of its own, unmounted at the end.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: this machine does not let us, and the reason is printed.
    pub(super) fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        if !is_root() {
            println!("skipped: a small disk can be mounted by root only");
            return None;
        }
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "mailweir-test"])
            .arg(&path)
            .output()
            .unwrap();
        if !output.status.success() {
            println!("skipped: mount: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Self(path))
    }

    /// Fills it to the last octet.
    pub(super) fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        let mut piece = vec![7_u8; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    pub(super) fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
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
    std::fs::write(disk.0.join("ballast"), vec![7; 14_000_000]).unwrap();
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
            let mount = Command::new("mount").args(["-o", &options]).arg(&disk.0).output().unwrap();
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
