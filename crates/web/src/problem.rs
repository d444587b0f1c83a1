//! Errors as `application/problem+json` (RFC 9457): one form for everything that is not 2xx.
//!
//! `type` is a name that programs can rely on, `title` says the same for people and never changes, `detail`
//! says what happened here and what to do. A fault of the caller is 4xx; 503 with Retry-After means that
//! nothing was wrong with the request and that nothing was accepted.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mail::reply::escaped_json;
use serde_json::{Map, Value};

/// An answer as JSON. What servers, lists and clients have said stands in it without a character that would steer the
/// terminal of whoever looks at it.
#[must_use]
pub fn json(value: &Value) -> Response {
    let form = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, form)], escaped_json(value.to_string())).into_response()
}

/// The answer to a request that cannot be fulfilled.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: String,
    /// Further members, for programs.
    members: Map<String, Value>,
    retry_after_seconds: Option<u32>,
}

/// Seconds after which trying again makes sense when the server cannot take anything.
const RETRY_AFTER_SECONDS: u32 = 5;

impl Problem {
    fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let detail = detail.into();
        Self { status, name, title, detail, members: Map::new(), retry_after_seconds: None }
    }

    /// 400: the request cannot be read.
    #[must_use]
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable", "The request cannot be read", detail)
    }

    /// 401: no token, or none that is known.
    #[must_use]
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        let title = "A valid token is needed";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", title, detail)
    }

    /// 403: the token does not allow it.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "This is not allowed", detail)
    }

    /// 404: there is no such thing.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    /// 405: not with this method.
    #[must_use]
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        let title = "This method does not exist here";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title, detail)
    }

    /// 408: the body did not come in time.
    #[must_use]
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body came too slowly", detail)
    }

    /// 409: what is asked contradicts the state of things.
    #[must_use]
    pub fn conflict(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, name, "The state of things does not allow it", detail)
    }

    /// 413: larger than allowed.
    #[must_use]
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail)
    }

    /// 415: not a form that is understood here.
    #[must_use]
    pub fn media_type(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "This form of body is not understood",
            detail,
        )
    }

    /// 422: readable, but a field has a value that cannot be.
    #[must_use]
    pub fn field(field: impl Into<String>, detail: impl core::fmt::Display) -> Self {
        let field = field.into();
        Self::invalid(format!("{field}: {detail}")).with("field", field)
    }

    /// 422: readable, but wrong.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid", detail)
    }

    /// 503: nothing is wrong with the request.
    #[must_use]
    pub fn try_later(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "try-later",
            "Not now; nothing was accepted",
            detail,
        );
        problem.retry_after_seconds = Some(RETRY_AFTER_SECONDS);
        problem
    }

    /// 429: too many requests; after so many seconds again.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        let title = "Too many requests";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", title, detail);
        Self { retry_after_seconds: Some(retry_after_seconds), ..problem }
    }

    /// Adds a member for programs.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// Says something before what the problem already says.
    #[must_use]
    pub fn prefixed(mut self, words: &str) -> Self {
        self.detail = format!("{words}: {}", self.detail);
        self
    }
}

impl core::fmt::Display for Problem {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "{} {}: {}", self.status.as_u16(), self.name, self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut members = self.members;
        members.insert("type".into(), format!("urn:mailweir:problem:{}", self.name).into());
        members.insert("title".into(), self.title.into());
        members.insert("status".into(), self.status.as_u16().into());
        members.insert("detail".into(), self.detail.into());
        let mut response = (self.status, json(&Value::Object(members))).into_response();
        let fields = response.headers_mut();
        let form = HeaderValue::from_static("application/problem+json");
        fields.insert(header::CONTENT_TYPE, form);
        if let Some(seconds) = self.retry_after_seconds {
            fields.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"mailweir\"");
            fields.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
