//! The matrix: every check of an authorization request, in order, and the endpoints that make it.
//!
//! A row is a step, a column an endpoint. A pushed request (RFC 9126), a backchannel request (CIBA) or a device request (RFC 8628) is
//! one more column: the same rows, some of them empty.
//!
//! Before the first row, [`super::recognise`] has found the client and its return address; a refusal there is a page.
use super::{
    Caller, Desk, Params, Refusal, Request, acr, claims, grant_type, hint, login_hint, max_age, order, params, pkce, prompt, request_object,
    resource, response_mode, response_type,
};

/// A check: looks at what was asked and fills in its part of the request.
pub type Check = fn(&Params, &Desk<'_>, &mut Request) -> Result<(), Refusal>;

/// Where a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/authorize`, by GET or POST.
    Authorize,
}

/// A row of the matrix.
pub struct Step {
    /// What it looks at.
    pub name: &'static str,
    /// Who says so.
    pub specification: &'static str,
    /// Its check at `/authorize`.
    pub authorize: Option<Check>,
}

const fn step(name: &'static str, specification: &'static str, authorize: Option<Check>) -> Step {
    Step { name, specification, authorize }
}

/// The matrix.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    //   step               specification                      authorize
    step("one of each",     "RFC 6749 §3.1",                   Some(params::one_of_each)),
    step("response_mode",   "OAuth 2.0 Multiple Response §2.1", Some(response_mode::known)),
    step("request",         "OpenID Connect Core §6",          Some(request_object::refuse)),
    step("response_type",   "RFC 6749 §3.1.1",                 Some(response_type::served)),
    step("grant_type",      "RFC 7591 §2",                     Some(grant_type::authorization_code)),
    step("code_challenge",  "RFC 7636 §4.3",                   Some(pkce::s256)),
    step("resource",        "RFC 8707 §2",                     Some(resource::known)),
    step("scope",           "RFC 6749 §3.3",                   Some(resource::scope)),
    step("state",           "RFC 6749 §4.1.1",                 Some(params::state)),
    step("nonce",           "OpenID Connect Core §3.1.2.1",    Some(params::nonce)),
    step("prompt",          "OpenID Connect Core §3.1.2.1",    Some(prompt::combination)),
    step("max_age",         "OpenID Connect Core §3.1.2.1",    Some(max_age::seconds)),
    step("claims",          "OpenID Connect Core §5.5",        Some(claims::requested)),
    step("acr_values",      "OpenID Connect Core §3.1.2.1",    Some(acr::wanted)),
    step("id_token_hint",   "OpenID Connect Core §3.1.2.1",    Some(hint::subject)),
    step("login_hint",      "OpenID Connect Core §3.1.2.1",    Some(login_hint::keep)),
    step("order of checks", "RFC 6749 §4.1.1",                 Some(order::proof)),
];

/// Takes a caller's request through every step of an endpoint.
///
/// # Errors
/// The first refusal, with the way back: it is redirected (RFC 6749 §4.1.2.1).
pub fn accept(endpoint: Endpoint, caller: Caller, params: &Params, desk: &Desk<'_>) -> Result<Request, Box<(Caller, Refusal)>> {
    let mut request = Request::of(caller);
    for step in STEPS {
        let check = match endpoint {
            Endpoint::Authorize => step.authorize,
        };
        if let Some(Err(refusal)) = check.map(|check| check(params, desk, &mut request)) {
            return Err(Box::new((Caller { client_id: request.client_id, back: request.back }, refusal)));
        }
    }
    Ok(request)
}
