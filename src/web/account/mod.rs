//! Where people meet the server: they log in, allow clients, and look after their account.
//!
//! Read [`interaction`] first (a request that waits for a person), then [`flow`] (how it goes on), then the pages: [`login`],
//! [`consent`], [`page`].
pub mod backchannel;
pub mod consent;
pub mod device;
pub mod flow;
pub mod hashing;
pub mod interaction;
pub mod login;
pub mod mfa;
pub mod page;
pub mod password;

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use accounts::session::{self, Ending};
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::{StatusCode, header::CONTENT_TYPE, request::Parts};
use ledger::{Change, Session, StoreError};
use protocol::{authorize::Params, logout};

use crate::{App, limits, oauth, pages::Refused, reply::Failed};

/// A posted form, and who posted it.
pub struct Posted {
    /// What was posted, if it was a form.
    pub(crate) params: Result<Params, Refused>,
    /// Where it comes from.
    pub(crate) source: IpAddr,
}

/// Where a request comes from.
pub struct Source(pub(crate) IpAddr);

impl FromRequestParts<Arc<App>> for Source {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self(limits::source(app, parts)))
    }
}

impl FromRequest<Arc<App>> for Posted {
    type Rejection = Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        let source = limits::source(app, &parts);
        if oauth::twice(&parts.headers) {
            return Ok(Self { params: Err(Refused::request("More than one Content-Type header.")), source });
        }
        let media = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next()).unwrap_or_default();
        if !media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let why = Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", "The form was not sent as a form.");
            return Ok(Self { params: Err(why), source });
        }
        let params = match oauth::read(&parts, body).await {
            Ok(octets) => std::str::from_utf8(&octets).map(Params::parse).map_err(|_| Refused::request("The form is not text.")),
            Err(Failed::TooLarge) => Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "The form is too large.")),
            Err(_) => Err(Refused::request("The form could not be read.")),
        };
        Ok(Self { params, source })
    }
}

/// How pages call a person: the username.
pub(crate) async fn name_of(app: &App, subject: &str) -> Result<String, StoreError> {
    Ok(app.catalog.user(subject).await?.map_or_else(|| subject.to_owned(), |user| user.username.clone()))
}

/// The change that ends a session and what ends with it.
pub(crate) async fn ending(app: &App, session: &Session, why: Ending) -> Result<Change, StoreError> {
    let (mut grants, mut after) = (Vec::new(), None);
    loop {
        let found = app.store.grants(Some(&session.subject), None, after.as_deref(), 500).await?;
        grants.extend(found.items);
        after = found.next;
        if after.is_none() {
            return Ok(session::end(session, &grants, why, logout::REMEMBER, app.clock.now_ms()));
        }
    }
}

#[cfg(test)]
mod tests;
