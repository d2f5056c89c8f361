//! Ids: 16 octets, the first six a big-endian millisecond clock so that rows of one time lie together, the rest random.
use zeroize::Zeroizing;

use crate::{Entropy, b64};

/// A new id: sorts by time, 80 random bits, cannot be guessed from another.
#[must_use]
pub fn new_id(now_ms: i64, entropy: &dyn Entropy) -> [u8; 16] {
    let mut id = [0; 16];
    let [_, _, clock @ ..] = now_ms.to_be_bytes();
    let (head, tail) = id.split_at_mut(6);
    head.copy_from_slice(&clock);
    entropy.fill(tail);
    id
}

/// The 22 characters of an id.
#[must_use]
pub fn text(id: &[u8; 16]) -> String {
    b64::encode(id)
}

/// The id of those 22 characters.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 16]> {
    (text.len() == 22).then(|| b64::decode_array(text)).flatten()
}

/// A new id as text.
#[must_use]
pub fn new_text(now_ms: i64, entropy: &dyn Entropy) -> String {
    text(&new_id(now_ms, entropy))
}

/// `bytes` random octets as base64url text.
#[must_use]
pub fn random_text(entropy: &dyn Entropy, bytes: usize) -> String {
    let mut random = Zeroizing::new(vec![0; bytes]);
    entropy.fill(&mut random);
    b64::encode(&random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    #[test]
    fn ids_sort_by_time_and_read_back() {
        let entropy = Counting::default();
        let (a, b) = (new_id(1_700_000_000_000, &entropy), new_id(1_700_000_000_001, &entropy));
        assert!(a < b);
        assert_eq!(parse(&text(&a)), Some(a));
        assert_eq!(text(&a).len(), 22);
        assert_eq!(parse("short"), None);
    }
}
