//! Protected resource metadata (RFC 9728): what clients have to know of the APIs behind this gateway, told before any credential is asked for.
//!
//! A route's resource is its audience where that is a URL, so that a client may ask for tokens by it (RFC 8707), and else the route's own
//! prefix at the host asked; also where the host asked is the bare address of this very listener, which is nobody's name. A document stands
//! at the well-known path with the resource's path after it (§3.1), of an audience that is another host's with the route's prefix;
//! challenges name the audience's own place. The bare well-known path tells of all routes of the host together. What an administrator
//! routes himself is not shadowed: a public route that matches wins, and so does any route below `/.well-known/`.
use std::net::SocketAddr;

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

use crate::{Settings, asked::Asked, body::AnswerBody};

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
    asked: &Asked<'_>,
) -> Option<Response<AnswerBody>> {
    let path = asked.path.strip_prefix(WELL_KNOWN)?;
    let routed = found.is_some_and(|entry| entry.access == Access::Public || entry.prefix.starts_with("/.well-known/"));
    if routed || !matches!(*asked.method, Method::GET | Method::HEAD) || !(path.is_empty() || path.starts_with('/')) {
        return None;
    }
    let origin = origin(asked)?;
    let all: Vec<(&Guard, Place<'_>)> =
        guards(table, host_name(asked)?).map(|(entry, guard)| (guard, place(entry, guard, asked))).collect();
    let wanted = path.trim_end_matches('/');
    let of = |told: &dyn Fn(&Place<'_>) -> bool| all.iter().find(|(_, place)| told(place)).map(|(_, place)| *place);
    let here = |place: &Place<'_>| place.path.trim_end_matches('/') == wanted;
    let (resource, chosen): (String, Vec<&Guard>) = if let Some(found) =
        of(&|place| here(place) && matches!(place.whose, Whose::Audience(_))).or_else(|| (!wanted.is_empty()).then(|| of(&here)).flatten())
    {
        let chosen = all.iter().filter(|(_, place)| here(place) && place.whose == found.whose).map(|(guard, _)| *guard);
        (found.whose.audience().map_or_else(|| format!("{origin}{path}"), str::to_owned), chosen.collect())
    } else if !wanted.is_empty() {
        return None;
    } else if of(&|place| place.whose.is_here()).is_some() {
        (format!("{origin}{path}"), all.iter().filter(|(_, place)| place.whose.is_here()).map(|(guard, _)| *guard).collect())
    } else {
        // All of them are of another host: of one resource that can be told, of several not.
        let one = all.first()?.1.whose;
        if all.iter().any(|(_, place)| place.whose != one) {
            return None;
        }
        (one.audience()?.to_owned(), all.iter().map(|(guard, _)| *guard).collect())
    };
    let guards = chosen;
    let mut servers: Vec<&str> = Vec::new();
    let mut scopes: Vec<&str> = Vec::new();
    for guard in &guards {
        servers.extend(guard.issuers.iter().map(|issuer| match issuer {
            Issuer::Own => own,
            Issuer::Foreign(name) | Issuer::Authority(name) => name,
        }));
        scopes.extend(guard.scopes.iter().map(String::as_str));
    }
    for names in [&mut servers, &mut scopes] {
        names.sort_unstable();
        names.dedup();
    }
    let document = Document {
        resource,
        authorization_servers: servers,
        scopes_supported: scopes,
        bearer_methods_supported: ["header"],
        dpop_signing_alg_values_supported: settings.proof_algorithms.iter().map(|alg| alg.as_str()).collect(),
        tls_client_certificate_bound_access_tokens: guards.iter().any(|guard| guard.sender.mtls),
        dpop_bound_access_tokens_required: guards.iter().all(|guard| guard.sender.dpop && !guard.sender.mtls),
    };
    let body = serde_json::to_vec(&document).ok()?;
    let mut answer = Response::new(if *asked.method == Method::HEAD { AnswerBody::none() } else { AnswerBody::text(Bytes::from(body)) });
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Some(answer)
}

/// Where the metadata of a route's resource is, for its challenges (RFC 9728 §5.1).
pub(crate) fn address(entry: &Entry, asked: &Asked<'_>) -> Option<String> {
    let Access::Guarded(guard) = &entry.access else { return None };
    if !takes_tokens(guard) {
        return None;
    }
    let (origin, path) = match (place(entry, guard, asked).whose, identifier(guard)) {
        (Whose::Audience(_) | Whose::Elsewhere(_), Some((origin, path))) => (origin.to_owned(), path),
        _ => (origin(asked)?, entry.prefix.as_str()),
    };
    Some(format!("{origin}{WELL_KNOWN}{}", path.trim_end_matches('/')))
}

fn takes_tokens(guard: &Guard) -> bool {
    let none = (guard.accepts.mtls || guard.accepts.session || guard.accepts.api_key) && !(guard.accepts.jwt || guard.accepts.opaque);
    !none
}

fn guards<'t>(table: &'t RouteTable, host: &str) -> impl Iterator<Item = (&'t Entry, &'t Guard)> {
    table.entries().iter().filter(move |entry| entry.is_for(host)).filter_map(|entry| match &entry.access {
        // Where certificates, sessions or API keys alone are taken no server issues tokens for it.
        Access::Guarded(guard) if takes_tokens(guard) => Some((entry, &**guard)),
        Access::Guarded(_) | Access::Public | Access::Closed => None,
    })
}

/// Where on this origin the document of a route's resource stands, and whose resource that is.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a str,
    whose: Whose<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose<'a> {
    /// The host's own.
    Host,
    /// An audience of this host's.
    Audience(&'a str),
    /// An audience of another host's.
    Elsewhere(&'a str),
}

impl<'a> Whose<'a> {
    const fn audience(self) -> Option<&'a str> {
        match self {
            Self::Host => None,
            Self::Audience(name) | Self::Elsewhere(name) => Some(name),
        }
    }
    const fn is_here(self) -> bool {
        !matches!(self, Self::Elsewhere(_))
    }
}

fn place<'a>(entry: &'a Entry, guard: &'a Guard, asked: &Asked<'_>) -> Place<'a> {
    let hosts_own = Place { path: &entry.prefix, whose: Whose::Host };
    let (Some((there, path)), Some(host)) = (identifier(guard), asked.host()) else { return hosts_own };
    // What stands before the gateway may have ended TLS: the host alone says whose it is.
    let same = there.split_once("://").is_some_and(|(scheme, authority)| {
        Target::new(scheme, authority, "/").is_some_and(|target| Target::new(scheme, host, "/").is_some_and(|here| here == target))
    });
    if same {
        Place { path, whose: Whose::Audience(&guard.audience) }
    } else if names_listener(host, asked.local) {
        hosts_own
    } else {
        Place { path: &entry.prefix, whose: Whose::Elsewhere(&guard.audience) }
    }
}

/// Whether a host is the address the request came in at.
fn names_listener(host: &str, local: Option<SocketAddr>) -> bool {
    local.is_some_and(|at| {
        let default = matches!(at.port(), 80 | 443) && host.parse() == Ok(at.ip());
        default || host.parse() == Ok(at) || (at.ip().is_loopback() && host == format!("localhost:{}", at.port()))
    })
}

/// The audience as a resource identifier (§1.2), if it is one: its origin and its path.
fn identifier(guard: &Guard) -> Option<(&str, &str)> {
    let text = guard.audience.as_str();
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'?' | b'#'));
    let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).filter(|_| plain)?;
    Target::new(scheme, authority, "/")?;
    text.split_at_checked(text.len() - path.len())
}

fn origin(asked: &Asked<'_>) -> Option<String> {
    // Only a host that is nothing but a host may come back in a quoted string.
    let host = asked.host().filter(|host| !host.contains(['"', '\\']))?;
    Some(format!("{}://{host}", asked.scheme()?))
}

fn host_name<'a>(asked: &Asked<'a>) -> Option<&'a str> {
    edge::host::Host::parse(asked.headers.get(header::HOST)?.as_bytes()).ok().map(|host| host.name)
}
