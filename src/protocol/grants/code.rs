//! An authorization code becomes tokens, once (RFC 6749 §4.1.3, OpenID Connect Core §3.1.3).
use ledger::{Artefact, ArtefactKind, EventKind, Step};
use serde_json::Map;

use super::{AUTHORIZATION_CODE, Behind, Granted, REFRESH_TOKEN, Refused, answer, audience, end, family, still_allowed, unauthorized};
use crate::{
    AuthenticatedClient, Form, OAuthError, Scope,
    authorize::details,
    engine::code::{Redemption, Stored, redeem},
    evidence, id_token,
    issue::{self, Context, Order},
    resource,
    scope::{self, Party},
    stored::{CodeDocument, RefreshDocument},
    userinfo,
};

/// A code that was found under its id and whose secret is right.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its row, consumed or not.
    pub artefact: &'a Artefact,
    /// Its document.
    pub document: &'a CodeDocument,
    /// What stands behind it.
    pub behind: Behind<'a>,
}

/// Decides over a redemption.
///
/// # Errors
/// `invalid_grant` and its fellows; a code that comes a second time ends the grant.
pub fn decide(ctx: &Context<'_>, client: &AuthenticatedClient, form: &Form<'_>, found: &Found<'_>) -> Result<Granted, Refused> {
    let (artefact, document, now) = (found.artefact, found.document, ctx.now());
    if !client.client().may_use(AUTHORIZATION_CODE) {
        return Err(unauthorized().into());
    }
    if document.client_id != client.id() {
        return Err(OAuthError::grant("another client's code").into());
    }
    if artefact.consumed_at.is_some() {
        return Err(replayed(ctx, found));
    }
    if artefact.expires_at <= now {
        return Err(OAuthError::grant("the code has expired").into());
    }
    let (grant, user) = found.behind.live(now)?;
    resource::agrees(form.all("resource"), &document.resource)?;
    still_allowed(client.client(), &document.resource, ctx.settings)?;
    evidence::bound_to(document.dpop_jkt.as_deref(), ctx.evidence)?;
    let bound = evidence::demand(client.client(), ctx.evidence, ctx.settings)?;
    let redirect_uri = form.get("redirect_uri").ok_or(OAuthError::request("redirect_uri is missing"))?;
    let details = details::narrowed(form.get("authorization_details"), document.details.as_ref(), client.client())?;
    let audience = audience(&document.resource, ctx.settings, found.behind.server)?;
    let scope = scope::left(&Scope::parse(&document.scope)?, client.client(), audience, Party::Person)?;
    let code_id = tokens::b64::encode(&artefact.id);
    let redemption = Redemption {
        client_id: client.id(),
        code: &code_id,
        redirect_uri,
        verifier: form.get("code_verifier"),
        stored: Stored {
            client_id: &document.client_id,
            subject: &document.subject,
            redirect_uri: &document.redirect_uri,
            challenge: document.code_challenge.as_deref(),
            scope: &document.scope,
        },
    };
    let order = Order {
        client: client.client(),
        server: found.behind.server,
        audience: &document.resource,
        subject: &user.id,
        grant: Some(&grant.id),
        session: document.session.as_deref(),
        scope: &scope,
        authentication: Some(&document.authentication),
        user: Some(user),
        grant_type: AUTHORIZATION_CODE,
        confirmation: bound.as_ref(),
        details: details.as_ref(),
        actor: None,
        from: None,
        device: None,
    };
    let access = redeem(&redemption, || issue::access_token(ctx, &order))?;
    let lives_until = now + access.expires_in;
    let (issued, mut answer) = answer(access, scope.to_string());
    answer.details = details;
    let mut steps = guards(client, found, &grant.id, now);
    let consume = Step::Consume { kind: ArtefactKind::Code, id: artefact.id.clone(), now, successor: None };
    // The consumed code stays until its grant's end, which therefore stands first.
    if scope.has("offline_access") && client.client().may_use(REFRESH_TOKEN) {
        let first = refresh_document(ctx, client, document, bound.as_ref());
        let (plain, put) = family::first(ctx, &grant.id, &first)?;
        steps.extend([until(grant, first.family_expires_at.max(lives_until)), consume, put]);
        answer.refresh_token = Some(plain);
    } else {
        steps.extend([until(grant, lives_until), consume]);
    }
    if userinfo::opens(&scope) {
        let asked = userinfo::asked_for(user, document.claims.as_ref(), userinfo::Place::IdToken);
        answer.id_token = Some(id_token(ctx, client, document, answer.access_token.expose(), asked)?);
    }
    steps.extend(issued.steps);
    Ok(Granted { change: ledger::Change { steps, events: issued.events }, answer })
}

/// What has to stand: the client as it was believed, a live grant and session. The code itself is consumed after them.
fn guards(client: &AuthenticatedClient, found: &Found<'_>, grant: &str, now: i64) -> Vec<Step> {
    let mut steps = vec![client.unchanged(), Step::GrantLive { id: grant.to_owned(), now }];
    if let Some(session) = &found.document.session {
        steps.push(Step::SessionLive { id: session.clone(), now });
    }
    steps
}

fn until(grant: &ledger::Grant, expires_at: i64) -> Step {
    Step::UpdateGrant { id: grant.id.clone(), scope: grant.scope.clone(), document: grant.document.clone(), expires_at }
}

fn refresh_document(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    code: &CodeDocument,
    bound: Option<&tokens::Confirmation>,
) -> RefreshDocument {
    RefreshDocument {
        client_id: code.client_id.clone(),
        subject: code.subject.clone(),
        session: code.session.clone(),
        scope: code.scope.clone(),
        resource: code.resource.clone(),
        authentication: code.authentication.clone(),
        nonce: code.nonce.clone(),
        family_expires_at: family::end(ctx, client.client()),
        confirmation: evidence::binds_refresh(client.client(), bound).cloned(),
        constrained: bound.is_some(),
        details: code.details.clone(),
    }
}

fn id_token(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    code: &CodeDocument,
    access_token: &str,
    asked: Map<String, serde_json::Value>,
) -> Result<String, OAuthError> {
    let about = id_token::About {
        client: client.client(),
        subject: &code.subject,
        session: code.session.as_deref(),
        authentication: &code.authentication,
        nonce: code.nonce.as_deref(),
        access_token,
        asked,
    };
    id_token::sign(ctx, &about)
}

/// A code that was spent comes again: whoever has it, what it gave ends (RFC 6749 §4.1.2).
fn replayed(ctx: &Context<'_>, found: &Found<'_>) -> Refused {
    let error = OAuthError::grant("the code was used before");
    let Some(grant) = found.behind.grant.filter(|g| g.ended_at.is_none()) else { return error.into() };
    let told = [EventKind::CodeReplayed, EventKind::GrantEnded];
    Refused { error, change: Some(end(&grant.id, &grant.subject, &grant.client_id, ctx.now_ms, &told)) }
}
