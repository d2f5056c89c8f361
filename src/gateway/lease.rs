//! Units of a shared quota taken in advance, so that a limited request need not ask the shared counter.
//!
//! A hundredth of the burst is taken at a time and used up here; what is left after [`KEPT_MS`] is let go. So a node grants at most one
//! hundredth more than the quota says at once (units taken earlier than used) or wastes as much. What the shared counter
//! refused stays refused, without asking, until it would allow it, or for [`REFUSED_MS`]. Another quota is asked about anew.
use ahash::{AHashMap, RandomState};
use edge::{Counters, Quota, Verdict};
use parking_lot::Mutex;

/// How long units taken in advance are good, milliseconds.
const KEPT_MS: i64 = 2_000;
/// How long a refusal is believed without asking, milliseconds.
const REFUSED_MS: i64 = 10_000;
const SHARDS: usize = 16;
/// The most keys a shard holds.
const SHARD_MAX: usize = 4_096;
/// The most units taken at a time.
const CHUNK_MAX: u32 = 10_000;

#[derive(Clone, Copy)]
struct Lease {
    quota: Quota,
    left: u32,
    until_ms: i64,
    refused_until_ms: i64,
    /// What the shared counter said last, and when.
    verdict: Verdict,
    at_ms: i64,
}

/// What is held of shared quotas.
#[derive(Default)]
pub(crate) struct Leases {
    hasher: RandomState,
    shards: [Mutex<AHashMap<Box<str>, Lease>>; SHARDS],
}

/// How many units to take at once.
fn chunk(quota: &Quota, cost: u32) -> u32 {
    (quota.burst / 100).clamp(1, CHUNK_MAX).max(cost)
}

impl Leases {
    fn shard(&self, key: &str) -> Option<&Mutex<AHashMap<Box<str>, Lease>>> {
        self.shards.get(usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0))
    }

    /// Takes `cost` units, from what is held or from the shared counter.
    pub(crate) async fn take(&self, counters: &dyn Counters, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        if let Some(verdict) = self.here(key, quota, cost, now_ms) {
            return verdict;
        }
        let many = chunk(quota, cost);
        let mut verdict = counters.hit(key, quota, many, now_ms).await;
        let mut spare = many - cost;
        if !verdict.allowed && many > cost {
            (verdict, spare) = (counters.hit(key, quota, cost, now_ms).await, 0);
        }
        self.keep(key, *quota, verdict, spare, now_ms);
        Verdict { remaining: verdict.remaining.saturating_add(if verdict.allowed { spare } else { 0 }), ..verdict }
    }

    /// What can be said without asking.
    fn here(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Option<Verdict> {
        let mut shard = self.shard(key)?.lock();
        let lease = shard.get_mut(key).filter(|lease| lease.quota == *quota)?;
        let passed = (now_ms - lease.at_ms).max(0);
        if lease.left >= cost && now_ms < lease.until_ms {
            lease.left -= cost;
            let remaining = lease.verdict.remaining.saturating_add(lease.left);
            return Some(Verdict { allowed: true, remaining, retry_after_ms: 0, reset_ms: (lease.verdict.reset_ms - passed).max(0) });
        }
        if now_ms < lease.refused_until_ms {
            return Some(Verdict {
                allowed: false,
                remaining: 0,
                retry_after_ms: (lease.verdict.retry_after_ms - passed).max(1),
                reset_ms: (lease.verdict.reset_ms - passed).max(0),
            });
        }
        None
    }

    fn keep(&self, key: &str, quota: Quota, verdict: Verdict, spare: u32, now_ms: i64) {
        let Some(shard) = self.shard(key) else { return };
        let mut shard = shard.lock();
        if !shard.contains_key(key) && shard.len() >= SHARD_MAX {
            shard.retain(|_, lease| now_ms < lease.until_ms.max(lease.refused_until_ms));
            if shard.len() >= SHARD_MAX {
                shard.clear();
            }
        }
        let fresh = Lease { quota, left: 0, until_ms: 0, refused_until_ms: 0, verdict, at_ms: now_ms };
        let lease = shard.entry(key.into()).or_insert(fresh);
        let held = if now_ms < lease.until_ms && lease.quota == quota { lease.left } else { 0 };
        *lease = Lease {
            quota,
            left: held.saturating_add(if verdict.allowed { spare } else { 0 }),
            until_ms: now_ms + KEPT_MS,
            refused_until_ms: if verdict.allowed { 0 } else { now_ms.saturating_add(verdict.retry_after_ms.min(REFUSED_MS)) },
            verdict,
            at_ms: now_ms,
        };
    }

    /// Units that were not used after all.
    pub(crate) fn give_back(&self, key: &str, cost: u32, taken: bool) {
        if taken && let Some(lease) = self.shard(key).map(|shard| shard.lock()).as_mut().and_then(|shard| shard.get_mut(key)) {
            lease.left = lease.left.saturating_add(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use edge::memory::Memory;

    use super::*;

    #[tokio::test]
    async fn two_nodes_with_leases_keep_to_the_limit_within_two_percent() {
        let (shared, one, two) = (Memory::new(), Leases::default(), Leases::default());
        let quota = Quota { rate: 1_000, period_s: 1, burst: 1_000 };
        let (mut passed, start) = (0_u32, 1_800_000_000_000_i64);
        for n in 0..40_000_i64 {
            let node = if n % 2 == 0 { &one } else { &two };
            passed += u32::from(node.take(&shared, "k", &quota, 1, start + n / 10).await.allowed);
        }
        // A burst and four seconds.
        assert!((4_900..=5_100).contains(&passed), "{passed}");
    }

    #[tokio::test]
    async fn a_refusal_is_remembered_as_long_as_it_lasts_and_costs_no_question() {
        let (shared, node) = (Memory::new(), Leases::default());
        let quota = Quota { rate: 1, period_s: 10, burst: 2 };
        let start = 1_800_000_000_000_i64;
        for allowed in [true, true, false, false] {
            assert_eq!(node.take(&shared, "k", &quota, 1, start).await.allowed, allowed);
        }
        shared.forget("k");
        let still = node.take(&shared, "k", &quota, 1, start + 9_000).await;
        assert_eq!((still.allowed, still.retry_after_ms), (false, 1_000));
        assert!(node.take(&shared, "k", &quota, 1, start + 10_000).await.allowed);
    }

    #[tokio::test]
    async fn a_refusal_does_not_outlast_a_changed_quota() {
        let (shared, node) = (Memory::new(), Leases::default());
        let (month, start) = (Quota { rate: 1, period_s: 30 * 86_400, burst: 1 }, 1_800_000_000_000_i64);
        assert!(node.take(&shared, "k", &month, 1, start).await.allowed);
        let refused = node.take(&shared, "k", &month, 1, start).await;
        assert!(!refused.allowed && refused.retry_after_ms > 86_400_000, "{refused:?}");
        let later = node.take(&shared, "k", &month, 1, start + 5_000).await;
        assert_eq!(later.retry_after_ms, refused.retry_after_ms - 5_000);
        let more = Quota { burst: 3, ..month };
        assert!(node.take(&shared, "k", &more, 1, start + 5_001).await.allowed, "the administrator gave more");
        // What the shared counter forgot is heard of soon.
        assert!(node.take(&shared, "l", &month, 1, start).await.allowed && !node.take(&shared, "l", &month, 1, start).await.allowed);
        shared.forget("l");
        assert!(!node.take(&shared, "l", &month, 1, start + REFUSED_MS - 1).await.allowed);
        assert!(node.take(&shared, "l", &month, 1, start + REFUSED_MS).await.allowed);
    }

    #[tokio::test]
    async fn the_number_of_keys_is_bounded() {
        let (shared, node) = (Memory::new(), Leases::default());
        for n in 0..100_000 {
            node.take(&shared, &format!("k{n}"), &Quota::per(1_000, 1), 1, 1_000).await;
        }
        assert!(node.shards.iter().map(|s| s.lock().len()).sum::<usize>() <= SHARDS * SHARD_MAX);
    }
}
