//! The keys a request proves: its DPoP proof, checked against this very request, and the certificate of its connection
//! (RFC 9449 §4.3, RFC 8705 §3).
use std::borrow::Cow;

use axum::response::Response;
use http::{HeaderName, HeaderValue, header, request::Parts};
use ledger::{Change, Outcome};
use protocol::{Code, Evidence, OAuthError, evidence};
use tokens::dpop::{self, Expected, Nonces, Target, Unproved};

use crate::{
    App,
    app::{Peer, PeerCertificate},
    pages,
    reply::{self, Failed},
};

/// The header of a proof (RFC 9449 §4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The header of a nonce (RFC 9449 §8).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// What a request to an endpoint (its path below the issuer, such as `/token`) proves. `token` is the access token it came with, if
/// the endpoint takes one: the proof then has to name it. One-time use is for the change of what is given: [`Evidence::once`].
///
/// # Errors
/// `invalid_dpop_proof`, `use_dpop_nonce`.
pub(crate) fn evidence(app: &App, parts: &Parts, endpoint: &str, token: Option<&str>) -> Result<Evidence, Failed> {
    let certificate = parts.extensions.get::<PeerCertificate>().map(|peer| peer.0.clone());
    let mut proofs = parts.headers.get_all(DPOP).iter();
    let proof = match (proofs.next(), proofs.next()) {
        (None, _) => None,
        (Some(_), Some(_)) => return Err(evidence::refused("more than one DPoP header").into()),
        (Some(text), None) => {
            let text = text.to_str().map_err(|_| evidence::refused("the proof is not text"))?;
            Some(proof(app, parts, endpoint, token, text)?)
        }
    };
    Ok(Evidence { proof, certificate })
}

fn proof(app: &App, parts: &Parts, endpoint: &str, token: Option<&str>, text: &str) -> Result<dpop::Proof, OAuthError> {
    let own = app.settings.url(endpoint);
    let alias = app.settings.mtls_origin.as_ref().map(|origin| {
        let path = pages::base(&app.settings.issuer);
        format!("{}{path}{endpoint}", origin.trim_end_matches('/'))
    });
    let mut targets: Vec<Target<'_>> =
        [Some(&own), alias.as_ref()].into_iter().flatten().filter_map(|url| Target::of(url, normal)).collect();
    if let Some(host) = host(app, parts) {
        // One proof is for one address: that of the origin the request was sent to.
        targets.retain(|target| target.is_at(host));
    }
    let nonces = app.settings.dpop_nonce.then(|| nonces(app));
    let (now, algs) = (app.clock.now(), evidence::algs(app.settings.profile));
    let expected =
        Expected { method: parts.method.as_str(), targets: &targets, algs: &algs, normalise: normal, token, nonces: nonces.as_ref(), now };
    dpop::verify(text, &expected).map_err(|why| match why {
        Unproved::Wrong(refusal) => {
            metrics::counter!("dpop_refused_total", "at" => "server", "reason" => refusal.reason()).increment(1);
            evidence::refused(refusal.reason())
        }
        Unproved::Nonce => OAuthError::new(Code::UseDpopNonce, "the proof needs the nonce of the DPoP-Nonce header"),
    })
}

/// The host a request was sent to, where it can be told: a trusted proxy may have put its own in the place of its client's.
fn host<'a>(app: &App, parts: &'a Parts) -> Option<&'a str> {
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    if peer.is_some_and(|peer| app.trusted_proxies.iter().any(|net| net.contains(&peer))) {
        return None;
    }
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default()),
    }
}

fn normal(path: &str) -> Option<Cow<'_, str>> {
    edge::path::normalise(path).ok()
}

fn nonces(app: &App) -> Nonces {
    Nonces::new(app.mac.clone(), "dpop-nonce-server")
}

/// Spends a proof where nothing is given on it but an answer.
///
/// # Errors
/// `invalid_dpop_proof` if it was used before; when the store is away.
pub(crate) async fn spend(app: &App, evidence: &Evidence) -> Result<(), Failed> {
    let Some(once) = evidence.once(app.clock.now(), app.revoked.head()) else { return Ok(()) };
    match app.store.apply(Change::new().step(once)).await? {
        Outcome::Applied { .. } => Ok(()),
        Outcome::Refused(_) => Err(replayed().into()),
    }
}

/// The refusal of a proof that was used before.
pub(crate) fn replayed() -> OAuthError {
    metrics::counter!("dpop_refused_total", "at" => "server", "reason" => "replayed").increment(1);
    evidence::refused("used before")
}

/// Tells the nonce for the next proof, where one is asked for (RFC 9449 §8.2).
pub(crate) fn tell(app: &App, response: Response) -> Response {
    if !app.settings.dpop_nonce {
        return response;
    }
    match HeaderValue::from_str(&nonces(app).current(app.clock.now())) {
        Ok(nonce) => reply::with(response, DPOP_NONCE, nonce),
        Err(_) => response,
    }
}
