//! Policies as an administrator writes them (`/admin/v1/policies`): Cedar text, and the entities it speaks of.
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compiled;

/// Longest policy text, octets.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most entities one record brings along.
pub const MAX_ENTITIES: usize = 1000;

/// A piece of policy: any number of Cedar policies, and entities they need besides those that a question brings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// URL-safe id.
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Cedar policies (no templates).
    pub cedar: String,
    /// Entities in Cedar's JSON form: `[{"uid": {"type": …, "id": …}, "attrs": {…}, "parents": […]}]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<Value>,
    /// `enforce` (default) or `shadow`: only tried beside the ones that decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Left out of every decision, but kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

impl Policy {
    /// Whether it is only tried.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        !self.disabled && self.mode.as_deref() == Some("shadow")
    }
}

impl Record for Policy {
    const KIND: ObjectKind = ObjectKind::Policy;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let named = (1..=128).contains(&self.id.len()) && self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
        if !named {
            found.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        if self.id == "dry-run" {
            found.push(Mistake::new("id", "is the name of an operation"));
        }
        if self.cedar.len() > MAX_TEXT {
            found.push(Mistake::new("cedar", "at most 64 KiB"));
        } else if let Err(why) = compiled::parse(&self.id, &self.cedar) {
            found.push(Mistake::new("cedar", why));
        }
        if self.mode.as_deref().is_some_and(|mode| !matches!(mode, "enforce" | "shadow")) {
            found.push(Mistake::new("mode", "must be \"enforce\" or \"shadow\""));
        }
        if self.entities.len() > MAX_ENTITIES {
            found.push(Mistake::new("entities", "at most 1000"));
        } else if let Err(why) = compiled::entities(&self.entities) {
            found.push(Mistake::new("entities", why));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cedar_cannot_read_is_a_mistake_with_its_place() {
        let policy = |cedar: &str| Policy { id: "p".into(), cedar: cedar.into(), ..Policy::default() };
        assert!(policy("permit(principal, action, resource);").mistakes().is_empty());
        for bad in ["permit(principal)", "allow(principal, action, resource);", "permit(principal == ?principal, action, resource);", ""] {
            assert_eq!(policy(bad).mistakes().iter().map(|m| m.at.as_str()).collect::<Vec<_>>(), ["cedar"], "{bad}");
        }
        let entities = Policy { entities: vec![json!({"uid": "x"})], ..policy("permit(principal, action, resource);") };
        assert_eq!(entities.mistakes().iter().map(|m| m.at.as_str()).collect::<Vec<_>>(), ["entities"]);
    }
}
