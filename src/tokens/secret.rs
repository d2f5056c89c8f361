//! Generated secrets and opaque tokens: a prefix, 16 octets of id, 32 of secret, a checksum; stored as id and keyed MAC only.
use std::fmt;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::{Entropy, b64, hash, id};

/// A secret in the clear. Prints nothing, is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain(Zeroizing<String>);

impl Plain {
    /// Takes a text into custody.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
    /// The text. Only for the one answer that shows it, and for computing its MAC or hash.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<String> for Plain {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// The server's key for MACs of secrets (HMAC-SHA-256, RFC 2104), separated by domain.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl MacKey {
    /// The key of those octets.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    /// The MAC of `data` in `domain`. The domain's length goes first: no two (domain, data) pairs are the same message.
    #[must_use]
    pub fn mac(&self, domain: &str, data: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(domain.len() as u64).to_be_bytes());
        context.update(domain.as_bytes());
        context.update(data);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// Whether `mac` is the MAC of `data` in `domain`; constant time.
    #[must_use]
    pub fn verify(&self, domain: &str, data: &[u8], mac: &[u8]) -> bool {
        hash::eq(&self.mac(domain, data), mac)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// What a secret is for: its prefix (found by secret scanners) and the domain of its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// An opaque access token.
    Access,
    /// A refresh token.
    Refresh,
    /// An authorization code.
    Code,
    /// A client secret.
    ClientSecret,
    /// An API key.
    ApiKey,
    /// A page's form.
    Form,
    /// A waiting authorization request.
    Interaction,
    /// A browser's cookie.
    Browser,
    /// A pushed authorization request.
    Pushed,
    /// A registration access token (RFC 7592).
    Registration,
    /// A device code (RFC 8628).
    Device,
    /// An `auth_req_id` (CIBA).
    Backchannel,
    /// A login begun by a gateway: its `state`.
    Login,
    /// A browser's session at a gateway.
    Session,
}

impl SecretKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Access,
        Self::Refresh,
        Self::Code,
        Self::ClientSecret,
        Self::ApiKey,
        Self::Form,
        Self::Interaction,
        Self::Browser,
        Self::Pushed,
        Self::Registration,
        Self::Device,
        Self::Backchannel,
        Self::Login,
        Self::Session,
    ];

    /// The prefix of its text.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Access => "dwa_",
            Self::Refresh => "dwr_",
            Self::Code => "dwc_",
            Self::ClientSecret => "dws_",
            Self::ApiKey => "dwk_",
            Self::Form => "dwf_",
            Self::Interaction => "dwi_",
            Self::Browser => "dwb_",
            Self::Pushed => "dwp_",
            Self::Registration => "dwg_",
            Self::Device => "dwd_",
            Self::Backchannel => "dwq_",
            Self::Login => "dwl_",
            Self::Session => "dwv_",
        }
    }
}

/// What the text of a waiting request that a browser carries begins with.
pub const CARRIED: &str = "dwic_";

/// Whether a text begins like something that is given out here and kept secret: such a text goes into no ledger and no log.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    SecretKind::ALL.iter().map(|kind| kind.prefix()).chain([CARRIED]).any(|prefix| text.starts_with(prefix))
}

/// A new secret: its text for the one who gets it, id and MAC for the store.
#[derive(Debug)]
pub struct Issued {
    /// Shown once.
    pub plain: Plain,
    /// The public part: time-ordered, the row's key.
    pub id: [u8; 16],
    /// What is stored of the rest.
    pub mac: [u8; 32],
}

/// A well-formed secret as presented: look `id` up, compare `mac` with the stored one by [`hash::eq`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// The public part.
    pub id: [u8; 16],
    /// The MAC of what was presented.
    pub mac: [u8; 32],
}

impl Presented {
    /// Whether the stored MAC is that of what was presented; constant time.
    #[must_use]
    pub fn matches(&self, stored: &[u8]) -> bool {
        hash::eq(&self.mac, stored)
    }
}

const ID: usize = 16;
const BODY: usize = ID + 32;
const WHOLE: usize = BODY + 4;
const PREFIX: usize = 4;
/// Characters of every generated secret: prefix and 52 octets in base64url.
pub const TEXT_LEN: usize = PREFIX + (WHOLE * 8).div_ceil(6);

/// Makes a secret with 256 random bits.
#[must_use]
pub fn generate(kind: SecretKind, now_ms: i64, entropy: &dyn Entropy, key: &MacKey) -> Issued {
    let id = id::new_id(now_ms, entropy);
    let mut octets = Zeroizing::new([0; WHOLE]);
    {
        let (body, sum) = octets.split_at_mut(BODY);
        let (head, secret) = body.split_at_mut(ID);
        head.copy_from_slice(&id);
        entropy.fill(secret);
        sum.copy_from_slice(&checksum(kind, body));
    }
    let mut text = String::with_capacity(TEXT_LEN);
    text.push_str(kind.prefix());
    b64::push(octets.as_slice(), &mut text);
    let (body, _) = octets.split_at(BODY);
    Issued { plain: Plain::from(text), id, mac: key.mac(kind.prefix(), body) }
}

/// Makes one of a chain of secrets that share an id: half of its secret is `nonce`, the other half the MAC of id and nonce. That it was given out
/// under that id once is told by itself ([`is_link`]), whatever is stored.
#[must_use]
pub fn link(kind: SecretKind, id: [u8; 16], nonce: [u8; 16], key: &MacKey) -> Issued {
    let mut octets = Zeroizing::new([0; WHOLE]);
    {
        let (body, sum) = octets.split_at_mut(BODY);
        let (head, secret) = body.split_at_mut(ID);
        let (first, second) = secret.split_at_mut(ID);
        head.copy_from_slice(&id);
        first.copy_from_slice(&nonce);
        second.copy_from_slice(&tag(kind, &id, &nonce, key));
        sum.copy_from_slice(&checksum(kind, body));
    }
    let mut text = String::with_capacity(TEXT_LEN);
    text.push_str(kind.prefix());
    b64::push(octets.as_slice(), &mut text);
    let (body, _) = octets.split_at(BODY);
    Issued { plain: Plain::from(text), id, mac: key.mac(kind.prefix(), body) }
}

/// Makes a secret that tells itself to have been issued here ([`is_link`]), without anybody looking: 128 random bits under a key.
#[must_use]
pub fn generate_link(kind: SecretKind, now_ms: i64, entropy: &dyn Entropy, key: &MacKey) -> Issued {
    let mut nonce = [0; 16];
    entropy.fill(&mut nonce);
    link(kind, id::new_id(now_ms, entropy), nonce, key)
}

/// Whether a text is one that [`link`] made, of whatever place in its chain.
#[must_use]
pub fn is_link(kind: SecretKind, text: &str, key: &MacKey) -> bool {
    let Some(octets) = text.strip_prefix(kind.prefix()).and_then(b64::decode_array::<WHOLE>) else { return false };
    let octets = Zeroizing::new(octets);
    let (body, _) = octets.split_at(BODY);
    let (id, secret) = body.split_at(ID);
    let (nonce, shown) = secret.split_at(ID);
    hash::eq(&tag(kind, id, nonce, key), shown)
}

fn tag(kind: SecretKind, id: &[u8], nonce: &[u8], key: &MacKey) -> [u8; 16] {
    let mut both = Zeroizing::new([0; 2 * ID]);
    let (head, tail) = both.split_at_mut(ID);
    head.copy_from_slice(id);
    tail.copy_from_slice(nonce);
    let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key.mac(LINK, &[kind.prefix().as_bytes(), both.as_slice()].concat());
    half
}

/// The domain of what a chain's secrets prove themselves with.
const LINK: &str = "secret-link";

/// Reads a presented secret: prefix, length, canonical base64url and checksum must be right, so that a mistyped or
/// made-up one costs no look-up.
#[must_use]
pub fn parse(kind: SecretKind, text: &str, key: &MacKey) -> Option<Presented> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let octets = Zeroizing::new(b64::decode_array::<WHOLE>(text.strip_prefix(kind.prefix())?)?);
    let (body, sum) = octets.split_at(BODY);
    if checksum(kind, body) != sum {
        return None;
    }
    let id = body.split_at(ID).0.try_into().ok()?;
    Some(Presented { id, mac: key.mac(kind.prefix(), body) })
}

/// Whether a text has the form of a generated secret of that kind: whoever has no key can tell a mistyped or made-up one too.
#[must_use]
pub fn well_formed(kind: SecretKind, text: &str) -> bool {
    let Some(octets) = text.strip_prefix(kind.prefix()).filter(|_| text.len() == TEXT_LEN).and_then(b64::decode_array::<WHOLE>) else {
        return false;
    };
    let octets = Zeroizing::new(octets);
    let (body, sum) = octets.split_at(BODY);
    checksum(kind, body) == sum
}

fn checksum(kind: SecretKind, body: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(kind.prefix().as_bytes());
    crc.update(body);
    crc.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    fn key() -> MacKey {
        MacKey::new([7; 32])
    }

    #[test]
    fn a_generated_secret_reads_back_only_as_its_kind() {
        let issued = generate(SecretKind::Refresh, 5, &Counting::default(), &key());
        let text = issued.plain.expose();
        assert!(text.starts_with("dwr_") && text.len() == TEXT_LEN);
        let read = parse(SecretKind::Refresh, text, &key()).expect("reads back");
        assert_eq!((read.id, read.mac), (issued.id, issued.mac));
        assert_eq!(parse(SecretKind::Access, text, &key()), None);
        assert_eq!(parse(SecretKind::Access, &text.replace("dwr_", "dwa_"), &key()), None);
    }

    #[test]
    fn every_kind_is_known_by_a_prefix_of_its_own() {
        let prefixes: std::collections::HashSet<_> = SecretKind::ALL.iter().map(|kind| kind.prefix()).collect();
        assert_eq!(prefixes.len(), SecretKind::ALL.len());
        assert_eq!(SecretKind::ALL.iter().position(|kind| *kind == SecretKind::Session), Some(SecretKind::Session as usize));
        assert!(prefixes.iter().all(|prefix| prefix.len() == PREFIX && is_ours(&format!("{prefix}x"))));
        assert!(is_ours("dwic_x") && !is_ours("dwx") && !is_ours("a-jti") && !is_ours("eyJhbGciOiJub25lIn0.e30."));
    }

    #[test]
    fn every_single_changed_character_is_caught_by_the_checksum() {
        let issued = generate(SecretKind::Code, 5, &Counting::default(), &key());
        let text = issued.plain.expose();
        assert!(well_formed(SecretKind::Code, text) && !well_formed(SecretKind::ApiKey, text));
        for at in 0..text.len() {
            let mut bent = text.to_owned().into_bytes();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            let bent = std::str::from_utf8(&bent).expect("ascii");
            assert_eq!(parse(SecretKind::Code, bent, &key()), None, "position {at}");
            assert!(!well_formed(SecretKind::Code, bent), "position {at}");
        }
    }

    #[test]
    fn a_link_tells_itself_under_its_key_and_kind_and_nothing_else_does() {
        let made = link(SecretKind::Refresh, [3; 16], [9; 16], &key());
        let text = made.plain.expose();
        let read = parse(SecretKind::Refresh, text, &key()).expect("reads back");
        assert_eq!((read.id, read.mac), (made.id, made.mac));
        assert!(is_link(SecretKind::Refresh, text, &key()));
        assert!(!is_link(SecretKind::Refresh, text, &MacKey::new([8; 32])) && !is_link(SecretKind::Access, text, &key()));
        let other = generate(SecretKind::Refresh, 5, &Counting::default(), &key());
        assert!(!is_link(SecretKind::Refresh, other.plain.expose(), &key()) && !is_link(SecretKind::Refresh, "dwr_", &key()));
        // Whoever knows the id and a form that reads well has nothing yet.
        let mut octets = b64::decode(text.strip_prefix("dwr_").expect("a prefix")).expect("base64url");
        octets[20] ^= 1;
        let sum = checksum(SecretKind::Refresh, &octets[..BODY]);
        octets[BODY..].copy_from_slice(&sum);
        let bent = format!("dwr_{}", b64::encode(&octets));
        assert!(parse(SecretKind::Refresh, &bent, &key()).is_some() && !is_link(SecretKind::Refresh, &bent, &key()));
    }

    #[test]
    fn domains_do_not_run_into_data() {
        assert_ne!(key().mac("ab", b"c"), key().mac("a", b"bc"));
        assert!(key().verify("a", b"b", &key().mac("a", b"b")));
        assert!(!MacKey::new([8; 32]).verify("a", b"b", &key().mac("a", b"b")));
    }

    #[test]
    fn secrets_print_nothing() {
        assert_eq!(format!("{:?} {:?}", Plain::new("hush"), key()), "… MacKey(…)");
    }

    proptest::proptest! {
        #[test]
        fn parsing_anything_never_panics_and_believes_nothing(text in "(dw[arc]_)?\\PC{0,80}") {
            proptest::prop_assert!(parse(SecretKind::Access, &text, &key()).is_none());
        }
    }
}
