//! What an administrator does to what is live: disable, end, rotate, revoke.
use edge::api_key::Owner;
use ledger::{Change, Grant, ObjectKind, Outcome, RevocationKind, Session};
use serde_json::{Value, json};
use tokens::secret::Plain;

use crate::{
    call::Call,
    problem::Problem,
    reads::resolve_subject,
    rest::Answer,
    revocations::{Named, Order, named},
    state::{AdminState, KeyRefused},
};

/// Characters of an id that is not a token.
const MAX_ID: usize = 1024;

impl From<KeyRefused> for Problem {
    fn from(refused: KeyRefused) -> Self {
        match refused {
            KeyRefused::Unknown => Self::unknown(),
            KeyRefused::Conflict(why) => Self::conflict(why),
            KeyRefused::Store(error) => error.into(),
        }
    }
}

/// `POST /users/{id}/disable` and `/enable`
pub async fn set_disabled(state: &AdminState, call: &Call, disabled: bool) -> Result<Answer, Problem> {
    state.objects.set_disabled(&call.id, disabled, &call.actor).await?;
    Ok(Answer::empty())
}

/// `POST /users/{id}/password`
pub async fn set_password(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    state.objects.set_password(&call.id, &Plain::new(call.text("password").unwrap_or_default()), &call.actor).await?;
    Ok(Answer::empty())
}

/// `POST /users/{id}/totp`
pub async fn enrol_totp(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let (secret, uri) = state.objects.enrol_totp(&call.id, &call.actor).await?;
    Ok(Answer::ok(json!({ "secret": secret.expose(), "otpauth_uri": uri.expose() })))
}

/// `DELETE /users/{id}/totp`
pub async fn remove_totp(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    state.objects.remove_totp(&call.id, &call.actor).await?;
    Ok(Answer::empty())
}

/// `POST /clients/{id}/rotate-secret`
pub async fn rotate_secret(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let keep = call.flag("keep_previous");
    let (client, secret) = state.objects.rotate_secret(&call.id, keep, &call.actor).await?;
    Ok(Answer::ok(json!({ "client_id": client.id, "client_secret": secret.expose(), "previous_kept": keep })).version(client.version))
}

/// `DELETE /sessions/{id}`
pub async fn end_session(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    state.store().session(&call.id).await?.ok_or_else(Problem::unknown)?;
    whole_session(state, &call.id, order(state, call)).await?;
    Ok(Answer::empty())
}

/// `DELETE /grants/{id}`
pub async fn end_grant(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let grant = state.store().grant(&call.id).await?.ok_or_else(Problem::unknown)?;
    applied(state, order(state, call).grant(&grant.id, Some(&grant))).await?;
    Ok(Answer::empty())
}

/// `POST /keys/rotate`
pub async fn rotate_keys(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    Ok(Answer::ok(state.keys.rotate(call.text("alg"), &call.actor).await?))
}

/// `POST /keys/{kid}/revoke`
pub async fn revoke_key(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    Ok(Answer::ok(state.keys.revoke(&call.id, call.text("reason"), &call.actor).await?))
}

/// `POST /revocations`. When it answers, every listener of this node has heard. `known` tells whether the id names
/// something stored here: an id of something deleted may be revoked too. A JWT counts only if this server signed it.
pub async fn revoke(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let (Some(kind), Some(id)) = (call.text("kind").and_then(RevocationKind::parse), call.text("id")) else {
        return Err(Problem::malformed("kind and id are needed"));
    };
    if kind != RevocationKind::Token && id.len() > MAX_ID {
        return Err(Problem::invalid(vec![ledger::Mistake::new("id", "is too long")]));
    }
    let order = order(state, call);
    let (change, id, known) = match kind {
        RevocationKind::Key => {
            let key = id.strip_prefix(ledger::revocation::API_KEY).unwrap_or(id);
            if let Some(seq) = state.objects.revoke_api_key(key, order).await? {
                return Ok(revoked(kind, id, true, seq));
            }
            let answer = state.keys.revoke(id, order.reason, &call.actor).await?;
            return Ok(Answer::ok(json!({ "kind": kind.as_str(), "id": id, "known": true, "key": answer })));
        }
        RevocationKind::Token => return token(state, id, order).await,
        RevocationKind::Grant => {
            let grant = state.store().grant(id).await?;
            (order.grant(id, grant.as_ref()), id.to_owned(), grant.is_some())
        }
        RevocationKind::Session => {
            let (seq, known) = whole_session(state, id, order).await?;
            return Ok(revoked(kind, id, known, seq));
        }
        RevocationKind::Client => {
            let known = state.store().object(ObjectKind::Client, id).await?.is_some();
            (order.client(id).step(order.keys_of(&Owner::ClientId(id.to_owned()))), id.to_owned(), known)
        }
        RevocationKind::Subject => {
            let (subject, known) = resolve_subject(state, id).await?;
            (order.subject(&subject).step(order.keys_of(&Owner::Subject(subject.clone()))), subject, known)
        }
        RevocationKind::Device => {
            let (change, known) = state.objects.device_order(id, order).await?;
            (change.step(order.keys_of(&Owner::Device(id.to_owned()))), id.to_owned(), known)
        }
    };
    let seq = applied(state, change).await?;
    Ok(revoked(kind, &id, known, seq))
}

async fn token(state: &AdminState, given: &str, order: Order<'_>) -> Result<Answer, Problem> {
    match named(given, &**state.store(), &state.objects.mac, |jwt| state.auth.token_id(jwt)).await? {
        Named::Nothing => Err(Problem::unknown()),
        Named::Foreign => Err(Problem::invalid(vec![ledger::Mistake::new(
            "id",
            "is not an access token of this server: it cannot be revoked here (its issuer can; a `jti` by itself is taken as it is)",
        )])),
        Named::Token(jti) if jti.len() > MAX_ID => Err(Problem::invalid(vec![ledger::Mistake::new("id", "is neither a jti nor a token")])),
        Named::Token(jti) => {
            let seq = applied(state, order.token(&jti)).await?;
            Ok(revoked(RevocationKind::Token, &jti, jti != given, seq))
        }
        Named::Grant(id) => {
            let grant = state.store().grant(&id).await?;
            let seq = applied(state, order.grant(&id, grant.as_ref())).await?;
            Ok(revoked(RevocationKind::Grant, &id, true, seq))
        }
    }
}

/// A session's end takes the grants that began in it along, those for when the person is away too.
async fn whole_session(state: &AdminState, id: &str, order: Order<'_>) -> Result<(u64, bool), Problem> {
    let Some(session) = state.store().session(id).await? else {
        return Ok((applied(state, order.session(id, None, &[])).await?, false));
    };
    let grants = begun_in(state, &session).await?;
    let ids: Vec<String> = grants.into_iter().map(|g| g.id).collect();
    let mut seq = applied(state, order.session(id, Some(&session), &ids)).await?;
    // From here on none begins in it: what began between the look and the end is found now.
    for grant in begun_in(state, &session).await? {
        seq = applied(state, order.grant(&grant.id, Some(&grant))).await?;
    }
    Ok((seq, true))
}

async fn begun_in(state: &AdminState, session: &Session) -> Result<Vec<Grant>, Problem> {
    let (mut grants, mut after) = (Vec::new(), None);
    loop {
        let found = state.store().grants(Some(&session.subject), None, after.as_deref(), 500).await?;
        grants.extend(found.items.into_iter().filter(|g| g.session.as_ref() == Some(&session.id)));
        after = found.next;
        if after.is_none() {
            return Ok(grants);
        }
    }
}

fn revoked(kind: RevocationKind, id: &str, known: bool, seq: u64) -> Answer {
    Answer::ok(json!({ "kind": kind.as_str(), "id": id, "known": known, "seq": seq }))
}

fn order<'a>(state: &AdminState, call: &'a Call) -> Order<'a> {
    Order { reason: call.body.get("reason").and_then(Value::as_str), ..state.objects.order(&call.actor) }
}

async fn applied(state: &AdminState, change: Change) -> Result<u64, Problem> {
    match state.store().apply(change).await? {
        Outcome::Applied { seq } => Ok(seq),
        Outcome::Refused(_) => Err(Problem::conflict("it was changed meanwhile; read it again")),
    }
}
