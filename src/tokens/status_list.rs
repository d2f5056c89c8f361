//! Status lists (Token Status List §4, §5): one bit a token, compressed; and which bit the next token gets.
use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{Entropy, b64, id};

/// The type of a signed list.
pub const TYP: &str = "statuslist+jwt";
/// Tokens a list has room for: enough that one of them hides among the others, few enough to read at once.
pub const SIZE: u32 = 1 << 16;

/// Where a token's status is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The list's id.
    pub list: [u8; 16],
    /// The token's bit.
    pub index: u32,
}

impl Slot {
    /// The key of its row: rows of one list lie together.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        [&self.list[..], &self.index.to_be_bytes()].concat()
    }

    /// The slot of a row's key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let (list, index) = key.split_first_chunk::<16>()?;
        Some(Self { list: *list, index: u32::from_be_bytes(index.try_into().ok()?) })
    }
}

/// Gives out slots. Each process fills lists of its own, with ids nobody else can come upon, so nothing has to be asked; within a list the
/// order is a shuffled one, so that an index does not tell when its token was issued (Token Status List §12.3).
#[derive(Debug, Default)]
pub struct Slots(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    list: [u8; 16],
    left: Vec<u16>,
}

impl Slots {
    /// A slot nobody had and nobody will have.
    #[must_use]
    pub fn take(&self, now_ms: i64, entropy: &dyn Entropy) -> Slot {
        let mut open = self.0.lock();
        if open.left.is_empty() {
            *open = Open { list: id::new_id(now_ms, entropy), left: shuffled(entropy) };
        }
        let index = open.left.pop().map_or(0, u32::from);
        Slot { list: open.list, index }
    }
}

/// Every index once, in an order that only the entropy knows (Fisher and Yates).
fn shuffled(entropy: &dyn Entropy) -> Vec<u16> {
    let mut order: Vec<u16> = (0..=u16::MAX).collect();
    let mut random = vec![0; order.len() * 4];
    entropy.fill(&mut random);
    let (draws, _) = random.as_chunks::<4>();
    for (last, draw) in draws.iter().enumerate().skip(1) {
        let with = u32::from_le_bytes(*draw) as usize % (last + 1);
        order.swap(last, with);
    }
    order
}

/// The bits of one list.
#[derive(Debug, Clone)]
pub struct Bits(Vec<u8>);

impl Default for Bits {
    fn default() -> Self {
        Self(vec![0; SIZE as usize / 8])
    }
}

impl Bits {
    /// Marks a token as invalid (§7.1: `0x01`). The lowest bit of an octet comes first (§4.1).
    pub fn set(&mut self, index: u32) {
        if let Some(octet) = self.0.get_mut(index as usize / 8) {
            *octet |= 1 << (index % 8);
        }
    }

    /// `lst`: the bits compressed with zlib, base64url (§4.2).
    ///
    /// # Errors
    /// When memory cannot be written to.
    pub fn lst(&self) -> std::io::Result<String> {
        let mut zlib = ZlibEncoder::new(Vec::with_capacity(256), Compression::best());
        zlib.write_all(&self.0)?;
        Ok(b64::encode(&zlib.finish()?))
    }
}

/// The claims of a signed list (§5.1).
#[derive(Debug, Serialize)]
pub struct ListClaims<'a> {
    /// The list's own address.
    pub sub: &'a str,
    pub iss: &'a str,
    /// Seconds since the epoch.
    pub iat: i64,
    /// Seconds since the epoch.
    pub exp: i64,
    /// Seconds it may be kept.
    pub ttl: i64,
    pub status_list: List<'a>,
}

/// The list itself (§4.2).
#[derive(Debug, Serialize)]
pub struct List<'a> {
    pub bits: u8,
    pub lst: &'a str,
}

/// The `status` claim of a token (§6.1).
#[must_use]
pub fn claim(slot: &Slot, uri: &str) -> serde_json::Value {
    serde_json::json!({ "status_list": { "idx": slot.index, "uri": uri } })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Read as _};

    use super::*;
    use crate::testing::Counting;

    fn unpacked(lst: &str) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::ZlibDecoder::new(&b64::decode(lst).expect("base64url")[..]).read_to_end(&mut out).expect("zlib");
        out
    }

    #[test]
    fn the_one_bit_example_of_the_specification() {
        let mut bits = Bits(vec![0; 2]);
        for index in [0, 3, 4, 5, 7, 8, 9, 13, 15] {
            bits.set(index);
        }
        assert_eq!(bits.0, [0xb9, 0xa3]);
        // What another encoder made of the same two octets (§4.2) reads back the same.
        assert_eq!(unpacked("eNrbuRgAAhcBXQ"), [0xb9, 0xa3]);
        assert_eq!(unpacked(&bits.lst().expect("memory")), [0xb9, 0xa3]);
    }

    #[test]
    fn a_bit_beyond_the_list_is_nobodys() {
        let mut bits = Bits::default();
        bits.set(SIZE);
        bits.set(u32::MAX);
        assert!(unpacked(&bits.lst().expect("memory")).iter().all(|octet| *octet == 0));
        bits.set(SIZE - 1);
        assert_eq!(unpacked(&bits.lst().expect("memory")).last(), Some(&0x80));
    }

    #[test]
    fn every_slot_is_given_once_in_no_order_and_then_a_new_list_begins() {
        let (slots, entropy) = (Slots::default(), Counting::default());
        let taken: Vec<Slot> = (0..SIZE).map(|_| slots.take(1, &entropy)).collect();
        assert!(taken.iter().all(|slot| slot.list == taken[0].list && slot.index < SIZE));
        assert_eq!(taken.iter().map(|slot| slot.index).collect::<HashSet<_>>().len(), SIZE as usize);
        assert!(taken.windows(2).filter(|pair| pair[0].index + 1 == pair[1].index).count() < 1000, "the order tells nothing");
        assert_ne!(slots.take(1, &entropy).list, taken[0].list);
        assert_eq!(Slot::of_key(&taken[5].key()), Some(taken[5]));
        assert_eq!(Slot::of_key(b"short"), None);
    }
}
