//! Consent: what a person allows a client, and what is remembered of it (OpenID Connect Core §3.1.2.4, RFC 8252 §8.6).
use ledger::Consent;

use crate::{
    Client,
    authorize::{Request, claims},
};

/// How a single requested claim is remembered beside scopes.
const CLAIM: &str = "claim:";

/// Everything a request wants allowed: its scopes, and the claims it names one by one.
fn wanted(request: &Request) -> impl Iterator<Item = String> {
    request.scope.iter().cloned().chain(claims::names(request.claims.as_ref()).into_iter().map(|c| format!("{CLAIM}{c}")))
}

/// Whether the person must be asked. A public client whose address another program could take is always asked for (RFC 8252 §8.6).
#[must_use]
pub fn needed(request: &Request, client: &Client, remembered: Option<&Consent>) -> bool {
    if request.prompt.consent {
        return true;
    }
    if client.first_party {
        return false;
    }
    // A payment that was allowed once is not allowed once more (RFC 9396 §12).
    if request.details.is_some() {
        return true;
    }
    let claimable = client.is_public() && request.back.address.is_claimable();
    let allowed = remembered.filter(|c| c.client_id == request.client_id).map_or(&[][..], |c| c.scopes.as_slice());
    claimable || wanted(request).any(|w| !allowed.contains(&w))
}

/// What the person's answer gives: the requested scope without what was unchecked. `openid` cannot be dropped.
/// `None` if nothing is left.
#[must_use]
pub fn given(request: &Request, checked: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let given: Vec<String> = request.scope.iter().filter(|s| *s == "openid" || checked(s)).cloned().collect();
    (request.scope.is_empty() || !given.is_empty()).then_some(given)
}

/// What to remember after an answer: what was allowed before and now, without what was unchecked now.
#[must_use]
pub fn remember(request: &Request, subject: &str, given: &[String], before: Option<&Consent>, now: i64) -> Consent {
    let refused = |s: &String| request.scope.contains(s) && !given.contains(s);
    let mut scopes: Vec<String> =
        before.map_or(&[][..], |c| c.scopes.as_slice()).iter().cloned().chain(wanted(request)).filter(|s| !refused(s)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    Consent { subject: subject.to_owned(), client_id: request.client_id.clone(), scopes, granted_at: now }
}

/// Whether a remembered entry is a scope (and not a single claim).
#[must_use]
pub fn is_scope(entry: &str) -> bool {
    !entry.starts_with(CLAIM)
}
