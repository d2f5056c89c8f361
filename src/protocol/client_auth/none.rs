//! `none`: a public client names itself (RFC 6749 §3.2.1).
use super::{Method, Presented};
use crate::{Form, OAuthError};

/// Reads `client_id`.
///
/// # Errors
/// `invalid_client` when it is missing.
pub fn present(form: &Form<'_>) -> Result<Presented, OAuthError> {
    let Some(client_id) = form.get("client_id") else { return Err(OAuthError::client("no client authentication")) };
    Ok(Presented { client_id: client_id.to_owned(), method: Method::None, secrets: Vec::new(), assertion: None })
}
