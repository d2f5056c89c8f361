//! The time by which things are forgotten. It never runs faster than time passes: a clock that jumps ahead, and perhaps back again, must
//! not make the process forget what was used once or revoked.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokens::Clock;

/// A clock may run ahead of the passing of time by so much between two looks and is believed at once.
const SLACK: Duration = Duration::from_secs(60);
/// A jump ahead that stands for so long is the right time after all.
const STANDS: Duration = Duration::from_secs(3600);

/// What was seen at the last look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    settled_ms: i64,
    ahead_since: Option<Instant>,
}

/// A clock for forgetting.
pub struct Settled {
    clock: Arc<dyn Clock>,
    seen: Mutex<Option<Seen>>,
}

impl Settled {
    /// Follows a clock from its time at the first look on.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, seen: Mutex::default() }
    }

    fn look(&self, at: Instant) -> i64 {
        let (now_ms, mut seen) = (self.clock.now_ms(), self.seen.lock());
        let next = seen.map_or(Seen { at, settled_ms: now_ms, ahead_since: None }, |before| next(before, now_ms, at));
        *seen = Some(next);
        next.settled_ms
    }
}

impl Clock for Settled {
    fn now_ms(&self) -> i64 {
        self.look(Instant::now())
    }
}

fn next(before: Seen, now_ms: i64, at: Instant) -> Seen {
    let passed = at.saturating_duration_since(before.at);
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let expected = before.settled_ms.saturating_add(ms(passed));
    if now_ms <= expected.saturating_add(ms(SLACK)) {
        return Seen { at, settled_ms: now_ms, ahead_since: None };
    }
    let since = before.ahead_since.unwrap_or(at);
    if at.saturating_duration_since(since) >= STANDS {
        tracing::warn!("the clock jumped ahead and stayed there: what has expired by it is forgotten from now on");
        return Seen { at, settled_ms: now_ms, ahead_since: None };
    }
    if before.ahead_since.is_none() {
        tracing::warn!(ahead_ms = now_ms - expected, "the clock jumped ahead: for an hour nothing is forgotten by its new time");
    }
    Seen { at, settled_ms: expected, ahead_since: Some(since) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_jump_ahead_is_not_followed_until_it_has_stood_for_an_hour() {
        let begun = Instant::now();
        let after = |s: u64| begun + Duration::from_secs(s);
        let start = Seen { at: begun, settled_ms: HOUR, ahead_since: None };
        let ten = next(start, HOUR + 10_000, after(10));
        assert_eq!(ten.settled_ms, HOUR + 10_000);
        // Ahead by a day, and back.
        let jumped = next(ten, 25 * HOUR + 20_000, after(20));
        assert_eq!(jumped.settled_ms, HOUR + 20_000);
        assert_eq!(next(jumped, HOUR + 30_000, after(30)).settled_ms, HOUR + 30_000);
        // Ahead, and it stays.
        let stays = next(jumped, 25 * HOUR + 3_600_000, after(3_600));
        assert_eq!(stays.settled_ms, HOUR + 3_600_000);
        assert_eq!(next(stays, 25 * HOUR + 3_620_000, after(3_620)).settled_ms, 25 * HOUR + 3_620_000);
    }

    #[test]
    fn a_clock_set_back_is_followed_and_so_is_a_small_correction() {
        let begun = Instant::now();
        let start = Seen { at: begun, settled_ms: 2 * HOUR, ahead_since: None };
        let back = next(start, HOUR, begun + Duration::from_secs(1));
        assert_eq!(back.settled_ms, HOUR);
        assert_eq!(next(back, HOUR + 31_000, begun + Duration::from_secs(2)).settled_ms, HOUR + 31_000);
    }
}
