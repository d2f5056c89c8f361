//! What a client hears: a redirect, a posted form, or a signed JWT in either; always with `state` and `iss` (RFC 6749 §4.1.2, RFC 9207).
use tokens::keyring::KeyRing;

use super::{Code, Refusal, ResponseMode, ReturnAddress, jarm};
use crate::{Client, Settings};

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

/// Who speaks to whom: what an answer needs besides its content.
#[derive(Clone, Copy)]
pub struct Voice<'a> {
    /// Names.
    pub settings: &'a Settings,
    /// Who hears it.
    pub client: &'a Client,
    /// The signing keys, for answers that are JWTs.
    pub keys: &'a KeyRing,
    /// Seconds since the epoch.
    pub now: i64,
}

/// Parameters of an answer.
pub type Pairs = Vec<(&'static str, String)>;

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
        fields: Pairs,
    },
}

impl Return {
    /// The success answer.
    #[must_use]
    pub fn give(&self, voice: Voice<'_>, pairs: Pairs) -> Answer {
        self.answer(voice, pairs)
    }

    /// The error answer.
    #[must_use]
    pub fn refuse(&self, voice: Voice<'_>, refusal: Refusal) -> Answer {
        self.answer(voice, told(refusal))
    }

    fn answer(&self, voice: Voice<'_>, mut pairs: Pairs) -> Answer {
        if let Some(state) = &self.state {
            pairs.push(("state", state.clone()));
        }
        if self.mode.is_jwt() {
            return match jarm::response(voice, &pairs) {
                Ok(jwt) => self.carry(vec![("response", jwt)]),
                // Unsigned, it gives nothing away.
                Err(error) => self.plain(voice, told(Refusal::new(Code::ServerError, error.description))),
            };
        }
        self.plain(voice, pairs)
    }

    fn plain(&self, voice: Voice<'_>, mut pairs: Pairs) -> Answer {
        let (name, issuer) = super::issuer::parameter(&voice.settings.issuer);
        pairs.push((name, issuer.to_owned()));
        self.carry(pairs)
    }

    fn carry(&self, pairs: Pairs) -> Answer {
        let borrowed: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match self.mode.carrier() {
            ResponseMode::FormPost | ResponseMode::FormPostJwt => Answer::FormPost { action: self.address.clone(), fields: pairs },
            ResponseMode::Fragment | ResponseMode::FragmentJwt => Answer::Redirect { location: self.address.with_fragment(&borrowed) },
            ResponseMode::Query | ResponseMode::QueryJwt => Answer::Redirect { location: self.address.with(&borrowed) },
        }
    }
}

fn told(refusal: Refusal) -> Pairs {
    vec![("error", refusal.code.as_str().to_owned()), ("error_description", refusal.hears.to_owned())]
}
