//! Who signed what in the world of certificates (RFC 5280): authorities, their revocation lists, their OCSP responders.
pub mod crl;
mod der;
pub mod ocsp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws_lc_rs::{digest, signature as sig};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::SubjectPublicKeyInfo};

use der::{Reader, SEQUENCE};

/// A certificate that signs: an authority, or a responder it has delegated to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    der: Vec<u8>,
    /// The subject as it is encoded.
    name: Vec<u8>,
    issuer: Vec<u8>,
    /// The `SubjectPublicKeyInfo` as it is encoded.
    info: Vec<u8>,
    /// The octets of the key itself.
    key: Vec<u8>,
    serial: Vec<u8>,
    validity: (i64, i64),
    /// `cRLSign`, or no key usage at all.
    signs_lists: bool,
    /// Says that it signs OCSP answers.
    signs_answers: bool,
}

impl Signer {
    /// Reads a certificate in DER.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let Ok(([], certificate)) = X509Certificate::from_der(der) else { return None };
        let usage = certificate.key_usage().ok()?;
        let extended = certificate.extended_key_usage().ok()?;
        Some(Self(Arc::new(Inner {
            der: der.to_vec(),
            name: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            info: certificate.public_key().raw.to_vec(),
            key: certificate.public_key().subject_public_key.data.to_vec(),
            serial: certificate.raw_serial().to_vec(),
            validity: (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()),
            signs_lists: usage.is_none_or(|usage| usage.value.crl_sign()),
            signs_answers: extended.is_some_and(|extended| extended.value.ocsp_signing),
        })))
    }
    /// Its octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }
    /// Its subject as it is encoded.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.0.name
    }
    /// Its issuer's name as it is encoded.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.0.issuer
    }
    /// Its serial number as it is encoded.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.0.serial
    }
    /// Its `SubjectPublicKeyInfo` as it is encoded.
    #[must_use]
    pub fn info(&self) -> &[u8] {
        &self.0.info
    }
    /// From when until when it is valid, seconds since the epoch.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        self.0.validity
    }
    /// Whether its common name, the SHA-256 fingerprint of its certificate (hexadecimal), or nothing of it is this text.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::hash::sha256(&self.0.der).iter().map(|octet| format!("{octet:02x}")).collect()
    }
    /// Its last common name.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        let Ok(([], certificate)) = X509Certificate::from_der(&self.0.der) else { return None };
        certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok()).map(str::to_owned)
    }

    /// Whether it made this signature.
    fn signed(&self, algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Ok(([], info)) = SubjectPublicKeyInfo::from_der(&self.0.info) else { return false };
        let Some(scheme) = scheme(algorithm, &info) else { return false };
        sig::UnparsedPublicKey::new(scheme, &self.0.key).verify(message, signature).is_ok()
    }

    fn key_sha1(&self) -> digest::Digest {
        sha1(&self.0.key)
    }
}

/// The hash of certificate identifiers (RFC 5019 §2.1.1): it names and does not protect.
fn sha1(octets: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, octets)
}

/// What a signature of this `AlgorithmIdentifier` by this key is verified with. No SHA-1, no RSA key under 2048 bits.
fn scheme(algorithm: &[u8], info: &SubjectPublicKeyInfo<'_>) -> Option<&'static dyn sig::VerificationAlgorithm> {
    let mut inside = Reader::new(algorithm).inside(SEQUENCE)?;
    let oid = inside.body(der::OID)?;
    let curve = || info.algorithm.parameters.as_ref()?.as_oid().ok().map(|oid| oid.to_id_string());
    Some(match oid {
        // sha256/384/512WithRSAEncryption
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b] => &sig::RSA_PKCS1_2048_8192_SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c] => &sig::RSA_PKCS1_2048_8192_SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d] => &sig::RSA_PKCS1_2048_8192_SHA512,
        // RSASSA-PSS with the hash its parameters name first
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a] => {
            let hash = inside.inside(SEQUENCE)?.inside(der::tagged(0))?.inside(SEQUENCE)?.body(der::OID)?;
            match hash {
                [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01] => &sig::RSA_PSS_2048_8192_SHA256,
                [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02] => &sig::RSA_PSS_2048_8192_SHA384,
                [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03] => &sig::RSA_PSS_2048_8192_SHA512,
                _ => return None,
            }
        }
        // ecdsa-with-SHA256/384/512
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, hash] => match (curve()?.as_str(), hash) {
            ("1.2.840.10045.3.1.7", 2) => &sig::ECDSA_P256_SHA256_ASN1,
            ("1.2.840.10045.3.1.7", 3) => &sig::ECDSA_P256_SHA384_ASN1,
            ("1.3.132.0.34", 2) => &sig::ECDSA_P384_SHA256_ASN1,
            ("1.3.132.0.34", 3) => &sig::ECDSA_P384_SHA384_ASN1,
            ("1.3.132.0.35", 4) => &sig::ECDSA_P521_SHA512_ASN1,
            _ => return None,
        },
        // Ed25519
        [0x2b, 0x65, 0x70] => &sig::ED25519,
        _ => return None,
    })
}
