//! Protected resource metadata (RFC 9728): what clients have to know of the APIs behind this gateway, told before any credential is asked for.
//!
//! A route's resource is its audience where that is a URL of the host asked, else the route's own prefix. A document stands at the
//! well-known path with the resource's path after it (§3.1); the bare well-known path tells of all routes of the host together. What an
//! administrator routes himself is not shadowed: a public route that matches wins, and so does any route below `/.well-known/`.
use bytes::Bytes;
use edge::{
    RouteTable,
    admission::{Access, Guard},
    identity::Issuer,
    table::Entry,
};
use http::{HeaderValue, Method, Response, header};
use serde::Serialize;
use tokens::dpop::Target;

use crate::{Settings, body::AnswerBody, sender::Shown};

/// The well-known path (RFC 9728 §3).
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

#[derive(Serialize)]
struct Document<'a> {
    resource: String,
    authorization_servers: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<&'a str>,
    bearer_methods_supported: [&'static str; 1],
    dpop_signing_alg_values_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_client_certificate_bound_access_tokens: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dpop_bound_access_tokens_required: bool,
}

/// The document a request asks for, if it is for one: `found` is the route that would take it otherwise.
pub(crate) fn answer(
    table: &RouteTable,
    (own, settings): (&str, &Settings),
    found: Option<&Entry>,
    shown: &Shown<'_>,
) -> Option<Response<AnswerBody>> {
    let path = shown.path.strip_prefix(WELL_KNOWN)?;
    let routed = found.is_some_and(|entry| entry.access == Access::Public || entry.prefix.starts_with("/.well-known/"));
    if routed || !matches!(*shown.method, Method::GET | Method::HEAD) || !(path.is_empty() || path.starts_with('/')) {
        return None;
    }
    let origin = origin(shown)?;
    let host = host_name(shown)?;
    let of_host = || guards(table, host);
    let asked = path.trim_end_matches('/');
    let guards: Vec<&Guard> = if asked.is_empty() {
        of_host().map(|(_, guard)| guard).collect()
    } else {
        of_host()
            .filter(|(entry, guard)| resource_path(entry, guard, &origin).trim_end_matches('/') == asked)
            .map(|(_, guard)| guard)
            .collect()
    };
    if guards.is_empty() {
        return None;
    }
    let mut servers: Vec<&str> = Vec::new();
    let mut scopes: Vec<&str> = Vec::new();
    for guard in &guards {
        servers.extend(guard.issuers.iter().map(|issuer| match issuer {
            Issuer::Own => own,
            Issuer::Foreign(name) => name,
        }));
        scopes.extend(guard.scopes.iter().map(String::as_str));
    }
    for names in [&mut servers, &mut scopes] {
        names.sort_unstable();
        names.dedup();
    }
    let document = Document {
        resource: format!("{origin}{path}"),
        authorization_servers: servers,
        scopes_supported: scopes,
        bearer_methods_supported: ["header"],
        dpop_signing_alg_values_supported: settings.proof_algorithms.iter().map(|alg| alg.as_str()).collect(),
        tls_client_certificate_bound_access_tokens: guards.iter().any(|guard| guard.sender.mtls),
        dpop_bound_access_tokens_required: guards.iter().all(|guard| guard.sender.dpop && !guard.sender.mtls),
    };
    let body = serde_json::to_vec(&document).ok()?;
    let mut answer = Response::new(if *shown.method == Method::HEAD { AnswerBody::none() } else { AnswerBody::text(Bytes::from(body)) });
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Some(answer)
}

/// Where the metadata of a route's resource is, for its challenges (RFC 9728 §5.1).
pub(crate) fn address(entry: &Entry, shown: &Shown<'_>) -> Option<String> {
    let Access::Guarded(guard) = &entry.access else { return None };
    let origin = origin(shown)?;
    let path = resource_path(entry, guard, &origin);
    Some(format!("{origin}{WELL_KNOWN}{}", path.trim_end_matches('/')))
}

fn guards<'t>(table: &'t RouteTable, host: &str) -> impl Iterator<Item = (&'t Entry, &'t Guard)> {
    table.entries().iter().filter(move |entry| entry.is_for(host)).filter_map(|entry| match &entry.access {
        Access::Guarded(guard) => Some((entry, guard)),
        Access::Public | Access::Closed => None,
    })
}

/// The path of a route's resource on this origin.
fn resource_path<'a>(entry: &'a Entry, guard: &'a Guard, origin: &str) -> &'a str {
    let same = |text: &str| {
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
        let (own_scheme, own_authority) = origin.split_once("://")?;
        let there = Target::new(scheme, authority, "/").filter(|_| !path.contains(['?', '#']))?;
        (there == Target::new(own_scheme, own_authority, "/")?).then_some(text.len() - path.len())
    };
    match same(&guard.audience).and_then(|at| guard.audience.get(at..)) {
        Some(path) => path,
        None => &entry.prefix,
    }
}

fn origin(shown: &Shown<'_>) -> Option<String> {
    // Only a host that is nothing but a host may come back in a quoted string.
    let host = shown.host().filter(|host| !host.contains(['"', '\\']))?;
    Some(format!("{}://{host}", shown.scheme()?))
}

fn host_name<'a>(shown: &Shown<'a>) -> Option<&'a str> {
    edge::host::Host::parse(shown.headers.get(header::HOST)?.as_bytes()).ok().map(|host| host.name)
}
