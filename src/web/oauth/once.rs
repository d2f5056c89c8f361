//! Assertions that prove a client once (RFC 7523 §3 `jti`): spent in the transaction of what they give,
//! or alone if they give nothing.
use http::request::Parts;
use ledger::{Change, Outcome};
use protocol::{AuthenticatedClient, Code, OAuthError};

use crate::{App, limits, reply::Failed};

/// Applies a change that gives a client something, and spends what proved the client with it.
///
/// # Errors
/// `invalid_client` if that was used before; when the store is away.
pub(crate) async fn spend(
    app: &App,
    endpoint: &'static str,
    parts: &Parts,
    client: &AuthenticatedClient,
    change: Change,
) -> Result<Outcome, Failed> {
    let change = client.spend(change);
    let steps = change.steps.len();
    match app.store.apply(change).await? {
        Outcome::Refused(guard) if client.spent(steps, guard) => Err(replayed(app, endpoint, parts, client).await),
        outcome => Ok(outcome),
    }
}

/// The same where nothing is changed but something is answered.
///
/// # Errors
/// As [`spend`].
pub(crate) async fn spend_alone(app: &App, endpoint: &'static str, parts: &Parts, client: &AuthenticatedClient) -> Result<(), Failed> {
    if client.is_once() {
        Box::pin(spend(app, endpoint, parts, client, Change::new())).await?;
    }
    Ok(())
}

/// What is said to a client that was believed and gets nothing: the assertion that proved it is spent all the same.
pub(crate) async fn refused(app: &App, endpoint: &'static str, parts: &Parts, client: &AuthenticatedClient, why: Failed) -> Failed {
    match &why {
        // A client that is not believed has spent its assertion before, or has none.
        Failed::Refused(error) if error.code != Code::InvalidClient => spend_alone(app, endpoint, parts, client).await.err().unwrap_or(why),
        _ => why,
    }
}

/// The refusal of an assertion that was used before; counted and recorded as any failed authentication.
pub(crate) async fn replayed(app: &App, endpoint: &'static str, parts: &Parts, client: &AuthenticatedClient) -> Failed {
    let error = OAuthError::client("the assertion was used before");
    app.failures.count(app, endpoint, limits::source(app, parts), client.id(), &error).await;
    Failed::Refused(error)
}
