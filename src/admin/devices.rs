//! Devices: the marks of their credentials belong to one each, and what changes about a device ends what its credentials were believed for.
use accounts::device::{Bound, Device, client_mark};
use ledger::{Change, EventKind, Mistake, NewEvent, Object, ObjectKind, Step, StoreError};
use serde_json::{Value, json};

use crate::{
    call::Call,
    objects::{Failure, Objects, Wanted, about},
    problem::Problem,
    rest::Answer,
    revocations::Order,
    state::{Actor, AdminState},
};

fn read(document: &Value) -> Device {
    serde_json::from_value(document.clone()).unwrap_or_default()
}

/// A row that says whose a mark is.
fn row(mark: &str, device: &str, order: Order<'_>) -> Step {
    let now = order.at_ms.div_euclid(1000);
    let document = json!(Bound { device: device.to_owned() });
    Step::CreateObject(Object {
        kind: ObjectKind::DeviceBinding,
        id: mark.to_owned(),
        key: mark.to_owned(),
        document,
        version: 1,
        created_at: now,
        updated_at: now,
    })
}

fn unrow(mark: &str) -> Step {
    Step::DeleteObject { kind: ObjectKind::DeviceBinding, id: mark.to_owned(), version: None }
}

/// What has to be stored beside a new device.
pub(crate) fn bind(document: &Value, order: Order<'_>) -> Change {
    let device = read(document);
    let change = device.marks().iter().fold(Change::new(), |change, mark| change.step(row(mark, &device.id, order)));
    // What its client was given before does not say that it is the device's.
    device.client_id.as_deref().map_or(change.clone(), |client| change.and(order.client(client)))
}

/// What follows from a device's replacement: marks move, and whatever its credentials told before ends.
pub(crate) fn rebind(before: &Value, after: &Value, order: Order<'_>) -> Change {
    let (before, after) = (read(before), read(after));
    let (had, has) = (before.marks(), after.marks());
    let gone = had.iter().filter(|mark| !has.contains(mark)).map(|mark| unrow(mark));
    let new = has.iter().filter(|mark| !had.contains(mark)).map(|mark| row(mark, &after.id, order));
    let mut change = gone.chain(new).fold(Change::new(), Change::step);
    if before.disabled != after.disabled {
        let kind = if after.disabled { EventKind::DeviceDisabled } else { EventKind::DeviceEnabled };
        change = change.event(about(order, kind, ObjectKind::Device, &after.id));
    }
    if before.ends_with(&after) {
        change = change.and(ended(&before, order));
    }
    match (&before.client_id, &after.client_id) {
        (before, Some(client)) if before.as_ref() != Some(client) => change.and(order.client(client)),
        _ => change,
    }
}

/// What goes with a device.
pub(crate) fn unbind(document: &Value, order: Order<'_>) -> Change {
    let device = read(document);
    device.marks().iter().fold(Change::new(), |change, mark| change.step(unrow(mark))).and(ended(&device, order))
}

/// Everything of a device: whatever names it, and what its client holds.
fn ended(device: &Device, order: Order<'_>) -> Change {
    let change = order.device(&device.id);
    device.client_id.as_deref().map_or(change.clone(), |client| change.and(order.client(client)))
}

/// An event about a device tells which clients it is or was: what is remembered of them is dropped by it.
pub(crate) fn naming_clients(event: NewEvent, documents: &[&Value]) -> NewEvent {
    let clients: Vec<Value> = documents.iter().filter_map(|d| d.get("client_id")).filter(|id| id.is_string()).cloned().collect();
    if clients.is_empty() { event } else { event.with("clients", clients) }
}

impl Objects {
    /// Refuses marks that are another device's.
    ///
    /// # Errors
    /// [`Failure::Conflict`] with the member and the other device; storage is away.
    pub(crate) async fn unmarked(&self, kind: ObjectKind, id: &str, document: &Value) -> Result<(), Failure> {
        if kind != ObjectKind::Device {
            return Ok(());
        }
        for mark in read(document).marks() {
            if let Some(other) = self.whose(&mark).await?.filter(|other| other != id) {
                let member = if mark.starts_with("client|") { "client_id" } else { "certificates" };
                return Err(Failure::Conflict(format!("{member}: device `{other}` is known by that already")));
            }
        }
        Ok(())
    }

    /// Refuses to delete a client that is a device: whoever is made under the same id later would be the device.
    ///
    /// # Errors
    /// [`Failure::Conflict`] with the device; storage is away.
    pub(crate) async fn no_device_is(&self, kind: ObjectKind, client_id: &str) -> Result<(), Failure> {
        if kind != ObjectKind::Client {
            return Ok(());
        }
        match self.whose(&client_mark(client_id)).await? {
            Some(device) => Err(Failure::Conflict(format!("device `{device}` is that client: take its client_id away first"))),
            None => Ok(()),
        }
    }

    /// The device a mark belongs to.
    async fn whose(&self, mark: &str) -> Result<Option<String>, StoreError> {
        let found = self.store.object(ObjectKind::DeviceBinding, mark).await?;
        Ok(found.and_then(|row| serde_json::from_value::<Bound>(row.document).ok()).map(|bound| bound.device))
    }

    /// Disables a device (everything of it ends) or enables it. Idempotent.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn set_device_disabled(&self, id: &str, disabled: bool, actor: &Actor) -> Result<(), Failure> {
        self.patch(ObjectKind::Device, id, &json!({ "disabled": disabled }), &Wanted::Any, actor).await.map(drop)
    }

    /// Everything of a device by its id, whether it is stored or not; and whether it is.
    ///
    /// # Errors
    /// Storage is away.
    pub async fn device_order(&self, id: &str, order: Order<'_>) -> Result<(Change, bool), StoreError> {
        let stored = self.store.object(ObjectKind::Device, id).await?;
        Ok(stored.map_or_else(|| (order.device(id), false), |object| (ended(&read(&object.document), order), true)))
    }

    /// Marks that two devices of one seed claim, each with the path of the second.
    #[must_use]
    pub fn twice_marked<'a>(devices: impl Iterator<Item = (&'a str, &'a Value)>) -> Vec<Mistake> {
        let mut seen = std::collections::HashSet::new();
        let mut out = Vec::new();
        for (path, document) in devices {
            let device = read(document);
            for mark in device.marks() {
                let member =
                    if device.client_id.as_deref().map(client_mark).as_ref() == Some(&mark) { "client_id" } else { "certificates" };
                if !seen.insert(mark) {
                    out.push(Mistake::new(format!("{path}.{member}"), "another device of this seed is known by that"));
                }
            }
        }
        out
    }
}

/// `POST /devices/{id}/disable` and `/enable`
pub async fn set_disabled(state: &AdminState, call: &Call, disabled: bool) -> Result<Answer, Problem> {
    state.objects.set_device_disabled(&call.id, disabled, &call.actor).await?;
    Ok(Answer::empty())
}

#[cfg(test)]
mod tests {
    use ledger::RevocationKind;

    use super::*;

    fn told(change: &Change) -> Vec<String> {
        let named = |step: &Step| match step {
            Step::CreateObject(object) => Some(format!("+{}", object.id)),
            Step::DeleteObject { id, .. } => Some(format!("-{id}")),
            Step::Revoke(revocation) if revocation.kind != RevocationKind::Key => {
                Some(format!("!{} {}", revocation.kind.as_str(), revocation.id))
            }
            _ => None,
        };
        change.steps.iter().filter_map(named).collect()
    }

    #[test]
    fn marks_move_and_what_was_told_before_ends() {
        let actor = Actor::command("test");
        let order = Order { at_ms: 5_000, actor: &actor, reason: None };
        let sensor = json!({"id": "s", "type": "sensor", "groups": ["a"], "client_id": "c"});
        let with = |name: &str, value: Value| {
            let mut other = sensor.clone();
            other[name] = value;
            other
        };
        assert_eq!(told(&bind(&sensor, order)), ["+client|c", "!client c"]);
        assert_eq!(told(&rebind(&sensor, &with("name", "x".into()), order)), Vec::<String>::new());
        assert_eq!(told(&rebind(&sensor, &with("groups", json!(["quarantine"])), order)), ["!device s", "!client c"]);
        assert_eq!(
            told(&rebind(&sensor, &with("client_id", "d".into()), order)),
            ["-client|c", "+client|d", "!device s", "!client c", "!client d"]
        );
        let disabled = with("disabled", true.into());
        let change = rebind(&sensor, &disabled, order);
        assert_eq!(told(&change), ["!device s", "!client c"]);
        assert_eq!(change.events[0].kind, EventKind::DeviceDisabled);
        assert_eq!(rebind(&disabled, &sensor, order).events.iter().map(|e| e.kind).collect::<Vec<_>>(), [EventKind::DeviceEnabled]);
        assert_eq!(told(&unbind(&sensor, order)), ["-client|c", "!device s", "!client c"]);
    }
}
