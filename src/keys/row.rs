//! Keys as rows: made, sealed, opened and proved, listed.
use std::collections::BTreeSet;

use ledger::{Change, EventKind, KeyRow, KeyState, NewEvent, Step};
use serde_json::{Value, json};
use tokens::{
    Alg, Entropy,
    keyring::{Action, Cause, Life, State},
    seal::Kek,
    sign::{KeyError, SigningKey},
    witness,
};
use zeroize::Zeroizing;

use super::KeysError;

/// The ids of the keys that sign, as far as a cause is about them.
pub(super) fn signing(rows: &[KeyRow], cause: Cause<'_>) -> BTreeSet<String> {
    let meant = |row: &&KeyRow| match cause {
        Cause::Command { only: Some(alg) } => row.alg == alg.as_str(),
        _ => true,
    };
    rows.iter().filter(|row| row.state == KeyState::Current).filter(meant).map(|row| row.kid.clone()).collect()
}

/// A key that was just made, and its private document.
pub(super) struct Made {
    pub(super) key: SigningKey,
    pkcs8: Zeroizing<Vec<u8>>,
}

/// Makes a key for every creation in a plan, side by side and off the event loop.
pub(super) async fn generate(actions: &[Action]) -> Result<Vec<Made>, KeysError> {
    let tasks: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { alg, .. } => Some(*alg),
            _ => None,
        })
        .map(|alg| {
            tokio::task::spawn_blocking(move || {
                let (key, pkcs8) = SigningKey::generate(alg)?;
                witness::prove(&key).map(|()| Made { key, pkcs8 })
            })
        })
        .collect();
    let mut made = Vec::with_capacity(tasks.len());
    for task in tasks {
        made.push(task.await.map_err(|_| KeyError::Generation)??);
    }
    Ok(made)
}

/// Adds a new key's row and events to a change.
pub(super) fn put(
    change: Change,
    kek: &Kek,
    made: &Made,
    state: State,
    now_ms: i64,
    entropy: &dyn Entropy,
    sign: &(dyn Fn(NewEvent) -> NewEvent + Sync),
) -> Result<Change, KeysError> {
    let (kid, alg) = (made.key.kid().to_owned(), made.key.alg().as_str());
    let now = now_ms.div_euclid(1000);
    let told = |kind| sign(NewEvent::new(kind, now_ms).with("kid", kid.as_str()).with("alg", alg));
    let (created, activated) = (told(EventKind::KeyCreated), told(EventKind::KeyActivated));
    let row = KeyRow {
        alg: alg.to_owned(),
        state: if state == State::Current { KeyState::Current } else { KeyState::Next },
        public_jwk: serde_json::to_string(made.key.jwk()).map_err(|_| KeyError::Claims)?,
        sealed: kek.seal(&aad(&kid), &made.pkcs8, entropy),
        created_at: now,
        changed_at: now,
        kid,
    };
    let change = change.step(Step::PutKey(row)).event(created);
    Ok(if state == State::Current { change.event(activated) } else { change })
}

fn aad(kid: &str) -> String {
    format!("key:{kid}")
}

/// Opens a row and proves that it holds the key it says.
pub(super) fn unseal(kek: &Kek, row: &KeyRow) -> Result<SigningKey, KeysError> {
    let unusable = || KeysError::Unusable { kid: row.kid.clone() };
    let alg = Alg::parse(&row.alg).ok_or_else(unusable)?;
    let pkcs8 = kek.open(&aad(&row.kid), &row.sealed).map_err(|_| unusable())?;
    let key = SigningKey::from_pkcs8(alg, &pkcs8).map_err(|_| unusable())?;
    if key.kid() != row.kid || witness::prove(&key).is_err() {
        return Err(unusable());
    }
    Ok(key)
}

pub(super) const fn state(state: KeyState) -> State {
    match state {
        KeyState::Next => State::Next,
        KeyState::Current => State::Current,
        KeyState::Retired => State::Retired,
        KeyState::Revoked => State::Revoked,
    }
}

pub(super) fn life(row: &KeyRow) -> Option<Life<'_>> {
    let alg = Alg::parse(&row.alg)?;
    Some(Life { kid: &row.kid, alg, state: state(row.state), created_at: row.created_at, changed_at: row.changed_at })
}

pub(super) fn listing(rows: &[KeyRow]) -> Value {
    let mut rows: Vec<&KeyRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.alg, -a.created_at, &a.kid).cmp(&(&b.alg, -b.created_at, &b.kid)));
    let item = |row: &&KeyRow| {
        let jwk = serde_json::from_str::<Value>(&row.public_jwk).unwrap_or_default();
        json!({
            "kid": row.kid, "alg": row.alg, "state": row.state.as_str(),
            "created_at": row.created_at, "changed_at": row.changed_at, "jwk": jwk,
        })
    };
    json!({ "items": rows.iter().map(item).collect::<Vec<_>>() })
}
