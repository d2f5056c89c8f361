//! Authorization requests (RFC 6749 §4.1, OpenID Connect Core §3.1.2): what is asked, and what happens next.
//!
//! Read in this order: [`steps`] (the matrix: every check, in order), [`return_address`] (the only way back to a client),
//! [`answer`] (what a client hears), [`next`] (log in, ask, issue or refuse), [`issue`] (the change that makes a code).
//!
//! A request climbs through types: [`Params`] are what arrived; a [`Caller`] has a known client and a [`ReturnAddress`], so that
//! from here on errors may be redirected; a [`Request`] has passed every step. Refusals before a `Caller` exists are pages.
pub mod acr;
pub mod answer;
pub mod claims;
pub mod details;
pub mod dpop_jkt;
pub mod grant_type;
pub mod hint;
pub mod issue;
pub mod issuer;
pub mod jarm;
pub mod login_hint;
pub mod max_age;
pub mod next;
pub mod order;
pub mod params;
pub mod pending;
pub mod pkce;
pub mod profile;
pub mod prompt;
pub mod pushed;
pub mod refusal;
pub mod request_object;
pub mod resource;
pub mod response_mode;
pub mod response_type;
pub mod return_address;
pub mod steps;

use serde_json::Value;

pub use answer::{Answer, Return, Voice};
pub use next::{Next, Seen, next};
pub use params::Params;
pub use pending::Pending;
pub use prompt::Prompts;
pub use refusal::Refusal;
pub use response_mode::ResponseMode;
pub use response_type::ResponseType;
pub use return_address::ReturnAddress;
pub use steps::{Endpoint, accept};

pub use crate::Code;
use crate::{Client, Evidence, Profile, ResourceServer, Settings};

/// What the checks may look at besides the request.
pub struct Desk<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// Names and lifetimes.
    pub settings: &'a Settings,
    /// The resource server of [`resource::target`]; `None` if the target is the issuer itself or nobody's.
    pub server: Option<&'a ResourceServer>,
    /// Our keys, for `id_token_hint`.
    pub keys: &'a tokens::jwk::KeySet,
    /// What keys the request proved (at `/par`).
    pub evidence: &'a Evidence,
}

/// A known client with an address of its own: errors may be redirected from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who asks.
    pub client_id: String,
    /// Where answers go.
    pub back: Return,
}

/// An authorization request that has passed every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Who asks.
    pub client_id: String,
    /// Where the answer goes.
    pub back: Return,
    /// What may be granted: sorted, each once.
    pub scope: Vec<String>,
    /// The audience of the access token (RFC 8707).
    pub resource: String,
    /// Comes back in the ID token (OpenID Connect Core §3.1.2.1).
    pub nonce: Option<String>,
    /// S256 challenge (RFC 7636).
    pub code_challenge: Option<String>,
    /// What the client wants the person to be asked.
    pub prompt: Prompts,
    /// The oldest acceptable login, seconds.
    pub max_age: Option<i64>,
    /// The `claims` parameter, checked (OpenID Connect Core §5.5).
    pub claims: Option<Value>,
    /// Who will probably log in.
    pub login_hint: Option<String>,
    /// Who must be the one (from `id_token_hint` or a requested `sub`).
    pub subject: Option<String>,
    /// What the client wants back.
    pub response_type: ResponseType,
    /// Authentication context classes it asks for, the most wanted first (`acr_values`, `claims.id_token.acr`, `default_acr_values`).
    pub acr_values: Vec<String>,
    /// One of [`Self::acr_values`] has to be met (an essential `acr` claim, OpenID Connect Core §5.5.1.1).
    pub acr_essential: bool,
    /// What it asks for in detail, checked (RFC 9396).
    pub details: Option<Value>,
    /// The DPoP key its code will be bound to (RFC 9449 §10).
    pub dpop_jkt: Option<String>,
    /// The pushed request it came from (RFC 9126): the row's id, base64url. It is used up with the answer.
    pub pushed: Option<String>,
}

impl Request {
    fn of(caller: Caller) -> Self {
        Self {
            client_id: caller.client_id,
            back: caller.back,
            scope: Vec::new(),
            resource: String::new(),
            nonce: None,
            code_challenge: None,
            prompt: Prompts::default(),
            max_age: None,
            claims: None,
            login_hint: None,
            subject: None,
            response_type: ResponseType::CODE,
            acr_values: Vec::new(),
            acr_essential: false,
            details: None,
            dpop_jkt: None,
            pushed: None,
        }
    }
}

/// The `client_id` of a request, before anything is known. A refusal here is an error page.
pub fn client_id(params: &Params) -> Result<&str, Refusal> {
    params.one("client_id")?.ok_or(Refusal::new(Code::InvalidRequest, "client_id is missing"))
}

/// Makes a caller of a known client: its `redirect_uri` must be one of its own. A refusal here is an error page (RFC 6749 §4.1.2.1).
pub fn recognise(params: &Params, client: Option<&Client>, profile: Profile) -> Result<Caller, Refusal> {
    let asked = client_id(params)?;
    let client =
        client.filter(|c| c.client_id == asked && !c.disabled).ok_or(Refusal::new(Code::InvalidClient, "this client is not known here"))?;
    let uri = params
        .one("redirect_uri")
        .map_err(|_| Refusal::new(Code::InvalidRequest, "redirect_uri is given more than once"))?
        .ok_or(Refusal::new(Code::InvalidRequest, "redirect_uri is missing"))?;
    let address = ReturnAddress::matched(uri, &client.redirect_uris)
        .ok_or(Refusal::new(Code::InvalidRequest, "redirect_uri is not registered for this client"))?;
    let mode = response_mode::of(params, client, profile);
    let state = params.one("state").ok().flatten().map(str::to_owned);
    Ok(Caller { client_id: client.client_id.clone(), back: Return { address, mode, state } })
}

#[cfg(test)]
mod tests;
