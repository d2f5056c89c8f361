//! JSON Web Keys and sets (RFC 7517, RFC 8037, RFC 9964), public halves only; thumbprints (RFC 7638).
use std::{fmt, sync::Arc};

use aws_lc_rs::{rsa::PublicKeyComponents, signature::ParsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Alg, b64, hash, sign::KeyError};

/// A public key in JSON. There is no field for a private member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC`, `RSA`, `OKP` or `AKP`.
    pub kty: String,
    /// `P-256`, `P-384` or `Ed25519`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// First coordinate, or the whole Ed25519 key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// Second coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// RSA modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// The whole key of an algorithm key pair (`AKP`, RFC 9964 §3).
    #[serde(default, rename = "pub", skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
    /// The only algorithm it may be used with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// `sig`.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub use_: Option<String>,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
}

/// Members that only a private or symmetric key has (RFC 7518 §6, RFC 9964 §3).
pub(crate) const PRIVATE: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];
/// Octets of an ML-DSA-65 public key (FIPS 204 §4).
const ML_DSA_65_LEN: usize = 1952;

impl Jwk {
    pub(crate) fn ec(crv: &str, x: &[u8], y: &[u8]) -> Self {
        Self { kty: "EC".into(), crv: Some(crv.into()), x: Some(b64::encode(x)), y: Some(b64::encode(y)), ..Self::default() }
    }
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self { kty: "RSA".into(), n: Some(b64::encode(n)), e: Some(b64::encode(e)), ..Self::default() }
    }
    pub(crate) fn ed25519(x: &[u8]) -> Self {
        Self { kty: "OKP".into(), crv: Some("Ed25519".into()), x: Some(b64::encode(x)), ..Self::default() }
    }

    /// A key that came as JSON from somebody else; `None` if it has a private or symmetric member or is no key.
    #[must_use]
    pub fn public(value: &Value) -> Option<Self> {
        if PRIVATE.iter().any(|member| value.get(member).is_some()) {
            return None;
        }
        Self::deserialize(value).ok()
    }

    pub(crate) fn akp(alg: Alg, key: &[u8]) -> Self {
        Self { kty: "AKP".into(), alg: Some(alg.as_str().into()), public: Some(b64::encode(key)), ..Self::default() }
    }

    /// The RFC 7638 thumbprint with SHA-256, base64url (of an `AKP` key: RFC 9964 §6).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let members: &[(&str, Option<&String>)] = match self.kty.as_str() {
            "EC" => &[("crv", self.crv.as_ref()), ("kty", Some(&self.kty)), ("x", self.x.as_ref()), ("y", self.y.as_ref())],
            "RSA" => &[("e", self.e.as_ref()), ("kty", Some(&self.kty)), ("n", self.n.as_ref())],
            "AKP" => &[("alg", self.alg.as_ref()), ("kty", Some(&self.kty)), ("pub", self.public.as_ref())],
            _ => &[("crv", self.crv.as_ref()), ("kty", Some(&self.kty)), ("x", self.x.as_ref())],
        };
        let text: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{}", Value::String(value.cloned().unwrap_or_default()))).collect();
        b64::encode(&hash::sha256(format!("{{{}}}", text.join(",")).as_bytes()))
    }

    /// The algorithms it may verify: the one it names, or what its type and curve allow.
    ///
    /// # Errors
    /// [`KeyError::Jwk`] if it fits none of ours.
    pub fn algorithms(&self) -> Result<&'static [Alg], KeyError> {
        if self.use_.as_deref().is_some_and(|u| u != "sig") {
            return Err(KeyError::Jwk("not for signatures"));
        }
        let possible: &'static [Alg] = match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => &[Alg::ES256],
            ("EC", Some("P-384")) => &[Alg::ES384],
            ("OKP", Some("Ed25519")) => &[Alg::EdDSA],
            ("RSA", None) => &[Alg::RS256, Alg::PS256],
            // An algorithm key pair has no meaning without its algorithm (RFC 9964 §3).
            ("AKP", None) if self.alg.is_some() => &[Alg::MlDsa65],
            _ => return Err(KeyError::Jwk("key type")),
        };
        match self.alg.as_deref() {
            None => Ok(possible),
            Some(name) => {
                let at = possible.iter().position(|a| Alg::read(name) == Some(*a)).ok_or(KeyError::Jwk("alg does not fit the key"))?;
                possible.get(at..=at).ok_or(KeyError::Jwk("alg does not fit the key"))
            }
        }
    }

    fn octets(member: Option<&String>) -> Result<Vec<u8>, KeyError> {
        member.and_then(|text| b64::decode(text)).ok_or(KeyError::Jwk("a member is missing or not base64url"))
    }

    fn parse(&self, alg: Alg) -> Result<ParsedPublicKey, KeyError> {
        let rejected = KeyError::Jwk("not a point or modulus of that type");
        if let Some(parameters) = alg.rsa() {
            let n: Vec<u8> = Self::octets(self.n.as_ref())?.into_iter().skip_while(|b| *b == 0).collect();
            let e: Vec<u8> = Self::octets(self.e.as_ref())?.into_iter().skip_while(|b| *b == 0).collect();
            let bits = n.first().map_or(0, |top| n.len() * 8 - top.leading_zeros() as usize);
            if !(2048..=8192).contains(&bits) {
                return Err(KeyError::Jwk("RSA keys have 2048 to 8192 bits"));
            }
            return PublicKeyComponents { n, e }.to_parsed_public_key(parameters).map_err(|_| rejected);
        }
        if alg == Alg::MlDsa65 {
            let key = Self::octets(self.public.as_ref())?;
            if key.len() != ML_DSA_65_LEN {
                return Err(rejected);
            }
            return ParsedPublicKey::new(alg.verification(), key).map_err(|_| rejected);
        }
        let x = Self::octets(self.x.as_ref())?;
        let size = if alg == Alg::ES384 { 48 } else { 32 };
        let octets = if alg == Alg::EdDSA {
            x
        } else {
            let y = Self::octets(self.y.as_ref())?;
            if x.len() != size || y.len() != size {
                return Err(rejected);
            }
            [&[4], x.as_slice(), y.as_slice()].concat()
        };
        ParsedPublicKey::new(alg.verification(), octets).map_err(|_| rejected)
    }
}

struct Inner {
    alg: Alg,
    jwk: Jwk,
    key: ParsedPublicKey,
}

/// A public key that verifies exactly one algorithm. Parsed once; cheap to clone.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Inner>);

impl VerifyingKey {
    /// The key of a JWK for one of its algorithms.
    ///
    /// # Errors
    /// [`KeyError::Jwk`] if the algorithm is not one of the key's, or the key is malformed or weak.
    pub fn from_jwk(jwk: &Jwk, alg: Alg) -> Result<Self, KeyError> {
        if !jwk.algorithms()?.contains(&alg) {
            return Err(KeyError::Jwk("alg does not fit the key"));
        }
        Ok(Self(Arc::new(Inner { alg, key: jwk.parse(alg)?, jwk: jwk.clone() })))
    }

    /// Its id, if its set names one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.0.jwk.kid.as_deref()
    }

    /// The one algorithm it verifies.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.0.alg
    }

    /// The key as JSON.
    #[must_use]
    pub fn jwk(&self) -> &Jwk {
        &self.0.jwk
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.key.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("kid", &self.kid()).field("alg", &self.0.alg).finish_non_exhaustive()
    }
}

/// The usable keys of a set, in its order.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

impl KeySet {
    /// Keys already at hand.
    #[must_use]
    pub fn new(keys: Vec<VerifyingKey>) -> Self {
        Self { keys }
    }

    /// Reads a JWKS document. Keys that are private, symmetric, weak, for encryption or of an unknown type are skipped
    /// (RFC 7517 §5); one key never spoils the others.
    ///
    /// # Errors
    /// [`KeyError::KeySet`] if it is not an object with an array `keys`.
    pub fn from_json(text: &[u8]) -> Result<Self, KeyError> {
        let document: Value = serde_json::from_slice(text).map_err(|_| KeyError::KeySet)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(KeyError::KeySet)?;
        Ok(Self { keys: keys.iter().flat_map(usable).collect() })
    }

    /// The key of that id and algorithm: the first of several. Without an id, the only key of that algorithm.
    #[must_use]
    pub fn find(&self, kid: Option<&str>, alg: Alg) -> Option<&VerifyingKey> {
        let mut of_alg = self.keys.iter().filter(|key| key.alg() == alg);
        match kid {
            Some(_) => of_alg.find(|key| key.kid() == kid),
            None => of_alg.next().filter(|_| of_alg.next().is_none()),
        }
    }

    /// Every usable key.
    pub fn iter(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter()
    }

    /// How many there are (an RSA key without `alg` counts for each of its two algorithms).
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn usable(value: &Value) -> Vec<VerifyingKey> {
    if PRIVATE.iter().any(|member| value.get(member).is_some()) {
        return Vec::new();
    }
    let for_verifying = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
    if !value.get("key_ops").is_none_or(for_verifying) {
        return Vec::new();
    }
    let Ok(jwk) = Jwk::deserialize(value) else { return Vec::new() };
    let algorithms = jwk.algorithms().unwrap_or_default();
    algorithms.iter().filter_map(|alg| VerifyingKey::from_jwk(&jwk, *alg).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sign::SigningKey;

    const RFC_7638_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    #[test]
    fn thumbprint_of_rfc_7638_section_3_1() {
        let jwk =
            Jwk { kty: "RSA".into(), n: Some(RFC_7638_N.into()), e: Some("AQAB".into()), alg: Some("RS256".into()), ..Jwk::default() };
        assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn an_algorithm_key_pair_needs_its_alg_and_a_key_of_that_size() {
        let (key, _) = SigningKey::generate(Alg::MlDsa65).expect("generates");
        let good = serde_json::to_value(key.jwk()).expect("json");
        assert_eq!((good["kty"].as_str(), good["alg"].as_str()), (Some("AKP"), Some("ML-DSA-65")));
        assert_eq!(set(std::slice::from_ref(&good)).find(Some(key.kid()), Alg::MlDsa65).map(VerifyingKey::alg), Some(Alg::MlDsa65));
        let mut without = good.clone();
        without.as_object_mut().expect("an object").remove("alg");
        for bad in [
            without,
            with(good.clone(), "alg", json!("ML-DSA-44")),
            with(good.clone(), "alg", json!("ES256")),
            with(good.clone(), "pub", json!(b64::encode(&[1; 1951]))),
            with(good.clone(), "priv", json!("AA")),
            with(good, "crv", json!("P-256")),
        ] {
            assert!(set(std::slice::from_ref(&bad)).is_empty(), "{bad}");
        }
    }

    #[test]
    fn thumbprint_of_an_algorithm_key_pair_covers_alg_kty_and_pub() {
        let jwk =
            Jwk { kty: "AKP".into(), alg: Some("ML-DSA-65".into()), public: Some("AA".into()), kid: Some("k".into()), ..Jwk::default() };
        assert_eq!(jwk.thumbprint(), b64::encode(&hash::sha256(br#"{"alg":"ML-DSA-65","kty":"AKP","pub":"AA"}"#)));
    }

    fn set(keys: &[Value]) -> KeySet {
        KeySet::from_json(json!({ "keys": keys }).to_string().as_bytes()).expect("a set")
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key.as_object_mut().expect("an object").insert(name.into(), value);
        key
    }

    #[test]
    fn unusable_keys_are_skipped_and_spoil_nothing() {
        let good = serde_json::to_value(SigningKey::generate(Alg::ES256).expect("generates").0.jwk()).expect("json");
        let weak = json!({"kty": "RSA", "n": b64::encode(&[255; 128]), "e": "AQAB"});
        let off_curve = with(with(good.clone(), "x", json!(b64::encode(&[1; 32]))), "y", json!(b64::encode(&[1; 32])));
        for bad in [
            with(good.clone(), "d", json!("AA")),
            with(good.clone(), "use", json!("enc")),
            with(good.clone(), "key_ops", json!(["sign"])),
            with(good.clone(), "alg", json!("HS256")),
            with(good.clone(), "alg", json!("RS256")),
            with(good.clone(), "crv", json!("P-521")),
            with(good.clone(), "kid", json!(5)),
            json!({"kty": "oct", "k": "AA", "alg": "HS256"}),
            json!("nonsense"),
            weak,
            off_curve,
        ] {
            assert_eq!(set(&[bad.clone(), good.clone()]).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_rsa_key_without_alg_serves_both_algorithms_and_one_with_alg_serves_one() {
        let bare = json!({"kty": "RSA", "n": RFC_7638_N, "e": "AQAB", "kid": "r"});
        let both = set(std::slice::from_ref(&bare));
        assert!(both.find(Some("r"), Alg::RS256).is_some() && both.find(Some("r"), Alg::PS256).is_some());
        let pinned = set(&[with(bare, "alg", json!("PS256"))]);
        assert!(pinned.find(Some("r"), Alg::RS256).is_none() && pinned.find(Some("r"), Alg::PS256).is_some());
    }

    #[test]
    fn of_a_duplicate_kid_the_first_of_the_algorithm_counts_and_without_kid_only_a_sole_key() {
        let [a, b] = [0, 1].map(|_| SigningKey::generate(Alg::ES256).expect("generates").0);
        let named = |key: &SigningKey| with(serde_json::to_value(key.jwk()).expect("json"), "kid", json!("same"));
        let both = set(&[named(&a), named(&b)]);
        assert_eq!(both.find(Some("same"), Alg::ES256).map(|k| k.jwk().x.clone()), Some(a.jwk().x.clone()));
        assert!(both.find(None, Alg::ES256).is_none());
        assert!(set(&[named(&a)]).find(None, Alg::ES256).is_some());
        assert!(set(&[named(&a)]).find(Some("other"), Alg::ES256).is_none());
    }
}
