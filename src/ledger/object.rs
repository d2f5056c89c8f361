//! The things an administrator keeps: one shape of row, one way to create, replace and delete them.
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The kinds of administered objects (`CONTRACT` §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A person's account.
    User,
    /// An OAuth client (RFC 7591 members).
    Client,
    /// A protected API: an audience and its scopes.
    ResourceServer,
    /// A gateway route.
    Route,
    /// A named upstream.
    Upstream,
    /// Another issuer whose tokens routes may accept.
    TrustedIssuer,
    /// An API key.
    ApiKey,
    /// A device.
    Device,
    /// A certificate.
    Certificate,
    /// An authorization policy.
    Policy,
    /// A stream of shared signals.
    SignalStream,
    /// What a device's credential is known by, and whose it is: its id is that mark (the device record writes it), so that no two
    /// devices have the same.
    DeviceBinding,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::User,
        Self::Client,
        Self::ResourceServer,
        Self::Route,
        Self::Upstream,
        Self::TrustedIssuer,
        Self::ApiKey,
        Self::Device,
        Self::Certificate,
        Self::Policy,
        Self::SignalStream,
        Self::DeviceBinding,
    ];

    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Client => "client",
            Self::ResourceServer => "resource_server",
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::TrustedIssuer => "trusted_issuer",
            Self::ApiKey => "api_key",
            Self::Device => "device",
            Self::Certificate => "certificate",
            Self::Policy => "policy",
            Self::SignalStream => "signal_stream",
            Self::DeviceBinding => "device_binding",
        }
    }

    /// The kind of that stored name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == name)
    }
}

/// A stored object. Secrets are not in its document; they are in the store's secrets under (kind, id, slot).
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its id within the kind.
    pub id: String,
    /// Its natural key within the kind (username, client_id, identifier, issuer): unique.
    pub key: String,
    /// Its members.
    pub document: Value,
    /// Starts at 1, counts replacements; the ETag.
    pub version: i64,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch.
    pub updated_at: i64,
}

/// One mistake in a given document: where and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Path of the member, e.g. `redirect_uris[1]`.
    pub at: String,
    /// What is wrong and what would be right.
    pub why: String,
}

impl Mistake {
    /// A mistake at `at`.
    pub fn new(at: impl Into<String>, why: impl Into<String>) -> Self {
        Self { at: at.into(), why: why.into() }
    }
}

/// A typed view of an object's document.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind of its rows.
    const KIND: ObjectKind;
    /// The id within the kind.
    fn id(&self) -> &str;
    /// The natural key within the kind.
    fn key(&self) -> &str;
    /// Everything that is wrong with it (empty: it may be stored).
    fn mistakes(&self) -> Vec<Mistake>;
}
