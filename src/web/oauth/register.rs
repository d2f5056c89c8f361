//! The client registration and configuration endpoints (RFC 7591 §3, RFC 7592 §2).
use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::{issuer::TrustedIssuer, limit::Quota};
use http::{HeaderMap, StatusCode, header, request::Parts};
use ledger::{Object, ObjectKind, StoreError};
use protocol::{
    Client, Code,
    client_auth::KnownClient,
    pairwise,
    registration::{
        self, Refused, SCOPE,
        manage::{Desk, Registered, SLOT, answer, proves, replacing},
        metadata,
        statement::{self, Presented},
    },
};
use serde_json::{Map, Value};
use tokens::secret::Plain;

use super::{read, twice};
use crate::{
    App, credential,
    limits::{self, Policy},
    reply::{self, Failed},
};

/// Requests of one source.
const OF_SOURCE: Policy = Policy { name: "registration", quota: Quota { rate: 300, period_s: 60, burst: 300 } };
/// New clients of one source where anybody may register: no source uses up what is for all.
const NEW_OF_SOURCE: Policy = Policy { name: "registration-new", quota: Quota { rate: 60, period_s: 60, burst: 60 } };
/// New clients of all sources together.
const TOGETHER: Policy = Policy { name: "registration-total", quota: Quota { rate: 600, period_s: 60, burst: 600 } };
/// How often a change is decided again when somebody else was first.
const ATTEMPTS: usize = 3;

/// Why a request ended.
enum No {
    Failed(Failed),
    Refused(Refused),
}

impl<E: Into<Failed>> From<E> for No {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}
impl IntoResponse for No {
    fn into_response(self) -> Response {
        match self {
            Self::Failed(failed) => failed.into_response(),
            Self::Refused(refused) => {
                tracing::debug!(code = refused.code.as_str(), why = refused.description, "registration refused");
                metrics::counter!("client_registrations_total", "outcome" => refused.code.as_str()).increment(1);
                let status = StatusCode::from_u16(refused.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
                reply::json(status, Bytes::from(refused.json()))
            }
        }
    }
}

/// `POST /register`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    create(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// `GET /register/{client_id}`
pub(crate) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    show(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// `PUT /register/{client_id}`
pub(crate) async fn put(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    replace(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// `DELETE /register/{client_id}`
pub(crate) async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    remove(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn create(app: &App, request: Request) -> Result<Response, No> {
    let (parts, body) = request.into_parts();
    let source = admitted(app, &parts).await?;
    let by = allowed(app, &parts.headers).await?;
    let given = document(&parts, body).await?;
    if app.settings.open_registration {
        within(app, &format!("register_new:{source}"), NEW_OF_SOURCE).await?;
    }
    within(app, "register_together", TOGETHER).await?;
    let client = understood(app, given.clone(), None).await?;
    let desk = desk(app, &source);
    let registered = desk.create(client, by.as_deref())?;
    if !app.store.apply(registered.change.clone()).await?.applied() {
        return Err(StoreError::Unavailable("a new client's id is taken".into()).into());
    }
    metrics::counter!("client_registrations_total", "outcome" => "registered").increment(1);
    Ok(reply::json(StatusCode::CREATED, Bytes::from(registered.json(&app.settings, stated(&given)))))
}

/// The statement of a request, to be told back unmodified (RFC 7591 §3.2.1).
fn stated(given: &Map<String, Value>) -> Option<&Value> {
    given.get(statement::MEMBER).filter(|v| !v.is_null())
}

fn desk<'a>(app: &'a App, source: &'a str) -> Desk<'a> {
    Desk { settings: &app.settings, mac: &app.mac, entropy: app.entropy.as_ref(), now_ms: app.clock.now_ms(), source }
}

/// Counts a request of a source; its name for the ledger.
async fn admitted(app: &App, parts: &Parts) -> Result<String, Failed> {
    let source = limits::source(app, parts).to_string();
    within(app, &format!("register:{source}"), OF_SOURCE).await?;
    Ok(source)
}

async fn within(app: &App, key: &str, policy: Policy) -> Result<(), Failed> {
    let verdict = app.counters.hit(key, &policy.quota, 1, app.clock.now_ms()).await;
    if verdict.allowed { Ok(()) } else { Err(Failed::Limited(policy.waits((verdict.retry_after_ms + 999) / 1000))) }
}

/// Whose initial access token allows a registration; nobody's is needed where registration is open (RFC 7591 §3).
async fn allowed(app: &App, headers: &HeaderMap) -> Result<Option<String>, Failed> {
    if app.settings.open_registration {
        return Ok(None);
    }
    let seen = credential::demand(app, credential::bearer(headers)?, SCOPE).await?;
    if !seen.known.audience.contains(&app.settings.issuer) {
        return Err(Failed::Bearer(Some(credential::invalid())));
    }
    Ok(Some(seen.known.client_id.clone()))
}

async fn document(parts: &Parts, body: Body) -> Result<Map<String, Value>, No> {
    let media = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next());
    if twice(&parts.headers) || !media.is_some_and(|m| m.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refused::new(Code::InvalidClientMetadata, "the body must be application/json").into());
    }
    Ok(registration::read(&read(parts, body).await?)?)
}

/// The record that a request describes, everything looked up that it points to. `before` is the one it replaces.
async fn understood(app: &App, mut given: Map<String, Value>, before: Option<&Client>) -> Result<Client, No> {
    let stated = match Presented::of(&given)? {
        Some(presented) => Some(vouched(app, &presented).await?),
        None => None,
    };
    if let Some(stated) = stated {
        statement::over(&mut given, stated);
    }
    let client = metadata::read(&given, &app.settings, before)?;
    callable(app, &client)?;
    if let Some(uri) = &client.sector_identifier_uri {
        sector(app, uri, &client).await?;
    }
    Ok(client)
}

/// What is registered to be called has to be an address that may be called.
fn callable(app: &App, client: &Client) -> Result<(), Refused> {
    let called = [
        ("jwks_uri", &client.jwks_uri),
        ("sector_identifier_uri", &client.sector_identifier_uri),
        ("backchannel_logout_uri", &client.backchannel_logout_uri),
        ("backchannel_client_notification_endpoint", &client.backchannel_client_notification_endpoint),
    ];
    let never = |uri: &Option<String>| uri.as_deref().is_some_and(|uri| !app.outbound.permits(uri));
    match called.into_iter().find(|(_, uri)| never(uri)) {
        Some((member, _)) => Err(Refused::at(member, "is not an address that this server calls")),
        None => Ok(()),
    }
}

/// What a software statement says, if its issuer is trusted for them.
async fn vouched(app: &App, presented: &Presented<'_>) -> Result<Map<String, Value>, No> {
    let object = app.store.object_by_key(ObjectKind::TrustedIssuer, &presented.issuer).await?;
    let issuer: Option<TrustedIssuer> = object
        .and_then(|o| serde_json::from_value::<TrustedIssuer>(o.document).ok())
        .map(|issuer| issuer.known_to(app.settings.post_quantum));
    let issuer = issuer.filter(|i| i.software_statements).ok_or_else(statement::unapproved)?;
    if !issuer.algs().contains(&presented.alg()) {
        return Err(Refused::new(Code::InvalidSoftwareStatement, "software_statement: is not signed as its issuer signs").into());
    }
    let keys = app.relying.issuer_keys(&issuer, presented.kid()).await;
    let key = keys.find(presented.kid(), presented.alg());
    Ok(presented.believe(key, &app.settings, app.clock.now())?)
}

/// The document at `sector_identifier_uri` must list every redirect URI (OpenID Connect Registration §5).
async fn sector(app: &App, uri: &str, client: &Client) -> Result<(), Refused> {
    let listed = app.outbound.get(uri).await.map_err(|why| {
        tracing::warn!(uri, %why, "sector identifier not fetched");
        Refused::at("sector_identifier_uri", "cannot be fetched")
    })?;
    if pairwise::sector_admits(&listed, client) {
        return Ok(());
    }
    Err(Refused::at("sector_identifier_uri", "its JSON array does not list every redirect URI (OpenID Connect Registration §5)"))
}

/// The client whose registration access token a request carries (RFC 7592 §2): its object, its record, the token.
async fn own(app: &App, parts: &Parts, id: &str) -> Result<(Object, Client, Plain), Failed> {
    let token = credential::bearer(&parts.headers)?.ok_or(Failed::Bearer(None))?;
    let stranger = || Failed::Bearer(Some(credential::invalid()));
    let object = app.store.object(ObjectKind::Client, id).await?;
    let stored = app.store.secret(ObjectKind::Client, id, SLOT).await?;
    if !proves(token, stored.as_deref(), &app.mac) {
        return Err(stranger());
    }
    let object = object.ok_or_else(stranger)?;
    let client: Client = serde_json::from_value(object.document.clone()).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    if client.disabled {
        return Err(stranger());
    }
    Ok((object, client, Plain::new(token)))
}

async fn show(app: &App, id: &str, request: Request) -> Result<Response, No> {
    let (parts, _) = request.into_parts();
    admitted(app, &parts).await?;
    let (object, client, token) = own(app, &parts, id).await?;
    let told = Value::Object(answer(&client, object.created_at, &token, &app.settings)).to_string();
    Ok(reply::json(StatusCode::OK, Bytes::from(told)))
}

async fn replace(app: &App, id: &str, request: Request) -> Result<Response, No> {
    let (parts, body) = request.into_parts();
    let source = admitted(app, &parts).await?;
    own(app, &parts, id).await?;
    let given = document(&parts, body).await?;
    let shown = replacing(&given, id)?;
    for _ in 0..ATTEMPTS {
        let (object, before, token) = own(app, &parts, id).await?;
        let client = understood(app, given.clone(), Some(&before)).await?;
        let kept = app.store.secret(ObjectKind::Client, id, KnownClient::SECRET).await?;
        let registered: Registered = desk(app, &source).replace(&object, client, kept.as_deref(), shown, token)?;
        if app.store.apply(registered.change.clone()).await?.applied() {
            metrics::counter!("client_registrations_total", "outcome" => "replaced").increment(1);
            return Ok(reply::json(StatusCode::OK, Bytes::from(registered.json(&app.settings, stated(&given)))));
        }
    }
    Err(StoreError::Unavailable("the client's record kept changing".into()).into())
}

async fn remove(app: &App, id: &str, request: Request) -> Result<Response, No> {
    let (parts, _) = request.into_parts();
    let source = admitted(app, &parts).await?;
    for _ in 0..ATTEMPTS {
        let (object, ..) = own(app, &parts, id).await?;
        if app.store.apply(desk(app, &source).remove(&object)).await?.applied() {
            metrics::counter!("client_registrations_total", "outcome" => "removed").increment(1);
            let mut response = reply::json(StatusCode::NO_CONTENT, Bytes::new());
            response.headers_mut().remove(header::CONTENT_TYPE);
            return Ok(response);
        }
    }
    Err(StoreError::Unavailable("the client's record kept changing".into()).into())
}
