//! Revocation lists and OCSP answers (RFC 5280 §5, RFC 6960): any octets are read or refused; nothing but what the authority signed is believed.
#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokens::pki::{Signer, crl::Crl, ocsp::About};

const CA: &[u8] = include_bytes!("../seeds/pki/ca.der");
const LEAF: &[u8] = include_bytes!("../seeds/pki/leaf.der");
const LIST: &[u8] = include_bytes!("../seeds/pki/list.crl");
const ANSWER: &[u8] = include_bytes!("../seeds/pki/good.ocsp");
const NOW: i64 = 1_800_000_000;

static PARTIES: LazyLock<(Signer, Signer)> =
    LazyLock::new(|| (Signer::read(CA).expect("a certificate"), Signer::read(LEAF).expect("a certificate")));

/// Where the authority's key is in its certificate.
const KEY: std::ops::Range<usize> = 0x87..0xc8;

fuzz_target!(|data: &[u8]| {
    let (ca, leaf) = &*PARTIES;
    if let Ok(list) = Crl::read(data) {
        assert!(!list.is_of(ca) || data == LIST);
        let _ = (list.names(ca), list.revokes(leaf.serial()), list.len(), list.this_update(), list.next_update());
    }
    if About::new(leaf, ca).believe(data, b"", NOW).is_ok() {
        // Certificates that come with an answer are not signed over; what is said is.
        assert!(data.len() >= 64 && ANSWER.windows(64).any(|part| data.windows(64).any(|other| other == part)));
    }
    if let Some(signer) = Signer::read(data) {
        let _ = About::new(&signer, ca).question(b"nonce");
        // An authority is its name and its key; what else its certificate says does not sign.
        let same = signer.name() == ca.name() && data.windows(KEY.len()).any(|part| part == &CA[KEY]);
        assert!(About::new(leaf, &signer).believe(ANSWER, b"", NOW).is_err() || same);
    }
});
