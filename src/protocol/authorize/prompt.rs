//! `prompt`: what the person must, or must not, be asked (OpenID Connect Core §3.1.2.1).
use serde::{Deserialize, Serialize};

use super::{Code, Desk, Params, Refusal, Request};

/// The wishes of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prompts {
    /// Show nothing.
    pub none: bool,
    /// Log in again.
    pub login: bool,
    /// Ask for consent again.
    pub consent: bool,
    /// Let the person choose an account.
    pub select_account: bool,
}

/// Step: known values; `none` stands alone.
pub(super) fn combination(params: &Params, _: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let mut prompt = Prompts::default();
    for value in params.one("prompt")?.unwrap_or_default().split(' ').filter(|v| !v.is_empty()) {
        match value {
            "none" => prompt.none = true,
            "login" => prompt.login = true,
            "consent" => prompt.consent = true,
            "select_account" => prompt.select_account = true,
            _ => return Err(Refusal::new(Code::InvalidRequest, "prompt must be none, login, consent or select_account")),
        }
    }
    if prompt.none && (prompt.login || prompt.consent || prompt.select_account) {
        return Err(Refusal::new(Code::InvalidRequest, "prompt none cannot be combined"));
    }
    request.prompt = prompt;
    Ok(())
}
