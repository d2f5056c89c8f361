//! Requests that have not come whole: what is held of them, over all connections of a listener together. Beyond a bound those that
//! hold more than their share are given up, and then those that were silent for longest; whoever gets on is waited for.
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Instant,
};

use ahash::AHashMap;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Octets that a listener holds of unfinished requests, for each connection it takes: few are unfinished at any moment.
const EACH: usize = 4 * 1024;
/// However few connections it takes: the largest body the server's own listeners take has room, and some more of them.
const LEAST: usize = 1024 * 1024;

/// What silence is counted from.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a listener holds of unfinished requests.
#[derive(Debug)]
pub struct Budget {
    name: &'static str,
    most: usize,
    held: AtomicUsize,
    next: AtomicU64,
    all: Mutex<AHashMap<u64, Arc<Part>>>,
}

#[derive(Debug, Default)]
struct Part {
    octets: AtomicUsize,
    /// When it last grew, nanoseconds.
    heard: AtomicU64,
    over: AtomicBool,
    waker: AtomicWaker,
}

/// Nanoseconds.
fn now() -> u64 {
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// One request that has not come whole.
#[derive(Debug)]
pub struct Unfinished {
    budget: Arc<Budget>,
    number: u64,
    part: Arc<Part>,
}

impl Budget {
    /// Of a listener by that name that takes so many connections.
    #[must_use]
    pub fn new(name: &'static str, connections: usize) -> Arc<Self> {
        let most = connections.saturating_mul(EACH).max(LEAST);
        Arc::new(Self { name, most, held: AtomicUsize::new(0), next: AtomicU64::new(0), all: Mutex::default() })
    }

    /// Gives up those that hold more than their share, and then the others, the longest silent first, until an eighth is free.
    fn shed(&self) {
        let all = self.all.lock();
        let turn = |part: &Part| (part.octets.load(Ordering::Relaxed) <= EACH, part.heard.load(Ordering::Relaxed));
        let mut those: Vec<_> = all.values().filter(|part| !part.over.load(Ordering::Acquire)).map(|part| (turn(part), part)).collect();
        those.sort_unstable_by_key(|(turn, _)| *turn);
        for (_, part) in those {
            if self.held.load(Ordering::Relaxed) <= self.most - self.most / 8 {
                return;
            }
            part.over.store(true, Ordering::Release);
            self.held.fetch_sub(part.octets.swap(0, Ordering::AcqRel), Ordering::AcqRel);
            part.waker.wake();
            metrics::counter!("requests_unfinished_dropped_total", "listener" => self.name).increment(1);
        }
    }
}

impl Unfinished {
    /// One of which nothing is held yet.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> Self {
        let number = budget.next.fetch_add(1, Ordering::Relaxed);
        let part = Arc::new(Part { heard: AtomicU64::new(now()), ..Part::default() });
        budget.all.lock().insert(number, Arc::clone(&part));
        Self { budget: Arc::clone(budget), number, part }
    }

    /// So many octets of it are here now: more of it has come.
    pub fn holds(&self, octets: usize) {
        self.part.heard.store(now(), Ordering::Relaxed);
        let held = &self.budget.held;
        // In the sum before anybody can see them and take them out of it.
        held.fetch_add(octets, Ordering::AcqRel);
        held.fetch_sub(self.part.octets.swap(octets, Ordering::AcqRel), Ordering::AcqRel);
        if held.load(Ordering::Acquire) > self.budget.most {
            self.budget.shed();
        }
    }

    /// Whether it is given up; the task is woken when it is.
    #[must_use]
    pub fn is_over(&self, cx: &Context<'_>) -> bool {
        self.part.waker.register(cx.waker());
        self.part.over.load(Ordering::Acquire)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.budget.all.lock().remove(&self.number);
        self.budget.held.fetch_sub(self.part.octets.swap(0, Ordering::AcqRel), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_more_than_his_share_goes_before_those_who_are_silent() {
        let budget = Budget::new("test", 0);
        let cx = &Context::from_waker(std::task::Waker::noop());
        let (small, large, late) = (Unfinished::new(&budget), Unfinished::new(&budget), Unfinished::new(&budget));
        assert!(small.part.heard.load(Ordering::Relaxed) > 0, "heard of when it began");
        small.holds(EACH);
        large.holds(LEAST / 4);
        late.holds(LEAST);
        assert!(!small.is_over(cx) && large.is_over(cx) && late.is_over(cx));
        assert_eq!(budget.held.load(Ordering::Relaxed), EACH);
    }

    #[test]
    fn the_longest_silent_are_given_up_and_what_they_held_is_free() {
        let budget = Budget::new("test", 0);
        let cx = &Context::from_waker(std::task::Waker::noop());
        let eighth = LEAST / 8;
        let all: Vec<Unfinished> = (0..8).map(|_| Unfinished::new(&budget)).collect();
        for (n, one) in (1..).zip(&all) {
            one.holds(eighth);
            one.part.heard.store(n, Ordering::Relaxed);
        }
        assert!(all.iter().all(|one| !one.is_over(cx)));
        // The first of all goes on, so that it is not the one that goes.
        all[0].part.heard.store(100, Ordering::Relaxed);
        let late = Unfinished::new(&budget);
        late.holds(eighth);
        assert_eq!(all.iter().map(|one| one.is_over(cx)).collect::<Vec<_>>(), [false, true, true, false, false, false, false, false]);
        assert!(!late.is_over(cx) && budget.held.load(Ordering::Relaxed) == 7 * eighth);
        // Octets that come for it after all do not stay counted.
        all[1].holds(10);
        drop((all, late));
        assert_eq!((budget.held.load(Ordering::Relaxed), budget.all.lock().len()), (0, 0));
    }
}
