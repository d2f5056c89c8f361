//! Bearer and DPoP tokens: JWTs checked here (RFC 9068), opaque ones asked about (RFC 7662). Known tokens cost a look-up; what may have
//! changed is asked again.
use std::{rc::Rc, sync::Arc};

use edge::{
    Refusal, RouteTable,
    admission::{Guard, LEEWAY},
    identity::{Identity, Issuer, Kind},
    route::Freshness,
};
use futures_util::{FutureExt, future::LocalBoxFuture};
use tokens::{access, jws::Parsed};

use crate::{
    foreign,
    seen::{Believed, recent},
    source::{IntrospectError, Introspection},
    worker::{Asking, Worker},
};

/// How long an answer about an opaque token is kept where its route does not say.
pub(crate) const OPAQUE_TTL_MS: i64 = 60_000;
/// How long one answer serves while the feed is stale.
pub(crate) const STALE_TTL_MS: i64 = 1_000;

/// Proves a JWT.
pub(crate) async fn jwt(worker: &Worker, table: &RouteTable, guard: &Guard, token: &str, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    let known = worker.seen.borrow_mut().get(token);
    let believed = match known {
        Some(known) if keys_stand(worker, table, &known) => known,
        _ => {
            let new = Rc::new(Box::pin(believe(worker, table, guard, token, now_ms)).await?);
            // Believed under a table that another has replaced since, it counts for this request alone.
            if std::ptr::eq(Arc::as_ptr(&worker.gateway.parts().table.load()), table) {
                worker.seen.borrow_mut().put(token.into(), Rc::clone(&new));
            }
            new
        }
    };
    if guard.freshness == Freshness::Offline {
        return Ok(believed);
    }
    unrevoked(worker, &believed, token)?;
    if let Issuer::Foreign(name) = &believed.identity.issuer {
        if guard.freshness == Freshness::Introspect {
            let trusted = table.trusted(name).ok_or(Refusal::Invalid("issuer"))?;
            Box::pin(foreign::confirm(worker, trusted, guard, &believed, token, now_ms)).await?;
            unrevoked(worker, &believed, token)?;
        }
        // Nobody can be asked about it: without the feed, what its issuer said has ended is not known.
        if table.trusted(name).is_some_and(|t| t.signals) && !fresh(worker, guard, now_ms) {
            return Err(Refusal::Undecided("feed"));
        }
        return Ok(believed);
    }
    let kept_ms = match guard.freshness {
        Freshness::Introspect => guard.cache_ttl_ms.unwrap_or(0),
        _ if fresh(worker, guard, now_ms) => return Ok(believed),
        _ => STALE_TTL_MS,
    };
    if !recent(now_ms, believed.confirmed_ms.get(), kept_ms) {
        match Box::pin(ask(worker, token)).await {
            Ok(Introspection::Active(_)) => believed.confirmed_ms.set(now_ms),
            Ok(Introspection::Inactive) => {
                worker.seen.borrow_mut().forget(token);
                return Err(Refusal::Invalid("inactive"));
            }
            Err(_) => return Err(Refusal::Undecided("introspection")),
        }
        unrevoked(worker, &believed, token)?;
    }
    Ok(believed)
}

/// Proves an opaque token.
pub(crate) async fn opaque(worker: &Worker, guard: &Guard, token: &str, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    let kept_ms = match guard.freshness {
        Freshness::Introspect => guard.cache_ttl_ms.unwrap_or(0),
        Freshness::Offline => guard.cache_ttl_ms.unwrap_or(i64::MAX),
        Freshness::Push if fresh(worker, guard, now_ms) => guard.cache_ttl_ms.unwrap_or(OPAQUE_TTL_MS),
        Freshness::Push => STALE_TTL_MS,
    };
    let known = worker.seen.borrow_mut().get(token);
    if let Some(known) = known
        && recent(now_ms, known.confirmed_ms.get(), kept_ms)
    {
        if guard.freshness != Freshness::Offline {
            unrevoked(worker, &known, token)?;
        }
        return Ok(known);
    }
    let head = worker.gateway.parts().revoked.head();
    match Box::pin(ask(worker, token)).await {
        Ok(Introspection::Active(mut claims)) => {
            // Whoever answered may know less than is known here: its own position counts, and every revocation is asked about.
            if !claims.raw.contains_key("seq") {
                claims.seq = head;
            }
            let identity = Identity {
                issuer: Issuer::Own,
                device: Identity::device_of(&Issuer::Own, &claims),
                kind: Kind::Opaque,
                claims: *claims,
                kid: None,
            };
            let new = Rc::new(Believed::new(identity, u64::MAX, 0, now_ms));
            worker.seen.borrow_mut().put(token.into(), Rc::clone(&new));
            unrevoked(worker, &new, token)?;
            Ok(new)
        }
        Ok(Introspection::Inactive) => {
            worker.seen.borrow_mut().forget(token);
            Err(Refusal::Invalid("inactive"))
        }
        Err(_) => Err(Refusal::Undecided("introspection")),
    }
}

/// Checks a token never seen: whose it is, its signature, its claims.
async fn believe(worker: &Worker, table: &RouteTable, guard: &Guard, token: &str, now_ms: i64) -> Result<Believed, Refusal> {
    let invalid = |why: tokens::Refusal| Refusal::Invalid(why.reason());
    let parsed = Parsed::parse(token).map_err(invalid)?;
    let parts = worker.gateway.parts();
    let iss = parsed.unverified_issuer().ok_or(Refusal::Invalid("issuer"))?;
    let trusted = if *iss == *parts.own.issuer { None } else { Some(table.trusted(iss).ok_or(Refusal::Invalid("issuer"))?) };
    let issuer = trusted.map_or(Issuer::Own, |t| Issuer::Foreign(Arc::clone(&t.issuer)));
    if !guard.accepts(Kind::Jwt, &issuer) {
        return Err(Refusal::Invalid("issuer"));
    }
    if trusted.is_some_and(|t| !t.algorithms.contains(&parsed.alg)) {
        return Err(Refusal::Invalid("algorithm"));
    }
    let keys = worker.keys_of(&issuer, table).ok_or(Refusal::Invalid("issuer"))?;
    let mut generation = keys.generation();
    let key = match keys.find(parsed.kid.as_deref(), parsed.alg) {
        Some(key) => key,
        None => {
            keys.refresh().await;
            generation = keys.generation();
            match keys.find(parsed.kid.as_deref(), parsed.alg) {
                Some(key) => key,
                None if keys.usable() => return Err(Refusal::Invalid("unknown_key")),
                None => return Err(Refusal::Undecided("keys")),
            }
        }
    };
    let foreign_types: Vec<&str> = trusted.map(|t| t.types.iter().map(String::as_str).collect()).unwrap_or_default();
    let expected = access::Expected {
        issuer: iss,
        audience: Some(guard.audience.as_str()),
        typ: if trusted.is_some() { &foreign_types } else { &[access::TYP] },
        now: now_ms.div_euclid(1000),
        leeway: LEEWAY,
    };
    let claims = access::believe(&parsed, &key, &expected).map_err(invalid)?.into_inner();
    let device = Identity::device_of(&issuer, &claims);
    let identity = Identity { issuer, kind: Kind::Jwt, claims, kid: key.kid().map(str::to_owned), device };
    // Never checked against any revocation yet.
    Ok(Believed::new(identity, u64::MAX, generation, i64::MIN / 2))
}

/// Whether the keys a token was verified with are still the issuer's.
fn keys_stand(worker: &Worker, table: &RouteTable, believed: &Believed) -> bool {
    match &believed.identity.issuer {
        Issuer::Own => {
            let keys = &worker.gateway.parts().own.keys;
            keys.usable() && keys.generation() == believed.keys
        }
        Issuer::Authority(_) => true,
        foreign @ Issuer::Foreign(_) => {
            worker.keys_of(foreign, table).is_some_and(|keys| keys.usable() && keys.generation() == believed.keys)
        }
    }
}

/// Whether nothing known kills it. While no revocation comes in, that is one comparison.
pub(crate) fn unrevoked(worker: &Worker, believed: &Believed, token: &str) -> Result<(), Refusal> {
    let revoked = &worker.gateway.parts().revoked;
    let generation = revoked.generation();
    if believed.checked.get() == generation {
        return Ok(());
    }
    if revoked.revoked(&believed.identity.facts()).is_some() || believed.identity.ended_elsewhere(revoked) {
        worker.seen.borrow_mut().forget(token);
        return Err(Refusal::Invalid("revoked"));
    }
    believed.checked.set(generation);
    Ok(())
}

/// Whether the revocations known here are recent enough for this route.
pub(crate) fn fresh(worker: &Worker, guard: &Guard, now_ms: i64) -> bool {
    let parts = worker.gateway.parts();
    now_ms - (parts.own.fresh_at_ms)() <= guard.max_staleness_ms.unwrap_or(parts.settings.max_staleness_ms)
}

/// Asks the authorization server; requests with the same token at the same time share one question.
pub(crate) async fn ask(worker: &Worker, token: &str) -> Result<Introspection, IntrospectError> {
    let start = || {
        let (introspect, owned) = (Arc::clone(&worker.gateway.parts().own.introspect), token.to_owned());
        async move { introspect.introspect(&owned).await }.boxed_local()
    };
    together(worker, token, start).await
}

/// Waits for the question that is on its way under this name, or asks it.
pub(crate) async fn together(
    worker: &Worker,
    token: &str,
    start: impl FnOnce() -> LocalBoxFuture<'static, Result<Introspection, IntrospectError>>,
) -> Result<Introspection, IntrospectError> {
    let pending = worker.asking.borrow().get(token).cloned();
    let asking = pending.unwrap_or_else(|| {
        let asking = start().shared();
        worker.asking.borrow_mut().insert(token.into(), asking.clone());
        asking
    });
    let waiting = Waiting { worker, token, asking };
    waiting.asking.clone().await
}

/// A request that waits for an answer. A question that is answered, or that nobody waits for any more, is forgotten: it would be polled by
/// nobody, and hold what it has (a connection to the database) for ever.
struct Waiting<'a> {
    worker: &'a Worker,
    token: &'a str,
    asking: Asking,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut all = self.worker.asking.borrow_mut();
        // The map holds one and this request another.
        let last = || self.asking.peek().is_some() || self.asking.strong_count().is_none_or(|holders| holders <= 2);
        if all.get(self.token).is_some_and(|other| other.ptr_eq(&self.asking)) && last() {
            all.remove(self.token);
        }
    }
}
