//! Who wants to do what to what, and under which circumstances.
use serde_json::{Map, Value};

/// Somebody or something: a Cedar entity by type and id, with what is known of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Being {
    /// A Cedar type name such as `User` or `Acme::Record`.
    pub kind: String,
    /// Any text.
    pub id: String,
    /// Attributes; they supersede those of a stored entity by name.
    pub attributes: Map<String, Value>,
    /// Groups it is in, as (type, id), besides those of a stored entity.
    pub parents: Vec<(String, String)>,
}

impl Being {
    /// Somebody of whom nothing else is known.
    #[must_use]
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into(), ..Self::default() }
    }
    /// Adds what is known.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }
    /// Puts it into a group.
    #[must_use]
    pub fn within(mut self, kind: impl Into<String>, id: impl Into<String>) -> Self {
        self.parents.push((kind.into(), id.into()));
        self
    }
}

/// A question to the policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    pub principal: Being,
    /// The id of the `Action`.
    pub action: String,
    pub resource: Being,
    /// Circumstances; `context` in policies.
    pub context: Map<String, Value>,
}
