//! First phase: what exactly is asked for, and which route is for it.
use std::borrow::Cow;

use edge::{
    Refusal, RouteTable,
    host::Host,
    path,
    table::{Entry, Matched},
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request::Parts};

/// A request that found its route.
pub(crate) struct Routed<'t> {
    pub at: usize,
    pub entry: &'t Entry,
    /// The one normal path.
    pub path: String,
}

/// Checks the request's host, path and header names and finds its route.
pub(crate) fn route<'t>(parts: &mut Parts, table: &'t RouteTable) -> Result<Routed<'t>, Refusal> {
    if matches!(parts.method.as_str(), "TRACE" | "TRACK" | "CONNECT") {
        return Err(Refusal::Method);
    }
    // Of HTTP/1 the octets themselves have been checked.
    if parts.version == Version::HTTP_2 {
        edge::headers::check(&parts.headers).map_err(Refusal::Framing)?;
        if parts.uri.path_and_query().is_some_and(|p| p.as_str().len() > edge::framing::MAX_TARGET) {
            return Err(Refusal::Framing(edge::framing::Violation::TargetTooLong));
        }
    }
    settle_host(parts)?;
    let host = parts.headers.get(header::HOST).ok_or(Refusal::Malformed("host"))?;
    let host = Host::parse(host.as_bytes()).map_err(|_| Refusal::Malformed("host"))?;
    let path = path::normalise(parts.uri.path()).map_err(|why| Refusal::Malformed(why.reason()))?;
    match table.find(host.name, &path, &parts.method, &parts.headers) {
        Matched::Route(at, entry) => Ok(Routed { at, entry, path: path.into_owned() }),
        Matched::OtherMethods => Err(Refusal::Method),
        Matched::Nothing => Err(Refusal::NoRoute),
    }
}

/// Absolute-form and `:authority` replace Host (RFC 9112 §3.2.2), which must be a valid one all the same, and alone.
fn settle_host(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.uri.authority().is_none() && parts.version != Version::HTTP_2 {
        return Ok(());
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    if hosts.next().is_some_and(|host| Host::parse(host.as_bytes()).is_err()) || hosts.next().is_some() {
        return Err(Refusal::Malformed("host"));
    }
    if let Some(authority) = parts.uri.authority() {
        let scheme = parts.uri.scheme_str();
        if scheme.is_some_and(|s| s != "http" && s != "https") {
            return Err(Refusal::Malformed("scheme"));
        }
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Malformed("host"))?;
        parts.headers.insert(header::HOST, value);
    }
    Ok(())
}

/// `Allow` of a 405.
pub(crate) fn allowed(uri: &Uri, headers: &HeaderMap, table: &RouteTable) -> Option<HeaderValue> {
    let host = headers.get(header::HOST).and_then(|h| Host::parse(h.as_bytes()).ok());
    let path = path::normalise(uri.path()).unwrap_or(Cow::Borrowed("/"));
    let names: Vec<String> = table.methods(host.map_or("", |h| h.name), &path).iter().map(Method::to_string).collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}
