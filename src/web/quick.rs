//! What machines ask all the time, answered without a router: the same functions, and the same finish, as [`crate::routes`] gives them.
use axum::response::Response;
use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Uri, request};
use protocol::{Form, Settings, discovery::issuer_path};
use tokio::time::Instant;

use crate::{
    App, Peer,
    oauth::{discovery, discovery::Document, health, introspect, revoke, token},
    reply,
    routes::Meter,
};

/// The longest body taken here.
pub const LONGEST: usize = Form::LIMIT;

/// One of those endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `GET /jwks`
    Keys,
    /// `GET /.well-known/openid-configuration`
    Metadata,
    /// `GET /healthz`
    Alive,
    /// `POST /token`
    Token,
    /// `POST /introspect`
    Introspect,
    /// `POST /revoke`
    Revoke,
}

/// Where they are, and what counts their answers.
pub(crate) struct Quick {
    base: String,
    https: bool,
    token: Way,
    introspect: Way,
    revoke: Way,
}

struct Way {
    uri: Uri,
    meter: Meter,
}

impl Quick {
    pub(crate) fn new(settings: &Settings) -> Self {
        let base = issuer_path(&settings.issuer);
        let way = |path: &str, endpoint, open| {
            let uri = Uri::try_from(format!("{base}{path}")).unwrap_or_default();
            Way { uri, meter: Meter::new(endpoint, open) }
        };
        let (token, introspect, revoke) =
            (way("/token", "token", true), way("/introspect", "introspect", false), way("/revoke", "revoke", true));
        Self { https: settings.issuer.starts_with("https:"), token, introspect, revoke, base }
    }
}

/// The endpoint of a request target, if it is one of these: by its octets, without a query.
#[must_use]
pub fn place(app: &App, get: bool, target: &[u8]) -> Option<Place> {
    if get && target == b"/healthz" {
        return Some(Place::Alive);
    }
    match (get, target.strip_prefix(app.quick.base.as_bytes())?) {
        (true, b"/jwks") => Some(Place::Keys),
        (true, b"/.well-known/openid-configuration") => Some(Place::Metadata),
        (false, b"/token") => Some(Place::Token),
        (false, b"/introspect") => Some(Place::Introspect),
        (false, b"/revoke") => Some(Place::Revoke),
        _ => None,
    }
}

/// The whole answer of a document's endpoint, to a request without conditions, at the second `now`; `date` says it if it is not known yet.
/// The `last` of a connection says so.
#[must_use]
pub fn whole(app: &App, place: Place, now: i64, last: bool, date: impl FnOnce() -> String) -> Option<Bytes> {
    match place {
        Place::Keys => discovery::whole(app, Document::Keys, now, last, date),
        Place::Metadata => discovery::whole(app, Document::Metadata, now, last, date),
        Place::Alive | Place::Token | Place::Introspect | Place::Revoke => None,
    }
}

/// The answer of an endpoint that decides something. Of a document's there is none.
pub async fn answer(app: &App, place: Place, headers: HeaderMap, body: Bytes, peer: Peer) -> Option<Response> {
    let quick = &app.quick;
    let way = match place {
        Place::Token => &quick.token,
        Place::Introspect => &quick.introspect,
        Place::Revoke => &quick.revoke,
        Place::Alive => return Some(reply::secure(quick.https, health::live().await)),
        Place::Keys | Place::Metadata => return None,
    };
    let begun = Instant::now();
    let parts = parts(way, headers, peer);
    let response = match place {
        Place::Token => token::answer(app, &parts, Ok(body)).await,
        Place::Introspect => introspect::answer(app, &parts, Ok(body)).await,
        _ => revoke::answer(app, &parts, Ok(body)).await,
    };
    Some(reply::secure(quick.https, way.meter.finish(response, begun.elapsed())))
}

fn parts(way: &Way, headers: HeaderMap, peer: Peer) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.uri = way.uri.clone();
    parts.headers = headers;
    let mut extensions = Extensions::new();
    extensions.insert(peer);
    parts.extensions = extensions;
    parts
}
