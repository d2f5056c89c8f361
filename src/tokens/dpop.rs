//! Proof of possession of a key for one request (RFC 9449 §4).

/// A believed proof: its signature is its key's own, and it is about this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The RFC 7638 thumbprint of its key.
    pub jkt: String,
    /// Its one-time id.
    pub jti: String,
    /// Seconds since the epoch.
    pub iat: i64,
}
