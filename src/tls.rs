//! TLS of the listeners: rustls over aws-lc-rs, TLS 1.3 and 1.2, the hybrid X25519MLKEM768 preferred; certificates can be swapped while running.
mod clients;

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::{
    ALL_VERSIONS, ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

use self::clients::Clients;
pub use self::clients::{Admitted, Shown};
use crate::config::TlsFiles;

/// Installs the one cryptographic provider of the process; further calls change nothing.
pub fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Losing a race here means that another thread installed the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

/// A listener's TLS; its certificate can be swapped while it serves.
#[derive(Debug)]
pub struct Tls {
    certificate: Arc<Certificate>,
    clients: Arc<Clients>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Certificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// Reads the certificate and key.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or whose key does not fit its certificate.
    pub fn open(files: &TlsFiles) -> anyhow::Result<Self> {
        let certificate = Arc::new(Certificate(ArcSwap::new(certified(files)?)));
        let provider = CryptoProvider::get_default().context("no cryptographic provider")?.clone();
        let clients = Arc::new(Clients::new(Admitted::of(files)?, provider));
        let versions = if files.newest_only { &[&TLS13][..] } else { ALL_VERSIONS };
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().context("no session tickets")?;
        config.max_early_data_size = 0;
        Ok(Self { certificate, clients, config: Arc::new(config) })
    }

    /// Takes over the certificate that another one serves, and whom it lets in.
    pub fn take(&self, fresh: &Self) {
        self.certificate.0.store(fresh.certificate.0.load_full());
        self.clients.take(&fresh.clients);
    }

    /// The configuration of handshakes.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// What a client's certificates count for, whenever it is asked: a resumed session shows those of its first handshake.
    #[must_use]
    pub fn shown(self: &Arc<Self>, chain: &[CertificateDer<'_>]) -> Shown {
        Shown::new(self.clients.clone(), chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
    }

    /// What accepts the next connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }
}

/// Checks that a certificate and its key can be served, without serving them.
///
/// # Errors
/// As [`Tls::open`].
pub fn check(files: &TlsFiles) -> anyhow::Result<()> {
    certified(files)?;
    Admitted::of(files).map(drop)
}

fn certified(files: &TlsFiles) -> anyhow::Result<Arc<CertifiedKey>> {
    install_provider();
    let chain = certificates(&files.cert_file)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key_file).with_context(|| format!("{}: no private key in PEM", files.key_file.display()))?;
    let provider = CryptoProvider::get_default().context("no cryptographic provider")?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .with_context(|| format!("{} and {} do not fit", files.cert_file.display(), files.key_file.display()))?;
    Ok(Arc::new(certified))
}

/// The certificates of a PEM file.
///
/// # Errors
/// A file that cannot be read or holds none.
pub fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("{}: no certificates in PEM", file.display()))?;
    anyhow::ensure!(!chain.is_empty(), "{}: no certificates in PEM", file.display());
    Ok(chain)
}
