//! Tokens that only their issuer can judge: opaque ones of trusted issuers that are asked about them (RFC 7662), in the route's order.
//!
//! What is kept is kept by issuer and token: an answer of one issuer is never another's, and never a decision. Every hit asks the route again.
use std::{collections::HashMap, hash::Hash, rc::Rc, sync::Arc};

use ahash::{AHashMap, RandomState};
use edge::{
    Refusal, RouteTable,
    admission::Guard,
    credentials::is_own,
    identity::{Identity, Issuer, Kind},
    route::Freshness,
    table::Trusted,
};
use futures_util::FutureExt;
use tokens::{
    Entropy,
    jws::Parsed,
    secret::{self, SecretKind},
};

use crate::{
    bearer::{self, STALE_TTL_MS},
    seen::{Believed, recent},
    source::{IntrospectError, Introspection},
    worker::Worker,
};

/// How long an answer is kept where the route does not say: nobody tells us when it stops being true.
const KEPT_MS: i64 = 10_000;
/// How long a token that is not good is not asked about again.
const INACTIVE_MS: i64 = 5_000;

/// What one issuer said of tokens that are good, by token.
type Good = HashMap<Box<str>, Rc<Believed>, RandomState>;
/// Tokens that were not good when one issuer was asked, by a keyed hash of 64 bits, with when: made-up ones take no more room than that.
type Bad = HashMap<u64, i64, RandomState>;

/// What one issuer said, in two halves each, the older of which is dropped when the newer is full.
struct Known {
    good: [Good; 2],
    bad: [Bad; 2],
}

/// What issuers said, by issuer and token.
pub(crate) struct Abroad {
    of: AHashMap<Arc<str>, Known>,
    half: usize,
    state: RandomState,
}

impl Abroad {
    /// Remembers at most `most` good tokens of each issuer, and that as many were not.
    pub(crate) fn new(most: usize, entropy: &dyn Entropy) -> Self {
        let seed = || {
            let mut octets = [0; 8];
            entropy.fill(&mut octets);
            u64::from_ne_bytes(octets)
        };
        Self { of: AHashMap::new(), half: (most / 2).max(1), state: RandomState::with_seeds(seed(), seed(), seed(), seed()) }
    }

    fn good(&self, issuer: &str, token: &str) -> Option<Rc<Believed>> {
        let [newer, older] = &self.of.get(issuer)?.good;
        newer.get(token).or_else(|| older.get(token)).cloned()
    }

    /// When it was not.
    fn bad(&self, issuer: &str, token: &str) -> Option<i64> {
        let [newer, older] = &self.of.get(issuer)?.bad;
        let hash = self.state.hash_one(token);
        newer.get(&hash).or_else(|| older.get(&hash)).copied()
    }

    fn known(&mut self, issuer: &Arc<str>) -> &mut Known {
        let state = &self.state;
        self.of.entry(Arc::clone(issuer)).or_insert_with(|| Known {
            good: [Good::with_hasher(state.clone()), Good::with_hasher(state.clone())],
            bad: [Bad::with_hasher(state.clone()), Bad::with_hasher(state.clone())],
        })
    }

    fn put(&mut self, issuer: &Arc<str>, token: &str, believed: Rc<Believed>) {
        let half = self.half;
        keep(&mut self.known(issuer).good, half, token.into(), believed);
    }

    fn refuse(&mut self, issuer: &Arc<str>, token: &str, at_ms: i64) {
        self.forget(issuer, token);
        let (half, hash) = (self.half, self.state.hash_one(token));
        keep(&mut self.known(issuer).bad, half, hash, at_ms);
    }

    fn forget(&mut self, issuer: &str, token: &str) {
        self.of.get_mut(issuer).into_iter().flat_map(|known| &mut known.good).for_each(|half| drop(half.remove(token)));
    }

    /// Drops what cannot be good any more.
    pub(crate) fn tidy(&mut self, now: i64) {
        for known in self.of.values_mut() {
            known.good.iter_mut().for_each(|half| half.retain(|_, believed| believed.identity.claims.exp > now));
            known.bad.iter_mut().for_each(|half| half.retain(|_, at_ms| now.saturating_mul(1000) - *at_ms < INACTIVE_MS));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.of.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.of.values().map(|known| known.good.iter().map(HashMap::len).chain(known.bad.iter().map(HashMap::len)).sum::<usize>()).sum()
    }
}

fn keep<K: Eq + Hash, V>([newer, older]: &mut [HashMap<K, V, RandomState>; 2], half: usize, key: K, value: V) {
    older.remove(&key);
    if newer.len() >= half && !newer.contains_key(&key) {
        std::mem::swap(newer, older);
        newer.clear();
    }
    newer.insert(key, value);
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
    // Nor to anybody where it is another's that the route does not ask.
    if named.is_some_and(|name| !asked(table, guard).any(|trusted| *trusted.issuer == *name)) {
        return Err(Refusal::Invalid("issuer"));
    }
    if is_our_secret(token) {
        return Err(Refusal::Invalid("credential_kind"));
    }
    let (mut away, mut any) = (None, false);
    for trusted in asked(table, guard).filter(|trusted| named.is_none_or(|name| *trusted.issuer == *name)) {
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

/// Whether it is of the form of another secret of ours than an access token: such are shown to nobody.
fn is_our_secret(token: &str) -> bool {
    use SecretKind::{
        ApiKey, Backchannel, Browser, ClientSecret, Code, Device, Form, Interaction, Login, Pushed, Refresh, Registration, Session,
    };
    let kinds =
        [ApiKey, Backchannel, Browser, ClientSecret, Code, Device, Form, Interaction, Login, Pushed, Refresh, Registration, Session];
    kinds.into_iter().any(|kind| secret::well_formed(kind, token))
}

/// Whether a token of our form is ours and good somewhere: then no other server is told of it. One of another server's of our kind is not.
async fn is_ours(worker: &Worker, token: &str) -> Result<bool, Refusal> {
    if !is_own(token) {
        return Ok(false);
    }
    let said = bearer::ask(worker, token).await.map_err(|_| Refusal::Undecided("introspection"))?;
    Ok(said != Introspection::Inactive)
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
    let (good, bad) = {
        let abroad = worker.abroad.borrow();
        (abroad.good(&trusted.issuer, token), abroad.bad(&trusted.issuer, token))
    };
    if let Some(believed) = good.as_ref().filter(|believed| recent(now_ms, believed.confirmed_ms.get(), kept_ms)) {
        if guard.freshness != Freshness::Offline {
            unrevoked(worker, trusted, believed, token)?;
        }
        return Ok(Some(Rc::clone(believed)));
    }
    if good.is_none() && bad.is_some_and(|at_ms| (0..INACTIVE_MS).contains(&(now_ms - at_ms))) {
        return Ok(None);
    }
    if is_ours(worker, token).await? {
        return Err(Refusal::Invalid("credential_kind"));
    }
    let said = ask(worker, trusted, token, good.is_some()).await.map_err(|_| Refusal::Undecided("introspection"))?;
    let mut claims = match said {
        Introspection::Active(claims) if claims.iss.is_empty() || *claims.iss == *trusted.issuer => claims,
        other => {
            if matches!(other, Introspection::Active(_)) {
                tracing::warn!(target: "gateway", issuer = &*trusted.issuer, "an introspection answer names another issuer; it counts as none");
            }
            if in_force(worker, table) {
                worker.abroad.borrow_mut().refuse(&trusted.issuer, token, now_ms);
            }
            return Ok(None);
        }
    };
    claims.iss = (*trusted.issuer).to_owned();
    // Some servers write down the end of their calendar; the answer is asked for again long before.
    claims.exp = claims.exp.min(now_ms.div_euclid(1000).saturating_add(tokens::access::MAX_AHEAD));
    let identity =
        Identity { issuer: Issuer::Foreign(Arc::clone(&trusted.issuer)), kind: Kind::Opaque, claims: *claims, kid: None, device: None };
    let believed = Rc::new(Believed::new(identity, u64::MAX, 0, now_ms));
    if in_force(worker, table) {
        worker.abroad.borrow_mut().put(&trusted.issuer, token, Rc::clone(&believed));
    }
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
    if recent(now_ms, believed.confirmed_ms.get(), guard.cache_ttl_ms.unwrap_or(0)) {
        return Ok(());
    }
    match ask(worker, trusted, token, true).await {
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

/// Whether a table is in force still: what was learned under one that another has replaced since counts for this request alone.
fn in_force(worker: &Worker, table: &RouteTable) -> bool {
    std::ptr::eq(Arc::as_ptr(&worker.gateway.parts().table.load()), table)
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

/// Asks an issuer; requests with the same token at the same time share one question. One that was good before is asked about however many
/// that nobody knows are.
pub(crate) async fn ask(worker: &Worker, trusted: &Arc<Trusted>, token: &str, was_good: bool) -> Result<Introspection, IntrospectError> {
    // No token has a space in it.
    let key = format!("{} {token}", trusted.issuer);
    let start = || {
        let (gateway, trusted, owned) = (Arc::clone(&worker.gateway), Arc::clone(trusted), token.to_owned());
        async move { gateway.abroad.introspect(&gateway, &trusted, &owned, was_good).await }.boxed_local()
    };
    bearer::together(worker, &key, start).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::secret::MacKey;

    use super::*;

    struct Zero;
    impl Entropy for Zero {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn believed(exp: i64) -> Rc<Believed> {
        let claims = json!({"active": true, "iss": "https://a", "exp": exp});
        let Ok(Introspection::Active(claims)) = Introspection::from_value(claims) else { panic!("an answer") };
        let identity =
            Identity { issuer: Issuer::Foreign("https://a".into()), kind: Kind::Opaque, claims: *claims, kid: None, device: None };
        Rc::new(Believed::new(identity, 0, 0, 0))
    }

    #[test]
    fn what_one_issuer_said_is_not_what_another_said_and_the_memory_is_bounded() {
        let mut abroad = Abroad::new(4, &Zero);
        let (a, b): (Arc<str>, Arc<str>) = ("https://a".into(), "https://b".into());
        abroad.put(&a, "good", believed(2_000));
        abroad.refuse(&a, "t", 5);
        assert_eq!((abroad.bad(&a, "t"), abroad.bad(&b, "t")), (Some(5), None));
        assert!(abroad.good(&a, "good").is_some() && abroad.good(&b, "good").is_none());
        for n in 0..100 {
            abroad.refuse(&a, &n.to_string(), 5);
        }
        assert!(abroad.len() <= 5 && abroad.bad(&a, "99").is_some() && abroad.bad(&a, "t").is_none());
        assert!(abroad.good(&a, "good").is_some(), "made-up tokens push no good one out");
        for n in 0..100 {
            abroad.put(&a, &n.to_string(), believed(2_000));
        }
        assert!(abroad.len() <= 8 && abroad.good(&a, "good").is_none());
        abroad.refuse(&a, "99", 6);
        assert!(abroad.good(&a, "99").is_none() && abroad.bad(&a, "99") == Some(6));
        abroad.put(&a, "late", believed(500));
        abroad.tidy(1_000);
        assert!(abroad.good(&a, "late").is_none() && abroad.good(&a, "98").is_some() && abroad.bad(&a, "99").is_none());
    }

    #[test]
    fn secrets_of_ours_are_shown_to_nobody() {
        let mac = MacKey::new([7; 32]);
        for kind in [SecretKind::ApiKey, SecretKind::Refresh, SecretKind::Session, SecretKind::Login] {
            assert!(is_our_secret(secret::generate(kind, 0, &Zero, &mac).plain.expose()), "{kind:?}");
        }
        assert!(!is_our_secret(secret::generate(SecretKind::Access, 0, &Zero, &mac).plain.expose()), "another Doorward's looks the same");
        assert!(!is_our_secret("dwk_of-another-server") && !is_our_secret("opaque"));
    }
}
