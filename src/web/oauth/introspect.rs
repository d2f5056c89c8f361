//! The introspection endpoint (RFC 7662 §2).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::api_key;
use http::{StatusCode, header, request::Parts};
use ledger::ArtefactKind;
use protocol::{
    AuthenticatedClient, OAuthError,
    client_auth::Method,
    introspect::{self, RefreshFound},
    introspect_jwt, pairwise,
    stored::RefreshDocument,
};
use tokens::secret::SecretKind;

use super::{client, form, octets, once};
use crate::{
    App,
    credential::{self, Asker},
    reply::{self, Failed},
};

/// `POST /introspect`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await;
    answer(&app, &parts, octets).await
}

/// The same, with the body read.
pub(crate) async fn answer(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Response {
    serve(app, parts, octets).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Result<Response, Failed> {
    let octets = octets?;
    let form = form(parts, &octets)?;
    let caller = client(app, "introspect", parts, &form).await?;
    if caller.method() == Method::None {
        return Err(OAuthError::client("introspection needs a client that can prove who it is").into());
    }
    let token = form.get("token").ok_or(OAuthError::request("token is missing"))?;
    once::spend_alone(app, "introspect", parts, &caller).await?;
    let answer = if token.starts_with(SecretKind::Refresh.prefix()) {
        Box::pin(refresh(app, &caller, token)).await?
    } else if form.get("token_type_hint") == Some(api_key::HINT) {
        Box::pin(key(app, &caller, token)).await?
    } else {
        access(app, &caller, token).await?
    };
    let accept = parts.headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    if introspect_jwt::wanted(caller.client(), accept) {
        let jwt = introspect_jwt::sign(&answer, caller.client(), &app.keys.load(), &app.settings, app.clock.now())?;
        return Ok(reply::jwt(introspect_jwt::MEDIA_TYPE, jwt));
    }
    Ok(reply::json(StatusCode::OK, answer))
}

const INACTIVE: Bytes = Bytes::from_static(introspect::INACTIVE);

async fn access(app: &App, caller: &AuthenticatedClient, token: &str) -> Result<Bytes, Failed> {
    let Some(seen) = credential::look(app, Asker::of(caller), token).await? else { return Ok(INACTIVE) };
    let server = match seen.known.audience.first() {
        Some(audience) if *audience != app.settings.issuer => app.catalog.resource_server(audience).await?,
        _ => None,
    };
    let entitled = introspect::entitled(caller.client(), &seen.known, server.as_deref(), &app.settings);
    if entitled
        && seen.known.client_id == caller.id()
        && let Some(own) = pairwise::own_view(caller.client(), &seen.answer, &app.mac)
    {
        return Ok(Bytes::from(own));
    }
    Ok(if entitled { seen.answer.clone() } else { INACTIVE })
}

/// What an API key is, for the gateways of this server alone. Whoever does not say that it asks about a key is told of none.
async fn key(app: &App, caller: &AuthenticatedClient, text: &str) -> Result<Bytes, Failed> {
    if caller.client().is_public() || !protocol::scope::list_has(&caller.client().scope, "doorward.introspect") {
        return Ok(INACTIVE);
    }
    let now = app.clock.now();
    let found = api_key::look(&*app.store, &app.mac, &app.settings.issuer, text, now).await?;
    metrics::counter!("api_key_lookups_total", "outcome" => if found.is_some() { "active" } else { "inactive" }).increment(1);
    let Some(found) = found else { return Ok(INACTIVE) };
    app.key_uses.note(&found.id, found.version, now);
    Ok(Bytes::from(found.answer.to_string()))
}

async fn refresh(app: &App, caller: &AuthenticatedClient, token: &str) -> Result<Bytes, Failed> {
    let found = credential::issued(app, Asker::of(caller), (SecretKind::Refresh, ArtefactKind::Refresh), token).await?;
    let Some((presented, artefact)) = found else { return Ok(INACTIVE) };
    if !presented.matches(&artefact.mac) {
        return Ok(INACTIVE);
    }
    let document: RefreshDocument = serde_json::from_str(&artefact.document).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    let grant = match &artefact.grant {
        Some(id) => app.store.grant(id).await?,
        None => None,
    };
    let user = app.catalog.user(&document.subject).await?;
    let found = RefreshFound { artefact: &artefact, document: &document, grant: grant.as_ref(), user: user.as_deref() };
    let told = introspect::refresh(caller.client(), &found, &app.settings, app.clock.now());
    Ok(Bytes::from(pairwise::own_view(caller.client(), &told, &app.mac).unwrap_or(told)))
}
