//! Workload identity: the token a platform gave a workload proves the client it is (RFC 7523 §3, RFC 7521 §4.2).
//!
//! Such a token is the platform's, used by its workload for as long as it lives: it is not one-time.
use serde_json::Value;

use super::{Means, assertion};
use crate::{OAuthError, client::Workload};

/// Looks whether a trusted issuer's token is the registered workload's, for this server, now.
///
/// # Errors
/// `invalid_client`.
pub(super) fn believe(shown: &assertion::Shown, workload: &Workload, means: &Means<'_>) -> Result<(), OAuthError> {
    let refuse = OAuthError::client;
    let parsed = shown.parse()?;
    if parsed.typ.is_some() && !parsed.is_typ("JWT") {
        return Err(refuse("the typ of the workload's token is another"));
    }
    if !means.issuer_algorithms.contains(&parsed.alg) {
        return Err(refuse("the workload's token is signed with an algorithm that is not allowed"));
    }
    let key = means.keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(refuse("no key of the issuer's fits the workload's token"))?;
    let claims = parsed.verify(key).map_err(|_| refuse("the signature of the workload's token is wrong"))?.into_inner();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&workload.issuer) || text("sub") != Some(&workload.subject) {
        return Err(refuse("the token is of another workload"));
    }
    let wanted = workload.audience.as_deref().unwrap_or(&means.settings.issuer);
    let named = match claims.get("aud") {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(several)) => several.iter().any(|one| one == wanted),
        _ => false,
    };
    if !named {
        return Err(refuse("the workload's token is for somebody else"));
    }
    assertion::times(&claims, means.now).map(drop)
}
