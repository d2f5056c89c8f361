//! The userinfo endpoint (OpenID Connect Core §5.3; bearer tokens: RFC 6750).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use protocol::{Form, OAuthError, pairwise, stored::GrantDocument, userinfo};

use super::{form, read};
use crate::{
    App, credential,
    reply::{self, Failed},
};

/// `GET /userinfo`, `POST /userinfo`
pub(crate) async fn any(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = if parts.method == Method::POST { read(&parts, body).await? } else { Bytes::new() };
    let posted =
        if octets.is_empty() || !parts.headers.contains_key(header::CONTENT_TYPE) { Form::default() } else { form(&parts, &octets)? };
    let token = match (credential::bearer(&parts.headers)?, posted.get("access_token")) {
        (Some(_), Some(_)) => return Err(Failed::Bearer(Some(OAuthError::request("more than one access token")))),
        (header, body) => header.or(body),
    };
    let seen = credential::demand(app, token, "openid").await?;
    let refused = || Failed::Bearer(Some(credential::invalid()));
    let grant = app.store.grant(seen.known.grant.as_deref().ok_or_else(refused)?).await?;
    let grant = grant.filter(|g| g.ended_at.is_none()).ok_or_else(refused)?;
    let user = app.catalog.user(&seen.known.subject).await?.filter(|u| !u.disabled).ok_or_else(refused)?;
    let asked = serde_json::from_value::<GrantDocument>(grant.document).ok().and_then(|d| d.claims);
    let mut claims = userinfo::claims(&user, &seen.known.scope, asked.as_ref());
    let known = app.catalog.client(&seen.known.client_id).await?.ok_or_else(refused)?;
    claims.insert("sub".into(), pairwise::subject(&known.client, &user.id, &app.mac).into());
    let body = serde_json::to_vec(&claims).map_err(|e| OAuthError::fault(e.to_string()))?;
    Ok(reply::json(StatusCode::OK, Bytes::from(body)))
}
