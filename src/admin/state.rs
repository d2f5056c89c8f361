//! What the administration API stands on, and who may use it.
use std::sync::Arc;

use async_trait::async_trait;
use ledger::{Listings, NewEvent, Store, StoreError};
use protocol::Settings;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::objects::Objects;

/// Everything a handler needs.
pub struct AdminState {
    /// The one way to administered objects (holds store, clock, entropy, MAC key and the hashing permits).
    pub objects: Objects,
    /// Pages for people, and counts: what may come from replicas. Nothing is decided by them.
    pub listings: Arc<dyn Listings>,
    /// Identity and lifetimes of the authorization server.
    pub settings: Settings,
    /// Believes access tokens.
    pub auth: Arc<dyn AdminAuth>,
    /// Rotates and revokes signing keys.
    pub keys: Arc<dyn KeyControl>,
    /// Knows this process's numbers.
    pub stats: Arc<dyn StatsSource>,
    /// The gateway of this process, if there is one, as far as it explains itself.
    pub explains: Option<Arc<dyn Explains>>,
    /// The policy numbers, as `GET /policy` serves them.
    pub policy: Value,
}

impl AdminState {
    /// The database.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.objects.store
    }
}

/// Tells why a gateway decides as it does. What it tells holds no credential.
#[async_trait]
pub trait Explains: Send + Sync {
    /// What became of a request that is remembered, by its id.
    fn remembered(&self, request_id: &str) -> Option<Value>;
    /// The latest remembered ones of a route, reason and status.
    fn recent(&self, sought: (Option<&str>, Option<&str>, Option<u16>), most: usize) -> Vec<Value>;
    /// What would become of a request, under the routes in force or under a candidate. The error is for the administrator.
    async fn explain(&self, request: &Value, candidate: Option<Arc<edge::RouteTable>>) -> Result<Value, String>;
    /// What a route without a policy of its own says.
    fn default_policy(&self) -> Option<String>;
}

/// Who is acting; told by every event of the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// The client whose token it is, or the command (`seed`, `bootstrap`, `quickstart`).
    pub client_id: String,
    /// The person behind it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

impl Actor {
    /// A command run on the machine itself.
    #[must_use]
    pub fn command(name: &str) -> Self {
        Self { client_id: name.to_owned(), subject: None }
    }
    /// Signs an event with the actor.
    #[must_use]
    pub fn sign(&self, event: NewEvent) -> NewEvent {
        let event = event.with("actor", self.client_id.as_str());
        match &self.subject {
            Some(sub) => event.with("actor_subject", sub.as_str()),
            None => event,
        }
    }
}

/// A believed access token.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Its client and, if it is a person's, its subject.
    pub actor: Actor,
    /// Its scope, space-separated.
    pub scope: String,
}

impl Principal {
    /// Whether it may do what it asks: `doorward.admin` everything, `doorward.admin.read` what only reads.
    #[must_use]
    pub fn may(&self, access: Access) -> bool {
        self.scope.split(' ').any(|s| s == "doorward.admin" || (s == "doorward.admin.read" && access == Access::Read))
    }
}

/// What an operation does to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Read,
    /// Changes it.
    Write,
}

/// Why a bearer token was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Unknown, expired, revoked, of another issuer or audience: 401.
    Invalid,
    /// It cannot be told now: 503.
    Away,
}

/// Believes access tokens of this issuer whose audience is the issuer (RFC 9068, RFC 6750).
#[async_trait]
pub trait AdminAuth: Send + Sync {
    /// Who presents `bearer` (a JWT or an opaque access token). Scope is checked by the caller.
    async fn authenticate(&self, bearer: &str) -> Result<Principal, Refused>;
    /// The `jti` of a signed access token of this issuer, expired or not; `None` for every other text.
    fn token_id(&self, jwt: &str) -> Option<String>;
}

/// Why a key was not rotated or revoked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyRefused {
    /// No key has that `kid`: 404.
    #[error("no such key")]
    Unknown,
    /// It cannot be done in the present state: 409. The text is for the administrator.
    #[error("{0}")]
    Conflict(String),
    /// A fault of storage.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Signing keys as an operator handles them. Every change is one transaction with its events, signed by the actor.
#[async_trait]
pub trait KeyControl: Send + Sync {
    /// Makes the next keys current (all algorithms, or the one named) and prepares new next ones.
    /// Answers what became of which `kid`.
    async fn rotate(&self, alg: Option<&str>, actor: &Actor) -> Result<Value, KeyRefused>;
    /// Revokes a key: everything it signed is dead, and another one signs from now on.
    async fn revoke(&self, kid: &str, reason: Option<&str>, actor: &Actor) -> Result<Value, KeyRefused>;
}

/// What this process knows about itself.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Entries by cache.
    pub caches: Vec<(String, u64)>,
    /// Panics caught since the start.
    pub panics: u64,
    /// JWKS documents fetched since the start.
    pub jwks_fetches: u64,
    /// How old the knowledge of the revocation feed is, milliseconds; `None` where there is no gateway.
    pub feed_lag_ms: Option<i64>,
    /// What was built.
    pub build_id: String,
    /// Anything further, by name.
    pub more: Map<String, Value>,
}

/// Tells this process's numbers.
pub trait StatsSource: Send + Sync {
    /// The numbers now.
    fn stats(&self) -> Stats;
    /// Who used which route of this process's gateway: one object each, the busiest first.
    fn usage(&self) -> Vec<Value> {
        Vec::new()
    }
}
