//! The documents of stored artefacts and grants: the seam between the endpoint that writes one and the one that reads it.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokens::{Confirmation, access::Origin, device::DeviceClaim};

/// How the person behind a grant was authenticated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Authentication {
    /// Seconds since the epoch.
    pub auth_time: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub acr: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub amr: Vec<String>,
}

/// Document of an [`ledger::ArtefactKind::Code`]. Its grant is the artefact's `grant`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CodeDocument {
    pub client_id: String,
    /// Exactly as requested.
    pub redirect_uri: String,
    /// S256 challenge (RFC 7636); `None` only where the client may go without.
    pub code_challenge: Option<String>,
    pub nonce: Option<String>,
    /// Whether `max_age` was asked (then `auth_time` is in the ID token; we always include it).
    pub subject: String,
    pub session: Option<String>,
    /// Granted scope, sorted, space-separated.
    pub scope: String,
    /// The audience of the access token.
    pub resource: String,
    pub authentication: Authentication,
    /// The `claims` parameter (OpenID Connect Core §5.5), checked.
    pub claims: Option<Value>,
    /// The DPoP key it may be redeemed with (RFC 9449 §10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpop_jkt: Option<String>,
    /// Granted `authorization_details` (RFC 9396).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Document of a [`ledger::Grant`] of a person.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GrantDocument {
    pub resource: String,
    pub authentication: Authentication,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
    /// Granted `authorization_details` (RFC 9396).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Document of an [`ledger::ArtefactKind::Refresh`]: one token of a family (the family is the grant).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RefreshDocument {
    pub client_id: String,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The scope of the original grant: a narrowed refresh does not narrow its successor (RFC 6749 §6).
    pub scope: String,
    pub resource: String,
    pub authentication: Authentication,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Absolute end of the family, seconds since the epoch.
    pub family_expires_at: i64,
    /// What a public client's token is bound to (RFC 9449 §5); a confidential client's is bound to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// Whether the grant's access tokens are bound to a key: those of a refresh then are too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub constrained: bool,
    /// Granted `authorization_details` (RFC 9396).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Document of an [`ledger::ArtefactKind::Access`]: an opaque access token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessDocument {
    pub jti: String,
    pub client_id: String,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub scope: String,
    pub audience: String,
    pub issued_at: i64,
    /// What its holder has to prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// Granted `authorization_details` (RFC 9396).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// Who acts for the subject (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Value>,
    /// The tokens it was exchanged from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// How the person was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// The device whose credential it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceClaim>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_takes_no_room_and_rows_of_before_read_the_same() {
        let refresh = RefreshDocument {
            client_id: "c".into(),
            subject: "s".into(),
            scope: "read".into(),
            resource: "r".into(),
            ..RefreshDocument::default()
        };
        let text = serde_json::to_string(&refresh).unwrap();
        for absent in ["session", "nonce", "constrained", "null"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        let before = r#"{"client_id":"c","subject":"s","session":null,"scope":"read","resource":"r","authentication":{"auth_time":0},"nonce":null,"family_expires_at":0,"constrained":false}"#;
        assert_eq!(serde_json::from_str::<RefreshDocument>(before).unwrap(), refresh);
        assert_eq!(serde_json::from_str::<RefreshDocument>(&text).unwrap(), refresh);
        let access = AccessDocument { jti: "j".into(), ..AccessDocument::default() };
        let text = serde_json::to_string(&access).unwrap();
        assert!(!text.contains("null"), "{text}");
        assert_eq!(serde_json::from_str::<AccessDocument>(&text).unwrap(), access);
        assert!(!serde_json::to_string(&GrantDocument::default()).unwrap().contains("null"));
    }
}
