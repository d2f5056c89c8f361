//! Answering a backchannel request in its person's name (CIBA Core §8): what an authentication device of the deployment's own calls.
use ledger::{Artefact, ArtefactKind, Change, ObjectKind, Outcome, Step};
use protocol::{
    Client,
    grants::decoupled::{Answering, BACKCHANNEL, Requested, door_id},
};
use tokens::secret;

use crate::{call::Call, problem::Problem, rest::Answer, state::AdminState};

/// `POST /backchannel-requests/{auth_req_id}/approve` and `/deny`. An approval may say by `amr` how the person was authenticated: the ID
/// token then tells it, with the class it makes.
pub async fn answer(state: &AdminState, call: &Call, approved: bool) -> Result<Answer, Problem> {
    let row = found(state, &call.id).await?;
    let requested: Requested = serde_json::from_str(&row.document).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    let subject = requested.subject.as_deref().ok_or_else(Problem::unknown)?;
    let order = state.objects.order(&call.actor);
    if requested.expires_at <= order.at_ms.div_euclid(1000) {
        return Err(Problem::conflict("the request has expired"));
    }
    let change = guarded(state, &requested.client_id, subject).await?;
    let door = door_id(&row.id);
    let named = call.body.get("amr").and_then(serde_json::Value::as_array).into_iter().flatten();
    let methods: Vec<String> = named.filter_map(|m| m.as_str().map(str::to_owned)).collect();
    let answering = Answering {
        flow: &BACKCHANNEL,
        door: &door,
        request: &row.id,
        requested: &requested,
        subject,
        session: None,
        methods: &methods,
        now_ms: order.at_ms,
    };
    let answered = if approved { answering.approve(state.objects.entropy.as_ref()) } else { answering.deny() };
    let mut change = change.and(answered);
    change.events = change.events.into_iter().map(|event| call.actor.sign(event)).collect();
    match state.store().apply(change).await? {
        Outcome::Applied { .. } => Ok(Answer::empty()),
        Outcome::Refused(_) => Err(Problem::conflict("the request was answered already, or has expired")),
    }
}

/// The request of an `auth_req_id`. One that is none, unknown or spent is the same.
async fn found(state: &AdminState, text: &str) -> Result<Artefact, Problem> {
    let presented = secret::parse(BACKCHANNEL.secret, text, &state.objects.mac).ok_or_else(Problem::unknown)?;
    let row = state.store().artefact(ArtefactKind::Backchannel, &presented.id).await?;
    row.filter(|row| presented.matches(&row.mac)).ok_or_else(Problem::unknown)
}

/// Client and person have to stand as they are read here, and may both act.
async fn guarded(state: &AdminState, client_id: &str, subject: &str) -> Result<Change, Problem> {
    let gone = || Problem::conflict("the client or the person is gone or disabled");
    let client = state.store().object(ObjectKind::Client, client_id).await?.ok_or_else(gone)?;
    let user = state.store().object(ObjectKind::User, subject).await?.ok_or_else(gone)?;
    let read: Client = serde_json::from_value(client.document.clone()).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    if read.disabled || user.document.get("disabled").and_then(serde_json::Value::as_bool) == Some(true) {
        return Err(gone());
    }
    let is = |kind, object: &ledger::Object| Step::ObjectIs { kind, id: object.id.clone(), version: object.version };
    Ok(Change::new().step(is(ObjectKind::Client, &client)).step(is(ObjectKind::User, &user)))
}
