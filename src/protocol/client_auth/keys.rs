//! What is known of the keys of a client or a trusted issuer: the signing keys of its set, and the certificates in it.
use serde_json::Value;
use tokens::{
    Alg, certificate,
    certificate::Certificate,
    jwk::{KeySet, VerifyingKey},
};

/// The keys of one client or issuer.
#[derive(Debug, Default)]
pub struct Keys {
    set: KeySet,
    /// Thumbprints of the certificates in it.
    certificates: Vec<String>,
}

impl Keys {
    /// Keys already at hand.
    #[must_use]
    pub const fn new(set: KeySet) -> Self {
        Self { set, certificates: Vec::new() }
    }
    /// Reads a JWK set; `None` if it is not one.
    #[must_use]
    pub fn read(document: &[u8]) -> Option<Self> {
        let set = KeySet::from_json(document).ok()?;
        let certificates = certificate::of_set(&serde_json::from_slice::<Value>(document).ok()?);
        Some(Self { set, certificates })
    }
    /// The key of that id and algorithm; without an id, the only key of that algorithm.
    #[must_use]
    pub fn find(&self, kid: Option<&str>, alg: Alg) -> Option<&VerifyingKey> {
        self.set.find(kid, alg)
    }
    /// The set.
    #[must_use]
    pub const fn set(&self) -> &KeySet {
        &self.set
    }
    /// Whether a key of that id is among them; without an id, whether there is any at all.
    #[must_use]
    pub fn knows(&self, kid: Option<&str>) -> bool {
        kid.map_or(!self.set.is_empty() || !self.certificates.is_empty(), |kid| self.set.iter().any(|key| key.kid() == Some(kid)))
    }
    /// Whether a certificate is among them: itself in a key's `x5c`, or its key (RFC 8705 §2.2).
    #[must_use]
    pub fn hold(&self, shown: &Certificate) -> bool {
        if self.certificates.iter().any(|known| known == shown.x5t_s256()) {
            return true;
        }
        let Some(key) = shown.key().map(|key| key.thumbprint()) else { return false };
        self.set.iter().any(|known| known.jwk().thumbprint() == key)
    }
}
