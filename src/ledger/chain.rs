//! The hash chain: each event's hash covers the one before it, its place, time, kind and text.
use aws_lc_rs::digest::{Context, SHA256};

use crate::event::Event;

/// The chain value before the first event.
pub const GENESIS: [u8; 32] = [0; 32];

/// The chain value after an event.
#[must_use]
pub fn link(previous: &[u8; 32], seq: u64, at_ms: i64, kind: &str, document: &str) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(previous);
    hash.update(&seq.to_be_bytes());
    hash.update(&at_ms.to_be_bytes());
    hash.update(&(kind.len() as u64).to_be_bytes());
    hash.update(kind.as_bytes());
    hash.update(document.as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// What is wrong with a stored ledger, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is missing: the row was removed.
    #[error("row {expected} is missing (found {found} in its place)")]
    Missing { expected: u64, found: u64 },
    /// A number comes twice or backwards: rows were reordered.
    #[error("row {found} is out of order (expected {expected})")]
    OutOfOrder { expected: u64, found: u64 },
    /// The hash does not cover the row's content: it was changed (or moved here from elsewhere).
    #[error("row {seq} was changed: its hash does not match its content and predecessor")]
    Changed { seq: u64 },
    /// The last rows were removed: the chain's recorded head is further.
    #[error("rows {first}..={last} at the end are missing")]
    Truncated { first: u64, last: u64 },
    /// The last row is not the one the head records.
    #[error("the recorded head does not match row {seq}")]
    HeadMismatch { seq: u64 },
}

/// Walks a ledger in order and checks every link. Feed it rows ascending, then [`Verifier::finish`].
#[derive(Debug, Clone)]
pub struct Verifier {
    next: u64,
    last: [u8; 32],
}

impl Verifier {
    /// Starts after `seq` whose chain value is `hash` (0 and [`GENESIS`] for the whole ledger).
    #[must_use]
    pub const fn after(seq: u64, hash: [u8; 32]) -> Self {
        Self { next: seq + 1, last: hash }
    }

    /// Checks the next row.
    ///
    /// # Errors
    /// Names the row that is missing, out of order or changed.
    pub fn row(&mut self, event: &Event) -> Result<(), Broken> {
        if event.seq > self.next {
            return Err(Broken::Missing { expected: self.next, found: event.seq });
        }
        if event.seq < self.next {
            return Err(Broken::OutOfOrder { expected: self.next, found: event.seq });
        }
        if link(&self.last, event.seq, event.at_ms, &event.kind, &event.document) != event.hash {
            return Err(Broken::Changed { seq: event.seq });
        }
        self.last = event.hash;
        self.next += 1;
        Ok(())
    }

    /// Checks that the last row is the recorded head; returns how many rows the chain counts.
    ///
    /// # Errors
    /// [`Broken::Truncated`] when rows at the end are gone, [`Broken::HeadMismatch`] otherwise.
    pub fn finish(self, head_seq: u64, head_hash: &[u8; 32]) -> Result<u64, Broken> {
        let seen = self.next - 1;
        if seen < head_seq {
            return Err(Broken::Truncated { first: self.next, last: head_seq });
        }
        if seen != head_seq || &self.last != head_hash {
            return Err(Broken::HeadMismatch { seq: seen });
        }
        Ok(seen)
    }
}

/// Lower-case hexadecimal for chain values in exports.
pub mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// The 64 hexadecimal digits of a chain value.
    #[must_use]
    pub fn encode(hash: &[u8; 32]) -> String {
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    pub(crate) fn serialize<S: Serializer>(hash: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&encode(hash))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(input)?;
        let mut out = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("64 hexadecimal digits expected"));
        }
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Event> {
        let mut last = GENESIS;
        (1..=3)
            .map(|seq| {
                let (at_ms, kind, document) =
                    (1_000 + i64::try_from(seq).unwrap_or(0), "login.failed".to_owned(), format!("{{\"n\":{seq}}}"));
                last = link(&last, seq, at_ms, &kind, &document);
                Event { seq, at_ms, kind, document, hash: last }
            })
            .collect()
    }

    fn verify(rows: &[Event], head: &Event) -> Result<u64, Broken> {
        let mut v = Verifier::after(0, GENESIS);
        for row in rows {
            v.row(row)?;
        }
        v.finish(head.seq, &head.hash)
    }

    #[test]
    fn an_untouched_chain_verifies() {
        let rows = three();
        assert_eq!(verify(&rows, &rows[2]), Ok(3));
    }

    #[test]
    fn a_changed_row_is_named() {
        let rows = three();
        let mut bent = rows.clone();
        bent[1].document = "{\"n\":9}".into();
        assert_eq!(verify(&bent, &rows[2]), Err(Broken::Changed { seq: 2 }));
    }

    #[test]
    fn removed_and_reordered_and_truncated_rows_are_named() {
        let rows = three();
        assert_eq!(verify(&[rows[0].clone(), rows[2].clone()], &rows[2]), Err(Broken::Missing { expected: 2, found: 3 }));
        let mut swapped = rows.clone();
        swapped.swap(0, 1);
        assert_eq!(verify(&swapped, &rows[2]), Err(Broken::Missing { expected: 1, found: 2 }));
        assert_eq!(verify(&rows[..2], &rows[2]), Err(Broken::Truncated { first: 3, last: 3 }));
    }
}
