//! How the gateway proves itself to authorization servers: a secret (RFC 6749 §2.3.1), a signed assertion (RFC 7523), a certificate (RFC 8705 §2).
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use tokens::{Alg, Entropy, id, secret::Plain, sign::SigningKey};

/// How long an assertion of ours counts, seconds.
const ASSERTION_S: i64 = 60;

/// What is wrong with a key or certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("not a private key as PKCS#8 PEM (\"BEGIN PRIVATE KEY\"), or not one of that algorithm")]
    Key,
    #[error("not a certificate as PEM")]
    Certificate,
    #[error("certificate and key cannot be used together")]
    Identity,
    #[error("the assertion cannot be signed")]
    Signing,
}

/// How a client proves who it is.
pub enum Proves {
    /// `client_secret_basic`
    Basic(Plain),
    /// `client_secret_post`
    Post(Plain),
    /// `private_key_jwt`
    Key(SigningKey),
    /// `tls_client_auth`: the connection does.
    Certificate,
}

/// A client of ours at an authorization server.
pub struct Credentials {
    pub client_id: String,
    pub proves: Proves,
}

/// What goes with a form: header fields and parameters.
pub type Proof = (HeaderMap, Vec<(&'static str, String)>);

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: i64,
    exp: i64,
}

impl Credentials {
    /// What goes with a form to `audience` (the server's issuer identifier): header fields and parameters.
    ///
    /// # Errors
    /// [`CredentialsError::Signing`].
    pub fn prove(&self, audience: &str, now: i64, entropy: &dyn Entropy) -> Result<Proof, CredentialsError> {
        let (mut headers, mut form) = (HeaderMap::new(), Vec::new());
        match &self.proves {
            Proves::Basic(secret) => {
                let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = Plain::new(format!("{}:{}", encode(&self.client_id), encode(secret.expose())));
                let value = Plain::new(format!("Basic {}", STANDARD.encode(pair.expose())));
                let mut value = HeaderValue::from_str(value.expose()).map_err(|_| CredentialsError::Signing)?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
            Proves::Post(secret) => {
                form.push(("client_id", self.client_id.clone()));
                form.push(("client_secret", secret.expose().to_owned()));
            }
            Proves::Key(key) => {
                let jti = id::random_text(entropy, 18);
                let (iss, sub) = (self.client_id.as_str(), self.client_id.as_str());
                let claims = Claims { iss, sub, aud: audience, jti, iat: now, exp: now + ASSERTION_S };
                let assertion = key.sign_jwt("JWT", &claims).map_err(|_| CredentialsError::Signing)?;
                form.push(("client_id", self.client_id.clone()));
                form.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()));
                form.push(("client_assertion", assertion));
            }
            Proves::Certificate => form.push(("client_id", self.client_id.clone())),
        }
        Ok((headers, form))
    }
}

/// A private key as PKCS#8 PEM, to sign with that algorithm; without one with what the key is for.
///
/// # Errors
/// [`CredentialsError::Key`].
pub fn signing_key(pem: &str, alg: Option<Alg>) -> Result<SigningKey, CredentialsError> {
    let PrivateKeyDer::Pkcs8(der) = private_key(pem)? else { return Err(CredentialsError::Key) };
    let candidates = alg.map_or_else(|| vec![Alg::ES256, Alg::EdDSA, Alg::ES384, Alg::PS256, Alg::MlDsa65], |alg| vec![alg]);
    let read = |alg| SigningKey::from_pkcs8(alg, der.secret_pkcs8_der()).ok();
    candidates.into_iter().find_map(read).ok_or(CredentialsError::Key)
}

/// A private key of a TLS identity, PEM.
///
/// # Errors
/// [`CredentialsError::Key`].
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| CredentialsError::Key)
}

/// A chain of certificates, PEM, leaf first.
///
/// # Errors
/// [`CredentialsError::Certificate`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(CredentialsError::Certificate)
}

#[cfg(test)]
mod tests {
    use tokens::jws::Parsed;

    use super::*;

    struct Zero;
    impl Entropy for Zero {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn pem(alg: Alg) -> (SigningKey, String) {
        let (key, pkcs8) = SigningKey::generate(alg).unwrap();
        (key, format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(&*pkcs8)))
    }

    #[test]
    fn a_key_signs_what_it_is_for() {
        for alg in [Alg::ES256, Alg::ES384, Alg::EdDSA, Alg::PS256] {
            let (key, pem) = pem(alg);
            let read = signing_key(&pem, None).unwrap();
            assert_eq!((read.alg(), read.kid()), (alg, key.kid()));
        }
        let (_, pem) = pem(Alg::PS256);
        assert_eq!(signing_key(&pem, Some(Alg::RS256)).unwrap().alg(), Alg::RS256);
        assert!(signing_key(&pem, Some(Alg::ES256)).is_err() && signing_key("nothing", None).is_err());
    }

    #[test]
    fn each_method_shows_its_own_proof_and_nothing_else() {
        let of = |proves| Credentials { client_id: "g w".into(), proves }.prove("https://as", 100, &Zero).unwrap();
        let (headers, form) = of(Proves::Basic(Plain::new("s:c")));
        assert_eq!((headers[AUTHORIZATION].to_str().unwrap(), form.len()), (&*format!("Basic {}", STANDARD.encode("g+w:s%3Ac")), 0));
        let (headers, form) = of(Proves::Post(Plain::new("s")));
        assert!(headers.is_empty() && form == [("client_id", "g w".to_owned()), ("client_secret", "s".to_owned())]);
        let (headers, form) = of(Proves::Certificate);
        assert!(headers.is_empty() && form.len() == 1);
        let (key, _) = SigningKey::generate(Alg::ES256).unwrap();
        let (headers, form) = of(Proves::Key(key.clone()));
        assert!(headers.is_empty());
        let parsed = Parsed::parse(&form[2].1).unwrap();
        let claims = parsed.verify(&key.verifying()).unwrap();
        assert_eq!((claims["aud"].as_str(), claims["iss"].as_str(), claims["exp"].as_i64()), (Some("https://as"), Some("g w"), Some(160)));
    }
}
