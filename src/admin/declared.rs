//! A file that is the whole truth about the routes it names: what is in it is stored, what was in it before and no longer is goes, in one
//! transaction or not at all. What was made by other hands stays, and may not be named in it.
use ledger::{Change, EventKind, Mistake, ObjectKind, Outcome, Step};
use serde_json::{Value, json};

use crate::{
    links,
    objects::{Failure, Objects, about},
    seed,
    state::Actor,
};

/// The named value that remembers what the file named.
const REMEMBERED: &str = "declared_routes";
/// How often it is planned again when somebody else changed something meanwhile.
const ATTEMPTS: usize = 3;

/// An object of the file by kind and natural key.
type Named = (ObjectKind, String);

/// Makes the file true. Answers what was done; `None` if it is so already.
///
/// # Errors
/// [`Failure::Invalid`] with every mistake of the whole file; [`Failure::Stale`] when others kept changing the same objects; storage is
/// away. Nothing was changed then.
pub async fn apply(objects: &Objects, text: &[u8], actor: &Actor) -> Result<Option<Value>, Failure> {
    let _one = objects.hold(ObjectKind::Route).await;
    for _ in 0..ATTEMPTS {
        let before = remembered(objects).await?;
        let named = check(text)?;
        let gone = gone(objects, &before, &named).await?;
        let removed: Vec<(ObjectKind, String)> = gone.iter().map(|(kind, id, _)| (*kind, id.clone())).collect();
        let mut plan = seed::plan_without(objects, text, actor, &removed).await?;
        let others = others(objects, &before, text).await?;
        if !others.is_empty() {
            return Err(Failure::Invalid(others));
        }
        let order = objects.order(actor);
        let mut change = plan.take_change();
        for (kind, id, version) in &gone {
            let step = Step::DeleteObject { kind: *kind, id: id.clone(), version: Some(*version) };
            change = change.step(step).event(about(order, EventKind::ObjectDeleted, *kind, id));
        }
        if change == Change::new() && before == named {
            return Ok(None);
        }
        let names: Vec<Value> = named.iter().map(|(kind, key)| json!([kind.as_str(), key])).collect();
        let remember = Step::PutMeta { name: REMEMBERED.into(), value: Value::Array(names).to_string().into_bytes() };
        if matches!(objects.store.apply(change.step(remember)).await?, Outcome::Applied { .. }) {
            let mut report = plan.preview();
            if let Some(members) = report.as_object_mut() {
                let gone = removed.iter().map(|(kind, id)| json!({ "kind": kind.as_str(), "id": id }));
                members.insert("applied".into(), true.into());
                members.insert("deleted".into(), gone.collect());
            }
            return Ok(Some(report));
        }
    }
    Err(Failure::Stale)
}

/// What the file names; only what makes up the route table may be in it.
///
/// # Errors
/// [`Failure::Invalid`].
pub fn check(text: &[u8]) -> Result<Vec<Named>, Failure> {
    let (items, mut mistakes) = seed::named(text);
    mistakes.extend(
        items
            .iter()
            .filter(|(kind, ..)| !links::linked(*kind))
            .map(|(_, path, _)| Mistake::new(path.clone(), "only upstreams, routes, trusted_issuers and policies belong into this file")),
    );
    if !mistakes.is_empty() {
        return Err(Failure::Invalid(mistakes));
    }
    let mut named: Vec<Named> = items.into_iter().filter_map(|(kind, _, key)| Some((kind, key?))).collect();
    named.sort();
    Ok(named)
}

async fn remembered(objects: &Objects) -> Result<Vec<Named>, Failure> {
    let Some(stored) = objects.store.meta(REMEMBERED).await? else { return Ok(Vec::new()) };
    let rows: Vec<(String, String)> = serde_json::from_slice(&stored).unwrap_or_default();
    Ok(rows.into_iter().filter_map(|(kind, key)| Some((ObjectKind::parse(&kind)?, key))).collect())
}

/// What the file names that was there before the file named it: it would be replaced without a word, and go with the file.
async fn others(objects: &Objects, before: &[Named], text: &[u8]) -> Result<Vec<Mistake>, Failure> {
    let mut out = Vec::new();
    for (kind, path, key) in seed::named(text).0 {
        let Some(key) = key else { continue };
        let name = (kind, key);
        if !before.contains(&name) && objects.store.object_by_key(kind, &name.1).await?.is_some() {
            out.push(Mistake::new(path, "was made by other hands: delete it there, or name this one otherwise"));
        }
    }
    Ok(out)
}

/// What was named before, is not any more, and is still there: kind, id and version.
async fn gone(objects: &Objects, before: &[Named], named: &[Named]) -> Result<Vec<(ObjectKind, String, i64)>, Failure> {
    let mut out = Vec::new();
    for (kind, key) in before.iter().filter(|name| !named.contains(name)) {
        if let Some(object) = objects.store.object_by_key(*kind, key).await? {
            out.push((*kind, object.id, object.version));
        }
    }
    Ok(out)
}
