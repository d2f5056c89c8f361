//! Policies tried before they count: which questions and requests would be decided otherwise. Nothing is changed.
use std::collections::BTreeMap;

use ::policy::{Being, Compiled, Policy, Question, Verdict};
use edge::{issuer::TrustedIssuer, route::Route, table::RouteTable, upstream::Upstream};
use ledger::{Mistake, Record, StoreError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{call::Call, problem::Problem, rest::Answer, state::AdminState};

/// Rows read at once.
const PAGE: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default)]
    parents: Vec<Parent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parent {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    principal: Entity,
    action: String,
    resource: Entity,
    #[serde(default)]
    context: Map<String, Value>,
}

impl From<Entity> for Being {
    fn from(entity: Entity) -> Self {
        let parents = entity.parents.into_iter().map(|parent| (parent.kind, parent.id)).collect();
        Self { kind: entity.kind, id: entity.id, attributes: entity.attributes, parents }
    }
}

/// What is stored, with the candidates over it.
struct Rows {
    policies: BTreeMap<String, Policy>,
    routes: BTreeMap<String, Route>,
    upstreams: Vec<Upstream>,
    issuers: Vec<TrustedIssuer>,
}

/// `POST /policies/dry-run`
pub async fn run(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let list = |name: &str| call.body.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = Rows {
        policies: stored(state).await?,
        routes: stored(state).await?,
        upstreams: stored(state).await?.into_values().collect(),
        issuers: stored(state).await?.into_values().collect(),
    };
    let before = Compiled::new(rows.policies.values()).map_err(|_| Problem::conflict("the stored policies do not fit together"))?;
    let mut mistakes = Vec::new();
    for id in list("remove") {
        if id.as_str().and_then(|id| rows.policies.remove(id)).is_none() {
            mistakes.push(Mistake::new("remove", format!("there is no policy {id}")));
        }
    }
    lay_over(&mut rows.policies, &list("policies"), "policies", &mut mistakes);
    lay_over(&mut rows.routes, &list("routes"), "routes", &mut mistakes);
    let after = Compiled::new(rows.policies.values()).unwrap_or_else(|why| {
        mistakes.push(Mistake::new("policies", why));
        Compiled::default()
    });
    let mut questions: Vec<Question> = Vec::new();
    for (n, given) in list("questions").into_iter().enumerate() {
        match serde_json::from_value::<Asked>(given) {
            Ok(asked) => questions.push(Question {
                principal: asked.principal.into(),
                action: asked.action,
                resource: asked.resource.into(),
                context: asked.context,
            }),
            Err(error) => mistakes.push(Mistake::new(format!("questions[{n}]"), error.to_string())),
        }
    }
    if !mistakes.is_empty() {
        return Err(Problem::invalid(mistakes));
    }
    let mut changed = 0_u32;
    let mut answers = Vec::new();
    for question in &questions {
        let (was, is) = (before.ask(question), after.ask(question));
        let differs = was.allowed != is.allowed;
        changed += u32::from(differs);
        answers.push(json!({ "before": told(&was), "after": told(&is), "changed": differs }));
    }
    let mut out = Map::new();
    out.insert("questions".into(), answers.into());
    let requests = list("requests");
    if !requests.is_empty() {
        let (differing, compared) = compare(state, rows, &requests).await?;
        changed += differing;
        out.insert("requests".into(), compared.into());
    }
    out.insert("changed".into(), changed.into());
    Ok(Answer::ok(Value::Object(out)))
}

/// Requests as this process's gateway decides them, and as it would.
async fn compare(state: &AdminState, rows: Rows, requests: &[Value]) -> Result<(u32, Vec<Value>), Problem> {
    let Some(explains) = &state.explains else {
        return Err(Problem::conflict("this process has no gateway: ask questions instead of requests"));
    };
    let policies: Vec<Policy> = rows.policies.into_values().collect();
    let routes: Vec<Route> = rows.routes.into_values().collect();
    let default = explains.default_policy();
    let built = RouteTable::judged_by(&routes, &rows.upstreams, &rows.issuers, (&policies, default.as_deref()), &state.settings.issuer);
    let table = std::sync::Arc::new(built.map_err(Problem::invalid)?);
    let (mut changed, mut out) = (0, Vec::new());
    for (n, request) in requests.iter().enumerate() {
        let unreadable = |why: String| Problem::invalid(vec![Mistake::new(format!("requests[{n}]"), why)]);
        let was = explains.explain(request, None).await.map_err(unreadable)?;
        let is = explains.explain(request, Some(std::sync::Arc::clone(&table))).await.map_err(unreadable)?;
        let outcome = |told: &Value| [told.get("allowed").cloned(), told.get("reason").cloned(), told.get("route").cloned()];
        let differs = outcome(&was) != outcome(&is);
        changed += u32::from(differs);
        out.push(json!({ "before": was, "after": is, "changed": differs }));
    }
    Ok((changed, out))
}

fn told(verdict: &Verdict) -> Value {
    json!({ "allowed": verdict.allowed, "by": verdict.by, "faults": verdict.faults })
}

/// Puts candidates over what is stored, by their ids.
fn lay_over<R: Record>(rows: &mut BTreeMap<String, R>, given: &[Value], list: &str, mistakes: &mut Vec<Mistake>) {
    for (n, candidate) in given.iter().enumerate() {
        match serde_json::from_value::<R>(candidate.clone()) {
            Ok(record) => {
                mistakes.extend(record.mistakes().into_iter().map(|m| Mistake::new(format!("{list}[{n}].{}", m.at), m.why)));
                rows.insert(record.id().to_owned(), record);
            }
            Err(error) => mistakes.push(Mistake::new(format!("{list}[{n}]"), error.to_string())),
        }
    }
}

async fn stored<R: Record + DeserializeOwned>(state: &AdminState) -> Result<BTreeMap<String, R>, Problem> {
    let (mut out, mut after): (BTreeMap<String, R>, Option<String>) = (BTreeMap::new(), None);
    loop {
        let page = state.store().objects(R::KIND, after.as_deref(), PAGE).await?;
        for object in page.items {
            let record = serde_json::from_value(object.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            out.insert(object.id, record);
        }
        after = page.next;
        if after.is_none() {
            return Ok(out);
        }
    }
}
