//! How many requests are being served at once, by what they are counted by: as many keys as there are requests, no more.
use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;

const SHARDS: usize = 16;

/// What is being served.
#[derive(Default)]
pub(crate) struct Open {
    hasher: RandomState,
    shards: [Mutex<AHashMap<Box<str>, u32>>; SHARDS],
}

/// One place among those that may be served at once; given back when dropped.
pub(crate) struct Held {
    open: Arc<Open>,
    key: Box<str>,
}

impl Open {
    fn shard(&self, key: &str) -> Option<&Mutex<AHashMap<Box<str>, u32>>> {
        self.shards.get(usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0))
    }

    /// A place, unless `most` are taken.
    pub(crate) fn enter(self: &Arc<Self>, key: String, most: u32) -> Option<Held> {
        let key: Box<str> = key.into();
        let mut shard = self.shard(&key)?.lock();
        match shard.get_mut(&key) {
            Some(taken) if *taken >= most => return None,
            Some(taken) => *taken += 1,
            None if most == 0 => return None,
            None => drop(shard.insert(key.clone(), 1)),
        }
        drop(shard);
        Some(Held { open: Arc::clone(self), key })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(shard) = self.open.shard(&self.key) else { return };
        let mut shard = shard.lock();
        match shard.get_mut(&self.key) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(shard.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_nothing_is_kept() {
        let open = Arc::<Open>::default();
        let one = open.enter("a".into(), 2).unwrap();
        let two = open.enter("a".into(), 2).unwrap();
        assert!(open.enter("a".into(), 2).is_none());
        let other = open.enter("b".into(), 1).unwrap();
        drop(one);
        let three = open.enter("a".into(), 2).unwrap();
        drop((two, three, other));
        assert_eq!(open.shards.iter().map(|s| s.lock().len()).sum::<usize>(), 0);
    }
}
