//! Secrets at rest: envelope encryption with AES-256-GCM. Each secret has a key of its own, which is sealed under the key-encryption key.
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{Entropy, secret::MacKey};

const VERSION: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
const KEY: usize = 32;
const WRAPPED: usize = NONCE + KEY + TAG;

/// What was sealed cannot be opened: another key-encryption key, another place, or changed octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened with this key-encryption key")]
pub struct Unsealed;

/// The key-encryption key.
#[derive(Clone)]
pub struct Kek(Zeroizing<[u8; 32]>);

impl Kek {
    /// The key of those octets.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Seals `plain` for the place named by `aad`: `version ‖ nonce ‖ sealed data key ‖ nonce ‖ sealed data`.
    #[must_use]
    pub fn seal(&self, aad: &str, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let mut data_key = Zeroizing::new([0; KEY]);
        entropy.fill(data_key.as_mut_slice());
        let mut out = Vec::with_capacity(1 + WRAPPED + NONCE + plain.len() + TAG);
        out.push(VERSION);
        append(&mut out, &self.0, &format!("dek:{aad}"), data_key.as_slice(), entropy);
        append(&mut out, &data_key, aad, plain, entropy);
        out
    }

    /// The key of MACs for a purpose of its own.
    #[must_use]
    pub fn mac_key(&self, purpose: &str) -> MacKey {
        MacKey::new(MacKey::new(*self.0).mac("derived", purpose.as_bytes()))
    }

    /// Opens what [`Kek::seal`] made for the same place.
    ///
    /// # Errors
    /// [`Unsealed`], with no reason why.
    pub fn open(&self, aad: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
        let (&version, rest) = sealed.split_first().ok_or(Unsealed)?;
        if version != VERSION {
            return Err(Unsealed);
        }
        let (wrapped, data) = rest.split_at_checked(WRAPPED).ok_or(Unsealed)?;
        let data_key = open(&self.0, &format!("dek:{aad}"), wrapped)?;
        let data_key = Zeroizing::new(<[u8; KEY]>::try_from(data_key.as_slice()).map_err(|_| Unsealed)?);
        open(&data_key, aad, data)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(…)")
    }
}

#[expect(clippy::expect_used, reason = "AES-256-GCM takes every 32-octet key")]
fn cipher(key: &[u8; KEY]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a 32-octet key"))
}

#[expect(clippy::expect_used, reason = "sealing fails only beyond 64 GiB")]
fn append(out: &mut Vec<u8>, key: &[u8; KEY], aad: &str, plain: &[u8], entropy: &dyn Entropy) {
    let mut nonce = [0; NONCE];
    entropy.fill(&mut nonce);
    let mut data = Zeroizing::new(plain.to_vec());
    let tag = cipher(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad.as_bytes()), data.as_mut_slice())
        .expect("short enough to seal");
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&data);
    out.extend_from_slice(tag.as_ref());
}

fn open(key: &[u8; KEY], aad: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
    let (nonce, data) = sealed.split_at_checked(NONCE).ok_or(Unsealed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealed)?;
    let mut data = Zeroizing::new(data.to_vec());
    let length = cipher(key).open_in_place(nonce, Aad::from(aad.as_bytes()), data.as_mut_slice()).map_err(|_| Unsealed)?.len();
    data.truncate(length);
    Ok(data)
}

/// What another party carries for us, readable and alterable by nobody else: `version ‖ id ‖ sealed data`. Each has a key of its own, made of the
/// server's key, the domain and the id, so that no number of them wears a key out; `id` is never used twice in a domain.
#[must_use]
#[expect(clippy::expect_used, reason = "sealing fails only beyond 64 GiB")]
pub fn carry(key: &MacKey, domain: &str, id: [u8; 16], plain: &[u8]) -> Vec<u8> {
    let own = Zeroizing::new(key.mac(domain, &id));
    let mut out = Vec::with_capacity(1 + id.len() + plain.len() + TAG);
    out.push(VERSION);
    out.extend_from_slice(&id);
    let head = out.len();
    out.extend_from_slice(plain);
    let (_, data) = out.split_at_mut(head);
    let tag = cipher(&own)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; NONCE]), Aad::from(&[VERSION]), data)
        .expect("short enough to seal");
    out.extend_from_slice(tag.as_ref());
    out
}

/// Opens what [`carry`] made under the same key for the same domain: its id and what was sealed.
///
/// # Errors
/// [`Unsealed`], with no reason why.
pub fn carried(key: &MacKey, domain: &str, octets: Vec<u8>) -> Result<([u8; 16], Zeroizing<Vec<u8>>), Unsealed> {
    let mut octets = Zeroizing::new(octets);
    let (&version, rest) = octets.split_first().ok_or(Unsealed)?;
    let id = rest.first_chunk::<16>().copied().filter(|_| version == VERSION).ok_or(Unsealed)?;
    octets.drain(..1 + id.len());
    let own = Zeroizing::new(key.mac(domain, &id));
    let nonce = Nonce::assume_unique_for_key([0; NONCE]);
    let length = cipher(&own).open_in_place(nonce, Aad::from(&[VERSION]), octets.as_mut_slice()).map_err(|_| Unsealed)?.len();
    octets.truncate(length);
    Ok((id, octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    #[test]
    fn what_is_carried_opens_under_its_key_and_domain_only_and_with_every_octet_as_it_was() {
        let key = MacKey::new([1; 32]);
        let sealed = carry(&key, "a", [7; 16], b"waiting");
        let (id, plain) = carried(&key, "a", sealed.clone()).expect("opens");
        assert_eq!((id, plain.as_slice()), ([7; 16], b"waiting".as_slice()));
        assert!(!sealed.windows(7).any(|part| part == b"waiting"));
        assert_eq!(carried(&key, "b", sealed.clone()), Err(Unsealed));
        assert_eq!(carried(&MacKey::new([2; 32]), "a", sealed.clone()), Err(Unsealed));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(carried(&key, "a", bent), Err(Unsealed), "octet {at}");
            assert_eq!(carried(&key, "a", sealed[..at].to_vec()), Err(Unsealed), "length {at}");
        }
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_in_the_same_place_only() {
        let kek = Kek::new([1; 32]);
        let sealed = kek.seal("key:a", b"private", &Counting::default());
        assert_eq!(kek.open("key:a", &sealed).expect("opens").as_slice(), b"private");
        assert_eq!(kek.open("key:b", &sealed), Err(Unsealed));
        assert_eq!(Kek::new([2; 32]).open("key:a", &sealed), Err(Unsealed));
    }

    #[test]
    fn any_changed_or_missing_octet_is_noticed() {
        let kek = Kek::new([1; 32]);
        let sealed = kek.seal("p", b"private", &Counting::default());
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(kek.open("p", &bent), Err(Unsealed), "octet {at}");
            assert_eq!(kek.open("p", &sealed[..at]), Err(Unsealed), "length {at}");
        }
    }
}
