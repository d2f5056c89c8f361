//! Which targets a request may go to, in the order to try them.
use std::net::IpAddr;

use edge::{
    Refusal,
    balance::{Balance, HashOn, Method, hash, ranked},
    identity::Identity,
};
use http::{HeaderMap, header};
use serde_json::Value;

use crate::{pool::Pool, standing::Standing};

/// What of a request a choice may look at.
pub(crate) struct Way<'a> {
    /// Whose request it is, or the proxy that does not say.
    pub from: IpAddr,
    /// The normal path.
    pub path: &'a str,
}

/// The targets to try, those that could not be reached a moment ago last. Targets that are ejected or fail their checks are left
/// out unless there is no other; those whose breaker is open always.
pub(crate) fn order(
    pool: &Pool,
    balance: &Balance,
    standing: &Standing,
    value: impl FnOnce(&HashOn) -> u64,
    now: u64,
) -> Result<Vec<usize>, Refusal> {
    let mut order = match &balance.method {
        Method::RoundRobin => in_turn(&balance.order, pool.turn()),
        Method::LeastRequests => least(pool, balance, standing),
        Method::ConsistentHash(on) => ranked(&balance.targets, value(on)),
    };
    order.retain(|at| standing.is_closed(*at, now));
    if order.is_empty() {
        return Err(Refusal::Full("breaker_open"));
    }
    if order.iter().any(|at| standing.is_up(*at, now)) {
        order.retain(|at| standing.is_up(*at, now));
    }
    if order.len() > 1 {
        order.sort_by_key(|at| balance.targets.get(*at).is_some_and(|target| pool.is_down(target)));
    }
    Ok(order)
}

/// Each target once, beginning with the one whose turn it is.
fn in_turn(order: &[usize], turn: usize) -> Vec<usize> {
    let start = turn.checked_rem(order.len()).unwrap_or(0);
    let mut out = Vec::new();
    for at in order.iter().cycle().skip(start).take(order.len()) {
        if !out.contains(at) {
            out.push(*at);
        }
    }
    out
}

/// Two taken by chance, the one with fewer requests for its weight first; then the others.
fn least(pool: &Pool, balance: &Balance, standing: &Standing) -> Vec<usize> {
    let mut order = in_turn(&balance.order, pool.chance(balance.order.len()));
    if let [first, others @ ..] = order.as_mut_slice()
        && let Some(second) = others.get_mut(pool.chance(others.len()))
    {
        // Compared crosswise, so that nothing is divided.
        let weight = |at: usize| balance.targets.get(at).map_or(1, |t| u64::from(t.weight));
        let load = |at: usize| u64::from(standing.load(at)) + 1;
        if load(*second) * weight(*first) < load(*first) * weight(*second) {
            std::mem::swap(first, second);
        }
    }
    order
}

/// The number a request is hashed to.
pub(crate) fn value(on: &HashOn, way: &Way<'_>, headers: &HeaderMap, who: Option<&Identity>) -> u64 {
    match on {
        HashOn::Source => match way.from {
            IpAddr::V4(ip) => hash(&ip.octets()),
            IpAddr::V6(ip) => hash(&ip.octets()),
        },
        HashOn::Path => hash(way.path.as_bytes()),
        HashOn::Header(name) => headers.get(name).map_or(0, |v| hash(v.as_bytes())),
        HashOn::Cookie(name) => cookie(headers, name).map_or(0, hash),
        HashOn::Claim(name) => match who.and_then(|who| who.claims.raw.get(name)) {
            Some(Value::String(text)) => hash(text.as_bytes()),
            Some(other) => hash(other.to_string().as_bytes()),
            None => 0,
        },
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().flat_map(|v| v.as_bytes().split(|b| *b == b';')).find_map(|pair| {
        let (own, value) = pair.trim_ascii().split_at_checked(name.len())?;
        (own == name.as_bytes()).then(|| value.strip_prefix(b"="))?
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn each_comes_once_beginning_with_its_turn() {
        assert_eq!(in_turn(&[0, 1, 1], 0), [0, 1]);
        assert_eq!(in_turn(&[0, 1, 1], 1), [1, 0]);
        assert_eq!(in_turn(&[0, 1, 1], 5), [1, 0]);
        assert!(in_turn(&[], 3).is_empty());
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("xa=1; ab=2;a=3; a=4"));
        assert_eq!(cookie(&headers, "a"), Some(&b"3"[..]));
        assert_eq!(cookie(&headers, "b"), None);
        let way = Way { from: IpAddr::from([127, 0, 0, 1]), path: "/x" };
        assert_eq!(value(&HashOn::Cookie("a".into()), &way, &headers, None), hash(b"3"));
        assert_ne!(value(&HashOn::Path, &way, &headers, None), value(&HashOn::Source, &way, &headers, None));
    }
}
