//! Resource servers: audiences, their scopes and token format (RFC 8707).
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};

/// A scope that a resource server offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeEntry {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A protected API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceServer {
    /// URL-safe id; derived from the identifier when absent.
    pub id: String,
    /// The `aud`: an absolute URI without fragment.
    pub identifier: String,
    pub name: String,
    pub scopes: Vec<ScopeEntry>,
    /// `jwt` or `opaque`.
    pub access_token_format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_ttl: Option<String>,
    /// Clients that may introspect its tokens.
    pub introspection_clients: Vec<String>,
}

impl Default for ResourceServer {
    fn default() -> Self {
        Self {
            id: String::new(),
            identifier: String::new(),
            name: String::new(),
            scopes: Vec::new(),
            access_token_format: "jwt".into(),
            access_token_ttl: None,
            introspection_clients: Vec::new(),
        }
    }
}

impl Record for ResourceServer {
    const KIND: ObjectKind = ObjectKind::ResourceServer;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.identifier
    }
    fn mistakes(&self) -> Vec<Mistake> {
        Vec::new()
    }
}
