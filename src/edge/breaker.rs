//! A circuit breaker: closed while enough succeeds, open for a while when too much fails, then one request tells.
use crate::resilience::Breaking;

/// What a breaker does with requests now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// They go.
    Closed,
    /// None goes.
    Open,
    /// One goes, to tell.
    HalfOpen,
}

/// The breaker of one target. Times are milliseconds of any one clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Nothing goes before; 0: closed.
    open_until: u64,
    /// Another probe may not go before.
    probe_until: u64,
    since: u64,
    total: u32,
    failed: u32,
}

impl Breaker {
    /// What it does now.
    #[must_use]
    pub const fn circuit(&self, now: u64) -> Circuit {
        match self.open_until {
            0 => Circuit::Closed,
            until if now < until => Circuit::Open,
            _ => Circuit::HalfOpen,
        }
    }

    /// Whether a request could go now.
    #[must_use]
    pub const fn lets(&self, now: u64) -> bool {
        match self.circuit(now) {
            Circuit::Closed => true,
            Circuit::Open => false,
            Circuit::HalfOpen => now >= self.probe_until,
        }
    }

    /// Takes a request; false if it may not go. A probe nothing was heard of blocks for as long as the breaker was open.
    pub const fn take(&mut self, rule: &Breaking, now: u64) -> bool {
        let lets = self.lets(now);
        if lets && matches!(self.circuit(now), Circuit::HalfOpen) {
            self.probe_until = now.saturating_add(rule.open_ms);
        }
        lets
    }

    /// Hears what became of a request. Returns whether that opened it.
    pub fn hear(&mut self, rule: &Breaking, now: u64, good: bool) -> bool {
        match (self.circuit(now), good) {
            (Circuit::HalfOpen, true) => {
                *self = Self { since: now, ..Self::default() };
                false
            }
            (Circuit::HalfOpen, false) => {
                self.open(rule, now);
                true
            }
            // Sent before it opened.
            (Circuit::Open, _) => false,
            (Circuit::Closed, _) => {
                if now.saturating_sub(self.since) >= rule.window_ms {
                    (self.since, self.total, self.failed) = (now, 0, 0);
                }
                self.total = self.total.saturating_add(1);
                self.failed = self.failed.saturating_add(u32::from(!good));
                let too_many = u64::from(self.failed) * 100 >= u64::from(rule.error_percent) * u64::from(self.total);
                let opens = !good && self.total >= rule.min_requests && too_many;
                if opens {
                    self.open(rule, now);
                }
                opens
            }
        }
    }

    fn open(&mut self, rule: &Breaking, now: u64) {
        *self = Self { open_until: now.saturating_add(rule.open_ms).max(1), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Breaking = Breaking { error_percent: 50, window_ms: 1000, min_requests: 4, open_ms: 500 };

    #[test]
    fn it_opens_when_the_share_of_faults_is_reached_and_one_probe_closes_it() {
        let mut breaker = Breaker::default();
        for good in [true, true, false] {
            assert!(breaker.take(&RULE, 10) && !breaker.hear(&RULE, 10, good));
        }
        assert!(breaker.hear(&RULE, 20, false), "two of four");
        assert!(!breaker.take(&RULE, 519), "open");
        assert!(breaker.take(&RULE, 520), "one probe");
        assert!(!breaker.take(&RULE, 521), "and only one");
        assert!(!breaker.hear(&RULE, 530, true));
        assert_eq!(breaker.circuit(530), Circuit::Closed);
        assert!(breaker.take(&RULE, 531) && breaker.take(&RULE, 531));
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_is_lost_is_followed_by_another() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.hear(&RULE, 0, false);
        }
        assert!(breaker.take(&RULE, 600));
        assert!(breaker.hear(&RULE, 610, false));
        assert_eq!((breaker.circuit(1109), breaker.circuit(1110)), (Circuit::Open, Circuit::HalfOpen));
        assert!(breaker.take(&RULE, 1110) && !breaker.take(&RULE, 1500) && breaker.take(&RULE, 1610));
    }

    #[test]
    fn faults_of_an_older_window_are_forgotten() {
        let mut breaker = Breaker::default();
        for now in [0, 0, 0, 1000, 1000, 1000] {
            assert!(!breaker.hear(&RULE, now, false), "{now}");
        }
        assert!(breaker.hear(&RULE, 1000, false));
    }
}
