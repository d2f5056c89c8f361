//! Fourth phase: the route's quota.
use std::net::{IpAddr, Ipv6Addr};

use edge::{
    Verdict,
    identity::Identity,
    table::{Entry, Limit, LimitKey},
};

use crate::{Gateway, asked::Asked};

/// Counts this request against the route's quota; a rehearsal only looks.
pub(crate) async fn count(
    gateway: &Gateway,
    entry: &Entry,
    limit: &Limit,
    who: Option<&Identity>,
    from: IpAddr,
    asked: &Asked<'_>,
    now_ms: i64,
) -> Verdict {
    let value = match &limit.key {
        LimitKey::Ip => source(from),
        LimitKey::Route => String::new(),
        LimitKey::Client => who.and_then(|w| w.claims.client_id.clone()).unwrap_or_else(|| source(from)),
        LimitKey::Subject => who.map_or_else(|| source(from), |w| format!("{} {}", w.claims.iss, w.claims.sub)),
        LimitKey::Header(name) => asked.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default(),
    };
    let key = format!("gateway:{}:{value}", entry.id);
    let counters = &gateway.parts().counters;
    if asked.rehearsal { counters.peek(&key, &limit.quota, now_ms).await } else { counters.hit(&key, &limit.quota, 1, now_ms).await }
}

/// A source of requests: an IPv4 address or an IPv6 /64.
fn source(ip: IpAddr) -> String {
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
