//! The page by which a client's page learns whether the login changed (OpenID Connect Session Management 1.0 §3.3).
//!
//! The specification's page reads a cookie by script. Here no script may read any cookie: it asks the server, with the session's own
//! cookie, which the browser sends along within one site only. A page of another site is told `error`, never a false `changed`, unless the
//! operator chose otherwise (`cross_site_session_state`): then a second cookie that is worth nothing else answers it.
use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ledger::StoreError;
use protocol::{
    authorize::Params,
    session_state::{self, Verdict},
};

use crate::{
    App, pages, reply,
    sessions::{Browser, Seen},
};

const SCRIPT: &str = include_str!("../../../static/session.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors http: https:";

#[derive(Template)]
#[template(path = "check_session.html")]
struct CheckPage<'a> {
    base: &'a str,
    /// `true`: the browser sends the session's cookie from here; `elsewhere`: it may send the other one; `false`: none.
    near: &'a str,
}

/// `GET /session/check`: the page for the frame.
pub async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let far = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"cross-site");
    let near = match far {
        false => "true",
        true if session_state::across_sites(&app.settings) => "elsewhere",
        true => "false",
    };
    let Ok(html) = (CheckPage { base: pages::base(&app.settings.issuer), near }).render() else {
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

/// `GET /session/state?client_id&origin&session_state[&elsewhere=1]`: what its script tells.
pub async fn state(State(app): State<Arc<App>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let params = Params::parse(&query.unwrap_or_default());
    let one = |name| params.one(name).ok().flatten().unwrap_or_default();
    // Only our own page may ask; a browser that says nothing of it sends its cookie to no other site either.
    let ours = headers.get("sec-fetch-site").is_none_or(|site| site.as_bytes() == b"same-origin");
    let (client_id, origin, told) = (one("client_id"), one("origin"), one("session_state"));
    let verdict = match seen(&Browser::of(&app, &headers)).await {
        _ if !ours => Verdict::Error,
        // Whoever never got a state hears the same whatever cookie there is, and a cookie that is kept back says nothing.
        Ok(seen) if one("elsewhere") == "1" && (seen == Seen::Nothing || !session_state::genuine(client_id, origin, told, &app.mac)) => {
            Verdict::Error
        }
        Ok(Seen::In(session)) => session_state::check(client_id, origin, told, Some(&session), &app.mac),
        Ok(Seen::Out | Seen::Nothing) => session_state::check(client_id, origin, told, None, &app.mac),
        Err(error) => {
            tracing::warn!(%error, "the state of a session could not be read");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    let mut response = verdict.as_str().into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn seen(browser: &Browser) -> Result<Seen, StoreError> {
    match browser.sign_on().await? {
        Some(session) => Ok(Seen::In(session.id)),
        None => browser.seen().await,
    }
}

/// `GET /static/session.js`
pub async fn script(headers: HeaderMap) -> Response {
    pages::stored(&headers, SCRIPT, "text/javascript; charset=utf-8")
}
