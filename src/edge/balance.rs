//! An upstream made ready: its targets, whose turn it is, and how its faults are met.
use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue};

use crate::{
    resilience::{Breaking, Bulkhead, Checks, Ejecting, Ejection, HealthCheck, Retries, Retrying, ms, opt_ms},
    upstream::{MOST_WEIGHT, Protocol, Upstream, parse_target},
    upstream_tls::UpstreamTls,
};

/// One server an upstream's requests may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Its Host value.
    pub authority: HeaderValue,
    pub protocol: Protocol,
    pub weight: u32,
    /// What connections to it are kept under.
    pub key: Arc<str>,
    /// TLS of its upstream's own, with the upstream's id.
    pub secured: Option<Arc<Secured>>,
}

/// TLS that is an upstream's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Secured {
    /// The upstream.
    pub id: Arc<str>,
    pub tls: UpstreamTls,
}

/// How a target is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Method {
    /// Each in its turn, by weight.
    #[default]
    RoundRobin,
    /// Of two taken by chance the one with fewer requests for its weight.
    LeastRequests,
    /// The same for the same value (weighted rendezvous: when a target goes, only what went there moves).
    ConsistentHash(HashOn),
}

/// What consistent hashing looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    Source,
    Path,
    Header(HeaderName),
    Cookie(String),
    Claim(String),
}

impl HashOn {
    /// `source`, `path`, `header:NAME`, `cookie:NAME`, `claim:NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let token = |name: &str| (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"".contains(&b));
        match text.split_once(':') {
            None if text == "source" => Some(Self::Source),
            None if text == "path" => Some(Self::Path),
            Some(("header", name)) => HeaderName::from_bytes(name.as_bytes()).ok().map(Self::Header),
            Some(("cookie", name)) if token(name) => Some(Self::Cookie(name.to_owned())),
            Some(("claim", name)) if token(name) => Some(Self::Claim(name.to_owned())),
            _ => None,
        }
    }
}

/// An upstream made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    pub id: Arc<str>,
    pub targets: Vec<Target>,
    /// Indices into `targets`, each as often as its weight says.
    pub order: Vec<usize>,
    pub method: Method,
    pub preserve_host: bool,
    pub connect_timeout_ms: u64,
    pub timeout_ms: u64,
    /// How long the answer's body may pause.
    pub idle_timeout_ms: Option<u64>,
    /// How long all of it may take.
    pub total_timeout_ms: Option<u64>,
    pub health: Option<Checks>,
    pub ejecting: Ejecting,
    pub retries: Option<Retrying>,
    pub breaker: Option<Breaking>,
    pub bulkhead: Bulkhead,
    /// One target and nothing to watch over: the short way.
    pub plain: bool,
}

/// Makes an upstream ready.
pub(crate) fn balance(id: &str, upstream: &Upstream) -> Balance {
    let id: Arc<str> = id.into();
    let secured = upstream.tls.clone().map(|tls| Arc::new(Secured { id: Arc::clone(&id), tls }));
    let mut targets = Vec::new();
    let mut order = Vec::new();
    for given in &upstream.targets {
        let Ok((tls, host, port)) = parse_target(&given.url) else { continue };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let default = if tls { 443 } else { 80 };
        let authority = if port == default { shown.clone() } else { format!("{shown}:{port}") };
        let Ok(authority) = HeaderValue::from_str(&authority) else { continue };
        // Connections that were opened under another trust, or are counted, are nobody else's.
        let apart = secured.is_some() || upstream.max_connections.is_some();
        let own = if apart { format!("#{id}") } else { String::new() };
        let key = format!("{}://{shown}:{port}/{:?}{own}", if tls { "https" } else { "http" }, upstream.protocol).into();
        let weight = given.weight.unwrap_or(1).min(MOST_WEIGHT);
        order.extend(std::iter::repeat_n(targets.len(), weight as usize));
        targets.push(Target { tls, host, port, authority, protocol: upstream.protocol, weight, key, secured: secured.clone() });
    }
    let method = match upstream.balance.as_deref() {
        Some("least_requests") => Method::LeastRequests,
        Some("consistent_hash") => Method::ConsistentHash(upstream.hash_on.as_deref().and_then(HashOn::parse).unwrap_or(HashOn::Source)),
        _ => Method::RoundRobin,
    };
    let bulkhead = Bulkhead {
        max_requests: upstream.max_requests,
        max_connections: upstream.max_connections,
        max_pending: upstream.max_pending.unwrap_or(64),
    };
    let mut ready = Balance {
        id,
        order: spread(&order),
        method,
        preserve_host: upstream.preserve_host.unwrap_or(true),
        connect_timeout_ms: ms(upstream.connect_timeout.as_ref(), 5),
        timeout_ms: ms(upstream.timeout.as_ref(), 60),
        idle_timeout_ms: opt_ms(upstream.idle_timeout.as_ref()),
        total_timeout_ms: opt_ms(upstream.total_timeout.as_ref()),
        health: upstream.health.as_ref().map(HealthCheck::ready),
        ejecting: Ejection::ready(upstream.ejection.as_ref()),
        retries: upstream.retries.as_ref().map(Retries::ready),
        breaker: upstream.breaker.as_ref().map(crate::resilience::BreakerRule::ready),
        bulkhead,
        plain: false,
        targets,
    };
    ready.plain = ready.targets.len() == 1
        && ready.bulkhead.is_free()
        && ready.idle_timeout_ms.is_none()
        && ready.total_timeout_ms.is_none()
        && ready.health.is_none()
        && ready.retries.is_none()
        && ready.breaker.is_none();
    ready
}

/// Takes a block of each target in turn, so that weights do not come in runs.
fn spread(order: &[usize]) -> Vec<usize> {
    let mut left: BTreeMap<usize, usize> = BTreeMap::new();
    for at in order {
        *left.entry(*at).or_default() += 1;
    }
    let mut out = Vec::with_capacity(order.len());
    while out.len() < order.len() {
        for (at, n) in left.iter_mut().filter(|(_, n)| **n > 0) {
            out.push(*at);
            *n -= 1;
        }
    }
    out
}

/// The same number for the same octets on every node and in every version.
#[must_use]
pub fn hash(octets: &[u8]) -> u64 {
    mix(octets.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)))
}

const fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// The targets for a value, best first (weighted rendezvous hashing): a target that goes or comes moves its own share only.
#[must_use]
pub fn ranked(targets: &[Target], value: u64) -> Vec<usize> {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    let score = |target: &Target| {
        let drawn = mix(hash(target.key.as_bytes()) ^ value) >> 11;
        let drawn = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(target.weight) / -drawn.ln()
    };
    let mut scored: Vec<(usize, f64)> = targets.iter().enumerate().filter(|(_, t)| t.weight > 0).map(|(n, t)| (n, score(t))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    scored.into_iter().map(|(n, _)| n).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn ready(targets: serde_json::Value) -> Balance {
        let upstream: Upstream = serde_json::from_value(json!({"id": "u", "targets": targets, "balance": "consistent_hash"})).unwrap();
        balance("u", &upstream)
    }

    #[test]
    fn when_a_target_goes_only_its_own_values_move() {
        let urls = |n: usize| (0..n).map(|n| json!({"url": format!("http://10.0.0.{n}")})).collect::<Vec<_>>();
        let (five, four) = (ready(json!(urls(5))), ready(json!(urls(4))));
        let mut shares = [0_u32; 5];
        for n in 0..10_000_u64 {
            let value = hash(&n.to_be_bytes());
            let (before, after) = (ranked(&five.targets, value), ranked(&four.targets, value));
            shares[before[0]] += 1;
            let left: Vec<usize> = before.into_iter().filter(|at| *at != 4).collect();
            assert_eq!(left, after, "those that stay keep their order");
        }
        assert!(shares.iter().all(|n| (1_700..2_300).contains(n)), "{shares:?}");
    }

    #[test]
    fn a_target_of_twice_the_weight_has_twice_the_share() {
        let both = ready(json!([{"url": "http://a"}, {"url": "http://b", "weight": 2}, {"url": "http://c", "weight": 0}]));
        let mut shares = [0_u32; 3];
        (0..9_000_u64).for_each(|n| shares[ranked(&both.targets, hash(&n.to_be_bytes()))[0]] += 1);
        assert!((2_700..3_300).contains(&shares[0]) && (5_700..6_300).contains(&shares[1]), "{shares:?}");
        assert_eq!(both.order, [0, 1, 1]);
        assert_eq!(shares[2], 0);
    }

    #[test]
    fn a_weight_that_would_be_cut_is_a_mistake() {
        let faults = |weight: u32| {
            let upstream = json!({"id": "u", "targets": [{"url": "http://a", "weight": weight}]});
            serde_json::from_value::<Upstream>(upstream).unwrap().faults().into_iter().map(|mistake| mistake.at).collect::<Vec<_>>()
        };
        assert!(faults(100).is_empty());
        assert_eq!(faults(101), ["targets[0].weight"]);
    }

    #[test]
    fn one_target_with_nothing_to_watch_is_plain() {
        let plain = |json: serde_json::Value| balance("u", &serde_json::from_value(json).unwrap()).plain;
        assert!(plain(json!({"targets": [{"url": "http://a"}]})));
        assert!(!plain(json!({"targets": [{"url": "http://a"}, {"url": "http://b"}]})));
        assert!(!plain(json!({"targets": [{"url": "http://a"}], "max_requests": 3})));
    }
}
