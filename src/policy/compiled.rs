//! All policies, parsed once, ready to be asked.
//!
//! Cedar leaves out a policy that cannot be evaluated (it asks for an attribute that is not there, compares text with a number). Of a
//! `permit` that is right: it permits nothing. A `forbid` that was left out would let through whoever can make it fail, so here it forbids.
use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy as Rule,
    PolicyId, PolicySet, Request, RestrictedExpression,
};
use serde_json::{Map, Value};

use crate::{Being, Policy, Question, shape};

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// The policies that decided, by `record#number` (or their `@id`).
    pub by: Vec<String>,
    /// What could not be evaluated, in Cedar's words. For the log.
    pub faults: Vec<String>,
}

impl Verdict {
    fn fault(why: impl Into<String>) -> Self {
        Self { allowed: false, by: Vec::new(), faults: vec![why.into()] }
    }
}

/// Every policy and entity there is.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    rules: PolicySet,
    known: Entities,
    /// Every entity that a policy or an entity document names.
    named: BTreeSet<(String, String)>,
}

/// The rules of a text, each with an id of its own.
///
/// # Errors
/// In words, with the place.
pub fn parse(record: &str, text: &str) -> Result<Vec<Rule>, String> {
    if let Some(why) = shape::mistake(text) {
        return Err(why.into());
    }
    let set: PolicySet = text.parse().map_err(|e: cedar_policy::ParseErrors| e.to_string())?;
    if set.templates().next().is_some() {
        return Err("policies with slots (templates) are not supported".into());
    }
    let mut rules: Vec<Rule> = set.policies().cloned().collect();
    if rules.is_empty() {
        return Err("at least one policy is needed".into());
    }
    rules.sort_by_key(|rule| rule.id().to_string().trim_start_matches("policy").parse::<u32>().unwrap_or(u32::MAX));
    let name = |(n, rule): (usize, &Rule)| rule.annotation("id").map_or_else(|| format!("{record}#{n}"), |id| format!("{record}#{id}"));
    let names: Vec<String> = rules.iter().enumerate().map(name).collect();
    if names.iter().collect::<HashSet<_>>().len() != names.len() {
        return Err("two policies have the same @id".into());
    }
    Ok(rules.into_iter().zip(names).map(|(rule, name)| rule.new_id(PolicyId::new(name))).collect())
}

/// The entities of a document.
///
/// # Errors
/// In words.
pub fn entities(documents: &[Value]) -> Result<Entities, String> {
    // None are none without Cedar's list of extensions, whose names it parses (and builds a lexer for) when it is first asked for.
    if documents.is_empty() {
        return Ok(Entities::empty());
    }
    Entities::from_json_value(Value::Array(documents.to_vec()), None).map_err(|e| e.to_string())
}

impl Compiled {
    /// Puts every record together that is enabled and enforced.
    ///
    /// # Errors
    /// What is wrong, and in which record.
    pub fn new<'a>(records: impl IntoIterator<Item = &'a Policy>) -> Result<Self, String> {
        Self::with_tried(records.into_iter().filter(|r| !r.is_tried()))
    }

    /// Puts every enabled record together, also those that are only tried.
    ///
    /// # Errors
    /// What is wrong, and in which record.
    pub fn with_tried<'a>(records: impl IntoIterator<Item = &'a Policy>) -> Result<Self, String> {
        let mut all = Self::default();
        let mut documents = Vec::new();
        for record in records.into_iter().filter(|r| !r.disabled) {
            let told = |e: String| format!("{}: {e}", record.id);
            for rule in parse(&record.id, &record.cedar).map_err(told)? {
                all.named.extend(rule.entity_literals().iter().map(name_of));
                all.rules.add(rule).map_err(|e| told(e.to_string()))?;
            }
            entities(&record.entities).map_err(told)?;
            documents.extend(record.entities.iter().cloned());
        }
        // One that two records describe differently is refused by Cedar.
        all.known = entities(&documents)?;
        all.named.extend(all.known.iter().map(|e| name_of(&e.uid())));
        Ok(all)
    }

    /// The rules of one text alone, e.g. of a route, over the entities of `self`.
    ///
    /// # Errors
    /// In words.
    pub fn beside(&self, record: &str, text: &str) -> Result<Self, String> {
        let rules = PolicySet::from_policies(parse(record, text)?).map_err(|e| e.to_string())?;
        Ok(Self { rules, known: self.known.clone(), named: self.named.clone() })
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.num_of_policies()
    }

    /// Whether there is none: then everything is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Every id of a type that a policy or an entity document names, sorted.
    pub fn named<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.named.iter().filter(move |(k, _)| k == kind).map(|(_, id)| id.as_str())
    }

    /// Decides. What cannot be asked (a type that is no Cedar name) is refused.
    #[must_use]
    pub fn ask(&self, question: &Question) -> Verdict {
        match self.answer(question) {
            Ok(verdict) => verdict,
            Err(why) => Verdict::fault(why),
        }
    }

    fn answer(&self, question: &Question) -> Result<Verdict, String> {
        let (principal, resource) =
            (uid(&question.principal.kind, &question.principal.id)?, uid(&question.resource.kind, &question.resource.id)?);
        let action = uid("Action", &question.action)?;
        let context = Context::from_pairs(members(&question.context)?).map_err(|e| e.to_string())?;
        let mut brought = Vec::new();
        for (being, uid) in [(&question.principal, &principal), (&question.resource, &resource)] {
            if !being.attributes.is_empty() || !being.parents.is_empty() {
                brought.push(self.entity(being, uid)?);
            }
        }
        let request = Request::new(principal, action, resource, context, None).map_err(|e| e.to_string())?;
        let response = if brought.is_empty() {
            Authorizer::new().is_authorized(&request, &self.rules, &self.known)
        } else {
            let entities = self.known.clone().upsert_entities(brought, None).map_err(|e| e.to_string())?;
            Authorizer::new().is_authorized(&request, &self.rules, &entities)
        };
        let forbids = |id: &PolicyId| self.rules.policy(id).is_none_or(|rule| rule.effect() == Effect::Forbid);
        let erred = |AuthorizationError::PolicyEvaluationError(error): &AuthorizationError| error.policy_id().clone();
        let in_doubt: Vec<PolicyId> = response.diagnostics().errors().map(erred).filter(forbids).collect();
        let by: Vec<String> = match in_doubt.as_slice() {
            [] => response.diagnostics().reason().map(ToString::to_string).collect(),
            forbidding => forbidding.iter().map(ToString::to_string).collect(),
        };
        Ok(Verdict {
            allowed: response.decision() == Decision::Allow && in_doubt.is_empty(),
            by,
            faults: response.diagnostics().errors().map(ToString::to_string).collect(),
        })
    }

    /// What is stored of somebody, with what the question knows besides.
    fn entity(&self, being: &Being, uid: &EntityUid) -> Result<Entity, String> {
        let mut parents = HashSet::new();
        let mut attributes = HashMap::new();
        if let Some(known) = self.known.get(uid) {
            let (_, stored, within) = known.clone().into_inner();
            attributes.extend(stored);
            parents.extend(within);
        }
        for (kind, id) in &being.parents {
            parents.insert(self::uid(kind, id)?);
        }
        attributes.extend(members(&being.attributes)?);
        Entity::new(uid.clone(), attributes, parents).map_err(|e| e.to_string())
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(|_| format!("{kind:?} is not a type name"))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn name_of(uid: &EntityUid) -> (String, String) {
    (uid.type_name().to_string(), uid.id().unescaped().to_owned())
}

/// A JSON object's members as data alone: no null, none of the names that Cedar's JSON gives a meaning.
fn members(object: &Map<String, Value>) -> Result<HashMap<String, RestrictedExpression>, String> {
    let told = |(name, _): &(&String, &Value)| !name.starts_with("__");
    object.iter().filter(told).filter_map(|(name, value)| Some(expression(value)?.map(|data| (name.clone(), data)))).collect()
}

/// JSON as data alone: no fractions (Cedar has none; they become text), no null.
fn expression(value: &Value) -> Option<Result<RestrictedExpression, String>> {
    Some(Ok(match value {
        Value::Null => return None,
        Value::Bool(flag) => RestrictedExpression::new_bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => RestrictedExpression::new_long(whole),
            None => RestrictedExpression::new_string(number.to_string()),
        },
        Value::String(text) => RestrictedExpression::new_string(text.clone()),
        Value::Array(items) => match items.iter().filter_map(expression).collect::<Result<Vec<_>, _>>() {
            Ok(items) => RestrictedExpression::new_set(items),
            Err(why) => return Some(Err(why)),
        },
        Value::Object(object) => {
            return Some(members(object).and_then(|members| RestrictedExpression::new_record(members).map_err(|e| e.to_string())));
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiled(cedar: &str, entities: &Value) -> Compiled {
        let entities = entities.as_array().cloned().unwrap_or_default();
        Compiled::new(&[Policy { id: "p".into(), cedar: cedar.into(), entities, ..Policy::default() }]).unwrap()
    }
    fn asked(who: &str, what: &str) -> Question {
        Question { principal: Being::new("User", who), action: what.into(), resource: Being::new("Doc", "d"), ..Question::default() }
    }

    #[test]
    fn what_no_policy_allows_is_refused_and_a_forbidding_one_wins() {
        let rules = compiled(
            r#"permit(principal in Group::"staff", action == Action::"read", resource);
               @id("archived") forbid(principal, action, resource) when { resource has archived && resource.archived };"#,
            &json!([{"uid": {"type": "User", "id": "a"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]}]),
        );
        assert!(
            rules.ask(&asked("a", "read")).allowed && !rules.ask(&asked("a", "write")).allowed && !rules.ask(&asked("b", "read")).allowed
        );
        assert!(!Compiled::default().ask(&asked("a", "read")).allowed);
        let mut archived = asked("a", "read");
        archived.resource = archived.resource.with("archived", true);
        let verdict = rules.ask(&archived);
        assert_eq!((verdict.allowed, verdict.by), (false, vec!["p#archived".to_owned()]));
        let mut grouped = asked("b", "read");
        grouped.principal = grouped.principal.within("Group", "staff");
        assert!(rules.ask(&grouped).allowed);
    }

    #[test]
    fn what_a_question_knows_supersedes_what_is_stored_and_does_not_stay() {
        let rules = compiled(
            r#"permit(principal, action, resource) when { principal.role == "admin" };"#,
            &json!([{"uid": {"type": "User", "id": "a"}, "attrs": {"role": "user"}, "parents": []}]),
        );
        let mut admin = asked("a", "read");
        admin.principal = admin.principal.with("role", "admin");
        assert!(rules.ask(&admin).allowed && !rules.ask(&asked("a", "read")).allowed);
        let unknown = rules.ask(&asked("z", "read"));
        assert!(!unknown.allowed && unknown.faults.len() == 1);
    }

    #[test]
    fn a_forbidding_policy_that_cannot_be_evaluated_forbids() {
        let rules = compiled(
            r#"permit(principal, action, resource);
               permit(principal, action, resource) when { principal.nothing };
               @id("step-up") forbid(principal, action, resource) unless { context.acr == "urn:doorward:acr:2" };
               @id("old") forbid(principal, action, resource) when { context has auth_time && context.auth_time < 100 };"#,
            &json!([]),
        );
        let told = |context: Value| {
            let verdict = rules.ask(&Question { context: context.as_object().cloned().unwrap_or_default(), ..asked("a", "read") });
            (verdict.allowed, verdict.by)
        };
        let two = "urn:doorward:acr:2";
        assert_eq!(told(json!({})), (false, vec!["p#step-up".to_owned()]));
        assert_eq!(told(json!({"acr": two, "auth_time": "yesterday"})), (false, vec!["p#old".to_owned()]));
        assert!(!told(json!({"acr": two, "auth_time": 99})).0 && !told(json!({"acr": "1"})).0);
        // A permitting one that cannot be evaluated takes nothing from the others.
        assert!(told(json!({"acr": two})).0 && told(json!({"acr": two, "auth_time": 100})).0);
    }

    #[test]
    fn a_question_cannot_speak_cedar() {
        let rules = compiled(r#"permit(principal, action, resource) when { principal.friend == User::"root" };"#, &json!([]));
        let mut sly = asked("a", "read");
        sly.principal = sly.principal.with("friend", json!({"__entity": {"type": "User", "id": "root"}}));
        assert!(!rules.ask(&sly).allowed);
        for kind in ["", "not a name", "User::", "__cedar::X", "1"] {
            let verdict = rules.ask(&Question { principal: Being::new(kind, "a"), ..asked("a", "read") });
            assert!(!verdict.allowed, "{kind}");
        }
    }

    #[test]
    fn what_is_named_anywhere_can_be_found() {
        let rules = compiled(
            r#"permit(principal == User::"a", action in [Action::"read", Action::"write"], resource == Doc::"d");"#,
            &json!([{"uid": {"type": "User", "id": "b"}, "attrs": {}, "parents": []}]),
        );
        assert_eq!(rules.named("User").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(rules.named("Action").collect::<Vec<_>>(), ["read", "write"]);
    }
}
