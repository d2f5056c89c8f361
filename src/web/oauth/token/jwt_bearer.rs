//! Another issuer's assertion (RFC 7523 §2.1).
use accounts::User;
use ledger::{Object, ObjectKind};
use protocol::{
    OAuthError,
    grants::{
        self,
        assertion::{self, Assertion, Named, Trust},
        jwt_bearer::{self, Person},
    },
};
use tokens::jws::Parsed;

use super::{Asked, Given, give, server};
use crate::{App, oauth::context, reply::Failed};

impl Asked<'_> {
    pub(super) async fn jwt_bearer(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let target = jwt_bearer::target(&context(app, &app.keys.load(), head, evidence), client, form)?;
        let text = form.get("assertion").ok_or(OAuthError::request("assertion is missing"))?;
        let assertion = believed(app, client.id(), text).await?.map_err(OAuthError::grant)?;
        let found = person(app, &assertion.subject).await?;
        let person = found.as_ref().map(|(user, object)| Person { user, version: object.version });
        let server = server(app, &target).await?;
        let decided = jwt_bearer::decide(
            &context(app, &app.keys.load(), head, evidence),
            client,
            form,
            &assertion,
            person,
            (&target, server.as_deref()),
        );
        give(self, grants::JWT_BEARER, decided?).await
    }
}

/// A JWT of a trusted issuer that this client may bring, or why it is not believed.
pub(super) async fn believed(app: &App, client_id: &str, text: &str) -> Result<Result<Assertion, &'static str>, Failed> {
    let Ok(parsed) = Parsed::parse(text) else { return Ok(Err("not a strict JWS")) };
    let Some(issuer) = parsed.unverified_issuer() else { return Ok(Err("iss is missing")) };
    let Some(trusted) = app.catalog.trusted_issuer(issuer).await? else { return Ok(Err("not a trusted issuer")) };
    let Some(grant) = &trusted.grant else { return Ok(Err("not an issuer of assertions")) };
    if !grant.clients.is_empty() && !grant.clients.iter().any(|c| c == client_id) {
        return Ok(Err("not an issuer for this client"));
    }
    let keys = app.relying.issuer_keys(&trusted, parsed.kid.as_deref()).await;
    let algs = trusted.algs();
    let trust = Trust { issuer: &trusted.issuer, algs: &algs, claim: &grant.claim, person: grant.subject == "user" };
    Ok(assertion::believe(&parsed, keys.set(), &trust, &app.settings, app.clock.now()))
}

/// The account a name means, as the store has it now.
pub(super) async fn person(app: &App, named: &Named) -> Result<Option<(User, Object)>, Failed> {
    let Named::Person(name) = named else { return Ok(None) };
    let Some(object) = app.store.object_by_key(ObjectKind::User, name).await? else { return Ok(None) };
    let user = serde_json::from_value(object.document.clone()).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    Ok(Some((user, object)))
}
