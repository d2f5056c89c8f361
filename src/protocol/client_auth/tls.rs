//! `tls_client_auth`: a certificate of a trusted authority names the client (RFC 8705 §2.1).
use tokens::certificate::Certificate;

use crate::{Client, OAuthError};

/// Looks whether a certificate is the client's: its chain is verified, and the one name that was registered is in it.
///
/// # Errors
/// `invalid_client`.
pub(super) fn believe(shown: Option<&Certificate>, client: &Client, now: i64) -> Result<(), OAuthError> {
    let certificate = shown.ok_or(OAuthError::client("no client certificate"))?;
    if !certificate.is_trusted() {
        return Err(OAuthError::client("the client certificate is of no trusted authority"));
    }
    valid(certificate, now)?;
    let mut registered = names(client).into_iter().filter_map(|(_, name, is)| Some((name?, is)));
    match (registered.next(), registered.next()) {
        (Some((name, is)), None) if is(certificate, name) => Ok(()),
        _ => Err(OAuthError::client("the client certificate names somebody else")),
    }
}

/// Whether a certificate is in its time.
///
/// # Errors
/// `invalid_client`.
pub(super) fn valid(certificate: &Certificate, now: i64) -> Result<(), OAuthError> {
    match certificate.validity() {
        Some((from, until)) if from <= now.saturating_add(crate::Settings::LEEWAY) && now <= until => Ok(()),
        _ => Err(OAuthError::client("the client certificate is not valid now")),
    }
}

type Is = fn(&Certificate, &str) -> bool;

/// The names a client may register, and how each is compared (RFC 8705 §2.1.2).
pub(crate) fn names(client: &Client) -> [(&'static str, Option<&str>, Is); 5] {
    [
        ("tls_client_auth_subject_dn", client.tls_client_auth_subject_dn.as_deref(), Certificate::subject_is),
        ("tls_client_auth_san_dns", client.tls_client_auth_san_dns.as_deref(), Certificate::has_dns),
        ("tls_client_auth_san_uri", client.tls_client_auth_san_uri.as_deref(), Certificate::has_uri),
        ("tls_client_auth_san_ip", client.tls_client_auth_san_ip.as_deref(), Certificate::has_ip),
        ("tls_client_auth_san_email", client.tls_client_auth_san_email.as_deref(), Certificate::has_email),
    ]
}
