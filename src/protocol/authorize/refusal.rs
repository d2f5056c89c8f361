//! Why an authorization request is refused, in words a client may hear (RFC 6749 §4.1.2.1).
use crate::{Code, OAuthError};

/// A refusal: the code and what the client hears. Only characters of RFC 6749 §4.1.2.1 (`%x20-21 / %x23-5B / %x5D-7E`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The wire code.
    pub code: Code,
    /// `error_description`.
    pub hears: &'static str,
}

impl Refusal {
    /// A refusal with its description.
    #[must_use]
    pub const fn new(code: Code, hears: &'static str) -> Self {
        Self { code, hears }
    }
}

impl From<OAuthError> for Refusal {
    fn from(error: OAuthError) -> Self {
        Self::new(error.code, error.description)
    }
}
