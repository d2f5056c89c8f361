//! Declarative seeds: a file of objects, compared with what is stored, applied in one transaction or not at all.
use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _};
use ledger::{Change, Mistake, Object, ObjectKind, Outcome};
use serde_json::{Map, Value, json};

use crate::{
    draft::Draft,
    json, links,
    objects::{Action, Failure, Objects, Prepared},
    operations::RESOURCES,
    schema,
    state::Actor,
};

/// Octets of a seed accepted.
pub const MAX_SEED: usize = 64 * 1024 * 1024;
/// Passwords compared or hashed at once (the hashing permits bound it further).
const AT_ONCE: usize = 8;
/// How often a seed is planned again when somebody else changed something meanwhile.
const ATTEMPTS: usize = 3;

/// One object of the file.
#[derive(Debug)]
struct Item {
    kind: ObjectKind,
    /// E.g. `clients[2]`.
    path: String,
    given: Value,
}

/// What a seed would do, and the change that does it.
#[derive(Debug)]
pub struct Plan {
    prepared: Vec<Prepared>,
}

/// Reads, checks and compares a seed. Nothing is changed.
///
/// # Errors
/// [`Failure::Invalid`] with every mistake of the whole file, each with its path; or storage is away.
pub async fn plan(objects: &Objects, text: &[u8], actor: &Actor) -> Result<Plan, Failure> {
    plan_without(objects, text, actor, &[]).await
}

/// The same where these objects will be gone.
///
/// # Errors
/// As [`plan`].
pub(crate) async fn plan_without(objects: &Objects, text: &[u8], actor: &Actor, removed: &[(ObjectKind, String)]) -> Result<Plan, Failure> {
    let (items, mut mistakes) = read(text);
    let mut drafts: Vec<(String, Draft, Option<Object>)> = Vec::with_capacity(items.len());
    for item in items {
        let stored = stored(objects, &item).await?;
        let (kind, path) = (item.kind, item.path);
        mistakes.extend(unnamed(kind, &path, &item.given));
        match objects.drafted(kind, item.given, stored.as_ref()) {
            Ok(mut draft) => {
                let beside: Vec<&Draft> = drafts.iter().map(|(_, draft, _)| draft).collect();
                let wrong = objects.settle(&mut draft, stored.is_none(), &beside).await?;
                mistakes.extend(wrong.into_iter().map(|m| under(&path, m)));
                if stored.is_none() && objects.store.object(kind, &draft.id).await?.is_some() {
                    mistakes.push(Mistake::new(format!("{path}.id"), "is taken by another object"));
                }
                if let Err(taken) = objects.unmarked(kind, &draft.id, &draft.document).await {
                    match taken {
                        Failure::Conflict(why) => mistakes.push(Mistake::new(path.clone(), why)),
                        fault => return Err(fault),
                    }
                }
                drafts.push((path, draft, stored));
            }
            Err(wrong) => mistakes.extend(wrong.into_iter().map(|m| under(&path, m))),
        }
    }
    repeated(&drafts, &mut mistakes);
    let devices = drafts.iter().filter(|(_, draft, _)| draft.kind == ObjectKind::Device);
    mistakes.extend(Objects::twice_marked(devices.map(|(path, draft, _)| (path.as_str(), &draft.document))));
    // An upstream with a mistake is no reason to call the routes to it lost as well.
    let part_of_table = |m: &Mistake| ["routes", "upstreams", "trusted_issuers", "policies"].iter().any(|part| m.at.starts_with(part));
    if !mistakes.iter().any(part_of_table) {
        mistakes.extend(unlinked(objects, &drafts, removed).await?);
    }
    if !mistakes.is_empty() {
        let mut seen = HashSet::new();
        mistakes.retain(|m| seen.insert((m.at.clone(), m.why.clone())));
        return Err(Failure::Invalid(mistakes));
    }
    let order = objects.order(actor);
    let prepared = futures_util::stream::iter(drafts.into_iter().map(|(_, draft, stored)| objects.prepare(draft, stored, order)))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(Plan { prepared })
}

/// Plans and applies a seed in one transaction. Answers what was done; generated secrets are in the answer, this once.
///
/// # Errors
/// As [`plan`]; [`Failure::Stale`] when others kept changing the same objects. Nothing was changed then.
pub async fn apply(objects: &Objects, text: &[u8], actor: &Actor) -> Result<Value, Failure> {
    let _one = objects.hold(ObjectKind::Route).await;
    for _ in 0..ATTEMPTS {
        let mut plan = plan(objects, text, actor).await?;
        let change = plan.take_change();
        if change == Change::new() || matches!(objects.store.apply(change).await?, Outcome::Applied { .. }) {
            return Ok(plan.report(true));
        }
    }
    Err(Failure::Stale)
}

/// An object of a seed: its kind, its place in the file, its natural key.
pub(crate) type Named = (ObjectKind, String, Option<String>);

/// What a seed names: kind, place in the file, natural key; and what cannot be read.
pub(crate) fn named(text: &[u8]) -> (Vec<Named>, Vec<Mistake>) {
    let (items, mistakes) = read(text);
    let key = |item: &Item| item.given.get(schema::key_member(item.kind)).and_then(Value::as_str).map(str::to_owned);
    (items.into_iter().map(|item| (item.kind, item.path.clone(), key(&item))).collect(), mistakes)
}

impl Plan {
    /// The change that does it; once.
    pub(crate) fn take_change(&mut self) -> Change {
        self.prepared.iter_mut().fold(Change::new(), |all, one| all.and(std::mem::take(&mut one.change)))
    }

    /// Whether applying it would change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prepared.iter().all(|p| p.action == Action::Unchanged)
    }

    /// What it would do; without secrets and without ids that would only now be made.
    #[must_use]
    pub fn preview(&self) -> Value {
        self.report(false)
    }

    fn report(&self, applied: bool) -> Value {
        let names = |action| self.prepared.iter().filter(|p| p.action == action).map(name).collect::<Vec<_>>();
        let mut out = Map::new();
        out.insert("applied".into(), applied.into());
        out.insert("created".into(), names(Action::Created).into());
        out.insert("replaced".into(), names(Action::Replaced).into());
        out.insert("unchanged".into(), self.prepared.iter().filter(|p| p.action == Action::Unchanged).count().into());
        if applied {
            for resource in RESOURCES {
                let rows: Vec<Value> = self.prepared.iter().filter(|p| p.object.kind == resource.kind).map(row).collect();
                if !rows.is_empty() {
                    out.insert(section(resource.path), rows.into());
                }
            }
        }
        Value::Object(out)
    }
}

/// E.g. `{"kind":"client","key":"web"}`.
fn name(prepared: &Prepared) -> Value {
    json!({ "kind": prepared.object.kind.as_str(), "key": prepared.object.key })
}

/// The ids of an object, and the secret that was made for it.
fn row(prepared: &Prepared) -> Value {
    let kind = prepared.object.kind;
    let mut out = Map::new();
    if kind != ObjectKind::Client {
        out.insert("id".into(), prepared.object.id.as_str().into());
    }
    out.insert(schema::key_member(kind).into(), prepared.object.key.as_str().into());
    if let (Some(member), Some(plain)) = (schema::secret_member(kind), &prepared.generated) {
        out.insert(member.into(), plain.expose().into());
    }
    Value::Object(out)
}

/// A collection's member of a seed.
fn section(path: &str) -> String {
    path.trim_start_matches('/').replace('-', "_")
}

fn read(text: &[u8]) -> (Vec<Item>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    if text.len() > MAX_SEED {
        return (Vec::new(), vec![Mistake::new("", "the seed is too large")]);
    }
    let members = match json::read(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return (Vec::new(), vec![Mistake::new("", "a seed is one JSON object")]),
        Err(why) => return (Vec::new(), vec![Mistake::new("", why)]),
    };
    let sections: Vec<(String, ObjectKind)> = RESOURCES.iter().map(|r| (section(r.path), r.kind)).collect();
    let mut items = Vec::new();
    for (member, value) in members {
        let kind = sections.iter().find(|(name, _)| *name == member).map(|(_, kind)| *kind);
        match (kind, value) {
            (Some(kind), Value::Array(list)) => {
                items.extend(list.into_iter().enumerate().map(|(i, given)| Item { kind, path: format!("{member}[{i}]"), given }));
            }
            (Some(_), _) => mistakes.push(Mistake::new(member, "must be an array")),
            _ => {
                let known = sections.iter().map(|(name, _)| name.as_str());
                mistakes.push(Mistake::new(json::short(&member), schema::unknown(&member, known)));
            }
        }
    }
    // What others refer to comes first, whatever the order in the file.
    let place = |kind| schema::KINDS.iter().position(|k| *k == kind);
    items.sort_by_key(|item| place(item.kind));
    (items, mistakes)
}

/// Without its natural key an object could not be found again, and every run would make another one.
fn unnamed(kind: ObjectKind, path: &str, given: &Value) -> Option<Mistake> {
    let member = schema::key_member(kind);
    (given.is_object() && given.get(member).is_none()).then(|| Mistake::new(format!("{path}.{member}"), "is missing"))
}

/// What an item is about: by natural key, or renamed by the id it gives.
async fn stored(objects: &Objects, item: &Item) -> Result<Option<Object>, Failure> {
    let member = |name: &str| item.given.get(name).and_then(Value::as_str);
    if let Some(key) = member(schema::key_member(item.kind))
        && let Some(found) = objects.store.object_by_key(item.kind, key).await?
    {
        return Ok(Some(found));
    }
    match member("id") {
        Some(id) => Ok(objects.store.object(item.kind, id).await?),
        None => Ok(None),
    }
}

fn repeated(drafts: &[(String, Draft, Option<Object>)], mistakes: &mut Vec<Mistake>) {
    let (mut keys, mut ids) = (HashSet::new(), HashSet::new());
    for (path, draft, _) in drafts {
        let member = schema::key_member(draft.kind);
        if !keys.insert((draft.kind, draft.key.as_str())) {
            mistakes.push(Mistake::new(format!("{path}.{member}"), "comes twice in this seed"));
        } else if !ids.insert((draft.kind, draft.id.as_str())) {
            mistakes.push(Mistake::new(format!("{path}.id"), "comes twice in this seed"));
        }
    }
}

async fn unlinked(
    objects: &Objects,
    drafts: &[(String, Draft, Option<Object>)],
    removed: &[(ObjectKind, String)],
) -> Result<Vec<Mistake>, Failure> {
    let gone = removed.iter().map(|(kind, id)| (*kind, id.as_str(), None));
    let changes: Vec<links::Link<'_>> = drafts.iter().map(|(_, d, _)| (d.kind, d.id.as_str(), Some(&d.document))).chain(gone).collect();
    let broken = links::broken(objects, &changes).await?;
    Ok(broken
        .into_iter()
        .map(|b| match drafts.iter().find(|(_, d, _)| d.kind == b.kind && d.id == b.id) {
            Some((path, ..)) => under(path, b.mistake),
            None => Mistake::new(String::new(), b.told()),
        })
        .collect())
}

fn under(path: &str, mistake: Mistake) -> Mistake {
    let at = if mistake.at.is_empty() { path.to_owned() } else { format!("{path}.{}", mistake.at) };
    Mistake::new(at, mistake.why)
}
