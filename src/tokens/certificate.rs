//! A client certificate as the handshake proved it (RFC 8705).
use std::sync::Arc;

use crate::{b64, hash};

/// The end-entity certificate of a connection; its private key was proved in the handshake. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Arc<[u8]>,
    thumbprint: Arc<str>,
}

impl Certificate {
    /// A certificate in DER.
    #[must_use]
    pub fn new(der: &[u8]) -> Self {
        Self { thumbprint: b64::encode(&hash::sha256(der)).into(), der: der.into() }
    }
    /// Its SHA-256 thumbprint, base64url (RFC 8705 §3.1).
    #[must_use]
    pub fn x5t_s256(&self) -> &str {
        &self.thumbprint
    }
    /// Its octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}
