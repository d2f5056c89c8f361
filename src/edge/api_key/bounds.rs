//! What a gateway holds an API key to, on every request: where it may come from and which routes it is for.
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    SCHEME,
    record::{KeyQuota, network},
};
use crate::refusal::Refusal;

/// The bounds of a believed key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The key's id; not the key.
    pub id: String,
    networks: Vec<IpNet>,
    routes: Vec<String>,
}

impl Bounds {
    /// Reads them from an answer about a key. `None` if that is none, or says what cannot be understood: then nothing may be believed of it.
    #[must_use]
    pub fn read(answer: &Map<String, Value>) -> Option<Self> {
        if answer.get("token_type").and_then(Value::as_str) != Some(SCHEME) {
            return None;
        }
        let told = answer.get("api_key")?.as_object()?;
        let list = |name: &str| match told.get(name) {
            None => Some(Vec::new()),
            Some(list) => list.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
        };
        // Limits read it themselves; one that they could not read would not be one.
        if let Some(quota) = answer.get("quota") {
            KeyQuota::deserialize(quota).ok()?.quota()?;
        }
        Some(Self {
            id: told.get("id")?.as_str()?.to_owned(),
            networks: list("allowed_cidrs")?.into_iter().map(network).collect::<Option<_>>()?,
            routes: list("routes")?.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Whether it may be used on this route, from there. Who is not known to come from an allowed network does not.
    ///
    /// # Errors
    /// [`Refusal::Barred`].
    pub fn check(&self, route: &str, source: Option<IpAddr>) -> Result<(), Refusal> {
        if !self.routes.is_empty() && !self.routes.iter().any(|own| own == route) {
            return Err(Refusal::Barred("key_route"));
        }
        let from = source.map(|ip| ip.to_canonical());
        if !self.networks.is_empty() && !from.is_some_and(|ip| self.networks.iter().any(|net| net.contains(&ip))) {
            return Err(Refusal::Barred("key_source"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn read(api_key: Value) -> Option<Bounds> {
        with(json!({"active": true, "token_type": "ApiKey", "api_key": api_key}))
    }

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn with(answer: Value) -> Option<Bounds> {
        Bounds::read(answer.as_object().unwrap())
    }

    #[test]
    fn a_key_is_held_to_its_networks_and_routes() {
        let free = read(json!({"id": "k"})).unwrap();
        assert_eq!(free.check("any", None), Ok(()));
        let bound = read(json!({"id": "k", "allowed_cidrs": ["10.1.0.0/16", "2001:db8::/32", "192.0.2.7"], "routes": ["read"]})).unwrap();
        for (route, source, good) in [
            ("read", Some("10.1.2.3"), true),
            ("read", Some("::ffff:10.1.2.3"), true),
            ("read", Some("192.0.2.7"), true),
            ("read", Some("2001:db8::1"), true),
            ("read", Some("10.2.0.1"), false),
            ("read", Some("192.0.2.8"), false),
            ("read", Some("::1"), false),
            ("read", None, false),
            ("write", Some("10.1.2.3"), false),
        ] {
            let source = source.map(|text| text.parse().unwrap());
            assert_eq!(bound.check(route, source).map_err(Refusal::status), if good { Ok(()) } else { Err(403) }, "{route} {source:?}");
        }
    }

    #[test]
    fn what_cannot_be_understood_bounds_nothing_and_is_not_believed() {
        for bad in [
            json!({}),
            json!({"id": 1}),
            json!({"id": "k", "routes": "read"}),
            json!({"id": "k", "routes": [1]}),
            json!({"id": "k", "allowed_cidrs": ["everywhere"]}),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
        let key = |quota| json!({"active": true, "token_type": "ApiKey", "api_key": {"id": "k"}, "quota": quota});
        assert!(with(key(json!({"rate": 1, "period": "60s"}))).is_some());
        for bad in [json!(null), json!({"rate": 1}), json!({"rate": -1, "period": "60s"}), json!({"rate": 1, "period": 60})] {
            assert_eq!(with(key(bad.clone())), None, "{bad}");
        }
        assert_eq!(
            with(json!({"active": true, "token_type": "Bearer", "api_key": {"id": "k"}})),
            None,
            "an answer about a token is none about a key"
        );
    }
}
