//! `client_secret_basic`: HTTP Basic with form-encoded halves (RFC 6749 §2.3.1, RFC 7617).
use base64::Engine;
use tokens::secret::Plain;

use super::{Method, Presented};
use crate::{Form, OAuthError, form};

/// Reads the `Authorization` header.
///
/// # Errors
/// `invalid_client` when it is not readable Basic; `invalid_request` when the body names another client.
pub fn present(header: &[u8], form: &Form<'_>) -> Result<Presented, OAuthError> {
    let (user, password) = credentials(header).ok_or_else(|| OAuthError::client("unreadable Authorization header"))?;
    let decode = |half: &str| form::decode(half.as_bytes()).map(std::borrow::Cow::into_owned);
    let client_id = decode(&user).map_err(|_| OAuthError::client("badly encoded client_id"))?;
    if client_id.is_empty() {
        return Err(OAuthError::client("empty client_id"));
    }
    if form.get("client_id").is_some_and(|named| named != client_id) {
        return Err(OAuthError::request("the body names another client"));
    }
    // Many clients send the secret without encoding it first: what it says either way may be meant.
    let mut secrets = Vec::with_capacity(2);
    if let Ok(decoded) = decode(&password)
        && decoded != password
    {
        secrets.push(Plain::new(decoded));
    }
    secrets.push(Plain::new(password));
    Ok(Presented { client_id, method: Method::Basic, secrets, assertion: None })
}

fn credentials(header: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(header).ok()?;
    let (scheme, value) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let octets = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok()?;
    let pair = String::from_utf8(octets).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pair: &str) -> Result<Presented, OAuthError> {
        let header = format!("bAsIc {}", base64::engine::general_purpose::STANDARD.encode(pair));
        present(header.as_bytes(), &Form::default())
    }

    #[test]
    fn halves_are_form_decoded_and_a_plain_secret_still_counts() {
        let shown = shown("a%3Ab:s+%25").unwrap();
        assert_eq!(shown.client_id, "a:b");
        assert_eq!(shown.secrets.iter().map(Plain::expose).collect::<Vec<_>>(), ["s %", "s+%25"]);
    }

    #[test]
    fn broken_headers_are_nobody() {
        for header in ["Basic", "Basic ", "Basic !!!", "Basic Yw==", "Bearer Yzpz", "Basic OnM="] {
            assert_eq!(present(header.as_bytes(), &Form::default()).unwrap_err().code, crate::Code::InvalidClient, "{header}");
        }
    }
}
