//! WebSocket handshakes: the key and what answers it (RFC 6455 §4.2.2), and those that come over HTTP/2 (RFC 8441).
use base64::{Engine as _, engine::general_purpose::STANDARD};
use edge::Refusal;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use hyper::ext::Protocol;
use tokens::Entropy;

use crate::framed::Shared;

const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request is a handshake. Over HTTP/1.1 (RFC 6455 §4.1) the reader of the connection has said so: it lets nothing pass after
/// one until it is answered. One over HTTP/2 is made into that.
pub(crate) fn is<B>(request: &mut Request<B>, shared: Option<&Shared>, entropy: &dyn Entropy) -> bool {
    shared.map_or_else(|| over_http2(request, entropy), Shared::is_handshake)
}

/// What an upstream has to answer a handshake with.
///
/// # Errors
/// The handshake has no key, two, or one that is not 16 octets.
pub(crate) fn accept(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return Err(Refusal::Malformed("websocket_key")) };
    let key = key.to_str().map_err(|_| Refusal::Malformed("websocket_key"))?;
    if STANDARD.decode(key).map_or(true, |octets| octets.len() != 16) {
        return Err(Refusal::Malformed("websocket_key"));
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    Ok(STANDARD.encode(digest))
}

/// Makes a handshake over HTTP/2 into the one HTTP/1.1 has, with a key of ours. False if it is none.
fn over_http2<B>(request: &mut Request<B>, entropy: &dyn Entropy) -> bool {
    let asked = request.version() == Version::HTTP_2
        && request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if !asked {
        return false;
    }
    *request.method_mut() = Method::GET;
    let mut key = [0; 16];
    entropy.fill(&mut key);
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(&STANDARD.encode(key)) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    true
}

/// The answer to a handshake over HTTP/2 is a success, and has nothing of HTTP/1.1's.
pub(crate) fn accepted_over_http2(head: &mut http::response::Parts) {
    head.status = http::StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        head.headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_sixteen_octets_and_the_answer_is_made_of_it() {
        let of = |keys: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(key));
            }
            accept(&headers).ok()
        };
        assert_eq!(of(&["dGhlIHNhbXBsZSBub25jZQ=="]).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="]), None);
        assert_eq!(of(&["c2hvcnQ="]), None);
        assert_eq!(of(&["not base64"]), None);
    }
}
