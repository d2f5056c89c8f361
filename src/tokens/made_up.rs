//! References that nobody issued. The checksum of their form has no key; what tells itself under one ([`secret::is_link`]) does not have
//! to be looked up to be believed as issued, and of everything else only so many look-ups a second may find nothing.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::secret::{self, MacKey, SecretKind};

/// Look-ups a second that may find nothing, of one process and one kind of caller.
const MOST: u64 = 200;
/// Bits of the number of look-ups, below the second they are of.
const BITS: u32 = 24;
/// Seconds by which one that waited may come after the others. A clock that goes back by more was set.
const LATE: u64 = 2;

/// Counts look-ups that find nothing, second by second: each before it is made, so that those under way are no more than may fail.
#[derive(Debug, Default)]
pub struct MadeUp(AtomicU64);

/// What a look-up was counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Place(Option<u64>);

impl MadeUp {
    /// Whether a reference may be looked up at `now` (seconds), and its place: always if it was issued here and says so itself. Those of
    /// earlier versions do not; they share what is left, and give their place back once they are [found](Self::found).
    pub fn admits(&self, kind: SecretKind, text: &str, key: &MacKey, now: i64) -> Option<Place> {
        if secret::is_link(kind, text, key) {
            return Some(Place(None));
        }
        let now = second(now);
        let counted = |seen: u64| {
            let (stored, count) = parted(seen);
            match now > stored || stored - now > LATE {
                true => Some(now << BITS | 1),
                false => (count < MOST).then_some(seen + 1),
            }
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).ok()?;
        counted(before).map(|after| Place(Some(parted(after).0)))
    }

    /// There was one: it takes nothing from the others of its second.
    pub fn found(&self, place: Place) {
        let Some(second) = place.0 else { return };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| match parted(seen) {
            (stored, 1..) if stored == second => Some(seen - 1),
            _ => None,
        });
    }
}

const fn parted(seen: u64) -> (u64, u64) {
    (seen >> BITS, seen & ((1 << BITS) - 1))
}

fn second(now: i64) -> u64 {
    u64::try_from(now).unwrap_or(0) & ((1 << (64 - BITS)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{secret::Plain, testing::Counting};

    const KIND: SecretKind = SecretKind::Access;

    fn key() -> MacKey {
        MacKey::new([7; 32])
    }

    fn unmarked() -> Plain {
        secret::generate(KIND, 5, &Counting::default(), &key()).plain
    }

    #[test]
    fn what_nobody_issued_is_looked_up_so_often_and_what_says_that_it_was_issued_always() {
        let (key, made_up, old) = (key(), MadeUp::default(), unmarked());
        let issued = secret::generate_link(KIND, 5, &Counting::default(), &key).plain;
        let may = |text: &Plain, now| made_up.admits(KIND, text.expose(), &key, now).is_some();
        for _ in 0..MOST {
            assert!(may(&old, 9) && may(&issued, 9));
        }
        assert!(!may(&old, 9) && may(&issued, 9));
        assert!(may(&old, 10));
        let made_up = MadeUp::default();
        let other = MacKey::new([8; 32]);
        let admitted = (0..=MOST).filter(|_| made_up.admits(KIND, issued.expose(), &other, 9).is_some()).count();
        assert_eq!(admitted as u64, MOST, "under another key it is anybody's");
    }

    #[test]
    fn those_under_way_are_counted_and_those_that_were_found_are_not() {
        let (key, made_up, old) = (key(), MadeUp::default(), unmarked());
        let places: Vec<_> = (0..MOST).map(|_| made_up.admits(KIND, old.expose(), &key, 9).unwrap()).collect();
        assert_eq!(made_up.admits(KIND, old.expose(), &key, 9), None, "none of them has been answered yet");
        made_up.found(places[0]);
        let again = made_up.admits(KIND, old.expose(), &key, 9);
        assert!(again.is_some() && made_up.admits(KIND, old.expose(), &key, 9).is_none());
        let next = made_up.admits(KIND, old.expose(), &key, 10).unwrap();
        made_up.found(places[1]);
        made_up.found(next);
        assert_eq!(parted(made_up.0.load(Ordering::Relaxed)), (10, 0), "a place of the second before is none of this one's");
        made_up.found(next);
        assert_eq!(parted(made_up.0.load(Ordering::Relaxed)), (10, 0));
    }

    #[test]
    fn late_ones_begin_no_second_anew_and_a_clock_that_was_set_back_does() {
        let (key, made_up, old) = (key(), MadeUp::default(), unmarked());
        let admitted = (0..3 * MOST).filter(|n| made_up.admits(KIND, old.expose(), &key, 10 - i64::from(n % 3 == 1)).is_some()).count();
        assert_eq!(admitted as u64, MOST);
        let late = made_up.admits(KIND, old.expose(), &key, 8);
        assert!(late.is_none() && made_up.admits(KIND, old.expose(), &key, 10).is_none());
        assert!(made_up.admits(KIND, old.expose(), &key, 7).is_some());
    }
}
