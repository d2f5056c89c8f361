//! `response_mode`: how the answer travels (OAuth 2.0 Multiple Response Types §2.1, Form Post Response Mode).
use serde::{Deserialize, Serialize};

use super::{Code, Desk, Params, Refusal, Request};

/// How an answer travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In the query of the redirect.
    #[default]
    Query,
    /// In a form that the browser posts.
    FormPost,
}

impl ResponseMode {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "query" => Some(Self::Query),
            "form_post" => Some(Self::FormPost),
            _ => None,
        }
    }
}

/// The mode errors travel in, even errors about the mode.
#[must_use]
pub fn of(params: &Params) -> ResponseMode {
    params.one("response_mode").ok().flatten().and_then(ResponseMode::parse).unwrap_or_default()
}

/// Step: a mode we serve.
pub(super) fn known(params: &Params, _: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    if let Some(name) = params.one("response_mode")? {
        request.back.mode =
            ResponseMode::parse(name).ok_or(Refusal::new(Code::InvalidRequest, "response_mode must be query or form_post"))?;
    }
    Ok(())
}
