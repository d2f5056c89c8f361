//! Shared signals (OpenID Shared Signals Framework 1.0, CAEP 1.0): what happens here, told to receivers elsewhere as security event tokens.
//!
//! Read in this order: [`stream`] (what a receiver asked for and how far it has got), [`subject`] (whom an event is about),
//! [`event`] (ledger events as security event tokens, RFC 8417), [`poll`] (RFC 8936), [`received`] (the other direction).
//!
//! A stream is a position in the ledger: nothing is written for an event that is told, and none is lost with the process.
pub mod event;
pub mod poll;
pub mod received;
pub mod stream;
pub mod subject;

/// A session, or everything somebody had, has ended (CAEP §3.1).
pub const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
/// Claims in tokens have changed (CAEP §3.2).
pub const TOKEN_CLAIMS_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/token-claims-change";
/// A credential was set, changed or removed (CAEP §3.3).
pub const CREDENTIAL_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
/// Proof that a stream works (SSF §8.1.4); never asked for by name.
pub const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
/// A stream's status has changed (SSF §8.1.5); never asked for by name.
pub const STREAM_UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";

/// What receivers may ask for.
pub const SUPPORTED: [&str; 3] = [SESSION_REVOKED, TOKEN_CLAIMS_CHANGE, CREDENTIAL_CHANGE];

/// Delivery by push (RFC 8935).
pub const PUSH: &str = "urn:ietf:rfc:8935";
/// Delivery by poll (RFC 8936).
pub const POLL: &str = "urn:ietf:rfc:8936";

/// The scope a receiver's access token needs.
pub const SCOPE: &str = "doorward.signals";

/// The transmitter's metadata (SSF §7.1).
#[must_use]
pub fn metadata(settings: &crate::Settings) -> serde_json::Value {
    serde_json::json!({
        "spec_version": "1_0",
        "issuer": settings.issuer,
        "jwks_uri": settings.url("/jwks"),
        "delivery_methods_supported": [PUSH, POLL],
        "configuration_endpoint": settings.url("/ssf/streams"),
        "status_endpoint": settings.url("/ssf/status"),
        "add_subject_endpoint": settings.url("/ssf/subjects:add"),
        "remove_subject_endpoint": settings.url("/ssf/subjects:remove"),
        "verification_endpoint": settings.url("/ssf/verify"),
        "default_subjects": "ALL",
        "authorization_schemes": [{"spec_urn": "urn:ietf:rfc:6749"}],
    })
}
