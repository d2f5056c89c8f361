//! Access tokens: signed (RFC 9068) or opaque, and the token response (RFC 6749 §5.1).
use accounts::User;
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, Step};
use serde::Serialize;
use serde_json::Value;
use tokens::{
    Alg, Confirmation, Entropy,
    access::{self, AccessTokenClaims, Origin},
    device::DeviceClaim,
    id,
    keyring::KeyRing,
    secret::{self, MacKey, Plain, SecretKind},
    status_list::Slots,
};

use crate::{
    Client, Evidence, OAuthError, ResourceServer, Scope, Settings, client, signing, status_list,
    stored::{AccessDocument, Authentication},
};

/// What every decision that issues something may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Names and lifetimes.
    pub settings: &'a Settings,
    /// The signing keys.
    pub keys: &'a KeyRing,
    /// Key of the MACs of what is stored.
    pub mac: &'a MacKey,
    /// Randomness.
    pub entropy: &'a dyn Entropy,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    /// The ledger position this node knows; goes into tokens as `seq`.
    pub head: u64,
    /// What keys the request proved.
    pub evidence: &'a Evidence,
    /// Gives tokens their places in status lists; none where no lists are kept.
    pub slots: Option<&'a Slots>,
}

impl Context<'_> {
    /// Seconds since the epoch.
    #[must_use]
    pub const fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }
}

/// How an access token looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A signed JWT (RFC 9068).
    Jwt,
    /// A reference, known to the server only.
    Opaque,
}

impl Format {
    /// The name in registrations, events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Opaque => "opaque",
        }
    }
    /// The client's override, else the resource server's choice, else JWT.
    #[must_use]
    pub fn of(client: &Client, server: Option<&ResourceServer>) -> Self {
        // A signed token would show a pairwise client the real subject (decision 0011).
        if crate::pairwise::applies(client) {
            return Self::Opaque;
        }
        let name = client.access_token_format.as_deref().or(server.map(|s| s.access_token_format.as_str()));
        if name == Some("opaque") { Self::Opaque } else { Self::Jwt }
    }
}

/// Whom a token is for, on whose behalf, for what.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Who gets it.
    pub client: &'a Client,
    /// The registered API it is for, if it is not for this issuer.
    pub server: Option<&'a ResourceServer>,
    /// Its `aud`.
    pub audience: &'a str,
    /// Its `sub`.
    pub subject: &'a str,
    /// The grant it comes from; none where the client stands for itself.
    pub grant: Option<&'a str>,
    /// The session the grant began in.
    pub session: Option<&'a str>,
    /// What it allows.
    pub scope: &'a Scope,
    /// How the person was authenticated.
    pub authentication: Option<&'a Authentication>,
    /// The person's account; none where the client stands for itself.
    pub user: Option<&'a User>,
    /// The grant type, for the event.
    pub grant_type: &'static str,
    /// What its holder has to prove.
    pub confirmation: Option<&'a Confirmation>,
    /// Granted `authorization_details` (RFC 9396 §9).
    pub details: Option<&'a Value>,
    /// Who acts for the subject (RFC 8693 §4.1).
    pub actor: Option<&'a Value>,
    /// The tokens it is exchanged from: it ends with any of them.
    pub from: Option<&'a Origin>,
    /// The device whose token it is exchanged from: it stays that one's. Otherwise it is the client's, if that is one's.
    pub device: Option<&'a DeviceClaim>,
}

impl<'a> Order<'a> {
    /// The device whose credential it will be.
    fn device(&self) -> Option<&'a DeviceClaim> {
        self.device.or(self.client.device.as_deref())
    }
}

/// An access token, and the change that must be durable before anybody sees it.
#[derive(Debug)]
pub struct Access {
    /// Its text.
    pub text: Plain,
    /// How it looks.
    pub format: Format,
    /// `Bearer` or `DPoP`.
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: i64,
    /// Its row, if it is opaque, and its event.
    pub change: Change,
}

/// How long an access token of this client for this audience lives: the client's choice, else the resource server's,
/// else the deployment's; never longer than a revocation is remembered.
#[must_use]
pub fn access_ttl(settings: &Settings, client: &Client, server: Option<&ResourceServer>) -> i64 {
    let read = |text: &Option<String>| text.as_deref().and_then(|t| client::access_token_ttl(t).ok());
    read(&client.access_token_ttl)
        .or_else(|| server.and_then(|s| read(&s.access_token_ttl)))
        .unwrap_or(settings.access_token_ttl)
        .clamp(1, Settings::MAX_ACCESS_TOKEN_TTL)
}

/// Makes an access token.
///
/// # Errors
/// `server_error` if there is no signing key.
pub fn access_token(ctx: &Context<'_>, order: &Order<'_>) -> Result<Access, OAuthError> {
    access_token_until(ctx, order, None)
}

/// The same, of one that must not outlive something else (RFC 8693 §5).
///
/// # Errors
/// As [`access_token`].
pub fn access_token_until(ctx: &Context<'_>, order: &Order<'_>, latest: Option<i64>) -> Result<Access, OAuthError> {
    let now = ctx.now();
    let ttl = access_ttl(ctx.settings, order.client, order.server).min(latest.map_or(i64::MAX, |latest| latest - now));
    let (exp, format) = (now + ttl, Format::of(order.client, order.server));
    let scope = order.scope.to_string();
    let (text, jti, step) = match format {
        Format::Jwt => {
            let jti = id::text(&id::new_id(ctx.now_ms, ctx.entropy));
            let (text, step) = signed(ctx, order, &scope, &jti, exp)?;
            (text, jti, step)
        }
        Format::Opaque => opaque(ctx, order, &scope, exp)?,
    };
    let mut event = NewEvent::new(EventKind::TokenIssued, ctx.now_ms)
        .subject(order.subject)
        .client(&order.client.client_id)
        .with("jti", jti)
        .with("aud", order.audience)
        .with("scope", scope)
        .with("format", format.as_str())
        .with("exp", exp)
        .with("grant_type", order.grant_type);
    event.grant = order.grant.map(str::to_owned);
    event.session = order.session.map(str::to_owned);
    if let Some(device) = order.device() {
        event = event.with("device", device.id.as_str());
    }
    if let Some(bound) = order.confirmation {
        event = event.with("bound", if bound.jkt.is_some() { "dpop" } else { "mtls" });
    }
    // A proof counts once: whatever is issued on it spends it in the same transaction.
    let steps = step.into_iter().chain(ctx.evidence.once(now, ctx.head)).collect();
    let change = Change { steps, events: vec![event] };
    let token_type = order.confirmation.map_or("Bearer", Confirmation::token_type);
    Ok(Access { text, format, token_type, expires_in: ttl, change })
}

fn signed(ctx: &Context<'_>, order: &Order<'_>, scope: &str, jti: &str, exp: i64) -> Result<(Plain, Option<Step>), OAuthError> {
    let key = signing::key(ctx.keys, ctx.settings.profile, order.server.and_then(|s| s.access_token_signing_alg.as_deref()), Alg::ES256)?;
    let now = ctx.now();
    let (status, step) = match order.server {
        Some(server) if server.status_list => {
            status_list::place(ctx, order, jti, key.kid(), exp).map(|(claim, step)| (Some(claim), Some(step)))?
        }
        _ => (None, None),
    };
    let claims = AccessTokenClaims {
        iss: &ctx.settings.issuer,
        sub: order.subject,
        aud: order.audience,
        client_id: &order.client.client_id,
        iat: now,
        exp,
        jti,
        scope,
        grant: order.grant,
        sid: order.session,
        seq: ctx.head,
        auth_time: order.authentication.map(|a| a.auth_time),
        acr: order.authentication.and_then(|a| a.acr.as_deref()),
        amr: order.authentication.map_or(&[], |a| &a.amr),
        roles: order.user.map_or(&[], |u| &u.roles),
        groups: order.user.map_or(&[], |u| &u.groups),
        cnf: order.confirmation,
        act: order.actor,
        authorization_details: order.details,
        from: order.from,
        device: order.device(),
        status: status.as_ref(),
    };
    let text = key.sign_jwt(access::TYP, &claims).map(Plain::from).map_err(|e| OAuthError::fault(e.to_string()))?;
    Ok((text, step))
}

fn opaque(ctx: &Context<'_>, order: &Order<'_>, scope: &str, exp: i64) -> Result<(Plain, String, Option<Step>), OAuthError> {
    let issued = secret::generate_link(SecretKind::Access, ctx.now_ms, ctx.entropy, ctx.mac);
    let jti = id::text(&issued.id);
    let document = AccessDocument {
        jti: jti.clone(),
        client_id: order.client.client_id.clone(),
        subject: order.subject.to_owned(),
        session: order.session.map(str::to_owned),
        scope: scope.to_owned(),
        audience: order.audience.to_owned(),
        issued_at: ctx.now(),
        confirmation: order.confirmation.cloned(),
        details: order.details.cloned(),
        actor: order.actor.cloned(),
        authentication: order.authentication.cloned(),
        from: order.from.cloned(),
        device: order.device().cloned(),
    };
    let artefact = Artefact {
        kind: ArtefactKind::Access,
        id: issued.id.to_vec(),
        mac: issued.mac.to_vec(),
        grant: order.grant.map(str::to_owned),
        document: serde_json::to_string(&document).map_err(|e| OAuthError::fault(e.to_string()))?,
        created_at: ctx.now(),
        expires_at: exp,
        consumed_at: None,
        successor: None,
        seq: ctx.head,
    };
    Ok((issued.plain, jti, Some(Step::Put(artefact))))
}

/// What the token endpoint answers (RFC 6749 §5.1, OpenID Connect Core §3.1.3.3).
#[derive(Debug)]
pub struct Answer {
    /// The access token.
    pub access_token: Plain,
    /// How it looks, for metrics.
    pub format: Format,
    /// `Bearer` or `DPoP`.
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: i64,
    /// What was granted.
    pub scope: String,
    /// What was granted in detail (RFC 9396 §7).
    pub details: Option<Value>,
    /// What kind of token came out of an exchange (RFC 8693 §2.2.1).
    pub issued_token_type: Option<&'static str>,
    /// A refresh token.
    pub refresh_token: Option<Plain>,
    /// An ID token.
    pub id_token: Option<String>,
}

impl Answer {
    /// The JSON document.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            access_token: &'a str,
            token_type: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            issued_token_type: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            authorization_details: Option<&'a Value>,
            expires_in: i64,
            #[serde(skip_serializing_if = "str::is_empty")]
            scope: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            refresh_token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            id_token: Option<&'a str>,
        }
        let wire = Wire {
            access_token: self.access_token.expose(),
            token_type: self.token_type,
            issued_token_type: self.issued_token_type,
            authorization_details: self.details.as_ref(),
            expires_in: self.expires_in,
            scope: &self.scope,
            refresh_token: self.refresh_token.as_ref().map(Plain::expose),
            id_token: self.id_token.as_deref(),
        };
        let mut out = Vec::with_capacity(256 + wire.access_token.len() + self.id_token.as_ref().map_or(0, String::len));
        // A structure of strings and numbers written to memory cannot fail.
        let _ = serde_json::to_writer(&mut out, &wire);
        out
    }
}
