//! `/u/{token}`: unsubscription with one click (RFC 8058), without an access token.
//!
//! **Promise.** POST with `List-Unsubscribe=One-Click` unsubscribes the recipient of one message of ours; the answer
//! leaves after the commit. GET shows a page with a button that sends just that, and changes nothing, because
//! programs that look for malware follow every link. The token carries a keyed MAC: one that we did not make is
//! answered with one and the same 404, whatever is wrong with it, and before anything is looked up.
//!
//! **Absences.** No script, no cookie, no picture, no address on the page: whoever gets the link from a log learns
//! nothing from it. Nothing is asked ("Are you sure?"), nobody must log in.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::app::Shared;
use crate::forms::Segment;
use crate::ledger::Unsubscribed;
use web::Problem;

/// Octets of the body. What RFC 8058 asks for has 26, as a form with parts some 150.
const BODY_OCTETS: usize = 4_096;

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:15vh auto 0;\
    max-width:32rem;padding:0 1.5rem}h1{font-size:1.5rem;font-weight:600}button{font:inherit;color:#fff;\
    background:#1a4f8b;border:0;border-radius:.3rem;padding:.6rem 1.4rem;cursor:pointer}";

/// Nothing is loaded, the form goes only to where it came from, no page of another site shows this one.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    HeaderValue::try_from(format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    ))
    .expect("base 64 is a header value")
});

/// A page of ours: a heading and what follows it. Neither may hold anything from outside.
fn page(status: StatusCode, heading: &'static str, rest: &'static str) -> Response {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{heading}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>{heading}</h1>\n{rest}\n</body>\n</html>\n"
    );
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
    ];
    (status, fields, html).into_response()
}

/// The one answer to every token that leads nowhere.
fn unknown() -> Response {
    page(
        StatusCode::NOT_FOUND,
        "This link is not valid",
        "<p>Perhaps it was cut off. Copy the whole link from the message, or reply to the message and ask to be \
         taken off the list.</p>",
    )
}

/// The answer to a genuine token of a message that is forgotten.
fn forgotten() -> Response {
    page(
        StatusCode::GONE,
        "This link is too old",
        "<p>We no longer know to whom the message went, so nothing was changed. Use the link of a newer message, or \
         reply to one and ask to be taken off the list.</p>",
    )
}

/// `GET /u/{token}`
pub(crate) async fn show(State(app): State<Shared>, segment: Result<Segment, Problem>) -> Response {
    let Ok(Segment(token)) = segment else { return unknown() };
    match app.ledger.would_unsubscribe(&token).await {
        Ok(Unsubscribed::Done) => page(
            StatusCode::OK,
            "Unsubscribe",
            "<p>Do you want no more messages from this sender?</p>\n<form method=\"post\">\n\
             <input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\n\
             <button type=\"submit\">Unsubscribe</button>\n</form>",
        ),
        Ok(Unsubscribed::Forgotten) => forgotten(),
        Ok(Unsubscribed::NotOurs) => unknown(),
        Err(problem) => problem.into_response(),
    }
}

/// `POST /u/{token}`
pub(crate) async fn unsubscribe(
    State(app): State<Shared>,
    segment: Result<Segment, Problem>,
    request: Request,
) -> Response {
    let Ok(Segment(token)) = segment else { return unknown() };
    // Before the body: what is wrong with a forged request is nobody's business.
    match app.ledger.would_unsubscribe(&token).await {
        Ok(Unsubscribed::Done) => {}
        Ok(Unsubscribed::Forgotten) => return forgotten(),
        Ok(Unsubscribed::NotOurs) => return unknown(),
        Err(problem) => return problem.into_response(),
    }
    let (parts, body) = request.into_parts();
    let said = match app.read(body, BODY_OCTETS).await {
        Ok(document) => says_one_click(&parts.headers, &document.octets),
        Err(problem) => return problem.into_response(),
    };
    if !said {
        return page(
            StatusCode::BAD_REQUEST,
            "Nothing was changed",
            "<p>The request does not say List-Unsubscribe=One-Click (RFC 8058).</p>",
        );
    }
    match app.ledger.unsubscribe(&token).await {
        Ok(Unsubscribed::Done) => page(
            StatusCode::OK,
            "You are unsubscribed",
            "<p>You will get no more messages from this sender.</p>",
        ),
        Ok(Unsubscribed::Forgotten) => forgotten(),
        Ok(Unsubscribed::NotOurs) => unknown(),
        Err(problem) => problem.into_response(),
    }
}

/// Whether a body says what RFC 8058 section 3.1 asks for, in either of its two forms.
fn says_one_click(fields: &HeaderMap, body: &[u8]) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let (name, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let Ok(body) = core::str::from_utf8(body) else { return false };
    if name.trim().eq_ignore_ascii_case("multipart/form-data") {
        return boundary(parameters).is_some_and(|boundary| part_says_it(body, boundary));
    }
    // Whatever the type is called: senders of such requests are many, and the words are unmistakable.
    body.trim_end_matches(['\r', '\n']).split('&').any(|pair| pair == "List-Unsubscribe=One-Click")
}

fn boundary(parameters: &str) -> Option<&str> {
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len()))
            .then_some(value)
    })
}

/// Looks for the field among the parts of a form (RFC 7578).
fn part_says_it(body: &str, boundary: &str) -> bool {
    let delimiter = format!("--{boundary}");
    body.split(delimiter.as_str()).any(|part| {
        let part = part.replace("\r\n", "\n");
        let Some((head, value)) = part.split_once("\n\n") else { return false };
        let named = head.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("content-disposition:")
                && line
                    .replace('"', "")
                    .split(';')
                    .any(|word| word.trim() == "name=list-unsubscribe")
        });
        named && value.trim_end_matches('\n') == "One-Click"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_request_are_understood() {
        let parts = "--x9\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x9--\r\n";
        for (kind, body, wanted) in [
            ("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click", true),
            ("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click\r\n", true),
            (
                "application/x-www-form-urlencoded; charset=UTF-8",
                "a=b&List-Unsubscribe=One-Click",
                true,
            ),
            ("", "List-Unsubscribe=One-Click", true),
            ("multipart/form-data; boundary=x9", parts, true),
            ("Multipart/Form-Data; boundary=\"x9\"", parts, true),
            ("multipart/form-data; boundary=other", parts, false),
            ("multipart/form-data", parts, false),
            ("multipart/form-data; boundary=x9", "List-Unsubscribe=One-Click", false),
            ("application/x-www-form-urlencoded", "List-Unsubscribe=Two-Clicks", false),
            ("application/x-www-form-urlencoded", "xList-Unsubscribe=One-Click", false),
            ("application/x-www-form-urlencoded", "", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(says_one_click(&fields, body.as_bytes()), wanted, "{kind:?} {body:?}");
        }
        assert!(!says_one_click(&HeaderMap::new(), b"\xff"));
    }
}
