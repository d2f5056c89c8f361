//! Fourth phase: the quotas of the route and of an API key, and how many at once.
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use edge::{
    Quota, Refusal, Verdict,
    identity::Identity,
    limit::{Ask, strictest},
    memory::Memory,
    rate::{self, LimitKey, Rates, Shared},
    table::Entry,
};
use http::{HeaderMap, HeaderValue};

use crate::{
    Gateway,
    asked::Asked,
    lease::Leases,
    open::{Held, Open},
};

/// What this process counts itself.
#[derive(Default)]
pub(crate) struct Tallies {
    local: Memory,
    leases: Leases,
    open: Arc<Open>,
}

/// What the quotas said of a request.
pub(crate) struct Counted {
    /// The strictest.
    pub verdict: Verdict,
    /// `RateLimit` and `RateLimit-Policy`.
    pub told: Option<(HeaderValue, HeaderValue)>,
}

/// One quota and what this request is counted under.
struct Share<'a> {
    name: &'a str,
    key: String,
    quota: Quota,
    cost: u32,
    shared: Shared,
}

/// Counts this request against the route's quotas and the API key's own; a rehearsal only looks. One that refuses uses up none of them.
/// `None`: there are none.
pub(crate) async fn count(
    gateway: &Gateway,
    entry: &Entry,
    own: Option<Quota>,
    who: Option<&Identity>,
    from: IpAddr,
    asked: &Asked<'_>,
    now_ms: i64,
) -> Option<Counted> {
    let limits = entry.limit.iter().flat_map(|rates| &rates.limits);
    let mut shares: Vec<Share<'_>> = limits
        .map(|limit| Share {
            name: &limit.name,
            key: counter(&entry.id, &limit.name, &value(&limit.key, who, from, asked.headers)),
            quota: limit.quota,
            cost: limit.cost,
            shared: limit.shared,
        })
        .collect();
    if let (Some(quota), Some(key)) = (own, who.and_then(|who| LimitKey::ApiKey.of(who))) {
        shares.push(Share { name: rate::OWN, key: format!("gateway-key:{key}"), quota, cost: 1, shared: Shared::Yes });
    }
    let verdicts = if asked.rehearsal { look(gateway, &shares, now_ms).await } else { take(gateway, &shares, now_ms).await };
    let (at, verdict) = strictest(&verdicts)?;
    let name = shares.get(at)?.name;
    let policy = match (&entry.limit, own) {
        (Some(Rates { policy, .. }), None) => Some(policy.clone()),
        _ => rate::policy(shares.iter().map(|share| (share.name, &share.quota))),
    };
    Some(Counted { verdict, told: rate::told(name, &verdict).zip(policy) })
}

async fn look(gateway: &Gateway, shares: &[Share<'_>], now_ms: i64) -> Vec<Verdict> {
    let mut out = Vec::with_capacity(shares.len());
    for share in shares {
        out.push(match share.shared {
            Shared::No => gateway.tallies.local.count(&share.key, &share.quota, 0, now_ms),
            Shared::Yes | Shared::Lease => gateway.parts().counters.peek(&share.key, &share.quota, now_ms).await,
        });
    }
    out
}

/// What costs nothing to ask is asked first; all that are shared exactly are asked together.
async fn take(gateway: &Gateway, shares: &[Share<'_>], now_ms: i64) -> Vec<Verdict> {
    let (tallies, counters) = (&gateway.tallies, &*gateway.parts().counters);
    if let [only] = shares
        && only.shared == Shared::Yes
    {
        return vec![counters.hit(&only.key, &only.quota, only.cost, now_ms).await];
    }
    let mut out: Vec<Option<Verdict>> = vec![None; shares.len()];
    let mut refused = false;
    for (share, out) in shares.iter().zip(&mut out).filter(|(share, _)| share.shared != Shared::Yes) {
        let verdict = match share.shared {
            Shared::No => tallies.local.count(&share.key, &share.quota, share.cost, now_ms),
            Shared::Yes | Shared::Lease => tallies.leases.take(counters, &share.key, &share.quota, share.cost, now_ms).await,
        };
        refused |= !verdict.allowed;
        *out = Some(verdict);
        if refused {
            break;
        }
    }
    let asks: Vec<Ask<'_>> = shares
        .iter()
        .filter(|share| share.shared == Shared::Yes)
        .map(|share| Ask { key: &share.key, quota: share.quota, cost: share.cost })
        .collect();
    if !refused && !asks.is_empty() {
        let verdicts = counters.hit_all(&asks, now_ms).await;
        refused = verdicts.iter().any(|verdict| !verdict.allowed);
        let places = shares.iter().zip(&mut out).filter(|(share, _)| share.shared == Shared::Yes);
        for ((_, out), verdict) in places.zip(verdicts) {
            *out = Some(verdict);
        }
    }
    if refused {
        for (share, verdict) in shares.iter().zip(&out).filter(|(_, v)| v.is_some_and(|v| v.allowed)) {
            match share.shared {
                Shared::Yes => {}
                Shared::No => tallies.local.give_back(&share.key, &share.quota, share.cost),
                Shared::Lease => tallies.leases.give_back(&share.key, share.cost, verdict.is_some()),
            }
        }
    }
    // Those not asked any more are no stricter than the one that refused; what is told is in the order of the route.
    let unasked = Verdict { allowed: true, remaining: u32::MAX, retry_after_ms: 0, reset_ms: 0 };
    out.into_iter().map(|verdict| verdict.unwrap_or(unasked)).collect()
}

/// Leave to be served beside what is being served already, held until the end of the answer.
pub(crate) fn enter(
    gateway: &Gateway,
    entry: &Entry,
    who: Option<&Identity>,
    from: IpAddr,
    asked: &Asked<'_>,
) -> Result<Vec<Held>, Refusal> {
    let Some(bounds) = &entry.bounds else { return Ok(Vec::new()) };
    let open = &gateway.tallies.open;
    let mut held = Vec::new();
    if let Some(most) = bounds.concurrent {
        held.push(open.enter(format!("route:{}", entry.id), most).ok_or(Refusal::Crowded)?);
    }
    if let Some((key, most)) = &bounds.concurrency {
        let key = counter(&entry.id, "concurrency", &value(key, who, from, asked.headers));
        held.push(open.enter(key, *most).ok_or(Refusal::Crowded)?);
    }
    if asked.rehearsal { Ok(Vec::new()) } else { Ok(held) }
}

/// The name of a counter. What callers choose comes last, and the lengths of what stands before it go with it: no two are the same text.
fn counter(route: &str, limit: &str, value: &str) -> String {
    format!("gateway:{}:{route}:{}:{limit}:{value}", route.len(), limit.len())
}

/// What a request is counted under. Whoever lacks what is counted by is counted by its address, which nobody's name can be taken for.
fn value(key: &LimitKey, who: Option<&Identity>, from: IpAddr, headers: &HeaderMap) -> String {
    let named = match key {
        LimitKey::Route => return String::new(),
        LimitKey::Ip => None,
        LimitKey::Header(name) => headers.get(name).map(|value| rate::bounded(value.as_bytes())),
        caller => who.and_then(|who| caller.of(who)).map(|named: Cow<'_, str>| rate::bounded(named.as_bytes())),
    };
    named.map_or_else(|| format!("@{}", source(from)), |named| format!("={named}"))
}

/// A source of requests: an IPv4 address or an IPv6 /64.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            },
            IpAddr::V4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn who_leaves_the_header_out_is_counted_by_its_address() {
        let key = LimitKey::Header(HeaderName::from_static("x-who"));
        let of = |header: Option<&'static str>, from: [u8; 4]| {
            let headers = header.map(|v| (HeaderName::from_static("x-who"), HeaderValue::from_static(v))).into_iter().collect();
            value(&key, None, from.into(), &headers)
        };
        assert_ne!(of(None, [192, 0, 2, 1]), of(None, [192, 0, 2, 2]), "strangers share nothing");
        assert_eq!(of(Some("a"), [192, 0, 2, 1]), of(Some("a"), [192, 0, 2, 2]));
        assert_ne!(of(Some("192.0.2.1"), [192, 0, 2, 2]), of(None, [192, 0, 2, 1]), "an address is no name");
        assert_ne!(of(Some("@192.0.2.1"), [192, 0, 2, 2]), of(None, [192, 0, 2, 1]));
    }

    #[test]
    fn no_value_makes_one_counter_another() {
        assert_ne!(counter("r", "a", "=b:@192.0.2.1"), counter("r", "a:=b", "@192.0.2.1"));
        assert_ne!(counter("r:1:a", "b", "="), counter("r", "a:1:b", "="));
        assert_ne!(counter("r", "a", "b:1:c"), counter("r", "a:b", "c"));
    }
}
