//! References that nobody issued. The checksum of their form has no key; what tells itself under one ([`secret::is_link`]) does not have
//! to be looked up to be believed as issued, and of everything else only so many look-ups a second may find nothing.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::secret::{self, MacKey, SecretKind};

/// Look-ups a second that may find nothing, of one process.
const MOST: u64 = 200;
/// Bits of the number of misses, below the second they are of.
const BITS: u32 = 24;

/// Counts look-ups that found nothing, second by second.
#[derive(Debug, Default)]
pub struct MadeUp(AtomicU64);

impl MadeUp {
    /// Whether a reference may be looked up at `now` (seconds): always if it was issued here and says so itself. Those of earlier versions
    /// do not; they share what misses leave.
    #[must_use]
    pub fn admits(&self, kind: SecretKind, text: &str, key: &MacKey, now: i64) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        seen >> BITS != second(now) || seen & ((1 << BITS) - 1) < MOST || secret::is_link(kind, text, key)
    }

    /// Notes that nothing was found for one.
    pub fn missed(&self, kind: SecretKind, text: &str, key: &MacKey, now: i64) {
        if secret::is_link(kind, text, key) {
            return;
        }
        let second = second(now);
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| match (seen >> BITS == second, seen & ((1 << BITS) - 1)) {
                (true, MOST..) => None,
                (true, _) => Some(seen + 1),
                (false, _) => Some(second << BITS | 1),
            });
    }
}

fn second(now: i64) -> u64 {
    u64::try_from(now).unwrap_or(0) & ((1 << (64 - BITS)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    #[test]
    fn what_nobody_issued_is_looked_up_so_often_and_what_says_that_it_was_issued_always() {
        let (key, kind, made_up) = (MacKey::new([7; 32]), SecretKind::Access, MadeUp::default());
        let issued = secret::generate_link(kind, 5, &Counting::default(), &key);
        let old = secret::generate(kind, 5, &Counting::default(), &key);
        let (issued, old) = (issued.plain.expose(), old.plain.expose());
        for _ in 0..MOST {
            assert!(made_up.admits(kind, old, &key, 9));
            made_up.missed(kind, old, &key, 9);
            made_up.missed(kind, issued, &key, 9);
        }
        assert!(!made_up.admits(kind, old, &key, 9));
        made_up.missed(kind, old, &key, 9);
        assert!(made_up.admits(kind, issued, &key, 9) && made_up.admits(kind, old, &key, 10));
        assert!(!made_up.admits(kind, issued, &MacKey::new([8; 32]), 9), "under another key it is anybody's");
    }
}
