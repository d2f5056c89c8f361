//! Why a token is not believed, and the proof that one is.
use std::ops::Deref;

/// Why a token was refused. For logs and metrics; a client hears only `invalid_token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Longer than 16 KiB.
    #[error("longer than 16 KiB")]
    TooLong,
    /// Not three segments of canonical base64url holding JSON objects.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A JSON member comes twice.
    #[error("duplicate member")]
    DuplicateMember,
    /// A header parameter that is not supported (`crit`, `b64`, `zip`) or of the wrong type.
    #[error("header: {0}")]
    Header(&'static str),
    /// Not one of the asymmetric algorithms, or not the key's.
    #[error("algorithm")]
    Algorithm,
    /// No key of that id and algorithm.
    #[error("unknown key")]
    UnknownKey,
    /// The signature does not verify.
    #[error("signature")]
    Signature,
    /// Not the expected `typ`.
    #[error("type")]
    Type,
    /// Not the expected issuer.
    #[error("issuer")]
    Issuer,
    /// Not for this audience.
    #[error("audience")]
    Audience,
    /// Expired.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not yet valid")]
    NotYetValid,
    /// A claim is missing or of the wrong type.
    #[error("claim: {0}")]
    Claim(&'static str),
    /// Bound to a key that was not proved (`cnf`, RFC 7800).
    #[error("unproved confirmation")]
    Confirmation,
}

impl Refusal {
    /// A short stable name: the `reason` label of metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::DuplicateMember => "duplicate_member",
            Self::Header(_) => "header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Type => "type",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Claim(_) => "claim",
            Self::Confirmation => "confirmation",
        }
    }
}

/// Something whose signature (and, where the function says so, claims) has been checked. Only this crate makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) const fn new(inner: T) -> Self {
        Self(inner)
    }
    /// The thing itself.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
