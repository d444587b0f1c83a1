//! Levels: which hold, what they make of every rule's figures, and decisions about them.

use core::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use mail::id::SourceId;
use mail::time::Timestamp;
use node::levels::LevelFault;
use rules::{Level, LevelChange, LevelScope, LevelSubject};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer, asked, json as to_json, stored};
use crate::forms::Query;
use crate::problem::AsProblem;
use web::Problem;

impl AsProblem for LevelFault {
    fn problem(self) -> Problem {
        match self {
            Self::Refused(why) => Problem::conflict("refused", why.to_string()),
            Self::Unknown { .. } => Problem::not_found(self.to_string()),
            Self::Rules(_) => Problem::conflict("refused", self.to_string()),
            Self::Store(fault) => fault.problem(),
        }
    }
}

/// `GET /api/v1/levels`
pub(crate) async fn show(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let shown = stored(app.questions.levels()).await?;
    Ok(answer(to_json(&shown)?))
}

/// `GET /api/v1/levels/figures`: every rule's figures at all six levels.
pub(crate) async fn figures(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["rule", "source"])?;
    let set = asked(app.questions.rules()).await?;
    let wanted = query.get("rule").filter(|name| !name.is_empty());
    let source = match query.get("source").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let number = text.parse().map_err(|_| Problem::field("source", "a number"))?;
            let sources = &app.questions.config().sources;
            if !sources.iter().any(|one| one.id == SourceId(number)) {
                let known: Vec<String> =
                    sources.iter().take(20).map(|one| one.id.0.to_string()).collect();
                let known = known.join(", ");
                return Err(Problem::not_found(format!(
                    "there is no source {number}; there are {known}"
                )));
            }
            Some(SourceId(number))
        }
    };
    let rules = set.all_columns(wanted, source);
    match (wanted, rules.is_empty()) {
        (Some(name), true) => {
            Err(Problem::not_found(format!("there is no rule {name:?}{}", set.hint(name))))
        }
        _ => Ok(answer(json!({ "rules_version": set.version(), "rules": to_json(&rules)? }))),
    }
}

/// `GET /api/v1/levels/past`: the levels from each moment on at which they changed, for the auditor.
pub(crate) async fn past(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let shown = stored(app.questions.levels()).await?;
    let decisions = stored(app.questions.level_decisions()).await?;
    let mut list = vec![json!({ "from_micros": 0, "levels": to_json(&shown.configured)? })];
    for moment in decisions.moments(shown.now) {
        let levels = decisions.as_of(moment).over(&shown.configured, moment);
        list.push(json!({ "from_micros": moment.as_micros(), "levels": to_json(&levels)? }));
    }
    Ok(answer(json!({ "past": list })))
}

/// The body of `POST /levels`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// A level, or `configured`.
    level: String,
    #[serde(default)]
    source: Option<u32>,
    #[serde(default)]
    affinity: Option<String>,
    #[serde(default)]
    rule: Option<String>,
    /// A span such as `24h`.
    #[serde(default, rename = "for")]
    lasts: Option<String>,
    why: String,
    /// Undo more particular decisions within it too.
    #[serde(default)]
    clear: bool,
}

impl Wanted {
    fn change(&self, now: Timestamp) -> Result<LevelChange, Problem> {
        let subject = match (self.source, &self.affinity) {
            (None, None) => LevelSubject::Everything,
            (Some(source), None) => LevelSubject::Source(SourceId(source)),
            (None, Some(name)) => LevelSubject::Affinity(name.clone()),
            (Some(_), Some(_)) => {
                return Err(Problem::field("affinity", "either a source or an affinity"));
            }
        };
        let scope = LevelScope { subject, rule: self.rule.clone() };
        let lasts = self.lasts.as_deref().map(rules::parse_span).transpose();
        let lasts: Option<Duration> = lasts.map_err(|fault| Problem::field("for", fault))?;
        if self.level == "configured" {
            return match lasts {
                None => Ok(LevelChange::AsConfigured { scope }),
                Some(_) => Err(Problem::field("for", "the configuration has no end")),
            };
        }
        let level: Level =
            self.level.parse().map_err(|fault| Problem::field("level", format!("{fault}")))?;
        Ok(LevelChange::set(scope, level, lasts, now))
    }
}

/// `POST /api/v1/levels`
pub(crate) async fn decide(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Wanted = app.read_json(request).await?;
    let change = wanted.change(app.questions.now())?;
    taken(&app, change, &caller, &wanted.why, wanted.clear).await
}

/// The body of `POST /levels/undo`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undoing {
    decision: u64,
    why: String,
}

/// `POST /api/v1/levels/undo`
pub(crate) async fn undo(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let Undoing { decision, why } = app.read_json(request).await?;
    taken(&app, LevelChange::Undo { decision }, &caller, &why, false).await
}

async fn taken(
    app: &Shared,
    change: LevelChange,
    caller: &Caller,
    why: &str,
    clear: bool,
) -> Result<Response, Problem> {
    let decided = stored(app.questions.decide_level_with(change, caller.who(), why, clear)).await?;
    let mut shown: Value = to_json(&decided)?;
    let levels = stored(app.questions.levels()).await?;
    if let Value::Object(members) = &mut shown {
        members.insert("in_force".into(), to_json(&levels.in_force)?);
        let takes = levels.takes_mx_rules_of_bundles.into();
        members.insert("takes_mx_rules_of_bundles".into(), takes);
    }
    Ok(answer(shown))
}
