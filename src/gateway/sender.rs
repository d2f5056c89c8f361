//! Second phase, second half: whether the sender of a believed token holds the key it is bound to (RFC 9449 §7.1, RFC 8705 §3).
use std::borrow::Cow;

use edge::{
    Refusal,
    admission::{self, Guard},
};
use http::HeaderName;
use tokens::{
    certificate::{Certificate, Doubt},
    confirmation::Scheme,
    dpop::{self, Expected, Proof, Target, Unproved},
};

use crate::{Gateway, asked::Asked, seen::Believed};

/// The header of a proof (RFC 9449 §4.1).
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Checks the binding of a believed token. A proof is given back: it has to be spent before anything is forwarded.
pub(crate) fn check(
    gateway: &Gateway,
    guard: &Guard,
    (scheme, token): (Scheme, &str),
    believed: &Believed,
    asked: &Asked<'_>,
    now_ms: i64,
) -> Result<Option<Box<Proof>>, Refusal> {
    let bound = believed.identity.claims.cnf.as_ref();
    if scheme == Scheme::Bearer && bound.is_none() && guard.sender.is_free() {
        return Ok(None);
    }
    let proof = match scheme {
        Scheme::Bearer => None,
        // Without a key in the token there is nothing to prove.
        Scheme::Dpop if bound.is_none_or(|cnf| cnf.jkt.is_none()) => None,
        Scheme::Dpop => Some(Box::new(proof(gateway, token, asked, now_ms.div_euclid(1000)).inspect_err(|refusal| {
            metrics::counter!("dpop_refused_total", "at" => "gateway", "reason" => refusal.reason()).increment(1);
        })?)),
    };
    let jkt = proof.as_ref().map(|p| p.jkt.as_str());
    let certificate = match asked.certificate.map(|standing| standing()) {
        // A token that is bound to it can be neither believed nor disbelieved.
        Some(Err(Doubt::Undecided(why))) if bound.is_some_and(|cnf| cnf.x5t_s256.is_some()) => return Err(Refusal::Undecided(why)),
        shown => shown.and_then(Result::ok),
    };
    admission::sender(guard.sender, scheme, bound, jkt, certificate.as_ref().map(Certificate::x5t_s256))?;
    Ok(proof)
}

fn proof(gateway: &Gateway, token: &str, asked: &Asked<'_>, now: i64) -> Result<Proof, Refusal> {
    let mut headers = asked.headers.get_all(DPOP).iter();
    let text = match (headers.next(), headers.next()) {
        (Some(one), None) => one.to_str().map_err(|_| Refusal::Unproved("malformed"))?,
        (None, _) => return Err(Refusal::Unproved("no_proof")),
        (Some(_), Some(_)) => return Err(Refusal::Unproved("two_proofs")),
    };
    let host = asked.host().ok_or(Refusal::Unproved("host"))?;
    let schemes: &[&str] = match asked.scheme() {
        Some("https") => &["https"],
        Some(_) => &["http"],
        None => &["https", "http"],
    };
    let targets: Vec<Target<'_>> = schemes.iter().filter_map(|scheme| Target::new(scheme, host, asked.path)).collect();
    let nonces = gateway.parts().nonces.as_ref();
    let expected = Expected {
        method: asked.method.as_str(),
        targets: &targets,
        algs: &gateway.parts().settings.proof_algorithms,
        normalise: normal,
        token: Some(token),
        nonces,
        now,
    };
    dpop::verify(text, &expected).map_err(|why| match why {
        Unproved::Wrong(refusal) => Refusal::Unproved(refusal.reason()),
        Unproved::Nonce => Refusal::Nonce,
    })
}

fn normal(path: &str) -> Option<Cow<'_, str>> {
    edge::path::normalise(path).ok()
}
