//! Values of requests and answers: numbers in paths, pages, texts bound for headers, options of deliveries.
//!
//! Times are RFC 3339 texts, spans are `500ms`, `30s`, `10m`, `2h`, `5d`, in both directions: what an answer shows
//! can be sent back.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use engine::work::{DeliveryOptions, RetrySchedule, SendMode, Wave, WaveSize};
use mail::id::{DeliveryId, MessageId, Priority, UnknownIdentifier};
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use web::Problem;

/// Octets of a name, an affinity, a tenant or a reason.
const LABEL_LIMIT: usize = 250;
/// Waves of a delivery, and steps of a retry schedule.
const STEPS_LIMIT: usize = 1_000;

/// A part of the path as it was meant, decoded.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::unreadable("the path is not UTF-8"))?;
        if text.len() > 1_000 || text.contains(char::is_control) {
            return Err(Problem::unreadable(
                "the path has a control character or is too long for any name",
            ));
        }
        Ok(Self(text))
    }
}

/// A number that the store can hold.
trait Number: FromStr<Err = UnknownIdentifier> {
    fn number(&self) -> u64;
}

impl Number for DeliveryId {
    fn number(&self) -> u64 {
        self.0
    }
}

impl Number for MessageId {
    fn number(&self) -> u64 {
        self.0
    }
}

fn number<T: Number>(text: &str) -> Result<T, Problem> {
    let shown = || text.chars().take(80).collect::<String>();
    let id: T = text
        .parse()
        .map_err(|fault| Problem::not_found(format!("{:?} names nothing: {fault}", shown())))?;
    if id.number() > i64::MAX.unsigned_abs() {
        return Err(Problem::not_found(format!("there is no {}", shown())));
    }
    Ok(id)
}

/// Reads `d12`.
pub(crate) fn delivery_id(text: &str) -> Result<DeliveryId, Problem> {
    number(text)
}

/// Reads `m345`.
pub(crate) fn message_id(text: &str) -> Result<MessageId, Problem> {
    number(text)
}

/// The parameters of a query. Unknown and doubled ones are refused by name.
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(list) =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
                .map_err(|fault| Problem::unreadable(format!("the query: {fault}")))?;
        Ok(Self(list))
    }
}

impl Query {
    /// Refuses everything but these names.
    pub(crate) fn only(&self, names: &[&str]) -> Result<(), Problem> {
        for (place, (name, _)) in self.0.iter().enumerate() {
            let shown: String = name.chars().take(80).collect();
            if !names.contains(&name.as_str()) {
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                return Err(Problem::field(
                    shown,
                    format_args!("unknown parameter; known: {known}"),
                ));
            }
            if self.0[..place].iter().any(|(other, _)| other == name) {
                return Err(Problem::field(shown, "the parameter is given twice"));
            }
        }
        Ok(())
    }

    /// A parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A page size from 1 to `most`.
    pub(crate) fn limit(&self, usual: u32, most: u32) -> Result<u32, Problem> {
        let Some(text) = self.get("limit") else { return Ok(usual) };
        text.parse()
            .ok()
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(|| Problem::field("limit", format_args!("a number from 1 to {most}")))
    }

    /// A position from 0.
    pub(crate) fn position(&self, name: &str) -> Result<u64, Problem> {
        let Some(text) = self.get(name) else { return Ok(0) };
        text.parse()
            .ok()
            .filter(|position| *position <= i64::MAX.unsigned_abs())
            .ok_or_else(|| Problem::field(name, "a number from 0"))
    }
}

/// Refuses what could break out of a header field or a line of a log: controls but the tab, and the line ends of Unicode.
pub(crate) fn one_line(field: &str, text: &str) -> Result<(), Problem> {
    let bad = |c: &char| c.is_control() && *c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
    match text.chars().find(bad) {
        Some(found) => Err(Problem::field(
            field,
            format_args!("contains the control character U+{:04X}", u32::from(found)),
        )),
        None => Ok(()),
    }
}

/// Checks a label: one line, not too long.
pub(crate) fn label(field: &str, text: &str) -> Result<(), Problem> {
    one_line(field, text)?;
    if text.len() > LABEL_LIMIT {
        return Err(Problem::field(field, format_args!("longer than {LABEL_LIMIT} octets")));
    }
    Ok(())
}

fn span(field: &str, text: &str, least: Duration) -> Result<Duration, Problem> {
    let span = rules::parse_span(text).map_err(|fault| Problem::field(field, fault))?;
    if span < least {
        let least = rules::show_span(least);
        return Err(Problem::field(field, format_args!("at least {least}")));
    }
    Ok(span)
}

/// A time, or nothing for "when something else happens".
pub(crate) fn time_text(at: Timestamp) -> Option<String> {
    (at != Timestamp::NEVER).then(|| at.to_string())
}

/// Makes the times in an answer texts: members that hold a [`Timestamp`] as a number.
pub(crate) fn times_as_text(value: &mut Value) {
    const NAMES: [&str; 12] = [
        "next_at",
        "until",
        "resting_until",
        "last_start",
        "valid_until",
        "earliest",
        "at",
        "now",
        "from",
        "since",
        "next_end",
        "answered_at",
    ];
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_u64() {
                    Some(micros) if NAMES.contains(&name.as_str()) => {
                        *member = time_text(Timestamp::from_micros(micros)).into();
                    }
                    _ => times_as_text(member),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(times_as_text),
        _ => {}
    }
}

/// Options of a delivery as they are sent and shown. What is absent is as the configuration says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OptionsForm {
    name: Option<String>,
    affinity: Option<String>,
    priority: Option<Priority>,
    validity: Option<String>,
    valid_until: Option<String>,
    waves: Option<Vec<WaveForm>>,
    messages_per_hour: Option<u32>,
    mode: Option<SendMode>,
    retry: Option<RetryForm>,
    tenant: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaveForm {
    size: WaveSize,
    start_after: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetryForm {
    steps: Option<Vec<String>>,
    then_every: Option<String>,
    greylisted: Option<String>,
    jitter_percent: Option<u8>,
}

impl OptionsForm {
    /// The form of options.
    pub(crate) fn of(options: &DeliveryOptions) -> Self {
        let show = |span: Duration| rules::show_span(span);
        let wave = |wave: &Wave| WaveForm { size: wave.size, start_after: show(wave.start_after) };
        Self {
            name: Some(options.name.clone()),
            affinity: Some(options.affinity.clone()),
            priority: Some(options.priority),
            validity: Some(show(options.validity)),
            valid_until: options.valid_until.and_then(time_text),
            waves: Some(options.waves.iter().map(wave).collect()),
            messages_per_hour: options.messages_per_hour,
            mode: Some(options.mode),
            retry: Some(RetryForm {
                steps: Some(options.retry.steps.iter().map(|step| show(*step)).collect()),
                then_every: Some(show(options.retry.then_every)),
                greylisted: Some(show(options.retry.greylisted)),
                jitter_percent: Some(options.retry.jitter_percent),
            }),
            tenant: Some(options.tenant.clone()),
        }
    }

    /// The options that it asks for, on top of `defaults`.
    pub(crate) fn read(
        self,
        defaults: DeliveryOptions,
        now: Timestamp,
    ) -> Result<DeliveryOptions, Problem> {
        let mut options = defaults;
        for (field, given, place) in [
            ("options.name", self.name, &mut options.name),
            ("options.affinity", self.affinity, &mut options.affinity),
            ("options.tenant", self.tenant, &mut options.tenant),
        ] {
            if let Some(given) = given {
                label(field, &given)?;
                *place = given;
            }
        }
        if let Some(text) = self.validity {
            options.validity = span("options.validity", &text, Duration::from_secs(1))?;
        }
        if let Some(text) = self.valid_until {
            options.valid_until = Some(moment("options.valid_until", &text, now)?);
        }
        if let Some(waves) = self.waves {
            options.waves = read_waves(&waves)?;
        }
        if self.messages_per_hour == Some(0) {
            return Err(Problem::field("options.messages_per_hour", "at least 1"));
        }
        options.messages_per_hour = self.messages_per_hour.or(options.messages_per_hour);
        options.priority = self.priority.unwrap_or(options.priority);
        options.mode = self.mode.unwrap_or(options.mode);
        if let Some(retry) = self.retry {
            options.retry = retry.read(options.retry)?;
        }
        Ok(options)
    }
}

fn read_waves(waves: &[WaveForm]) -> Result<Vec<Wave>, Problem> {
    if waves.len() > STEPS_LIMIT {
        return Err(Problem::field("options.waves", format_args!("more than {STEPS_LIMIT}")));
    }
    let mut read: Vec<Wave> = Vec::with_capacity(waves.len());
    let mut percent = 0.0;
    for (place, wave) in waves.iter().enumerate() {
        let field = |name: &str| format!("options.waves[{place}].{name}");
        if let WaveSize::Percent(share) = wave.size {
            percent += share;
            if !(0.0..=100.0).contains(&share) || percent > 100.000_001 {
                let why = "a share from 0 to 100, and all together at most 100";
                return Err(Problem::field(field("size"), why));
            }
        }
        let start_after = span(&field("start_after"), &wave.start_after, Duration::ZERO)?;
        if read.last().is_some_and(|before| before.start_after > start_after) {
            let why = "a wave cannot open before the one in front of it";
            return Err(Problem::field(field("start_after"), why));
        }
        read.push(Wave { size: wave.size, start_after });
    }
    Ok(read)
}

impl RetryForm {
    fn read(self, mut schedule: RetrySchedule) -> Result<RetrySchedule, Problem> {
        let least = Duration::from_secs(1);
        if let Some(steps) = self.steps {
            if steps.len() > STEPS_LIMIT {
                let why = format_args!("more than {STEPS_LIMIT}");
                return Err(Problem::field("options.retry.steps", why));
            }
            let read = |text: &String| span("options.retry.steps", text, least);
            schedule.steps = steps.iter().map(read).collect::<Result<_, _>>()?;
        }
        if let Some(text) = self.then_every {
            schedule.then_every = span("options.retry.then_every", &text, least)?;
        }
        if let Some(text) = self.greylisted {
            schedule.greylisted = span("options.retry.greylisted", &text, least)?;
        }
        if let Some(percent) = self.jitter_percent {
            if percent > 100 {
                return Err(Problem::field("options.retry.jitter_percent", "from 0 to 100"));
            }
            schedule.jitter_percent = percent;
        }
        Ok(schedule)
    }
}

/// Reads an RFC 3339 time that is yet to come.
fn moment(field: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let at = any_moment(field, text)?;
    if at <= now {
        return Err(Problem::field(field, format_args!("{at} has passed; now it is {now}")));
    }
    Ok(at)
}

/// Reads an RFC 3339 time.
pub(crate) fn any_moment(field: &str, text: &str) -> Result<Timestamp, Problem> {
    // A time zone in brackets behind the offset is no RFC 3339.
    let at: jiff::Timestamp = Some(text)
        .filter(|text| !text.contains('['))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            Problem::field(
                field,
                "a time looks like 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00",
            )
        })?;
    Ok(Timestamp::from_micros(u64::try_from(at.as_microsecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;
    use web::from_json;

    fn read(json: &str) -> Result<DeliveryOptions, Problem> {
        let now = Timestamp::from_secs(1_795_000_000);
        from_json::<OptionsForm>(json.as_bytes())?.read(DeliveryOptions::default(), now)
    }

    #[test]
    fn options_are_read_and_shown() {
        let options = read(
            r#"{"name":"Spring","validity":"2d","valid_until":"2027-01-31T18:00:00+01:00","priority":"low",
            "waves":[{"size":{"percent":10},"start_after":"0s"},{"size":{"count":1000},"start_after":"2h"}],
            "messages_per_hour":500,"mode":"dry","retry":{"steps":["10m"],"jitter_percent":0}}"#,
        )
        .unwrap();
        assert_eq!(options.valid_until.unwrap().to_string(), "2027-01-31T17:00:00.000Z");
        assert_eq!(options.waves[1].start_after, Duration::from_secs(7_200));
        assert_eq!(options.retry.steps, [Duration::from_secs(600)]);
        assert_eq!(options.retry.greylisted, RetrySchedule::default().greylisted);
        let shown = serde_json::to_string(&OptionsForm::of(&options)).unwrap();
        assert_eq!(read(&shown).unwrap(), options, "{shown}");
    }

    #[test]
    fn bad_options_are_named() {
        for (json, wanted) in [
            (r#"{"nam":"x"}"#, "unknown field `nam`"),
            (r#"{"name":"x","name":"y"}"#, "duplicate field `name`"),
            (r#"{"stream":true}"#, "unknown field `stream`"),
            (r#"{"name":"a\r\nBcc: x"}"#, "options.name: contains the control character U+000D"),
            (r#"{"tenant":"a\u2028"}"#, "options.tenant: contains the control character U+2028"),
            (r#"{"validity":"5"}"#, "options.validity: a duration is"),
            (r#"{"validity":"0s"}"#, "options.validity: at least 1s"),
            (r#"{"validity":"10001d"}"#, "longer than 10000d"),
            (r#"{"valid_until":"yesterday"}"#, "options.valid_until: a time looks like"),
            (r#"{"valid_until":"2027-02-30T00:00:00Z"}"#, "a time looks like"),
            (r#"{"valid_until":"2027-02-03T00:00:00"}"#, "a time looks like"),
            (r#"{"valid_until":"2027-02-03T00:00:00+99:00"}"#, "a time looks like"),
            (r#"{"valid_until":"99999-01-01T00:00:00Z"}"#, "a time looks like"),
            (r#"{"valid_until":"1969-01-01T00:00:00Z"}"#, "has passed"),
            (r#"{"messages_per_hour":0}"#, "at least 1"),
            (r#"{"messages_per_hour":-1}"#, "invalid value"),
            (r#"{"messages_per_hour":"5"}"#, "invalid type"),
            (r#"{"messages_per_hour":1e999}"#, "number out of range"),
            (r#"{"messages_per_hour":4294967296}"#, "invalid value"),
            (r#"{"priority":"urgent"}"#, "unknown variant `urgent`"),
            (r#"{"waves":[{"size":{"percent":101},"start_after":"0s"}]}"#, "options.waves[0].size"),
            (
                r#"{"waves":[{"size":{"percent":60},"start_after":"0s"},{"size":{"percent":60},"start_after":"0s"}]}"#,
                "options.waves[1].size",
            ),
            (
                r#"{"waves":[{"size":{"count":1},"start_after":"1h"},{"size":{"count":1},"start_after":"1m"}]}"#,
                "options.waves[1].start_after",
            ),
            (r#"{"retry":{"steps":["0s"]}}"#, "options.retry.steps: at least 1s"),
            (r#"{"retry":{"jitter_percent":101}}"#, "jitter_percent: from 0 to 100"),
            ("{} {}", "trailing characters"),
            ("{\"name\":NaN}", "the body is not JSON"),
            ("{\"name\":\"\\ud800\"}", "the body is not JSON"),
            ("[]", "not a JSON object"),
            ("", "not a JSON object"),
        ] {
            let problem = read(json).expect_err(json);
            let text = format!("{problem:?}");
            assert!(text.contains(wanted), "{json}: {text}");
            let status = problem.into_response().status().as_u16();
            assert!(status == 422 || status == 400, "{json}: {status}");
        }
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(delivery_id("d12").unwrap(), DeliveryId(12));
        for bad in
            ["", "12", "d", "d-1", "m1", "d1/..", "d99999999999999999999", "d9223372036854775808"]
        {
            assert!(delivery_id(bad).is_err(), "{bad}");
        }
        assert!(message_id("m9223372036854775807").is_ok());
    }
}
