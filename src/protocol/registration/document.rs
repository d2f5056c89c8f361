//! Client ID metadata documents: the `client_id` is an https URL, and what stands there is the registration
//! (draft-ietf-oauth-client-id-metadata-document).
use serde_json::{Map, Value};
use url::Url;

use super::{Refused, metadata};
use crate::{Client, Code, Settings};

/// How a record came that was read from a document.
pub const ORIGIN: &str = "metadata";
/// Octets of a document.
pub const LIMIT: usize = 10 * 1024;
/// Octets of a URL that may be a `client_id`.
const LONGEST_URL: usize = 255;
/// How long a document is believed: at least, without being told, at most. Seconds.
const KEPT: (i64, i64, i64) = (60, 300, 86_400);

/// Whether a `client_id` is the URL of a document: https, a path, in its one normal spelling; no fragment, query, user or dot segments.
#[must_use]
pub fn is_url(id: &str) -> bool {
    let plain = id.len() <= LONGEST_URL && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~:/-".contains(&b));
    plain && Url::parse(id).is_ok_and(|url| url.scheme() == "https" && url.path() != "/" && url.as_str() == id)
}

/// The host that stands behind such a `client_id`; people are shown it.
#[must_use]
pub fn host(id: &str) -> Option<String> {
    Url::parse(id).ok()?.host_str().map(str::to_owned)
}

/// Reads a document; `before` is the record it replaces, whose administrator's members stay.
///
/// # Errors
/// What is wrong with it. It is never told to the client, whose document it is.
pub fn read(url: &str, octets: &[u8], settings: &Settings, before: Option<&Client>) -> Result<Client, Refused> {
    if octets.len() > LIMIT {
        return Err(Refused::new(Code::InvalidClientMetadata, "the document is too large"));
    }
    let mut given: Map<String, Value> = super::read(octets)?;
    if given.get("client_id").and_then(Value::as_str) != Some(url) {
        return Err(Refused::at("client_id", "is not the URL of the document"));
    }
    for secret in ["client_secret", "client_secret_expires_at"] {
        if given.contains_key(secret) {
            return Err(Refused::at(secret, "nothing that is published is a secret"));
        }
    }
    let method = given.entry("token_endpoint_auth_method").or_insert_with(|| "none".into());
    if !matches!(method.as_str(), Some("none" | "private_key_jwt")) {
        return Err(Refused::at("token_endpoint_auth_method", "none or private_key_jwt"));
    }
    // A document that is replaced may ask for what every document may ask for, and for what its administrator added.
    let client = metadata::read(&given, settings, before)?;
    let client = Client { client_id: url.to_owned(), origin: Some(ORIGIN.to_owned()), require_pkce: true, ..client };
    metadata::complete(&client)?;
    Ok(client)
}

/// Whether a media type is JSON (`application/json`, `application/…+json`).
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Seconds for which a document may be believed without another look (RFC 9111 §5.2.2), within bounds of ours.
#[must_use]
pub fn lifetime(cache_control: Option<&str>, age: Option<&str>) -> i64 {
    let (least, usual, most) = KEPT;
    let directives = || cache_control.unwrap_or_default().split(',').map(|d| d.trim().to_ascii_lowercase());
    if directives().any(|d| matches!(d.as_str(), "no-store" | "no-cache")) {
        return least;
    }
    let told = directives().find_map(|d| d.strip_prefix("max-age=")?.trim_matches('"').parse::<i64>().ok());
    let age = age.and_then(|a| a.trim().parse::<i64>().ok()).unwrap_or(0).max(0);
    told.map_or(usual, |seconds| seconds.saturating_sub(age)).clamp(least, most)
}
