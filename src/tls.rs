//! TLS of the listeners: rustls over aws-lc-rs, TLS 1.3 and 1.2, the hybrid X25519MLKEM768 preferred; certificates can be swapped while running.
use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Installs the one cryptographic provider of the process; further calls change nothing.
pub fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race here means that another thread installed the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

/// A listener's TLS, swappable.
#[derive(Debug)]
pub struct Tls(ArcSwap<ServerConfig>);

impl Tls {
    /// Reads the certificate and key.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or whose key does not fit its certificate.
    pub fn open(files: &TlsFiles) -> anyhow::Result<Self> {
        Ok(Self(ArcSwap::new(server_config(files)?)))
    }

    /// Reads them anew; on failure the old ones stay.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reload(&self, files: &TlsFiles) -> anyhow::Result<()> {
        self.0.store(server_config(files)?);
        Ok(())
    }

    /// What accepts the next connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// Checks that a certificate and its key can be served, without serving them.
///
/// # Errors
/// As [`Tls::open`].
pub fn check(files: &TlsFiles) -> anyhow::Result<()> {
    server_config(files).map(drop)
}

fn server_config(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    install_provider();
    let chain = certificates(&files.cert_file)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key_file).with_context(|| format!("{}: no private key in PEM", files.key_file.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("{} and {} do not fit", files.cert_file.display(), files.key_file.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().context("no session tickets")?;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
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
