//! Authorization responses as signed JWTs (JWT Secured Authorization Response Mode for OAuth 2.0, JARM §2).
use serde_json::{Map, Value};
use tokens::Alg;

use super::answer::{Pairs, Voice};
use crate::{Client, OAuthError, Profile, Settings, signing};

/// Seconds a response may be used for: JARM §2.1 recommends at most ten minutes.
pub const TTL: i64 = 300;

/// How the responses of a client that registered nothing are signed: RS256 (JARM §3), except where FAPI 2.0 forbids that.
fn usual(client: &Client, settings: &Settings) -> Alg {
    let fapi = settings.profile == Profile::Fapi2 || client.require_signed_request_object;
    if fapi { Alg::ES256 } else { Alg::RS256 }
}

/// The response: who says it, to whom, until when, and what.
pub(super) fn response(voice: Voice<'_>, pairs: &Pairs) -> Result<String, OAuthError> {
    let usual = usual(voice.client, voice.settings);
    let registered = voice.client.authorization_signed_response_alg.as_deref();
    let key = signing::key(voice.keys, voice.settings.profile, registered.filter(|name| *name != "RS256"), usual)?;
    let mut claims: Map<String, Value> = pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
    claims.insert("iss".into(), Value::from(voice.settings.issuer.as_str()));
    claims.insert("aud".into(), Value::from(voice.client.client_id.as_str()));
    claims.insert("iat".into(), Value::from(voice.now));
    claims.insert("exp".into(), Value::from(voice.now + TTL));
    key.sign_jwt("JWT", &claims).map_err(|e| OAuthError::fault(e.to_string()))
}

/// Metadata: how responses can be signed (JARM §4).
pub(crate) fn metadata(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("authorization_signing_alg_values_supported".into(), Value::from(signing::names(settings)));
}
