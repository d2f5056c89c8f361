//! Rate limiting as arithmetic: the generic cell rate algorithm (GCRA) and the port its states live behind.
use async_trait::async_trait;

/// How much of something is allowed: `rate` units each `period_s` seconds, with up to `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Units a period; 0 allows nothing.
    pub rate: u32,
    /// Seconds; 0 counts as 1.
    pub period_s: u32,
    /// Units that may come at once; 0 counts as 1.
    pub burst: u32,
}

impl Quota {
    /// A quota whose burst is its rate.
    #[must_use]
    pub const fn per(rate: u32, period_s: u32) -> Self {
        Self { rate, period_s, burst: rate }
    }

    /// Nanoseconds one unit takes to come back. `None` if nothing ever does.
    #[must_use]
    pub const fn interval_ns(&self) -> Option<i64> {
        if self.rate == 0 {
            return None;
        }
        let period = if self.period_s == 0 { 1 } else { self.period_s as i64 };
        let interval = period * 1_000_000_000 / self.rate as i64;
        Some(if interval == 0 { 1 } else { interval })
    }

    /// Nanoseconds of credit a full burst is worth.
    #[must_use]
    pub const fn window_ns(&self) -> i64 {
        let burst = if self.burst == 0 { 1 } else { self.burst as i64 };
        match self.interval_ns() {
            Some(interval) => interval.saturating_mul(burst),
            None => 0,
        }
    }
}

/// What a counter answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it was within the quota (and, for a hit, has been counted).
    pub allowed: bool,
    /// Units left right now.
    pub remaining: u32,
    /// Milliseconds until the same cost would be allowed; 0 when allowed.
    pub retry_after_ms: i64,
    /// Milliseconds until the quota is full again.
    pub reset_ms: i64,
}

impl Verdict {
    /// `Retry-After` in whole seconds, at least 1.
    #[must_use]
    pub const fn retry_after_s(&self) -> i64 {
        let s = (self.retry_after_ms + 999) / 1000;
        if s < 1 { 1 } else { s }
    }
}

/// One step of GCRA. `state_ns` is the theoretical arrival time in nanoseconds since the epoch (0 for a key never
/// seen); a cost that is not allowed does not move it further. A cost of 0 asks without counting: it is allowed if one unit would be.
pub fn gcra(state_ns: &mut i64, quota: &Quota, now_ms: i64, cost: u32) -> Verdict {
    let now = now_ms.saturating_mul(1_000_000);
    let Some(interval) = quota.interval_ns() else {
        return Verdict { allowed: false, remaining: 0, retry_after_ms: 3_600_000, reset_ms: 3_600_000 };
    };
    let window = quota.window_ns();
    // A clock that went back must not lock a key out for longer than its window.
    let arrival = (*state_ns).clamp(now, now.saturating_add(window));
    let wanted = arrival.saturating_add(interval.saturating_mul(i64::from(cost.max(1))));
    let allowed = wanted - now <= window;
    let after = if allowed && cost > 0 { wanted } else { arrival };
    if cost > 0 {
        *state_ns = after;
    }
    let left = (window - (after - now)).max(0) / interval;
    let ms = |ns: i64| (ns.max(0) + 999_999) / 1_000_000;
    Verdict {
        allowed,
        remaining: u32::try_from(left).unwrap_or(u32::MAX),
        retry_after_ms: if allowed { 0 } else { ms(wanted - now - window) },
        reset_ms: ms(after - now),
    }
}

/// Gives units back that were counted for what did not happen after all.
pub fn refund(state_ns: &mut i64, quota: &Quota, cost: u32) {
    if let Some(interval) = quota.interval_ns() {
        *state_ns = state_ns.saturating_sub(interval.saturating_mul(i64::from(cost))).max(0);
    }
}

/// Units asked of one counter.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub key: &'a str,
    pub quota: Quota,
    pub cost: u32,
}

/// Where counters live: this process, or shared by nodes. Never fails: an implementation whose shared state is away
/// counts locally.
#[async_trait]
pub trait Counters: Send + Sync {
    /// Counts `cost` against `key` if the quota allows it.
    async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict;
    /// Whether one unit would be allowed; counts nothing.
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict;
    /// Forgets a key.
    async fn clear(&self, key: &str);
    /// Gives units back.
    async fn refund(&self, _key: &str, _quota: &Quota, _cost: u32) {}
    /// Counts against all of them or none: what one refuses does not use up the others.
    async fn hit_all(&self, asks: &[Ask<'_>], now_ms: i64) -> Vec<Verdict> {
        let mut out: Vec<Verdict> = Vec::with_capacity(asks.len());
        let mut refused = false;
        for ask in asks {
            let verdict =
                if refused { self.peek(ask.key, &ask.quota, now_ms).await } else { self.hit(ask.key, &ask.quota, ask.cost, now_ms).await };
            if !refused && !verdict.allowed {
                refused = true;
                for (counted, verdict) in asks.iter().zip(&mut out) {
                    self.refund(counted.key, &counted.quota, counted.cost).await;
                    verdict.remaining = verdict.remaining.saturating_add(counted.cost);
                }
            }
            out.push(verdict);
        }
        out
    }
}

/// The verdict that binds: the refusal that lasts longest, else the counter with the least left.
#[must_use]
pub fn strictest(verdicts: &[Verdict]) -> Option<(usize, Verdict)> {
    verdicts.iter().copied().enumerate().min_by_key(|(_, v)| (v.allowed, std::cmp::Reverse(v.retry_after_ms), v.remaining))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_at_once_and_then_the_rate() {
        let quota = Quota { rate: 10, period_s: 60, burst: 3 };
        let mut state = 0;
        for left in [2, 1, 0] {
            let v = gcra(&mut state, &quota, 1_000_000, 1);
            assert!(v.allowed);
            assert_eq!(v.remaining, left);
        }
        let v = gcra(&mut state, &quota, 1_000_000, 1);
        assert!(!v.allowed);
        assert_eq!(v.retry_after_ms, 6_000);
        assert!(gcra(&mut state, &quota, 1_006_000, 1).allowed);
        assert!(!gcra(&mut state, &quota, 1_006_000, 1).allowed);
    }

    #[test]
    fn a_month_and_a_million_a_second_are_exact_within_a_percent() {
        for (rate, period_s, step_ms) in
            [(1_000_000_u32, 2_592_000_u32, 3_600_000_i64), (1_000_000, 1, 1), (30_000, 1, 1), (7, 86_400, 60_000)]
        {
            let quota = Quota { rate, period_s, burst: rate };
            let (mut state, start) = (0, 1_800_000_000_000_i64);
            let mut taken = 0_u64;
            // The burst, then one period of taking whatever there is.
            for n in 0..=i64::from(period_s) * 1000 / step_ms {
                let now = start + n * step_ms;
                let left = gcra(&mut state, &quota, now, 0).remaining;
                if left > 0 {
                    assert!(gcra(&mut state, &quota, now, left).allowed);
                    taken += u64::from(left);
                }
            }
            let most = u64::from(rate) * 2;
            assert!(taken <= most + most / 100 && taken >= most - most / 100 - 1, "{rate} in {period_s} s: {taken}");
        }
    }

    #[test]
    fn units_given_back_are_there_again() {
        let quota = Quota::per(3, 60);
        let mut state = 0;
        assert_eq!(gcra(&mut state, &quota, 1_000, 2).remaining, 1);
        refund(&mut state, &quota, 2);
        assert_eq!(gcra(&mut state, &quota, 1_000, 3).remaining, 0);
        refund(&mut state, &quota, 1_000);
        assert_eq!(gcra(&mut state, &quota, 1_000, 0).remaining, 3, "never more than the burst");
    }

    #[test]
    fn the_strictest_verdict_binds() {
        let verdict = |allowed, remaining, retry_after_ms| Verdict { allowed, remaining, retry_after_ms, reset_ms: 0 };
        assert_eq!(strictest(&[]), None);
        assert_eq!(strictest(&[verdict(true, 5, 0), verdict(true, 2, 0)]).unwrap().0, 1);
        assert_eq!(strictest(&[verdict(true, 0, 0), verdict(false, 9, 10), verdict(false, 0, 20)]).unwrap().0, 2);
    }

    #[test]
    fn asking_does_not_count() {
        let quota = Quota::per(1, 60);
        let mut state = 0;
        assert!(gcra(&mut state, &quota, 5_000, 0).allowed);
        assert!(gcra(&mut state, &quota, 5_000, 1).allowed);
        assert!(!gcra(&mut state, &quota, 5_000, 0).allowed);
    }

    #[test]
    fn a_clock_that_went_back_locks_nobody_out() {
        let quota = Quota::per(2, 1);
        let mut state = 0;
        assert!(gcra(&mut state, &quota, 9_000_000_000, 1).allowed);
        assert!(!gcra(&mut state, &quota, 1_000, 1).allowed);
        assert!(gcra(&mut state, &quota, 2_000, 1).allowed);
    }
}
