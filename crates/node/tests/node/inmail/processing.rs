//! From the spool folder through the loop to its end.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_processor_that_fails_in_every_way_costs_one_mail() {
    let home = Home::new("[inmail]\nforward_to = \"ops@example.com\"\n");
    let spool = home.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let words = ["done", "aside", "panic", "slow", "later"];
    for word in words {
        std::fs::write(spool.join(format!("{word}.eml")), format!("Subject: {word}\r\n\r\n"))
            .unwrap();
    }
    // Neither of these is picked up.
    std::fs::write(spool.join("half.tmp"), "Subject: half\r\n\r\n").unwrap();
    std::fs::create_dir(spool.join("folder.eml")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", spool.join("link.eml")).unwrap();
    let running = home.start();
    home.processed(3).await;
    eventually("the mails aside", async || (load(&running.counts.kept_aside) >= 2).then_some(()))
        .await;
    let mut got = home.texts();
    got.dedup();
    assert_eq!(got, ["aside", "done", "later"].map(|word| format!("Subject: {word}\r\n\r\n")));
    assert!(load(&running.counts.put_off) >= 2);
    eventually("two processed", async || (load(&running.counts.processed) == 2).then_some(()))
        .await;
    eventually("the spool folder", async || {
        (home.files("spool") == ["folder.eml", "half.tmp", "link.eml"]).then_some(())
    })
    .await;
    // One with a reason of the processor, one of ours. Each is forwarded through the queue.
    let aside = home.files("aside");
    assert_eq!(aside.len(), 4, "{aside:?}");
    let notes: Vec<String> = aside
        .iter()
        .filter(|name| name.ends_with(".reason"))
        .map(|name| std::fs::read_to_string(home.path("aside").join(name)).unwrap())
        .collect();
    for part in ["no kind of\\r\\nmail", "processing it has panicked"] {
        assert!(notes.iter().any(|note| note.contains(part)), "{notes:?}");
    }
    eventually("forwards", async || (load(&running.counts.forwarded) == 2).then_some(())).await;
    let intake = running.node.intake();
    let queued = intake.read(|reads| reads.messages(MessageId(0), 10)).await.unwrap();
    assert_eq!(queued.len(), 2);
    for message in &queued {
        assert_eq!((&*message.address, &*message.sender), ("ops@example.com", "<>"));
        let content = message.content;
        let stored = intake.read(move |reads| reads.content(content)).await.unwrap().unwrap();
        let text = String::from_utf8(stored.body.to_vec()).unwrap();
        assert!(text.contains("\r\nAuto-Submitted: auto-generated\r\n"), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
    }
    // What was kept aside may be put back.
    let name = aside.iter().find(|name| name.ends_with(".eml")).unwrap();
    std::fs::rename(home.path("aside").join(name), spool.join("again.eml")).unwrap();
    eventually("it again", async || (load(&running.counts.kept_aside) >= 3).then_some(())).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_at_the_end_comes_again() {
    let home = Home::new("");
    let spool = home.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    for number in 0..20 {
        std::fs::write(spool.join(format!("{number}.eml")), format!("{number} slow")).unwrap();
    }
    for _ in 0..4 {
        let running = home.start();
        eventually("mails in hand", async || (home.files("processing").len() >= 4).then_some(()))
            .await;
        running.stop().await;
        assert_eq!(home.files("processing").len(), 0, "given back");
        assert_eq!(home.files("new").len(), 20);
    }
    let running = home.start();
    eventually("mails in hand", async || (home.files("processing").len() >= 4).then_some(())).await;
    running.kill().await;
    let running = home.start();
    assert_eq!(load(&running.counts.kept_aside), 0);
    assert_eq!(load(&running.counts.waiting), 20);
    running.stop().await;
}
