//! The questions of the AuthZEN Authorization API 1.0 as questions to the policy, and the answers in its words.
//!
//! `subject.type` and `resource.type` are Cedar entity types, `action.name` is the id of an `Action`; properties of subject and resource are
//! attributes, properties of the action are `context.action`.
use serde_json::{Map, Value, json};

use crate::{Being, Compiled, Question, Verdict};

/// Most evaluations of one request.
pub const MAX_EVALUATIONS: usize = 200;
/// Most candidates looked at for one page of a search.
pub const MAX_CANDIDATES: usize = 1000;
/// Entries of a page where the request does not say.
pub const PAGE: usize = 100;
/// Longest type, id or name, octets.
const LONGEST: usize = 1024;
/// Most that context and properties of one question may weigh (see [`weight`]).
pub const MAX_QUESTION: usize = 16 * 1024;
/// Most that all questions of a batch may weigh together, each with the defaults it takes over.
pub const MAX_BATCH: usize = 512 * 1024;
/// What a value weighs besides its text.
const VALUE: usize = 16;

/// How much work a JSON value is: its text in octets and 16 for each value, so that many small ones do not look like little.
fn weight(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>() + VALUE,
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + VALUE,
        Value::String(text) => text.len() + VALUE,
        Value::Null | Value::Bool(_) | Value::Number(_) => VALUE,
    }
}

/// A request that cannot be read: constant text for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Reads an access evaluation request (§6.1).
///
/// # Errors
/// What is missing or of the wrong type.
pub fn evaluation(body: &Value) -> Result<Question, Malformed> {
    question(object(body)?)
}

/// What a batch stops at (§7.1.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Semantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

impl Semantic {
    /// Whether a batch ends after such a decision.
    #[must_use]
    pub const fn stops_at(self, allowed: bool) -> bool {
        matches!((self, allowed), (Self::DenyOnFirstDeny, false) | (Self::PermitOnFirstPermit, true))
    }
}

/// An access evaluations request (§7.1).
#[derive(Debug, Clone, PartialEq)]
pub enum Batch<'a> {
    /// Without `evaluations`: one question, answered like one.
    Single(Box<Question>),
    /// Each item by itself: one that cannot be read is refused, the others are decided.
    Many(Items<'a>, Semantic),
}

/// The items of a batch; each becomes a question when it is its turn, not before.
#[derive(Debug, Clone, PartialEq)]
pub struct Items<'a> {
    top: &'a Map<String, Value>,
    items: &'a [Value],
}

/// What an item is made of, in its own words or the default's.
const MEMBERS: [&str; 4] = ["subject", "action", "resource", "context"];

impl Items<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// The questions, one at a time.
    pub fn questions(&self) -> impl Iterator<Item = Result<Question, Malformed>> {
        self.items.iter().map(|item| {
            let item = object(item)?;
            let mut merged = Map::new();
            for name in MEMBERS {
                if let Some(value) = merge(self.top.get(name), item.get(name)) {
                    merged.insert(name.to_owned(), value);
                }
            }
            question(&merged)
        })
    }
    /// What all of them weigh together, at most.
    fn weight(&self) -> usize {
        let of = |members: &Map<String, Value>| MEMBERS.iter().filter_map(|name| members.get(*name)).map(weight).sum::<usize>();
        self.items.iter().map(|item| item.as_object().map_or(0, of)).sum::<usize>() + of(self.top).saturating_mul(self.items.len())
    }
}

/// Reads an access evaluations request: the top level has the defaults of each item.
///
/// # Errors
/// What is missing or of the wrong type, or too much.
pub fn evaluations(body: &Value) -> Result<Batch<'_>, Malformed> {
    let top = object(body)?;
    let semantic = match top.get("options").and_then(|o| o.get("evaluations_semantic")) {
        None => Semantic::ExecuteAll,
        Some(Value::String(name)) => match name.as_str() {
            "execute_all" => Semantic::ExecuteAll,
            "deny_on_first_deny" => Semantic::DenyOnFirstDeny,
            "permit_on_first_permit" => Semantic::PermitOnFirstPermit,
            _ => return Err(Malformed("evaluations_semantic is not known")),
        },
        Some(_) => return Err(Malformed("evaluations_semantic must be text")),
    };
    let items = match top.get("evaluations") {
        None => return question(top).map(|q| Batch::Single(Box::new(q))),
        Some(Value::Array(items)) if items.is_empty() => return question(top).map(|q| Batch::Single(Box::new(q))),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(Malformed("evaluations must be an array")),
    };
    if items.len() > MAX_EVALUATIONS {
        return Err(Malformed("too many evaluations"));
    }
    let items = Items { top, items };
    if items.weight() > MAX_BATCH {
        return Err(Malformed("the evaluations are too large together"));
    }
    Ok(Batch::Many(items, semantic))
}

/// An item's member over the default: members of objects are merged by name, so that an item may say its id alone.
fn merge(default: Option<&Value>, own: Option<&Value>) -> Option<Value> {
    match (default, own) {
        (Some(Value::Object(default)), Some(Value::Object(own))) => {
            let mut merged = default.clone();
            merged.extend(own.clone());
            Some(Value::Object(merged))
        }
        (default, own) => own.or(default).cloned(),
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// Who may (§8.4).
    Subject,
    /// To what (§8.5).
    Resource,
    /// What (§8.6).
    Action,
}

/// A search request (§8).
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    sought: Sought,
    question: Question,
    limit: usize,
    after: Option<String>,
}

/// A page of results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    ids: Vec<String>,
    /// Goes on after this id.
    next: Option<String>,
}

impl Found {
    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }
    /// Leaves one out.
    pub fn leave_out(&mut self, id: &str) {
        self.ids.retain(|found| found != id);
    }
}

impl Search {
    /// Reads a search request. The id of what is sought, and an action where actions are sought, are ignored.
    ///
    /// # Errors
    /// What is missing or of the wrong type.
    pub fn read(sought: Sought, body: &Value) -> Result<Self, Malformed> {
        let top = object(body)?;
        let mut question = Question { context: context(top)?, ..Question::default() };
        question.principal = being(top, "subject", sought != Sought::Subject)?;
        question.resource = being(top, "resource", sought != Sought::Resource)?;
        if sought != Sought::Action {
            action(top, &mut question)?;
        }
        bounded(&question)?;
        let page = match top.get("page") {
            None => Map::new(),
            Some(Value::Object(page)) => page.clone(),
            Some(_) => return Err(Malformed("page must be an object")),
        };
        let limit = match page.get("limit") {
            None => PAGE,
            Some(limit) => match limit.as_u64().and_then(|l| usize::try_from(l).ok()).filter(|l| *l > 0) {
                Some(limit) => limit.min(MAX_CANDIDATES),
                None => return Err(Malformed("page.limit must be a positive number")),
            },
        };
        let after = match page.get("token") {
            None => None,
            Some(Value::String(token)) if token.is_empty() => None,
            Some(Value::String(token)) => Some(untoken(token).ok_or(Malformed("page.token is not one of this server"))?),
            Some(_) => return Err(Malformed("page.token must be text")),
        };
        Ok(Self { sought, question, limit, after })
    }

    /// The somebody that is not sought, to be completed with what is known of them.
    pub fn known(&mut self) -> Vec<&mut Being> {
        match self.sought {
            Sought::Subject => vec![&mut self.question.resource],
            Sought::Resource => vec![&mut self.question.principal],
            Sought::Action => vec![&mut self.question.principal, &mut self.question.resource],
        }
    }

    /// Looks through everything that policies and their entities name.
    #[must_use]
    pub fn run(&self, policy: &Compiled) -> Found {
        let kind = match self.sought {
            Sought::Subject => self.question.principal.kind.as_str(),
            Sought::Resource => self.question.resource.kind.as_str(),
            Sought::Action => "Action",
        };
        let mut found = Found::default();
        let candidates = policy.named(kind).skip_while(|id| self.after.as_deref().is_some_and(|after| *id <= after));
        let mut last = None;
        for (looked, id) in candidates.enumerate() {
            if looked == MAX_CANDIDATES || found.ids.len() == self.limit {
                found.next = last;
                break;
            }
            let mut question = self.question.clone();
            match self.sought {
                Sought::Subject => id.clone_into(&mut question.principal.id),
                Sought::Resource => id.clone_into(&mut question.resource.id),
                Sought::Action => id.clone_into(&mut question.action),
            }
            if policy.ask(&question).allowed {
                found.ids.push(id.to_owned());
            }
            last = Some(id.to_owned());
        }
        found
    }

    /// The type of whom is looked for, if it is a subject.
    #[must_use]
    pub fn sought_subject(&self) -> Option<&str> {
        (self.sought == Sought::Subject).then_some(self.question.principal.kind.as_str())
    }

    /// The answer (§8.2).
    #[must_use]
    pub fn answer(&self, found: &Found) -> Value {
        let result = |id: &String| match self.sought {
            Sought::Subject => json!({"type": self.question.principal.kind, "id": id}),
            Sought::Resource => json!({"type": self.question.resource.kind, "id": id}),
            Sought::Action => json!({"name": id}),
        };
        let results: Vec<Value> = found.ids.iter().map(result).collect();
        let next = found.next.as_deref().map(token).unwrap_or_default();
        // In this order: a reader knows whether there is more before it reads what there is (§8.3).
        json!({"page": {"next_token": next, "count": found.ids.len()}, "results": results})
    }
}

/// The answer to one question (§6.2).
#[must_use]
pub fn answer(verdict: &Verdict) -> Value {
    json!({"decision": verdict.allowed})
}

/// The answer to an item of a batch that cannot be read (§7.2.1).
#[must_use]
pub fn unreadable(why: Malformed) -> Value {
    json!({"decision": false, "context": {"error": {"status": 400, "message": why.0}}})
}

/// The metadata document (§9).
#[must_use]
pub fn metadata(origin: &str) -> Value {
    json!({
        "policy_decision_point": origin,
        "access_evaluation_endpoint": format!("{origin}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{origin}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{origin}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{origin}/access/v1/search/resource"),
        "search_action_endpoint": format!("{origin}/access/v1/search/action"),
    })
}

fn object(value: &Value) -> Result<&Map<String, Value>, Malformed> {
    value.as_object().ok_or(Malformed("a JSON object is needed"))
}

fn question(top: &Map<String, Value>) -> Result<Question, Malformed> {
    let mut question = Question {
        principal: being(top, "subject", true)?,
        resource: being(top, "resource", true)?,
        context: context(top)?,
        ..Question::default()
    };
    action(top, &mut question)?;
    bounded(&question)?;
    Ok(question)
}

fn bounded(question: &Question) -> Result<(), Malformed> {
    let parts = [&question.context, &question.principal.attributes, &question.resource.attributes];
    let weight: usize = parts.into_iter().flatten().map(|(name, value)| name.len() + weight(value)).sum();
    if weight > MAX_QUESTION { Err(Malformed("context and properties are too large")) } else { Ok(()) }
}

fn being(top: &Map<String, Value>, name: &'static str, identified: bool) -> Result<Being, Malformed> {
    let wrong = if name == "subject" { Malformed("subject needs a type and an id") } else { Malformed("resource needs a type and an id") };
    let told = top.get(name).and_then(Value::as_object).ok_or(wrong)?;
    let kind = text(told, "type").ok_or(wrong)?;
    let id = if identified { text(told, "id").ok_or(wrong)? } else { "" };
    Ok(Being { attributes: properties(told)?, ..Being::new(kind, id) })
}

fn action(top: &Map<String, Value>, question: &mut Question) -> Result<(), Malformed> {
    const WRONG: Malformed = Malformed("action needs a name");
    let told = top.get("action").and_then(Value::as_object).ok_or(WRONG)?;
    text(told, "name").ok_or(WRONG)?.clone_into(&mut question.action);
    // Always there, so that a policy may ask `context.action has soft`.
    question.context.insert("action".to_owned(), Value::Object(properties(told)?));
    Ok(())
}

fn context(top: &Map<String, Value>) -> Result<Map<String, Value>, Malformed> {
    match top.get("context") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(context)) => Ok(context.clone()),
        Some(_) => Err(Malformed("context must be an object")),
    }
}

fn properties(told: &Map<String, Value>) -> Result<Map<String, Value>, Malformed> {
    match told.get("properties") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(properties)) => Ok(properties.clone()),
        Some(_) => Err(Malformed("properties must be an object")),
    }
}

fn text<'a>(told: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    told.get(name).and_then(Value::as_str).filter(|t| (1..=LONGEST).contains(&t.len()))
}

/// A page token: the last id, in hexadecimal so that nobody takes it for one.
fn token(id: &str) -> String {
    id.bytes().map(|b| format!("{b:02x}")).collect()
}

fn untoken(token: &str) -> Option<String> {
    let pairs = token.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|p| p.len() == 2));
    let octets: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    String::from_utf8(octets?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    /// The policy that certification of decision points loads: alice and bob, two records.
    pub const FIXTURE: &str = r#"
        permit(principal in Team::"readers", action == Action::"read", resource in Shelf::"records");
        permit(principal == user::"alice", action == Action::"write", resource in Shelf::"records")
          unless { resource has status && resource.status == "archived" };
        permit(principal in Team::"readers", action == Action::"write", resource in Shelf::"records")
          when { principal has role && principal.role == "admin" };
        permit(principal in Team::"readers", action == Action::"delete", resource in Shelf::"records")
          when { context.action has soft && context.action.soft == true };
    "#;

    fn policy() -> Compiled {
        let member = |kind: &str, id: &str, group: [&str; 2]| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": [{"type": group[0], "id": group[1]}]});
        let entities = vec![
            member("user", "alice", ["Team", "readers"]),
            member("user", "bob", ["Team", "readers"]),
            member("record", "record-1", ["Shelf", "records"]),
            member("record", "record-2", ["Shelf", "records"]),
        ];
        Compiled::new(&[Policy { id: "p".into(), cedar: FIXTURE.into(), entities, ..Policy::default() }]).unwrap()
    }
    fn ask(who: &str, what: &str) -> Value {
        json!({"subject": {"type": "user", "id": who}, "action": {"name": what}, "resource": {"type": "record", "id": "record-1"}})
    }
    fn allowed(body: &Value) -> bool {
        policy().ask(&evaluation(body).unwrap()).allowed
    }

    #[test]
    fn the_eight_rules_of_the_fixture() {
        assert!(allowed(&ask("alice", "read")) && allowed(&ask("bob", "read")));
        assert!(allowed(&ask("alice", "write")) && !allowed(&ask("bob", "write")));
        let mut archived = ask("alice", "write");
        archived["resource"]["properties"] = json!({"status": "archived"});
        assert!(!allowed(&archived));
        archived["subject"]["properties"] = json!({"role": "admin"});
        assert!(allowed(&archived));
        for (soft, expected) in [(true, true), (false, false)] {
            let mut delete = ask("bob", "delete");
            delete["action"]["properties"] = json!({"soft": soft});
            assert_eq!(allowed(&delete), expected);
        }
        assert!(!allowed(&ask("bob", "delete")) && !allowed(&ask("mallory", "read")));
    }

    #[test]
    fn what_is_missing_or_mistyped_is_malformed() {
        for (pointer, value) in [
            ("/subject", json!(null)),
            ("/subject/type", json!(1)),
            ("/subject/id", json!("")),
            ("/action", json!("read")),
            ("/action/name", json!(null)),
            ("/resource/id", json!({})),
            ("/context", json!([])),
            ("/subject/properties", json!("x")),
        ] {
            let mut body = ask("alice", "read");
            body["context"] = json!({});
            body["subject"]["properties"] = json!({});
            *body.pointer_mut(pointer).unwrap() = value;
            let broken = evaluation(&body).is_err();
            assert!(broken, "{pointer}");
        }
        assert!(evaluation(&json!([])).is_err() && evaluation(&json!("x")).is_err());
    }

    #[test]
    fn a_batch_takes_its_defaults_from_the_top_and_stops_where_it_is_told_to() {
        let body = json!({"subject": {"type": "user", "id": "bob"}, "resource": {"type": "record", "id": "record-1"},
            "evaluations": [{"action": {"name": "read"}, "resource": {"id": "record-2"}}, {"action": {"name": "write"}}, {}, 5],
            "options": {"evaluations_semantic": "deny_on_first_deny"}});
        let Ok(Batch::Many(items, semantic)) = evaluations(&body) else { panic!("many") };
        let told: Vec<bool> = items.questions().map(|i| i.is_ok_and(|q| policy().ask(&q).allowed)).collect();
        assert_eq!(told, [true, false, false, false]);
        assert!(semantic.stops_at(false) && !semantic.stops_at(true));
        assert!(matches!(evaluations(&ask("bob", "read")), Ok(Batch::Single(_))));
        let unknown = json!({"evaluations": [{}], "options": {"evaluations_semantic": "sometimes"}});
        assert_eq!(evaluations(&unknown), Err(Malformed("evaluations_semantic is not known")));
    }

    #[test]
    fn a_question_and_a_batch_are_bounded_by_what_they_become() {
        let mut large = ask("alice", "read");
        large["context"] = json!({"a": vec![1; 1000]});
        assert!(evaluation(&large).is_ok());
        large["context"] = json!({"a": vec![1; 1024]});
        assert_eq!(evaluation(&large), Err(Malformed("context and properties are too large")));
        assert!(Search::read(Sought::Action, &large).is_err());
        large["context"] = json!({});
        large["subject"]["properties"] = json!({"a": "x".repeat(MAX_QUESTION)});
        assert!(evaluation(&large).is_err());
        // Sixty-four KiB of defaults for two hundred items would be a hundred megabytes.
        let many = |defaults: usize| {
            let mut body = ask("alice", "read");
            body["context"] = json!({"a": vec![1; defaults]});
            body["evaluations"] = json!(vec![json!({}); MAX_EVALUATIONS]);
            evaluations(&body).map(|_| ())
        };
        assert_eq!((many(100), many(1000)), (Ok(()), Err(Malformed("the evaluations are too large together"))));
    }

    #[test]
    fn a_search_pages_through_who_what_and_which() {
        let seek = |sought, body: &Value| {
            let search = Search::read(sought, body).unwrap();
            search.answer(&search.run(&policy()))
        };
        let who = json!({"subject": {"type": "user", "id": "ignored"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}});
        assert_eq!(seek(Sought::Subject, &who)["results"], json!([{"type": "user", "id": "alice"}, {"type": "user", "id": "bob"}]));
        let mut paged = who;
        paged["page"] = json!({"limit": 1});
        let first = seek(Sought::Subject, &paged);
        assert_eq!(first["results"], json!([{"type": "user", "id": "alice"}]));
        paged["page"]["token"] = first["page"]["next_token"].clone();
        assert_eq!(seek(Sought::Subject, &paged)["results"], json!([{"type": "user", "id": "bob"}]));
        let which = json!({"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "record-1"}});
        assert_eq!(seek(Sought::Action, &which)["results"], json!([{"name": "read"}, {"name": "write"}]));
        let nobody = json!({"subject": {"type": "ghost"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}});
        assert_eq!(seek(Sought::Subject, &nobody)["results"], json!([]));
    }
}
