//! Signing keys: parsed once and kept, with their headers prepared; signing a token costs one serialisation and one signature (RFC 7515 §5.1).
use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair as _, ML_DSA_65_SIGNING, PqdsaKeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    Alg, b64,
    jwk::{Jwk, VerifyingKey},
};

/// A key could not be made, read or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The library could not make a key.
    #[error("key generation failed")]
    Generation,
    /// Not a PKCS#8 document of that algorithm.
    #[error("not a private key of that algorithm")]
    Rejected,
    /// A JWK that is not a usable public key.
    #[error("not a usable public key: {0}")]
    Jwk(&'static str),
    /// A key set that is not JSON of the right shape.
    #[error("not a JSON Web Key Set")]
    KeySet,
    /// The library could not sign.
    #[error("signing failed")]
    Signing,
    /// The claims do not serialise.
    #[error("claims cannot be written as JSON")]
    Claims,
}

enum Private {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ed25519(Ed25519KeyPair),
    MlDsa(PqdsaKeyPair),
}

/// The types of token whose header is prepared when a key is loaded.
const PREPARED: [&str; 2] = ["at+jwt", "JWT"];

struct Inner {
    alg: Alg,
    private: Private,
    jwk: Jwk,
    kid: String,
    verifying: VerifyingKey,
    headers: [String; 2],
    random: SystemRandom,
}

/// A private key that signs with one algorithm. Cheap to clone; prints its id only.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

impl SigningKey {
    /// Makes a key (RSA: 2048 bits) and its PKCS#8 document.
    ///
    /// # Errors
    /// [`KeyError::Generation`] if the library fails.
    pub fn generate(alg: Alg) -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let failed = |_| KeyError::Generation;
        let pkcs8 = match alg {
            Alg::ES256 | Alg::ES384 => EcdsaKeyPair::generate(curve(alg)?).and_then(|k| Ok(k.to_pkcs8v1()?.as_ref().to_vec())),
            Alg::RS256 | Alg::PS256 => RsaKeyPair::generate(KeySize::Rsa2048).and_then(|k| Ok(k.as_der()?.as_ref().to_vec())),
            Alg::EdDSA => Ed25519KeyPair::generate().and_then(|k| Ok(k.to_pkcs8()?.as_ref().to_vec())),
            Alg::MlDsa65 => PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).and_then(|k| Ok(k.to_pkcs8v1()?.as_ref().to_vec())),
        };
        let pkcs8 = Zeroizing::new(pkcs8.map_err(failed)?);
        Ok((Self::from_pkcs8(alg, &pkcs8)?, pkcs8))
    }

    /// Reads a PKCS#8 document.
    ///
    /// # Errors
    /// [`KeyError::Rejected`] if it is not a private key of that algorithm.
    pub fn from_pkcs8(alg: Alg, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let private = match alg {
            Alg::ES256 | Alg::ES384 => Private::Ecdsa(EcdsaKeyPair::from_pkcs8(curve(alg)?, pkcs8).map_err(|_| KeyError::Rejected)?),
            Alg::RS256 | Alg::PS256 => {
                let encoding: &'static dyn RsaEncoding = if alg == Alg::RS256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                Private::Rsa(RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Rejected)?, encoding)
            }
            Alg::EdDSA => Private::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Rejected)?),
            Alg::MlDsa65 => Private::MlDsa(PqdsaKeyPair::from_pkcs8(&ML_DSA_65_SIGNING, pkcs8).map_err(|_| KeyError::Rejected)?),
        };
        let jwk = public_jwk(alg, &private)?;
        let kid = jwk.kid.clone().ok_or(KeyError::Rejected)?;
        let verifying = VerifyingKey::from_jwk(&jwk, alg)?;
        let [access, plain] = PREPARED;
        let headers = [header(alg, &kid, access)?, header(alg, &kid, plain)?];
        Ok(Self(Arc::new(Inner { alg, private, jwk, kid, verifying, headers, random: SystemRandom::new() })))
    }

    /// The key id: the RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.0.kid
    }

    /// The one algorithm it signs with.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.0.alg
    }

    /// Its public half as published.
    #[must_use]
    pub fn jwk(&self) -> &Jwk {
        &self.0.jwk
    }

    /// Its public half as a verifier.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        self.0.verifying.clone()
    }

    /// Signs `claims` as a compact JWS of that `typ` (`at+jwt`, `JWT`, …).
    ///
    /// # Errors
    /// [`KeyError::Claims`] or [`KeyError::Signing`].
    pub fn sign_jwt(&self, typ: &str, claims: &impl Serialize) -> Result<String, KeyError> {
        let mut payload = Vec::with_capacity(512);
        serde_json::to_writer(&mut payload, claims).map_err(|_| KeyError::Claims)?;
        let signature = if self.0.alg == Alg::MlDsa65 { 4500 } else { 512 };
        let mut out = String::with_capacity(128 + payload.len() * 4 / 3 + signature);
        match PREPARED.iter().zip(&self.0.headers).find(|(known, _)| **known == typ) {
            Some((_, prepared)) => out.push_str(prepared),
            None => out.push_str(&header(self.0.alg, &self.0.kid, typ)?),
        }
        b64::push(&payload, &mut out);
        let signature = self.signature(out.as_bytes(), b64::encode)?;
        out.push('.');
        out.push_str(&signature);
        Ok(out)
    }

    fn signature<T>(&self, message: &[u8], take: impl FnOnce(&[u8]) -> T) -> Result<T, KeyError> {
        match &self.0.private {
            Private::Ecdsa(key) => key.sign(&self.0.random, message).map(|s| take(s.as_ref())),
            Private::Ed25519(key) => key.try_sign(message).map(|s| take(s.as_ref())),
            Private::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &self.0.random, message, &mut signature).map(|()| take(&signature))
            }
            Private::MlDsa(key) => {
                let mut signature = vec![0; key.algorithm().signature_len()];
                key.sign(message, &mut signature).map(|length| take(signature.get(..length).unwrap_or_default()))
            }
        }
        .map_err(|_| KeyError::Signing)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.0.kid).field("alg", &self.0.alg).finish_non_exhaustive()
    }
}

fn curve(alg: Alg) -> Result<&'static EcdsaSigningAlgorithm, KeyError> {
    match alg {
        Alg::ES256 => Ok(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Alg::ES384 => Ok(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Alg::RS256 | Alg::PS256 | Alg::EdDSA | Alg::MlDsa65 => Err(KeyError::Rejected),
    }
}

/// The encoded header and its full stop.
fn header(alg: Alg, kid: &str, typ: &str) -> Result<String, KeyError> {
    #[derive(Serialize)]
    struct Header<'a> {
        typ: &'a str,
        alg: &'static str,
        kid: &'a str,
    }
    let json = serde_json::to_vec(&Header { typ, alg: alg.as_str(), kid }).map_err(|_| KeyError::Claims)?;
    Ok(b64::encode(&json) + ".")
}

fn public_jwk(alg: Alg, private: &Private) -> Result<Jwk, KeyError> {
    let mut jwk = match private {
        Private::Ecdsa(key) => {
            let point = key.public_key().as_ref().split_first().ok_or(KeyError::Rejected)?.1;
            let (x, y) = point.split_at(point.len() / 2);
            Jwk::ec(if alg == Alg::ES256 { "P-256" } else { "P-384" }, x, y)
        }
        Private::Rsa(key, _) => {
            let public = key.public_key();
            let (n, e) = (public.modulus(), public.exponent());
            Jwk::rsa(n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero())
        }
        Private::Ed25519(key) => Jwk::ed25519(key.public_key().as_ref()),
        Private::MlDsa(key) => Jwk::akp(alg, key.public_key().as_ref()),
    };
    jwk.alg = Some(alg.as_str().to_owned());
    jwk.use_ = Some("sig".to_owned());
    jwk.kid = Some(jwk.thumbprint());
    Ok(jwk)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jws::Parsed;

    #[test]
    fn a_token_verifies_with_its_own_key_and_no_other() {
        for alg in Alg::EVERY {
            let (key, other) = (SigningKey::generate(alg).expect("generates").0, SigningKey::generate(alg).expect("generates").0);
            for typ in ["at+jwt", "JWT", "logout+jwt"] {
                let token = key.sign_jwt(typ, &json!({"sub": "a"})).expect("signs");
                let parsed = Parsed::parse(&token).expect("strict");
                assert_eq!((parsed.alg, parsed.typ.as_deref(), parsed.kid.as_deref()), (alg, Some(typ), Some(key.kid())));
                assert!(parsed.verify(&key.verifying()).is_ok());
                assert!(parsed.verify(&other.verifying()).is_err());
            }
        }
    }

    #[test]
    fn the_published_half_is_public() {
        for alg in Alg::EVERY {
            let (key, _) = SigningKey::generate(alg).expect("generates");
            let json = serde_json::to_value(key.jwk()).expect("json");
            for private in ["d", "p", "q", "dp", "dq", "qi", "k", "priv"] {
                assert!(json.get(private).is_none(), "{private}");
            }
            assert!(!format!("{key:?}").contains("private"));
        }
    }

    #[test]
    fn an_independent_implementation_believes_our_ml_dsa_signatures_and_no_bent_ones() {
        use fips204::{
            ml_dsa_65,
            traits::{SerDes as _, Verifier as _},
        };
        let (key, pkcs8) = SigningKey::generate(Alg::MlDsa65).expect("generates");
        let token = key.sign_jwt("JWT", &json!({"sub": "a"})).expect("signs");
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let public = b64::decode(key.jwk().public.as_deref().expect("pub")).expect("base64url");
        let verifier = ml_dsa_65::PublicKey::try_from_bytes(public.try_into().expect("1952 octets")).expect("a key");
        let signature: [u8; 3309] = b64::decode(signature).expect("base64url").try_into().expect("3309 octets");
        assert!(verifier.verify(signed.as_bytes(), &signature, &[]));
        assert!(!verifier.verify(b"other", &signature, &[]));
        assert_eq!(SigningKey::from_pkcs8(Alg::MlDsa65, &pkcs8).expect("reads").kid(), key.kid());
        assert!(SigningKey::from_pkcs8(Alg::EdDSA, &pkcs8).is_err());
        assert!(token.len() < crate::jws::MAX_LEN);
    }
}
