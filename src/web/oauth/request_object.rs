//! Finding what a request object is read with: its client's keys, and the object itself where it came by reference (RFC 9101 §5.2, OpenID
//! Connect Core §6.2).
use std::borrow::Cow;

use edge::limit::Quota;
use protocol::{
    Client, Code,
    authorize::{
        Params, Refusal,
        request_object::{self, Came},
    },
};

use crate::App;

/// Objects of one client that are fetched.
const FETCHED: Quota = Quota::per(120, 60);

/// The parameters inside a request's object; nothing if it has none.
///
/// # Errors
/// `invalid_request_object`, `invalid_request_uri`.
pub(crate) async fn unpacked(app: &App, client: &Client, params: &Params, came: Came) -> Result<Option<Params>, Refusal> {
    let text = match (params.one("request")?, params.one("request_uri")?) {
        (Some(_), Some(_)) => return Err(Refusal::new(Code::InvalidRequest, "request and request_uri exclude each other")),
        (Some(text), None) => Cow::Borrowed(text),
        (None, Some(uri)) if came == Came::Authorize && request_object::by_reference(&app.settings) => {
            Cow::Owned(fetched(app, client, uri).await?)
        }
        (None, _) => return Ok(None),
    };
    let kid = request_object::key_id(&text)?;
    let keys = app.relying.keys(client, kid.as_deref(), None).await;
    request_object::unpack(&text, params, came, (client, &app.settings), keys.set(), app.clock.now()).map(Some)
}

async fn fetched(app: &App, client: &Client, uri: &str) -> Result<String, Refusal> {
    if !request_object::may_fetch(uri, client) {
        return Err(Refusal::new(Code::InvalidRequestUri, "the request_uri is not registered for this client"));
    }
    const AWAY: Refusal = Refusal::new(Code::InvalidRequestUri, "the request object could not be fetched");
    let now_ms = app.clock.now_ms();
    if !app.counters.hit(&format!("request_uri:{}", client.client_id), &FETCHED, 1, now_ms).await.allowed {
        return Err(AWAY);
    }
    let address = uri.split('#').next().unwrap_or_default();
    let octets = app.outbound.get(address).await.map_err(|why| {
        tracing::warn!(client = %client.client_id, %why, "request object not fetched");
        AWAY
    })?;
    std::str::from_utf8(&octets).map(|text| text.trim().to_owned()).map_err(|_| AWAY)
}
