//! Who may do what: bearer tokens with roles.
//!
//! **With tokens** every request needs one in the field Authorization (never in the query, where it would end in
//! logs); only `/healthz` and `/readyz` are open, and say nothing but yes or no. A token is compared by its digest in
//! constant time, with every known one, so that an answer's time tells nothing about any of them.
//!
//! **Without tokens** the listener is on loopback (the configuration and [`crate::HttpServer::bind`] see to that), and
//! whoever reaches it may do everything. Then the danger is a page in a browser on this machine: requests that name
//! another host than this machine (DNS rebinding) or come from another site are refused.

use std::net::IpAddr;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use node::config::{HttpConfig, Role};
use store::kill_point;

use web::{Problem, TokenDigest, bearer_token};

/// What somebody without a token is told.
const TOKEN_NEEDED: &str =
    "send the field \"Authorization: Bearer <token>\" with a token of [http] in the configuration";

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's name; empty without tokens.
    pub(crate) name: Box<str>,
    /// What it allows.
    pub(crate) role: Role,
}

impl Caller {
    /// For the audit trail.
    pub(crate) fn who(&self) -> &str {
        if self.name.is_empty() { "http" } else { &self.name }
    }
}

/// The tokens, as digests.
pub(crate) struct Access {
    tokens: Vec<(TokenDigest, Caller)>,
}

/// A route's need together with what decides on it.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) access: std::sync::Arc<Access>,
    /// `None`: open to everybody.
    pub(crate) needs: Option<Role>,
}

impl Access {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let tokens = config.tokens.iter().map(|token| {
            let caller = Caller { name: token.name.as_str().into(), role: token.role };
            (TokenDigest::of(token.token.expose().as_bytes()), caller)
        });
        Self { tokens: tokens.collect() }
    }

    /// Who makes a request with these fields, if he may do what `needs` says.
    pub(crate) fn admit(&self, fields: &HeaderMap, needs: Role) -> Result<Caller, Problem> {
        if self.tokens.is_empty() {
            check_browser(fields)?;
            return Ok(Caller { name: Box::default(), role: Role::Operator });
        }
        let caller = self.caller(fields).ok_or_else(|| Problem::unauthenticated(TOKEN_NEEDED))?;
        if caller.role < needs {
            let needs = format!("{needs:?}").to_ascii_lowercase();
            return Err(Problem::forbidden(format!(
                "token {:?} does not have the role {needs}",
                caller.name
            )));
        }
        Ok(caller.clone())
    }

    fn caller(&self, fields: &HeaderMap) -> Option<&Caller> {
        let given = bearer_token(fields)?;
        let mut found = None;
        for (known, caller) in &self.tokens {
            if *known == given {
                found = Some(caller);
            }
        }
        found
    }
}

/// Refuses what a page of another site makes a browser send.
fn check_browser(fields: &HeaderMap) -> Result<(), Problem> {
    let text = |name| fields.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    if !host.is_none_or(is_this_machine) {
        return Err(Problem::forbidden(
            "without tokens only requests to localhost or an address are answered; state tokens in [http]",
        ));
    }
    let origin = text(header::ORIGIN);
    let foreign = origin
        .is_some_and(|origin| origin.split_once("://").is_none_or(|(_, from)| Some(from) != host));
    let site = fields.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?"));
    if foreign || site.is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return Err(Problem::forbidden("the request comes from a page of another site"));
    }
    Ok(())
}

/// Whether a Host field names this machine in a way that no name server can point elsewhere.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Lets a request through to its handler, with its [`Caller`], or answers it.
pub(crate) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    if let Some(needs) = gate.needs {
        match gate.access.admit(request.headers(), needs) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
            }
            Err(problem) => {
                // The route, not the path: that may hold an address.
                let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
                tracing::info!(route, "a request was refused: {problem}");
                return problem.into_response();
            }
        }
    }
    // Those that look have parameters, and refuse unknown ones themselves.
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    if !looks && request.uri().query().is_some_and(|query| !query.is_empty()) {
        return Problem::invalid("this request takes no parameters in its path; known: none")
            .into_response();
    }
    let response = next.run(request).await;
    if !looks && response.status().is_success() {
        kill_point::pass("before-reply", "http");
    }
    response
}

#[cfg(test)]
mod tests {
    use node::config::{HttpToken, Secret};

    use super::*;

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in list {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    fn status(answer: Result<Caller, Problem>) -> u16 {
        answer.map_or_else(|problem| problem.into_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn tokens_and_roles() {
        let token = |name: &str, role, text: &str| HttpToken {
            name: name.into(),
            role,
            token: Secret::new(text),
        };
        let access = Access::new(&HttpConfig {
            listen: Vec::new(),
            tokens: vec![
                token("watch", Role::Reader, "look"),
                token("shop", Role::Sender, "sell"),
                token("boss", Role::Operator, "rule"),
            ],
        });
        let bearer = |text: &str| fields(&[("authorization", text)]);
        for (value, needs, wanted) in [
            ("Bearer look", Role::Reader, 200),
            ("bearer look", Role::Reader, 200),
            ("Bearer look", Role::Sender, 403),
            ("Bearer sell", Role::Sender, 200),
            ("Bearer sell", Role::Operator, 403),
            ("Bearer rule", Role::Operator, 200),
            ("Bearer loo", Role::Reader, 401),
            ("Bearer lookk", Role::Reader, 401),
            ("Bearer  look", Role::Reader, 401),
            ("Bearer ", Role::Reader, 401),
            ("Bearer", Role::Reader, 401),
            ("Basic look", Role::Reader, 401),
            ("", Role::Reader, 401),
        ] {
            assert_eq!(status(access.admit(&bearer(value), needs)), wanted, "{value} {needs:?}");
        }
        assert_eq!(status(access.admit(&HeaderMap::new(), Role::Reader)), 401);
        let twice = fields(&[("authorization", "Bearer look"), ("authorization", "Bearer look")]);
        assert_eq!(status(access.admit(&twice, Role::Reader)), 401);
        let long = bearer(&format!("Bearer {}", "a".repeat(10_000)));
        assert_eq!(status(access.admit(&long, Role::Reader)), 401);
    }

    #[test]
    fn pages_of_other_sites_reach_nothing() {
        let access = Access::new(&HttpConfig { listen: Vec::new(), tokens: Vec::new() });
        for (list, wanted) in [
            (vec![], 200),
            (vec![("host", "127.0.0.1:2580")], 200),
            (vec![("host", "[::1]:2580")], 200),
            (vec![("host", "LOCALHOST")], 200),
            (vec![("host", "rebound.example:2580")], 403),
            (vec![("host", "127.0.0.1:2580"), ("origin", "http://127.0.0.1:2580")], 200),
            (vec![("host", "127.0.0.1:2580"), ("origin", "https://evil.example")], 403),
            (vec![("host", "127.0.0.1:2580"), ("origin", "null")], 403),
            (vec![("host", "127.0.0.1:2580"), ("sec-fetch-site", "cross-site")], 403),
            (vec![("host", "127.0.0.1:2580"), ("sec-fetch-site", "none")], 200),
        ] {
            assert_eq!(status(access.admit(&fields(&list), Role::Operator)), wanted, "{list:?}");
        }
    }
}
