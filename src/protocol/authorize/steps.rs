//! The matrix: every check of an authorization request, in order, and the endpoints that make it.
//!
//! A row is a step, a column an endpoint. A pushed request (RFC 9126), a backchannel request (CIBA) or a device request (RFC 8628) is
//! one more column: the same rows, some of them empty.
//!
//! Before the first row, [`super::recognise`] has found the client and its return address; a refusal there is a page.
use super::{
    Caller, Desk, Params, Refusal, Request, acr, claims, details, dpop_jkt, grant_type, hint, login_hint, max_age, order, params, pkce,
    profile, prompt, request_object, resource, response_mode, response_type,
};

/// A check: looks at what was asked and fills in its part of the request.
pub type Check = fn(&Params, &Desk<'_>, &mut Request) -> Result<(), Refusal>;

/// Where a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/authorize`, by GET or POST.
    Authorize,
    /// `/par`.
    Par,
}

/// A row of the matrix.
pub struct Step {
    /// What it looks at.
    pub name: &'static str,
    /// Who says so.
    pub specification: &'static str,
    /// Its check at `/authorize`.
    pub authorize: Option<Check>,
    /// Its check at `/par`.
    pub par: Option<Check>,
}

const fn step(name: &'static str, specification: &'static str, authorize: Option<Check>, par: Option<Check>) -> Step {
    Step { name, specification, authorize, par }
}

/// The matrix.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    //   step                     specification                                     authorize                          par
    step("one of each",            "RFC 6749 §3.1",                                  Some(params::one_of_each),         Some(params::one_of_each)),
    step("request",                "RFC 9101 §6, OpenID Connect Core §6",            Some(request_object::read_before), Some(request_object::read_before)),
    step("profile",                "FAPI 2.0 Security Profile §5.3.2",               Some(profile::fapi),               Some(profile::fapi)),
    step("pushed first",           "RFC 9126 §5, §6",                                Some(profile::pushed_first),       None),
    step("response_type",          "RFC 6749 §3.1.1",                                Some(response_type::served),       Some(response_type::served)),
    step("response_mode",          "OAuth 2.0 Multiple Response §2.1, JARM §2.3",    Some(response_mode::known),        Some(response_mode::known)),
    step("grant_type",             "RFC 7591 §2",                                    Some(grant_type::registered),      Some(grant_type::registered)),
    step("code_challenge",         "RFC 7636 §4.3",                                  Some(pkce::s256),                  Some(pkce::s256)),
    step("resource",               "RFC 8707 §2",                                    Some(resource::known),             Some(resource::known)),
    step("scope",                  "RFC 6749 §3.3",                                  Some(resource::scope),             Some(resource::scope)),
    step("authorization_details",  "RFC 9396 §2",                                    Some(details::asked),              Some(details::asked)),
    step("state",                  "RFC 6749 §4.1.1",                                Some(params::state),               Some(params::state)),
    step("nonce",                  "OpenID Connect Core §3.1.2.1, §3.2.2.1",         Some(params::nonce),               Some(params::nonce)),
    step("prompt",                 "OpenID Connect Core §3.1.2.1",                   Some(prompt::combination),         Some(prompt::combination)),
    step("max_age",                "OpenID Connect Core §3.1.2.1",                   Some(max_age::seconds),            Some(max_age::seconds)),
    step("claims",                 "OpenID Connect Core §5.5",                       Some(claims::requested),           Some(claims::requested)),
    step("acr_values",             "OpenID Connect Core §3.1.2.1, §5.5.1.1",         Some(acr::wanted),                 Some(acr::wanted)),
    step("id_token_hint",          "OpenID Connect Core §3.1.2.1",                   Some(hint::subject),               Some(hint::subject)),
    step("login_hint",             "OpenID Connect Core §3.1.2.1",                   Some(login_hint::keep),            Some(login_hint::keep)),
    step("dpop_jkt",               "RFC 9449 §10",                                   Some(dpop_jkt::thumbprint),        Some(dpop_jkt::thumbprint)),
    step("order of checks",        "RFC 6749 §4.1.1",                                Some(order::proof),                Some(order::proof)),
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
            Endpoint::Par => step.par,
        };
        if let Some(Err(refusal)) = check.map(|check| check(params, desk, &mut request)) {
            return Err(Box::new((Caller { client_id: request.client_id, back: request.back }, refusal)));
        }
    }
    Ok(request)
}
