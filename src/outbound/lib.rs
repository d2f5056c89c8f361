//! Calls to the outside: https only, public addresses only, pinned, no redirects, small and quick.
//!
//! The one way by which any part of the server fetches or posts anything at an address somebody else chose (`CONTRACT` §5, `outbound`).
pub mod connect;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::{Host, Url};

use connect::Endpoint;

/// Longest answer read, octets.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Longest a call may take.
pub const MAX_TIME: Duration = Duration::from_secs(5);

/// Why nothing was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    #[error("the URL is not one that may be called")]
    Url,
    #[error("the host resolves to an address that may not be called")]
    Address,
    #[error("the host cannot be reached")]
    Unreachable,
    #[error("the answer is not 200")]
    Status,
    #[error("the answer is longer than 64 KiB or broken off")]
    Answer,
    #[error("the call took longer than 5 s")]
    Timeout,
}

/// A call to make.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub method: Method,
    /// Whole.
    pub url: &'a str,
    /// `Host` and `User-Agent` are set over them.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most [`MAX_ANSWER`] octets.
    pub body: Bytes,
}

/// The outbound policy and the roots of trust.
pub struct Outbound {
    allow: Vec<String>,
    tls: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
}

impl Outbound {
    /// A policy with exceptions (`host:port`) and extra certificate authorities.
    ///
    /// # Errors
    /// [`rustls::Error`] if a certificate is not one.
    pub fn new(allow: &[String], extra_ca: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let allow = allow.iter().map(|a| a.trim().to_ascii_lowercase()).collect();
        Ok(Self { allow, tls: Arc::new(client_config(extra_ca)?), roots: Arc::new(roots(extra_ca)?) })
    }

    /// Whether an address may be called as far as can be told without looking its name up: https, or http where it is excepted; no user;
    /// no host that is not public by its very name.
    #[must_use]
    pub fn permits(&self, url: &str) -> bool {
        let Ok(url) = Url::parse(url) else { return false };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else { return false };
        let excepted = self.excepted(&host, port);
        let inside = match &host {
            Host::Domain(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::Ipv4(ip) => inward(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => inward(IpAddr::V6(*ip)),
        };
        (url.scheme() == "https" || (url.scheme() == "http" && excepted))
            && (excepted || !inside)
            && url.username().is_empty()
            && url.password().is_none()
    }

    /// The authorities that are trusted.
    #[must_use]
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// The TLS configuration without ALPN.
    #[must_use]
    pub fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// The same rules, with a client certificate for whoever asks for one (RFC 8705 §2).
    ///
    /// # Errors
    /// [`rustls::Error`] if certificate and key do not belong together.
    pub fn with_identity(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let mut tls = ClientConfig::clone(&self.tls);
        identify(&mut tls, chain, key)?;
        Ok(Self { allow: self.allow.clone(), tls: Arc::new(tls), roots: Arc::clone(&self.roots) })
    }

    /// Fetches a document: one GET, one answer, which must be 200.
    ///
    /// # Errors
    /// What the policy or the other side refuses.
    pub async fn get(&self, url: &str) -> Result<Bytes, OutboundError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let reply = self.call(Call { method: Method::GET, url, headers, body: Bytes::new() }).await?;
        if reply.status == StatusCode::OK { Ok(reply.body) } else { Err(OutboundError::Status) }
    }

    /// Makes one call; whatever status it is answered with is an answer, and a redirect is not followed.
    ///
    /// # Errors
    /// What the policy refuses, or an answer that is none.
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, OutboundError> {
        tokio::time::timeout(MAX_TIME, self.send(call)).await.map_err(|_| OutboundError::Timeout)?
    }

    async fn send(&self, call: Call<'_>) -> Result<Reply, OutboundError> {
        let url = Url::parse(call.url).map_err(|_| OutboundError::Url)?;
        let host = url.host().ok_or(OutboundError::Url)?;
        let port = url.port_or_known_default().ok_or(OutboundError::Url)?;
        let excepted = self.excepted(&host, port);
        let tls = match url.scheme() {
            "https" => true,
            "http" if excepted => false,
            _ => return Err(OutboundError::Url),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(OutboundError::Url);
        }
        let name = match &host {
            Host::Domain(name) => (*name).to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let address = resolve(&name, port, excepted).await?;
        let endpoint = Endpoint { host: &name, address: Some(address), port, tls: tls.then_some(&self.tls) };
        let stream = connect::open(&endpoint).await.map_err(|_| OutboundError::Unreachable)?;
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::new(Full::new(call.body));
        *request.method_mut() = call.method;
        *request.uri_mut() = target.parse().map_err(|_| OutboundError::Url)?;
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| OutboundError::Url)?);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("doorward"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| OutboundError::Unreachable)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|_| OutboundError::Answer)?;
            let (parts, body) = answer.into_parts();
            let body = whole::read(body, MAX_ANSWER).await.map_err(|_| OutboundError::Answer)?;
            Ok(Reply { status: parts.status, headers: parts.headers, body })
        };
        let mut answer = std::pin::pin!(answer);
        let mut connection = std::pin::pin!(connection);
        let mut driving = true;
        std::future::poll_fn(|cx| {
            if driving && connection.as_mut().poll(cx).is_ready() {
                driving = false;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    fn excepted(&self, host: &Host<&str>, port: u16) -> bool {
        let named = format!("{host}:{port}").to_ascii_lowercase();
        self.allow.contains(&named)
    }
}

/// TLS to servers trusted by the public roots and by these authorities.
///
/// # Errors
/// [`rustls::Error`] if a certificate is not one.
pub fn client_config(extra_ca: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let roots = roots(extra_ca)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn roots(extra_ca: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for ca in extra_ca {
        roots.add(ca.clone())?;
    }
    Ok(roots)
}

/// Gives TLS a client certificate to show.
///
/// # Errors
/// [`rustls::Error`] if certificate and key do not belong together.
pub fn identify(tls: &mut ClientConfig, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), rustls::Error> {
    let certified = CertifiedKey::from_der(chain, key, tls.crypto_provider())?;
    tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    Ok(())
}

/// The one address to call: every address of the name must be allowed, or none is used.
async fn resolve(host: &str, port: u16, excepted: bool) -> Result<SocketAddr, OutboundError> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(|_| OutboundError::Unreachable)?.collect();
    if !excepted && found.iter().any(|a| inward(a.ip())) {
        return Err(OutboundError::Address);
    }
    found.first().copied().ok_or(OutboundError::Unreachable)
}

/// Whether an address is not a public unicast one.
#[must_use]
pub fn inward(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => inward_v4(v4),
        IpAddr::V6(v6) => inward_v6(v6),
    }
}

fn inward_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || matches!((a, b, c), (0 | 224.., _, _) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _))
}

fn inward_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let tunnelled = a == 0x2002 || (a == 0x2001 && (b < 0x0200 || b == 0x0db8)) || a == 0x3fff;
    !global || tunnelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_unicast_addresses_are_outside() {
        for ip in [
            "127.0.0.1",
            "10.1.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(inward(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "100.63.0.1", "172.32.0.1"] {
            assert!(!inward(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn what_can_never_be_called_is_known_without_asking_anybody() {
        let outbound = Outbound::new(&["10.0.0.7:8080".into()], &[]).unwrap();
        for url in ["https://rp.example.com/x", "https://8.8.8.8/", "http://10.0.0.7:8080/jwks", "https://10.0.0.7:8080/"] {
            assert!(outbound.permits(url), "{url}");
        }
        for url in [
            "http://rp.example.com/",
            "https://169.254.169.254/",
            "https://[::1]/",
            "https://0x7f.1/",
            "https://localhost/",
            "https://a.localhost./",
            "https://10.0.0.7/",
            "https://u:p@rp.example.com/",
            "http://u@10.0.0.7:8080/",
            "ftp://rp.example.com/",
            "rp.example.com",
        ] {
            assert!(!outbound.permits(url), "{url}");
        }
    }

    #[tokio::test]
    async fn plain_http_and_private_hosts_are_refused_unless_excepted() {
        let outbound = Outbound::new(&[], &[]).unwrap();
        assert_eq!(outbound.get("http://example.com/").await, Err(OutboundError::Url));
        assert_eq!(outbound.get("https://127.0.0.1:1/").await, Err(OutboundError::Address));
        assert_eq!(outbound.get("https://[::ffff:127.0.0.1]:1/").await, Err(OutboundError::Address));
        assert_eq!(outbound.get("https://localhost:1/").await, Err(OutboundError::Address));
        let excepted = Outbound::new(&["127.0.0.1:1".into()], &[]).unwrap();
        assert_eq!(excepted.get("http://127.0.0.1:1/").await, Err(OutboundError::Unreachable));
    }
}
