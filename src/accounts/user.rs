//! A person's account: OpenID Connect standard claims (Core §5.1) plus Doorward's own members.
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An account. The password is not in here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// The `sub`: random, never reused, never the username.
    pub id: String,
    /// What the person types.
    pub username: String,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    pub disabled: bool,
    /// Standard claims by their names (`name`, `email`, `email_verified`, `address`, …). Names are checked in [`Record::mistakes`].
    #[serde(flatten)]
    pub claims: Map<String, Value>,
}

impl Record for User {
    const KIND: ObjectKind = ObjectKind::User;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.username
    }
    fn mistakes(&self) -> Vec<Mistake> {
        Vec::new()
    }
}
