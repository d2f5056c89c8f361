//! `self_signed_tls_client_auth`: a certificate that the client registered among its keys (RFC 8705 §2.2).
use tokens::certificate::Certificate;

use super::{Keys, tls};
use crate::OAuthError;

/// Looks whether a certificate is one of the client's. Who issued it does not count; its key was proved in the handshake.
///
/// # Errors
/// `invalid_client`.
pub(super) fn believe(shown: Option<&Certificate>, keys: &Keys, now: i64) -> Result<(), OAuthError> {
    let certificate = shown.ok_or(OAuthError::client("no client certificate"))?;
    tls::valid(certificate, now)?;
    if keys.hold(certificate) { Ok(()) } else { Err(OAuthError::client("the client certificate is none of the client's")) }
}
