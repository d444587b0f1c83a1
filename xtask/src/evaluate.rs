//! Accuracy of `mailweir bounce classify` on a folder of labelled mails.
//!
//! The folder holds `labels.jsonl`, one object per mail (`file`, `group`, `records` with `kind`,
//! `recipient`, `status`, `reply`, `type`, `reason`, `accept`), and the mails in `eml/`. Copies of one mail (the same
//! `group`) count once. A fixed third, chosen by the hash of the name, is told apart: whoever changes the
//! reader or the rules looks only at the other two thirds, so that the third shows what unseen mail would get.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// One labelled mail.
#[derive(Deserialize)]
struct Label {
    file: String,
    #[serde(default)]
    group: Option<String>,
    records: Vec<Record>,
}

/// What is right about one recipient.
#[derive(Deserialize)]
struct Record {
    kind: String,
    #[serde(default)]
    kind_accept: Vec<String>,
    recipient: Option<String>,
    #[serde(default)]
    recipient_alt: Vec<String>,
    status: Option<String>,
    reply: Option<String>,
    #[serde(rename = "type")]
    failure_type: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    accept: Vec<(String, String)>,
    #[serde(default)]
    ambiguous: bool,
    action: Option<String>,
}

/// One line that the program answered.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Answer {
    file: String,
    kind: String,
    recipient: Option<String>,
    status: Option<String>,
    reply: Option<String>,
    #[serde(rename = "type")]
    failure_type: Option<String>,
    reason: Option<String>,
}

/// Counts by name, in the order in which names first came.
#[derive(Default)]
struct Tally {
    order: Vec<&'static str>,
    counts: HashMap<&'static str, (u32, u32)>,
}

impl Tally {
    fn add(&mut self, name: &'static str, good: bool) {
        let count = self.counts.entry(name).or_insert_with(|| {
            self.order.push(name);
            (0, 0)
        });
        count.0 += u32::from(good);
        count.1 += 1;
    }

    fn show(&self, title: &str) -> String {
        let mut out = format!("{title}\n");
        for name in &self.order {
            let (good, all) = self.counts[name];
            let percent = 100.0 * f64::from(good) / f64::from(all);
            out.push_str(&format!("  {name:<28} {good:5} / {all:<5} {percent:6.1} %\n"));
        }
        out
    }
}

/// Runs the release build over the mails and prints how often it is right.
pub fn run(workspace: &Path, rest: &[String]) -> anyhow::Result<()> {
    let corpus = match rest {
        [flag, folder] if flag == "--corpus" => PathBuf::from(folder),
        _ => bail!("usage: cargo xtask evaluate --corpus DIR, a folder with labels.jsonl and eml/"),
    };
    let path = corpus.join("labels.jsonl");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let labels: Vec<Label> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), number + 1))
        })
        .collect::<Result<_, _>>()?;
    let answers = classify(workspace, &corpus.join("eml"))?;
    let mut parts = [Tally::default(), Tally::default()];
    let mut seen = HashSet::new();
    for label in &labels {
        if let Some(group) = &label.group
            && !seen.insert(group)
        {
            continue;
        }
        if label.records.is_empty() {
            bail!("{}: {} has no record", path.display(), label.file);
        }
        let tally = &mut parts[usize::from(is_held_out(label))];
        judge(tally, label, answers.get(&label.file).map_or(&[], Vec::as_slice));
    }
    print!("{}", parts[0].show("two thirds, for development"));
    print!("{}", parts[1].show("the held-out third"));
    Ok(())
}

/// Whether a mail belongs to the third that nobody looks at.
fn is_held_out(label: &Label) -> bool {
    Sha256::digest(label.group.as_deref().unwrap_or(&label.file))[0] % 3 == 0
}

/// What the program answers for every mail of a folder, by the last part of the file's name.
fn classify(workspace: &Path, mails: &Path) -> anyhow::Result<BTreeMap<String, Vec<Answer>>> {
    let mails = mails.canonicalize().with_context(|| format!("cannot find {}", mails.display()))?;
    let output = crate::cargo()
        .current_dir(workspace)
        .args(["run", "--quiet", "--release", "--package", "mailweir", "--"])
        .args(["bounce", "classify", "--format", "jsonl"])
        .arg(mails)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("`mailweir bounce classify` failed");
    }
    let mut answers: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let answer: Answer =
            serde_json::from_str(line).with_context(|| format!("not an answer: {line}"))?;
        let name = answer.file.rsplit('/').next().unwrap_or_default().to_owned();
        answers.entry(name).or_default().push(answer);
    }
    Ok(answers)
}

/// Counts what is right about one mail.
fn judge(tally: &mut Tally, label: &Label, answers: &[Answer]) {
    let first = &label.records[0];
    let accepted: HashSet<&str> = if first.kind_accept.is_empty() {
        label.records.iter().map(|record| record.kind.as_str()).collect()
    } else {
        first.kind_accept.iter().map(String::as_str).collect()
    };
    let right =
        !answers.is_empty() && answers.iter().all(|answer| accepted.contains(answer.kind.as_str()));
    tally.add("kind", right);
    let mut left: Vec<&Answer> = answers.iter().filter(|answer| answer.kind == "bounce").collect();
    if first.kind != "bounce" {
        tally.add("not taken for a bounce", left.is_empty() || accepted.contains("bounce"));
        for record in label
            .records
            .iter()
            .filter(|record| record.kind == "feedback" && record.recipient.is_some())
        {
            tally.add("complaint: recipient", answers.iter().any(|answer| is_same(record, answer)));
        }
        return;
    }
    tally.add("bounce seen as one", !left.is_empty());
    let alone = label.records.len() == 1 && left.len() == 1;
    for record in &label.records {
        let place = left.iter().position(|answer| is_same(record, answer));
        if record.recipient.is_some() {
            tally.add("recipient found", place.is_some());
        }
        let place = place
            .or_else(|| (!left.is_empty() && (alone || record.recipient.is_none())).then_some(0));
        let answer = place.map(|place| left.remove(place).clone()).unwrap_or_default();
        judge_recipient(tally, record, &answer);
    }
}

/// Counts what is right about one recipient of a bounce.
fn judge_recipient(tally: &mut Tally, record: &Record, answer: &Answer) {
    if record.status.is_some() {
        tally.add("status exact", answer.status == record.status);
    }
    if record.reply.is_some() {
        tally.add("reply exact", answer.reply == record.reply);
    }
    let pair = (normal(answer.failure_type.as_deref()), normal(answer.reason.as_deref()));
    let wanted = (normal(record.failure_type.as_deref()), normal(record.reason.as_deref()));
    let may: Vec<_> = record
        .accept
        .iter()
        .map(|(kind, reason)| (normal(Some(kind)), normal(Some(reason))))
        .collect();
    tally.add("type and reason strict", may.first().unwrap_or(&wanted) == &pair);
    tally.add("type and reason accepted", may.contains(&pair));
    if pair.0 == "hard" {
        tally.add("says Hard and may", may.iter().any(|(kind, _)| kind == "hard"));
    }
    if wanted.0 == "hard" && !record.ambiguous {
        tally.add("sure Hard found", pair.0 == "hard");
    }
    if record.action.as_deref() == Some("delayed") {
        tally.add("delayed notice not Hard", pair.0 != "hard");
    }
}

/// Whether an answer is about the recipient of a record.
fn is_same(record: &Record, answer: &Answer) -> bool {
    let plain = |text: &str| text.trim().trim_matches(['<', '>']).replace('"', "").to_lowercase();
    let Some(found) = answer.recipient.as_deref().map(plain) else { return false };
    record.recipient.iter().chain(&record.recipient_alt).any(|one| plain(one) == found)
}

/// A type or reason in one spelling; synonyms of labels become one.
fn normal(word: Option<&str>) -> String {
    let word = word.unwrap_or_default().trim().to_lowercase().replace(['_', '-'], " ");
    match word.as_str() {
        "inactive user" => "account disabled".into(),
        "inbox full" => "mailbox full".into(),
        "rejected" => "refused".into(),
        "unqualified" | "undefined" => "not defined".into(),
        "ignored" => "error ignored".into(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn counts_what_is_right() {
        let label = label(
            r#"{"file":"a.eml","records":[{"kind":"bounce","recipient":"A@x.example","status":"5.1.1","reply":null,
               "type":"Hard","reason":"User unknown","accept":[["Hard","User unknown"]],"action":"failed"}]}"#,
        );
        let answer: Answer = serde_json::from_str(
            r#"{"file":"a.eml","kind":"bounce","recipient":"a@x.example","status":"5.1.2","type":"Soft","reason":"User unknown"}"#,
        )
        .unwrap();
        let mut tally = Tally::default();
        judge(&mut tally, &label, std::slice::from_ref(&answer));
        assert_eq!(tally.counts["recipient found"], (1, 1));
        assert_eq!(tally.counts["status exact"], (0, 1));
        assert_eq!(tally.counts["type and reason accepted"], (0, 1));
        assert_eq!(tally.counts["sure Hard found"], (0, 1));
        assert!(!tally.counts.contains_key("reply exact"));
        judge(&mut tally, &label, &[]);
        assert_eq!(tally.counts["bounce seen as one"], (1, 2));
    }

    #[test]
    fn an_ordinary_mail_taken_for_a_bounce_shows() {
        let label = label(
            r#"{"file":"b.eml","records":[{"kind":"other","recipient":null,"status":null,"reply":null,"type":null,"reason":null,"action":null}]}"#,
        );
        let bounce = Answer { kind: "bounce".into(), ..Answer::default() };
        let mut tally = Tally::default();
        judge(&mut tally, &label, &[bounce]);
        assert_eq!(tally.counts["not taken for a bounce"], (0, 1));
        assert_eq!(tally.counts["kind"], (0, 1));
    }
}
