use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(hours: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + hours * 3_600)
}

fn stage(version: u64, percent: u8) -> Stage {
    Stage {
        version,
        share: Share::new(percent).unwrap(),
        halted: false,
        since: at(0),
        judged_from: at(0),
        expires: at(1_000),
        minimum_client: ClientVersion(0, 1, 0),
    }
}

fn fleet(size: usize) -> Vec<Standing> {
    (0..size)
        .map(|number| Standing { name: format!("client-{number}"), has: 0, remembers: 0 })
        .collect()
}

/// What one of these clients is given.
fn offer(
    stages: &[Stage],
    clients: &[Standing],
    client: &str,
    program: Option<ClientVersion>,
    now: Timestamp,
) -> Option<u64> {
    let place = clients.iter().position(|one| one.name == client)?;
    offers(stages, clients, |number| program.filter(|_| number == place), now)[place]
}

fn names(covers: &[bool], clients: &[Standing]) -> Vec<String> {
    let both = covers.iter().zip(clients);
    both.filter(|(covers, _)| **covers).map(|(_, client)| client.name.clone()).collect()
}

proptest! {
    #[test]
    fn the_share_is_kept_and_only_grows(
        size in 0_usize..200, version in 1_u64..50, small in 1_u8..=100, more in 0_u8..100,
        have in proptest::collection::btree_set(0_usize..200, 0..40),
    ) {
        let mut clients = fleet(size);
        for number in &have {
            if let Some(client) = clients.get_mut(*number) {
                client.has = version;
            }
        }
        let having = clients.iter().filter(|client| client.has == version).count();
        let (small, large) = (Share(small), Share((small + more).min(100)));
        let few = covered(version, small, &clients);
        let many = covered(version, large, &clients);
        let count = few.iter().filter(|covers| **covers).count();
        prop_assert_eq!(count, small.of(size).max(having));
        prop_assert!(size == 0 || count >= 1);
        // A growing share takes nobody out, and whoever has the bundle is always covered.
        for ((few, many), client) in few.iter().zip(&many).zip(&clients) {
            prop_assert!(!few || *many);
            prop_assert!(client.has < version || *few);
        }
        // The order in which clients are listed does not matter.
        let mut turned = clients.clone();
        turned.reverse();
        let mut other = names(&covered(version, small, &turned), &turned);
        other.reverse();
        prop_assert_eq!(names(&few, &clients), other);
    }

    #[test]
    fn a_client_never_goes_down_and_all_get_there(
        size in 1_usize..30,
        steps in proptest::collection::vec((0_usize..30, 0_u8..6, 1_u8..=100), 1..60),
    ) {
        let mut clients = fleet(size);
        let mut stages: Vec<Stage> = Vec::new();
        for (who, what, percent) in steps {
            let newest = stages.last().map_or(0, |stage| stage.version);
            match (what, stages.last_mut()) {
                (0, _) | (_, None) => stages.push(stage(newest + 1, percent)),
                (1, Some(last)) => last.halted = true,
                (2, Some(last)) => last.halted = false,
                (3, Some(last)) => last.share = last.share.max(Share(percent)),
                _ => {
                    let who = who % size;
                    let name = clients[who].name.clone();
                    let given = offer(&stages, &clients, &name, None, at(1));
                    let before = clients[who].has;
                    prop_assert!(given.unwrap_or(0) >= before);
                    if let Some(given) = given.filter(|given| *given > before) {
                        let stage = stages.iter().find(|stage| stage.version == given).unwrap();
                        prop_assert!(!stage.halted);
                        (clients[who].has, clients[who].remembers) = (given, given);
                    }
                }
            }
        }
        // Once the newest one is for all, everybody gets it.
        if let Some(last) = stages.last_mut() {
            (last.halted, last.share) = (false, Share::ALL);
        }
        for client in &clients {
            let given = offer(&stages, &clients, &client.name, None, at(1));
            prop_assert_eq!(given, stages.last().map(|stage| stage.version));
        }
    }
}

#[test]
fn another_client_is_the_first_with_every_version() {
    let clients = fleet(20);
    let first: std::collections::BTreeSet<String> = (1..=20)
        .flat_map(|version| names(&covered(version, Share(5), &clients), &clients))
        .collect();
    assert!(first.len() > 8, "{first:?}");
}

#[test]
fn a_new_client_takes_nothing_away() {
    let mut clients = fleet(40);
    let before = covered(3, Share(10), &clients);
    for (client, covers) in clients.iter_mut().zip(&before) {
        client.has = if *covers { 3 } else { 2 };
    }
    for number in 0..40 {
        clients.push(Standing { name: format!("new-{number}"), has: 0, remembers: 0 });
        let now = covered(3, Share(10), &clients);
        for (covers, before) in now.iter().zip(&before) {
            assert!(!before || *covers);
        }
    }
}

#[test]
fn what_is_given() {
    let clients = |has: u64| {
        let mut clients = fleet(3);
        (clients[0].has, clients[0].remembers) = (has, has);
        clients
    };
    let old = Some(ClientVersion(0, 1, 0));
    let halted = |stage: Stage| Stage { halted: true, ..stage };
    let expired = |stage: Stage| Stage { expires: at(1), ..stage };
    let newer = |stage: Stage| Stage { minimum_client: ClientVersion(0, 2, 0), ..stage };
    for (what, stages, has, wanted) in [
        ("nothing is published", vec![], 0, None),
        ("one for all", vec![stage(1, 100)], 0, Some(1)),
        ("it has the newest", vec![stage(1, 100)], 1, Some(1)),
        ("the newer one is halted", vec![stage(1, 100), halted(stage(2, 100))], 0, Some(1)),
        ("it has the halted one", vec![stage(1, 100), halted(stage(2, 100))], 2, Some(2)),
        ("the only one is halted", vec![halted(stage(1, 100))], 0, None),
        ("the newer one has expired", vec![stage(1, 100), expired(stage(2, 100))], 0, Some(1)),
        ("it has the expired one", vec![expired(stage(2, 100))], 2, Some(2)),
        ("its program is too old", vec![stage(1, 100), newer(stage(2, 100))], 0, Some(1)),
        ("what it has is not kept any more", vec![halted(stage(5, 100))], 3, None),
    ] {
        let given = offer(&stages, &clients(has), "client-0", old, at(1));
        assert_eq!(given, wanted, "{what}");
    }
    // It was given the newer one and has lost everything: halted it is not for this client either.
    let mut lost = fleet(1);
    (lost[0].has, lost[0].remembers) = (2, 0);
    let both = |newer: Stage| offer(&[stage(1, 100), newer], &lost, "client-0", old, at(1));
    assert_eq!((both(halted(stage(2, 5))), both(stage(2, 5))), (Some(1), Some(2)));
    assert_eq!(offer(&[stage(1, 100)], &fleet(1), "stranger", None, at(1)), None);
    assert_eq!(offer(&[newer(stage(1, 100))], &fleet(1), "client-0", None, at(1)), Some(1));
}

#[test]
fn stages_are_open_until_a_newer_one_goes_to_all() {
    let halted = |stage: Stage| Stage { halted: true, ..stage };
    let expired = |stage: Stage| Stage { expires: at(1), ..stage };
    let newer = |stage: Stage| Stage { minimum_client: ClientVersion(0, 2, 0), ..stage };
    for (what, stages, wanted) in [
        ("all are staged", vec![stage(3, 5), stage(2, 5), stage(1, 100)], vec![3, 2, 1]),
        ("the newest is for all", vec![stage(3, 100), stage(2, 5), stage(1, 100)], vec![3]),
        ("it is halted", vec![halted(stage(3, 100)), stage(2, 5), stage(1, 100)], vec![2, 1]),
        ("it has expired", vec![expired(stage(3, 100)), stage(2, 5)], vec![2]),
        ("not every program can apply it", vec![newer(stage(3, 100)), stage(2, 5)], vec![3, 2]),
    ] {
        let open: Vec<u64> = open(&stages, at(1)).iter().map(|stage| stage.version).collect();
        assert_eq!(open, wanted, "{what}");
    }
}

#[test]
fn it_halts_and_goes_on() {
    let running = stage(2, 5);
    let reports = |against, in_force, last: Option<u64>| Reports {
        against,
        in_force,
        last_against: last.map(at),
    };
    assert!(!must_halt(&running, &reports(0, 3, None), 1));
    assert!(must_halt(&running, &reports(1, 3, Some(1)), 1));
    assert!(!must_halt(&running, &reports(1, 3, Some(1)), 2));
    assert!(!must_halt(&Stage { halted: true, ..running }, &reports(5, 0, Some(1)), 1));
    for (what, stage, reports, hours, wanted) in [
        ("too soon", running, reports(0, 1, None), 23, false),
        ("in time", running, reports(0, 1, None), 24, true),
        ("nobody has it in force", running, reports(0, 0, None), 500, false),
        ("an alarm ten hours ago", running, reports(1, 1, Some(14)), 24, false),
        ("an alarm a day ago", running, reports(1, 1, Some(14)), 38, true),
        ("halted", Stage { halted: true, ..running }, reports(0, 1, None), 500, false),
        ("for all already", stage(2, 100), reports(0, 1, None), 500, false),
        ("expired", running, reports(0, 1, None), 1_000, false),
    ] {
        assert_eq!(may_advance(&stage, &reports, 24 * HOUR, at(hours)), wanted, "{what}");
    }
}

#[test]
fn shares_are_percent() {
    for (percent, clients, wanted) in
        [(5, 0, 0), (5, 1, 1), (5, 19, 1), (5, 40, 2), (5, 59, 2), (99, 100, 99), (100, 7, 7)]
    {
        assert_eq!(Share::new(percent).unwrap().of(clients), wanted, "{percent} % of {clients}");
    }
    assert_eq!((Share::new(0), Share::new(101)), (None, None));
}
