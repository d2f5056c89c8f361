//! Client-initiated backchannel authentication (CIBA Core 1.0, FAPI-CIBA): a client asks, its person answers on a page of ours.
pub mod request;

use accounts::User;
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, Step};
use serde_json::{Map, Value, json};
use tokens::{
    b64,
    seal::Kek,
    secret::{self, Issued, MacKey, Plain},
};

use crate::{
    AuthenticatedClient, Code, OAuthError, Profile, ResourceServer, Settings,
    grants::{
        self, CIBA, audience,
        ciba::{Delivery, SIGNING},
        decoupled::{self, BACKCHANNEL, INTERVAL, Requested},
    },
    issue::Context,
    resource,
    scope::{self, Party},
};
use request::{Asked, Once};

/// Domain of the keys under which notification tokens are sealed.
const DOMAIN: &str = "ciba_notification";

/// A request that waits for its person.
#[derive(Debug)]
pub struct Begun {
    /// To be applied first.
    pub change: Change,
    auth_req_id: Plain,
    expires_in: i64,
}

impl Begun {
    /// The JSON document of CIBA Core §7.3.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        json!({"auth_req_id": self.auth_req_id.expose(), "expires_in": self.expires_in, "interval": INTERVAL}).to_string().into_bytes()
    }
}

/// The resource a request is for, to be loaded before [`begin`].
///
/// # Errors
/// `unauthorized_client`, `invalid_target`.
pub fn target(client: &AuthenticatedClient, asked: &Asked, settings: &Settings) -> Result<String, OAuthError> {
    entitled(client)?;
    resource::choose(asked.resource.iter().map(String::as_str), Some(&asked.scope), client.client(), settings)
}

/// Whether a client may ask at all, and how it hears of the answer.
///
/// # Errors
/// `unauthorized_client`.
pub fn entitled(client: &AuthenticatedClient) -> Result<Delivery, OAuthError> {
    let delivery = Delivery::of(client.client()).filter(|_| client.client().may_use(CIBA) && !client.client().is_public());
    delivery.ok_or_else(grants::unauthorized)
}

/// Begins. The person is known by now.
///
/// # Errors
/// `unauthorized_client`, `invalid_request`, `invalid_target`, `invalid_scope`.
pub fn begin(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    asked: &Asked,
    once: Option<Once>,
    user: &User,
    (target, server): (&str, Option<&ResourceServer>),
) -> Result<Begun, OAuthError> {
    let delivery = entitled(client)?;
    // The person tells by it which request is theirs (FAPI-CIBA §5.2.2).
    if ctx.settings.profile == Profile::Fapi2 && asked.binding_message.is_none() {
        return Err(OAuthError::request("binding_message is missing"));
    }
    let scope = scope::grant(Some(&asked.scope), client.client(), audience(target, ctx.settings, server)?, Party::Person)?;
    let (now, issued) = (ctx.now(), secret::generate(BACKCHANNEL.secret, ctx.now_ms, ctx.entropy, ctx.mac));
    let notification = match (delivery, asked.notification_token.as_deref()) {
        (Delivery::Poll, _) => None,
        (Delivery::Ping, Some(token)) if request::is_notification_token(token) => Some(seal(ctx, &issued, token)),
        (Delivery::Ping, _) => return Err(OAuthError::request("client_notification_token is missing or not a bearer token of 128 bits")),
    };
    let expires_in = asked.requested_expiry.unwrap_or(ctx.settings.device_code_ttl);
    let requested = Requested {
        client_id: client.id().to_owned(),
        subject: Some(user.id.clone()),
        scope: scope.to_string(),
        resource: target.to_owned(),
        expires_at: now.saturating_add(expires_in),
        acr: asked.acr.clone(),
        binding_message: asked.binding_message.clone(),
        notification,
    };
    let [request, door] = decoupled::begin(&BACKCHANNEL, &issued, &requested, decoupled::door_id(&issued.id), now);
    let mut change = Change::new().step(client.unchanged());
    if let Some(once) = once {
        change = change.step(once_only(once, now));
    }
    let event = NewEvent::new(EventKind::BackchannelRequested, ctx.now_ms)
        .subject(&user.id)
        .client(client.id())
        .with("scope", requested.scope.as_str())
        .with("request", b64::encode(&issued.id));
    Ok(Begun { change: change.step(request).step(door).event(event), auth_req_id: issued.plain, expires_in })
}

fn once_only(once: Once, now: i64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: once.id,
        mac: Vec::new(),
        grant: None,
        document: String::new(),
        created_at: now,
        expires_at: once.expires_at,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}

/// What has to be told again later is sealed under a key of its request's.
fn seal(ctx: &Context<'_>, issued: &Issued, token: &str) -> String {
    let both = Plain::new(format!("{} {token}", issued.plain.expose()));
    b64::encode(&Kek::new(ctx.mac.mac(DOMAIN, &issued.id)).seal(DOMAIN, both.expose().as_bytes(), ctx.entropy))
}

/// What a client is told that wants to be told (CIBA Core §10.2).
pub struct Notification {
    /// The request.
    pub auth_req_id: Plain,
    /// The client's bearer token.
    pub token: Plain,
}

/// The notification of a request; none if its client polls.
#[must_use]
pub fn notification(mac: &MacKey, request: &[u8], requested: &Requested) -> Option<Notification> {
    let sealed = b64::decode(requested.notification.as_deref()?)?;
    let both = Kek::new(mac.mac(DOMAIN, request)).open(DOMAIN, &sealed).ok()?;
    let (auth_req_id, token) = std::str::from_utf8(&both).ok()?.split_once(' ')?;
    Some(Notification { auth_req_id: Plain::new(auth_req_id), token: Plain::new(token) })
}

/// Nobody of that name here may be asked (CIBA Core §13).
#[must_use]
pub fn unknown() -> OAuthError {
    OAuthError::new(Code::UnknownUserId, "the hint names nobody who can be asked")
}

/// What metadata says (CIBA Core §4).
pub(crate) fn metadata(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("backchannel_authentication_endpoint".into(), settings.url("/bc-authorize").into());
    members.insert("backchannel_token_delivery_modes_supported".into(), json!(Delivery::ALL));
    members.insert("backchannel_authentication_request_signing_alg_values_supported".into(), json!(SIGNING));
    members.insert("backchannel_user_code_parameter_supported".into(), false.into());
}
