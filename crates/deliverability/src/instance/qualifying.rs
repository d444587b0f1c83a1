//! Texts that clients could not qualify: taken, listed, qualified by people, and handed back for the next bundle.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mail::failure::{FailureType, Reason};
use rules::bounce::{BounceRuleFile, Key, Qualification, QualificationStatus, normalise};
use rules::bundle::KnownText;
use serde::Deserialize;

use super::{Instance, InstanceFault, locked};
use crate::database::{
    Author, Database, Kept, MOST_ACCEPTED_RULES, MOST_QUALIFIED, QualifiedText, Saying, StatedText,
    Withdrawn,
};
use crate::work_list::{MOST_LOOKED_AT, WorkList, rules_file};

/// What a person says of a text or a cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qualify {
    /// Why mail with this answer was not delivered.
    pub reason: Reason,
    /// How strong the evidence is. Absent: the usual type of the reason.
    #[serde(rename = "type")]
    pub failure_type: Option<FailureType>,
    /// `keep` (it goes into the next bundle) or `ignore` (it is never counted against an address). Absent: keep.
    pub status: Option<String>,
    /// For the audit trail.
    #[serde(default)]
    pub why: String,
    /// Whether the proposed rule of a cluster is accepted as well.
    #[serde(default)]
    pub accept_rule: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qualified {
    /// Texts that were qualified.
    pub texts: usize,
    /// The name of the rule that was accepted.
    pub rule: Option<String>,
}

impl Instance {
    /// Keeps what a client could not qualify; answers how many texts were taken.
    pub(crate) fn take_texts(
        &self,
        client: &str,
        texts: &[StatedText],
    ) -> Result<usize, InstanceFault> {
        let whole: Vec<StatedText> = texts
            .iter()
            .filter(|text| normalise(&text.text) == text.text && Key::of(&text.text) == text.key)
            .cloned()
            .collect();
        let taken = self.database().state_texts(client, &whole, self.now())?;
        if taken > 0 {
            self.texts_changed.fetch_add(1, Ordering::AcqRel);
        }
        Ok(taken)
    }

    /// The work list. Made anew when texts have come or something was said of them.
    pub(crate) fn work_list(&self) -> Result<Arc<WorkList>, InstanceFault> {
        // Held while the list is made, so that it is made once however many ask.
        let mut kept = locked(&self.work_list);
        let changed = self.texts_changed.load(Ordering::Acquire);
        if let Some((made, list)) = kept.as_ref()
            && *made == changed
        {
            return Ok(Arc::clone(list));
        }
        let database = self.database();
        let said = database.qualifications()?;
        // What is qualified is left out afterwards.
        let room = u32::try_from(said.len()).unwrap_or(u32::MAX);
        let (recorded, _) = database.recorded_texts(MOST_LOOKED_AT.saturating_add(room))?;
        drop(database);
        let list = Arc::new(WorkList::of(recorded, &said));
        *kept = Some((changed, Arc::clone(&list)));
        Ok(list)
    }

    /// Keeps what a person says of the text with this key or the cluster of this name.
    pub(crate) fn qualify(
        &self,
        which: &str,
        said: &Qualify,
        author: &Author,
    ) -> Result<Qualified, InstanceFault> {
        let invalid = |why: String| InstanceFault::Invalid(why);
        let status = match said.status.as_deref().unwrap_or("keep") {
            "keep" => QualificationStatus::Keep,
            "ignore" => QualificationStatus::Ignore,
            other => {
                let shown = other.escape_debug();
                return Err(invalid(format!("status: \"{shown}\" is neither keep nor ignore")));
            }
        };
        if said.reason == Reason::NotDefined {
            return Err(invalid("reason: `Not defined` says nothing of a text".to_owned()));
        }
        let failure_type = said.failure_type.unwrap_or_else(|| said.reason.usual_type());
        let qualification = Qualification { reason: said.reason, failure_type, status };
        let list = self.work_list()?;
        let unknown = || {
            InstanceFault::Unknown(format!(
                "{} is neither the key of an unknown text nor a cluster of the work list",
                which.escape_debug()
            ))
        };
        let mut rule = None;
        let texts: Vec<(Key, String)> = if let Some(key) = Key::from_hex(which) {
            if said.accept_rule {
                return Err(invalid("accept_rule: only clusters have a proposed rule".to_owned()));
            }
            vec![(key, self.text_of(key)?.ok_or_else(unknown)?)]
        } else {
            let cluster = list.cluster(which).ok_or_else(unknown)?;
            if said.accept_rule {
                let proposal = cluster.proposal.as_ref();
                let none = |why: &String| InstanceFault::Refused(format!("no rule: {why}"));
                let proposal = proposal.map_err(none)?;
                rule = Some((proposal.name.clone(), proposal.rule(said.reason, failure_type)));
            }
            cluster.texts.iter().map(|text| (text.key, text.text.clone())).collect()
        };
        // Taken until it is kept: of two rules at once the second must go with the first.
        let mut database = self.database();
        if let Some((name, text)) = &rule {
            fits_with_accepted(&database, name, text)?;
        }
        let accepted = if rule.is_some() { ", rule accepted" } else { "" };
        let what = format!(
            "qualified {which} ({} texts): {}, {}, {}{accepted}",
            texts.len(),
            said.reason,
            failure_type,
            status.word(),
        );
        let kept = rule.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        let now = self.now();
        let full = |what: &str, most: u64| {
            let why = format!(
                "there would be more than {most} {what}, as many as an instance keeps: `texts withdraw` what bounce \
                 rules say by now, or what is not met any more (`texts qualified` lists it)"
            );
            Err(InstanceFault::Refused(why))
        };
        let saying =
            Saying { said_of: which, texts: &texts, qualification, rule: kept, what: &what };
        match database.qualify(&saying, now, author)? {
            Kept::Kept => {}
            Kept::TooManyTexts => return full("qualified texts", MOST_QUALIFIED),
            Kept::TooManyRules => return full("accepted rules", MOST_ACCEPTED_RULES),
        }
        drop(database);
        self.texts_changed.fetch_add(1, Ordering::AcqRel);
        Ok(Qualified { texts: texts.len(), rule: rule.map(|(name, _)| name) })
    }

    /// The text of a key: one that clients have sent, or one that was qualified before.
    fn text_of(&self, key: Key) -> Result<Option<String>, InstanceFault> {
        let database = self.database();
        if let Some(text) = database.text(&key)? {
            return Ok(Some(text));
        }
        Ok(database.qualifications()?.remove(&key).map(|(text, _)| text))
    }

    /// Takes back what was said of a text, of a cluster, or an accepted rule. Clients are told by the next bundle, made of
    /// what is exported then.
    pub(crate) fn withdraw(
        &self,
        which: &str,
        author: &Author,
    ) -> Result<Withdrawn, InstanceFault> {
        let withdrawn = self.database().withdraw(which, self.now(), author)?;
        if withdrawn == Withdrawn::default() {
            return Err(InstanceFault::Unknown(format!(
                "{} is neither the key of a qualified text, nor a cluster that was qualified, nor an accepted rule; \
                 see `texts qualified`",
                which.escape_debug()
            )));
        }
        self.texts_changed.fetch_add(1, Ordering::AcqRel);
        Ok(withdrawn)
    }

    /// What people have said of texts, the newest first, how many texts it is in all, and every accepted rule.
    pub(crate) fn qualified(
        &self,
        limit: u32,
    ) -> Result<(Vec<QualifiedText>, u64, Vec<QualifiedText>), InstanceFault> {
        Ok(self.database().qualified(limit)?)
    }

    /// Every text that is kept, as lines of `qualifications.jsonl` for `publish`.
    pub(crate) fn export_texts(&self) -> Result<String, InstanceFault> {
        let mut lines = Vec::new();
        for (text, qualification) in self.database().qualifications()?.into_values() {
            if qualification.status == QualificationStatus::Keep {
                let Qualification { reason, failure_type, .. } = qualification;
                let line = serde_json::to_string(&KnownText { text, reason, failure_type });
                let fault = |fault: serde_json::Error| InstanceFault::Refused(fault.to_string());
                lines.push(line.map_err(fault)? + "\n");
            }
        }
        lines.sort_unstable();
        Ok(lines.concat())
    }

    /// Every accepted rule, as a file of bounce rules.
    pub(crate) fn export_rules(&self) -> Result<String, InstanceFault> {
        let accepted = self.database().accepted_rules()?;
        let day = self.now().to_string();
        let day = day.get(..10).unwrap_or("accepted");
        Ok(rules_file(day, accepted.values().map(String::as_str)))
    }
}

/// Refuses a rule whose examples another accepted rule takes for itself.
fn fits_with_accepted(database: &Database, name: &str, rule: &str) -> Result<(), InstanceFault> {
    let mut accepted = database.accepted_rules()?;
    accepted.insert(name.to_owned(), rule.to_owned());
    let file = rules_file("accepted", accepted.values().map(String::as_str));
    match BounceRuleFile::parse("accepted rules", file.as_bytes()) {
        Ok(_) => Ok(()),
        Err(faults) => {
            let first = faults.first().map_or_else(String::new, ToString::to_string);
            let why = format!("the rule does not go with those accepted before: {first}");
            Err(InstanceFault::Refused(why))
        }
    }
}
