//! The private claim `device`: the device whose credential a token is, with all that a policy asks of it, so that an edge far away needs
//! no look-up. What it says was so when the token was issued; a change of it ends the token ([`DeviceClaim`] has no life of its own).
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A device as a credential tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceClaim {
    /// Its id: what a revocation of the kind `device` names.
    pub id: String,
    /// What it is, e.g. `temperature-sensor`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

impl DeviceClaim {
    /// What the claims of a token of ours, or an introspection answer, say. A claim that does not read is nobody.
    #[must_use]
    pub fn read(claims: &Map<String, Value>) -> Option<Self> {
        let claim = claims.get("device")?;
        Self::deserialize(claim).ok().filter(|device| !device.id.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let device = DeviceClaim { id: "s".into(), kind: "sensor".into(), groups: vec!["plant".into()], tenant: Some("acme".into()) };
        let claims = json!({"device": device});
        assert_eq!(claims["device"], json!({"id": "s", "type": "sensor", "groups": ["plant"], "tenant": "acme"}));
        assert_eq!(DeviceClaim::read(claims.as_object().unwrap()), Some(device));
        for nobody in [json!({}), json!({"device": "s"}), json!({"device": {"type": "sensor"}}), json!({"device": {"id": 7}})] {
            assert_eq!(DeviceClaim::read(nobody.as_object().unwrap()), None, "{nobody}");
        }
    }
}
