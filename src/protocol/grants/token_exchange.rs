//! A token becomes another one (RFC 8693): for another API, never for more than it names, never for longer; who acts is told in it.
use std::fmt;

use accounts::User;
use ledger::{Change, EventKind, NewEvent, ObjectKind, Step};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::{Confirmation, access::Origin, device::DeviceClaim, id};

use super::{
    Granted, TOKEN_EXCHANGE, answer, audience,
    jwt_bearer::{started, used},
    unauthorized,
};
use crate::{
    AuthenticatedClient, Client, Code, Form, OAuthError, ResourceServer, Scope, client_auth,
    issue::{self, Context, Format, Order},
    resource,
    scope::{self, Party},
};

/// `urn:ietf:params:oauth:token-type:access_token`
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// `urn:ietf:params:oauth:token-type:id_token`
pub const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
/// `urn:ietf:params:oauth:token-type:jwt`
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Actors behind one another in a token at most.
pub(super) const DEPTH: usize = 5;

/// What a client may exchange: its member `token_exchange`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// It may act as the subject: nothing in the new token tells of it.
    pub impersonation: bool,
    /// It may act for the subject: the new token says so (RFC 8693 §4.1).
    pub delegation: bool,
    /// The resources it may exchange for, of its `allowed_resources`; none: all of those.
    pub audiences: Vec<String>,
    /// Whose tokens it may exchange besides its own.
    pub subject_clients: Vec<String>,
    /// The trusted issuers whose JWTs it may exchange.
    pub issuers: Vec<String>,
    /// What a subject token may become besides, that was for another resource or has no scope: names of the new resource. Names that
    /// the subject token has keep their meaning at every resource it is exchanged for: `audiences` says which those may be.
    pub scopes: Vec<String>,
}

impl Policy {
    /// A client's. Nothing if it has none.
    #[must_use]
    pub fn of(client: &Client) -> Option<Self> {
        let policy = Self::deserialize(client.token_exchange.as_ref()?).ok()?;
        (policy.impersonation || policy.delegation).then_some(policy)
    }
}

/// What is wrong with a registration: member and why.
pub(crate) fn mistakes(client: &Client) -> Vec<(String, String)> {
    let at = |member: &str| format!("token_exchange{}{member}", if member.is_empty() { "" } else { "." });
    let Some(written) = &client.token_exchange else {
        return match client.may_use(TOKEN_EXCHANGE) {
            true => vec![(at(""), "the grant type token-exchange needs it".to_owned())],
            false => Vec::new(),
        };
    };
    let policy = match Policy::deserialize(written) {
        Ok(policy) => policy,
        Err(why) => return vec![(at(""), why.to_string())],
    };
    let mut found = Vec::new();
    if client.is_public() {
        found.push((at(""), "a public client cannot exchange tokens".to_owned()));
    }
    if !policy.impersonation && !policy.delegation {
        found.push((at(""), "impersonation or delegation has to be true".to_owned()));
    }
    for (n, resource) in policy.audiences.iter().enumerate() {
        if !client.allowed_resources.contains(resource) {
            found.push((at(&format!("audiences[{n}]")), "is not among allowed_resources".to_owned()));
        }
    }
    for (n, id) in policy.subject_clients.iter().enumerate() {
        if !crate::client::is_id(id) {
            found.push((at(&format!("subject_clients[{n}]")), "is no client_id".to_owned()));
        }
    }
    for (n, name) in policy.scopes.iter().enumerate() {
        if !scope::list_has(&client.scope, name) {
            found.push((at(&format!("scopes[{n}]")), "is not in the client's scope".to_owned()));
        }
    }
    found
}

/// What the subject token's life hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hangs {
    /// A grant, and the session it began in.
    Grant { id: String, session: Option<String> },
    /// A person, at this version of their account, and the session that names them: a grant begins.
    Person { version: i64, session: Option<String> },
    /// Nothing that could be ended: a machine's token, for its short life.
    Nothing,
}

/// A believed subject token.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// `sub`
    pub subject: String,
    /// Whose token it is; none where another issuer made it.
    pub client_id: Option<String>,
    /// The issuer that made it, if it is another.
    pub issuer: Option<String>,
    /// Its scope.
    pub scope: Scope,
    /// Its `aud`.
    pub audience: Vec<String>,
    /// Seconds since the epoch.
    pub expires_at: i64,
    /// What ends it.
    pub hangs: Hangs,
    /// The tokens of this server that end with the new one: itself, and what it was exchanged from.
    pub from: Option<Origin>,
    /// The device whose credential it is, and the new one stays.
    pub device: Option<DeviceClaim>,
    /// What its holder has to prove.
    pub confirmation: Option<Confirmation>,
    /// The id under which the one use of another issuer's JWT is remembered.
    pub once: Option<Vec<u8>>,
    /// Who acts already.
    pub act: Option<Value>,
    /// Who may act.
    pub may_act: Option<Value>,
    /// Its person's account.
    pub user: Option<&'a User>,
}

/// A believed actor token: one of the client's own.
#[derive(Debug, Clone)]
pub struct Actor {
    /// `sub`
    pub subject: String,
    /// Whose token it is.
    pub client_id: String,
    /// What its holder has to prove.
    pub confirmation: Option<Confirmation>,
}

/// What a request asks for, before any token is looked at.
#[derive(Clone)]
pub struct Asked<'f> {
    /// The client's policy.
    pub policy: Policy,
    /// The subject token's text and type.
    pub subject: (&'f str, &'f str),
    /// The actor token's text.
    pub actor: Option<&'f str>,
    /// The resource.
    pub target: String,
    /// Whether the new token has to be a JWT.
    pub jwt: bool,
}

impl fmt::Debug for Asked<'_> {
    /// Without the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("policy", &self.policy).field("target", &self.target).field("jwt", &self.jwt).finish_non_exhaustive()
    }
}

/// Reads a request (RFC 8693 §2.1).
///
/// # Errors
/// `unauthorized_client`, `invalid_request`, `invalid_target`.
pub fn asked<'f>(ctx: &Context<'_>, client: &AuthenticatedClient, form: &'f Form<'_>) -> Result<Asked<'f>, OAuthError> {
    if !client.client().may_use(TOKEN_EXCHANGE) || client.method() == client_auth::Method::None {
        return Err(unauthorized());
    }
    let policy = Policy::of(client.client()).ok_or_else(unauthorized)?;
    let one = |name: &'static str, missing| form.get(name).ok_or(OAuthError::request(missing));
    let subject = (one("subject_token", "subject_token is missing")?, one("subject_token_type", "subject_token_type is missing")?);
    if ![ACCESS_TOKEN, ID_TOKEN, JWT].contains(&subject.1) {
        return Err(OAuthError::request("the subject_token_type is not supported"));
    }
    let actor = match (form.get("actor_token"), form.get("actor_token_type")) {
        (None, None) => None,
        (Some(token), Some(ACCESS_TOKEN)) => Some(token),
        (Some(_), Some(_)) => return Err(OAuthError::request("the actor_token_type is not supported")),
        _ => return Err(OAuthError::request("actor_token and actor_token_type belong together")),
    };
    let jwt = match form.get("requested_token_type") {
        None | Some(ACCESS_TOKEN) => false,
        Some(JWT) => true,
        Some(_) => return Err(OAuthError::request("the requested_token_type is not supported")),
    };
    let mut named: Vec<&str> = form.all("resource").chain(form.all("audience")).collect();
    named.sort_unstable();
    named.dedup();
    let target = resource::choose(named, None, client.client(), ctx.settings)?;
    if target == ctx.settings.issuer || (!policy.audiences.is_empty() && !policy.audiences.contains(&target)) {
        return Err(OAuthError::new(Code::InvalidTarget, "the client may not exchange tokens for this resource"));
    }
    Ok(Asked { policy, subject, actor, target, jwt })
}

/// The subject or actor token cannot be used (RFC 8693 §2.2.2): the client hears one text for every reason.
#[must_use]
pub fn unusable(reason: &'static str) -> OAuthError {
    OAuthError::request("the subject_token or actor_token is invalid, expired, revoked or not this client's to exchange").because(reason)
}

/// Gives an access token.
///
/// # Errors
/// `invalid_request`, `invalid_scope`, `invalid_target`, `invalid_dpop_proof`.
pub fn decide(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    form: &Form<'_>,
    asked: &Asked<'_>,
    subject: &Subject<'_>,
    actor: Option<&Actor>,
    server: Option<&ResourceServer>,
) -> Result<Granted, OAuthError> {
    let now = ctx.now();
    if subject.expires_at <= now {
        return Err(unusable("expired"));
    }
    entitled(client, &asked.policy, subject)?;
    proved(ctx, subject.confirmation.as_ref())?;
    if let Some(actor) = actor {
        proved(ctx, actor.confirmation.as_ref())?;
    }
    if subject.from.as_ref().is_some_and(|from| from.jti.len() > DEPTH) {
        return Err(unusable("exchanged too often"));
    }
    let act = acting(client, &asked.policy, subject, actor)?;
    let offered = audience(&asked.target, ctx.settings, server)?;
    let server = server.ok_or_else(|| OAuthError::new(Code::InvalidTarget, "the resource is not known here"))?;
    if asked.jwt && Format::of(client.client(), Some(server)) != Format::Jwt {
        return Err(OAuthError::request("the resource's tokens are not JWTs"));
    }
    let scope = narrowed(form.get("scope"), client.client(), &asked.policy, subject, (&asked.target, offered))?;
    let confirmation = super::bound(ctx, client)?;
    if subject.confirmation.is_some() && confirmation.is_none() {
        // What was bound does not come out free.
        return Err(unusable("a bound token would become an unbound one"));
    }
    let (grant, session) = match &subject.hangs {
        Hangs::Grant { id, session } => (Some(id.clone()), session.clone()),
        Hangs::Person { session, .. } => (Some(id::text(&id::new_id(ctx.now_ms, ctx.entropy))), session.clone()),
        Hangs::Nothing => (None, None),
    };
    let order = Order {
        client: client.client(),
        server: Some(server),
        audience: &asked.target,
        subject: &subject.subject,
        grant: grant.as_deref(),
        session: session.as_deref(),
        scope: &scope,
        authentication: None,
        user: subject.user,
        grant_type: TOKEN_EXCHANGE,
        confirmation: confirmation.as_ref(),
        details: None,
        actor: act.as_ref(),
        from: subject.from.as_ref(),
        device: subject.device.as_ref(),
    };
    let access = issue::access_token_until(ctx, &order, Some(subject.expires_at))?;
    let mut change = Change::new().step(client.unchanged());
    if let Some(once) = &subject.once {
        change = change.step(used(once.clone(), now, subject.expires_at));
    }
    match (&subject.hangs, &grant) {
        (Hangs::Grant { id, .. }, _) => change = change.step(Step::GrantLive { id: id.clone(), now }),
        (Hangs::Person { version, session }, Some(grant)) => {
            if let Some(session) = session {
                change = change.step(Step::SessionLive { id: session.clone(), now });
            }
            let mut begun = started(client, grant, &subject.subject, (&scope.to_string(), &asked.target), now, now + access.expires_in);
            begun.session.clone_from(session);
            change = change
                .step(Step::ObjectIs { kind: ObjectKind::User, id: subject.subject.clone(), version: *version })
                .step(Step::StartGrant(begun));
        }
        _ => {}
    }
    let mut event = NewEvent::new(EventKind::TokenExchanged, ctx.now_ms)
        .subject(&subject.subject)
        .client(client.id())
        .with("aud", asked.target.as_str())
        .with("scope", scope.to_string())
        .with("actor", act.clone().unwrap_or(Value::Null));
    for (name, value) in [("from_client", &subject.client_id), ("from_issuer", &subject.issuer)] {
        if let Some(value) = value {
            event = event.with(name, value.as_str());
        }
    }
    event.grant = grant;
    event.session = session;
    let (issued, mut answer) = answer(access, scope.to_string());
    answer.issued_token_type = Some(if asked.jwt { JWT } else { ACCESS_TOKEN });
    Ok(Granted { change: change.event(event).and(issued), answer })
}

/// Whether the policy lets this client have that token.
fn entitled(client: &AuthenticatedClient, policy: &Policy, subject: &Subject<'_>) -> Result<(), OAuthError> {
    let good = match (&subject.issuer, &subject.client_id) {
        (Some(issuer), _) => policy.issuers.contains(issuer),
        (None, Some(whose)) => whose == client.id() || policy.subject_clients.contains(whose),
        (None, None) => false,
    };
    if good { Ok(()) } else { Err(unusable("not this client's to exchange")) }
}

/// A bound token is exchanged by whoever can use it.
fn proved(ctx: &Context<'_>, bound: Option<&Confirmation>) -> Result<(), OAuthError> {
    if ctx.evidence.proves(bound) { Ok(()) } else { Err(unusable("bound to a key that was not proved")) }
}

/// The `act` of the new token.
fn acting(
    client: &AuthenticatedClient,
    policy: &Policy,
    subject: &Subject<'_>,
    actor: Option<&Actor>,
) -> Result<Option<Value>, OAuthError> {
    let who = match actor {
        Some(actor) if actor.client_id != client.id() => return Err(unusable("another client's actor token")),
        Some(_) if !policy.delegation => return Err(unusable("the client may not act for others")),
        Some(actor) => Some(actor.subject.as_str()),
        None if policy.impersonation => None,
        None => Some(client.id()),
    };
    if let Some(may) = &subject.may_act {
        // Whom the subject names, by every member it names them by, and nobody else (RFC 8693 §4.4).
        let is_meant = |name: &Value| name.as_str().is_some_and(|name| Some(name) == who || name == client.id());
        let right = |m: &Map<String, Value>| m.iter().all(|(k, v)| matches!(k.as_str(), "sub" | "client_id") && is_meant(v));
        if !may.as_object().is_some_and(|m| !m.is_empty() && right(m)) {
            return Err(unusable("may_act names another"));
        }
    }
    let act = match (who, &subject.act) {
        (Some(who), Some(before)) => Some(json!({"sub": who, "act": before})),
        (Some(who), None) => Some(json!({"sub": who})),
        // Whoever acted before is not forgotten.
        (None, before) => before.clone(),
    };
    if act.as_ref().is_some_and(|act| depth(act) > DEPTH) {
        return Err(unusable("too many actors behind one another"));
    }
    Ok(act)
}

/// How many actors stand behind one another, counted to one too many.
pub(super) fn depth(act: &Value) -> usize {
    std::iter::successors(Some(act), |a| a.get("act")).take(DEPTH + 1).count()
}

/// The scope of the new token: the client's, the resource's, and the subject token's; beyond that one only what the policy names.
fn narrowed(
    requested: Option<&str>,
    client: &Client,
    policy: &Policy,
    subject: &Subject<'_>,
    (target, offered): (&str, scope::Audience<'_>),
) -> Result<Scope, OAuthError> {
    let same = subject.audience.iter().any(|aud| aud == target);
    let may = |token: &str| subject.scope.has(token) || (!same && policy.scopes.iter().any(|s| s == token));
    let about_person = |token: &str| scope::IDENTITY.contains(&token);
    let granted = scope::grant(requested, client, offered, Party::Machine)?.only(|token| !about_person(token));
    let left = granted.only(may);
    if requested.is_some() && left != granted {
        return Err(OAuthError::new(Code::InvalidScope, "the subject_token does not allow this scope"));
    }
    if left.is_empty() {
        return Err(OAuthError::new(Code::InvalidScope, "nothing is left of the subject_token's scope"));
    }
    Ok(left)
}
