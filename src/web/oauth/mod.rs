//! The protocol's endpoints: thin handlers around `protocol`'s decisions.
pub(crate) mod authorize;
pub(crate) mod authzen;
pub(crate) mod bc_authorize;
pub(crate) mod device_authorization;
pub mod discovery;
pub(crate) mod evidence;
pub(crate) mod feed;
pub(crate) mod health;
pub(crate) mod introspect;
pub(crate) mod jwks;
pub(crate) mod logout;
pub(crate) mod once;
pub(crate) mod par;
pub(crate) mod register;
pub(crate) mod request_object;
pub(crate) mod revoke;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod userinfo;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use protocol::{
    AuthenticatedClient, Client, Evidence, Form, OAuthError, client_auth,
    client_auth::{Keys, Means, Needs},
    issue::Context,
};
use tokens::{Alg, certificate::Certificate, keyring::KeyRing};
use whole::Unread;

use crate::{App, app::PeerCertificate, limits, pages, reply::Failed};

/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Reads a form's octets: no query beside it (CONTRACT §6), at most [`Form::LIMIT`] octets, in time.
pub(crate) async fn octets(parts: &Parts, body: Body) -> Result<Bytes, Failed> {
    if parts.uri.query().is_some_and(|q| !q.is_empty()) {
        return Err(OAuthError::request("parameters belong in the body").into());
    }
    read(parts, body).await
}

/// Reads at most [`Form::LIMIT`] octets in time.
pub(crate) async fn read(parts: &Parts, body: Body) -> Result<Bytes, Failed> {
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > Form::LIMIT) {
        return Err(Failed::TooLarge);
    }
    match tokio::time::timeout(BODY_TIME, whole::read(body, Form::LIMIT)).await {
        Ok(Ok(octets)) => Ok(octets),
        Ok(Err(Unread::TooLarge)) => Err(Failed::TooLarge),
        Ok(Err(Unread::Broken(_))) => Err(OAuthError::request("the body could not be read").into()),
        Err(_) => Err(Failed::TooSlow),
    }
}

/// Whether it is not told once what the body is: the two lines could be read as either (RFC 9110 §5.3, §8.3).
pub(crate) fn twice(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().count() > 1
}

/// The form in a body.
pub(crate) fn form<'a>(parts: &Parts, octets: &'a [u8]) -> Result<Form<'a>, Failed> {
    if twice(&parts.headers) {
        return Err(OAuthError::request("more than one Content-Type header").into());
    }
    Ok(Form::body(parts.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes), octets)?)
}

/// Authenticates the client of a request; counts and records failures.
pub(crate) async fn client(app: &App, endpoint: &'static str, parts: &Parts, form: &Form<'_>) -> Result<AuthenticatedClient, Failed> {
    let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter().map(http::HeaderValue::as_bytes);
    let (first, more) = (headers.next(), headers.next());
    let authorization: &[&[u8]] = match (first, more) {
        (None, _) => &[],
        (Some(one), None) => &[one],
        (Some(one), Some(two)) => &[one, two],
    };
    let refuse = |error: OAuthError| match error.code {
        protocol::Code::InvalidClient if first.is_some() => Failed::Challenged(error),
        _ => Failed::Refused(error),
    };
    let presented = client_auth::present(authorization, form).map_err(refuse)?;
    let source = limits::source(app, parts);
    if let Some(seconds) = app.failures.wait(source, &presented.client_id, app.clock.now_ms()) {
        return Err(Failed::Limited(limits::FAILURES_OF_ONE.waits(seconds)));
    }
    let known = crate::documents::client(app, &presented.client_id, source).await?;
    let certificate = parts.extensions.get::<PeerCertificate>().map(|peer| &peer.0);
    let (keys, issuer) = match known.as_ref().map(|known| (known, presented.needs(&known.client))) {
        None | Some((_, Needs::Nothing)) => (None, Vec::new()),
        // Few need any: the way of all others stays small.
        Some((known, needs)) => {
            let (keys, issuer) = Box::pin(keys(app, needs, &known.client, certificate, Some(source))).await?;
            (Some(keys), issuer)
        }
    };
    let none = Keys::default();
    let means = Means {
        mac: &app.mac,
        settings: &app.settings,
        path: parts.uri.path().strip_prefix(pages::base(&app.settings.issuer)).unwrap_or_default(),
        now: app.clock.now(),
        keys: keys.as_deref().unwrap_or(&none),
        issuer_algorithms: &issuer,
        certificate,
    };
    match client_auth::authenticate(&presented, known, &means) {
        Ok(client) => Ok(client),
        Err(error) => {
            Box::pin(app.failures.count(app, endpoint, source, &presented.client_id, &error)).await;
            Err(refuse(error))
        }
    }
}

/// The keys a client is believed by, and the algorithms of the issuer they are of.
async fn keys(
    app: &App,
    needs: Needs<'_>,
    client: &Client,
    certificate: Option<&Certificate>,
    source: Option<IpAddr>,
) -> Result<(Arc<Keys>, Vec<Alg>), Failed> {
    Ok(match needs {
        Needs::Nothing => Default::default(),
        Needs::Client(kid) => (app.relying.keys(client, kid, source).await, Vec::new()),
        Needs::Certificate => match certificate {
            Some(certificate) => (app.relying.keys_holding(client, certificate, source).await, Vec::new()),
            None => Default::default(),
        },
        Needs::Issuer(issuer, kid) => match app.catalog.trusted_issuer(issuer).await? {
            Some(trusted) => (app.relying.issuer_keys(&trusted, kid).await, trusted.algs()),
            None => Default::default(),
        },
    })
}

/// What a decision that issues something may look at, now. `head` was read before anybody was believed: what is revoked
/// after that lies above it.
pub(crate) fn context<'a>(app: &'a App, keys: &'a KeyRing, head: u64, evidence: &'a Evidence) -> Context<'a> {
    Context {
        settings: &app.settings,
        keys,
        mac: &app.mac,
        entropy: app.entropy.as_ref(),
        now_ms: app.clock.now_ms(),
        head,
        evidence,
        slots: Some(&app.slots),
    }
}

#[cfg(test)]
mod tests;
