//! TLS of upstreams' own: authorities, names, SPIFFE IDs and our certificates, read from files and read again when they change.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use ahash::AHashMap;
use edge::balance::Secured;
use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokens::certificate::Certificate;

/// The configurations of handshakes, by the protocols they offer.
pub(crate) struct Handshakes {
    pub http1: Arc<ClientConfig>,
    pub http2: Arc<ClientConfig>,
    pub both: Arc<ClientConfig>,
    /// The name asked for, if not the target's.
    pub name: Option<String>,
}

impl Handshakes {
    pub(crate) fn new(tls: &ClientConfig, name: Option<String>) -> Self {
        let with = |protocols: &[&[u8]]| {
            let mut config = tls.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        };
        Self { http1: with(&[b"http/1.1"]), http2: with(&[b"h2"]), both: with(&[b"h2", b"http/1.1"]), name }
    }
}

type Stamps = Vec<Option<(SystemTime, u64)>>;

struct Trust {
    secured: Arc<Secured>,
    stamps: Stamps,
    ready: Option<Arc<Handshakes>>,
}

/// The TLS of every upstream that has its own.
pub(crate) struct Trusts {
    roots: Arc<RootCertStore>,
    known: Mutex<AHashMap<Arc<str>, Trust>>,
    epoch: AtomicU64,
}

impl Trusts {
    /// `roots` count where an upstream names no authority.
    pub(crate) fn new(roots: Arc<RootCertStore>) -> Self {
        Self { roots, known: Mutex::default(), epoch: AtomicU64::new(0) }
    }

    /// Grows when files changed: connections opened before are not used for what comes after.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Files changed.
    pub(crate) fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The handshakes of an upstream.
    ///
    /// # Errors
    /// Its files cannot be used and never could.
    pub(crate) fn of(&self, secured: &Arc<Secured>) -> io::Result<Arc<Handshakes>> {
        let mut known = self.known.lock();
        if let Some(trust) = known.get(&secured.id)
            && trust.secured == *secured
        {
            return trust.ready.clone().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its TLS files cannot be used"));
        }
        let (stamps, read) = (stamps(secured), self.read(secured));
        let ready = read.as_ref().ok().cloned();
        known.insert(Arc::clone(&secured.id), Trust { secured: Arc::clone(secured), stamps, ready });
        read.inspect_err(|error| tracing::error!(target: "gateway", upstream = %secured.id, %error, "TLS of an upstream cannot be used"))
    }

    /// Reads files that changed again. Files that cannot be used leave in force what was.
    pub(crate) fn reload(&self) {
        let all: Vec<(Arc<Secured>, Stamps)> = self.known.lock().values().map(|t| (Arc::clone(&t.secured), t.stamps.clone())).collect();
        for (secured, before) in all {
            let now = stamps(&secured);
            if now == before {
                continue;
            }
            let read = self.read(&secured);
            let mut known = self.known.lock();
            let Some(trust) = known.get_mut(&secured.id).filter(|t| t.secured == secured) else { continue };
            trust.stamps = now;
            match read {
                Ok(ready) => {
                    trust.ready = Some(ready);
                    self.changed();
                    tracing::info!(target: "gateway", upstream = %secured.id, "TLS files of an upstream read again");
                }
                Err(error) => {
                    tracing::error!(target: "gateway", upstream = %secured.id, %error, "changed TLS files of an upstream cannot be used");
                }
            }
        }
    }

    /// Forgets upstreams that are no longer there.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.known.lock().retain(|id, _| wanted(id));
    }

    fn read(&self, secured: &Secured) -> io::Result<Arc<Handshakes>> {
        Ok(Arc::new(Handshakes::new(&config(&secured.tls, &self.roots)?, secured.tls.server_name.clone())))
    }
}

/// Whether the files of an upstream's TLS can be used, without using them.
///
/// # Errors
/// What is wrong with which of them.
pub fn check(tls: &edge::upstream_tls::UpstreamTls) -> io::Result<()> {
    config(tls, &Arc::new(RootCertStore::empty())).map(drop)
}

fn stamps(secured: &Secured) -> Stamps {
    let tls = &secured.tls;
    [&tls.ca_file, &tls.client_certificate_file, &tls.client_key_file]
        .into_iter()
        .flatten()
        .map(|file| std::fs::metadata(file).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
        .collect()
}

fn named(at: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{at}: {error}"))
}

fn config(tls: &edge::upstream_tls::UpstreamTls, roots: &Arc<RootCertStore>) -> io::Result<ClientConfig> {
    let roots = match (&tls.ca_file, &tls.ca_pem) {
        (Some(file), _) => authorities("tls.ca_file", &std::fs::read(file).map_err(|e| named("tls.ca_file", e))?)?,
        (None, Some(pem)) => authorities("tls.ca_pem", pem.as_bytes())?,
        (None, None) => Arc::clone(roots),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { roots, provider, spiffe_id: tls.spiffe_id.clone() }));
    match (&tls.client_certificate_file, &tls.client_key_file) {
        (Some(certificate), Some(key)) => {
            let octets = std::fs::read(certificate).map_err(|e| named("tls.client_certificate_file", e))?;
            let chain = certificates("tls.client_certificate_file", &octets)?;
            // What a broken key file holds is nobody's to read.
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| named("tls.client_key_file", "no private key in PEM"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| named("tls.client_key_file", e))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(at: &str, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| named(at, "no certificates in PEM"))?;
    if chain.is_empty() { Err(named(at, "no certificates in PEM")) } else { Ok(chain) }
}

fn authorities(at: &str, pem: &[u8]) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(at, pem)? {
        roots.add(certificate).map_err(|e| named(at, e))?;
    }
    Ok(Arc::new(roots))
}

/// Verifies the chain of an upstream, and its name or its SPIFFE ID.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    spiffe_id: Option<String>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        match &self.spiffe_id {
            None => verify_server_name(&leaf, server_name)?,
            // Its one URI (X509-SVID §2): a certificate of more than one is nobody's.
            Some(id) if Certificate::verified(end_entity).only_uri_is(id) => {}
            Some(_) => return Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
