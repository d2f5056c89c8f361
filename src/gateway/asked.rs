//! What is asked of the admission: one request, however it came here (proxied, asked about by another gateway, explained).
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, header};

use crate::Standing;

/// A request that found its route, and what its connection proved.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub method: &'a Method,
    /// `Host` stands for the one that counts.
    pub headers: &'a HeaderMap,
    /// The one normal path.
    pub path: &'a str,
    /// As it came.
    pub query: Option<&'a str>,
    /// Who is at the other end of the connection.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy, which may say whose request it is and how it came to it.
    pub trusted: bool,
    /// How the request came; `None`: either way would do.
    pub tls: Option<bool>,
    /// Where it came in.
    pub local: Option<SocketAddr>,
    /// The client certificate of the connection.
    pub certificate: Option<&'a Standing>,
    /// Only to be explained: nothing is counted, nothing spent.
    pub rehearsal: bool,
}

impl Asked<'_> {
    /// How the request came, as far as that is known.
    pub(crate) fn scheme(&self) -> Option<&'static str> {
        let told = if self.trusted { edge::forwarded::scheme(self.headers) } else { None };
        told.or_else(|| self.tls.map(|tls| if tls { "https" } else { "http" }))
    }
    /// The host as it was sent.
    pub(crate) fn host(&self) -> Option<&str> {
        self.headers.get(header::HOST).and_then(|host| host.to_str().ok())
    }
}
