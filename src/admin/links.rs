//! Routes, upstreams, trusted issuers and policies are valid together or not at all: what one change would break, told before it is made.
use std::collections::BTreeMap;

use edge::table::RouteTable;
use ledger::{Mistake, ObjectKind, StoreError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::{Failure, Objects};

/// Clients read at once.
const CLIENTS: u32 = 200;

/// A change of one object: its kind, id and new document (`None`: deleted).
pub type Link<'a> = (ObjectKind, &'a str, Option<&'a Value>);

/// Whether objects of a kind refer to each other.
#[must_use]
pub const fn linked(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Route | ObjectKind::Upstream | ObjectKind::TrustedIssuer | ObjectKind::Policy)
}

/// A mistake that a change would make, and the object it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Of that kind.
    pub kind: ObjectKind,
    /// With that id.
    pub id: String,
    /// What would be wrong with it.
    pub mistake: Mistake,
}

impl Broken {
    /// In words, for a caller who changed another object.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{} `{}` would be wrong: {}: {}", self.kind.as_str().replace('_', " "), self.id, self.mistake.at, self.mistake.why)
    }
}

/// Refuses a change of one object that would leave the route table invalid.
///
/// # Errors
/// [`Failure::Invalid`] if it is wrong itself, [`Failure::Conflict`] if another object needs it as it is.
pub async fn check(objects: &Objects, changes: &[Link<'_>]) -> Result<(), Failure> {
    let broken = broken(objects, changes).await?;
    let own = |b: &Broken| changes.iter().any(|(kind, id, _)| *kind == b.kind && *id == b.id);
    if let Some(other) = broken.iter().find(|b| !own(b)) {
        return Err(Failure::Conflict(other.told()));
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::Invalid(broken.into_iter().map(|b| b.mistake).collect())) }
}

/// Refuses to take an identifier of a resource server from the clients that name it: they could get no token any more.
/// Clients are many: they are read in pages, and the first that names it ends the search.
///
/// # Errors
/// [`Failure::Conflict`] with that client.
pub async fn unnamed(objects: &Objects, identifier: &str) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let page = objects.store.objects(ObjectKind::Client, after.as_deref(), CLIENTS).await?;
        for client in page.items {
            let named = client.document.get("allowed_resources").and_then(Value::as_array);
            if named.is_some_and(|all| all.iter().any(|resource| resource.as_str() == Some(identifier))) {
                return Err(Failure::Conflict(format!("client `{}` names `{identifier}` in allowed_resources", client.id)));
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// What would be wrong in the whole route table after the changes and is not wrong already.
///
/// # Errors
/// Storage is away.
pub async fn broken(objects: &Objects, changes: &[Link<'_>]) -> Result<Vec<Broken>, StoreError> {
    if !changes.iter().any(|(kind, ..)| linked(*kind)) {
        return Ok(Vec::new());
    }
    let mut rows = Rows::default();
    for kind in [ObjectKind::Route, ObjectKind::Upstream, ObjectKind::TrustedIssuer, ObjectKind::Policy] {
        let mut after: Option<String> = None;
        loop {
            let page = objects.store.objects(kind, after.as_deref(), 500).await?;
            for object in page.items {
                rows.0.insert((kind, object.id), object.document);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    let before = rows.mistakes(&objects.issuer);
    for (kind, id, document) in changes.iter().filter(|(kind, ..)| linked(*kind)) {
        match document {
            Some(document) => rows.0.insert((*kind, (*id).to_owned()), (*document).clone()),
            None => rows.0.remove(&(*kind, (*id).to_owned())),
        };
    }
    let changed = |b: &Broken| changes.iter().any(|(kind, id, _)| *kind == b.kind && *id == b.id);
    Ok(rows.mistakes(&objects.issuer).into_iter().filter(|b| changed(b) || !before.contains(b)).collect())
}

/// The documents of a route table, by kind and id.
#[derive(Default)]
struct Rows(BTreeMap<(ObjectKind, String), Value>);

impl Rows {
    fn of<R: DeserializeOwned>(&self, kind: ObjectKind) -> Vec<R> {
        self.0.iter().filter(|((k, _), _)| *k == kind).filter_map(|(_, doc)| serde_json::from_value(doc.clone()).ok()).collect()
    }

    fn mistakes(&self, issuer: &str) -> Vec<Broken> {
        let (routes, upstreams, issuers) = (self.of(ObjectKind::Route), self.of(ObjectKind::Upstream), self.of(ObjectKind::TrustedIssuer));
        match RouteTable::with_policies(&routes, &upstreams, &issuers, &self.of(ObjectKind::Policy), issuer) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.into_iter().map(located).collect(),
        }
    }
}

/// Reads `routes[ID].member` back into the object and its member.
fn located(mistake: Mistake) -> Broken {
    let parts = mistake.at.split_once('[').and_then(|(list, rest)| {
        let (id, member) = rest.split_once(']')?;
        let kind = match list {
            "upstreams" => ObjectKind::Upstream,
            "trusted_issuers" => ObjectKind::TrustedIssuer,
            "policies" => ObjectKind::Policy,
            _ => ObjectKind::Route,
        };
        Some((kind, id.to_owned(), member.trim_start_matches('.').to_owned()))
    });
    match parts {
        Some((kind, id, member)) => Broken { kind, id, mistake: Mistake::new(member, mistake.why) },
        None => Broken { kind: ObjectKind::Route, id: String::new(), mistake },
    }
}
