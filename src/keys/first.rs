//! First start: what a database holds of keys, and writing the first ones so that of several nodes one wins.
use std::sync::Arc;

use ledger::{Change, KeyRow, Outcome, Step, Store, StoreError};
use tokens::{
    Clock, Entropy,
    keyring::{self, Action, Cause},
    seal::Kek,
    secret::MacKey,
};
use zeroize::Zeroizing;

use super::{KeysError, Plan, row};

const CHECK: &str = "kek_check";
const CHECK_TEXT: &[u8] = b"doorward key-encryption key";
const MAC: &str = "mac_key";
const INITIALISED: &str = "keys_initialised";

/// What a database holds of keys.
pub(super) struct Found {
    pub(super) rows: Vec<KeyRow>,
    check: Option<Vec<u8>>,
    mac: Option<Vec<u8>>,
    initialised: bool,
}

impl Found {
    /// Reads what is there. Another node may write its first keys (in one transaction) between two of the reads: then read again.
    pub(super) async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let found = Self::glance(store).await?;
        if found.virgin() || found.whole() { Ok(found) } else { Self::glance(store).await }
    }

    async fn glance(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self {
            initialised: store.meta(INITIALISED).await?.is_some(),
            check: store.meta(CHECK).await?,
            mac: store.meta(MAC).await?,
            rows: store.keys().await?,
        })
    }

    /// Nothing was ever set up here.
    pub(super) fn virgin(&self) -> bool {
        !self.initialised && self.check.is_none() && self.mac.is_none() && self.rows.is_empty()
    }

    /// Everything that a set-up database has is here.
    fn whole(&self) -> bool {
        self.initialised && self.check.is_some() && self.mac.is_some() && !self.rows.is_empty()
    }

    /// Proves the key-encryption key and opens the MAC key.
    pub(super) fn open(&self, kek: &Kek) -> Result<MacKey, KeysError> {
        let check = self.check.as_ref().ok_or(KeysError::Incomplete("the check value is missing"))?;
        match kek.open(&place(CHECK), check) {
            Ok(text) if text.as_slice() == CHECK_TEXT => {}
            _ => return Err(KeysError::WrongKek),
        }
        let mac = self.mac.as_ref().ok_or(KeysError::Incomplete("the MAC key is missing"))?;
        let mac = kek.open(&place(MAC), mac).map_err(|_| KeysError::WrongKek)?;
        let mac = <[u8; 32]>::try_from(mac.as_slice()).map_err(|_| KeysError::Incomplete("the MAC key has the wrong size"))?;
        if self.rows.is_empty() {
            return Err(KeysError::Incomplete("there is no signing key"));
        }
        Ok(MacKey::new(mac))
    }
}

fn place(name: &str) -> String {
    format!("meta:{name}")
}

/// Writes the first keys. Of several nodes one wins; the others find its keys.
pub(super) async fn initialise(
    store: &dyn Store,
    kek: &Kek,
    plan: &Plan,
    clock: &dyn Clock,
    entropy: &Arc<dyn Entropy>,
) -> Result<(), KeysError> {
    let now_ms = clock.now_ms();
    let mut mac = Zeroizing::new([0; 32]);
    entropy.fill(mac.as_mut_slice());
    let init = |name: &str, value| Step::InitMeta { name: name.to_owned(), value };
    let mut change = Change::new()
        .step(init(INITIALISED, b"1".to_vec()))
        .step(init(CHECK, kek.seal(&place(CHECK), CHECK_TEXT, &**entropy)))
        .step(init(MAC, kek.seal(&place(MAC), mac.as_slice(), &**entropy)));
    let actions = keyring::plan(&[], &plan.algorithms, clock.now(), &plan.rotation, Cause::Schedule);
    let states = actions.iter().filter_map(|action| match action {
        Action::Create { state, .. } => Some(*state),
        _ => None,
    });
    for (made, state) in row::generate(&actions).await?.iter().zip(states) {
        change = row::put(change, kek, made, state, now_ms, &**entropy, &|event| event.with("actor", "first start"))?;
    }
    match store.apply(change).await? {
        Outcome::Applied { .. } | Outcome::Refused(_) => Ok(()),
    }
}
