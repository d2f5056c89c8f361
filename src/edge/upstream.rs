//! Upstreams: where an admitted request goes.
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    balance::HashOn,
    resilience::{BreakerRule, Ejection, HealthCheck, Retries, durations},
    upstream_tls::UpstreamTls,
};

/// One server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `http://host:port` or `https://host:port`, without path, query or userinfo.
    pub url: String,
    /// Its share among the targets, at most 100; 1 when absent, 0 takes it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// How to speak to the targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 in the clear; over TLS what ALPN chooses.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, by prior knowledge in the clear.
    Http2,
}

/// A named (or, inside a route, nameless) upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub targets: Vec<Target>,
    #[serde(skip_serializing_if = "is_auto")]
    pub protocol: Protocol,
    /// Whether the request's Host is passed on (default) or the target's own authority is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_host: Option<bool>,
    /// How long a connection may take to open, e.g. `"5s"` (default 5 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// How long the answer's head may take, e.g. `"30s"` (default 60 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// How long the answer's body may pause, e.g. `"60s"` (default: any time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// How long a request may take with all its tries and its answer's body, e.g. `"120s"` (default: any time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<String>,
    /// `round_robin` (default), `least_requests` or `consistent_hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// For `consistent_hash`: `source` (default), `path`, `header:NAME`, `cookie:NAME` or `claim:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<String>,
    /// Active health checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// When a target that fails is passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// What is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// When nothing is sent to a target for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerRule>,
    /// Most requests under way at once, of one gateway process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Most connections open at once, of one gateway process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Most requests that wait for one of these, for at most `connect_timeout` (default 64); those beyond are refused with 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// TLS of this upstream's own; its targets are https then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
}

/// The largest share of a target.
pub(crate) const MOST_WEIGHT: u32 = 100;
/// Most targets of one upstream.
const MOST_TARGETS: usize = 100;

fn is_auto(protocol: &Protocol) -> bool {
    *protocol == Protocol::Auto
}

impl Upstream {
    /// What is wrong apart from its id (inline upstreams have none).
    #[must_use]
    pub fn faults(&self) -> Vec<Mistake> {
        let mut out = Vec::new();
        if self.targets.is_empty() {
            out.push(Mistake::new("targets", "at least one target is needed"));
        }
        for (n, target) in self.targets.iter().enumerate() {
            if let Err(why) = parse_target(&target.url) {
                out.push(Mistake::new(format!("targets[{n}].url"), why));
            }
            if target.weight.is_some_and(|weight| weight > MOST_WEIGHT) {
                out.push(Mistake::new(format!("targets[{n}].weight"), "must be 0 to 100"));
            }
        }
        if !self.targets.is_empty() && self.targets.iter().all(|t| t.weight == Some(0)) {
            out.push(Mistake::new("targets", "at least one target needs a weight above 0"));
        }
        durations(
            &mut out,
            &[
                ("connect_timeout", &self.connect_timeout),
                ("timeout", &self.timeout),
                ("idle_timeout", &self.idle_timeout),
                ("total_timeout", &self.total_timeout),
            ],
        );
        self.balance_mistakes(&mut out);
        if let Some(health) = &self.health {
            health.mistakes(&mut out);
        }
        if let Some(ejection) = &self.ejection {
            ejection.mistakes(&mut out);
        }
        if let Some(retries) = &self.retries {
            retries.mistakes(&mut out);
        }
        if let Some(breaker) = &self.breaker {
            breaker.mistakes(&mut out);
        }
        if let Some(tls) = &self.tls {
            tls.mistakes(&mut out);
            if self.targets.iter().any(|t| !t.url.starts_with("https://")) {
                out.push(Mistake::new("tls", "every target has to be https"));
            }
        }
        out
    }

    fn balance_mistakes(&self, out: &mut Vec<Mistake>) {
        if self.targets.len() > MOST_TARGETS {
            out.push(Mistake::new("targets", "at most 100 targets"));
        }
        let method = self.balance.as_deref().unwrap_or("round_robin");
        if !matches!(method, "round_robin" | "least_requests" | "consistent_hash") {
            out.push(Mistake::new("balance", "must be one of round_robin, least_requests, consistent_hash"));
        }
        if self.hash_on.is_some() && method != "consistent_hash" {
            out.push(Mistake::new("hash_on", "needs balance: \"consistent_hash\""));
        }
        if self.hash_on.as_deref().is_some_and(|on| HashOn::parse(on).is_none()) {
            out.push(Mistake::new("hash_on", "must be source, path, header:NAME, cookie:NAME or claim:NAME"));
        }
        for (at, most) in [("max_requests", self.max_requests), ("max_connections", self.max_connections)] {
            if most.is_some_and(|n| n == 0 || n > 1_000_000) {
                out.push(Mistake::new(at, "must be 1 to 1000000"));
            }
        }
        if self.max_pending.is_some() && self.max_requests.is_none() && self.max_connections.is_none() {
            out.push(Mistake::new("max_pending", "needs max_requests or max_connections"));
        }
    }
}

/// The parts of a target's URL: whether TLS, host (IPv6 without brackets), port.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn parse_target(text: &str) -> Result<(bool, String, u16), &'static str> {
    let url = Url::parse(text).map_err(|_| "an absolute URL such as http://127.0.0.1:9000 is needed")?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err("the scheme must be http or https"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong in a URL");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("a target has no path, query or fragment; use strip_prefix on the route");
    }
    let host = url.host_str().ok_or("a host is needed")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().ok_or("a port is needed")?;
    if port == 0 {
        return Err("port 0 cannot be connected to");
    }
    Ok((tls, host, port))
}

/// Whether `id` may name an administered object: 1–128 letters, digits, `.`, `_`, `-`, `:`.
pub(crate) fn good_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
}

impl Record for Upstream {
    const KIND: ObjectKind = ObjectKind::Upstream;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut out = self.faults();
        if !good_id(&self.id) {
            out.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_scheme_host_and_port_only() {
        assert_eq!(parse_target("http://127.0.0.1:9000"), Ok((false, "127.0.0.1".into(), 9000)));
        assert_eq!(parse_target("https://[::1]/"), Ok((true, "::1".into(), 443)));
        for bad in ["ftp://a/", "http://u@a/", "http://a/x", "http://a/?q", "a:1", "http://a:0"] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }
}
