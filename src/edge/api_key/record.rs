//! API keys as an administrator writes them (`/admin/v1/api-keys`). The key itself is not in the record.
use ipnet::IpNet;
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};

use super::moment;
use crate::{limit::Quota, upstream::good_id};

/// Who answers for a key; it ends with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A client.
    ClientId(String),
    /// A person, by id (a username that is given is replaced by it).
    Subject(String),
    /// A device.
    Device(String),
}

impl Owner {
    /// How versions of keys name it: what is ended when it ends.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::ClientId(id) => format!("client:{id}"),
            Self::Subject(id) => format!("subject:{id}"),
            Self::Device(id) => format!("device:{id}"),
        }
    }

    /// The objects it is one of, and its id.
    #[must_use]
    pub fn object(&self) -> (ObjectKind, &str) {
        match self {
            Self::ClientId(id) => (ObjectKind::Client, id),
            Self::Subject(id) => (ObjectKind::User, id),
            Self::Device(id) => (ObjectKind::Device, id),
        }
    }
}

/// How many requests a key is good for, over all routes together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyQuota {
    pub rate: u32,
    /// E.g. `"60s"`.
    pub period: String,
    /// Absent: as much as `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl KeyQuota {
    /// The quota, if the period reads.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        let period_s = u32::try_from(tokens::duration::parse(&self.period)?).ok()?;
        Some(Quota { rate: self.rate, period_s, burst: self.burst.unwrap_or(self.rate) })
    }
}

/// An API key. What is absent does not restrict it, except scopes: a key has those it names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKey {
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub scopes: Vec<String>,
    /// The audiences it is for; one may be given as a text. None: that of any route that takes keys.
    #[serde(with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// The ids of the routes it is for; none: all that take keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Networks it may come from; none: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_cidrs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<KeyQuota>,
    /// Seconds since the epoch.
    #[serde(deserialize_with = "moment::read", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// Seconds since the epoch.
    #[serde(deserialize_with = "moment::read", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    pub disabled: bool,
    /// Whose traffic it is, for limits that count by tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A network, or an address as a network of one.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    // An address that came mapped is compared as what it is.
    let mapped = matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some());
    (!mapped).then(|| net.trunc())
}

impl Record for ApiKey {
    const KIND: ObjectKind = ObjectKind::ApiKey;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut out = Vec::new();
        if !good_id(&self.id) {
            out.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        if self.owner.as_ref().is_some_and(|owner| owner.object().1.is_empty()) {
            out.push(Mistake::new("owner", "names nobody"));
        }
        let token = |b: u8| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b);
        for (n, scope) in self.scopes.iter().enumerate() {
            if scope.is_empty() || !scope.bytes().all(token) {
                out.push(Mistake::new(format!("scopes[{n}]"), "not a scope name (RFC 6749 §3.3)"));
            }
        }
        for (n, audience) in self.audience.iter().enumerate() {
            if audience.is_empty() || audience.chars().any(char::is_control) {
                out.push(Mistake::new(format!("audience[{n}]"), "not an audience: say what routes say in auth.audience"));
            }
        }
        for (n, route) in self.routes.iter().enumerate() {
            if !good_id(route) {
                out.push(Mistake::new(format!("routes[{n}]"), "not the id of a route"));
            }
        }
        for (n, text) in self.allowed_cidrs.iter().enumerate() {
            if network(text).is_none() {
                out.push(Mistake::new(
                    format!("allowed_cidrs[{n}]"),
                    "a network such as 10.0.0.0/8 or 2001:db8::/32, or one address, is needed",
                ));
            }
        }
        if let Some(quota) = &self.quota {
            let faults = [
                (quota.rate == 0, "quota.rate", "must be at least 1"),
                (quota.quota().is_none(), "quota.period", "a duration such as \"60s\" is needed"),
                (quota.burst == Some(0), "quota.burst", "must be at least 1"),
            ];
            out.extend(faults.into_iter().filter(|(wrong, ..)| *wrong).map(|(_, at, why)| Mistake::new(at, why)));
        }
        if let (Some(from), Some(to)) = (self.not_before, self.expires_at)
            && from >= to
        {
            out.push(Mistake::new("expires_at", "must be after not_before"));
        }
        if [Some(&self.name), self.tenant.as_ref()].into_iter().flatten().any(|text| text.chars().any(char::is_control)) {
            out.push(Mistake::new("name", "neither name nor tenant may have control characters"));
        }
        out
    }
}

/// One text, or a list of them, as `aud` has it (RFC 7519 §4.1.3).
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(list: &[String], out: S) -> Result<S::Ok, S::Error> {
        match list {
            [one] => one.serialize(out),
            many => many.serialize(out),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Given::deserialize(input)? {
            Given::One(one) => vec![one],
            Given::Many(many) => many,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mistakes(value: Value) -> Vec<String> {
        serde_json::from_value::<ApiKey>(value).unwrap().mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn the_contracts_key_is_good_and_comes_back_as_it_was() {
        let given = json!({"id": "k1", "name": "Partner", "scopes": ["read"], "audience": "https://api.example.com", "routes": ["read"],
            "expires_at": "2030-01-31T12:00:00Z", "allowed_cidrs": ["127.0.0.0/8", "::1"], "owner": {"client_id": "machine"}});
        let key: ApiKey = serde_json::from_value(given.clone()).unwrap();
        assert_eq!((key.mistakes(), key.expires_at), (Vec::new(), Some(1_896_091_200)));
        let mut stored = given;
        (stored["expires_at"], stored["disabled"]) = (json!(1_896_091_200), json!(false));
        assert_eq!(serde_json::to_value(&key).unwrap(), stored);
        assert_eq!(serde_json::from_value::<ApiKey>(stored).unwrap(), key);
    }

    #[test]
    fn every_mistake_of_a_key_is_named_at_once() {
        let key = json!({"id": "a/b", "owner": {"device": ""}, "scopes": ["a b"], "audience": [""], "routes": [""], "not_before": 9, "expires_at": 9,
            "allowed_cidrs": ["10.0.0.0/33", "::ffff:10.0.0.0/104", "10.0.0.0/8"], "quota": {"rate": 0, "period": "0s", "burst": 0}, "tenant": "a\nb"});
        let expected = [
            "id",
            "owner",
            "scopes[0]",
            "audience[0]",
            "routes[0]",
            "allowed_cidrs[0]",
            "allowed_cidrs[1]",
            "quota.rate",
            "quota.period",
            "quota.burst",
            "expires_at",
            "name",
        ];
        assert_eq!(mistakes(key), expected);
        for wrong in [json!({"expires_at": "soon"}), json!({"owner": {"client_id": "a", "subject": "b"}}), json!({"api_key": "x"})] {
            assert!(serde_json::from_value::<ApiKey>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
