//! The files of a listener's TLS, as configured and checked.
use std::path::PathBuf;

/// A certificate and its key, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub cert_file: PathBuf,
    /// The key, PEM.
    pub key_file: PathBuf,
    /// Authorities of client certificates, PEM.
    pub client_ca_files: Vec<PathBuf>,
    /// Whether any client certificate whose key is proved is let in.
    pub any_client: bool,
    /// TLS 1.3 alone.
    pub newest_only: bool,
    /// Most certificates between a client's and its authority.
    pub client_depth: usize,
    /// Revocation lists, PEM or DER.
    pub client_crl_files: Vec<PathBuf>,
    /// Whether a certificate that no list in force covers counts for nothing.
    pub crl_hard: bool,
    /// How authorities are asked about certificates, if they are.
    pub ocsp: Option<OcspRules>,
}

/// How authorities are asked about client certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcspRules {
    /// Whether a certificate counts only while there is an answer.
    pub hard: bool,
    /// The responder, in place of the one that a certificate names.
    pub url: Option<String>,
    /// How old an answer may become before the next one is asked for, seconds.
    pub max_age: i64,
}
