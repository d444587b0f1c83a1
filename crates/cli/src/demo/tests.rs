//! The demonstration as a whole, small: lab, node, campaign and account.

use super::*;

fn settings(recipients: u64, seed: u64, level: Level) -> Settings {
    Settings { recipients, seed, level, keep: false, data_dir: None }
}

/// Runs a demonstration as the command does, without printing.
fn account_of(settings: &Settings) -> Account {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stage = Stage::set_up(settings).unwrap_or_else(|fault| panic!("{fault}"));
        let mut progress = Progress::Silent;
        let shown = stage.show(settings, &mut progress, &CancellationToken::new()).await;
        let shown = shown.unwrap_or_else(|fault| panic!("{fault}"));
        let account = stage.conclude(shown, settings, &mut progress).await;
        account.unwrap_or_else(|fault| panic!("{fault}"))
    })
}

fn holds(settings: &Settings) -> Account {
    let account = account_of(settings);
    let shown = text::report(&account, Some(100));
    assert!(account.limits_held, "{settings:?}\n{shown}");
    assert!(account.audit.limits_held, "{settings:?} {:?}\n{shown}", account.audit);
    assert_eq!(account.unaccounted, 0, "{settings:?}\n{shown}");
    assert_eq!(account.duplicates, 0, "{settings:?}\n{shown}");
    assert_eq!(account.accepted, settings.recipients, "{shown}");
    let ends = account.sent + account.failed + account.expired + account.cancelled;
    assert_eq!(ends + account.waiting, settings.recipients, "{shown}");
    for provider in &account.providers {
        let parts = provider.sent + provider.failed + provider.ended + provider.waiting;
        assert_eq!(parts, provider.recipients, "{provider:?}");
        assert_eq!(
            provider.waiting_reasons.values().sum::<u64>(),
            provider.waiting,
            "{provider:?}"
        );
    }
    returned_and_refused(&account, &shown);
    let lines = shown.lines().map(|line| line.chars().count());
    assert!(lines.clone().all(|length| length <= 100), "{shown}");
    account
}

/// What was sent back was understood, and whoever may not be written to was refused the second time.
fn returned_and_refused(account: &Account, shown: &str) {
    let back = &account.came_back;
    assert_eq!(back.difference, 0, "{back:?}\n{shown}");
    assert_eq!(back.matched, back.sent_back, "{back:?}");
    assert_eq!((back.on_their_way, back.unread, back.not_taken), (0, 0, 0), "{back:?}");
    assert_eq!((back.forged, back.foreign, back.other), (0, 0, 0), "{back:?}");
    let came = |wanted: &[&str]| -> u64 {
        let rows = back.rows.iter().filter(|row| wanted.contains(&row.came_as));
        rows.map(|row| row.count).sum()
    };
    assert_eq!(came(&["bounce", "complaint", "automatic reply"]), back.matched, "{back:?}");
    let again = account.second_delivery.as_ref().expect("nobody interrupted");
    assert_eq!((again.difference, again.attempts_to_refused), (0, 0), "{again:?}\n{shown}");
    assert_eq!(again.offered, account.recipients, "{again:?}");
    assert_eq!(again.accepted + again.refused, again.offered, "{again:?}");
    let listed: u64 = again.rows.iter().map(|row| row.listed).sum();
    assert!(listed > 0 && listed == again.refused, "{again:?}");
    assert!(account.good(), "{shown}");
    let json = serde_json::to_value(account).unwrap();
    assert_eq!(json["came_back"]["difference"], 0);
    assert!(json["second_delivery"]["rows"][0]["reason"].is_string(), "{json}");
}

#[test]
fn at_level_slow_most_mail_waits_and_all_of_it_is_accounted_for() {
    // 250 messages an hour and source are 20 in five minutes: 600 recipients are more than may go.
    let account = holds(&settings(600, 1, Level::Slow));
    assert!(account.sent > 0 && account.waiting > 0, "{account:?}");
    let google = account.providers.iter().find(|found| found.name == "google").unwrap();
    assert_eq!(google.limits.unwrap().messages_per_hour.limit, 250);
    // Two periods at the most can have been open, each with 20 messages for each of three sources.
    assert!((1..=120).contains(&google.sent), "{google:?}");
    assert!(google.gone_at.is_some_and(|gone| gone > account.now), "{google:?}");
}

#[test]
fn at_level_boost_nearly_all_goes_at_once() {
    let account = holds(&settings(600, 2, Level::Boost));
    assert!(account.sent > 500, "{account:?}");
    for way in ["refusal", "bounce", "automatic reply"] {
        assert!(account.came_back.rows.iter().any(|row| row.came_as == way), "{account:?}");
    }
    assert!(account.second_delivery.as_ref().is_some_and(|again| again.sent > 100), "{account:?}");
    let google = account.providers.iter().find(|found| found.name == "google").unwrap();
    assert_eq!(google.limits.unwrap().connections.limit, 14);
    assert_eq!(google.gone_at.is_some(), google.waiting > 0);
}

#[test]
fn what_an_earlier_run_left_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { data_dir: Some(folder.path().to_owned()), ..settings(240, 1, Level::Slow) };
    let first = holds(&settings);
    let second = account_of(&settings);
    assert_eq!(second.from_earlier_runs, first.waiting);
    assert!(second.refused_at_admission > 0, "who is unknown is not written to again");
    assert_eq!(second.accepted + second.refused_at_admission, settings.recipients);
    assert_eq!(second.unaccounted, 0, "{}", text::report(&second, None));
    let ends = second.sent + second.failed;
    assert_eq!(ends + second.waiting, first.waiting + second.accepted);
}

#[test]
fn the_configuration_of_somebody_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mailweir.toml");
    std::fs::write(&config, "# ours\n").unwrap();
    let fault = Folder::prepare(Some(folder.path())).unwrap_err().to_string();
    assert!(fault.contains("left as it is"), "{fault}");
    assert_eq!(std::fs::read_to_string(config).unwrap(), "# ours\n");
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _held = SqliteStore::open(&data, SqliteOptions::default()).unwrap();
    let settings =
        Settings { data_dir: Some(folder.path().to_owned()), ..settings(10, 1, Level::Slow) };
    let fault = Stage::set_up(&settings).err().unwrap().to_string();
    assert!(fault.contains("in use"), "{fault}");
}

#[test]
fn times_and_texts_are_for_people() {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    for (span, words) in [
        (minutes(0), "0 s"),
        (Duration::from_millis(5_200), "6 s"),
        (Duration::from_secs(61), "2 min"),
        (minutes(60), "1 h"),
        (minutes(190), "3 h 10 min"),
        (minutes(1_440), "1 d"),
        (minutes(1_440 + 125), "1 d 2 h"),
    ] {
        assert_eq!(crate::output::span(span), words);
    }
    assert_eq!(text::fit("five-minute quota", 30), "five-minute quota");
    assert_eq!(text::fit("five-minute quota", 8), "five-mi…");
    assert_eq!(text::wrapped("one two three", 40), "one two three\n");
}

#[test]
fn a_second_demonstration_in_the_same_folder_leaves_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { data_dir: Some(folder.path().to_owned()), ..settings(1, 1, Level::Slow) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = Stage::set_up(&settings).unwrap_or_else(|fault| panic!("{fault}"));
        let config = std::fs::read_to_string(first.folder.config_file()).unwrap();
        let second = Stage::set_up(&settings).err().expect("the folder is in use").to_string();
        assert!(second.contains("is in use by process"), "{second}");
        assert_eq!(std::fs::read_to_string(first.folder.config_file()).unwrap(), config);
        first.node.shutdown().await;
    });
}
