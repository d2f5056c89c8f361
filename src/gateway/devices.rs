//! Whose a client certificate is: the device registry as the gateway asks it.
//!
//! Tokens and API keys say themselves which device they are ([`edge::identity::Identity::device_of`]); a certificate has to be looked up.
//! Whoever turns a certificate into an identity sets its `device` to [`Found::device`] and its `claims.seq` to [`Found::seq`], refuses one
//! that is [`Found::disabled`], and when a revocation ends that identity looks again before refusing: the device may have been enabled
//! or moved since.
use std::sync::Arc;

use async_trait::async_trait;
use edge::identity::Device;

/// What is known of a client certificate that was proved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Certificate<'a> {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: &'a str,
    /// Its subject (RFC 4514).
    pub subject: &'a str,
    /// The URIs among its subject's alternative names.
    pub san_uris: &'a [String],
    /// Which authority of the listener vouches for it.
    pub authority: &'a str,
}

/// A device that a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub device: Arc<Device>,
    /// Nothing of it may be let in.
    pub disabled: bool,
    /// The ledger position that was known before it was looked for: what revokes the device later stands behind it.
    pub seq: u64,
}

/// It cannot be known now whose a certificate is: 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device registry cannot be asked")]
pub struct Unknown;

/// The device registry.
#[async_trait]
pub trait Devices: Send + Sync {
    /// The device that this certificate stands for; `None` if it is no device's. What is remembered counts if it was read after
    /// `since_ms`; it is now `now_ms`.
    async fn of_certificate(&self, certificate: &Certificate<'_>, now_ms: i64, since_ms: i64) -> Result<Option<Found>, Unknown>;
}

/// No registry: no certificate is a device's.
pub struct NoDevices;

#[async_trait]
impl Devices for NoDevices {
    async fn of_certificate(&self, _: &Certificate<'_>, _: i64, _: i64) -> Result<Option<Found>, Unknown> {
        Ok(None)
    }
}
