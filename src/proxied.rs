//! Client certificates that a TLS-terminating proxy passes on (RFC 9440): believed of trusted proxies if
//! the configuration says that these remove what their own clients send, and taken off every request.
use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Request};
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use web::app::PeerCertificate;

use crate::tls::{Clients, Shown};

/// The certificate of the client.
const LEAF: &str = "client-cert";
/// Those between it and an authority.
const OTHERS: &str = "client-cert-chain";
/// The longest certificate or chain read, characters.
const LONGEST: usize = 32 * 1024;

/// Whose headers are believed, and what certificates count for.
#[derive(Debug, Clone)]
pub struct Proxied {
    proxies: Vec<IpNet>,
    clients: Arc<Clients>,
}

impl Proxied {
    /// The headers of these proxies count, and nobody else's.
    #[must_use]
    pub fn new(proxies: &[IpNet], clients: Arc<Clients>) -> Self {
        Self { proxies: proxies.to_vec(), clients }
    }

    /// Takes the headers off a request. What a trusted proxy says of its client, and if it is nothing, stands in place of what this
    /// connection says of the proxy. It is given back: its authority may have to be asked about it before it counts ([`settle`]).
    pub fn take<B>(&self, request: &mut Request<B>, peer: SocketAddr) -> Option<Shown> {
        let ip = peer.ip().to_canonical();
        let trusted = self.proxies.iter().any(|net| net.contains(&ip));
        if trusted {
            request.extensions_mut().remove::<PeerCertificate>();
        }
        if !request.headers().contains_key(LEAF) && !request.headers().contains_key(OTHERS) {
            return None;
        }
        let shown = if trusted { self.read(request.headers()) } else { None };
        let headers = request.headers_mut();
        headers.remove(LEAF);
        headers.remove(OTHERS);
        shown
    }

    fn read(&self, headers: &HeaderMap) -> Option<Shown> {
        let mut lines = headers.get_all(LEAF).iter();
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        let mut chain = vec![CertificateDer::from(octets(line.to_str().ok()?)?)];
        for line in headers.get_all(OTHERS) {
            for item in line.to_str().ok()?.split(',') {
                chain.push(CertificateDer::from(octets(item)?));
            }
        }
        Some(self.clients.passed_on(chain))
    }
}

/// Makes the client of a request who a certificate makes it, once that is known.
pub async fn settle<B>(shown: &Shown, request: &mut Request<B>) {
    shown.settle().await;
    if let Ok(certificate) = shown.certificate() {
        request.extensions_mut().insert(PeerCertificate(certificate));
    }
}

/// A byte sequence of structured fields (RFC 9651 §3.3.5).
fn octets(item: &str) -> Option<Vec<u8>> {
    let text = item.trim().strip_prefix(':')?.strip_suffix(':')?;
    (text.len() <= LONGEST).then(|| STANDARD.decode(text).ok())?.filter(|octets| !octets.is_empty())
}

#[cfg(test)]
mod tests {
    use tokens::certificate::Certificate;

    use super::*;

    fn taken(peer: &str, lines: &[&str]) -> (Option<Certificate>, bool) {
        let proxied = Proxied::new(&["10.0.0.0/8".parse().unwrap()], Arc::default());
        let mut request = Request::new(());
        request.extensions_mut().insert(PeerCertificate(Certificate::new(b"the proxy's own")));
        for line in lines {
            request.headers_mut().append(LEAF, line.parse().unwrap());
        }
        if let Some(shown) = proxied.take(&mut request, peer.parse().unwrap()) {
            futures_util::FutureExt::now_or_never(settle(&shown, &mut request)).unwrap();
        }
        (request.extensions().get::<PeerCertificate>().map(|c| c.0.clone()), request.headers().contains_key(LEAF))
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_its_client() {
        let (own, sent) = (Certificate::new(b"the proxy's own"), Certificate::new(b"client"));
        assert_eq!(taken("10.1.1.1:9", &[":Y2xpZW50:"]), (Some(sent), false));
        assert_eq!(taken("192.0.2.1:9", &[":Y2xpZW50:"]), (Some(own.clone()), false));
        assert_eq!(taken("192.0.2.1:9", &[]), (Some(own), false));
        assert_eq!(taken("10.1.1.1:9", &[]), (None, false), "the proxy's own is never its client's");
        for bad in [&["Y2xpZW50"][..], &["::"], &[":!:"], &[":Y2xpZW50:", ":Y2xpZW50:"]] {
            assert_eq!(taken("10.1.1.1:9", bad), (None, false), "{bad:?}");
        }
    }
}
