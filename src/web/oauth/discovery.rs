//! Metadata and key set as prepared octets, rebuilt when the keys change (OpenID Connect Discovery §4, RFC 8414 §3, RFC 7517 §5).
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use metrics::Histogram;
use protocol::{Settings, discovery, discovery::issuer_path};
use tokens::keyring::KeyRing;

use crate::{
    App,
    reply::{self, Failed},
    wire,
};

/// A document ready to send.
pub(crate) struct Prepared {
    octets: Bytes,
    etag: HeaderValue,
    cache: HeaderValue,
    /// Its whole head as [`ready`] answers it, but for the date.
    head: Bytes,
    /// The whole answer of one second, for all who ask in it.
    dated: ArcSwapOption<(i64, Bytes)>,
}

impl Prepared {
    fn new(octets: Bytes, cache: &'static str, https: bool) -> Self {
        let tag = format!("\"{}\"", tokens::b64::encode(&tokens::hash::sha256(&octets)));
        let etag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"0\""));
        let mut prepared = Self { octets, etag, cache: HeaderValue::from_static(cache), head: Bytes::new(), dated: ArcSwapOption::empty() };
        let mut head = Vec::with_capacity(512);
        let answer = prepared.dressed(&HeaderMap::new(), https);
        wire::head(&mut head, answer.status(), answer.headers(), prepared.octets.len());
        prepared.head = Bytes::from(head);
        prepared
    }

    /// The answer of [`ready`] as octets. The `last` of a connection says so.
    fn whole(&self, now: i64, last: bool, date: impl FnOnce() -> String) -> Bytes {
        if !last && let Some(dated) = self.dated.load().as_deref().filter(|dated| dated.0 == now) {
            return dated.1.clone();
        }
        let end: &[u8] = if last { b"connection: close\r\ndate: " } else { b"date: " };
        let whole = Bytes::from([&self.head, end, date().as_bytes(), b"\r\n\r\n", &self.octets].concat());
        if !last {
            self.dated.store(Some(Arc::new((now, whole.clone()))));
        }
        whole
    }

    /// The answer of [`ready`]: of what every page carries, these two mean something for JSON.
    fn dressed(&self, headers: &HeaderMap, https: bool) -> Response {
        let mut answer = self.send(headers);
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if https {
            answer.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, reply::HSTS);
        }
        answer
    }

    /// Sends it, or 304 to whoever has it (RFC 9110 §13.1.2).
    pub(crate) fn send(&self, headers: &HeaderMap) -> Response {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|v| {
            v.to_str().is_ok_and(|v| {
                v.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == "*" || t.as_bytes() == self.etag.as_bytes())
            })
        });
        let mut response = Response::new(if known { Body::empty() } else { Body::from(self.octets.clone()) });
        response.headers_mut().reserve(12);
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let out = response.headers_mut();
        out.insert(header::ETAG, self.etag.clone());
        out.insert(header::CACHE_CONTROL, self.cache.clone());
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response
    }
}

/// Both documents as of one ring of keys.
pub(crate) struct Documents {
    ring: Arc<KeyRing>,
    pub(crate) metadata: Option<Prepared>,
    pub(crate) keys: Prepared,
}

/// The documents now, and where [`ready`] answers them.
pub(crate) struct Published {
    documents: ArcSwap<Documents>,
    keys: (String, OnceLock<Histogram>),
    metadata: (String, OnceLock<Histogram>),
}

impl Published {
    pub(crate) fn new(settings: &Settings, ring: Arc<KeyRing>) -> Self {
        let base = issuer_path(&settings.issuer);
        Self {
            documents: ArcSwap::from_pointee(Documents::new(settings, ring)),
            keys: (format!("{base}/jwks"), OnceLock::new()),
            metadata: (format!("{base}/.well-known/openid-configuration"), OnceLock::new()),
        }
    }

    pub(crate) fn current(&self, app: &App) -> Arc<Documents> {
        let (documents, ring) = (self.documents.load(), app.keys.load());
        if Arc::ptr_eq(&documents.ring, &ring) {
            return Arc::clone(&documents);
        }
        let fresh = Arc::new(Documents::new(&app.settings, Arc::clone(&ring)));
        self.documents.store(Arc::clone(&fresh));
        fresh
    }

    fn count(&self, document: Document, took: Duration) {
        let (endpoint, histogram) = match document {
            Document::Keys => ("jwks", &self.keys.1),
            Document::Metadata => ("discovery", &self.metadata.1),
        };
        let named = || metrics::histogram!("http_request_seconds", "endpoint" => endpoint, "status" => "200");
        histogram.get_or_init(named).record(took);
    }
}

/// The answer to a request for one of the two documents that everybody fetches, before any routing: nothing but prepared
/// octets and headers. Anything else, a query included, goes the router's way.
#[must_use]
pub fn ready<B>(app: &App, request: &Request<B>) -> Option<Response> {
    if request.method() != Method::GET || request.uri().query().is_some() {
        return None;
    }
    let (path, published) = (request.uri().path(), &app.published);
    let document = if path == published.keys.0 {
        Document::Keys
    } else if path == published.metadata.0 {
        Document::Metadata
    } else {
        return None;
    };
    let begun = tokio::time::Instant::now();
    let answer = published.current(app).of(document)?.dressed(request.headers(), app.settings.issuer.starts_with("https:"));
    if answer.status() == StatusCode::OK {
        published.count(document, begun.elapsed());
    }
    Some(answer)
}

/// The same as octets, for whoever asks for the document whether it changed or not. `date` is asked for once a second.
pub(crate) fn whole(app: &App, document: Document, now: i64, last: bool, date: impl FnOnce() -> String) -> Option<Bytes> {
    let begun = tokio::time::Instant::now();
    let documents = app.published.current(app);
    let whole = documents.of(document)?.whole(now, last, date);
    app.published.count(document, begun.elapsed());
    Some(whole)
}

/// A document that everybody fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    Keys,
    Metadata,
}

impl Documents {
    const fn of(&self, document: Document) -> Option<&Prepared> {
        match document {
            Document::Keys => Some(&self.keys),
            Document::Metadata => self.metadata.as_ref(),
        }
    }

    fn new(settings: &Settings, ring: Arc<KeyRing>) -> Self {
        let https = settings.issuer.starts_with("https:");
        let metadata = match discovery::document(settings, ring.algorithms()) {
            Ok(octets) => Some(Prepared::new(Bytes::from(octets), "public, max-age=300", https)),
            Err(error) => {
                tracing::error!(reason = %error.reason, "no metadata");
                None
            }
        };
        let keys = Prepared::new(Bytes::copy_from_slice(&ring.jwks_json()), "public, max-age=60", https);
        Self { ring, metadata, keys }
    }
}

/// `GET /.well-known/openid-configuration`, `GET /.well-known/oauth-authorization-server`
pub(crate) async fn get(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match &app.published.current(&app).metadata {
        Some(metadata) => metadata.send(&headers),
        None => Failed::Refused(protocol::OAuthError::fault("no metadata")).into_response(),
    }
}

/// What is nowhere.
pub(crate) async fn nowhere() -> Response {
    reply::problem(StatusCode::NOT_FOUND, "nothing is here")
}

/// What is there, but not with this method. The router adds `Allow`.
pub(crate) async fn wrong_method() -> Response {
    reply::problem(StatusCode::METHOD_NOT_ALLOWED, "this method is not possible here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_buffer_is_sent_to_all_who_ask_in_a_second_and_the_last_answer_says_that_it_is() {
        let prepared = Prepared::new(Bytes::from_static(b"{}"), "public, max-age=60", true);
        let at = |now: i64, last: bool| prepared.whole(now, last, || format!("date {now}"));
        let (first, again) = (at(1, false), at(1, false));
        assert_eq!(first.as_ptr(), again.as_ptr());
        let text = String::from_utf8(first.to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("content-length: 2\r\ndate: date 1\r\n\r\n{}"), "{text}");
        let last = String::from_utf8(at(1, true).to_vec()).unwrap();
        assert_eq!(last, text.replace("date: ", "connection: close\r\ndate: "));
        assert_eq!(at(1, false), first, "nobody else is told so");
        assert_eq!(at(2, false), text.replace("date 1", "date 2").into_bytes());
    }
}
