//! Proofs count once (RFC 9449 §11.1): what was used here is known at once, what was used anywhere or before a restart is known to the
//! database, where each proof is a row of its own until it could not be accepted any more.
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use edge::Refusal;
use ledger::{Artefact, ArtefactKind, Change, Outcome, Step, Store, revocation::SPENT_KEPT_S};
use moka::{policy::EvictionPolicy, sync::Cache};
use tokens::dpop::{MAX_AGE, MAX_AHEAD, Proof};

/// Most proofs remembered here; the database remembers them all.
const REMEMBERED: u64 = 100_000;

/// The proofs that were used.
pub(crate) struct Replays {
    here: LazyLock<Cache<[u8; 32], (), ahash::RandomState>>,
    everywhere: Option<Arc<dyn Store>>,
}

impl Replays {
    /// Remembers in this process, and in the database if there is one.
    pub(crate) fn new(everywhere: Option<Arc<dyn Store>>) -> Self {
        let here = || {
            let here = Cache::builder()
                .max_capacity(REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(Duration::from_secs(u64::try_from(MAX_AGE + MAX_AHEAD).unwrap_or(90) + 2));
            here.build_with_hasher(ahash::RandomState::new())
        };
        Self { here: LazyLock::new(here), everywhere }
    }

    /// Spends a proof.
    pub(crate) async fn spend(&self, proof: &Proof, now: i64, head: u64) -> Result<(), Refusal> {
        let id = proof.once();
        let refused = |why| {
            metrics::counter!("dpop_refused_total", "at" => "gateway", "reason" => why).increment(1);
            Refusal::Unproved(why)
        };
        if !self.here.entry(id).or_insert(()).is_fresh() {
            return Err(refused("replayed"));
        }
        let Some(store) = &self.everywhere else { return Ok(()) };
        match store.apply(Change::new().step(once(id, proof, now, head))).await {
            Ok(Outcome::Applied { .. }) => Ok(()),
            Ok(Outcome::Refused(_)) => Err(refused("replayed")),
            Err(error) => {
                // Not spent: the same proof may come again when storage is back, and if it was written after all the row refuses it.
                self.here.invalidate(&id);
                tracing::warn!(target: "gateway", %error, "a proof could not be spent");
                Err(Refusal::Undecided("replay"))
            }
        }
    }
}

fn once(id: [u8; 32], proof: &Proof, now: i64, head: u64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: id.to_vec(),
        mac: Vec::new(),
        grant: None,
        document: "{}".into(),
        created_at: now,
        expires_at: proof.until().max(now.saturating_add(1)).saturating_add(SPENT_KEPT_S),
        consumed_at: None,
        successor: None,
        seq: head,
    })
}
