//! Counters in this process: bounded, and forgotten when they no longer matter.
use ahash::{AHashMap, RandomState};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::limit::{Counters, Quota, Verdict, gcra, refund};

const SHARDS: usize = 64;
/// What guesses are counted by is kept apart: no other keys, however many somebody makes up, push it out.
const GUESSES: [&str; 2] = ["login:", "user_code"];
/// The most keys a shard holds; 64 shards of them are about 20 MB of short keys, and so are the 64 of guesses.
const SHARD_MAX: usize = 4_096;
/// Below this a shard is not worth sweeping.
const SWEEP_FROM: usize = 64;

/// Counters that live and die with the process.
pub struct Memory {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    /// Theoretical arrival times, nanoseconds since the epoch; one in the past is as good as none.
    states: AHashMap<Box<str>, i64>,
    sweep_at: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// No key known.
    #[must_use]
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), shards: (0..2 * SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// How many keys are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().states.len()).sum()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &str) -> Option<&Mutex<Shard>> {
        let bank = if GUESSES.iter().any(|prefix| key.starts_with(prefix)) { SHARDS } else { 0 };
        self.shards.get(bank + usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS)
    }

    /// One step of [`gcra`] for a key.
    pub fn count(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        let Some(shard) = self.shard(key) else { return gcra(&mut 0, quota, now_ms, cost) };
        let mut shard = shard.lock();
        if let Some(state) = shard.states.get_mut(key) {
            return gcra(state, quota, now_ms, cost);
        }
        let mut state = 0;
        let verdict = gcra(&mut state, quota, now_ms, cost);
        if state > 0 {
            shard.make_room(now_ms);
            shard.states.insert(key.into(), state);
        }
        verdict
    }

    /// Gives units back to a key.
    pub fn give_back(&self, key: &str, quota: &Quota, cost: u32) {
        if let Some(state) = self.shard(key).map(|shard| shard.lock()).as_mut().and_then(|shard| shard.states.get_mut(key)) {
            refund(state, quota, cost);
        }
    }

    /// Forgets a key.
    pub fn forget(&self, key: &str) {
        if let Some(shard) = self.shard(key) {
            shard.lock().states.remove(key);
        }
    }
}

impl Shard {
    fn make_room(&mut self, now_ms: i64) {
        if self.states.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        let now = now_ms.saturating_mul(1_000_000);
        self.states.retain(|_, state| *state > now);
        if self.states.len() >= SHARD_MAX {
            // Still full: those that matter for the shortest time go first.
            let mut ends: Vec<i64> = self.states.values().copied().collect();
            let (_, middle, _) = ends.select_nth_unstable(SHARD_MAX / 8);
            let middle = *middle;
            self.states.retain(|_, state| *state > middle);
        }
        self.sweep_at = (self.states.len() * 2).clamp(SWEEP_FROM, SHARD_MAX);
    }
}

#[async_trait]
impl Counters for Memory {
    async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        self.count(key, quota, cost, now_ms)
    }
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
        self.count(key, quota, 0, now_ms)
    }
    async fn clear(&self, key: &str) {
        self.forget(key);
    }
    async fn refund(&self, key: &str, quota: &Quota, cost: u32) {
        self.give_back(key, quota, cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_keys_is_bounded_and_expired_keys_go() {
        let (memory, quota) = (Memory::new(), Quota::per(10, 60));
        for n in 0..600_000 {
            memory.count(&format!("key {n}"), &quota, 1, 1_000);
        }
        assert!(memory.len() <= SHARDS * SHARD_MAX);
        let held = memory.len();
        for n in 0..100_000 {
            memory.count(&format!("later {n}"), &quota, 1, 10_000_000);
        }
        assert!(memory.len() <= held.max(200_000));
    }

    #[test]
    fn keys_that_somebody_makes_up_push_no_counted_guess_out() {
        let (memory, guesses, month) = (Memory::new(), Quota::per(20, 600), Quota::per(1, 2_592_000));
        for _ in 0..20 {
            assert!(memory.count("login:pair:192.0.2.1:x", &guesses, 1, 1_000).allowed);
        }
        for n in 0..600_000 {
            memory.count(&format!("route:header:{n}"), &month, 1, 1_000);
        }
        assert!(!memory.count("login:pair:192.0.2.1:x", &guesses, 0, 1_000).allowed);
    }

    #[test]
    fn asking_about_an_unknown_key_keeps_nothing() {
        let memory = Memory::new();
        assert!(memory.count("a", &Quota::per(1, 1), 0, 5).allowed);
        assert!(memory.is_empty());
    }
}
