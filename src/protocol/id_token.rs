//! ID tokens (OpenID Connect Core §2).
use serde::Serialize;
use serde_json::{Map, Value};
use tokens::{Alg, hash, id, sign::SigningKey};

use crate::{Client, OAuthError, Profile, issue::Context, pairwise, signing, stored::Authentication};

/// Seconds an ID token may be used for.
pub const TTL: i64 = 3600;

/// What an ID token tells.
pub struct About<'a> {
    /// Whom it tells.
    pub client: &'a Client,
    /// About whom.
    pub subject: &'a str,
    /// Its `sid`.
    pub session: Option<&'a str>,
    /// How the person was authenticated.
    pub authentication: &'a Authentication,
    /// Echoed unchanged.
    pub nonce: Option<&'a str>,
    /// The access token beside it, for `at_hash`.
    pub access_token: &'a str,
    /// What the `claims` parameter asked for by name (Core §5.5).
    pub asked: Map<String, Value>,
}

/// What comes through the browser beside an ID token (Core §3.3.2.11; `s_hash`: FAPI 1.0 Advanced §5.2.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The code, for `c_hash`.
    pub code: Option<&'a str>,
    /// The `state`, for `s_hash`.
    pub state: Option<&'a str>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    iat: i64,
    auth_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    amr: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    at_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    jti: String,
    #[serde(flatten)]
    asked: &'a Map<String, Value>,
}

/// The key of a client's ID and logout tokens: of the algorithm it registered, else RS256 (OpenID Connect Registration §2); FAPI 2.0
/// knows no RS256 (Security Profile §5.4.1).
///
/// # Errors
/// `server_error` if no key signs that algorithm.
pub fn key<'a>(ctx: &Context<'a>, client: &Client) -> Result<&'a SigningKey, OAuthError> {
    let usual = if ctx.settings.profile == Profile::Fapi2 { Alg::ES256 } else { Alg::RS256 };
    signing::key(ctx.keys, ctx.settings.profile, client.id_token_signed_response_alg.as_deref(), usual)
}

/// Signs an ID token with the algorithm the client registered (default RS256).
///
/// # Errors
/// `server_error` if no key signs that algorithm.
pub fn sign(ctx: &Context<'_>, about: &About<'_>) -> Result<String, OAuthError> {
    sign_beside(ctx, about, &Beside::default())
}

/// The same for one that comes through the browser. Without an access token beside it, it has no `at_hash`.
///
/// # Errors
/// As [`sign`].
pub fn sign_beside(ctx: &Context<'_>, about: &About<'_>, beside: &Beside<'_>) -> Result<String, OAuthError> {
    let key = key(ctx, about.client)?;
    let now = ctx.now();
    let claims = Claims {
        iss: &ctx.settings.issuer,
        sub: &pairwise::subject(about.client, about.subject, ctx.mac),
        aud: &about.client.client_id,
        exp: now + TTL,
        iat: now,
        auth_time: about.authentication.auth_time.min(now),
        nonce: about.nonce,
        acr: about.authentication.acr.as_deref().filter(|acr| !acr.is_empty()),
        amr: &about.authentication.amr,
        at_hash: Some(about.access_token).filter(|t| !t.is_empty()).map(|t| hash::half(key.alg(), t)),
        c_hash: beside.code.map(|c| hash::half(key.alg(), c)),
        s_hash: beside.state.map(|s| hash::half(key.alg(), s)),
        sid: about.session,
        jti: id::text(&id::new_id(ctx.now_ms, ctx.entropy)),
        asked: &about.asked,
    };
    key.sign_jwt("JWT", &claims).map_err(|e| OAuthError::fault(e.to_string()))
}
