//! Sources and how often they may fail.
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use edge::limit::Quota;
use http::{HeaderMap, HeaderValue, header, request::Parts};
use ledger::{EventKind, NewEvent};
use moka::sync::Cache;
use protocol::OAuthError;

use crate::{App, Peer};

/// Failed client authentications of one source against one client, before it has to wait.
const FAILURES: Quota = Quota { rate: 200, period_s: 60, burst: 200 };
/// The same with its name on the wire.
pub(crate) const FAILURES_OF_ONE: Policy = Policy { name: "client-auth", quota: FAILURES };
/// Failures of one source that are written to the ledger one by one; of the rest the number is told.
const TOLD: Quota = Quota { rate: 30, period_s: 60, burst: 30 };

/// A quota as the wire names it (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Its name.
    pub(crate) name: &'static str,
    /// How much.
    pub(crate) quota: Quota,
}

impl Policy {
    /// It is used up for so many seconds.
    pub(crate) const fn waits(self, seconds: i64) -> Wait {
        Wait { policy: self, seconds }
    }
}

/// A quota that is used up.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    policy: Policy,
    seconds: i64,
}

impl Wait {
    /// Writes `Retry-After`, `RateLimit` and `RateLimit-Policy`.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let (Policy { name, quota }, seconds) = (self.policy, self.seconds.max(1));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        let told = [
            ("ratelimit", format!("\"{name}\";r=0;t={seconds}")),
            ("ratelimit-policy", format!("\"{name}\";q={};w={}", quota.burst, quota.period_s)),
        ];
        for (header, value) in told {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(header, value);
            }
        }
    }
}

/// Clients that there are not, named by one source, before only those are looked for that are known to be there.
pub(crate) const UNKNOWN: Policy = Policy { name: "unknown-client", quota: Quota { rate: 1200, period_s: 60, burst: 1200 } };

/// Seconds until the database is asked about another client that nobody has used lately, in the name of a source that asked for too many
/// that there are not.
pub(crate) async fn unknown_wait(app: &App, source: IpAddr) -> Option<i64> {
    let verdict = app.counters.peek(&format!("unknown_client:{source}"), &UNKNOWN.quota, app.clock.now_ms()).await;
    (!verdict.allowed).then(|| verdict.retry_after_s())
}

/// A source named a client that there is not.
pub(crate) async fn unknown(app: &App, source: IpAddr) {
    app.counters.hit(&format!("unknown_client:{source}"), &UNKNOWN.quota, 1, app.clock.now_ms()).await;
}

/// Where a request comes from: the peer, or what a trusted proxy says of it. IPv6 addresses count by their /64.
#[must_use]
pub fn source(app: &App, parts: &Parts) -> IpAddr {
    source_of(app, parts.extensions.get::<Peer>().copied(), &parts.headers)
}

/// The same of its parts.
#[must_use]
pub fn source_of(app: &App, peer: Option<Peer>, headers: &HeaderMap) -> IpAddr {
    let peer = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |p| p.0.ip().to_canonical());
    let trusted = |ip: IpAddr| app.trusted_proxies.iter().any(|net| net.contains(&ip));
    // Whom a proxy does not know it answers for.
    whole(edge::forwarded::source(peer, headers, trusted).unwrap_or(peer))
}

fn whole(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Sources that failed too often against a client, until when.
pub struct Failures {
    closed: LazyLock<Cache<(IpAddr, String), i64>>,
}

impl Default for Failures {
    fn default() -> Self {
        let closed =
            || Cache::builder().max_capacity(10_000).time_to_live(std::time::Duration::from_secs(FAILURES.period_s as u64)).build();
        Self { closed: LazyLock::new(closed) }
    }
}

impl Failures {
    /// Seconds until this source may try this client again.
    pub(crate) fn wait(&self, source: IpAddr, client_id: &str, now_ms: i64) -> Option<i64> {
        if LazyLock::get(&self.closed).is_none_or(|closed| closed.entry_count() == 0) {
            return None;
        }
        let until = self.closed.get(&(source, clip(client_id).to_owned()))?;
        (until > now_ms).then(|| (until - now_ms + 999) / 1000)
    }

    /// Counts a failure: closes the source to that client when there were too many, and tells the ledger unless it has heard enough.
    pub(crate) async fn count(&self, app: &App, endpoint: &'static str, source: IpAddr, client_id: &str, error: &OAuthError) {
        let (now_ms, id) = (app.clock.now_ms(), clip(client_id));
        metrics::counter!("client_auth_failed_total", "endpoint" => endpoint).increment(1);
        // As a hash: counters have one size.
        let key = format!("client_auth:{source}:{}", tokens::hash::left_half(id));
        let verdict = app.counters.hit(&key, &FAILURES, 1, now_ms).await;
        if !verdict.allowed {
            self.closed.insert((source, id.to_owned()), now_ms + verdict.retry_after_ms.max(1000));
            self.closed.run_pending_tasks();
        }
        if app.counters.hit(&format!("client_auth_told:{source}"), &TOLD, 1, now_ms).await.allowed {
            let event = NewEvent::new(EventKind::ClientAuthFailed, now_ms)
                .client(if protocol::client::is_id(id) { id } else { "?" })
                .with("source", source.to_string())
                .with("endpoint", endpoint)
                .with("reason", error.reason.as_ref());
            if let Err(error) = app.summaries.tell(app, event).await {
                tracing::warn!(%error, "a failed client authentication could not be recorded");
            }
        } else {
            app.summaries.add(app, EventKind::ClientAuthFailed);
        }
    }
}

fn clip(client_id: &str) -> &str {
    client_id.get(..128).unwrap_or(if client_id.len() > 128 { "?" } else { client_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_source_is_its_network() {
        assert_eq!(whole("2001:db8:1:2:3:4:5:6".parse().unwrap()), "2001:db8:1:2::".parse::<IpAddr>().unwrap());
    }
}
