//! Routes, upstreams and trusted issuers are valid together or not at all: what one change would break, told before it is made.
use std::collections::{BTreeMap, BTreeSet};

use edge::{issuer::TrustedIssuer, route::Route, upstream::Upstream};
use edge::route::UpstreamRef;
use ledger::{Mistake, ObjectKind, StoreError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::{Failure, Objects};

/// A change of one object: its kind, id and new document (`None`: deleted).
pub type Link<'a> = (ObjectKind, &'a str, Option<&'a Value>);

/// Whether objects of a kind refer to each other.
#[must_use]
pub const fn linked(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Route | ObjectKind::Upstream | ObjectKind::TrustedIssuer)
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

/// What would be wrong in the whole route table after the changes and is not wrong already.
///
/// # Errors
/// Storage is away.
pub async fn broken(objects: &Objects, changes: &[Link<'_>]) -> Result<Vec<Broken>, StoreError> {
    if !changes.iter().any(|(kind, ..)| linked(*kind)) {
        return Ok(Vec::new());
    }
    let mut rows = Rows::default();
    for kind in [ObjectKind::Route, ObjectKind::Upstream, ObjectKind::TrustedIssuer] {
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
    let before = rows.mistakes();
    for (kind, id, document) in changes.iter().filter(|(kind, ..)| linked(*kind)) {
        match document {
            Some(document) => rows.0.insert((*kind, (*id).to_owned()), (*document).clone()),
            None => rows.0.remove(&(*kind, (*id).to_owned())),
        };
    }
    let changed = |b: &Broken| changes.iter().any(|(kind, id, _)| *kind == b.kind && *id == b.id);
    Ok(rows.mistakes().into_iter().filter(|b| changed(b) || !before.contains(b)).collect())
}

/// The documents of a route table, by kind and id.
#[derive(Default)]
struct Rows(BTreeMap<(ObjectKind, String), Value>);

impl Rows {
    fn of<R: DeserializeOwned>(&self, kind: ObjectKind) -> Vec<R> {
        self.0.iter().filter(|((k, _), _)| *k == kind).filter_map(|(_, doc)| serde_json::from_value(doc.clone()).ok()).collect()
    }

    fn mistakes(&self) -> Vec<Broken> {
        let routes: Vec<Route> = self.of(ObjectKind::Route);
        let upstreams: Vec<Upstream> = self.of(ObjectKind::Upstream);
        let issuers: Vec<TrustedIssuer> = self.of(ObjectKind::TrustedIssuer);
        let upstreams: BTreeSet<&str> = upstreams.iter().map(|u| u.id.as_str()).collect();
        let issuers: BTreeSet<&str> = issuers.iter().map(|i| i.issuer.as_str()).collect();
        let mut out = Vec::new();
        for route in &routes {
            let mut wrong = |at: String, why: String| {
                out.push(Broken { kind: ObjectKind::Route, id: route.id.clone(), mistake: Mistake::new(at, why) });
            };
            if let UpstreamRef::Named(name) = &route.upstream
                && !upstreams.contains(name.as_str())
            {
                wrong("upstream".into(), format!("there is no upstream `{name}`"));
            }
            for (i, issuer) in route.auth.iter().flat_map(|a| a.issuers.iter()).enumerate() {
                if issuer != "self" && !issuers.contains(issuer.as_str()) {
                    wrong(format!("auth.issuers[{i}]"), format!("there is no trusted issuer `{issuer}`"));
                }
            }
        }
        out
    }
}
