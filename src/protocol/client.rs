//! OAuth clients (RFC 7591 §2 member names, plus Doorward's own).
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};

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
    pub disabled: bool,
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
            first_party: false,
            require_pkce: true,
            access_token_format: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            id_token_signed_response_alg: None,
            default_max_age: None,
            initiate_login_uri: None,
            jwks: None,
            disabled: false,
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
        Vec::new()
    }
}
