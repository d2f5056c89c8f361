//! What the upstream is told of the caller under our signature ([`edge::assertion`]): signed once for many requests, never beyond the credential.
use bytes::Bytes;
use edge::{
    Refusal, RouteTable,
    admission::Access,
    assertion::{Assertion, JWKS_TYPE, MAX_LEN, TYP},
    table::Entry,
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokens::Alg;

use crate::{asked::Asked, body::AnswerBody, seen::Believed, worker::Worker};

/// Where the public keys are, on the gateway's own listener, where no route of the administrator's is for it.
pub(crate) const WELL_KNOWN: &str = "/.well-known/doorward-gateway/jwks.json";

/// An assertion that may be sent again.
pub(crate) struct Signed {
    /// Whose settings it follows ([`Assertion::id`]).
    id: usize,
    until_ms: i64,
    value: HeaderValue,
}

/// The value of the assertion's header for a caller. Ready where one was signed a short while ago.
pub(crate) async fn value(worker: &Worker, assertion: &Assertion, believed: &Believed, asked: &Asked<'_>) -> Result<HeaderValue, Refusal> {
    let now_ms = worker.now_ms();
    if !assertion.request
        && let Some(signed) = &*believed.assertion.borrow()
        && signed.id == assertion.id
        && now_ms < signed.until_ms
    {
        return Ok(signed.value.clone());
    }
    Box::pin(sign(worker, assertion, believed, asked, now_ms)).await
}

async fn sign(worker: &Worker, assertion: &Assertion, believed: &Believed, asked: &Asked<'_>, now_ms: i64) -> Result<HeaderValue, Refusal> {
    let gateway = &worker.gateway;
    let key = gateway.assertion_keys.signing(assertion.alg).await.ok_or(Refusal::Undecided("assertion_key"))?;
    let target = if assertion.request {
        let host = asked.host().ok_or(Refusal::Malformed("host"))?;
        Some(format!("{}://{host}{}", asked.scheme().unwrap_or("http"), asked.path))
    } else {
        None
    };
    let request = target.as_deref().map(|uri| (asked.method.as_str(), uri));
    let now = now_ms.div_euclid(1000);
    let (claims, exp) = assertion.claims(&gateway.parts().means.identifier, &believed.identity, request, now);
    let jwt = key.sign_jwt(TYP, &claims).map_err(|_| Refusal::Undecided("assertion_key"))?;
    metrics::counter!("assertions_signed_total").increment(1);
    if jwt.len() > MAX_LEN {
        return Err(Refusal::Invalid("claim_unfit"));
    }
    let text = if assertion.bearer { format!("Bearer {jwt}") } else { jwt };
    let mut value = HeaderValue::from_str(&text).map_err(|_| Refusal::Invalid("claim_unfit"))?;
    value.set_sensitive(true);
    if !assertion.request {
        // Half of its life: whoever gets it has at least the other half to look at it, unless the credential itself ends.
        let until_ms = (now_ms + assertion.ttl_s * 500).min(exp.saturating_mul(1000));
        *believed.assertion.borrow_mut() = Some(Signed { id: assertion.id, until_ms, value: value.clone() });
    }
    Ok(value)
}

/// The public keys of assertions, where they are asked for, some route signs, and no route is for that path: `found` is the one that
/// would take it otherwise.
pub(crate) async fn keys(worker: &Worker, table: &RouteTable, found: Option<&Entry>, asked: &Asked<'_>) -> Option<Response<AnswerBody>> {
    let routed = found.is_some_and(|entry| entry.access == Access::Public || entry.prefix.starts_with("/.well-known/"));
    if asked.path != WELL_KNOWN || routed || !matches!(*asked.method, Method::GET | Method::HEAD) {
        return None;
    }
    let mut algs: Vec<Alg> = table.entries().iter().filter_map(|entry| entry.assertion.as_ref()).map(|a| a.alg).collect();
    algs.sort_unstable();
    algs.dedup();
    if algs.is_empty() {
        return None;
    }
    let document = worker.gateway.assertion_keys.document(&algs).await;
    let mut answer = Response::new(match &document {
        Some(document) if *asked.method == Method::GET => AnswerBody::text(document.clone()),
        _ => AnswerBody::text(Bytes::new()),
    });
    let headers = answer.headers_mut();
    if document.is_some() {
        headers.insert(JWKS_TYPE.0, HeaderValue::from_static(JWKS_TYPE.1));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Some(answer)
}
