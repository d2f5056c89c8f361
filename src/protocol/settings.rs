//! The numbers and names a deployment chooses, as the protocol sees them.

/// Lifetimes and identity of the authorization server. Durations in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Exact issuer identifier (RFC 8414 §2), no trailing slash unless configured so.
    pub issuer: String,
    pub code_ttl: i64,
    pub access_token_ttl: i64,
    /// Absolute lifetime of a refresh family.
    pub refresh_token_ttl: i64,
    /// A refresh token unused for this long is dead.
    pub refresh_idle: i64,
    /// Retry window for the immediate predecessor, 0..=10.
    pub refresh_grace: i64,
    pub session_ttl: i64,
    /// How long a login or consent page may wait.
    pub interaction_ttl: i64,
}

impl Settings {
    /// The longest any access token may live (bounds how long a revocation must be remembered).
    pub const MAX_ACCESS_TOKEN_TTL: i64 = 24 * 3600;
    /// Clock leeway accepted, seconds.
    pub const LEEWAY: i64 = 10;

    /// The contract's defaults for an issuer.
    #[must_use]
    pub fn for_issuer(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            code_ttl: 60,
            access_token_ttl: 300,
            refresh_token_ttl: 30 * 86400,
            refresh_idle: 7 * 86400,
            refresh_grace: 0,
            session_ttl: 12 * 3600,
            interaction_ttl: 1800,
        }
    }

    /// An endpoint of the issuer.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer.trim_end_matches('/'))
    }
}
