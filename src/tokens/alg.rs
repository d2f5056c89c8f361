//! Signature algorithms (RFC 7518 §3.1, RFC 8037, RFC 9964): the asymmetric ones only; `none` and `HS*` have no name here.
use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ML_DSA_65, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaParameters, VerificationAlgorithm,
};
use jsonwebtoken::Algorithm;

/// A signature algorithm Doorward signs or verifies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alg {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ML-DSA with parameter set 65 (FIPS 204, RFC 9964): post-quantum, only where the deployment wants it.
    MlDsa65,
}

impl Alg {
    /// Every classical algorithm, strongest habit first: what works everywhere.
    pub const ALL: [Self; 5] = [Self::ES256, Self::ES384, Self::RS256, Self::PS256, Self::EdDSA];

    /// The classical algorithms and the post-quantum one: whatever a signature may be read with.
    pub const EVERY: [Self; 6] = [Self::ES256, Self::ES384, Self::RS256, Self::PS256, Self::EdDSA, Self::MlDsa65];

    /// The JOSE name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::RS256 => "RS256",
            Self::PS256 => "PS256",
            Self::EdDSA => "EdDSA",
            Self::MlDsa65 => "ML-DSA-65",
        }
    }

    /// The algorithm of that JOSE name (case-sensitive, RFC 7515 §4.1.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|a| a.as_str() == name)
    }

    /// As [`Alg::parse`], for what others wrote: newer libraries call `EdDSA` with this curve `Ed25519` (RFC 9864 §2.2).
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        if name == "Ed25519" { Some(Self::EdDSA) } else { Self::parse(name) }
    }

    /// The same in `jsonwebtoken`'s vocabulary, as far as it has a word.
    #[must_use]
    pub const fn jose(self) -> Option<Algorithm> {
        Some(match self {
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::RS256 => Algorithm::RS256,
            Self::PS256 => Algorithm::PS256,
            Self::EdDSA => Algorithm::EdDSA,
            Self::MlDsa65 => return None,
        })
    }

    /// How signatures of this algorithm are verified.
    pub(crate) fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::ES256 => &ECDSA_P256_SHA256_FIXED,
            Self::ES384 => &ECDSA_P384_SHA384_FIXED,
            Self::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::PS256 => &RSA_PSS_2048_8192_SHA256,
            Self::EdDSA => &ED25519,
            Self::MlDsa65 => &ML_DSA_65,
        }
    }

    /// The RSA parameters, for the two RSA algorithms.
    pub(crate) const fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::ES256 | Self::ES384 | Self::EdDSA | Self::MlDsa65 => None,
        }
    }
}

impl fmt::Display for Alg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
