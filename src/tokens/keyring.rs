//! The life of signing keys: `next` (published) → `current` (signs) → `retired` (published) → gone; and the ring a server signs and verifies with.
use std::sync::Arc;

use crate::{
    Alg, b64, hash,
    jwk::{Jwk, KeySet},
    sign::SigningKey,
};

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Published so that verifiers learn it; does not sign yet.
    Next,
    /// Signs.
    Current,
    /// Does not sign any more; published until what it signed has expired.
    Retired,
    /// Everything it signed is dead; not published.
    Revoked,
}

/// A key and where it is in its life.
#[derive(Debug, Clone)]
pub struct Kept {
    pub state: State,
    pub key: SigningKey,
    /// Seconds since the epoch.
    pub changed_at: i64,
}

/// The keys of this server at one moment, ready for use: one signer an algorithm, the published set, its JSON and ETag.
#[derive(Debug, Clone)]
pub struct KeyRing {
    current: Vec<SigningKey>,
    published: KeySet,
    json: Arc<[u8]>,
    etag: Arc<str>,
}

impl KeyRing {
    /// A ring of those keys. Revoked ones are left out; of two current keys of one algorithm the later one signs.
    #[must_use]
    pub fn new(mut keys: Vec<Kept>) -> Self {
        keys.retain(|kept| kept.state != State::Revoked);
        keys.sort_by(|a, b| rank(a.state).cmp(&rank(b.state)).then(b.changed_at.cmp(&a.changed_at)).then(a.key.kid().cmp(b.key.kid())));
        let mut current: Vec<SigningKey> = Vec::new();
        for kept in keys.iter().filter(|kept| kept.state == State::Current) {
            if !current.iter().any(|key| key.alg() == kept.key.alg()) {
                current.push(kept.key.clone());
            }
        }
        let json = document(keys.iter().map(|kept| kept.key.jwk()));
        let etag = format!("\"{}\"", b64::encode(&hash::sha256(&json)));
        let published = KeySet::new(keys.iter().map(|kept| kept.key.verifying()).collect());
        Self { current, published, json: json.into(), etag: etag.into() }
    }

    /// The key that signs with that algorithm now.
    #[must_use]
    pub fn signing(&self, alg: Alg) -> Option<&SigningKey> {
        self.current.iter().find(|key| key.alg() == alg)
    }

    /// The algorithms it can sign with.
    pub fn algorithms(&self) -> impl Iterator<Item = Alg> {
        self.current.iter().map(SigningKey::alg)
    }

    /// Every key whose signatures count: current, next, retired.
    #[must_use]
    pub const fn keys(&self) -> &KeySet {
        &self.published
    }

    /// The JWKS document, ready to send.
    #[must_use]
    pub fn jwks_json(&self) -> Arc<[u8]> {
        Arc::clone(&self.json)
    }

    /// Its entity tag, quoted.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }
}

const fn rank(state: State) -> u8 {
    match state {
        State::Current => 0,
        State::Next => 1,
        State::Retired => 2,
        State::Revoked => 3,
    }
}

fn document<'a>(keys: impl Iterator<Item = &'a Jwk>) -> Vec<u8> {
    let keys: Vec<&Jwk> = keys.collect();
    serde_json::to_vec(&serde_json::json!({ "keys": keys })).unwrap_or_else(|_| b"{\"keys\":[]}".to_vec())
}

/// When keys change by themselves. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// How long a key signs.
    pub period: i64,
    /// How long a key must have been published before it may sign on schedule: longer than verifiers keep a JWKS.
    pub ahead: i64,
    /// How long a retired key stays published: at least the longest life of what it signed, and a margin.
    pub retention: i64,
}

impl Default for Rotation {
    /// Thirty days of signing, a day of notice, two days of afterlife (tokens live at most one).
    fn default() -> Self {
        Self { period: 30 * 86400, ahead: 86400, retention: 2 * 86400 }
    }
}

/// What a plan needs to know of a key.
#[derive(Debug, Clone, Copy)]
pub struct Life<'a> {
    pub kid: &'a str,
    pub alg: Alg,
    pub state: State,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// When it came into its state.
    pub changed_at: i64,
}

/// One thing to do with keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a key in that state.
    Create { alg: Alg, state: State },
    /// `next` becomes `current`.
    Promote { kid: String },
    /// `current` (or a `next` that was made twice) becomes `retired`.
    Retire { kid: String },
    /// Everything it signed dies.
    Revoke { kid: String },
    /// Its row goes.
    Remove { kid: String },
}

/// Why keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<'a> {
    /// Time passed.
    Schedule,
    /// An operator rotates every algorithm, or one.
    Command { only: Option<Alg> },
    /// A key leaked.
    Emergency { kid: &'a str },
}

/// What must be done so that every algorithm has one current and one next key, old keys step down, and gone ones go.
/// Empty when all is as it should be.
#[must_use]
pub fn plan(keys: &[Life<'_>], algs: &[Alg], now: i64, rotation: &Rotation, cause: Cause<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Cause::Emergency { kid } = cause
        && keys.iter().any(|key| key.kid == kid && key.state != State::Revoked)
    {
        actions.push(Action::Revoke { kid: kid.to_owned() });
    }
    let leaked = |key: &Life<'_>| cause == Cause::Emergency { kid: key.kid };
    let mut every: Vec<Alg> = algs.to_vec();
    every.extend(keys.iter().map(|key| key.alg).filter(|alg| !algs.contains(alg)));
    every.sort_unstable();
    every.dedup();
    for alg in every {
        let living: Vec<&Life<'_>> = keys.iter().filter(|key| key.alg == alg && !leaked(key)).collect();
        succeed(&living, alg, algs.contains(&alg), now, rotation, cause, &mut actions);
    }
    let gone = |key: &&Life<'_>| {
        matches!(key.state, State::Retired | State::Revoked) && !leaked(key) && now >= key.changed_at.saturating_add(rotation.retention)
    };
    actions.extend(keys.iter().filter(gone).map(|key| Action::Remove { kid: key.kid.to_owned() }));
    actions
}

/// The succession within one algorithm.
fn succeed(keys: &[&Life<'_>], alg: Alg, wanted: bool, now: i64, rotation: &Rotation, cause: Cause<'_>, actions: &mut Vec<Action>) {
    let newest = |state| keys.iter().filter(|key| key.state == state).max_by_key(|key| (key.changed_at, key.kid));
    let (current, next) = (newest(State::Current), newest(State::Next));
    let due = match (current, cause) {
        (None, _) => wanted,
        (Some(_), Cause::Command { only }) => wanted && only.is_none_or(|only| only == alg),
        (Some(current), _) => {
            wanted
                && now >= current.changed_at.saturating_add(rotation.period)
                && next.is_some_and(|next| now >= next.created_at.saturating_add(rotation.ahead))
        }
    };
    if due {
        if let Some(current) = current {
            actions.push(Action::Retire { kid: current.kid.to_owned() });
        }
        match next {
            Some(next) => actions.push(Action::Promote { kid: next.kid.to_owned() }),
            None => actions.push(Action::Create { alg, state: State::Current }),
        }
    }
    // An algorithm that is not wanted any more: its keys go the way of all keys. Not at once, so that nodes of which some want it still
    // (they are restarted one after the other) do not make and retire keys in turn.
    let unwanted = |key: &Life<'_>| !wanted && now >= key.changed_at.saturating_add(rotation.ahead);
    let surplus = |key: &&&Life<'_>| match key.state {
        State::Current => Some(key.kid) != current.map(|c| c.kid) || unwanted(key),
        State::Next => Some(key.kid) != next.map(|n| n.kid) || unwanted(key),
        State::Retired | State::Revoked => false,
    };
    actions.extend(keys.iter().filter(surplus).map(|key| Action::Retire { kid: key.kid.to_owned() }));
    if wanted && (due || next.is_none()) {
        actions.push(Action::Create { alg, state: State::Next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86400;
    const NOW: i64 = 1_800_000_000;

    fn life(kid: &str, state: State, age: i64) -> Life<'_> {
        Life { kid, alg: Alg::ES256, state, created_at: NOW - age, changed_at: NOW - age }
    }

    fn planned(keys: &[Life<'_>], cause: Cause<'_>) -> Vec<Action> {
        plan(keys, &[Alg::ES256], NOW, &Rotation::default(), cause)
    }

    fn create(state: State) -> Action {
        Action::Create { alg: Alg::ES256, state }
    }

    #[test]
    fn an_empty_ring_gets_a_current_and_a_next_key_and_then_rests() {
        assert_eq!(planned(&[], Cause::Schedule), [create(State::Current), create(State::Next)]);
        assert_eq!(planned(&[life("c", State::Current, DAY), life("n", State::Next, DAY)], Cause::Schedule), []);
    }

    #[test]
    fn on_schedule_a_key_signs_only_after_it_was_long_enough_published() {
        let old = life("c", State::Current, 31 * DAY);
        assert_eq!(planned(&[old, life("n", State::Next, DAY - 1)], Cause::Schedule), []);
        assert_eq!(
            planned(&[old, life("n", State::Next, DAY)], Cause::Schedule),
            [Action::Retire { kid: "c".into() }, Action::Promote { kid: "n".into() }, create(State::Next)]
        );
        assert_eq!(planned(&[old], Cause::Schedule), [create(State::Next)]);
    }

    #[test]
    fn on_command_next_takes_over_at_once_and_current_stays_published() {
        assert_eq!(
            planned(&[life("c", State::Current, 1), life("n", State::Next, 1)], Cause::Command { only: None }),
            [Action::Retire { kid: "c".into() }, Action::Promote { kid: "n".into() }, create(State::Next)]
        );
    }

    #[test]
    fn a_key_that_two_nodes_made_at_once_steps_down() {
        let keys = [life("c", State::Current, 9), life("n", State::Next, 1), life("m", State::Next, 2)];
        assert_eq!(planned(&keys, Cause::Schedule), [Action::Retire { kid: "m".into() }]);
    }

    #[test]
    fn keys_of_an_algorithm_that_is_not_wanted_any_more_retire_and_go() {
        let keys = |state, age| [life("c", state, age), life("n", State::Next, age)].map(|key| Life { alg: Alg::MlDsa65, ..key });
        let wanted = [life("c2", State::Current, 1), life("n2", State::Next, 1)];
        let planned = |keys: [Life<'_>; 2], cause| planned(&[keys[0], keys[1], wanted[0], wanted[1]], cause);
        assert_eq!(planned(keys(State::Current, DAY - 1), Cause::Schedule), []);
        let retired = ["c", "n"].map(|kid| Action::Retire { kid: kid.into() });
        assert_eq!(planned(keys(State::Current, DAY), Cause::Schedule), retired);
        let old = [life("c", State::Retired, 2 * DAY), life("n", State::Retired, 2 * DAY)].map(|key| Life { alg: Alg::MlDsa65, ..key });
        assert_eq!(planned(old, Cause::Schedule), ["c", "n"].map(|kid| Action::Remove { kid: kid.into() }));
    }

    #[test]
    fn a_leaked_current_key_is_replaced_in_the_same_breath() {
        let keys = [life("c", State::Current, 1), life("n", State::Next, 1)];
        assert_eq!(
            planned(&keys, Cause::Emergency { kid: "c" }),
            [Action::Revoke { kid: "c".into() }, Action::Promote { kid: "n".into() }, create(State::Next)]
        );
        assert_eq!(planned(&keys, Cause::Emergency { kid: "n" }), [Action::Revoke { kid: "n".into() }, create(State::Next)]);
        assert_eq!(planned(&keys, Cause::Emergency { kid: "unknown" }), []);
    }

    #[test]
    fn retired_and_revoked_keys_go_when_nothing_they_signed_can_be_alive() {
        let steady = [life("c", State::Current, 1), life("n", State::Next, 1)];
        let with = |state, age| planned(&[steady[0], steady[1], life("o", state, age)], Cause::Schedule);
        assert_eq!(with(State::Retired, 2 * DAY - 1), []);
        assert_eq!(with(State::Retired, 2 * DAY), [Action::Remove { kid: "o".into() }]);
        assert_eq!(with(State::Revoked, 2 * DAY), [Action::Remove { kid: "o".into() }]);
    }

    #[test]
    fn the_published_set_has_next_current_and_retired_keys_and_no_revoked_one() {
        let kept = |state| Kept { state, key: SigningKey::generate(Alg::ES256).expect("generates").0, changed_at: NOW };
        let keys = [State::Next, State::Current, State::Retired, State::Revoked].map(kept);
        let ring = KeyRing::new(keys.to_vec());
        assert_eq!(ring.signing(Alg::ES256).map(SigningKey::kid), Some(keys[1].key.kid()));
        assert!(ring.signing(Alg::RS256).is_none());
        let published = KeySet::from_json(&ring.jwks_json()).expect("a set");
        assert_eq!(published.len(), 3);
        assert!(ring.keys().find(Some(keys[3].key.kid()), Alg::ES256).is_none());
        assert_ne!(ring.etag(), KeyRing::new(keys[..2].to_vec()).etag());
    }
}
