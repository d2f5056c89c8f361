//! OAuth clients (RFC 7591 §2 member names, plus Doorward's own).
mod check;

use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};

use self::check::Found;
pub(crate) use self::check::is_callable;
use crate::Settings;

/// A registered client, as administrators and registration write it. Its secret is not in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    pub redirect_uris: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_logout_redirect_uris: Vec<String>,
    pub grant_types: Vec<String>,
    pub response_types: Vec<String>,
    pub token_endpoint_auth_method: String,
    /// Space-separated: what it may ask for.
    pub scope: String,
    /// Resource indicators it may ask for (RFC 8707).
    pub allowed_resources: Vec<String>,
    /// What its own registration says may ask for less than the record, and never for more: its administrator narrowed it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub narrow_only: bool,
    /// No consent page.
    pub first_party: bool,
    /// Default true; false possible for a confidential client only.
    pub require_pkce: bool,
    /// Overrides the resource server's: `jwt` or `opaque`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_format: Option<String>,
    /// Overrides the resource server's, e.g. `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token_ttl: Option<String>,
    /// JOSE name; default RS256 (OpenID Connect Registration §2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token_signed_response_alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiate_login_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<serde_json::Value>,
    /// How it signs its assertions (RFC 7591 §2, OpenID Connect Registration §2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_signing_alg: Option<String>,
    /// `issuer` (default) or `legacy`: also the endpoint's URL, also in an array, for old libraries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assertion_audience: Option<String>,
    /// The certificate's subject (RFC 8705 §2.1.2); exactly one of the five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_auth_subject_dn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_auth_san_dns: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_auth_san_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_auth_san_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_auth_san_email: Option<String>,
    /// A workload whose platform's token authenticates this client (RFC 7523 §3 with a trusted issuer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<Workload>,
    /// Its tokens are bound to its certificate (RFC 8705 §3.4).
    #[serde(skip_serializing_if = "is_false")]
    pub tls_client_certificate_bound_access_tokens: bool,
    /// Its tokens are bound to a DPoP key, always (RFC 9449 §5.2).
    #[serde(skip_serializing_if = "is_false")]
    pub dpop_bound_access_tokens: bool,
    /// It may start at the pushed authorization request endpoint only (RFC 9126 §6).
    #[serde(skip_serializing_if = "is_false")]
    pub require_pushed_authorization_requests: bool,
    /// Its requests come in signed request objects only (RFC 9101 §10.5).
    #[serde(skip_serializing_if = "is_false")]
    pub require_signed_request_object: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object_signing_alg: Option<String>,
    /// Where its request objects may be fetched (profile `oidc-dynamic` only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_uris: Vec<String>,
    /// How its JWT authorization responses are signed (JARM §3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_signed_response_alg: Option<String>,
    /// It gets userinfo as a signed JWT (OpenID Connect Core §5.3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo_signed_response_alg: Option<String>,
    /// It gets introspection answers as signed JWTs (RFC 9701 §6).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection_signed_response_alg: Option<String>,
    /// What it may ask for in detail (RFC 9396 §10).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_details_types: Vec<String>,
    /// `public` (default) or `pairwise` (OpenID Connect Core §8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sector_identifier_uri: Option<String>,
    /// `web` (default) or `native` (OpenID Connect Registration §2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_logout_uri: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub backchannel_logout_session_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontchannel_logout_uri: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub frontchannel_logout_session_required: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub default_acr_values: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub require_auth_time: bool,
    /// `poll` or `ping` (CIBA §4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_token_delivery_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_client_notification_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_authentication_request_signing_alg: Option<String>,
    /// Whom its tokens may be exchanged to act as or for (RFC 8693); see `grants/token_exchange.rs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
    /// How it came: absent (an administrator), `registration` (RFC 7591) or `metadata` (a client ID metadata document).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    pub disabled: bool,
    /// The device it is, if it is one's: nothing of the record, but known to whoever looked for both. Everything issued to it says so.
    #[serde(skip)]
    pub device: Option<Box<tokens::device::DeviceClaim>>,
}

/// A workload identity: whose token proves the client, and what that token has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// A trusted issuer's identifier.
    pub issuer: String,
    /// The `sub` of its tokens, exactly.
    pub subject: String,
    /// The `aud` it must carry; absent: this issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for Client {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            client_name: None,
            client_uri: None,
            logo_uri: None,
            policy_uri: None,
            tos_uri: None,
            contacts: Vec::new(),
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            grant_types: vec!["authorization_code".into()],
            response_types: vec!["code".into()],
            token_endpoint_auth_method: "client_secret_basic".into(),
            scope: String::new(),
            allowed_resources: Vec::new(),
            narrow_only: false,
            first_party: false,
            require_pkce: true,
            access_token_format: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            id_token_signed_response_alg: None,
            default_max_age: None,
            initiate_login_uri: None,
            jwks: None,
            token_endpoint_auth_signing_alg: None,
            assertion_audience: None,
            tls_client_auth_subject_dn: None,
            tls_client_auth_san_dns: None,
            tls_client_auth_san_uri: None,
            tls_client_auth_san_ip: None,
            tls_client_auth_san_email: None,
            workload_identity: None,
            tls_client_certificate_bound_access_tokens: false,
            dpop_bound_access_tokens: false,
            require_pushed_authorization_requests: false,
            require_signed_request_object: false,
            request_object_signing_alg: None,
            request_uris: Vec::new(),
            authorization_signed_response_alg: None,
            userinfo_signed_response_alg: None,
            introspection_signed_response_alg: None,
            authorization_details_types: Vec::new(),
            subject_type: None,
            sector_identifier_uri: None,
            application_type: None,
            backchannel_logout_uri: None,
            backchannel_logout_session_required: false,
            frontchannel_logout_uri: None,
            frontchannel_logout_session_required: false,
            default_acr_values: Vec::new(),
            require_auth_time: false,
            backchannel_token_delivery_mode: None,
            backchannel_client_notification_endpoint: None,
            backchannel_authentication_request_signing_alg: None,
            token_exchange: None,
            software_id: None,
            software_version: None,
            origin: None,
            jwks_uri: None,
            disabled: false,
            device: None,
        }
    }
}

impl Client {
    /// Whether it has no credential (RFC 6749 §2.1).
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.token_endpoint_auth_method == "none"
    }
    /// Whether it may use a grant type.
    #[must_use]
    pub fn may_use(&self, grant_type: &str) -> bool {
        self.grant_types.iter().any(|g| g == grant_type)
    }
}

impl Record for Client {
    const KIND: ObjectKind = ObjectKind::Client;
    fn id(&self) -> &str {
        &self.client_id
    }
    fn key(&self) -> &str {
        &self.client_id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Found::default();
        let published = self.origin.as_deref() == Some(crate::registration::document::ORIGIN);
        let url = published && crate::registration::document::is_url(&self.client_id);
        if !url && !is_id(&self.client_id) {
            found.at("client_id", "1 to 128 characters of A-Z a-z 0-9 . _ ~ : / -");
        }
        self.kinds(&mut found);
        self.addresses(&mut found);
        self.asks(&mut found);
        self.tokens(&mut found);
        found.0.extend(crate::pairwise::mistakes(self));
        found.0
    }
}

/// Reads an access token lifetime.
///
/// # Errors
/// In words, when it is no duration or too long to be remembered after a revocation.
pub(crate) fn access_token_ttl(text: &str) -> Result<i64, &'static str> {
    match tokens::duration::parse(text) {
        None => Err("a duration such as \"5m\""),
        Some(ttl) if ttl > Settings::MAX_ACCESS_TOKEN_TTL => Err("at most 24h"),
        Some(ttl) => Ok(ttl),
    }
}

/// Whether a text may be an id in URLs, headers and claims.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~:/-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Client {
        Client { client_id: "web".into(), redirect_uris: vec!["https://rp.example.com/cb".into()], ..Client::default() }
    }
    fn wrong(client: &Client) -> Vec<String> {
        client.mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn redirect_uris_lead_to_one_place_of_the_application() {
        for bad in [
            "/cb",
            "https://rp/*",
            "https://rp/#f",
            "javascript:alert(1)",
            "data:text/html,x",
            "http://rp.example.com/cb",
            "https://u:p@rp/cb",
            "https://rp/a b",
            "com.example:/cb",
            "ftp://rp/",
        ] {
            let client = Client { redirect_uris: vec![bad.into()], ..web() };
            assert_eq!(wrong(&client), ["redirect_uris[0]"], "{bad}");
        }
        for good in ["https://rp.example.com/cb?x=1", "http://127.0.0.1/cb", "http://[::1]:80/cb", "http://localhost:3000/cb"] {
            assert!(wrong(&Client { redirect_uris: vec![good.into()], ..web() }).is_empty(), "{good}");
        }
        let app = Client { redirect_uris: vec!["com.example.app:/cb".into()], token_endpoint_auth_method: "none".into(), ..web() };
        assert!(wrong(&app).is_empty());
    }

    #[test]
    fn what_this_version_does_not_do_is_a_mistake_not_a_surprise() {
        let client = Client {
            grant_types: vec!["authorization_code".into(), "password".into()],
            response_types: vec!["code".into(), "none".into()],
            token_endpoint_auth_method: "client_secret_jwt".into(),
            id_token_signed_response_alg: Some("HS256".into()),
            ..web()
        };
        assert_eq!(wrong(&client), ["grant_types[1]", "response_types[1]", "token_endpoint_auth_method", "id_token_signed_response_alg"]);
    }

    #[test]
    fn a_public_client_has_pkce_and_nothing_of_a_machine() {
        let client = Client {
            token_endpoint_auth_method: "none".into(),
            require_pkce: false,
            grant_types: vec!["authorization_code".into(), "client_credentials".into()],
            scope: "doorward.admin".into(),
            ..web()
        };
        assert_eq!(wrong(&client), ["grant_types", "require_pkce", "scope"]);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let client = Client {
            client_id: "a b".into(),
            redirect_uris: Vec::new(),
            access_token_format: Some("saml".into()),
            access_token_ttl: Some("2d".into()),
            refresh_token_ttl: Some("long".into()),
            allowed_resources: vec!["api".into()],
            ..web()
        };
        let at = ["client_id", "redirect_uris", "allowed_resources[0]", "access_token_format", "access_token_ttl", "refresh_token_ttl"];
        assert_eq!(wrong(&client), at);
    }
}
