//! The page by which a client's page learns whether the login changed (OpenID Connect Session Management 1.0 §3.3).
//!
//! The specification's page reads a cookie by script. Here no script may read any cookie: it asks the server, with the session's own
//! cookie, which the browser sends along within one site only. A page of another site is told `error`, never a false `changed`.
use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use protocol::{
    authorize::Params,
    session_state::{self, Verdict},
};

use crate::{App, pages, reply, sessions::Browser};

const SCRIPT: &str = include_str!("../../../static/session.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors http: https:";

#[derive(Template)]
#[template(path = "check_session.html")]
struct CheckPage<'a> {
    base: &'a str,
    /// Whether the browser sends the session's cookie from here.
    near: bool,
}

/// `GET /session/check`: the page for the frame.
pub async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let far = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"cross-site");
    let Ok(html) = (CheckPage { base: pages::base(&app.settings.issuer), near: !far }).render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = html.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response.extensions_mut().insert(reply::Framed);
    response
}

/// `GET /session/state?client_id&origin&session_state`: what its script tells.
pub async fn state(State(app): State<Arc<App>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let params = Params::parse(&query.unwrap_or_default());
    let one = |name| params.one(name).ok().flatten().unwrap_or_default();
    // Only our own page may ask; a browser that says nothing of it sends its cookie to no other site either.
    let ours = headers.get("sec-fetch-site").is_none_or(|site| site.as_bytes() == b"same-origin");
    let verdict = match Browser::of(&app, &headers).sign_on().await {
        _ if !ours => Verdict::Error,
        Ok(session) => {
            let session = session.as_ref().map(|s| s.id.as_str());
            session_state::check(one("client_id"), one("origin"), one("session_state"), session, &app.mac)
        }
        Err(error) => {
            tracing::warn!(%error, "the state of a session could not be read");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    let mut response = verdict.as_str().into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `GET /static/session.js`
pub async fn script(headers: HeaderMap) -> Response {
    pages::stored(&headers, SCRIPT, "text/javascript; charset=utf-8")
}
