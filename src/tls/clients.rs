//! Client certificates (RFC 8705): asked for, never demanded; the key of every one that is shown is proved in the handshake.
use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokens::certificate::Certificate;

use crate::config::TlsFiles;

/// Which certificates a listener lets in. Swapped as a whole when the configuration is read anew.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// Verifies a chain up to the configured authorities, if there are some.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    /// Whether certificates of nobody's are let in besides.
    any: bool,
}

impl Admitted {
    /// What these files say.
    ///
    /// # Errors
    /// A file of authorities that cannot be read or holds none that can be used.
    pub fn of(files: &TlsFiles) -> anyhow::Result<Self> {
        Ok(Self { authorities: authorities(&files.client_ca_files)?, any: files.any_client })
    }

    /// The same, for a certificate that a proxy vouches for: the proxy has seen its key proved.
    #[must_use]
    pub fn any(mut self) -> Self {
        self.any = true;
        self
    }

    const fn asks(&self) -> bool {
        self.any || self.authorities.is_some()
    }

    /// What a chain, leaf first, counts for now.
    #[must_use]
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Option<Certificate> {
        let (leaf, others) = chain.split_first()?;
        let verifies = |authorities: &Arc<dyn ClientCertVerifier>| authorities.verify_client_cert(leaf, others, UnixTime::now()).is_ok();
        match &self.authorities {
            Some(authorities) if verifies(authorities) => Some(Certificate::verified(leaf)),
            _ if self.any => Some(Certificate::new(leaf)),
            _ => None,
        }
    }
}

/// The certificates that a client proved in its handshake. They count for what is admitted when they are asked about, not when the
/// connection was opened: an authority that is gone after a reload is gone for open connections too.
pub struct Shown {
    clients: Arc<Clients>,
    chain: Vec<CertificateDer<'static>>,
    last: ArcSwap<(Arc<Admitted>, Option<Certificate>)>,
}

impl Shown {
    pub(super) fn new(clients: Arc<Clients>, chain: Vec<CertificateDer<'static>>) -> Self {
        let admitted = clients.admitted();
        let certificate = admitted.judge(&chain);
        Self { clients, chain, last: ArcSwap::from_pointee((admitted, certificate)) }
    }

    /// Whom they make the client, now.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        let (admitted, last) = (self.clients.admitted(), self.last.load());
        if Arc::ptr_eq(&last.0, &admitted) {
            return last.1.clone();
        }
        let certificate = admitted.judge(&self.chain);
        self.last.store(Arc::new((admitted, certificate.clone())));
        certificate
    }
}

fn authorities(files: &[PathBuf]) -> anyhow::Result<Option<Arc<dyn ClientCertVerifier>>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for file in files {
        for certificate in super::certificates(file).context("client_ca_files")? {
            roots.add(certificate).with_context(|| format!("client_ca_files: {}: not an authority's certificate", file.display()))?;
        }
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().context("client_ca_files")?;
    Ok(Some(verifier))
}

/// What rustls asks during a handshake.
#[derive(Debug)]
pub struct Clients {
    admitted: ArcSwap<Admitted>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    /// Lets in what is admitted.
    pub fn new(admitted: Admitted, provider: Arc<CryptoProvider>) -> Self {
        Self { admitted: ArcSwap::from_pointee(admitted), provider }
    }
    /// What is admitted now.
    pub fn admitted(&self) -> Arc<Admitted> {
        self.admitted.load_full()
    }
    /// Lets in what another one does.
    pub fn take(&self, fresh: &Self) {
        self.admitted.store(fresh.admitted.load_full());
    }
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.admitted.load().asks()
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: whom a client may show is decided by what is admitted now, not when the listener was opened.
        &[]
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let admitted = self.admitted.load();
        match &admitted.authorities {
            _ if admitted.any => Ok(ClientCertVerified::assertion()),
            Some(authorities) => authorities.verify_client_cert(leaf, others, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
