//! Who may do what, and how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use mail::time::Timestamp;
use web::{Problem, TokenDigest, bearer_token};

use super::Shared;

/// What somebody without a token is told.
const TOKEN_NEEDED: &str =
    "send the field \"Authorization: Bearer <token>\" with a token of this instance";

/// The name of the client or publisher that makes a request.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Arc<str>);

/// How often clients ask: counted in windows of a minute.
pub(super) struct Frequency {
    most: u32,
    /// The minute that is counted, with the requests of each client in it.
    counted: Mutex<(u64, HashMap<Arc<str>, u32>)>,
}

impl Frequency {
    /// At most so many requests a minute.
    pub(super) fn new(most: u32) -> Self {
        Self { most, counted: Mutex::default() }
    }

    /// Counts a request; else the seconds after which the next one may come.
    fn admit(&self, client: &Arc<str>, now: Timestamp) -> Result<(), u32> {
        let (minute, second) = (now.as_secs() / 60, now.as_secs() % 60);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != minute {
            // There are never more names in it than clients.
            *counted = (minute, HashMap::new());
        }
        let asked = counted.1.entry(Arc::clone(client)).or_default();
        if *asked >= self.most {
            return Err(u32::try_from(60 - second).unwrap_or(60));
        }
        *asked += 1;
        Ok(())
    }
}

fn publisher_of(app: &Shared, token: &TokenDigest) -> Option<Arc<str>> {
    let mut found = None;
    for publisher in &app.config().publishers {
        if publisher.token == *token {
            found = Some(Arc::from(publisher.name.as_str()));
        }
    }
    found
}

fn token_of(fields: &HeaderMap) -> Result<TokenDigest, Problem> {
    bearer_token(fields).ok_or_else(|| Problem::unauthenticated(TOKEN_NEEDED))
}

/// Lets the requests of clients through.
pub(super) async fn clients_only(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = token_of(request.headers()).and_then(|token| {
        let client = app.instance.client_of(&token);
        let publisher = publisher_of(&app, &token);
        client.ok_or_else(|| match publisher {
            Some(name) => Problem::forbidden(format!(
                "{name} is a publisher; clients have tokens of their own: `clients add`"
            )),
            None => Problem::unauthenticated(TOKEN_NEEDED),
        })
    });
    let client = match admitted {
        Ok(client) => client,
        Err(problem) => return refused(problem),
    };
    if let Err(seconds) = app.frequency.admit(&client, app.instance.now()) {
        let most = app.config().limits.requests_per_minute;
        let words = format!("{client} asks more than {most} times a minute");
        return Problem::too_many(words, seconds).into_response();
    }
    request.extensions_mut().insert(Caller(client));
    next.run(request).await
}

/// Lets the requests of publishers through.
pub(super) async fn publishers_only(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = token_of(request.headers()).and_then(|token| {
        publisher_of(&app, &token).ok_or_else(|| match app.instance.client_of(&token) {
            Some(name) => Problem::forbidden(format!("{name} is a client, not a publisher")),
            None => Problem::unauthenticated(TOKEN_NEEDED),
        })
    });
    match admitted {
        Ok(publisher) => {
            request.extensions_mut().insert(Caller(publisher));
            next.run(request).await
        }
        Err(problem) => refused(problem),
    }
}

fn refused(problem: Problem) -> Response {
    tracing::info!("a request was refused: {problem}");
    problem.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_waits_for_the_next_minute() {
        let frequency = Frequency::new(2);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let at = |second: u64| Timestamp::from_secs(1_800_000_000 + second);
        assert_eq!(frequency.admit(&one, at(10)), Ok(()));
        assert_eq!(frequency.admit(&one, at(11)), Ok(()));
        assert_eq!(frequency.admit(&one, at(15)), Err(45));
        assert_eq!(frequency.admit(&other, at(15)), Ok(()));
        assert_eq!(frequency.admit(&one, at(60)), Ok(()));
    }
}
