//! API keys: asked about as opaque tokens are (RFC 7662), remembered as the belief they are, held to their bounds on every request.
use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc, sync::Arc};

use ahash::RandomState;
use edge::{
    Refusal,
    admission::Guard,
    api_key::{Bounds, SCHEME, revocation_id},
    identity::{Device, Identity, Issuer, Kind},
    route::Freshness,
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use tokens::Entropy;

use crate::{
    bearer::{OPAQUE_TTL_MS, STALE_TTL_MS, fresh, together},
    seen::{Believed, Seen, recent},
    source::{IntrospectError, Introspection},
    worker::Worker,
};

/// The longest an answer about a key is kept, whatever its route says: what ended it is remembered for longer than that.
const MOST_TTL_MS: i64 = 3_600_000;
/// How long a key that is not known stays so; any news of keys ends it.
const UNKNOWN_TTL_MS: i64 = 5_000;
/// Unknown keys remembered, in each of two halves.
const UNKNOWN: usize = 4_096;
/// Questions open at once beyond which keys never seen have to wait.
const QUESTIONS: usize = 512;
/// How often a key is asked about again whose answer was overtaken by news of it.
const TRIES: usize = 4;

/// What one thread remembers of keys.
pub(crate) struct Keys {
    seen: RefCell<Seen>,
    unknown: RefCell<Unknown>,
}

/// Keys that were not good when they were asked about, by a keyed hash of 64 bits: a flood of them asks nobody twice.
#[derive(Default)]
struct Unknown {
    state: RandomState,
    newer: HashMap<u64, (u64, i64), RandomState>,
    older: HashMap<u64, (u64, i64), RandomState>,
}

impl Unknown {
    fn has(&self, key: &str, generation: u64, now_ms: i64) -> bool {
        let hash = self.state.hash_one(key);
        let found = self.newer.get(&hash).or_else(|| self.older.get(&hash));
        found.is_some_and(|(then, until_ms)| *then == generation && now_ms < *until_ms)
    }

    fn put(&mut self, key: &str, generation: u64, now_ms: i64) {
        if self.newer.len() >= UNKNOWN {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.newer.insert(self.state.hash_one(key), (generation, now_ms + UNKNOWN_TTL_MS));
    }
}

impl Keys {
    /// Remembers at most `most` keys that are good. Hashes are keyed.
    pub(crate) fn new(most: usize, entropy: &dyn Entropy) -> Self {
        let seed = || {
            let mut octets = [0; 8];
            entropy.fill(&mut octets);
            u64::from_ne_bytes(octets)
        };
        let unknown = Unknown { state: RandomState::with_seeds(seed(), seed(), seed(), seed()), ..Unknown::default() };
        Self { seen: RefCell::new(Seen::new(most, entropy)), unknown: RefCell::new(unknown) }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.seen.borrow_mut().clear();
    }

    /// Drops what cannot be good any more.
    pub(crate) fn tidy(&self, now: i64) {
        self.seen.borrow_mut().retain(|believed| believed.identity.claims.exp > now);
    }

    /// How many are remembered, unknown ones included.
    pub(crate) fn len(&self) -> usize {
        let unknown = self.unknown.borrow();
        self.seen.borrow().len() + unknown.newer.len() + unknown.older.len()
    }
}

/// Proves an API key.
pub(crate) async fn prove(worker: &Worker, guard: &Guard, key: &str, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    if !guard.sender.is_free() {
        // A key is bound to nobody.
        return Err(Refusal::Invalid("unconstrained"));
    }
    let kept_ms = match guard.freshness {
        Freshness::Introspect => guard.cache_ttl_ms.unwrap_or(0),
        Freshness::Offline => guard.cache_ttl_ms.unwrap_or(OPAQUE_TTL_MS),
        Freshness::Push if fresh(worker, guard, now_ms) => guard.cache_ttl_ms.unwrap_or(OPAQUE_TTL_MS),
        Freshness::Push => STALE_TTL_MS,
    };
    let kept_ms = kept_ms.min(MOST_TTL_MS);
    let known = worker.keys.seen.borrow_mut().get(key);
    let was_good = known.is_some();
    if let Some(known) = known.filter(|known| recent(now_ms, known.confirmed_ms.get(), kept_ms))
        && stands(worker, &known)
    {
        return timely(known, now_ms);
    }
    let generation = worker.gateway.parts().revoked.generation();
    if kept_ms > 0 && worker.keys.unknown.borrow().has(key, generation, now_ms) {
        return Err(Refusal::Invalid("inactive"));
    }
    // Keys that were good do not have to wait for those that nobody knows.
    let most = if was_good { QUESTIONS * 2 } else { QUESTIONS };
    Box::pin(learn(worker, key, now_ms, most)).await
}

/// Asks about a key. News of it may overtake an answer: then it is asked about again.
async fn learn(worker: &Worker, key: &str, now_ms: i64, most: usize) -> Result<Rc<Believed>, Refusal> {
    worker.keys.seen.borrow_mut().forget(key);
    if worker.asking.borrow().len() >= most {
        return Err(Refusal::Undecided("busy"));
    }
    for _ in 0..TRIES {
        let (generation, head) = (worker.gateway.parts().revoked.generation(), worker.gateway.parts().revoked.head());
        match ask(worker, key).await {
            Ok(Introspection::Active(mut claims)) => {
                if !claims.raw.contains_key("seq") {
                    claims.seq = head;
                }
                let bounds = Bounds::read(&claims.raw).ok_or(Refusal::Undecided("introspection"))?;
                let device = Device::read(&claims.raw).map(Arc::new);
                let kid = Some(revocation_id(&bounds.id));
                let identity = Identity { issuer: Issuer::Own, kind: Kind::ApiKey, claims: *claims, kid, device };
                let new = Rc::new(Believed::new(identity, u64::MAX, 0, now_ms).bound_by(bounds));
                if stands(worker, &new) {
                    worker.keys.seen.borrow_mut().put(key.into(), Rc::clone(&new));
                    return timely(new, now_ms);
                }
            }
            Ok(Introspection::Inactive) => {
                worker.keys.unknown.borrow_mut().put(key, generation, now_ms);
                return Err(Refusal::Invalid("inactive"));
            }
            Err(_) => return Err(Refusal::Undecided("introspection")),
        }
    }
    Err(Refusal::Undecided("overtaken"))
}

/// A key ends to the second: the clock that gave it its end is the server's that is asked.
fn timely(believed: Rc<Believed>, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    if believed.identity.claims.exp <= now_ms.div_euclid(1000) { Err(Refusal::Invalid("expired")) } else { Ok(believed) }
}

/// Whether no news of the key, or of its owner, came since it was asked about.
fn stands(worker: &Worker, believed: &Believed) -> bool {
    let revoked = &worker.gateway.parts().revoked;
    let generation = revoked.generation();
    if believed.checked.get() == generation {
        return true;
    }
    let stands = revoked.revoked(&believed.identity.facts()).is_none();
    if stands {
        believed.checked.set(generation);
    }
    stands
}

async fn ask(worker: &Worker, key: &str) -> Result<Introspection, IntrospectError> {
    // No token has such a name: a question about one is none about the other.
    together(worker, &format!("\u{0}{key}"), || {
        let (introspect, owned) = (Arc::clone(&worker.gateway.parts().own.introspect), key.to_owned());
        async move { introspect.introspect_key(&owned).await }.boxed_local()
    })
    .await
}

/// Whether a believed credential may be used here: an API key only where it says.
pub(crate) fn bounded(believed: Option<&Rc<Believed>>, route: &str, source: Option<IpAddr>) -> Result<(), Refusal> {
    match believed.and_then(|believed| believed.bounds.as_deref()) {
        None => Ok(()),
        Some(bounds) => bounds.check(route, source),
    }
}

/// Tells a client that keys are taken, beside the challenges of tokens, or in their place where no tokens are.
pub(crate) fn challenge(headers: &mut HeaderMap, guard: &Guard, refusal: Refusal) {
    if !guard.accepts.api_key {
        return;
    }
    if !guard.accepts.jwt && !guard.accepts.opaque {
        headers.remove(WWW_AUTHENTICATE);
    }
    if refusal.status() == 401 {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(SCHEME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_stays_so_until_there_is_news_or_time_has_passed() {
        let mut unknown = Unknown::default();
        unknown.put("k", 3, 1_000);
        assert!(unknown.has("k", 3, 1_000) && !unknown.has("l", 3, 1_000));
        assert!(!unknown.has("k", 4, 1_000) && !unknown.has("k", 3, 1_000 + UNKNOWN_TTL_MS));
    }

    #[test]
    fn the_memory_of_unknown_keys_is_bounded() {
        let mut unknown = Unknown::default();
        (0..10 * UNKNOWN).for_each(|n| unknown.put(&n.to_string(), 1, 1));
        assert!(unknown.newer.len() + unknown.older.len() <= 2 * UNKNOWN);
        assert!(unknown.has(&(10 * UNKNOWN - 1).to_string(), 1, 1));
    }
}
