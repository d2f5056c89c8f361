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
use http::HeaderValue;

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
            key: format!("gateway:{}:{}:{}", entry.id, limit.name, value(&limit.key, who, from, asked)),
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
        held.push(open.enter(format!("{}:", entry.id), most).ok_or(Refusal::Crowded)?);
    }
    if let Some((key, most)) = &bounds.concurrency {
        held.push(open.enter(format!("{}::{}", entry.id, value(key, who, from, asked)), *most).ok_or(Refusal::Crowded)?);
    }
    if asked.rehearsal { Ok(Vec::new()) } else { Ok(held) }
}

/// What a request is counted under. Whoever lacks what is counted by is counted by its address.
fn value(key: &LimitKey, who: Option<&Identity>, from: IpAddr, asked: &Asked<'_>) -> String {
    match key {
        LimitKey::Ip => source(from),
        LimitKey::Route => String::new(),
        LimitKey::Header(name) => asked.headers.get(name).map(|v| rate::bounded(v.as_bytes())).unwrap_or_default(),
        caller => who.and_then(|who| caller.of(who)).map_or_else(|| source(from), |named: Cow<'_, str>| rate::bounded(named.as_bytes())),
    }
}

/// A source of requests: an IPv4 address or an IPv6 /64.
pub(crate) fn source(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
            }
        },
    }
}
