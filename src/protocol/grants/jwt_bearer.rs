//! Another issuer's assertion becomes an access token (RFC 7523 §2.1, RFC 7521 §4.1). No refresh token, no ID token.
use accounts::User;
use ledger::{Artefact, ArtefactKind, Change, EventKind, Grant, NewEvent, ObjectKind, Step, revocation::SPENT_KEPT_S};
use serde_json::json;
use tokens::id;

use super::{
    Granted, JWT_BEARER, answer,
    assertion::{Assertion, Named},
    audience, unauthorized,
};
use crate::{
    AuthenticatedClient, Form, OAuthError, ResourceServer, Settings, client_auth,
    issue::{self, Context, Order},
    resource,
    scope::{self, Party},
    stored::GrantDocument,
};

/// A person as the store has them: their account, and which version of it.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    /// The account.
    pub user: &'a User,
    /// Its version.
    pub version: i64,
}

/// The resource such a request is for, to be loaded before [`decide`].
///
/// # Errors
/// `unauthorized_client`, `invalid_target`.
pub fn target(ctx: &Context<'_>, client: &AuthenticatedClient, form: &Form<'_>) -> Result<String, OAuthError> {
    entitled(client)?;
    resource::choose(form.all("resource"), form.get("scope"), client.client(), ctx.settings)
}

/// Whether a client may bring assertions at all.
///
/// # Errors
/// `unauthorized_client`.
pub fn entitled(client: &AuthenticatedClient) -> Result<(), OAuthError> {
    let may = client.client().may_use(JWT_BEARER) && client.method() != client_auth::Method::None;
    if may { Ok(()) } else { Err(unauthorized()) }
}

/// Decides over a believed assertion. `person` is the account of [`Named::Person`].
///
/// # Errors
/// `invalid_grant`, `invalid_scope`, `invalid_target`, `unauthorized_client`.
pub fn decide(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    form: &Form<'_>,
    assertion: &Assertion,
    person: Option<Person<'_>>,
    (target, server): (&str, Option<&ResourceServer>),
) -> Result<Granted, OAuthError> {
    entitled(client)?;
    let audience = audience(target, ctx.settings, server)?;
    let once = assertion.once().ok_or_else(|| OAuthError::grant("the assertion has no jti"))?;
    let now = ctx.now();
    let (subject, person) = match &assertion.subject {
        Named::Other(name) => (name.clone(), None),
        Named::Person(_) => {
            let person = person.filter(|p| !p.user.disabled).ok_or_else(|| OAuthError::grant("nobody of that name, or disabled"))?;
            (person.user.id.clone(), Some(person))
        }
    };
    let party = if person.is_some() { Party::Person } else { Party::Machine };
    let scope = scope::grant(form.get("scope"), client.client(), audience, party)?;
    // What one administers here is this server's clients' own; and nobody was there to be away from.
    let scope = scope.only(|token| !token.starts_with(scope::BUILT_IN_PREFIX) && token != "offline_access");
    let confirmation = super::bound(ctx, client)?;
    let grant = person.map(|_| id::text(&id::new_id(ctx.now_ms, ctx.entropy)));
    let order = Order {
        client: client.client(),
        server,
        audience: target,
        subject: &subject,
        grant: grant.as_deref(),
        session: None,
        scope: &scope,
        authentication: None,
        user: person.map(|p| p.user),
        grant_type: JWT_BEARER,
        confirmation: confirmation.as_ref(),
        details: None,
        actor: assertion.act.as_ref(),
        from: None,
        device: None,
    };
    let access = issue::access_token(ctx, &order)?;
    let mut change = Change::new().step(client.unchanged()).step(used(once, now, assertion.expires_at));
    let mut event = NewEvent::new(EventKind::AssertionRedeemed, ctx.now_ms)
        .subject(&subject)
        .client(client.id())
        .with("issuer", assertion.issuer.as_str())
        .with("aud", target);
    if let (Some(person), Some(grant)) = (person, &grant) {
        change = change
            .step(Step::ObjectIs { kind: ObjectKind::User, id: subject.clone(), version: person.version })
            .step(Step::StartGrant(started(client, grant, &subject, (&scope.to_string(), target), now, now + access.expires_in)));
        event = event.grant(grant);
    }
    let (issued, answer) = answer(access, scope.to_string());
    Ok(Granted { change: change.event(event).and(issued), answer })
}

/// A grant that lives as long as the one token of it.
pub(super) fn started(
    client: &AuthenticatedClient,
    id: &str,
    subject: &str,
    (scope, resource): (&str, &str),
    now: i64,
    expires_at: i64,
) -> Grant {
    Grant {
        id: id.to_owned(),
        subject: subject.to_owned(),
        client_id: client.id().to_owned(),
        session: None,
        scope: scope.to_owned(),
        document: json!(GrantDocument { resource: resource.to_owned(), ..GrantDocument::default() }),
        created_at: now,
        expires_at,
        ended_at: None,
    }
}

/// The guard that lets an assertion count once.
pub(super) fn used(id: Vec<u8>, now: i64, expires_at: i64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id,
        mac: Vec::new(),
        grant: None,
        document: String::new(),
        created_at: now,
        expires_at: expires_at + Settings::LEEWAY + SPENT_KEPT_S,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}
