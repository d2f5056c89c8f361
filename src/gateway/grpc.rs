//! gRPC over HTTP/2: what a refusal has to look like so that its clients understand it (gRPC over HTTP/2, "Responses").
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};

use crate::body::AnswerBody;

/// Whether a request is a gRPC call.
pub(crate) fn is<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && request.headers().get(header::CONTENT_TYPE).is_some_and(named)
}

fn named(value: &HeaderValue) -> bool {
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The status of a call that was refused with this status, and what is said of it.
const fn status(refused: u16) -> (&'static str, &'static str) {
    match refused {
        401 => ("16", "a valid access token is needed"),
        403 => ("7", "the access token does not allow this"),
        404 | 405 | 501 | 505 => ("12", "no route is for this call"),
        408 | 504 => ("4", "the deadline is over"),
        410 => ("5", "this is no longer there"),
        413 | 414 | 429 | 431 => ("8", "a limit is reached"),
        502 | 503 => ("14", "the service is not available"),
        500 => ("13", "internal error"),
        _ => ("3", "the call is malformed"),
    }
}

/// A refusal as a trailers-only answer. Challenges, quotas and identifiers stay in its head.
pub(crate) fn refusal(refused: Response<AnswerBody>) -> Response<AnswerBody> {
    let (mut head, _) = refused.into_parts();
    let (code, message) = status(head.status.as_u16());
    head.status = StatusCode::OK;
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert("grpc-status", HeaderValue::from_static(code));
    head.headers.insert("grpc-message", HeaderValue::from_static(message));
    Response::from_parts(head, AnswerBody::none())
}

/// The trailers of a call whose credential ended.
pub(crate) fn ended() -> HeaderMap {
    let (code, message) = status(401);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_version_method_and_type() {
        let of = |version, method: Method, kind: &'static str| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            *request.method_mut() = method;
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            is(&request)
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x"] {
            assert!(of(Version::HTTP_2, Method::POST, kind), "{kind}");
        }
        assert!(!of(Version::HTTP_2, Method::POST, "application/grpc-web"));
        assert!(!of(Version::HTTP_2, Method::GET, "application/grpc"));
        assert!(!of(Version::HTTP_11, Method::POST, "application/grpc"));
    }

    #[test]
    fn a_refusal_keeps_its_challenge_and_says_its_status_in_the_head() {
        let mut refused = Response::new(AnswerBody::text("{}".into()));
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        let answer = refusal(refused);
        assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("16")));
        assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!([400, 403, 404, 429, 503, 504].map(|s| status(s).0), ["3", "7", "12", "8", "14", "4"]);
    }
}
