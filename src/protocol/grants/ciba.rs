//! Client-initiated backchannel authentication at the token endpoint (CIBA Core §10.1, §11): see [`super::decoupled::redeem`].
//!
//! Here is what a client has to be registered as.
use super::CIBA;
use crate::Client;

/// How a client hears of the answer (CIBA Core §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It asks.
    Poll,
    /// It is told that there is an answer, then asks.
    Ping,
}

impl Delivery {
    /// Every way, as metadata lists them.
    pub const ALL: [&'static str; 2] = ["poll", "ping"];

    /// A client's.
    #[must_use]
    pub fn of(client: &Client) -> Option<Self> {
        match client.backchannel_token_delivery_mode.as_deref() {
            Some("poll") => Some(Self::Poll),
            Some("ping") => Some(Self::Ping),
            _ => None,
        }
    }
}

/// How a request object may be signed (FAPI-CIBA §5.2.2): what is not here is not registered.
pub const SIGNING: [&str; 4] = ["ES256", "ES384", "PS256", "EdDSA"];

/// What is wrong with a registration: member and why.
pub(crate) fn mistakes(client: &Client) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    let ciba = client.may_use(CIBA);
    if ciba && client.is_public() {
        found.push(("grant_types", "backchannel authentication needs a client that can prove who it is (CIBA Core §7.1)"));
    }
    match client.backchannel_token_delivery_mode.as_deref() {
        None if ciba => found.push(("backchannel_token_delivery_mode", "poll or ping is needed (CIBA Core §4)")),
        None | Some("poll" | "ping") => {}
        Some(_) => found.push(("backchannel_token_delivery_mode", "not supported; poll or ping")),
    }
    match client.backchannel_client_notification_endpoint.as_deref() {
        None if client.backchannel_token_delivery_mode.as_deref() == Some("ping") => {
            found.push(("backchannel_client_notification_endpoint", "ping needs one (CIBA Core §4)"));
        }
        Some(uri) if !crate::client::is_callable(uri) => {
            found.push(("backchannel_client_notification_endpoint", "must be an https URI without user and fragment"));
        }
        _ => {}
    }
    if let Some(alg) = client.backchannel_authentication_request_signing_alg.as_deref() {
        if !SIGNING.contains(&alg) {
            found.push(("backchannel_authentication_request_signing_alg", "not supported; ES256, ES384, PS256 or EdDSA"));
        } else if client.jwks.is_none() && client.jwks_uri.is_none() {
            found.push(("backchannel_authentication_request_signing_alg", "needs jwks or jwks_uri"));
        }
    }
    found
}
