//! `response_mode`: how the answer travels (OAuth 2.0 Multiple Response Types §2.1, Form Post Response Mode, JARM §2.3).
use serde::{Deserialize, Serialize};

use super::{Code, Desk, Params, Refusal, Request, ResponseType};
use crate::{Client, Profile};

/// How an answer travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In the query of the redirect.
    #[default]
    Query,
    /// In a form that the browser posts.
    FormPost,
    /// In the fragment of the redirect.
    Fragment,
    /// In the query, as one signed JWT.
    QueryJwt,
    /// In a posted form, as one signed JWT.
    FormPostJwt,
    /// In the fragment, as one signed JWT.
    FragmentJwt,
}

impl ResponseMode {
    /// The mode of that name for an answer that has tokens in it (`front`) or has not. A query never carries tokens; a fragment is there
    /// where tokens may come back at all.
    fn parse(name: &str, front: bool, profile: Profile) -> Option<Self> {
        let fragments = front || profile == Profile::OidcDynamic;
        Some(match name {
            "query" if !front => Self::Query,
            "fragment" if fragments => Self::Fragment,
            "form_post" => Self::FormPost,
            "query.jwt" if !front => Self::QueryJwt,
            "fragment.jwt" if fragments => Self::FragmentJwt,
            "form_post.jwt" => Self::FormPostJwt,
            "jwt" if front => Self::FragmentJwt,
            "jwt" => Self::QueryJwt,
            _ => return None,
        })
    }

    const fn usual(front: bool) -> Self {
        if front { Self::Fragment } else { Self::Query }
    }

    /// Whether the answer is one signed JWT (JARM).
    #[must_use]
    pub const fn is_jwt(self) -> bool {
        matches!(self, Self::QueryJwt | Self::FormPostJwt | Self::FragmentJwt)
    }

    /// The way without the JWT.
    #[must_use]
    pub const fn carrier(self) -> Self {
        match self {
            Self::Query | Self::QueryJwt => Self::Query,
            Self::FormPost | Self::FormPostJwt => Self::FormPost,
            Self::Fragment | Self::FragmentJwt => Self::Fragment,
        }
    }

    /// The names of those served; a fragment only where tokens may come back.
    pub fn names(front: bool) -> impl Iterator<Item = &'static str> {
        ["query", "form_post", "fragment", "query.jwt", "form_post.jwt", "fragment.jwt", "jwt"]
            .into_iter()
            .filter(move |name| front || !name.starts_with("fragment"))
    }
}

/// The mode errors travel in, even errors about the mode.
#[must_use]
pub fn of(params: &Params, client: &Client, profile: Profile) -> ResponseMode {
    let registered = |kind: &ResponseType| client.response_types.iter().any(|r| ResponseType::parse(r) == Some(*kind));
    let kind = params.one("response_type").ok().flatten().and_then(ResponseType::parse).filter(registered);
    let front = kind.is_some_and(ResponseType::is_front);
    let asked = params.one("response_mode").ok().flatten().and_then(|name| ResponseMode::parse(name, front, profile));
    asked.unwrap_or(ResponseMode::usual(front))
}

/// Step: a mode we serve for that response type, which was looked at before.
pub(super) fn known(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let front = request.response_type.is_front();
    request.back.mode = match params.one("response_mode")? {
        None => ResponseMode::usual(front),
        Some(name) => ResponseMode::parse(name, front, desk.settings.profile)
            .ok_or(Refusal::new(Code::InvalidRequest, "response_mode is not supported for this response_type"))?,
    };
    Ok(())
}
