//! Where people meet the server: they log in, allow clients, and look after their account.
//!
//! Read [`interaction`] first (a request that waits for a person), then [`flow`] (how it goes on), then the pages: [`login`],
//! [`consent`], [`page`].
pub mod consent;
pub mod flow;
pub mod hashing;
pub mod interaction;
pub mod login;
pub mod page;
pub mod password;

use std::{convert::Infallible, sync::Arc};

use axum::extract::{FromRequest, Request};
use http::{StatusCode, header::CONTENT_TYPE};
use ledger::{ObjectKind, StoreError};
use protocol::authorize::Params;

use crate::{App, Peer, oauth, pages::Refused, reply::Failed};

/// A posted form, and who posted it.
pub struct Posted {
    /// What was posted, if it was a form.
    pub(crate) params: Result<Params, Refused>,
    /// The other end of the connection.
    pub(crate) peer: Option<Peer>,
}

impl FromRequest<Arc<App>> for Posted {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().copied();
        let media = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next()).unwrap_or_default();
        if !media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let why = Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", "The form was not sent as a form.");
            return Ok(Self { params: Err(why), peer });
        }
        let params = match oauth::read(&parts, body).await {
            Ok(octets) => std::str::from_utf8(&octets).map(Params::parse).map_err(|_| Refused::request("The form is not text.")),
            Err(Failed::TooLarge) => Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "The form is too large.")),
            Err(_) => Err(Refused::request("The form could not be read.")),
        };
        Ok(Self { params, peer })
    }
}

/// How pages call a person: the username.
pub(crate) async fn name_of(app: &App, subject: &str) -> Result<String, StoreError> {
    Ok(app.store.object(ObjectKind::User, subject).await?.map_or_else(|| subject.to_owned(), |user| user.key))
}

#[cfg(test)]
mod tests;
