//! The machine's clock and randomness: the only place where the ambient ones are read.
use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use tokens::{Clock, Entropy};
use zeroize::{Zeroize as _, Zeroizing};

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock that everything else is handed")]
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The operating system's randomness, through aws-lc-rs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

#[expect(clippy::disallowed_methods, reason = "this is the one source of randomness that everything else is handed")]
#[expect(clippy::expect_used, reason = "without randomness no key or token may be made: stopping is the only safe answer")]
fn fill(out: &mut [u8]) {
    aws_lc_rs::rand::fill(out).expect("the operating system gives randomness");
}

/// Octets drawn at once by a thread: the library spends as long on sixteen as on hundreds.
const DRAWN: usize = 512;
/// More than that is drawn for itself.
const SHORT: usize = 64;

/// What a thread has drawn and not given out. Every octet is given out once and wiped here.
struct Drawn {
    octets: Zeroizing<[u8; DRAWN]>,
    left: usize,
}

thread_local! {
    static MINE: RefCell<Drawn> = RefCell::new(Drawn { octets: Zeroizing::new([0; DRAWN]), left: 0 });
}

impl Drawn {
    fn give(&mut self, out: &mut [u8]) -> bool {
        if self.left < out.len() {
            fill(self.octets.as_mut_slice());
            self.left = DRAWN;
        }
        let rest = self.left.saturating_sub(out.len());
        let Some(mine) = self.octets.get_mut(rest..self.left).filter(|mine| mine.len() == out.len()) else { return false };
        out.copy_from_slice(mine);
        mine.zeroize();
        self.left = rest;
        true
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        let long = out.len() > SHORT;
        let give = |mine: &RefCell<Drawn>| mine.try_borrow_mut().is_ok_and(|mut mine| mine.give(out));
        if long || !MINE.try_with(give).unwrap_or(false) {
            fill(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_differs_and_time_is_after_2020() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        SystemEntropy.fill(&mut a);
        SystemEntropy.fill(&mut b);
        assert_ne!(a, b);
        assert!(SystemClock.now() > 1_577_836_800);
    }

    #[test]
    fn nothing_is_given_out_twice_and_what_was_given_is_wiped() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..400 {
            let mut out = vec![0; 16 + n % 80];
            SystemEntropy.fill(&mut out);
            assert!(out.iter().any(|octet| *octet != 0));
            assert!(out.windows(8).all(|window| seen.insert(window.to_vec())), "{n}");
        }
        MINE.with_borrow(|mine| {
            let (left, gone) = mine.octets.split_at(mine.left);
            assert!(gone.iter().all(|octet| *octet == 0) && left.len() < DRAWN);
        });
    }
}
