//! Proof of possession of a key for one request (RFC 9449 §4): pure verification, and the server's nonces (§8).
use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    Alg, Refusal, b64, hash,
    jwk::{Jwk, VerifyingKey},
    jws::Parsed,
    secret::MacKey,
};

/// The type of a proof; compared exactly.
pub const TYP: &str = "dpop+jwt";
/// The algorithms a proof may be signed with, for `dpop_signing_alg_values_supported` and challenges.
pub const ALGS: [Alg; 4] = [Alg::ES256, Alg::ES384, Alg::PS256, Alg::EdDSA];
/// How old a proof may be, seconds.
pub const MAX_AGE: i64 = 60;
/// How far ahead of our clock its own may be, seconds.
pub const MAX_AHEAD: i64 = 30;
/// How long a `jti` has to be remembered after its `iat`, seconds: longer than its proof is accepted.
pub const REMEMBERED: i64 = MAX_AGE + 1;
const LEEWAY: i64 = 10;
const MAX_JTI: usize = 256;
/// Seconds of one nonce; the one before is accepted too.
const NONCE_PERIOD: i64 = 60;

/// A believed proof: its signature is its key's own, and it is about this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The RFC 7638 thumbprint of its key.
    pub jkt: String,
    /// Its one-time id.
    pub jti: String,
    /// Seconds since the epoch.
    pub iat: i64,
}

impl Proof {
    /// What its one-time use is remembered by: a hash of key and id, the same on every node.
    #[must_use]
    pub fn once(&self) -> [u8; 32] {
        hash::sha256(format!("dpop|{}|{}", self.jkt, self.jti).as_bytes())
    }
    /// Until when its one-time use has to be remembered, seconds since the epoch.
    #[must_use]
    pub const fn until(&self) -> i64 {
        self.iat.saturating_add(REMEMBERED)
    }
}

/// Why a request proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproved {
    /// The proof is wrong.
    #[error("{0}")]
    Wrong(#[from] Refusal),
    /// A nonce of ours is demanded and missing or stale; the proof may be right otherwise.
    #[error("nonce")]
    Nonce,
}

/// An address as `htu` is compared with (RFC 9449 §4.3, RFC 3986 §6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    scheme: String,
    authority: String,
    path: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// Scheme, `host[:port]` and an absolute path that was normalised before. `None` if there is no such host.
    #[must_use]
    pub fn new(scheme: &str, authority: &str, path: &'a str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "https" => "443",
            "http" => "80",
            _ => return None,
        };
        let odd = |b: u8| !b.is_ascii_graphic() || matches!(b, b'@' | b'/' | b'?' | b'#' | b'\\' | b'"' | b'<' | b'>');
        if authority.bytes().any(odd) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (authority, ""),
        };
        let bare = host.strip_suffix('.').unwrap_or(host);
        let bracketed = bare.starts_with('[') && bare.ends_with(']');
        if bare.is_empty() || (bare.contains([':', '[', ']']) && !bracketed) || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let bare = bare.to_ascii_lowercase();
        let authority = if port.is_empty() || port == default { bare } else { format!("{bare}:{port}") };
        let path = if path.is_empty() { Cow::Borrowed("/") } else { Cow::Borrowed(path) };
        Some(Self { scheme, authority, path })
    }

    /// Whether it is at the host that a request names (its `Host`); the default port may be written or not.
    #[must_use]
    pub fn is_at(&self, authority: &str) -> bool {
        Self::new(&self.scheme, authority, "/").is_some_and(|named| named.authority == self.authority)
    }

    /// The parts of an absolute http or https URI; query and fragment are left out, the path goes through `normalise`.
    #[must_use]
    pub fn of(uri: &'a str, normalise: Normalise) -> Option<Self> {
        let uri = uri.split(['?', '#']).next()?;
        let (scheme, rest) = uri.split_once("://")?;
        let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, "/"));
        let path = normalise(path)?;
        let Self { scheme, authority, .. } = Self::new(scheme, authority, "/")?;
        Some(Self { scheme, authority, path })
    }
}

/// The one normalisation of paths (RFC 3986 §6.2.2); `None` for a path that is refused.
pub type Normalise = for<'p> fn(&'p str) -> Option<Cow<'p, str>>;

/// What is expected of a proof.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// The method of the request (case-sensitive).
    pub method: &'a str,
    /// Under which addresses this request may have been sent.
    pub targets: &'a [Target<'a>],
    /// The algorithms it may be signed with; of [`ALGS`].
    pub algs: &'a [Alg],
    /// How paths are normalised here.
    pub normalise: Normalise,
    /// The access token presented with it: its hash then has to be in the proof.
    pub token: Option<&'a str>,
    /// Demands a nonce of these.
    pub nonces: Option<&'a Nonces>,
    /// Seconds since the epoch.
    pub now: i64,
}

/// Believes a proof: one strict JWS whose own public key verifies it, about this method, address, time and token.
/// Its one-time use is the caller's to see to ([`Proof::once`]).
///
/// # Errors
/// The first thing that is wrong; a missing nonce last, when all else is right.
pub fn verify(text: &str, expected: &Expected<'_>) -> Result<Proof, Unproved> {
    let (parsed, header) = Parsed::parse_with_key(text)?;
    if parsed.typ.as_deref() != Some(TYP) {
        return Err(Refusal::Type.into());
    }
    if !expected.algs.contains(&parsed.alg) {
        return Err(Refusal::Algorithm.into());
    }
    let jwk = header.as_ref().and_then(Jwk::public).ok_or(Refusal::Header("jwk is missing, private or not a key"))?;
    let key = VerifyingKey::from_jwk(&jwk, parsed.alg).map_err(|_| Refusal::Algorithm)?;
    let claims = parsed.verify(&key)?;
    let jti = text_of(&claims, "jti").filter(|jti| (1..=MAX_JTI).contains(&jti.chars().count())).ok_or(Refusal::Claim("jti"))?;
    if text_of(&claims, "htm") != Some(expected.method) {
        return Err(Refusal::Claim("htm").into());
    }
    let meant = text_of(&claims, "htu").and_then(|htu| Target::of(htu, expected.normalise)).ok_or(Refusal::Claim("htu"))?;
    if !expected.targets.contains(&meant) {
        return Err(Refusal::Claim("htu").into());
    }
    let iat = timely(&claims, expected.now)?;
    if let Some(token) = expected.token {
        let hashed = b64::encode(&hash::sha256(token.as_bytes()));
        if text_of(&claims, "ath") != Some(hashed.as_str()) {
            return Err(Refusal::Claim("ath").into());
        }
    }
    if let Some(nonces) = expected.nonces
        && !text_of(&claims, "nonce").is_some_and(|nonce| nonces.accepts(nonce, expected.now))
    {
        return Err(Unproved::Nonce);
    }
    Ok(Proof { jkt: jwk.thumbprint(), jti: jti.to_owned(), iat })
}

fn text_of<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    claims.get(name).and_then(Value::as_str)
}

fn timely(claims: &Map<String, Value>, now: i64) -> Result<i64, Refusal> {
    let time = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) => seconds(value).map(Some).ok_or(Refusal::Claim(name)),
    };
    let iat = time("iat")?.ok_or(Refusal::Claim("iat"))?;
    if iat < now.saturating_sub(MAX_AGE) {
        return Err(Refusal::Expired);
    }
    if iat > now.saturating_add(MAX_AHEAD) {
        return Err(Refusal::NotYetValid);
    }
    if time("exp")?.is_some_and(|exp| now >= exp.saturating_add(LEEWAY)) {
        return Err(Refusal::Expired);
    }
    if time("nbf")?.is_some_and(|nbf| nbf > now.saturating_add(LEEWAY)) {
        return Err(Refusal::NotYetValid);
    }
    Ok(iat)
}

/// A `NumericDate` in whole seconds, rounded down; what is out of range saturates and fails the checks.
fn seconds(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which the range checks refuse")]
    value.as_i64().or_else(|| value.as_f64().map(|n| n.floor() as i64))
}

/// Nonces without state: a keyed MAC over the minute, so every node that has the key knows them (RFC 9449 §8, §9).
#[derive(Debug, Clone)]
pub struct Nonces {
    mac: MacKey,
    domain: &'static str,
}

impl Nonces {
    /// The nonces of one kind of server (`domain` keeps those of the authorization server and of the gateway apart).
    #[must_use]
    pub const fn new(mac: MacKey, domain: &'static str) -> Self {
        Self { mac, domain }
    }
    /// The nonce of this minute.
    #[must_use]
    pub fn current(&self, now: i64) -> String {
        self.of(now.div_euclid(NONCE_PERIOD))
    }
    /// Whether a nonce is of this minute or the one before.
    #[must_use]
    pub fn accepts(&self, nonce: &str, now: i64) -> bool {
        let period = now.div_euclid(NONCE_PERIOD);
        [period, period.saturating_sub(1)].into_iter().any(|p| hash::eq(self.of(p).as_bytes(), nonce.as_bytes()))
    }
    fn of(&self, period: i64) -> String {
        let mac = self.mac.mac(self.domain, &period.to_be_bytes());
        let (left, _) = mac.split_at(16);
        b64::encode(left)
    }
}

#[cfg(test)]
mod tests;
