//! Units of a shared quota taken in advance, so that a limited request need not ask the shared counter.
//!
//! Whoever uses up in [`KEPT_MS`] what was taken gets twice as much the next time, up to a hundredth of the burst; what is left then is
//! given back with the next question. So a node grants at most one hundredth more than the quota says at once (units taken earlier than
//! used) or wastes as much. What the shared counter refused stays refused, without asking, until it would allow it, or for [`REFUSED_MS`].
//! Another quota is asked about anew.
use ahash::{AHashMap, RandomState};
use edge::{Counters, Quota, Verdict};
use parking_lot::Mutex;

/// How long units taken in advance are good, milliseconds.
const KEPT_MS: i64 = 2_000;
/// How long a refusal is believed without asking, milliseconds.
const REFUSED_MS: i64 = 10_000;
/// How long one question is waited for, milliseconds.
const ASKING_MS: i64 = 200;
const SHARDS: usize = 16;
/// The most keys a shard holds.
const SHARD_MAX: usize = 4_096;
/// The most units taken at a time.
const CHUNK_MAX: u32 = 10_000;

#[derive(Clone, Copy)]
struct Lease {
    quota: Quota,
    /// How many were taken last.
    chunk: u32,
    left: u32,
    until_ms: i64,
    refused_until_ms: i64,
    /// Somebody asks for more: whoever comes meanwhile takes what it needs and no more.
    asking_until_ms: i64,
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

/// The most units to take at once.
fn most(quota: &Quota) -> u32 {
    (quota.burst / 100).clamp(1, CHUNK_MAX)
}

/// What is known without asking.
enum Here {
    Said(Verdict),
    /// The shared counter has to be asked for so many; so many others that it gave were not used.
    Ask {
        many: u32,
        unused: u32,
        /// Nobody else is asking for more meanwhile.
        alone: bool,
    },
}

impl Leases {
    fn shard(&self, key: &str) -> Option<&Mutex<AHashMap<Box<str>, Lease>>> {
        self.shards.get(usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0))
    }

    /// Takes `cost` units, from what is held or from the shared counter.
    pub(crate) async fn take(&self, counters: &dyn Counters, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        let (many, unused, alone) = match self.here(key, quota, cost, now_ms) {
            Here::Said(verdict) => return verdict,
            Here::Ask { many, unused, alone } => (many, unused, alone),
        };
        if unused > 0 {
            counters.refund(key, quota, unused).await;
        }
        let mut verdict = counters.hit(key, quota, many, now_ms).await;
        let mut spare = many - cost;
        if !verdict.allowed && many > cost {
            (verdict, spare) = (counters.hit(key, quota, cost, now_ms).await, 0);
        }
        self.keep(key, *quota, verdict, (alone.then_some(many), spare), now_ms);
        Verdict { remaining: verdict.remaining.saturating_add(if verdict.allowed { spare } else { 0 }), ..verdict }
    }

    /// What can be said without asking.
    fn here(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Here {
        let first = Here::Ask { many: cost, unused: 0, alone: true };
        let Some(mut shard) = self.shard(key).map(|shard| shard.lock()) else { return first };
        let Some(lease) = shard.get_mut(key).filter(|lease| lease.quota == *quota) else { return first };
        let passed = (now_ms - lease.at_ms).max(0);
        if lease.left >= cost && now_ms < lease.until_ms {
            lease.left -= cost;
            let remaining = lease.verdict.remaining.saturating_add(lease.left);
            return Here::Said(Verdict { allowed: true, remaining, retry_after_ms: 0, reset_ms: (lease.verdict.reset_ms - passed).max(0) });
        }
        if now_ms < lease.refused_until_ms {
            return Here::Said(Verdict {
                allowed: false,
                remaining: 0,
                retry_after_ms: (lease.verdict.retry_after_ms - passed).max(1),
                reset_ms: (lease.verdict.reset_ms - passed).max(0),
            });
        }
        if now_ms < lease.asking_until_ms {
            return Here::Ask { many: cost, unused: 0, alone: false };
        }
        lease.asking_until_ms = now_ms + ASKING_MS;
        if now_ms < lease.until_ms {
            // Used up in time: more of it.
            return Here::Ask { many: lease.chunk.saturating_mul(2).min(most(quota)).max(cost), unused: 0, alone: true };
        }
        // What would have come back by itself meanwhile was given back so already.
        let back = quota.interval_ns().map_or(i64::MAX, |interval| passed.saturating_mul(1_000_000) / interval);
        let unused = lease.left.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        lease.left = 0;
        Here::Ask { many: cost, unused, alone: true }
    }

    fn keep(&self, key: &str, quota: Quota, verdict: Verdict, (many, spare): (Option<u32>, u32), now_ms: i64) {
        let Some(shard) = self.shard(key) else { return };
        let mut shard = shard.lock();
        if !shard.contains_key(key) && shard.len() >= SHARD_MAX {
            shard.retain(|_, lease| now_ms < lease.until_ms.max(lease.refused_until_ms));
            if shard.len() >= SHARD_MAX {
                shard.clear();
            }
        }
        let fresh = Lease {
            quota,
            chunk: many.unwrap_or(1),
            left: 0,
            until_ms: 0,
            refused_until_ms: 0,
            asking_until_ms: 0,
            verdict,
            at_ms: now_ms,
        };
        let lease = shard.entry(key.into()).or_insert(fresh);
        let held = if now_ms < lease.until_ms && lease.quota == quota { lease.left } else { 0 };
        *lease = Lease {
            quota,
            chunk: many.unwrap_or(lease.chunk),
            left: held.saturating_add(if verdict.allowed { spare } else { 0 }),
            until_ms: now_ms + KEPT_MS,
            refused_until_ms: if verdict.allowed { 0 } else { now_ms.saturating_add(verdict.retry_after_ms.min(REFUSED_MS)) },
            asking_until_ms: if many.is_some() { 0 } else { lease.asking_until_ms },
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

    /// Answers when others have had their turn.
    struct Slow(Memory);
    #[async_trait::async_trait]
    impl Counters for Slow {
        async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
            tokio::task::yield_now().await;
            self.0.hit(key, quota, cost, now_ms).await
        }
        async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
            self.0.peek(key, quota, now_ms).await
        }
        async fn clear(&self, key: &str) {
            self.0.clear(key).await;
        }
    }

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
    async fn who_comes_seldom_or_all_at_once_pays_for_what_it_uses() {
        let (shared, start) = (Memory::new(), 1_800_000_000_000_i64);
        let month = Quota::per(100_000, 30 * 86_400);
        let used = |key: &'static str, shared: &Memory, at: i64| 100_000 - shared.count(key, &month, 0, at).remaining;
        let node = Leases::default();
        for n in 0..100 {
            assert!(node.take(&shared, "seldom", &month, 1, start + n * 3_000).await.allowed);
        }
        assert!(used("seldom", &shared, start + 300_000) <= 100, "{}", used("seldom", &shared, start + 300_000));
        let all: Vec<Verdict> = futures_util::future::join_all((0..100).map(|_| node.take(&shared, "together", &month, 1, start))).await;
        assert!(all.iter().all(|verdict| verdict.allowed));
        assert!(used("together", &shared, start) <= 200, "{}", used("together", &shared, start));
        // Those who come while one asks for more take what they need.
        let slow = Slow(Memory::new());
        for _ in 0..12 {
            node.take(&slow, "slow", &month, 1, start).await;
        }
        let before = used("slow", &slow.0, start);
        futures_util::future::join_all((0..2_000).map(|_| node.take(&slow, "slow", &month, 1, start))).await;
        let spent = used("slow", &slow.0, start) - before;
        assert!(spent <= 3_100, "{spent} for 2000 requests");
        // Bursts with pauses: what was taken in advance and not used comes back.
        let node = Leases::default();
        for burst in 0..20_i64 {
            for n in 0..100 {
                assert!(node.take(&shared, "bursts", &month, 1, start + burst * 10_000 + n).await.allowed);
            }
        }
        let used = used("bursts", &shared, start + 200_000);
        assert!((1_900..=2_200).contains(&used), "{used} of 2000");
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
