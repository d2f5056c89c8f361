//! The client certificate of a connection as the caller (RFC 8446 §4.4.2): what it counts for now, whom the route takes it for; and what
//! is told of it upstream (RFC 9440).
use std::{rc::Rc, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use edge::{
    Refusal, RouteTable,
    admission::{Accepts, Guard},
    certificate::{ClientCertificate, Holder},
    identity::{Identity, Issuer, Kind},
    route::Freshness,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use tokens::{
    access::AccessClaims,
    certificate::{Certificate, Doubt},
};

use crate::{
    Judge, Standing, bearer,
    devices::{self, Found},
    seen::Believed,
    worker::Worker,
};

/// The certificate of the client.
const LEAF: HeaderName = HeaderName::from_static("client-cert");
/// Those between it and an authority.
const OTHERS: HeaderName = HeaderName::from_static("client-cert-chain");
/// The longest field that is read or written, octets.
const LONGEST: usize = 32 * 1024;
/// Most certificates of one chain.
const MOST_CERTIFICATES: usize = 8;

/// The refusal of a certificate that counts for nothing.
pub(crate) const fn refused(doubt: Doubt) -> Refusal {
    match doubt {
        Doubt::Undecided(why) => Refusal::Undecided(why),
        other => Refusal::Invalid(other.reason()),
    }
}

/// Proves the caller by the certificate of the connection. Whose device it is, is asked every time: a device may come, go or change.
pub(crate) async fn prove(
    worker: &Worker,
    table: &RouteTable,
    guard: &Guard,
    standing: &Standing,
    now_ms: i64,
) -> Result<Rc<Believed>, Refusal> {
    let Some(rules) = &guard.certificate else { return Err(Refusal::Invalid("credential_kind")) };
    let certificate = standing().map_err(refused)?;
    // One that nobody vouches for may hold the key of a token, and is nobody by itself.
    let authority = certificate.authority().ok_or(refused(Doubt::Untrusted))?;
    let key = format!("x5t:{}:{}:{}", rules.route, authority.fingerprint, certificate.x5t_s256());
    let known = worker.seen.borrow_mut().get(&key);
    let fresh = if known.is_none() { Some(rules.holder(&certificate, authority)?) } else { None };
    let told = fresh.as_ref().map(|holder| &holder.claims).or_else(|| known.as_ref().map(|known| &*known.identity.claims.raw));
    let found = device(worker, &certificate, told, &authority.name, (now_ms, since_ms(worker, guard, now_ms))).await?;
    let revoked = &worker.gateway.parts().revoked;
    let unchanged = |known: &Rc<Believed>| {
        known.identity.device == found.as_ref().map(|found| Arc::clone(&found.device)) && revoked.revoked(&known.identity.facts()).is_none()
    };
    if let Some(known) = known.as_ref().filter(|known| unchanged(known)) {
        return Ok(Rc::clone(known));
    }
    let holder = fresh.or_else(|| known.map(|known| Holder::of(&known.identity.claims))).ok_or(Refusal::Undecided("certificate"))?;
    let claims = AccessClaims {
        iss: authority.name.to_string(),
        sub: holder.name,
        aud: Vec::new(),
        exp: holder.not_after,
        nbf: None,
        iat: None,
        jti: None,
        client_id: None,
        scope: holder.scope,
        grant: None,
        sid: None,
        seq: found.as_ref().map_or_else(|| revoked.head(), |found| found.seq),
        from: None,
        cnf: None,
        raw: Arc::new(holder.claims),
    };
    let issuer = Issuer::Authority(Arc::clone(&authority.name));
    let identity = Identity { issuer, kind: Kind::Certificate, claims, kid: None, device: found.map(|found| found.device) };
    if revoked.revoked(&identity.facts()).is_some() {
        return Err(Refusal::Invalid("revoked"));
    }
    let new = Rc::new(Believed::new(identity, u64::MAX, 0, now_ms));
    // Believed under a table that another has replaced since, it counts for this request alone.
    if std::ptr::eq(Arc::as_ptr(&worker.gateway.parts().table.load()), table) {
        worker.seen.borrow_mut().put(key.into(), Rc::clone(&new));
    }
    Ok(new)
}

/// Since when what is remembered of a certificate's device is recent enough for this route.
fn since_ms(worker: &Worker, guard: &Guard, now_ms: i64) -> i64 {
    let kept_ms = match guard.freshness {
        Freshness::Introspect => guard.cache_ttl_ms.unwrap_or(0),
        Freshness::Offline => return i64::MIN,
        Freshness::Push if bearer::fresh(worker, guard, now_ms) => return i64::MIN,
        Freshness::Push => bearer::STALE_TTL_MS,
    };
    now_ms.saturating_sub(kept_ms)
}

/// The device that a certificate stands for, if it is one's.
async fn device(
    worker: &Worker,
    certificate: &Certificate,
    told: Option<&Map<String, Value>>,
    authority: &str,
    (now_ms, since_ms): (i64, i64),
) -> Result<Option<Found>, Refusal> {
    let text = |claim: &str| told.and_then(|told| told.get(claim)).and_then(Value::as_str).unwrap_or_default();
    let uris: Vec<String> = match told.and_then(|told| told.get("san_uri")).and_then(Value::as_array) {
        Some(uris) => uris.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let shown = devices::Certificate { sha256: &certificate.fingerprint(), subject: text("subject_dn"), san_uris: &uris, authority };
    let found = worker.gateway.parts().devices.of_certificate(&shown, now_ms, since_ms).await.map_err(|_| Refusal::Undecided("devices"))?;
    match found {
        Some(found) if found.disabled => Err(Refusal::Invalid("device_disabled")),
        found => Ok(found),
    }
}

/// Tells a client that certificates are taken, where no tokens or keys are. No scheme is registered for them.
pub(crate) fn challenge(headers: &mut HeaderMap, guard: &Guard, refusal: Refusal) {
    let Accepts { jwt, opaque, api_key, session, mtls, none: _ } = guard.accepts;
    if !mtls || jwt || opaque || api_key || session {
        return;
    }
    headers.remove(header::WWW_AUTHENTICATE);
    if refusal.status() == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("mTLS"));
    }
}

/// Whether what a caller opened ends when this certificate counts no more: it is the certificate's, or its token is bound to it.
pub(crate) fn rests_on(believed: &Believed) -> bool {
    let bound = believed.identity.claims.cnf.as_ref().is_some_and(|cnf| cnf.x5t_s256.is_some());
    bound || believed.identity.kind == Kind::Certificate
}

/// The certificate that a trusted proxy passes on (RFC 9440), where such are believed: it stands in place of what the connection says of
/// the proxy. `None`: its client has shown none; a field that does not read is a certificate that counts for nothing.
pub(crate) async fn passed_on(judge: &Judge, headers: &HeaderMap) -> Option<Standing> {
    if !shown(headers) {
        return None;
    }
    match chain(headers) {
        Some(chain) => Some(judge(chain).settle().await),
        None => Some(Arc::new(|| Err(Doubt::Untrusted))),
    }
}

/// Whether a request carries any.
pub(crate) fn shown(headers: &HeaderMap) -> bool {
    headers.contains_key(&LEAF) || headers.contains_key(&OTHERS)
}

/// What it carries, leaf first; `None` if it does not read.
pub(crate) fn chain(headers: &HeaderMap) -> Option<Vec<CertificateDer<'static>>> {
    let mut lines = headers.get_all(&LEAF).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let mut chain = vec![octets(line.to_str().ok()?)?];
    for line in headers.get_all(&OTHERS) {
        for item in line.to_str().ok()?.split(',') {
            chain.push(octets(item)?);
        }
    }
    (chain.len() <= MOST_CERTIFICATES).then_some(chain)
}

/// A byte sequence of structured fields (RFC 9651 §3.3.5).
fn octets(item: &str) -> Option<CertificateDer<'static>> {
    let text = item.trim().strip_prefix(':')?.strip_suffix(':')?;
    let octets = (text.len() <= LONGEST).then(|| STANDARD.decode(text).ok())?.filter(|octets| !octets.is_empty())?;
    Some(CertificateDer::from(octets))
}

/// Takes the fields of RFC 9440 off a request, whoever sent them, and sets them where the route says so: to a certificate that an authority
/// vouches for, or that the caller's token is bound to.
pub(crate) fn tell(headers: &mut HeaderMap, told: ClientCertificate, standing: Option<&Standing>, caller: Option<&Rc<Believed>>) {
    headers.remove(&LEAF);
    headers.remove(&OTHERS);
    if told.is_absent() {
        return;
    }
    let Some(certificate) = standing.and_then(|standing| standing().ok()) else { return };
    let bound = |certificate: &Certificate| {
        let cnf = caller.and_then(|caller| caller.identity.claims.cnf.as_ref());
        cnf.is_some_and(|cnf| cnf.x5t_s256.as_deref() == Some(certificate.x5t_s256()))
    };
    if !certificate.is_trusted() && !bound(&certificate) {
        return;
    }
    let sequence = |der: &[u8]| format!(":{}:", STANDARD.encode(der));
    if let Ok(value) = HeaderValue::from_str(&sequence(certificate.der())) {
        headers.insert(LEAF, value);
    }
    let between: Vec<String> = certificate.between().iter().map(|der| sequence(der)).collect();
    if told == ClientCertificate::WithChain
        && !between.is_empty()
        && let Ok(value) = HeaderValue::from_str(&between.join(", "))
    {
        headers.insert(OTHERS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_structured_byte_sequences() {
        let read = |lines: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, line) in lines {
                headers.append(name.clone(), HeaderValue::from_static(line));
            }
            chain(&headers).map(|chain| chain.len())
        };
        assert_eq!(read(&[(LEAF, ":Y2xpZW50:")]), Some(1));
        assert_eq!(read(&[(LEAF, ":Y2xpZW50:"), (OTHERS, ":YQ==:, :Yg==:"), (OTHERS, ":Yw==:")]), Some(4));
        for bad in
            [&[(LEAF, "Y2xpZW50")][..], &[(LEAF, "::")], &[(LEAF, ":!:")], &[(LEAF, ":YQ==:"), (LEAF, ":YQ==:")], &[(OTHERS, ":YQ==:")]]
        {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nothing_of_the_callers_own_is_left() {
        let mut headers = HeaderMap::new();
        headers.insert(LEAF, HeaderValue::from_static(":Y2xpZW50:"));
        headers.insert(OTHERS, HeaderValue::from_static(":Y2xpZW50:"));
        let standing: Standing = Arc::new(|| Ok(Certificate::new(b"of nobody")));
        tell(&mut headers, ClientCertificate::WithChain, Some(&standing), None);
        assert!(headers.is_empty());
        let vouched: Standing = Arc::new(|| Ok(Certificate::vouched(b"leaf", Arc::default(), vec![b"a".to_vec(), b"b".to_vec()])));
        tell(&mut headers, ClientCertificate::Alone, Some(&vouched), None);
        assert_eq!((headers.len(), &headers[LEAF]), (1, &HeaderValue::from_static(":bGVhZg==:")));
        tell(&mut headers, ClientCertificate::WithChain, Some(&vouched), None);
        assert_eq!(headers[OTHERS], ":YQ==:, :Yg==:");
    }
}
