//! What a token is and how one is believed.
//!
//! Read in this order: [`secret`] (opaque tokens and keyed MACs), [`sign`] and [`jwk`] (keys, parsed once and kept),
//! [`jws`] (the strict reading of a signed token), [`access`] (what makes an access token believable), [`keyring`]
//! (the life of signing keys) and [`seal`] (secrets at rest).
pub mod access;
pub mod acr;
pub mod alg;
pub mod b64;
pub mod certificate;
pub mod clock;
pub mod confirmation;
pub mod device;
pub mod dpop;
pub mod duration;
pub mod hash;
pub mod id;
pub mod jwk;
pub mod jws;
pub mod keyring;
pub mod made_up;
pub mod pki;
pub mod refusal;
pub mod seal;
pub mod secret;
pub mod sign;
pub mod status_list;
pub mod strict;
pub mod witness;

pub use alg::Alg;
pub use clock::{Clock, Entropy};
pub use confirmation::Confirmation;
pub use refusal::{Refusal, Verified};

#[cfg(test)]
pub(crate) mod testing {
    //! Randomness that counts, so that tests are the same every time.
    use std::sync::atomic::{AtomicU8, Ordering};

    use crate::Entropy;

    #[derive(Default)]
    pub(crate) struct Counting(AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, out: &mut [u8]) {
            for octet in out {
                *octet = self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
