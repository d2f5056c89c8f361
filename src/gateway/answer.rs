//! Last phase: the answer, the upstream's or our own (RFC 9457).
use bytes::Bytes;
use edge::{Refusal, admission::Access, table::Entry};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokens::{Alg, dpop};

use crate::body::AnswerBody;

/// The refusal as the client hears it: status, challenge, and one body for all of that status.
pub(crate) fn refuse(refusal: Refusal, entry: Option<&Entry>, allow: Option<HeaderValue>, about: Option<&str>) -> Response<AnswerBody> {
    let body = match entry.and_then(|e| e.life.as_ref()) {
        Some(life) if refusal == Refusal::Gone => Bytes::copy_from_slice(life.gone.as_bytes()),
        _ => Bytes::from_static(refusal.body().as_bytes()),
    };
    let mut answer = Response::new(AnswerBody::text(body));
    *answer.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let access: Option<&Access> = entry.map(|e| &e.access);
    if let Some(challenge) = refusal.challenge(access) {
        headers.insert(header::WWW_AUTHENTICATE, located(challenge, about));
    }
    if refusal == Refusal::Missing {
        headers.append(header::WWW_AUTHENTICATE, located(edge::refusal::dpop(""), about));
    }
    if let Some(Access::Guarded(guard)) = access {
        crate::api_key::challenge(headers, guard, refusal);
        crate::certificate::challenge(headers, guard, refusal);
        crate::session::challenge(headers, guard, refusal);
    }
    match refusal {
        Refusal::Limited(verdict) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(verdict.retry_after_s()));
        }
        Refusal::Crowded => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Refusal::BrownOut { retry_s, .. } => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
        }
        Refusal::Undecided(_) | Refusal::Full(_) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Refusal::Method => {
            headers.insert(header::ALLOW, allow.unwrap_or_else(|| HeaderValue::from_static("")));
        }
        _ => {}
    }
    if refusal.closes() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Lets the challenges name the algorithms that are taken here, where these are not all.
pub(crate) fn name_algorithms(headers: &mut HeaderMap, algorithms: &[Alg]) {
    if algorithms == dpop::ALGS {
        return;
    }
    let named = |algorithms: &[Alg]| format!("algs=\"{}\"", algorithms.iter().map(|alg| alg.as_str()).collect::<Vec<_>>().join(" "));
    let (all, some) = (named(&dpop::ALGS), named(algorithms));
    if let header::Entry::Occupied(mut challenges) = headers.entry(header::WWW_AUTHENTICATE) {
        for challenge in challenges.iter_mut() {
            let renamed = challenge.to_str().ok().and_then(|text| HeaderValue::from_str(&text.replace(&all, &some)).ok());
            if let Some(renamed) = renamed {
                *challenge = renamed;
            }
        }
    }
}

/// A challenge that says where the metadata of the resource is (RFC 9728 §5.1).
fn located(challenge: HeaderValue, about: Option<&str>) -> HeaderValue {
    let (Some(about), Ok(text)) = (about, challenge.to_str()) else { return challenge };
    let mark = if text.contains(' ') { "," } else { "" };
    HeaderValue::from_str(&format!("{text}{mark} resource_metadata=\"{about}\"")).unwrap_or(challenge)
}

/// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
pub(crate) fn quota(headers: &mut HeaderMap, told: Option<&(HeaderValue, HeaderValue)>) {
    if let Some((limit, policy)) = told {
        headers.insert("ratelimit", limit.clone());
        headers.insert("ratelimit-policy", policy.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_what_is_taken() {
        let mut answer = refuse(Refusal::Missing, None, None, None);
        let before = answer.headers().clone();
        name_algorithms(answer.headers_mut(), &dpop::ALGS);
        assert_eq!(*answer.headers(), before);
        name_algorithms(answer.headers_mut(), &[Alg::ES256, Alg::PS256]);
        let told: Vec<&HeaderValue> = answer.headers().get_all(header::WWW_AUTHENTICATE).iter().collect();
        assert_eq!(told, ["Bearer", "DPoP algs=\"ES256 PS256\""]);
    }
}
