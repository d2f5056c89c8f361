//! API keys: their versions, who owns them, rotation with an overlap, and their end. The key itself is shown once and kept as a MAC.
use edge::api_key::{
    ApiKey, Owner, Version,
    issued::{CURRENT, LAST_USED, PREVIOUS, key_of},
    moment, plausible, version_id,
};
use ledger::{ArtefactKind, Change, EventKind, Mistake, NewEvent, Object, ObjectKind, Outcome, Step, StoreError};
use serde_json::{Map, Value, json};
use tokens::{
    duration,
    secret::{Plain, SecretKind, generate},
};

use crate::{
    call::Call,
    draft::Draft,
    objects::{ATTEMPTS, Failure, Objects, about},
    problem::Problem,
    rest::Answer,
    revocations::Order,
    secrets::{self, Turn},
    state::{Actor, AdminState},
};

const KIND: ObjectKind = ObjectKind::ApiKey;
/// How long the key before a rotation counts beside the new one, where nothing else is said, seconds.
const OVERLAP_S: i64 = 86_400;
/// The longest it may, seconds.
const MAX_OVERLAP_S: i64 = 90 * 86_400;
/// The shortest text that is taken for a key.
const LEAST: usize = 8;
/// Characters of a `kid` (RFC 7638).
const KID: usize = 43;

/// Members that are told of a key and never given.
pub(crate) const TOLD: [&str; 3] = ["last_used_at", "previous_expires_at", "revoked"];

/// What is wrong with a key that is given, or with the moments it is good in.
pub(crate) fn mistakes(given: Option<&str>, members: &Map<String, Value>) -> Vec<Mistake> {
    let mut out = Vec::new();
    if let Some(text) = given {
        let others = text.starts_with("dw") && text.get(3..4) == Some("_") && !text.starts_with(SecretKind::ApiKey.prefix());
        if others {
            out.push(Mistake::new("api_key", "begins as this server's tokens do"));
        } else if text.len() < LEAST {
            out.push(Mistake::new("api_key", format!("must have at least {LEAST} characters")));
        } else if !plausible(text) {
            out.push(Mistake::new("api_key", "must be visible ASCII without a comma; what begins with dwk_ must be whole"));
        }
    }
    if members.get("revoked").and_then(Value::as_bool) == Some(true) {
        out.push(Mistake::new("revoked", "is told, not given: a key is revoked by POST /revocations, or disabled"));
    }
    if members.get("owner").and_then(Value::as_object).is_some_and(|owner| owner.len() != 1) {
        out.push(Mistake::new("owner", "must name one of client_id, subject, device"));
    }
    for name in ["not_before", "expires_at"] {
        if members.get(name).and_then(Value::as_str).is_some_and(|text| moment::parse(text).is_none()) {
            out.push(Mistake::new(name, "a date and time such as 2030-01-31T12:00:00Z (RFC 3339), or seconds since the epoch, is needed"));
        }
    }
    out
}

fn owner(document: &Value) -> Option<Owner> {
    serde_json::from_value::<ApiKey>(document.clone()).ok()?.owner
}

/// An event about a key tells whose it is.
fn told(event: NewEvent, document: &Value) -> NewEvent {
    match owner(document) {
        Some(Owner::ClientId(id)) => event.client(id),
        Some(Owner::Subject(id)) => event.subject(id),
        Some(Owner::Device(id)) => event.with("device", id),
        None => event,
    }
}

/// What follows from a key's replacement.
pub(crate) fn consequences(before: &Object, after: &Value, order: Order<'_>) -> Change {
    let disabled = |document: &Value| document.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    let change = order.api_key(&before.id);
    match (disabled(&before.document), disabled(after)) {
        (false, true) => change.event(told(about(order, EventKind::ApiKeyDisabled, KIND, &before.id), after)),
        (true, false) => change.event(told(about(order, EventKind::ApiKeyEnabled, KIND, &before.id), after)),
        _ => change,
    }
}

/// The versions of a key that its object names.
#[derive(Debug, Default)]
struct Kept {
    current: Option<Version>,
    previous: Option<Version>,
}

impl Kept {
    fn all(&self) -> impl Iterator<Item = &Version> {
        self.current.iter().chain(&self.previous)
    }

    /// Removes the rows of all, and the name of the one before.
    fn end(&self, id: &str) -> Vec<Step> {
        let rows = self.all().map(|version| Step::Remove { kind: ArtefactKind::ApiKey, id: version.id.clone() });
        rows.chain([secrets::remove(KIND, id, PREVIOUS)]).collect()
    }
}

fn begin(id: &str, owner: Option<&Owner>, version: &Version) -> [Step; 2] {
    [Step::Put(version.row(id, owner)), secrets::put(KIND, id, CURRENT, version.write())]
}

/// What becomes of the versions of a key when `draft` takes the place of `stored`.
pub(crate) async fn turn(objects: &Objects, draft: &Draft, stored: Option<&Object>, at_ms: i64) -> Result<Turn, Failure> {
    let now = at_ms.div_euclid(1000);
    let (id, owner) = (draft.id.as_str(), owner(&draft.document));
    let kept = match stored {
        Some(object) => objects.kept(&object.id).await?,
        None => Kept::default(),
    };
    let plain = match (&draft.secret, stored) {
        (Some(given), _) => {
            let version = version_id(&objects.mac, given.expose());
            // One that was revoked stays so, however often it is given.
            if kept.current.as_ref().is_some_and(|current| current.id == version) {
                return objects.moved(&kept, id, stored, owner.as_ref(), now).await;
            }
            objects.unshared(id, &version).await?;
            given.clone()
        }
        (None, Some(_)) => return objects.moved(&kept, id, stored, owner.as_ref(), now).await,
        (None, None) => objects.new_api_key(at_ms),
    };
    let version = Version { id: version_id(&objects.mac, plain.expose()).to_vec(), expires_at: moment::LAST, created_at: now };
    let steps = kept.end(id).into_iter().chain(begin(id, owner.as_ref(), &version)).collect();
    Ok(Turn::Versions { steps, generated: draft.secret.is_none().then_some(plain), rotated: stored.is_some() })
}

impl Objects {
    fn new_api_key(&self, at_ms: i64) -> Plain {
        generate(SecretKind::ApiKey, at_ms, &*self.entropy, &self.mac).plain
    }

    async fn kept(&self, id: &str) -> Result<Kept, StoreError> {
        let read = async |slot| Ok::<_, StoreError>(self.store.secret(KIND, id, slot).await?.and_then(|stored| Version::read(&stored)));
        Ok(Kept { current: read(CURRENT).await?, previous: read(PREVIOUS).await? })
    }

    /// Whether a version has not ended: its row is there.
    async fn lives(&self, version: &Version, now: i64) -> Result<bool, StoreError> {
        Ok(version.expires_at > now && self.store.artefact(ArtefactKind::ApiKey, &version.id).await?.is_some())
    }

    /// The live versions under another owner, if it is another.
    async fn moved(&self, kept: &Kept, id: &str, stored: Option<&Object>, to: Option<&Owner>, now: i64) -> Result<Turn, Failure> {
        if stored.and_then(|object| owner(&object.document)).as_ref() == to {
            return Ok(Turn::Keep);
        }
        let mut steps = Vec::new();
        for version in kept.all() {
            if self.lives(version, now).await? {
                let there = Step::Extend { kind: ArtefactKind::ApiKey, id: version.id.clone(), now, expires_at: version.expires_at };
                steps.extend([there, Step::Save(version.row(id, to))]);
            }
        }
        Ok(Turn::Versions { steps, generated: None, rotated: false })
    }

    /// Refuses a text that is another key's.
    async fn unshared(&self, id: &str, version: &[u8]) -> Result<(), Failure> {
        let row = self.store.artefact(ArtefactKind::ApiKey, version).await?;
        match row.as_ref().and_then(key_of) {
            Some(other) if other != id => Err(Failure::Invalid(vec![Mistake::new("api_key", "is another API key's already")])),
            _ => Ok(()),
        }
    }

    /// Finds the owner a drafted key names, a person also by username, among what is stored and what is stored `beside` it.
    ///
    /// # Errors
    /// Storage is away.
    pub(crate) async fn settle(&self, draft: &mut Draft, new: bool, beside: &[&Draft]) -> Result<Vec<Mistake>, StoreError> {
        if draft.kind != KIND {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        if new && draft.id.len() == KID && self.store.keys().await?.iter().any(|row| row.kid == draft.id) {
            out.push(Mistake::new("id", "is the `kid` of a signing key"));
        }
        if draft.secret.is_some() && beside.iter().any(|other| other.kind == KIND && other.id != draft.id && other.secret == draft.secret) {
            out.push(Mistake::new("api_key", "is another API key's already"));
        }
        let Some(owner) = owner(&draft.document) else { return Ok(out) };
        let (kind, name) = owner.object();
        let near = beside.iter().find(|other| other.kind == kind && (other.id == name || other.key == name)).map(|other| other.id.clone());
        let found = match near {
            Some(id) => Some(id),
            None => self.find(kind, name).await?.map(|object| object.id),
        };
        match (found, &owner) {
            (None, _) => out.push(Mistake::new("owner", format!("there is no {} {name:?}", kind.as_str()))),
            (Some(id), Owner::Subject(_)) => {
                if let Some(members) = draft.document.as_object_mut() {
                    members.insert("owner".into(), json!(Owner::Subject(id)));
                }
            }
            (Some(_), _) => {}
        }
        Ok(out)
    }

    /// Gives a key another text, generated unless one is given. The one before counts for `overlap_s` more; the one before that ends.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn rotate_api_key(&self, name: &str, overlap_s: i64, given: Option<&Plain>, actor: &Actor) -> Result<Rotated, Failure> {
        for _ in 0..ATTEMPTS {
            let stored = self.find(KIND, name).await?.ok_or(Failure::Unknown)?;
            let (id, order) = (stored.id.as_str(), self.order(actor));
            let now = order.at_ms.div_euclid(1000);
            let owner = owner(&stored.document);
            let kept = self.kept(id).await?;
            let plain = given.cloned().unwrap_or_else(|| self.new_api_key(order.at_ms));
            let new = Version { id: version_id(&self.mac, plain.expose()).to_vec(), expires_at: moment::LAST, created_at: now };
            self.unshared(id, &new.id).await?;
            if kept.current.as_ref().is_some_and(|current| current.id == new.id) {
                return Err(Failure::Invalid(vec![Mistake::new("api_key", "is this key's already")]));
            }
            let mut change = self.touch(&stored, &stored.key, &stored.document, order);
            change.steps.extend(kept.end(id));
            let mut previous = None;
            if let Some(old) = kept.current
                && overlap_s > 0
                && self.lives(&old, now).await?
            {
                let old = Version { expires_at: now.saturating_add(overlap_s), ..old };
                // Only if it is there still: what ended it meanwhile has ended it. The guard goes before what removes it.
                let there = Step::Extend { kind: ArtefactKind::ApiKey, id: old.id.clone(), now, expires_at: old.expires_at };
                change.steps.insert(0, there);
                change.steps.extend([Step::Save(old.row(id, owner.as_ref())), secrets::put(KIND, id, PREVIOUS, old.write())]);
                previous = Some(old.expires_at);
            }
            change.steps.extend(begin(id, owner.as_ref(), &new));
            let event = told(about(order, EventKind::ApiKeyRotated, KIND, id), &stored.document);
            let event = event.with("overlap_s", if previous.is_some() { overlap_s } else { 0 });
            if self.store.apply(change.and(order.api_key(id)).event(event)).await?.applied() {
                let object = Object { version: stored.version + 1, updated_at: now, ..stored };
                return Ok(Rotated { object, plain, previous });
            }
        }
        Err(Failure::Stale)
    }

    /// What ends a key for good, with the guard that it is still the one that was read.
    pub(crate) async fn end_api_key(&self, stored: &Object, order: Order<'_>) -> Result<Change, StoreError> {
        let mut change = Change::new();
        change.steps = self.kept(&stored.id).await?.end(&stored.id);
        let event = told(about(order, EventKind::ApiKeyRevoked, KIND, &stored.id), &stored.document);
        Ok(change.and(order.api_key(&stored.id)).event(event))
    }

    /// Ends a key for good, if there is one of that id: what it was does not come back, another one may be rotated in.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) async fn revoke_api_key(&self, id: &str, order: Order<'_>) -> Result<Option<u64>, Failure> {
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.store.object(KIND, id).await? else { return Ok(None) };
            // A rotation meanwhile would bring a version that this does not know.
            let guard = self.touch(&stored, &stored.key, &stored.document, order);
            if let Outcome::Applied { seq } = self.store.apply(guard.and(self.end_api_key(&stored, order).await?)).await? {
                return Ok(Some(seq));
            }
        }
        Err(Failure::Stale)
    }

    /// A key's document with what is known beside it.
    ///
    /// # Errors
    /// Storage is away.
    pub(crate) async fn shown_api_key(&self, object: Object) -> Result<Object, StoreError> {
        if object.kind != KIND {
            return Ok(object);
        }
        let now = self.clock.now();
        let kept = self.kept(&object.id).await?;
        let used = self.store.secret(KIND, &object.id, LAST_USED).await?.and_then(|at| Some(i64::from_be_bytes(at.try_into().ok()?)));
        let mut lives = [false; 2];
        for (lives, version) in lives.iter_mut().zip([&kept.current, &kept.previous]) {
            if let Some(version) = version {
                *lives = self.lives(version, now).await?;
            }
        }
        let mut object = object;
        if let Some(members) = object.document.as_object_mut() {
            if let Some(at) = used {
                members.insert("last_used_at".into(), at.into());
            }
            if let (Some(previous), [_, true]) = (&kept.previous, lives) {
                members.insert("previous_expires_at".into(), previous.expires_at.into());
            }
            if lives == [false; 2] {
                members.insert("revoked".into(), true.into());
            }
        }
        Ok(object)
    }
}

/// A key that was given another text.
pub struct Rotated {
    /// Its object.
    pub object: Object,
    /// The new text; to be shown once.
    pub plain: Plain,
    /// Until when the one before counts, seconds since the epoch.
    pub previous: Option<i64>,
}

/// `POST /api-keys/{id}/rotate`
pub async fn rotate(state: &AdminState, call: &Call) -> Result<Answer, Problem> {
    let invalid = |at: &str, why: &str| Problem::invalid(vec![Mistake::new(at, why)]);
    let overlap_s = match call.text("overlap") {
        None => OVERLAP_S,
        Some("0s") => 0,
        Some(text) => duration::parse(text)
            .filter(|s| *s <= MAX_OVERLAP_S)
            .ok_or_else(|| invalid("overlap", "a duration such as \"24h\", at most 90d, or \"0s\" is needed"))?,
    };
    let wrong = mistakes(call.text("api_key"), &Map::new());
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong));
    }
    let given = call.text("api_key").map(Plain::new);
    let done = state.objects.rotate_api_key(&call.id, overlap_s, given.as_ref(), &call.actor).await?;
    let mut out = Map::new();
    out.insert("id".into(), done.object.id.as_str().into());
    if given.is_none() {
        out.insert("api_key".into(), done.plain.expose().into());
    }
    if let Some(at) = done.previous {
        out.insert("previous_expires_at".into(), at.into());
    }
    Ok(Answer::ok(Value::Object(out)).version(done.object.version))
}
