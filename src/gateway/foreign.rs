//! Tokens that only their issuer can judge: opaque ones of trusted issuers that are asked about them (RFC 7662), in the route's order.
//!
//! What is kept is kept by issuer and token: an answer of one issuer is never another's, and never a decision. Every hit asks the route again.
use std::{collections::HashMap, rc::Rc, sync::Arc};

use ahash::{AHashMap, RandomState};
use edge::{
    Refusal, RouteTable,
    admission::Guard,
    identity::{Identity, Issuer, Kind},
    route::Freshness,
    table::Trusted,
};
use futures_util::FutureExt;
use tokens::{Entropy, jws::Parsed};

use crate::{
    bearer::{self, STALE_TTL_MS},
    seen::Believed,
    source::{IntrospectError, Introspection},
    worker::Worker,
};

/// How long an answer is kept where the route does not say: nobody tells us when it stops being true.
const KEPT_MS: i64 = 10_000;
/// How long a token that is not good is not asked about again.
const INACTIVE_MS: i64 = 5_000;

/// What an issuer said of a token.
#[derive(Clone)]
enum Said {
    Active(Rc<Believed>),
    /// When.
    Inactive(i64),
}

/// What one issuer said, by token.
type Half = HashMap<Box<str>, Said, RandomState>;

/// What issuers said, by issuer and token: of each issuer two halves, the older of which is dropped when the newer is full.
pub(crate) struct Abroad {
    of: AHashMap<Arc<str>, [Half; 2]>,
    half: usize,
    state: RandomState,
}

impl Abroad {
    /// Remembers at most `most` tokens of each issuer.
    pub(crate) fn new(most: usize, entropy: &dyn Entropy) -> Self {
        let seed = || {
            let mut octets = [0; 8];
            entropy.fill(&mut octets);
            u64::from_ne_bytes(octets)
        };
        Self { of: AHashMap::new(), half: (most / 2).max(1), state: RandomState::with_seeds(seed(), seed(), seed(), seed()) }
    }

    fn get(&self, issuer: &str, token: &str) -> Option<Said> {
        let [newer, older] = self.of.get(issuer)?;
        newer.get(token).or_else(|| older.get(token)).cloned()
    }

    fn put(&mut self, issuer: &Arc<str>, token: &str, said: Said) {
        let empty = || [HashMap::with_hasher(self.state.clone()), HashMap::with_hasher(self.state.clone())];
        let [newer, older] = self.of.entry(Arc::clone(issuer)).or_insert_with(empty);
        older.remove(token);
        if newer.len() >= self.half && !newer.contains_key(token) {
            std::mem::swap(newer, older);
            newer.clear();
        }
        newer.insert(token.into(), said);
    }

    fn forget(&mut self, issuer: &str, token: &str) {
        self.of.get_mut(issuer).into_iter().flatten().for_each(|half| drop(half.remove(token)));
    }

    /// Drops what cannot be good any more.
    pub(crate) fn tidy(&mut self, now: i64) {
        for half in self.of.values_mut().flatten() {
            half.retain(|_, said| match said {
                Said::Active(believed) => believed.identity.claims.exp > now,
                Said::Inactive(at_ms) => now.saturating_mul(1000) - *at_ms < INACTIVE_MS,
            });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.of.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.of.values().flatten().map(HashMap::len).sum()
    }
}

/// The issuers of a route that are asked about tokens, in its order.
fn asked<'t>(table: &'t RouteTable, guard: &'t Guard) -> impl Iterator<Item = &'t Arc<Trusted>> {
    guard.issuers.iter().filter_map(|issuer| match issuer {
        Issuer::Foreign(name) => table.trusted(name).filter(|trusted| trusted.introspection.is_some()),
        Issuer::Own | Issuer::Authority(_) => None,
    })
}

/// Whether a route has anybody to ask about tokens that are not of this server's making.
pub(crate) fn asks(table: &RouteTable, guard: &Guard) -> bool {
    asked(table, guard).next().is_some()
}

/// Proves a token by asking those the route names. A JWT is shown to the issuer it names alone, if it names one of them.
pub(crate) async fn opaque(worker: &Worker, table: &RouteTable, guard: &Guard, token: &str, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    let parsed = if token.bytes().filter(|b| *b == b'.').count() == 2 { Parsed::parse(token).ok() } else { None };
    let named = parsed.as_ref().and_then(Parsed::unverified_issuer);
    if named == Some(&*worker.gateway.parts().own.issuer) {
        return Err(Refusal::Invalid("credential_kind"));
    }
    let only = named.filter(|name| asked(table, guard).any(|trusted| *trusted.issuer == **name));
    let (mut away, mut any) = (None, false);
    for trusted in asked(table, guard).filter(|trusted| only.is_none_or(|name| *trusted.issuer == *name)) {
        any = true;
        match Box::pin(known(worker, table, trusted, guard, token, now_ms)).await {
            Ok(Some(believed)) => return Ok(believed),
            Ok(None) => {}
            Err(refusal @ Refusal::Undecided(_)) => away = Some(refusal),
            Err(refusal) => return Err(refusal),
        }
    }
    // Whoever did not answer might have known it.
    Err(away.unwrap_or(Refusal::Invalid(if any { "inactive" } else { "malformed" })))
}

/// What one issuer says of a token: nothing, if it is not good there.
async fn known(
    worker: &Worker,
    table: &RouteTable,
    trusted: &Arc<Trusted>,
    guard: &Guard,
    token: &str,
    now_ms: i64,
) -> Result<Option<Rc<Believed>>, Refusal> {
    // What an issuer tells us of ends is only as good as what is known of that.
    let stale = trusted.signals && guard.freshness != Freshness::Offline && !bearer::fresh(worker, guard, now_ms);
    let kept_ms = match guard.freshness {
        Freshness::Introspect => guard.cache_ttl_ms.unwrap_or(0),
        Freshness::Offline => guard.cache_ttl_ms.unwrap_or(i64::MAX),
        Freshness::Push if stale => STALE_TTL_MS,
        Freshness::Push => guard.cache_ttl_ms.unwrap_or(KEPT_MS),
    };
    let remembered = worker.abroad.borrow().get(&trusted.issuer, token);
    match remembered {
        Some(Said::Active(believed)) if now_ms - believed.confirmed_ms.get() < kept_ms => {
            if guard.freshness != Freshness::Offline {
                unrevoked(worker, trusted, &believed, token)?;
            }
            return Ok(Some(believed));
        }
        Some(Said::Inactive(at_ms)) if (0..INACTIVE_MS).contains(&(now_ms - at_ms)) => return Ok(None),
        _ => {}
    }
    let said = ask(worker, trusted, token).await.map_err(|_| Refusal::Undecided("introspection"))?;
    let mut claims = match said {
        Introspection::Active(claims) if claims.iss.is_empty() || *claims.iss == *trusted.issuer => claims,
        other => {
            if matches!(other, Introspection::Active(_)) {
                tracing::warn!(target: "gateway", issuer = &*trusted.issuer, "an introspection answer names another issuer; it counts as none");
            }
            remember(worker, table, trusted, token, Said::Inactive(now_ms));
            return Ok(None);
        }
    };
    claims.iss = (*trusted.issuer).to_owned();
    let identity =
        Identity { issuer: Issuer::Foreign(Arc::clone(&trusted.issuer)), kind: Kind::Opaque, claims: *claims, kid: None, device: None };
    let believed = Rc::new(Believed::new(identity, u64::MAX, 0, now_ms));
    remember(worker, table, trusted, token, Said::Active(Rc::clone(&believed)));
    unrevoked(worker, trusted, &believed, token)?;
    Ok(Some(believed))
}

/// Asks the issuer of a JWT that was believed here whether it still is good, if the last time is too long ago.
pub(crate) async fn confirm(
    worker: &Worker,
    trusted: &Arc<Trusted>,
    guard: &Guard,
    believed: &Believed,
    token: &str,
    now_ms: i64,
) -> Result<(), Refusal> {
    if now_ms - believed.confirmed_ms.get() < guard.cache_ttl_ms.unwrap_or(0) {
        return Ok(());
    }
    match ask(worker, trusted, token).await {
        Ok(Introspection::Active(claims)) if claims.iss.is_empty() || *claims.iss == *trusted.issuer => {
            believed.confirmed_ms.set(now_ms);
            Ok(())
        }
        Ok(_) => {
            worker.seen.borrow_mut().forget(token);
            Err(Refusal::Invalid("inactive"))
        }
        Err(_) => Err(Refusal::Undecided("introspection")),
    }
}

/// What was learned under a table that another has replaced since counts for this request alone.
fn remember(worker: &Worker, table: &RouteTable, trusted: &Trusted, token: &str, said: Said) {
    if std::ptr::eq(Arc::as_ptr(&worker.gateway.parts().table.load()), table) {
        worker.abroad.borrow_mut().put(&trusted.issuer, token, said);
    }
}

fn unrevoked(worker: &Worker, trusted: &Trusted, believed: &Believed, token: &str) -> Result<(), Refusal> {
    let revoked = &worker.gateway.parts().revoked;
    let generation = revoked.generation();
    if believed.checked.get() == generation {
        return Ok(());
    }
    if believed.identity.ended_elsewhere(revoked) {
        worker.abroad.borrow_mut().forget(&trusted.issuer, token);
        return Err(Refusal::Invalid("revoked"));
    }
    believed.checked.set(generation);
    Ok(())
}

/// Asks an issuer; requests with the same token at the same time share one question.
async fn ask(worker: &Worker, trusted: &Arc<Trusted>, token: &str) -> Result<Introspection, IntrospectError> {
    // No token has a space in it.
    let key = format!("{} {token}", trusted.issuer);
    let start = || {
        let (gateway, trusted, owned) = (Arc::clone(&worker.gateway), Arc::clone(trusted), token.to_owned());
        async move { gateway.abroad.introspect(&gateway, &trusted, &owned).await }.boxed_local()
    };
    bearer::together(worker, &key, start).await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zero;
    impl Entropy for Zero {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn what_one_issuer_said_is_not_what_another_said_and_the_memory_is_bounded() {
        let mut abroad = Abroad::new(4, &Zero);
        let (a, b): (Arc<str>, Arc<str>) = ("https://a".into(), "https://b".into());
        abroad.put(&a, "t", Said::Inactive(5));
        assert!(matches!(abroad.get(&a, "t"), Some(Said::Inactive(5))));
        assert!(abroad.get(&b, "t").is_none());
        for n in 0..100 {
            abroad.put(&a, &n.to_string(), Said::Inactive(5));
        }
        assert!(abroad.len() <= 4 && abroad.get(&a, "99").is_some() && abroad.get(&a, "t").is_none());
        abroad.forget(&a, "99");
        assert!(abroad.get(&a, "99").is_none());
        abroad.tidy(1_000);
        assert_eq!(abroad.len(), 0);
    }
}
