//! The order of checks, proved by oxide-auth's state machine (RFC 6749 §4.1.1).
//!
//! `code_grant::authorization::Authorization` cannot be finished without having bound a client to a redirect URI, then looked at the
//! extensions, then negotiated a scope. Our stricter checks run first and answer; the machine is shown only what they let through, and a
//! request that it does not finish is not served. Its redirects, errors and grants are not used: they lose the exact redirect URI,
//! `iss`, and the specification's member names.
use std::borrow::Cow;

use oxide_auth::{
    code_grant::authorization::{Authorization, Input, Output, Request as Shown},
    primitives::{
        grant::{Extensions, Value},
        registrar::{BoundClient, ExactUrl, PreGrant, RegisteredUrl},
    },
};

use super::{Code, Desk, Params, Refusal, Request};

/// What the machine sees: a checked request.
struct Checked<'a> {
    request: &'a Request,
    scope: String,
}

impl Shown for Checked<'_> {
    fn valid(&self) -> bool {
        true
    }
    fn client_id(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.request.client_id))
    }
    fn scope(&self) -> Option<Cow<'_, str>> {
        (!self.scope.is_empty()).then_some(Cow::Borrowed(&self.scope))
    }
    fn redirect_uri(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.request.back.address.as_str()))
    }
    fn state(&self) -> Option<Cow<'_, str>> {
        self.request.back.state.as_deref().map(Cow::Borrowed)
    }
    fn response_type(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("code"))
    }
    fn extension(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = match name {
            "code_challenge" => self.request.code_challenge.as_deref(),
            "code_challenge_method" => self.request.code_challenge.as_ref().map(|_| "S256"),
            _ => None,
        };
        value.map(Cow::Borrowed)
    }
}

/// Step: the machine visits all its states, and what comes out is what went in.
pub(super) fn proof(_: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    visit(request, &desk.client.client_id).ok_or(Refusal::new(Code::ServerError, "the request could not be completed"))
}

fn visit(request: &Request, known: &str) -> Option<()> {
    let checked = Checked { request, scope: request.scope.join(" ") };
    let mut machine = Authorization::new(&checked);
    let bound = match machine.advance(Input::None) {
        Output::Bind { client_id, redirect_uri } if client_id == known => {
            let exact: ExactUrl = redirect_uri.filter(|u| u.as_str() == request.back.address.as_str())?;
            BoundClient { client_id: Cow::Owned(client_id), redirect_uri: Cow::Owned(RegisteredUrl::Exact(exact)) }
        }
        _ => return None,
    };
    let pre_grant = |bound: &BoundClient<'_>, scope: Option<oxide_auth::primitives::scope::Scope>| {
        Some(PreGrant {
            client_id: bound.client_id.clone().into_owned(),
            redirect_uri: bound.redirect_uri.clone().into_owned(),
            scope: scope.map_or_else(|| "".parse().ok(), Some)?,
        })
    };
    let Output::Extend = machine.advance(Input::Bound { request: &checked, bound_client: bound }) else { return None };
    let mut extensions = Extensions::new();
    if let Some(challenge) = &request.code_challenge {
        extensions.set_raw("pkce".to_owned(), Value::private(Some(format!("S256{challenge}"))));
    }
    let negotiated = match machine.advance(Input::Extended(extensions)) {
        Output::Negotiate { bound_client, scope } => pre_grant(bound_client, scope)?,
        _ => return None,
    };
    match machine.advance(Input::Negotiated { pre_grant: negotiated, state: request.back.state.clone() }) {
        Output::Ok { pre_grant, state, .. } => (pre_grant.client_id == known && state == request.back.state).then_some(()),
        _ => None,
    }
}
