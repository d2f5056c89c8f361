//! What a client hears: a redirect or a posted form, always with `state` and `iss` (RFC 6749 §4.1.2, RFC 9207).
use super::{Refusal, ResponseMode, ReturnAddress};

/// The way back to a client: where, how, and with which `state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// Where.
    pub address: ReturnAddress,
    /// How.
    pub mode: ResponseMode,
    /// Untouched.
    pub state: Option<String>,
}

/// An authorization response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 303 to this location.
    Redirect {
        /// The whole location.
        location: String,
    },
    /// A page with a form that posts these fields (OAuth 2.0 Form Post Response Mode).
    FormPost {
        /// Where the form goes.
        action: ReturnAddress,
        /// Its hidden fields.
        fields: Vec<(&'static str, String)>,
    },
}

impl Return {
    /// The success answer.
    #[must_use]
    pub fn code(&self, issuer: &str, code: &str) -> Answer {
        self.answer(issuer, vec![("code", code)])
    }

    /// The error answer.
    #[must_use]
    pub fn refuse(&self, issuer: &str, refusal: Refusal) -> Answer {
        self.answer(issuer, vec![("error", refusal.code.as_str()), ("error_description", refusal.hears)])
    }

    fn answer<'a>(&'a self, issuer: &'a str, mut pairs: Vec<(&'static str, &'a str)>) -> Answer {
        if let Some(state) = &self.state {
            pairs.push(("state", state));
        }
        pairs.push(super::issuer::parameter(issuer));
        match self.mode {
            ResponseMode::Query => Answer::Redirect { location: self.address.with(&pairs) },
            ResponseMode::FormPost => Answer::FormPost {
                action: self.address.clone(),
                fields: pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
            },
        }
    }
}
