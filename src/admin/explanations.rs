//! Why requests were refused at this process's gateway, and what would become of one.
use serde_json::Value;

use crate::{
    call::Call,
    collections::page,
    problem::Problem,
    rest::Answer,
    state::{AdminState, Explains},
};

fn explains(state: &AdminState) -> Result<&dyn Explains, Problem> {
    state.explains.as_deref().ok_or_else(|| Problem::conflict("this process has no gateway: its log has the request id of every refusal"))
}

/// `GET /explanations/{request_id}`
pub fn read(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    explains(state)?.remembered(&call.id).map(Answer::ok).ok_or_else(Problem::unknown)
}

/// `GET /explanations`: the latest first; `route`, `reason` and `status` narrow it.
pub fn list(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let status = match call.parameter("status") {
        None => None,
        Some(text) => Some(text.parse::<u16>().map_err(|_| Problem::malformed("status must be a number"))?),
    };
    let most = usize::try_from(call.limit()?).unwrap_or(usize::MAX);
    let sought = (call.parameter("route"), call.parameter("reason"), status);
    Ok(page(explains(state)?.recent(sought, most), None))
}

/// `POST /explanations`: what would become of a request; nothing is counted, spent or forwarded.
pub async fn explain(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let told = explains(state)?.explain(&call.body, None).await;
    told.map(Answer::ok).map_err(|why| Problem::invalid(vec![ledger::Mistake::new("", why)]))
}

/// A request as explanations, dry runs and tests of policies describe it.
pub fn request() -> Value {
    let text = |description: &str| serde_json::json!({ "type": "string", "maxLength": 16384, "description": description });
    crate::shapes::closed(
        &["path"],
        serde_json::json!({
            "method": text("`GET` when absent."),
            "path": text("Path and query, as it would be sent."),
            "host": text("The host; the gateway's own address when absent."),
            "headers": { "type": "object", "additionalProperties": { "type": "string", "maxLength": 16384 }, "description": "Further header fields." },
            "peer": text("The address it comes from; 127.0.0.1 when absent."),
            "token": text("A bearer token. Not kept, not logged."),
            "api_key": text("An API key. Not kept, not logged."),
            "caller": { "type": "object", "description": "Instead of a credential: a caller taken for authenticated (`credential`, `issuer`, `sub`, `client_id`, `scope`, `audience`, `roles`, `groups`, `person`, `acr`, `amr`, `authenticated_ago`, `device`, `binding`)." },
        }),
    )
}
