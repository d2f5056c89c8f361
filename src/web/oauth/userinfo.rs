//! The userinfo endpoint (OpenID Connect Core §5.3; bearer tokens: RFC 6750).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use protocol::{Evidence, Form, OAuthError, pairwise, stored::GrantDocument, userinfo};
use tokens::confirmation::Scheme;

use super::{evidence, form, read};
use crate::{
    App,
    app::PeerCertificate,
    credential,
    reply::{self, Failed},
};

/// `GET /userinfo`, `POST /userinfo`
pub(crate) async fn any(State(app): State<Arc<App>>, request: Request) -> Response {
    let response = serve(&app, request).await.unwrap_or_else(IntoResponse::into_response);
    evidence::tell(&app, response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = if parts.method == Method::POST { read(&parts, body).await? } else { Bytes::new() };
    let posted =
        if octets.is_empty() || !parts.headers.contains_key(header::CONTENT_TYPE) { Form::default() } else { form(&parts, &octets)? };
    let (scheme, token) = match (credential::presented(&parts.headers)?, posted.get("access_token")) {
        (Some(_), Some(_)) => return Err(Failed::Bearer(Some(OAuthError::request("more than one access token")))),
        (Some(shown), None) => shown,
        (None, Some(token)) => (Scheme::Bearer, token),
        (None, None) => return Err(Failed::Bearer(None)),
    };
    let proved = proved(app, &parts, scheme, token)?;
    let seen = credential::demand_proved(app, scheme, token, "openid", &proved).await?;
    evidence::spend(app, &proved).await.map_err(challenge)?;
    let refused = || Failed::Bearer(Some(credential::invalid()));
    let grant = app.store.grant(seen.known.grant.as_deref().ok_or_else(refused)?).await?;
    let grant = grant.filter(|g| g.ended_at.is_none()).ok_or_else(refused)?;
    let user = app.catalog.user(&seen.known.subject).await?.filter(|u| !u.disabled).ok_or_else(refused)?;
    let asked = serde_json::from_value::<GrantDocument>(grant.document).ok().and_then(|d| d.claims);
    let mut claims = userinfo::claims(&user, &seen.known.scope, asked.as_ref());
    let known = app.catalog.client(&seen.known.client_id).await?.ok_or_else(refused)?;
    claims.insert("sub".into(), pairwise::subject(&known.client, &user.id, &app.mac).into());
    if known.client.userinfo_signed_response_alg.is_some() {
        let jwt = userinfo::sign(claims, &known.client, &app.keys.load(), &app.settings)?;
        return Ok(reply::jwt("application/jwt", jwt));
    }
    let body = serde_json::to_vec(&claims).map_err(|e| OAuthError::fault(e.to_string()))?;
    Ok(reply::json(StatusCode::OK, Bytes::from(body)))
}

/// What a request with a token proves. A proof belongs to the scheme `DPoP`, which has to have one.
fn proved(app: &App, parts: &http::request::Parts, scheme: Scheme, token: &str) -> Result<Evidence, Failed> {
    if scheme == Scheme::Bearer {
        let certificate = parts.extensions.get::<PeerCertificate>().map(|peer| peer.0.clone());
        return Ok(Evidence { proof: None, certificate });
    }
    let proved = evidence::evidence(app, parts, "/userinfo", Some(token)).map_err(challenge)?;
    if proved.proof.is_none() {
        return Err(Failed::Bound(protocol::evidence::refused("there is no proof")));
    }
    Ok(proved)
}

/// At a resource a wrong proof is a challenge (RFC 9449 §7.1).
fn challenge(failed: Failed) -> Failed {
    match failed {
        Failed::Refused(error) => Failed::Bound(error),
        other => other,
    }
}
