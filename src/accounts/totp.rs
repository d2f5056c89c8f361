//! Time-based one-time passwords: the second factor (RFC 6238, RFC 4226).
//!
//! SHA-1, six digits, thirty seconds: what every authenticator understands. A code counts in its own step and in the one before and after
//! it; whoever accepts one burns its step in the same transaction, see [`burn`].
use aws_lc_rs::hmac;
use ledger::{Artefact, ArtefactKind, Step};
use tokens::{
    Entropy, hash,
    seal::Kek,
    secret::{MacKey, Plain},
};

/// The slot of the sealed secret among an account's secrets.
pub const SLOT: &str = "totp";
/// Seconds of a step.
pub const PERIOD: i64 = 30;
/// Steps a code may be early or late.
pub const WINDOW: i64 = 1;
const DIGITS: usize = 6;
const OCTETS: usize = 20;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Domain of the key that seals secrets.
const SEALED: &str = "totp_seal";

/// A person's shared secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(zeroize::Zeroizing<Vec<u8>>);

impl Secret {
    /// A new one.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut octets = zeroize::Zeroizing::new(vec![0; OCTETS]);
        entropy.fill(&mut octets);
        Self(octets)
    }

    /// As people type it (RFC 4648 §6, without padding).
    #[must_use]
    pub fn base32(&self) -> Plain {
        let mut text = String::with_capacity(OCTETS * 8 / 5);
        let (mut bits, mut held) = (0u32, 0u32);
        for octet in self.0.iter() {
            bits = (bits << 8) | u32::from(*octet);
            held += 8;
            while held >= 5 {
                held -= 5;
                let index = (bits >> held) & 31;
                text.extend(ALPHABET.get(index as usize).map(|b| char::from(*b)));
            }
        }
        if held > 0 {
            text.extend(ALPHABET.get(((bits << (5 - held)) & 31) as usize).map(|b| char::from(*b)));
        }
        Plain::from(text)
    }

    /// What an authenticator scans (Key Uri Format).
    #[must_use]
    pub fn uri(&self, issuer: &str, username: &str) -> Plain {
        let host = issuer.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(issuer);
        let (host, name) = (encoded(host), encoded(username));
        let secret = self.base32();
        Plain::from(format!(
            "otpauth://totp/{host}:{name}?secret={}&issuer={host}&algorithm=SHA1&digits={DIGITS}&period={PERIOD}",
            secret.expose()
        ))
    }

    /// The code of a step (RFC 4226 §5.3).
    #[must_use]
    pub fn code(&self, step: i64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let at = usize::from(tag.last().copied().unwrap_or_default() & 15);
        let number = tag.iter().skip(at).take(4).fold(0u32, |number, octet| (number << 8) | u32::from(*octet)) & 0x7fff_ffff;
        format!("{:0width$}", number % 1_000_000, width = DIGITS)
    }

    /// The step whose code this is, now or one step away; every step is looked at, whichever it is. Blanks between the digits do not
    /// count.
    #[must_use]
    pub fn step_of(&self, code: &str, now: i64) -> Option<i64> {
        let digits: String = code.chars().filter(|c| !c.is_ascii_whitespace()).take(DIGITS + 1).collect();
        let present = now.div_euclid(PERIOD);
        let mut found = None;
        for step in present - WINDOW..=present + WINDOW {
            if hash::eq(self.code(step).as_bytes(), digits.as_bytes()) {
                found = Some(step);
            }
        }
        found
    }

    /// Sealed for the database: whoever reads only that cannot make codes.
    #[must_use]
    pub fn seal(&self, account: &str, mac: &MacKey, entropy: &dyn Entropy) -> Vec<u8> {
        kek(mac).seal(&place(account), &self.0, entropy)
    }

    /// Opens what [`Secret::seal`] made for the same account.
    #[must_use]
    pub fn open(sealed: &[u8], account: &str, mac: &MacKey) -> Option<Self> {
        kek(mac).open(&place(account), sealed).ok().map(Self)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

fn kek(mac: &MacKey) -> Kek {
    Kek::new(mac.mac(SEALED, b""))
}

fn place(account: &str) -> String {
    format!("totp:{account}")
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, octet| {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
        out
    })
}

/// Guard: the code of that step of that secret has not been used by this account; of two that come at once one is refused (RFC 6238
/// §5.2). A new secret begins with none used.
#[must_use]
pub fn burn(account: &str, secret: &Secret, step: i64, now: i64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: hash::sha256(&[format!("totp\0{account}\0{step}\0").as_bytes(), secret.0.as_slice()].concat()).to_vec(),
        mac: Vec::new(),
        grant: None,
        document: String::from("{}"),
        created_at: now,
        // Longer than the code could count on a node whose clock is behind.
        expires_at: now + PERIOD * (2 * WINDOW + 2) + 60,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn rfc() -> Secret {
        Secret(zeroize::Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    #[test]
    fn codes_of_rfc_6238_appendix_b() {
        for (at, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(rfc().code(at / PERIOD), code, "{at}");
        }
        assert_eq!(rfc().base32().expose(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }

    #[test]
    fn a_code_counts_one_step_early_or_late_and_no_more() {
        let (secret, now) = (rfc(), 1_111_111_111);
        let present = now / PERIOD;
        for (step, counts) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            assert_eq!(secret.step_of(&secret.code(present + step), now), counts.then_some(present + step));
        }
        assert_eq!(secret.step_of("050 471", now), Some(present));
        for bad in ["", "0504711", "05047", "abcdef", "٠٥٠٤٧١", &"0".repeat(100_000)] {
            assert_eq!(secret.step_of(bad, now), None);
        }
    }

    #[test]
    fn a_sealed_secret_opens_for_its_account_only() {
        let (secret, mac) = (Secret::generate(&Fixed), MacKey::new([1; 32]));
        let sealed = secret.seal("alice", &mac, &Fixed);
        assert_eq!(Secret::open(&sealed, "alice", &mac), Some(secret.clone()));
        assert_eq!(Secret::open(&sealed, "bob", &mac), None);
        assert_eq!(Secret::open(&sealed, "alice", &MacKey::new([2; 32])), None);
        assert_eq!(format!("{secret:?}"), "…");
    }

    #[test]
    fn the_uri_says_what_an_authenticator_needs() {
        let uri = rfc().uri("https://id.example.com/tenant", "alice b@c");
        assert_eq!(
            uri.expose(),
            "otpauth://totp/id.example.com:alice%20b%40c?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=id.example.com&algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn a_step_is_burnt_once_an_account() {
        let id = |step: &Step| if let Step::Put(row) = step { row.id.clone() } else { Vec::new() };
        let burnt = |account: &str, step, now| id(&burn(account, &rfc(), step, now));
        assert_eq!(burnt("a", 5, 0), burnt("a", 5, 9));
        assert_ne!(burnt("a", 5, 0), burnt("b", 5, 0));
        assert_ne!(burnt("a", 5, 0), burnt("a", 6, 0));
        let enrolled_anew = Secret::generate(&Fixed);
        assert_ne!(burnt("a", 5, 0), id(&burn("a", &enrolled_anew, 5, 0)), "what was used of the old secret says nothing of the new one");
    }
}
