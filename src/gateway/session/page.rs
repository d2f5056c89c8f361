//! The few pages that the gateway shows by itself. Nothing in them comes from outside.
use bytes::Bytes;
use edge::login::{Failed, shows_pages};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::body::AnswerBody;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto 0;padding:0 1rem;color:#1a1a1a}\
    h1{font-size:1.25rem}code{color:#666}button{font:inherit;padding:.4rem 1.2rem}";

/// An answer without a body that nobody keeps.
pub(super) fn plain(status: StatusCode) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::text(Bytes::new()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Only this method is taken here.
pub(super) fn method(allowed: &'static str) -> Response<AnswerBody> {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn page(status: StatusCode, kind: &str, title: &str, content: &str) -> Response<AnswerBody> {
    let text = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"page\" content=\"{kind}\"><title>{title}</title><style>{STYLE}</style></head><body><main>{content}</main></body></html>"
    );
    let mut answer = plain(status);
    *answer.body_mut() = AnswerBody::text(Bytes::from(text));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // With less, browsers do not say where a form comes from.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    answer
}

/// Why nobody is logged in: a page for people, a problem document (RFC 9457) for programs.
pub(super) fn failed(failed: Failed, asked: &HeaderMap) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(failed.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = if shows_pages(asked) {
        let content = format!(
            "<div id=\"error-page\"><h1>You are not signed in</h1><p id=\"error-description\">{}</p><p><code id=\"error-code\">{}</code></p>\
             <p><a id=\"start-again\" href=\"/\">Start page</a></p></div>",
            failed.description(),
            failed.code
        );
        page(status, "error", "You are not signed in", &content)
    } else {
        let title = status.canonical_reason().unwrap_or("Bad Request");
        let problem =
            json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": failed.description(), "error": failed.code});
        let mut answer = plain(status);
        *answer.body_mut() = AnswerBody::text(Bytes::from(problem.to_string()));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        answer
    };
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let wait = if status == StatusCode::TOO_MANY_REQUESTS { "30" } else { "2" };
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(wait));
    }
    answer
}

/// Asks whether the person wants to be logged out; `action` is a path of the configuration.
pub(super) fn confirm_logout(action: &str) -> Response<AnswerBody> {
    let content = format!(
        "<h1>Sign out?</h1><form id=\"logout-form\" method=\"post\" action=\"{action}\">\
         <button id=\"logout-confirm\" type=\"submit\">Sign out</button></form>"
    );
    page(StatusCode::OK, "logout", "Sign out", &content)
}

/// Nobody is logged in any more.
pub(super) fn logged_out() -> Response<AnswerBody> {
    page(StatusCode::OK, "logout", "Signed out", "<h1 id=\"logged-out\">You are signed out</h1>")
}

/// A back-channel logout that does not count (Back-Channel Logout 1.0 §2.8).
pub(super) fn not_logged_out(status: StatusCode) -> Response<AnswerBody> {
    let mut answer = plain(status);
    *answer.body_mut() = AnswerBody::text(Bytes::from_static(br#"{"error":"invalid_request"}"#));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
