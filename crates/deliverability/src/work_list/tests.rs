use std::collections::BTreeMap;

use mail::failure::{FailureType, Reason};
use proptest::prelude::*;
use rules::bounce::{QualificationStatus, normalise};

use super::*;

fn recorded(texts: &[(&str, u64)]) -> Vec<RecordedText> {
    texts
        .iter()
        .map(|(text, occurrences)| {
            let text = normalise(text);
            RecordedText {
                key: Key::of(&text),
                text,
                provider: "mx.example".to_owned(),
                occurrences: *occurrences,
                clients: 1,
                first: Timestamp::from_secs(1),
                last: Timestamp::from_secs(2),
            }
        })
        .collect()
}

fn list(texts: &[(&str, u64)]) -> WorkList {
    WorkList::of(recorded(texts), &BTreeMap::new())
}

/// How many texts the clusters have, the largest volume first.
fn sizes(list: &WorkList) -> Vec<usize> {
    list.clusters.iter().map(|cluster| cluster.texts.len()).collect()
}

#[test]
fn what_says_the_same_thing_comes_together() {
    for (what, texts, wanted) in [
        (
            "numbers and hosts differ",
            vec![
                ("550 gatekeeper says no to 192.0.2.7 via mx1.corp.example", 3),
                ("550 Gatekeeper says no to 198.51.100.9 via relay.corp.example", 4),
            ],
            vec![2],
        ),
        (
            "for good and for now",
            vec![("550 the gatekeeper says no", 3), ("450 the gatekeeper says no", 4)],
            vec![1, 1],
        ),
        (
            "two words at one place are two meanings",
            vec![
                ("550 the postbox of this person is bricked", 3),
                ("550 the postbox of this person is flooded", 4),
            ],
            vec![1, 1],
        ),
        (
            "five words at one place are names",
            vec![
                ("550 the postbox of anton is bricked up", 5),
                ("550 the postbox of berta is bricked up", 4),
                ("550 the postbox of caesar is bricked up", 3),
                ("550 the postbox of dora is bricked up", 2),
                ("550 the postbox of emil is bricked up", 1),
                ("550 purple elephants guard the gate", 1),
            ],
            vec![5, 1],
        ),
    ] {
        assert_eq!(sizes(&list(&texts)), wanted, "{what}");
    }
}

#[test]
fn the_largest_volume_comes_first() {
    let list = list(&[("550 purple elephants guard it", 3), ("550 green giraffes chew it", 90)]);
    assert_eq!((list.texts, list.occurrences, list.all_clusters), (2, 93, 2));
    assert_eq!(list.clusters[0].texts[0].text, "550 green giraffes chew it");
    assert_eq!(list.cluster(&list.clusters[1].id), Some(&list.clusters[1]));
}

#[test]
fn a_rule_is_proposed_with_examples_and_its_effect() {
    let names = ["anton", "berta", "caesar", "dora", "emil", "frieda"];
    let texts: Vec<String> = names
        .iter()
        .map(|name| {
            format!("552 the postbox of {name} (see 17.4.26) is bricked up since yesterday")
        })
        .collect();
    let mut sent: Vec<(&str, u64)> = texts.iter().map(|text| (text.as_str(), 10)).collect();
    sent.push(("552 the postbox needs paint", 1));
    let list = list(&sent);
    let cluster = &list.clusters[0];
    assert_eq!(cluster.texts.len(), 6, "{list:?}");
    let proposal = cluster.proposal.as_ref().unwrap();
    assert!(proposal.pattern.starts_with("the postbox of .+ "), "{}", proposal.pattern);
    assert_eq!(proposal.examples.len(), 6);
    assert!(proposal.counter_examples.contains(&"552 the postbox needs paint".to_owned()));
    assert_eq!((cluster.effect.texts, cluster.effect.occurrences), (6, 60));
    // It is a rule like any other: with what a person says it passes all checks.
    let rule = proposal.rule(Reason::AccountDisabled, FailureType::Soft);
    assert!(rule.contains("type = \"Soft\"") && rule.contains("reply = [\"5\"]"), "{rule}");
    let file = rules_file("test", [rule.as_str()]);
    rules::bounce::BounceRuleFile::parse("test", file.as_bytes()).unwrap();
}

#[test]
fn texts_with_too_few_words_get_no_rule() {
    let list = list(&[("550 nope", 3), ("", 1), ("550 5.9.9 1234567", 2)]);
    assert_eq!(list.clusters.len(), 3);
    for cluster in &list.clusters {
        assert!(cluster.proposal.is_err(), "{cluster:?}");
    }
}

#[test]
fn what_was_said_before_is_a_hint_and_is_not_contradicted_unseen() {
    let said = |text: &str, reason: Reason| {
        let text = normalise(text);
        let status = QualificationStatus::Keep;
        let qualification = Qualification { reason, failure_type: FailureType::Soft, status };
        (Key::of(&text), (text, qualification))
    };
    let known = BTreeMap::from([
        said("550 the green postbox of this person is bricked up", Reason::InactiveUser),
        said("550 the red postbox is bricked up", Reason::Refused),
    ]);
    let texts = recorded(&[
        ("550 the blue postbox of this person is bricked up", 4),
        ("550 the green postbox of this person is bricked up", 4),
    ]);
    let list = WorkList::of(texts, &known);
    assert_eq!(sizes(&list), [1], "what is qualified is not listed");
    let suggestion = list.clusters[0].suggestion.as_ref().unwrap();
    assert_eq!(suggestion.reason, Reason::InactiveUser);
    assert!(suggestion.because.contains("green postbox"), "{}", suggestion.because);
    // A wider pattern would take the other texts, too.
    let texts = recorded(&[
        ("550 mx1.corp.example the postbox is bricked up", 1),
        ("550 mx2.corp.example the postbox is bricked up", 1),
    ]);
    let known = BTreeMap::from([said("550 alas the postbox is bricked up", Reason::Refused)]);
    let cluster = &WorkList::of(texts, &known).clusters[0];
    assert_eq!(cluster.effect.qualified, 1, "{cluster:?}");
}

#[test]
fn shipped_rules_suggest_what_their_guesses_say() {
    let list = list(&[("550 5.2.2 gatekeeper says no", 3)]);
    let suggestion = list.clusters[0].suggestion.as_ref().unwrap();
    assert_eq!(suggestion.reason, Reason::MailboxFull);
    assert!(suggestion.because.contains("shipped rules"), "{}", suggestion.because);
}

/// As many texts as are looked at, all of them different: the cost must not grow with their square. `--ignored` with
/// `--release` tells the time that counts.
#[test]
#[ignore = "a measurement"]
fn twenty_thousand_texts() {
    let words = ["box", "tower", "wizard", "gate", "spring", "paint", "elephant", "window", "lamp"];
    let texts: Vec<RecordedText> = (0..MOST_LOOKED_AT as usize)
        .map(|number| {
            let word = |place: usize| words[number / 9_usize.pow(place as u32) % 9];
            let said = format!(
                "550 the {} of {} near the {} {} x{} is not for {} {}",
                word(0),
                word(1),
                word(2),
                word(3),
                number % 400,
                word(4),
                number / 59_049
            );
            let occurrences = 1 + number as u64 % 97;
            recorded(&[(&said, occurrences)]).remove(0)
        })
        .collect();
    let known: BTreeMap<Key, (String, Qualification)> = recorded(&[("550 no", 1)])
        .into_iter()
        .map(|text| {
            let (reason, failure_type) = (Reason::Refused, FailureType::Soft);
            let status = QualificationStatus::Keep;
            (text.key, (text.text, Qualification { reason, failure_type, status }))
        })
        .collect();
    let begun = std::time::Instant::now();
    let list = WorkList::of(texts, &known);
    println!("{} texts, {} clusters: {:?}", list.texts, list.all_clusters, begun.elapsed());
    assert_eq!(list.clusters.len(), MOST_CLUSTERS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever clients send: every text is in one cluster, every proposed rule takes all of its texts, and the order
    /// in which texts come changes nothing.
    #[test]
    fn proposals_take_their_clusters(
        texts in proptest::collection::vec(
            ("(4[0-9]{2}|5[0-9]{2}|)", proptest::collection::vec(
                prop_oneof![
                    "[a-e]{2,4}", "[0-9]{4,8}", "(full|user|blocked|Postfach|überlaufen)",
                    "[a-z]{1,4}@[a-z]{1,5}\\.example", "[\\\\(\\[\\]\\)\\.\\*\\?#\"'-]{1,3}",
                ], 0..9), 1_u64..50),
            1..16,
        ),
    ) {
        let texts: Vec<(String, u64)> =
            texts.into_iter().map(|(code, words, n)| (format!("{code} {}", words.join(" ")), n)).collect();
        let mut all = recorded(&texts.iter().map(|(text, n)| (text.as_str(), *n)).collect::<Vec<_>>());
        all.sort_by_key(|text| text.key);
        all.dedup_by_key(|text| text.key);
        let made = WorkList::of(all.clone(), &BTreeMap::new());
        prop_assert_eq!(sizes(&made).iter().sum::<usize>(), all.len());
        for cluster in &made.clusters {
            let Ok(proposal) = &cluster.proposal else { continue };
            let compiled = proposal.compiled().unwrap();
            for text in &cluster.texts {
                prop_assert!(proposal.takes(&compiled, &text.text, &folded(&text.text)));
            }
            prop_assert!(cluster.effect.texts >= cluster.texts.len());
        }
        all.reverse();
        let ids = |list: &WorkList| list.clusters.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
        prop_assert_eq!(ids(&WorkList::of(all, &BTreeMap::new())), ids(&made));
    }
}
