//! Where an issuer's keys are, by its metadata (OpenID Connect Discovery §4, RFC 8414 §3).
use serde::Deserialize;
use url::Url;

/// Where the metadata of an issuer may be: after its path, and between its host and its path.
pub(crate) fn addresses(issuer: &str) -> Vec<String> {
    let Ok(url) = Url::parse(issuer) else { return Vec::new() };
    let bare = issuer.trim_end_matches('/');
    let path = url.path().trim_end_matches('/');
    let mut inserted = url.clone();
    inserted.set_query(None);
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    vec![format!("{bare}/.well-known/openid-configuration"), inserted.to_string()]
}

/// What its metadata says, if it is that of this very issuer (RFC 8414 §3.3).
pub(crate) fn keys_at(document: &[u8], issuer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        issuer: String,
        jwks_uri: String,
    }
    let metadata: Metadata = serde_json::from_slice(document).ok()?;
    if metadata.issuer != issuer {
        tracing::warn!(target: "gateway", issuer, "the metadata names another issuer; it is not believed");
        return None;
    }
    Some(metadata.jwks_uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_are_known_and_only_the_issuers_own_metadata_counts() {
        assert_eq!(
            addresses("https://a.example/t/1/"),
            ["https://a.example/t/1/.well-known/openid-configuration", "https://a.example/.well-known/oauth-authorization-server/t/1"]
        );
        assert_eq!(
            addresses("https://a.example").last().map(String::as_str),
            Some("https://a.example/.well-known/oauth-authorization-server")
        );
        let document = br#"{"issuer":"https://a.example","jwks_uri":"https://k.example/j"}"#;
        assert_eq!(keys_at(document, "https://a.example").as_deref(), Some("https://k.example/j"));
        assert_eq!(keys_at(document, "https://a.example/"), None);
        assert_eq!(keys_at(br#"{"issuer":"https://a.example"}"#, "https://a.example"), None);
    }
}
