//! Bodies of requests: bounded in size, in time and in the memory of all of them together.
//!
//! Who is slow is judged by the time spent waiting for him: a pause of a minute, or less than 1 KiB/s after the
//! first minute, ends the request with 408. Time that the node itself takes (back-pressure) does not count.
//! Documents that are read whole share [`Memory`]; when that is used up the answer is 503, not a swap of the machine.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::problem::Problem;

/// Longest pause within a body, and the time before the rate counts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets a second that a client must keep up.
const LEAST_RATE: u64 = 1_024;
/// Octets that are read and thrown away so that a client that is still sending sees the answer.
const DRAIN_OCTETS: usize = 256 << 20;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The memory that bodies read whole may take together, in steps of 64 KiB.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Semaphore>);

const STEP: usize = 64 << 10;

impl Memory {
    /// So many octets.
    pub fn new(octets: usize) -> Self {
        Self(Arc::new(Semaphore::new(octets.div_ceil(STEP))))
    }

    fn take(&self, steps: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(steps).ok()?).ok()
    }
}

/// A body read whole, with its share of the memory.
pub struct Document {
    /// What came.
    pub octets: Vec<u8>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// A body as it comes.
pub struct Incoming {
    body: Body,
    received: u64,
    waited: Duration,
    patience: Duration,
}

impl Incoming {
    /// Takes a body.
    pub fn new(body: Body) -> Self {
        Self { body, received: 0, waited: Duration::ZERO, patience: PATIENCE }
    }

    /// With another patience, for tests.
    #[cfg(test)]
    fn with_patience(body: Body, patience: Duration) -> Self {
        Self { patience, ..Self::new(body) }
    }

    /// The next octets; `None`: that was all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let earned = Duration::from_secs(self.received / LEAST_RATE);
            let left = (self.patience + earned).saturating_sub(self.waited).min(self.patience);
            let begun = Instant::now();
            let frame = timeout(left, self.body.frame()).await.map_err(|_| {
                Problem::too_slow(format!(
                    "the body paused for {} s or came with less than {LEAST_RATE} octets a second",
                    self.patience.as_secs()
                ))
            })?;
            self.waited += begun.elapsed();
            match frame {
                None => return Ok(None),
                Some(Err(fault)) => {
                    return Err(Problem::unreadable(format!("the body broke off: {fault}")));
                }
                // Trailers say nothing that is asked for here.
                Some(Ok(frame)) => {
                    if let Ok(octets) = frame.into_data()
                        && !octets.is_empty()
                    {
                        self.received += octets.len() as u64;
                        return Ok(Some(octets));
                    }
                }
            }
        }
    }

    /// Reads the whole body, at most `limit` octets.
    pub async fn whole(mut self, limit: usize, memory: &Memory) -> Result<Document, Problem> {
        let mut octets = Vec::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        while let Some(more) = self.next().await? {
            if octets.len() + more.len() > limit {
                self.drain().await;
                return Err(Problem::too_large(format!("the body is larger than {limit} octets")));
            }
            octets.extend_from_slice(&more);
            let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let needed = octets.len().div_ceil(STEP);
            if needed > held {
                // A quarter ahead, so that a large body does not ask for each of its steps.
                let wanted = needed - held + needed / 4;
                let Some(got) = memory.take(wanted).or_else(|| memory.take(needed - held)) else {
                    self.drain().await;
                    return Err(Problem::try_later("other large requests are being read"));
                };
                match &mut share {
                    Some(share) => share.merge(got),
                    None => share = Some(got),
                }
            }
        }
        Ok(Document { octets, _memory: share })
    }

    /// Throws away what still comes, within bounds: a client that is sending looks for an answer only afterwards.
    pub async fn drain(&mut self) {
        let all = async {
            let mut left = DRAIN_OCTETS;
            while let Ok(Some(octets)) = self.next().await {
                match left.checked_sub(octets.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // Whoever takes longer finds the connection closed.
        let _ = timeout(DRAIN_TIME, all).await;
    }
}

/// The media type of a body in lower case, without parameters. Refuses compressed bodies (whose size nothing bounds)
/// and other charsets than UTF-8.
pub fn media_type(fields: &HeaderMap) -> Result<String, Problem> {
    if let Some(encoding) = fields.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Problem::media_type("send the body without Content-Encoding"));
    }
    let Some(value) = fields.get(header::CONTENT_TYPE) else { return Ok(String::new()) };
    let value = value
        .to_str()
        .map_err(|_| Problem::media_type("the field Content-Type is not ASCII"))?
        .to_ascii_lowercase();
    let (kind, parameters) = value.split_once(';').unwrap_or((&value, ""));
    for parameter in parameters.split(';') {
        if let Some((name, charset)) = parameter.split_once('=')
            && name.trim() == "charset"
            && !["utf-8", "utf8", "us-ascii"].contains(&charset.trim().trim_matches('"'))
        {
            return Err(Problem::media_type(format!("charset {} is not UTF-8", charset.trim())));
        }
    }
    Ok(kind.trim().to_owned())
}

/// Refuses a body that is not JSON by its own account. A page in somebody's browser cannot send this type to another
/// site without asking first.
pub fn expect_json(fields: &HeaderMap) -> Result<(), Problem> {
    match media_type(fields)?.as_str() {
        "application/json" => Ok(()),
        other => Err(Problem::media_type(format!(
            "send application/json, not {:?}",
            other.chars().take(80).collect::<String>()
        ))),
    }
}

/// Reads a JSON document. Unknown and doubled fields are refused by name; nesting is bounded to 128.
pub fn from_json<T: DeserializeOwned>(octets: &[u8]) -> Result<T, Problem> {
    // A list would be taken for the fields in their order, which nobody who sends one means.
    if octets.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::unreadable("the body is not a JSON object"));
    }
    serde_json::from_slice(octets).map_err(|fault| {
        use serde_json::error::Category;
        let place = format!("line {}, column {}", fault.line(), fault.column());
        match fault.classify() {
            Category::Data => Problem::invalid(fault.to_string()),
            _ => Problem::unreadable(format!("the body is not JSON: {fault}")),
        }
        .with("place", place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    fn status(problem: Problem) -> u16 {
        problem.into_response().status().as_u16()
    }

    #[tokio::test]
    async fn documents_are_bounded_in_size_and_memory() {
        let memory = Memory::new(3 * STEP);
        let body = |size: usize| Incoming::new(Body::from(vec![b'a'; size]));
        let held = body(2 * STEP).whole(1 << 20, &memory).await.ok().unwrap();
        assert_eq!(held.octets.len(), 2 * STEP);
        assert_eq!(status(body(2 * STEP).whole(1 << 20, &memory).await.err().unwrap()), 503);
        assert_eq!(status(body(101).whole(100, &memory).await.err().unwrap()), 413);
        assert!(body(STEP).whole(1 << 20, &memory).await.is_ok());
        drop(held);
        assert!(body(3 * STEP).whole(1 << 20, &memory).await.is_ok());
    }

    #[tokio::test]
    async fn who_pauses_is_told() {
        let mut silent = Incoming::with_patience(
            Body::new(http_body_util::combinators::UnsyncBoxBody::new(Silent)),
            Duration::from_millis(20),
        );
        assert_eq!(status(silent.next().await.unwrap_err()), 408);
    }

    /// A body that never comes.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[test]
    fn media_types() {
        for (value, encoding, wanted) in [
            ("application/json", "", Ok("application/json")),
            ("Application/JSON; charset=\"UTF-8\"", "identity", Ok("application/json")),
            ("text/csv;header=present", "", Ok("text/csv")),
            ("text/csv; charset=iso-8859-1", "", Err(415)),
            ("text/csv", "gzip", Err(415)),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_TYPE, value.parse().unwrap());
            if !encoding.is_empty() {
                fields.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
            }
            let found = media_type(&fields).map_err(status);
            assert_eq!(found.as_deref(), wanted.as_ref().map(|text| *text), "{value} {encoding}");
        }
    }
}
