//! A second opinion on our own signatures: another reader (`jsonwebtoken`) must believe, with nothing but the published JWK, what a key signs.
use jsonwebtoken::{DecodingKey, Validation, decode, jwk};
use serde::{Deserialize, Serialize};

use crate::{
    jwk::KeySet,
    jws::Parsed,
    sign::{KeyError, SigningKey},
};

const ISSUER: &str = "urn:doorward:self-test";

#[derive(Serialize, Deserialize)]
struct Probe {
    iss: String,
}

/// Proves that a key's published half verifies what its private half signs, and that its id is its thumbprint.
/// Run when a key is made or loaded, before it may sign. Of an algorithm the other reader does not know, our own reader judges.
///
/// # Errors
/// [`KeyError::Rejected`] if the halves do not belong together.
pub fn prove(key: &SigningKey) -> Result<(), KeyError> {
    let token = key.sign_jwt("JWT", &Probe { iss: ISSUER.to_owned() })?;
    let published = serde_json::to_vec(key.jwk()).map_err(|_| KeyError::Claims)?;
    let Some(alg) = key.alg().jose() else { return alone(key, &token, &published) };
    let published: jwk::Jwk = serde_json::from_slice(&published).map_err(|_| KeyError::Rejected)?;
    let mut rules = Validation::new(alg);
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["iss"]);
    rules.validate_exp = false;
    let decoding = DecodingKey::from_jwk(&published).map_err(|_| KeyError::Rejected)?;
    let read = decode::<Probe>(&token, &decoding, &rules).map_err(|_| KeyError::Rejected)?;
    let thumbprint = published.thumbprint(jwk::ThumbprintHash::SHA256).map_err(|_| KeyError::Rejected)?;
    if read.header.kid.as_deref() == Some(key.kid()) && thumbprint == key.kid() { Ok(()) } else { Err(KeyError::Rejected) }
}

/// The published JSON, read as a stranger's, verifies the token.
fn alone(key: &SigningKey, token: &str, published: &[u8]) -> Result<(), KeyError> {
    let set = [b"{\"keys\":[", published, b"]}"].concat();
    let parsed = Parsed::parse(token).map_err(|_| KeyError::Rejected)?;
    let set = KeySet::from_json(&set)?;
    let found = set.find(Some(key.kid()), key.alg()).ok_or(KeyError::Rejected)?;
    parsed.verify(found).map_err(|_| KeyError::Rejected)?;
    if found.jwk().thumbprint() == key.kid() { Ok(()) } else { Err(KeyError::Rejected) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Alg;

    #[test]
    fn another_library_believes_what_we_sign_with_every_algorithm() {
        for alg in Alg::EVERY {
            assert_eq!(prove(&SigningKey::generate(alg).expect("generates").0), Ok(()), "{alg}");
        }
    }
}
