//! Client certificates (RFC 8705): asked for, never demanded; the key of every one that is shown is proved in the handshake, its chain
//! (RFC 5280) and its revocation are judged whenever somebody asks what it counts for.
use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use tokens::{
    certificate::{Authority, Certificate, Doubt},
    pki::{Signer, ocsp::About},
};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    lists::Lists,
    ocsp::{Ocsp, Watch},
};
use crate::config::TlsFiles;

/// An authority of client certificates.
#[derive(Debug, Clone)]
struct Trusted {
    anchor: TrustAnchor<'static>,
    signer: Signer,
    known: Arc<Authority>,
}

/// Which certificates a listener lets in. Swapped as a whole when the configuration or a revocation list is read anew.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    trusted: Arc<Vec<Trusted>>,
    anchors: Arc<Vec<TrustAnchor<'static>>>,
    /// Whether certificates of nobody's are let in besides.
    any: bool,
    /// Most certificates between a client's and its authority.
    depth: usize,
    lists: Arc<Lists>,
    ocsp: Option<Arc<Ocsp>>,
}

/// What a chain counts for, and until when that need not be looked at again.
#[derive(Debug, Clone)]
struct Judged {
    verdict: Result<Certificate, Doubt>,
    /// Seconds since the epoch.
    until: i64,
    /// Asks the authority about it.
    watch: Option<Arc<Watch>>,
}

impl Judged {
    const fn doubted(doubt: Doubt) -> Self {
        Self { verdict: Err(doubt), until: i64::MAX, watch: None }
    }
}

fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl Admitted {
    /// What these files say.
    ///
    /// # Errors
    /// A file of authorities or revocation lists that cannot be read or holds none that can be used.
    pub fn of(files: &TlsFiles, ocsp: Option<Arc<Ocsp>>) -> anyhow::Result<Self> {
        let trusted = authorities(&files.client_ca_files)?;
        let signers: Vec<Signer> = trusted.iter().map(|authority| authority.signer.clone()).collect();
        let lists = Lists::read(&files.client_crl_files, &signers, files.crl_hard)?;
        Ok(Self {
            anchors: Arc::new(trusted.iter().map(|authority| authority.anchor.clone()).collect()),
            trusted: Arc::new(trusted),
            any: files.any_client,
            depth: files.client_depth,
            lists: Arc::new(lists),
            ocsp,
        })
    }

    /// The same with revocation lists read anew.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn with_lists(&self, files: &TlsFiles) -> anyhow::Result<Self> {
        let signers: Vec<Signer> = self.trusted.iter().map(|authority| authority.signer.clone()).collect();
        let lists = Lists::read(&files.client_crl_files, &signers, files.crl_hard)?;
        Ok(Self { lists: Arc::new(lists), ..self.clone() })
    }

    /// The same, asking authorities by this.
    #[must_use]
    pub fn asking(&self, ocsp: Option<Arc<Ocsp>>) -> Self {
        Self { ocsp, ..self.clone() }
    }

    /// How many certificates its lists name.
    #[must_use]
    pub fn revoked(&self) -> usize {
        self.lists.named()
    }

    /// What asks authorities.
    #[must_use]
    pub const fn ocsp(&self) -> Option<&Arc<Ocsp>> {
        self.ocsp.as_ref()
    }

    fn asks(&self) -> bool {
        self.any || !self.trusted.is_empty()
    }

    /// Whether a chain, leaf first, leads to an authority, and to which by which certificates.
    fn path(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(Trusted, Vec<Vec<u8>>), Doubt> {
        let (leaf, others) = chain.split_first().ok_or(Doubt::Untrusted)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Doubt::Untrusted)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let path =
            leaf.verify_for_usage(algorithms, &self.anchors, others, now, KeyUsage::client_auth(), None, None).map_err(
                |error| match error {
                    webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => Doubt::Expired,
                    webpki::Error::RequiredEkuNotFoundContext(_) => Doubt::Usage,
                    _ => Doubt::Untrusted,
                },
            )?;
        let between: Vec<Vec<u8>> = path.intermediate_certificates().map(|certificate| certificate.der().to_vec()).collect();
        let anchor = path.anchor();
        let found = self
            .trusted
            .iter()
            .find(|known| known.anchor.subject == anchor.subject && known.anchor.subject_public_key_info == anchor.subject_public_key_info);
        let trusted = found.ok_or(Doubt::Untrusted)?.clone();
        if between.len() > self.depth { Err(Doubt::Untrusted) } else { Ok((trusted, between)) }
    }

    /// What a chain, leaf first, counts for now.
    fn judge(&self, chain: &[CertificateDer<'_>], any: bool, now: UnixTime) -> Judged {
        let Some(leaf) = chain.first() else { return Judged::doubted(Doubt::Untrusted) };
        let (trusted, between) = match self.path(chain, now) {
            Ok(path) => path,
            Err(doubt) => {
                let verdict = if any { Ok(Certificate::new(leaf)) } else { Err(doubt) };
                // One that is not valid yet may be later.
                let until = if doubt == Doubt::Expired && !any { seconds(now) + 1 } else { i64::MAX };
                return Judged { verdict, until, watch: None };
            }
        };
        let signers: Option<Vec<Signer>> = std::iter::once(&leaf[..]).chain(between.iter().map(Vec::as_slice)).map(Signer::read).collect();
        let Some(mut signers) = signers else { return Judged::doubted(Doubt::Untrusted) };
        let mut until = signers.iter().map(|signer| signer.validity().1.saturating_add(1)).min().unwrap_or(i64::MIN);
        signers.push(trusted.signer.clone());
        let (mut uncovered, mut leaf_uncovered) = (false, false);
        for (at, pair) in signers.windows(2).enumerate() {
            let [certificate, issuer] = pair else { continue };
            let listed = self.lists.ask(certificate, issuer, seconds(now));
            until = until.min(listed.until);
            match listed.revoked {
                Some(true) => return Judged { verdict: Err(Doubt::Revoked), until, watch: None },
                Some(false) => {}
                None if at == 0 => leaf_uncovered = true,
                None => uncovered = true,
            }
        }
        let watch = match (&self.ocsp, signers.as_slice()) {
            (Some(ocsp), [of_leaf, issuer, ..]) => Some(ocsp.watch(leaf, About::new(of_leaf, issuer))),
            _ => None,
        };
        if self.lists.hard && (uncovered || (leaf_uncovered && watch.is_none())) {
            return Judged { verdict: Err(Doubt::Undecided("crl")), until, watch: None };
        }
        // A list that is missing is made up for by an answer.
        let watch = watch.map(|watch| if self.lists.hard && leaf_uncovered { watch.demanded() } else { watch });
        Judged { verdict: Ok(Certificate::vouched(leaf, trusted.known, between)), until, watch }
    }
}

/// The certificates that a client proved in its handshake. They count for what is known when they are asked about, not when the
/// connection was opened: an authority that is gone after a reload is gone for open connections too, and so is a certificate that expired
/// or was revoked since.
pub struct Shown {
    clients: Arc<Clients>,
    chain: Vec<CertificateDer<'static>>,
    /// Whether a certificate of nobody's counts as one that nobody vouches for.
    any: Option<bool>,
    last: ArcSwap<(Arc<Admitted>, Judged)>,
}

impl Shown {
    fn new(clients: Arc<Clients>, chain: Vec<CertificateDer<'static>>, any: Option<bool>) -> Self {
        let admitted = clients.admitted();
        let judged = admitted.judge(&chain, any.unwrap_or(admitted.any), UnixTime::now());
        Self { clients, chain, any, last: ArcSwap::from_pointee((admitted, judged)) }
    }

    /// Waits for the first answer about them, if their authority is to be asked and none is known.
    pub async fn settle(&self) {
        let watch = self.last.load().1.watch.clone();
        if let Some(watch) = watch {
            watch.settle().await;
        }
    }

    /// Whom they make the client, now.
    ///
    /// # Errors
    /// Why they count for nothing.
    pub fn certificate(&self) -> Result<Certificate, Doubt> {
        let now = UnixTime::now();
        let (admitted, last) = (self.clients.admitted(), self.last.load());
        if Arc::ptr_eq(&last.0, &admitted) && seconds(now) < last.1.until {
            return settled(&last.1, seconds(now));
        }
        let judged = admitted.judge(&self.chain, self.any.unwrap_or(admitted.any), now);
        let verdict = settled(&judged, seconds(now));
        self.last.store(Arc::new((admitted, judged)));
        verdict
    }
}

fn settled(judged: &Judged, now: i64) -> Result<Certificate, Doubt> {
    let certificate = judged.verdict.as_ref().map_err(|doubt| *doubt)?;
    match &judged.watch {
        Some(watch) => watch.verdict(now).map(|()| certificate.clone()),
        None => Ok(certificate.clone()),
    }
}

fn authorities(files: &[PathBuf]) -> anyhow::Result<Vec<Trusted>> {
    let mut out: Vec<Trusted> = Vec::new();
    for file in files {
        for certificate in super::certificates(file).context("client_ca_files")? {
            let wrong = || format!("client_ca_files: {}: not an authority's certificate", file.display());
            let anchor = webpki::anchor_from_trusted_cert(&certificate).with_context(wrong)?.to_owned();
            let signer = Signer::read(&certificate).with_context(wrong)?;
            let fingerprint = signer.fingerprint();
            let known = Authority {
                name: signer.common_name().filter(|name| !name.is_empty()).unwrap_or_else(|| fingerprint.clone()).into(),
                file: file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
                fingerprint,
            };
            if !out.iter().any(|other| other.signer == signer) {
                out.push(Trusted { anchor, signer, known: Arc::new(known) });
            }
        }
    }
    Ok(out)
}

fn provider() -> CryptoProvider {
    CryptoProvider::get_default().map_or_else(rustls::crypto::aws_lc_rs::default_provider, |provider| CryptoProvider::clone(provider))
}

/// What rustls asks during a handshake, and what judges what was shown in one.
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
    /// Lets in what is admitted from now on.
    pub fn admit(&self, admitted: Arc<Admitted>) {
        self.admitted.store(admitted);
    }
    /// What a client's certificates count for, whenever it is asked: a resumed session shows those of its first handshake.
    #[must_use]
    pub fn shown(self: &Arc<Self>, chain: Vec<CertificateDer<'static>>) -> Shown {
        Shown::new(self.clone(), chain, None)
    }
    /// The same for certificates that a proxy vouches for: the proxy has seen their keys proved, whoever issued them.
    #[must_use]
    pub fn passed_on(self: &Arc<Self>, chain: Vec<CertificateDer<'static>>) -> Shown {
        Shown::new(self.clone(), chain, Some(true))
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(Admitted::default(), Arc::new(provider()))
    }
}

/// What the gateway asks about certificates, shown to it or passed on.
pub fn judge(clients: Arc<Clients>, shown: fn(&Arc<Clients>, Vec<CertificateDer<'static>>) -> Shown) -> gateway::Judge {
    Arc::new(move |chain| {
        let shown = Arc::new(shown(&clients, chain));
        let asked = shown.clone();
        gateway::Judged { standing: Arc::new(move || shown.certificate()), settled: Box::pin(async move { asked.settle().await }) }
    })
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
        if admitted.any {
            return Ok(ClientCertVerified::assertion());
        }
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(others).map(|one| CertificateDer::from(&one[..])).collect();
        // Whether it is revoked is said to whoever asks, in words; a client that only gets an alert learns nothing.
        let doubt = match admitted.path(&chain, now) {
            Ok(_) => return Ok(ClientCertVerified::assertion()),
            Err(Doubt::Expired) => CertificateError::Expired,
            Err(Doubt::Usage) => CertificateError::InvalidPurpose,
            Err(_) => CertificateError::UnknownIssuer,
        };
        Err(Error::InvalidCertificate(doubt))
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
