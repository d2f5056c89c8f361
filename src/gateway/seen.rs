//! Tokens believed before. What is kept is the belief, never the decision: times, audience, scope and revocations are asked again.
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use ahash::RandomState;
use edge::{
    api_key::Bounds,
    identity::{Identity, Unfit},
};
use http::{HeaderName, HeaderValue};
use std::collections::HashMap;
use tokens::Entropy;

use crate::{assertion::Signed, session::Held};

/// A clock may fall behind by so much without having been set back, milliseconds.
const WAVERS_MS: i64 = 1_000;

/// Whether what was said at a time counts still. Said in the future is said before the clock was set back: nobody knows when, so it is asked
/// again; where nothing is ever asked again (`i64::MAX`) it counts.
pub(crate) const fn recent(now_ms: i64, at_ms: i64, kept_ms: i64) -> bool {
    let age_ms = now_ms.saturating_sub(at_ms);
    kept_ms == i64::MAX || (age_ms < kept_ms && age_ms > -WAVERS_MS)
}

/// A believed token.
pub(crate) struct Believed {
    pub identity: Identity,
    /// The revocations known when it was last found unrevoked.
    pub checked: Cell<u64>,
    /// The generation of the keys it was verified with.
    pub keys: u64,
    /// When the authorization server last said it is good, milliseconds since the epoch.
    pub confirmed_ms: Cell<i64>,
    /// What a browser's session has besides.
    pub session: Option<Box<Held>>,
    /// Where an API key may be used.
    pub bounds: Option<Box<Bounds>>,
    headers: RefCell<Option<(usize, HeaderList)>>,
    /// The last assertion about it.
    pub assertion: RefCell<Option<Signed>>,
}

/// Header fields ready to be set.
pub(crate) type HeaderList = Rc<[(HeaderName, HeaderValue)]>;

impl AsRef<Identity> for Believed {
    fn as_ref(&self) -> &Identity {
        &self.identity
    }
}

impl Believed {
    pub(crate) fn new(identity: Identity, checked: u64, keys: u64, confirmed_ms: i64) -> Self {
        Self {
            identity,
            checked: Cell::new(checked),
            keys,
            confirmed_ms: Cell::new(confirmed_ms),
            session: None,
            bounds: None,
            headers: RefCell::new(None),
            assertion: RefCell::new(None),
        }
    }

    /// An API key's, good within those bounds only.
    pub(crate) fn bound_by(mut self, bounds: Bounds) -> Self {
        self.bounds = Some(Box::new(bounds));
        self
    }

    /// Its identity headers under a mapping, made once.
    pub(crate) fn headers(&self, mapping_id: usize, mapping: &[(HeaderName, String)]) -> Result<HeaderList, Unfit> {
        if let Some((id, list)) = &*self.headers.borrow()
            && *id == mapping_id
        {
            return Ok(Rc::clone(list));
        }
        let list: HeaderList = self.identity.headers(mapping)?.into();
        *self.headers.borrow_mut() = Some((mapping_id, Rc::clone(&list)));
        Ok(list)
    }
}

/// A bounded memory: two halves, the older of which is dropped when the newer is full. A hit moves an entry to the newer half.
pub(crate) struct Seen {
    newer: HashMap<Box<str>, Rc<Believed>, RandomState>,
    older: HashMap<Box<str>, Rc<Believed>, RandomState>,
    half: usize,
}

impl Seen {
    /// Remembers at most `most` tokens. Hashes are keyed, and whole tokens are compared.
    pub(crate) fn new(most: usize, entropy: &dyn Entropy) -> Self {
        let seed = || {
            let mut octets = [0; 8];
            entropy.fill(&mut octets);
            u64::from_ne_bytes(octets)
        };
        let state = RandomState::with_seeds(seed(), seed(), seed(), seed());
        Self { newer: HashMap::with_hasher(state.clone()), older: HashMap::with_hasher(state), half: (most / 2).max(1) }
    }

    pub(crate) fn get(&mut self, token: &str) -> Option<Rc<Believed>> {
        if let Some(found) = self.newer.get(token) {
            return Some(Rc::clone(found));
        }
        let (key, found) = self.older.remove_entry(token)?;
        self.put(key, Rc::clone(&found));
        Some(found)
    }

    pub(crate) fn put(&mut self, token: Box<str>, believed: Rc<Believed>) {
        if self.newer.len() >= self.half {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.newer.insert(token, believed);
    }

    pub(crate) fn forget(&mut self, token: &str) {
        self.newer.remove(token);
        self.older.remove(token);
    }

    /// Drops what cannot be good any more.
    pub(crate) fn retain(&mut self, good: impl Fn(&Believed) -> bool) {
        self.newer.retain(|_, b| good(b));
        self.older.retain(|_, b| good(b));
    }

    pub(crate) fn clear(&mut self) {
        self.newer.clear();
        self.older.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_a_clock_was_set_back_is_asked_again() {
        assert!(recent(10_000, 9_500, 1_000) && !recent(10_000, 9_000, 1_000));
        assert!(recent(10_000, 10_020, 1_000), "two requests of one moment");
        assert!(!recent(10_000, 18_000, 1_000));
        assert!(recent(10_000, 18_000, i64::MAX), "never asked again");
    }
}
