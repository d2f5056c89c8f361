//! Fifth phase: what the upstream is sent. Taken away first, then set.
use std::net::IpAddr;

use edge::{Refusal, RouteTable, balance::Target, headers::Rules, path, table::Entry};
use http::{HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};

use crate::{Settings, seen::HeaderList};

/// What the rewriting needs to know besides the request.
pub(crate) struct Context<'a> {
    pub table: &'a RouteTable,
    pub entry: &'a Entry,
    pub settings: &'a Settings,
    pub peer: IpAddr,
    pub trusted_peer: bool,
    /// Whose request it is, where that is known.
    pub source: Option<IpAddr>,
    /// How it came to us, or to the trusted proxy.
    pub scheme: &'static str,
    /// The normal path.
    pub path: &'a str,
    /// The caller's identity headers.
    pub identity: Option<HeaderList>,
    /// A WebSocket handshake.
    pub websocket: bool,
    /// The caller speaks gRPC-style trailers.
    pub trailers: bool,
}

/// Makes the request the upstream's.
pub(crate) fn rewrite(parts: &mut Parts, context: &Context<'_>) -> Result<(), Refusal> {
    let rules = Rules {
        aliases: context.table.aliases(),
        trusted_peer: context.trusted_peer,
        forward_credentials: context.entry.forward_credentials,
        session_cookies: &context.settings.session_cookies,
    };
    edge::headers::clean(&mut parts.headers, &rules);
    for (name, value) in context.identity.iter().flat_map(|list| list.iter()) {
        parts.headers.insert(name.clone(), value.clone());
    }
    if context.websocket {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if context.trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if context.entry.forwarded {
        forwarded(parts, context);
    }
    retarget(parts, context)
}

/// Tells the address, scheme and host of the request, after what trusted proxies told.
fn forwarded(parts: &mut Parts, context: &Context<'_>) {
    let mut chain: Vec<String> =
        parts.headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    if chain.is_empty() {
        chain.extend(context.source.filter(|source| *source != context.peer).map(|source| source.to_string()));
    }
    chain.push(context.peer.to_string());
    if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
        parts.headers.insert("x-forwarded-for", value);
    }
    parts.headers.entry("x-forwarded-proto").or_insert(HeaderValue::from_static(context.scheme));
    if let Some(host) = parts.headers.get(header::HOST).cloned() {
        parts.headers.entry("x-forwarded-host").or_insert(host);
    }
}

/// The normal path, without the prefix if the route strips it; the query as it came, but octets that no URL has (RFC 3986 §2) are escaped:
/// some servers take one of them for a space, and the rest of the line for something else.
fn retarget(parts: &mut Parts, context: &Context<'_>) -> Result<(), Refusal> {
    let path = if context.entry.strip { path::strip(context.path, &context.entry.prefix) } else { context.path };
    let query = parts.uri.query();
    let ascii = query.is_none_or(str::is_ascii);
    if ascii && parts.uri.authority().is_none() && parts.uri.path() == path {
        return Ok(());
    }
    let target = match query {
        Some(query) if !ascii => PathAndQuery::try_from(format!("{path}?{}", path::escaped(query))),
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    parts.uri = Uri::from(target.map_err(|_| Refusal::Malformed("path"))?);
    Ok(())
}

/// The Host the target is sent over HTTP/1.1.
pub(crate) fn set_host(parts: &mut http::HeaderMap, entry: &Entry, target: &Target) {
    if !entry.upstream.preserve_host {
        parts.insert(header::HOST, target.authority.clone());
    }
}

/// Over HTTP/2 scheme and authority are in the URI and Host is not sent.
pub(crate) fn for_http2(request: &mut http::Request<crate::body::RequestBody>, entry: &Entry, target: &Target) -> Result<(), Refusal> {
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    let given = request.headers_mut().remove(header::HOST).filter(|_| entry.upstream.preserve_host);
    let host = given.unwrap_or_else(|| target.authority.clone());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(if target.tls { "https" } else { "http" }).authority(host.as_bytes()).path_and_query(path);
    *request.uri_mut() = uri.build().map_err(|_| Refusal::Malformed("host"))?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(())
}
