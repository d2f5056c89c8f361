//! The issuer in every authorization response (RFC 9207): a client of several servers cannot be confused about whose answer it holds.

/// The response parameter.
#[must_use]
pub const fn parameter(issuer: &str) -> (&'static str, &str) {
    ("iss", issuer)
}
