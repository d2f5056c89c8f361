//! The rows that decisions read and change.
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kinds of short-lived things. All share one port: put, find, consume, purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtefactKind {
    /// An authorization code (RFC 6749 §4.1.2).
    Code,
    /// A refresh token (RFC 6749 §1.5).
    Refresh,
    /// An opaque access token (RFC 6749 §1.4).
    Access,
    /// A one-time assertion or proof id (`jti`).
    Jti,
    /// An authorization request waiting for a person.
    Interaction,
    /// A form that works once.
    Form,
    /// A browser's cookie session.
    Browser,
    /// A pushed authorization request (RFC 9126).
    Pushed,
    /// A device code (RFC 8628).
    DeviceCode,
    /// A CIBA request.
    Backchannel,
    /// An enrolment or initial access token.
    Enrolment,
    /// A token's place in a status list: the list's id and its bit.
    Status,
    /// A client that was told of a session and wants to be told of its end. Its `grant` is the session.
    Participant,
    /// A browser that a gateway sent to log in.
    Login,
    /// A browser's session at a gateway.
    GatewaySession,
    /// A version of an API key: the id is the keyed MAC of the whole key, the `grant` whose key it is (`client:…`, `subject:…`, `device:…`).
    ApiKey,
}

impl ArtefactKind {
    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Refresh => "refresh",
            Self::Access => "access",
            Self::Jti => "jti",
            Self::Interaction => "interaction",
            Self::Form => "form",
            Self::Browser => "browser",
            Self::Pushed => "pushed",
            Self::DeviceCode => "device_code",
            Self::Backchannel => "backchannel",
            Self::Enrolment => "enrolment",
            Self::Status => "status",
            Self::Participant => "participant",
            Self::Login => "login",
            Self::GatewaySession => "gateway_session",
            Self::ApiKey => "api_key",
        }
    }
}

/// A short-lived thing: a code, a refresh token, a one-time id.
#[derive(Debug, Clone, PartialEq)]
pub struct Artefact {
    /// What it is.
    pub kind: ArtefactKind,
    /// Its public part (time-ordered 16 octets for tokens, a hash for foreign ids). Unique within the kind.
    pub id: Vec<u8>,
    /// The keyed MAC of its secret part; empty when the id is the whole secret's hash.
    pub mac: Vec<u8>,
    /// The grant it belongs to: ends with it.
    pub grant: Option<String>,
    /// Everything else, JSON text.
    pub document: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch; at or after this second it does not exist any more.
    pub expires_at: i64,
    /// When it was consumed, if it was.
    pub consumed_at: Option<i64>,
    /// What took its place when it was consumed (the id of a rotated refresh token's successor); of a row that was rotated in its place, when
    /// (milliseconds, big-endian), if that matters.
    pub successor: Option<Vec<u8>>,
    /// The ledger head this node knew when it was made (0 before the store fills it in).
    pub seq: u64,
}

/// What a subject gave a client, and everything issued from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Time-ordered random id, carried in tokens as the private claim `grant`.
    pub id: String,
    /// Whose it is.
    pub subject: String,
    /// Who holds it.
    pub client_id: String,
    /// The session it began in.
    pub session: Option<String>,
    /// Space-separated, sorted.
    pub scope: String,
    /// Resource, claims request, nonce, auth_time and whatever the grant's kind needs.
    pub document: Value,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch.
    pub expires_at: i64,
    /// When it ended, if it did.
    pub ended_at: Option<i64>,
}

/// A single sign-on session of a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The `sid` of ID tokens.
    pub id: String,
    /// Whose it is.
    pub subject: String,
    /// When the person last proved who they are, seconds since the epoch.
    pub auth_time: i64,
    /// How (RFC 8176 names: `pwd`, `otp`, …).
    pub amr: Vec<String>,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch.
    pub expires_at: i64,
    /// When it ended, if it did.
    pub ended_at: Option<i64>,
    /// Address and agent it began with; clients seen.
    pub document: Value,
}

/// What a person allowed a client, remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// Who allowed.
    pub subject: String,
    /// Whom.
    pub client_id: String,
    /// Which scopes, sorted.
    pub scopes: Vec<String>,
    /// Seconds since the epoch.
    pub granted_at: i64,
}

/// The states of a signing key, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published so that verifiers learn it; does not sign yet.
    Next,
    /// Signs.
    Current,
    /// Does not sign any more; still published until what it signed has expired.
    Retired,
    /// Everything it signed is dead; not published.
    Revoked,
}

impl KeyState {
    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }
    /// The state of that stored name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "next" => Some(Self::Next),
            "current" => Some(Self::Current),
            "retired" => Some(Self::Retired),
            "revoked" => Some(Self::Revoked),
            _ => None,
        }
    }
}

/// A stored signing key. The private part is sealed under the key-encryption key.
#[derive(Clone, PartialEq)]
pub struct KeyRow {
    /// Key id (RFC 7638 thumbprint).
    pub kid: String,
    /// JOSE algorithm name.
    pub alg: String,
    /// Where it is in its life.
    pub state: KeyState,
    /// The public JWK, JSON text.
    pub public_jwk: String,
    /// The sealed PKCS#8 document.
    pub sealed: Vec<u8>,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// When the state last changed, seconds since the epoch.
    pub changed_at: i64,
}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRow").field("kid", &self.kid).field("alg", &self.alg).field("state", &self.state).finish_non_exhaustive()
    }
}
