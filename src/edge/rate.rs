//! Rate limits of a route: how many requests, counted by what, and how they are told (draft-ietf-httpapi-ratelimit-headers-10).
use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use ledger::Mistake;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    identity::{Identity, Issuer, Kind},
    limit::{Quota, Verdict},
};

/// Most limits of one route.
const MOST: usize = 8;
/// The longest a full burst may take to come back, seconds: ten years.
const LONGEST_S: u64 = 3650 * 86_400;
/// Longer values are counted by their hash.
const PLAIN: usize = 64;

/// How many requests, counted by what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// What it is called in `RateLimit-Policy`; the key when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `ip`, `client`, `subject`, `api_key`, `device`, `tenant`, `consumer`, `route` or `header:NAME`.
    pub key: String,
    pub rate: u32,
    /// E.g. `"60s"` or `"30d"`.
    pub period: String,
    /// Absent: as much as `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How many units one request takes; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// Where it is counted.
    #[serde(skip_serializing_if = "Shared::is_default")]
    pub shared: Shared,
}

/// Where a limit is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shared {
    /// Over all nodes, exactly: each request asks.
    #[default]
    Yes,
    /// By each process for itself.
    No,
    /// Over all nodes, up to a hundredth of the burst taken at a time.
    Lease,
}

impl Shared {
    fn is_default(&self) -> bool {
        *self == Self::Yes
    }
}

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Yes => to.serialize_bool(true),
            Self::No => to.serialize_bool(false),
            Self::Lease => to.serialize_str("lease"),
        }
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Bool(true) => Ok(Self::Yes),
            Value::Bool(false) => Ok(Self::No),
            Value::String(text) if text == "lease" => Ok(Self::Lease),
            _ => Err(D::Error::custom("shared must be true, false or \"lease\"")),
        }
    }
}

/// The limits of a route: one object, or several in an array, all of which must allow a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimits(pub Vec<RateLimit>);

impl Serialize for RateLimits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(to),
            many => many.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for RateLimits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = |value| serde_json::from_value(value).map_err(D::Error::custom);
        Ok(Self(match Value::deserialize(from)? {
            Value::Array(many) => many.into_iter().map(read).collect::<Result<_, _>>()?,
            one => vec![read(one)?],
        }))
    }
}

/// What a rate limit counts by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitKey {
    Ip,
    Client,
    Subject,
    ApiKey,
    Device,
    Tenant,
    /// Whoever calls: the device, else the API key, else the client, else the subject.
    Consumer,
    Route,
    Header(HeaderName),
}

impl LimitKey {
    /// Reads it as a route writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ip" => Self::Ip,
            "client" => Self::Client,
            "subject" => Self::Subject,
            "api_key" => Self::ApiKey,
            "device" => Self::Device,
            "tenant" => Self::Tenant,
            "consumer" => Self::Consumer,
            "route" => Self::Route,
            other => Self::Header(HeaderName::from_bytes(other.strip_prefix("header:")?.as_bytes()).ok()?),
        })
    }

    /// Whether it needs to know who calls.
    #[must_use]
    pub const fn needs_caller(&self) -> bool {
        !matches!(self, Self::Ip | Self::Route | Self::Header(_))
    }

    /// What a caller is counted under; `None`: it has nothing of the kind, so that its address counts.
    #[must_use]
    pub fn of<'a>(&self, who: &'a Identity) -> Option<Cow<'a, str>> {
        // Names of different issuers are different names.
        let named = |text: Option<&'a str>| {
            text.filter(|t| !t.is_empty()).map(|text| match &who.issuer {
                Issuer::Foreign(issuer) => Cow::Owned(format!("{issuer} {text}")),
                Issuer::Own | Issuer::Authority(_) => Cow::Borrowed(text),
            })
        };
        match self {
            Self::Client => named(who.claims.client_id.as_deref()),
            Self::Subject if who.claims.sub.is_empty() => None,
            Self::Subject => Some(format!("{} {}", who.claims.iss, who.claims.sub).into()),
            Self::ApiKey => named(if who.kind == Kind::ApiKey { who.kid.as_deref() } else { None }),
            Self::Device => named(who.device.as_ref().map(|device| device.id.as_str())),
            Self::Tenant => {
                let of_device = who.device.as_ref().and_then(|device| device.tenant.as_deref());
                named(of_device.or_else(|| who.claims.raw.get("tenant").and_then(Value::as_str)))
            }
            // A client may be called what a device is called.
            Self::Consumer => [("device", Self::Device), ("api_key", Self::ApiKey), ("client", Self::Client), ("subject", Self::Subject)]
                .iter()
                .find_map(|(kind, key)| key.of(who).map(|name| Cow::Owned(format!("{kind} {name}")))),
            Self::Ip | Self::Route | Self::Header(_) => None,
        }
    }
}

/// A value as part of a counter's key: short, whoever chose it, and no two the same.
#[must_use]
pub fn bounded(value: &[u8]) -> String {
    let plain = value.len() <= PLAIN && value.first() != Some(&b'#');
    if let Some(text) = std::str::from_utf8(value).ok().filter(|_| plain) {
        return text.to_owned();
    }
    let hash = tokens::hash::sha256(value);
    hash.iter().take(16).fold("#".to_owned(), |text, octet| format!("{text}{octet:02x}"))
}

/// A rate limit made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub name: Box<str>,
    pub key: LimitKey,
    pub quota: Quota,
    pub cost: u32,
    pub shared: Shared,
}

/// The limits of a route made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    pub limits: Vec<Limit>,
    /// `RateLimit-Policy`.
    pub policy: HeaderValue,
}

impl RateLimits {
    /// Made ready; `None` if nothing is limited.
    #[must_use]
    pub fn ready(&self) -> Option<Rates> {
        let limits: Vec<Limit> = self.0.iter().filter_map(RateLimit::ready).collect();
        if limits.is_empty() {
            return None;
        }
        let policy = policy(limits.iter().map(|l| (&*l.name, &l.quota)))?;
        Some(Rates { limits, policy })
    }

    pub(crate) fn mistakes(&self, has_auth: bool, out: &mut Vec<Mistake>) {
        if self.0.is_empty() || self.0.len() > MOST {
            out.push(Mistake::new("rate_limit", format!("1 to {MOST} limits")));
        }
        let alone = self.0.len() == 1;
        let mut names = std::collections::BTreeSet::new();
        for (n, limit) in self.0.iter().enumerate() {
            let place = if alone { "rate_limit".to_owned() } else { format!("rate_limit[{n}]") };
            limit.mistakes(&place, has_auth, out);
            if !names.insert(limit.called()) {
                out.push(Mistake::new(format!("{place}.name"), "another limit of the route has this name (or key): name them apart"));
            }
        }
    }
}

impl RateLimit {
    /// The quota, if the period reads.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        let period_s = u32::try_from(tokens::duration::parse(&self.period)?).ok()?;
        Some(Quota { rate: self.rate, period_s, burst: self.burst.unwrap_or(self.rate) })
    }

    fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.key.replace('"', ""))
    }

    fn ready(&self) -> Option<Limit> {
        let (key, quota) = (LimitKey::parse(&self.key)?, self.quota()?);
        Some(Limit { name: self.called().into(), key, quota, cost: self.cost.unwrap_or(1), shared: self.shared })
    }

    fn mistakes(&self, place: &str, has_auth: bool, out: &mut Vec<Mistake>) {
        let mut wrong = |member: &str, why: &str| out.push(Mistake::new(format!("{place}.{member}"), why));
        match LimitKey::parse(&self.key) {
            Some(key) if key.needs_caller() && !has_auth => wrong("key", "a route without auth does not know who calls"),
            Some(_) => {}
            None => wrong("key", "must be ip, client, subject, api_key, device, tenant, consumer, route or header:NAME"),
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 64 || !name.bytes().all(plain)) {
            wrong("name", "1 to 64 letters, digits, '.', '_', '-' or ':'");
        }
        if self.rate == 0 {
            wrong("rate", "must be at least 1");
        }
        match self.quota() {
            None => wrong("period", "a duration such as \"60s\" is needed"),
            Some(quota) if u64::from(quota.period_s) * u64::from(quota.burst) / u64::from(quota.rate.max(1)) > LONGEST_S => {
                wrong("burst", "would take longer than ten years to come back");
            }
            Some(_) => {}
        }
        if self.burst == Some(0) {
            wrong("burst", "must be at least 1");
        }
        if self.cost == Some(0) || self.cost.is_some_and(|cost| cost > self.burst.unwrap_or(self.rate)) {
            wrong("cost", "must be at least 1 and at most the burst: otherwise no request is ever let through");
        }
    }
}

/// The quota that an API key brings itself: the member `quota {rate, period, burst}` of what is known of it.
#[must_use]
pub fn own_quota(who: &Identity) -> Option<Quota> {
    if who.kind != Kind::ApiKey {
        return None;
    }
    let quota = who.claims.raw.get("quota")?;
    let number = |name: &str| quota.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let period_s = u32::try_from(tokens::duration::parse(quota.get("period")?.as_str()?)?).ok()?;
    let rate = number("rate")?;
    Some(Quota { rate, period_s, burst: number("burst").unwrap_or(rate) })
}

/// The name of the quota that an API key brings itself.
pub const OWN: &str = "key";

/// `RateLimit-Policy` of these quotas.
pub fn policy<'a>(quotas: impl Iterator<Item = (&'a str, &'a Quota)>) -> Option<HeaderValue> {
    let items: Vec<String> = quotas.map(|(name, quota)| format!("\"{name}\";q={};w={}", quota.rate, quota.period_s)).collect();
    HeaderValue::from_str(&items.join(", ")).ok()
}

/// `RateLimit` of the verdict that binds.
#[must_use]
pub fn told(name: &str, verdict: &Verdict) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{name}\";r={};t={}", verdict.remaining, (verdict.reset_ms + 999) / 1000)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::identity::{Device, tests::identity};

    fn read(value: Value) -> RateLimits {
        serde_json::from_value(value).unwrap()
    }

    fn wrong(value: Value, has_auth: bool) -> Vec<String> {
        let mut out = Vec::new();
        read(value).mistakes(has_auth, &mut out);
        out.into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn one_limit_or_several_are_read_and_written_as_they_came() {
        let one = json!({"key": "ip", "rate": 10, "period": "60s", "burst": 20});
        let two = json!([{"key": "ip", "rate": 10, "period": "1s"},
            {"name": "month", "key": "consumer", "rate": 1_000_000, "period": "30d", "cost": 3, "shared": "lease"}]);
        for value in [one, two.clone()] {
            assert_eq!(serde_json::to_value(read(value.clone())).unwrap(), value);
            assert_eq!(wrong(value, true), Vec::<String>::new());
        }
        let ready = read(two).ready().unwrap();
        assert_eq!(ready.policy, r#""ip";q=10;w=1, "month";q=1000000;w=2592000"#);
        assert_eq!((ready.limits[1].cost, ready.limits[1].shared), (3, Shared::Lease));
        assert!(serde_json::from_value::<RateLimits>(json!({"key": "ip", "nonsense": 1})).is_err());
        assert!(serde_json::from_value::<RateLimits>(json!({"key": "ip", "rate": 1, "period": "1s", "shared": "perhaps"})).is_err());
    }

    #[test]
    fn every_mistake_is_named() {
        assert_eq!(wrong(json!([]), true), ["rate_limit"]);
        assert_eq!(
            wrong(json!({"key": "luck", "rate": 0, "period": "x"}), true),
            ["rate_limit.key", "rate_limit.rate", "rate_limit.period"]
        );
        for key in ["client", "subject", "api_key", "device", "tenant", "consumer"] {
            assert_eq!(wrong(json!({"key": key, "rate": 1, "period": "1s"}), false), ["rate_limit.key"], "{key}");
        }
        let twice = json!([{"key": "ip", "rate": 1, "period": "1s"}, {"key": "ip", "rate": 9, "period": "1h"}]);
        assert_eq!(wrong(twice, false), ["rate_limit[1].name"]);
        let dear = json!({"key": "ip", "rate": 5, "period": "1s", "cost": 6, "name": "a b"});
        assert_eq!(wrong(dear, false), ["rate_limit.name", "rate_limit.cost"]);
        assert_eq!(wrong(json!({"key": "ip", "rate": 1, "period": "30d", "burst": 1000}), false), ["rate_limit.burst"]);
    }

    #[test]
    fn a_caller_is_counted_by_what_it_has() {
        let mut who = identity(json!({"sub": "s", "client_id": "c", "tenant": "t", "quota": {"rate": 5, "period": "1m"}}));
        let of = |key: &str, who: &Identity| LimitKey::parse(key).unwrap().of(who).map(Cow::into_owned);
        assert_eq!(of("client", &who).as_deref(), Some("c"));
        assert_eq!(of("subject", &who).as_deref(), Some("https://id.example.com s"));
        assert_eq!(of("tenant", &who).as_deref(), Some("t"));
        assert_eq!(of("consumer", &who).as_deref(), Some("client c"));
        assert_eq!((of("api_key", &who), of("device", &who)), (None, None));
        assert_eq!(own_quota(&who), None, "what a token says of itself is no quota");
        who.issuer = Issuer::Foreign("https://other.example".into());
        assert_eq!(of("client", &who).as_deref(), Some("https://other.example c"), "not the client of that name here");
        who.issuer = Issuer::Own;
        who.kind = Kind::ApiKey;
        assert_eq!(of("consumer", &who).as_deref(), Some("api_key k"));
        assert_eq!(own_quota(&who), Some(Quota::per(5, 60)));
        who.device = Some(Arc::new(Device { id: "d".into(), ..Device::default() }));
        assert_eq!(of("consumer", &who).as_deref(), Some("device d"));
    }

    #[test]
    fn a_long_value_is_counted_by_its_hash() {
        assert_eq!(bounded(b"short"), "short");
        let (one, two) = (bounded(&[b'a'; 9000]), bounded(&[b'a'; 9001]));
        assert!(one.len() < 50 && one != two);
        assert_ne!(bounded(one.as_bytes()), one, "nobody is called what another one's hash is");
        assert_ne!(bounded(b"\xff"), bounded(b"\xfe"));
    }
}
