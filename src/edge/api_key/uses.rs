//! When keys were last used: remembered in memory, handed over now and then, at most once a minute a key. Losing some is no harm.
use ahash::AHashMap;
use parking_lot::Mutex;

/// Seconds between two writings of one key.
const EVERY_S: i64 = 60;
/// Keys remembered at once; what comes beyond is not noted until others were handed over.
const MOST: usize = 16_384;

#[derive(Debug, Clone, Copy)]
struct Use {
    /// The version of the key's object.
    version: i64,
    at: i64,
    /// When it was last handed over.
    told: i64,
}

/// The last uses of keys, by id.
#[derive(Debug, Default)]
pub struct Uses(Mutex<AHashMap<String, Use>>);

impl Uses {
    /// Notes a use, seconds since the epoch.
    pub fn note(&self, id: &str, version: i64, at: i64) {
        let mut all = self.0.lock();
        if let Some(known) = all.get_mut(id) {
            (known.version, known.at) = (version, at.max(known.at));
        } else if all.len() < MOST {
            all.insert(id.to_owned(), Use { version, at, told: i64::MIN / 2 });
        }
    }

    /// What is to be written now: id, version and time. Keys that were not used since are forgotten a while after.
    pub fn due(&self, now: i64) -> Vec<(String, i64, i64)> {
        let mut out = Vec::new();
        self.0.lock().retain(|id, known| {
            if known.at > known.told && now - known.told >= EVERY_S {
                out.push((id.clone(), known.version, known.at));
                known.told = now;
            }
            now - known.at < 2 * EVERY_S
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_at_most_once_a_minute_and_then_forgotten() {
        let uses = Uses::default();
        uses.note("k", 1, 100);
        uses.note("k", 2, 101);
        assert_eq!(uses.due(102), [("k".to_owned(), 2, 101)]);
        uses.note("k", 2, 103);
        assert!(uses.due(110).is_empty());
        assert_eq!(uses.due(162), [("k".to_owned(), 2, 103)]);
        assert!(uses.due(300).is_empty() && uses.0.lock().is_empty());
    }

    #[test]
    fn the_memory_is_bounded() {
        let uses = Uses::default();
        (0..MOST + 10).for_each(|n| uses.note(&n.to_string(), 1, 1));
        assert_eq!(uses.0.lock().len(), MOST);
    }
}
