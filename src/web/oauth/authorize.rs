//! The authorization endpoint (RFC 6749 §3.1, OpenID Connect Core §3.1.2).
use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::HeaderMap;
use ledger::{ArtefactKind, Change, StoreError};
use protocol::{
    Client, Code, Evidence, ResourceServer,
    authorize::{self, Caller, Desk, Endpoint, Params, Refusal, Voice, pushed, request_object::Came, resource},
    client_auth::KnownClient,
};

use super::request_object;
use crate::{
    App,
    account::{Posted, Source, flow::Walk},
    csrf, documents,
    pages::{self, Refused},
    sessions::Browser,
};

/// `GET /authorize`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, authorize(&app, &headers, (from.0, true), &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /authorize`: clients may post from their own site; the cookie that such a post leaves at home comes with the GET it becomes.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    let result = match posted.params {
        // What was left out would not be missed after a carry-over.
        Ok(params) if params.is_malformed() => authorize(&app, &headers, (posted.source, false), &params).await,
        Ok(params) if csrf::is_cross_site(&headers, &app.settings.issuer) => Ok(pages::carry_over(&app, "/authorize", &params)),
        Ok(params) => authorize(&app, &headers, (posted.source, false), &params).await,
        Err(why) => Err(why),
    };
    pages::finish(&app, result)
}

/// `at_once`: the answer may be a page and not the way to one.
async fn authorize(app: &App, headers: &HeaderMap, (source, at_once): (IpAddr, bool), params: &Params) -> Result<Response, Refused> {
    let known = documents::client(app, authorize::client_id(params)?, source).await?;
    if let Some(uri) = pushed::named(params) {
        let request = taken(app, known.as_deref(), uri).await?;
        let known = known.ok_or(Refused::stale())?;
        // A pushed request is taken once: what it leads to has to bear loading again (RFC 9126 §4).
        return begin(app, headers, (source, false), &known, request).await;
    }
    let client = known.as_ref().map(|k| &k.client);
    let unpacked = match client {
        Some(client) => request_object::unpacked(app, client, params, Came::Authorize).await,
        None => Ok(None),
    };
    let params = match &unpacked {
        Ok(Some(inside)) => inside,
        _ => params,
    };
    let caller = match (authorize::recognise(params, client.map(AsRef::as_ref), app.settings.profile), &unpacked) {
        // What is wrong with a request object is told where its answer would have gone, if that is known without it.
        (Err(_), Err(refusal)) => return Err((*refusal).into()),
        (caller, _) => caller?,
    };
    let Some(known) = &known else { return Err(Refused::stale()) };
    let client = &known.client;
    if let Err(refusal) = unpacked {
        return Ok(refused(app, client, &caller, refusal));
    }
    let server = server(app, params, client).await?;
    let checked = {
        let (ring, evidence) = (app.keys.load(), Evidence::default());
        let desk = Desk { client, settings: &app.settings, server: server.as_deref(), keys: ring.keys(), evidence: &evidence };
        authorize::accept(Endpoint::Authorize, caller, params, &desk)
    };
    match checked {
        Ok(request) => begin(app, headers, (source, at_once), known, request).await,
        Err(wrong) => Ok(refused(app, client, &wrong.0, wrong.1)),
    }
}

/// The registered API a request is for, if it is for one.
pub(crate) async fn server(app: &App, params: &Params, client: &Client) -> Result<Option<Arc<ResourceServer>>, StoreError> {
    match resource::target(params, client, &app.settings) {
        Ok(target) if target != app.settings.issuer => app.catalog.resource_server(&target).await,
        _ => Ok(None),
    }
}

/// The pushed request behind a reference; nothing beside it counts (RFC 9126 §4).
async fn taken(app: &App, known: Option<&KnownClient>, uri: &str) -> Result<authorize::Request, Refused> {
    let unknown = Refusal::new(Code::InvalidClient, "this client is not known here");
    let client = known.map(|k| &k.client).filter(|c| !c.disabled).ok_or(unknown)?;
    let presented = pushed::presented(uri, &app.mac)?;
    let row = app.store.artefact(ArtefactKind::Pushed, &presented.id).await?;
    let pending = pushed::take(row.as_ref(), &presented, &client.client_id, app.clock.now())?;
    pending.resume(Some(client), &app.settings.issuer).ok_or(Refused::stale())
}

fn refused(app: &App, client: &Client, caller: &Caller, refusal: Refusal) -> Response {
    tracing::debug!(client = %caller.client_id, error = refusal.code.as_str(), why = refusal.hears, "authorization request refused");
    let keys = app.keys.load();
    let voice = Voice { settings: &app.settings, client, keys: &keys, now: app.clock.now() };
    pages::answer(app, &caller.back.refuse(voice, refusal))
}

/// A checked request meets the person at the browser.
async fn begin(
    app: &App,
    headers: &HeaderMap,
    (source, at_once): (IpAddr, bool),
    known: &KnownClient,
    request: authorize::Request,
) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let session = browser.sign_on().await?;
    let registered = known.unchanged();
    let (client, change) = (Arc::clone(&known.client), Change::new());
    let (browser, fresh, chosen, open) = (&browser, false, false, None);
    Walk { app, browser, source, client, registered, request, session, fresh, chosen, open, change, at_once }.go().await
}
