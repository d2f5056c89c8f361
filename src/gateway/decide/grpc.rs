//! Envoy's `ext_authz` over gRPC (`envoy.service.auth.v3.Authorization/Check`): one message in, one out, over HTTP/2.
use std::{net::IpAddr, rc::Rc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use edge::Refusal;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;

use super::{
    Case, Granted, judge, mention,
    original::{self, Dialect, Original},
    record, refused,
    wire::{Fields, Garbled, Message},
};
use crate::{
    Gateway,
    body::AnswerBody,
    framed::HEAD_TIME,
    hop::Conn,
    worker::{Current, Worker},
};

/// The largest message taken, octets: Envoy's limits on heads, and some.
const MOST: usize = 256 * 1024;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Codes of gRPC.
const OK: u16 = 0;
const INVALID_ARGUMENT: u16 = 3;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const UNAUTHENTICATED: u16 = 16;

/// A failed call: trailers alone (no answer at all counts as a no with every front that fails closed).
fn failed(code: u16) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::none());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer.headers_mut().insert(STATUS, HeaderValue::from(code));
    metrics::counter!("gateway_decisions_total", "dialect" => Dialect::Grpc.as_str(), "outcome" => "failed").increment(1);
    answer
}

/// Answers one `Check`.
pub(super) async fn check(
    worker: &Rc<Worker>,
    current: &Rc<Current>,
    conn: &Conn,
    request: Request<Incoming>,
    started: Instant,
) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let mut kinds = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let grpc = kinds.next().is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) && kinds.next().is_none();
    let compressed = parts.headers.get(&ENCODING).is_some_and(|encoding| encoding != "identity");
    let octets = match received(body).await {
        Ok(octets) => octets,
        Err(code) => return failed(code),
    };
    // Told once all of it is here: some clients do not hear an answer that comes before they have finished.
    if parts.version != Version::HTTP_2 || parts.method != Method::POST || !grpc {
        return failed(UNIMPLEMENTED);
    }
    let message = match octets.split_at_checked(5) {
        Some((&[0, a, b, c, d], message)) if u32::from_be_bytes([a, b, c, d]) as usize == message.len() => message,
        Some((&[1, ..], _)) => return failed(UNIMPLEMENTED),
        _ => return failed(INVALID_ARGUMENT),
    };
    if compressed {
        return failed(UNIMPLEMENTED);
    }
    let Ok(told) = Told::read(message) else { return failed(INVALID_ARGUMENT) };
    let mut case = Case::new(worker, conn, Dialect::Grpc, &parts.headers);
    let granted = match told.original(&worker.gateway) {
        Ok(original) => judge(worker, current, conn, (original, Version::HTTP_11), &mut case).await,
        Err(refusal) => Err(refusal),
    };
    let reason = granted.as_ref().err().map_or("ok", |refusal| refusal.reason());
    let (mut answer, message) = match granted {
        Ok(granted) => (Response::new(AnswerBody::none()), allowed(current, &case, &granted)),
        Err(refusal) => {
            let answer = refused(worker, current, conn, refusal, &mut case);
            let life = case.account.route.and_then(|at| current.table.entries().get(at)).and_then(|entry| entry.life.as_ref());
            let body = life.filter(|_| refusal == Refusal::Gone).map_or(refusal.body(), |life| &life.gone);
            let message = denied(&answer, body);
            (answer, message)
        }
    };
    record(worker, current, conn, &mut case, (&mut answer, reason), started);
    let mut framed = Vec::with_capacity(message.0.len() + 5);
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.0.len()).unwrap_or(0).to_be_bytes());
    framed.extend_from_slice(&message.0);
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(OK));
    let mut out = Response::new(AnswerBody::trailed(Bytes::from(framed), trailers));
    out.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    out
}

/// The whole body, if it is not too large and comes in time.
async fn received(body: Incoming) -> Result<Bytes, u16> {
    match tokio::time::timeout(HEAD_TIME, whole::read(body, MOST)).await {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(_)) | Err(_) => Err(RESOURCE_EXHAUSTED),
    }
}

/// What a `CheckRequest` tells.
#[derive(Default)]
struct Told<'a> {
    address: &'a str,
    certificate: &'a str,
    method: &'a str,
    path: &'a str,
    host: &'a str,
    scheme: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
    /// With every line of its own (`encode_raw_headers`).
    raw: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Told<'a> {
    /// Reads the message: `attributes` (1) with `source` (1) and `request` (4).
    fn read(message: &'a [u8]) -> Result<Self, Garbled> {
        let mut out = Self::default();
        Fields(message).each(|field, value| match field {
            1 => Fields(value.octets()?).each(|field, value| match field {
                1 => out.source(value.octets()?),
                4 => Fields(value.octets()?).each(|field, value| if field == 2 { out.http(value.octets()?) } else { Ok(()) }),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(out)
    }

    /// A `Peer`: `address` (1), of it `socket_address` (1), of that `address` (2); `certificate` (5).
    fn source(&mut self, peer: &'a [u8]) -> Result<(), Garbled> {
        Fields(peer).each(|field, value| {
            match field {
                1 => Fields(value.octets()?).each(|field, value| match field {
                    1 => Fields(value.octets()?).each(|field, value| {
                        if field == 2 {
                            self.address = value.text()?;
                        }
                        Ok(())
                    }),
                    _ => Ok(()),
                })?,
                5 => self.certificate = value.text()?,
                _ => {}
            }
            Ok(())
        })
    }

    /// An `HttpRequest`.
    fn http(&mut self, request: &'a [u8]) -> Result<(), Garbled> {
        Fields(request).each(|field, value| {
            match field {
                2 => self.method = value.text()?,
                3 => {
                    let (mut name, mut text) = ("", &b""[..]);
                    Fields(value.octets()?).each(|field, value| {
                        match field {
                            1 => name = value.text()?,
                            2 => text = value.octets()?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    self.headers.push((name, text));
                }
                4 => self.path = value.text()?,
                5 => self.host = value.text()?,
                6 => self.scheme = value.text()?,
                13 => Fields(value.octets()?).each(|field, value| if field == 1 { self.line(value.octets()?) } else { Ok(()) })?,
                _ => {}
            }
            Ok(())
        })
    }

    /// A `HeaderValue`: `key` (1), `value` (2), `raw_value` (3).
    fn line(&mut self, line: &'a [u8]) -> Result<(), Garbled> {
        let (mut name, mut text) = ("", &b""[..]);
        Fields(line).each(|field, value| {
            match field {
                1 => name = value.text()?,
                2 | 3 if text.is_empty() => text = value.octets()?,
                _ => {}
            }
            Ok(())
        })?;
        self.raw.push((name, text));
        Ok(())
    }

    fn original(&self, gateway: &Gateway) -> Result<Original, Refusal> {
        let lines = if self.raw.is_empty() { &self.headers } else { &self.raw };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let same = match *name {
                ":method" => self.method.as_bytes() == *value,
                ":path" => self.path.as_bytes() == *value,
                ":authority" => self.host.as_bytes() == *value,
                ":scheme" => self.scheme.as_bytes() == *value,
                _ => true,
            };
            if !same {
                return Err(Refusal::Malformed("front_disagrees"));
            }
            if name.starts_with(':') {
                continue;
            }
            let field = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_bytes(value).ok());
            let (name, value) = field.ok_or(Refusal::Malformed("field_name"))?;
            headers.append(name, value);
        }
        if self.method.is_empty() || self.path.is_empty() || self.host.is_empty() {
            return Err(Refusal::Malformed("front_missing"));
        }
        let address: IpAddr = self.address.parse().map_err(|_| Refusal::Malformed("front_source"))?;
        let chain = match self.certificate {
            "" => None,
            text => Some(pem(text).ok_or(Refusal::Malformed("front_certificate"))?),
        };
        let trusted = |ip| gateway.trusted_peer(ip);
        let original = original::of_grpc(self.method, self.scheme, self.host, self.path, headers, address.to_canonical(), trusted)?;
        Ok(Original { chain, ..original })
    }
}

/// The certificates of URL-encoded PEM text.
fn pem(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    let chain = text.split("-----BEGIN CERTIFICATE-----").skip(1).map(|block| {
        let (body, _) = block.split_once("-----END CERTIFICATE-----")?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        STANDARD.decode(body).ok().map(CertificateDer::from)
    });
    chain.collect::<Option<Vec<_>>>().filter(|chain| !chain.is_empty())
}

/// A `HeaderValueOption` that replaces: `append` says no.
fn option(name: &str, value: &[u8], append: bool) -> Message {
    let (mut field, mut says, mut option) = (Message::default(), Message::default(), Message::default());
    field.octets(1, name.as_bytes()).octets(2, value);
    if append {
        says.number(1, 1);
    }
    option.message(1, &field).message(2, &says);
    option
}

/// Header fields of an answer: the first of a name replaces, those after it are appended to that (and to nothing where it is not there).
fn lines(message: &mut Message, field: u64, headers: &HeaderMap) {
    for name in headers.keys() {
        for (n, value) in headers.get_all(name).iter().enumerate() {
            message.message(field, &option(name.as_str(), value.as_bytes(), n > 0));
        }
    }
}

/// A yes: `ok_response` (3) with `headers` (2), `headers_to_remove` (5), `response_headers_to_add` (6).
fn allowed(current: &Current, case: &Case, granted: &Granted) -> Message {
    let mut ok = Message::default();
    for (name, value) in &granted.set {
        ok.message(2, &option(name.as_str(), value.as_bytes(), false));
    }
    for name in &granted.remove {
        ok.octets(5, name.as_str().as_bytes());
    }
    let mut headers = HeaderMap::new();
    mention(current, case, &mut headers);
    lines(&mut ok, 6, &headers);
    let mut out = Message::default();
    // An empty status is OK.
    out.octets(1, &[]).message(3, &ok);
    out
}

/// A no: `denied_response` (2) with `status` (1), `headers` (2), `body` (3).
fn denied(answer: &Response<AnswerBody>, body: &str) -> Message {
    let (mut code, mut status, mut denied) = (Message::default(), Message::default(), Message::default());
    let http = answer.status().as_u16();
    code.number(1, u64::from(if http == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED }));
    status.number(1, u64::from(http));
    denied.message(1, &status);
    let mut headers = answer.headers().clone();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::CONNECTION);
    lines(&mut denied, 2, &headers);
    denied.octets(3, body.as_bytes());
    let mut out = Message::default();
    out.message(1, &code).message(2, &denied);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let (mut http, mut wanted, mut attributes, mut out) =
            (Message::default(), Message::default(), Message::default(), Message::default());
        http.octets(1, b"id").octets(2, method.as_bytes()).octets(4, path.as_bytes()).octets(5, b"a.example").octets(6, b"https");
        for (name, value) in headers {
            let mut pair = Message::default();
            pair.octets(1, name.as_bytes()).octets(2, value.as_bytes());
            http.message(3, &pair);
        }
        wanted.message(2, &http);
        let (mut socket, mut address, mut peer) = (Message::default(), Message::default(), Message::default());
        socket.octets(2, b"192.0.2.1").number(3, 4711);
        address.message(1, &socket);
        peer.message(1, &address).octets(5, b"x");
        attributes.message(1, &peer).message(4, &wanted);
        out.message(1, &attributes).octets(99, b"unknown");
        out.0
    }

    #[test]
    fn a_check_request_is_read() {
        let octets = request("GET", "/p?q", &[(":path", "/p?q"), ("authorization", "Bearer x")]);
        let told = Told::read(&octets).unwrap();
        assert_eq!((told.address, told.method, told.path, told.host, told.scheme), ("192.0.2.1", "GET", "/p?q", "a.example", "https"));
        assert_eq!(told.headers[1], ("authorization", &b"Bearer x"[..]));
        assert_eq!(told.certificate, "x");
    }

    #[test]
    fn every_cut_and_every_flipped_octet_is_read_or_garbled_but_never_panics() {
        let octets = request("GET", "/p?q", &[("a", "b")]);
        for n in 0..octets.len() {
            let _ = Told::read(&octets[..n]);
            for bit in 0..8 {
                let mut flipped = octets.clone();
                flipped[n] ^= 1 << bit;
                let _ = Told::read(&flipped);
            }
        }
        assert!(Told::read(&octets[..octets.len() - 1]).is_err());
    }

    #[test]
    fn certificates_come_as_url_encoded_pem() {
        let text = "-----BEGIN%20CERTIFICATE-----%0AY2VydA%3D%3D%0A-----END%20CERTIFICATE-----%0A";
        assert_eq!(pem(text).unwrap(), [CertificateDer::from(b"cert".to_vec())]);
        assert!(pem("nonsense").is_none());
    }
}
