//! TLS of the listeners: rustls over aws-lc-rs, TLS 1.3 and 1.2, the hybrid X25519MLKEM768 preferred; certificates can be swapped while running.
mod clients;
mod lists;
mod ocsp;

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

use ::outbound::Outbound;
use parking_lot::Mutex;

pub use self::clients::{Admitted, Clients, Shown, judge};
use self::{
    lists::{Stamp, stamp},
    ocsp::Ocsp,
};
use crate::{clock::SystemEntropy, config::TlsFiles};

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
    read: Mutex<Read>,
}

/// Which files were read, and as what.
#[derive(Debug)]
struct Read {
    files: TlsFiles,
    lists: Stamp,
    /// What was complained of already.
    refused: Option<Stamp>,
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
    pub fn open(files: &TlsFiles, outbound: &Arc<Outbound>) -> anyhow::Result<Self> {
        let read = Mutex::new(Read { files: files.clone(), lists: stamp(&files.client_crl_files), refused: None });
        let certificate = Arc::new(Certificate(ArcSwap::new(certified(files)?)));
        let provider = CryptoProvider::get_default().context("no cryptographic provider")?.clone();
        let ocsp = files.ocsp.clone().map(|rules| Ocsp::new(rules, outbound.clone(), Arc::new(SystemEntropy)));
        let clients = Arc::new(Clients::new(Admitted::of(files, ocsp)?, provider));
        let versions = if files.newest_only { &[&TLS13][..] } else { ALL_VERSIONS };
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().context("no session tickets")?;
        config.max_early_data_size = 0;
        Ok(Self { certificate, clients, config: Arc::new(config), read })
    }

    /// Takes over the certificate that another one serves, and whom it lets in.
    pub fn take(&self, fresh: &Self) {
        self.certificate.0.store(fresh.certificate.0.load_full());
        let fresh_read = fresh.read.lock();
        let mut read = self.read.lock();
        let admitted = fresh.clients.admitted();
        // What authorities have answered is not forgotten where they are asked by the same rules.
        let kept =
            if read.files.ocsp == fresh_read.files.ocsp { self.clients.admitted().ocsp().cloned() } else { admitted.ocsp().cloned() };
        self.clients.admit(Arc::new(admitted.asking(kept)));
        *read = Read { files: fresh_read.files.clone(), lists: fresh_read.lists.clone(), refused: None };
    }

    /// Reads the revocation lists anew if a file has changed; a bad one is refused, and the old lists stay.
    pub fn renew_lists(&self) {
        let mut read = self.read.lock();
        let now = stamp(&read.files.client_crl_files);
        if now == read.lists || read.refused.as_ref() == Some(&now) {
            return;
        }
        match self.clients.admitted().with_lists(&read.files) {
            Ok(admitted) => {
                tracing::info!(target: "tls", revoked = admitted.revoked(), "revocation lists were read anew");
                metrics::counter!("client_crl_reads_total", "outcome" => "read").increment(1);
                self.clients.admit(Arc::new(admitted));
                (read.lists, read.refused) = (now, None);
            }
            Err(error) => {
                tracing::error!(target: "tls", why = format!("{error:#}"), "a new revocation list is refused; the old ones stay in force");
                metrics::counter!("client_crl_reads_total", "outcome" => "refused").increment(1);
                read.refused = Some(now);
            }
        }
    }

    /// Begins to ask authorities again about the certificates that are shown now, where that is due. To be called within a runtime.
    pub fn renew_answers(&self) {
        let admitted = self.clients.admitted();
        if let Some(ocsp) = admitted.ocsp() {
            ocsp.renew();
        }
    }

    /// Who judges client certificates.
    #[must_use]
    pub const fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// The configuration of handshakes.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// What a client's certificates count for, whenever it is asked: a resumed session shows those of its first handshake.
    #[must_use]
    pub fn shown(&self, chain: Vec<CertificateDer<'static>>) -> Shown {
        self.clients.shown(chain)
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
    Admitted::of(files, None).map(drop)
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
