//! The revocation endpoint (RFC 7009 §2).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use ledger::{ArtefactKind, Change};
use protocol::{AuthenticatedClient, OAuthError, Settings, revoke, stored::RefreshDocument};
use tokens::secret::{self, SecretKind};

use super::{client, form, octets, once};
use crate::{
    App,
    credential::{self, Asker},
    reply::{self, Failed},
};

/// `POST /revoke`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await;
    answer(&app, &parts, octets).await
}

/// The same, with the body read.
pub(crate) async fn answer(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Response {
    serve(app, parts, octets).await.unwrap_or_else(IntoResponse::into_response)
}

/// Whatever the token is, its text says: `token_type_hint` could only point at the same place (RFC 7009 §2.1).
async fn serve(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Result<Response, Failed> {
    let octets = octets?;
    let form = form(parts, &octets)?;
    let caller = client(app, "revoke", parts, &form).await?;
    let token = form.get("token").ok_or(OAuthError::request("token is missing"))?;
    let change = if token.starts_with(SecretKind::Refresh.prefix()) {
        refresh(app, &caller, token).await?
    } else {
        access(app, &caller, token).await?
    };
    match change {
        Some(change) => once::spend(app, "revoke", parts, &caller, change).await.map(drop)?,
        None => once::spend_alone(app, "revoke", parts, &caller).await?,
    }
    Ok(reply::json(StatusCode::OK, Bytes::new()))
}

/// Unknown, expired and already revoked tokens need nothing (RFC 7009 §2.2).
async fn access(app: &App, caller: &AuthenticatedClient, token: &str) -> Result<Option<Change>, Failed> {
    let Some(seen) = credential::within(app, Asker::of(caller), token, Settings::LEEWAY).await? else { return Ok(None) };
    Ok(Some(revoke::access(caller, &seen.known, seen.row.as_deref(), app.clock.now_ms())?))
}

async fn refresh(app: &App, caller: &AuthenticatedClient, token: &str) -> Result<Option<Change>, Failed> {
    let found = credential::issued(app, Asker::of(caller), (SecretKind::Refresh, ArtefactKind::Refresh), token).await?;
    let Some((_, artefact)) = found.filter(|(p, a)| p.matches(&a.mac) || secret::is_link(SecretKind::Refresh, token, &app.mac)) else {
        return Ok(None);
    };
    let document: RefreshDocument = serde_json::from_str(&artefact.document).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    let grant = match &artefact.grant {
        Some(id) => app.store.grant(id).await?,
        None => None,
    };
    Ok(revoke::refresh(caller, &document, grant.as_ref(), app.clock.now_ms())?)
}
