//! Sessions, grants, events, keys and numbers, as they are now.
use serde_json::{Map, Value, json};

use crate::{call::Call, collections::page, problem::Problem, rest::Answer, state::AdminState};

/// Rows of the ledger looked through for one page of a filtered listing.
const SCAN: u64 = 10_000;

/// `GET /sessions`
pub async fn sessions(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let subject = subject(state, call).await?;
    let found = state.listings.list_sessions(subject.as_deref(), call.cursor()?.as_deref(), call.limit()?).await?;
    Ok(page(found.items.iter().map(|s| json!(s)).collect(), found.next.as_deref()))
}

/// `GET /sessions/{id}`
pub async fn session(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let found = state.store().session(&call.id).await?.ok_or_else(Problem::unknown)?;
    Ok(Answer::ok(json!(found)))
}

/// `GET /grants`
pub async fn grants(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let subject = subject(state, call).await?;
    let after = call.cursor()?;
    let found = state.listings.list_grants((subject.as_deref(), call.parameter("client_id")), after.as_deref(), call.limit()?).await?;
    Ok(page(found.items.iter().map(|g| json!(g)).collect(), found.next.as_deref()))
}

/// `GET /grants/{id}`
pub async fn grant(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let found = state.store().grant(&call.id).await?.ok_or_else(Problem::unknown)?;
    Ok(Answer::ok(json!(found)))
}

/// The subject a listing is filtered by; a username stands for its user.
async fn subject(state: &AdminState, call: &Call) -> Result<Option<String>, Problem> {
    let Some(given) = call.parameter("subject") else { return Ok(None) };
    Ok(Some(resolve_subject(state, given).await?.0))
}

/// The `sub` that a given id or username means, and whether such a user is known.
pub async fn resolve_subject(state: &AdminState, given: &str) -> Result<(String, bool), Problem> {
    let found = state.objects.find(ledger::ObjectKind::User, given).await?;
    Ok(found.map_or_else(|| (given.to_owned(), false), |user| (user.id, true)))
}

/// `GET /events`: the ledger in order; `after` is a position, `kind` an event's name or its start (`user.`).
pub async fn events(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let position = |text: &str| text.parse::<u64>().map_err(|_| Problem::malformed("after must be a position in the ledger"));
    let start = match (call.cursor()?, call.parameter("after")) {
        (Some(_), Some(_)) => return Err(Problem::malformed("cursor and after exclude each other")),
        (Some(text), None) => position(&text)?,
        (None, Some(text)) => position(text)?,
        (None, None) => 0,
    };
    let (limit, kind) = (call.limit()?, call.parameter("kind"));
    let wanted = |name: &str| kind.is_none_or(|k| name == k || (k.ends_with('.') && name.starts_with(k)));
    let (mut last, mut items) = (start, Vec::new());
    loop {
        let rows = state.listings.list_events(last, limit).await?;
        let ended = rows.len() < limit as usize;
        for row in rows {
            last = row.seq;
            if wanted(&row.kind) {
                items.push(event(&row));
            }
            if items.len() >= limit as usize {
                return Ok(page(items, Some(&last.to_string())));
            }
        }
        if ended {
            return Ok(page(items, None));
        }
        if last.saturating_sub(start) >= SCAN {
            return Ok(page(items, Some(&last.to_string())));
        }
    }
}

fn event(row: &ledger::Event) -> Value {
    let mut out = Map::new();
    out.insert("seq".into(), row.seq.into());
    out.insert("at_ms".into(), row.at_ms.into());
    out.insert("kind".into(), row.kind.as_str().into());
    if let Ok(Value::Object(members)) = serde_json::from_str(&row.document) {
        out.extend(members);
    }
    out.insert("hash".into(), ledger::chain::hex::encode(&row.hash).into());
    Value::Object(out)
}

/// `GET /keys`: public parts only.
pub async fn keys(state: &AdminState) -> Result<Answer, Problem> {
    let mut items = Vec::new();
    for row in state.store().keys().await? {
        let jwk: Value = serde_json::from_str(&row.public_jwk).unwrap_or(Value::Null);
        items.push(json!({
            "kid": row.kid, "alg": row.alg, "state": row.state.as_str(), "created_at": row.created_at, "changed_at": row.changed_at, "jwk": jwk,
        }));
    }
    Ok(page(items, None))
}

/// `GET /stats`
pub async fn stats(state: &AdminState) -> Result<Answer, Problem> {
    let rows: Map<String, Value> = state.listings.count_rows().await?.into_iter().map(|(table, n)| (table.to_owned(), n.into())).collect();
    let now = state.stats.stats();
    let caches: Map<String, Value> = now.caches.into_iter().map(|(cache, n)| (cache, n.into())).collect();
    let mut out = now.more;
    out.insert("rows".into(), Value::Object(rows));
    out.insert("caches".into(), Value::Object(caches));
    out.insert("panics".into(), now.panics.into());
    out.insert("jwks_fetches".into(), now.jwks_fetches.into());
    out.insert("feed_lag_ms".into(), json!(now.feed_lag_ms));
    out.insert("build_id".into(), now.build_id.into());
    Ok(Answer::ok(Value::Object(out)))
}

/// `GET /analytics`: who used which route, the busiest first; of one route or one consumer if so asked.
pub fn analytics(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let limit = call.limit()? as usize;
    let wanted =
        |row: &Value, member: &str| call.parameter(member).is_none_or(|asked| row.get(member).and_then(Value::as_str) == Some(asked));
    let rows = state.stats.usage().into_iter().filter(|row| wanted(row, "route") && wanted(row, "consumer"));
    Ok(page(rows.take(limit).collect(), None))
}
