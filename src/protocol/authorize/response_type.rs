//! `response_type`: the code flow; where the profile allows it, the others too (RFC 6749 §3.1.1, OAuth 2.0 Multiple Response Types).
use serde::{Deserialize, Serialize};

use super::{Code, Desk, Params, Refusal, Request};
use crate::Profile;

/// What a client wants back from `/authorize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub struct ResponseType {
    /// An authorization code.
    pub code: bool,
    /// An ID token.
    pub id_token: bool,
    /// An access token.
    pub token: bool,
}

/// Every combination there is, by its registered name (OAuth 2.0 Multiple Response Types §3, §5).
const NAMES: [(&str, ResponseType); 7] = [
    ("code", ResponseType::CODE),
    ("id_token", ResponseType::of(false, true, false)),
    ("code id_token", ResponseType::of(true, true, false)),
    ("id_token token", ResponseType::of(false, true, true)),
    ("code token", ResponseType::of(true, false, true)),
    ("code id_token token", ResponseType::of(true, true, true)),
    // Never served: a token that nobody asked for by name (OAuth 2.1 §10.1).
    ("token", ResponseType::of(false, false, true)),
];

impl ResponseType {
    /// `code`
    pub const CODE: Self = Self::of(true, false, false);

    const fn of(code: bool, id_token: bool, token: bool) -> Self {
        Self { code, id_token, token }
    }

    /// Those that can be registered, as metadata names them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name).filter(|name| *name != "token")
    }

    /// The combination of that name; the order of the words does not matter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut found = Self::of(false, false, false);
        for word in text.split(' ').filter(|w| !w.is_empty()) {
            let member = match word {
                "code" => &mut found.code,
                "id_token" => &mut found.id_token,
                "token" => &mut found.token,
                _ => return None,
            };
            if std::mem::replace(member, true) {
                return None;
            }
        }
        (found.code || found.id_token || found.token).then_some(found)
    }

    /// Its registered name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether something comes through the browser that must not be seen in a query.
    #[must_use]
    pub const fn is_front(self) -> bool {
        self.id_token || self.token
    }
}

impl Default for ResponseType {
    fn default() -> Self {
        Self::CODE
    }
}

impl From<ResponseType> for &'static str {
    fn from(kind: ResponseType) -> Self {
        kind.as_str()
    }
}

impl TryFrom<String> for ResponseType {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("no response type")
    }
}

/// Step: one we serve under this profile, and the client is registered for it.
pub(super) fn served(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    const UNSUPPORTED: Refusal = Refusal::new(Code::UnsupportedResponseType, "this response_type is not supported");
    let asked = params.one("response_type")?.ok_or(Refusal::new(Code::InvalidRequest, "response_type is missing"))?;
    let kind = ResponseType::parse(asked).filter(|k| k.code || k.id_token).ok_or(UNSUPPORTED)?;
    if kind.is_front() && desk.settings.profile != Profile::OidcDynamic {
        return Err(UNSUPPORTED);
    }
    if !desk.client.response_types.iter().any(|r| ResponseType::parse(r) == Some(kind)) {
        return Err(Refusal::new(Code::UnauthorizedClient, "this client is not registered for that response_type"));
    }
    let bound = desk.client.dpop_bound_access_tokens || desk.client.tls_client_certificate_bound_access_tokens;
    if kind.token && bound {
        return Err(Refusal::new(Code::UnauthorizedClient, "tokens of this client are bound to a key and do not pass through a browser"));
    }
    request.response_type = kind;
    Ok(())
}
