//! `client_secret_post`: the secret in the body (RFC 6749 §2.3.1).
use tokens::secret::Plain;

use super::{Method, Presented};
use crate::{Form, OAuthError};

/// Reads `client_id` and `client_secret`.
///
/// # Errors
/// `invalid_client` when either is missing.
pub fn present(form: &Form<'_>) -> Result<Presented, OAuthError> {
    let (Some(client_id), Some(secret)) = (form.get("client_id"), form.get("client_secret")) else {
        return Err(OAuthError::client("client_id or client_secret is empty"));
    };
    Ok(Presented { client_id: client_id.to_owned(), method: Method::Post, secrets: vec![Plain::new(secret.to_owned())], assertion: None })
}
