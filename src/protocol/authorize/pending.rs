//! An authorization request that waits for a person: the document of an interaction.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Prompts, Request, ResponseMode, ResponseType, Return, ReturnAddress, details};
use crate::{Client, grants, scope};

/// The stored form of a [`Request`]. Its address is plain text here: it takes the client's record to make a return address again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asks.
    pub client_id: String,
    redirect_uri: String,
    mode: ResponseMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    scope: Vec<String>,
    resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code_challenge: Option<String>,
    prompt: Prompts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claims: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login_hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default)]
    response_type: ResponseType,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    acr_values: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    acr_essential: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dpop_jkt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pushed: Option<String>,
}

impl Pending {
    /// Lets a request wait.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let request = request.clone();
        Self {
            client_id: request.client_id,
            redirect_uri: request.back.address.as_str().to_owned(),
            mode: request.back.mode,
            state: request.back.state,
            scope: request.scope,
            resource: request.resource,
            nonce: request.nonce,
            code_challenge: request.code_challenge,
            prompt: request.prompt,
            max_age: request.max_age,
            claims: request.claims,
            login_hint: request.login_hint,
            subject: request.subject,
            response_type: request.response_type,
            acr_values: request.acr_values,
            acr_essential: request.acr_essential,
            details: request.details,
            dpop_jkt: request.dpop_jkt,
            pushed: request.pushed,
        }
    }

    /// The same, taken from a pushed request with this id (base64url).
    pub(super) fn pushed(self, id: String) -> Self {
        Self { pushed: Some(id), ..self }
    }

    /// Goes on with it, as far as the client may still ask for it; `None` if the client has gone, is disabled or has lost that redirect
    /// URI, the flow, the resource or everything it asked for meanwhile.
    #[must_use]
    pub fn resume(self, client: Option<&Client>, issuer: &str) -> Option<Request> {
        let client = client.filter(|c| c.client_id == self.client_id && !c.disabled)?;
        let address = ReturnAddress::matched(&self.redirect_uri, &client.redirect_uris)?;
        let kind = self.response_type;
        let registered = client.response_types.iter().any(|r| ResponseType::parse(r) == Some(kind));
        let flow = (!kind.code || client.may_use(grants::AUTHORIZATION_CODE)) && (!kind.is_front() || client.may_use(grants::IMPLICIT));
        let resource = self.resource == issuer || client.allowed_resources.contains(&self.resource);
        if !(registered && flow && resource) {
            return None;
        }
        let asked = self.scope.len();
        let scope: Vec<String> = self.scope.into_iter().filter(|token| scope::list_has(&client.scope, token)).collect();
        let details = details::narrowed(None, self.details.as_ref(), client).ok()?;
        if (scope.is_empty() && asked > 0) || (details.is_none() && self.details.is_some()) {
            return None;
        }
        Some(Request {
            client_id: self.client_id,
            back: Return { address, mode: self.mode, state: self.state },
            scope,
            resource: self.resource,
            nonce: self.nonce,
            code_challenge: self.code_challenge,
            prompt: self.prompt,
            max_age: self.max_age,
            claims: self.claims,
            login_hint: self.login_hint,
            subject: self.subject,
            response_type: self.response_type,
            acr_values: self.acr_values,
            acr_essential: self.acr_essential,
            details,
            dpop_jkt: self.dpop_jkt,
            pushed: self.pushed,
        })
    }
}
