//! The authorization endpoint (RFC 6749 §3.1, OpenID Connect Core §3.1.2).
use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::HeaderMap;
use ledger::Change;
use protocol::authorize::{self, Desk, Endpoint, Params, resource};

use crate::{
    App,
    account::{Posted, Source, flow::Walk},
    csrf,
    pages::{self, Refused},
    sessions::Browser,
};

/// `GET /authorize`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, authorize(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /authorize`: clients may post from their own site; the cookie that such a post leaves at home comes with the GET it becomes.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    let result = match posted.params {
        // What was left out would not be missed after a carry-over.
        Ok(params) if params.is_malformed() => authorize(&app, &headers, posted.source, &params).await,
        Ok(params) if csrf::is_cross_site(&headers, &app.settings.issuer) => Ok(pages::carry_over(&app, "/authorize", &params)),
        Ok(params) => authorize(&app, &headers, posted.source, &params).await,
        Err(why) => Err(why),
    };
    pages::finish(&app, result)
}

async fn authorize(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let known = app.catalog.client(authorize::client_id(params)?).await?;
    let client = known.as_ref().map(|k| &k.client);
    let caller = authorize::recognise(params, client.map(AsRef::as_ref))?;
    let Some(known) = &known else { return Err(Refused::stale()) };
    let client = &known.client;
    let issuer = app.settings.issuer.as_str();
    let server = match resource::target(params, client, &app.settings) {
        Ok(target) if target != issuer => app.catalog.resource_server(&target).await?,
        _ => None,
    };
    let checked = {
        let ring = app.keys.load();
        let desk = Desk { client, settings: &app.settings, server: server.as_deref(), keys: ring.keys() };
        authorize::accept(Endpoint::Authorize, caller, params, &desk)
    };
    let request = match checked {
        Ok(request) => request,
        Err(refused) => {
            let (caller, refusal) = *refused;
            tracing::debug!(client = %caller.client_id, error = refusal.code.as_str(), why = refusal.hears, "authorization request refused");
            return Ok(pages::answer(app, &caller.back.refuse(issuer, refusal)));
        }
    };
    let browser = Browser::of(app, headers);
    let session = browser.sign_on().await?;
    let registered = known.unchanged();
    let (client, change) = (Arc::clone(&known.client), Change::new());
    let walk =
        Walk { app, browser: &browser, source, client, registered, request, session, fresh: false, chosen: false, open: None, change };
    walk.go().await
}
