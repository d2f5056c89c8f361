//! Sixth phase, where a route has a canary: which upstream a request goes to, and when the canary is given up. Counted by this process.
use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use edge::{
    canary::{Split, Tally},
    identity::Identity,
    table::Entry,
};
use http::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::Gateway;

/// The canaries' counts by route, each with the text it was counted under.
#[derive(Debug, Default)]
pub(crate) struct Canaries(Mutex<AHashMap<Arc<str>, Counted>>);

/// Under which text, and what.
type Counted = (Arc<str>, Tally);

/// How a canary does, for administrators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The route's id.
    pub route: String,
    /// How many of a hundred callers go there.
    pub weight: u32,
    /// Over how long the next two are counted, seconds.
    pub window_s: i64,
    /// Answers of the canary.
    pub answers: u64,
    /// Errors among them.
    pub errors: u64,
    /// When it was given up, seconds since the epoch; null while it is not.
    pub rolled_back_at: Option<i64>,
}

/// Where a request of a route with a canary goes.
pub(crate) struct Side<'t> {
    split: &'t Split,
    canary: bool,
}

impl<'t> Side<'t> {
    /// The route as that side serves it.
    pub(crate) const fn entry(&self, stable: &'t Entry) -> &'t Entry {
        if self.canary { &self.split.entry } else { stable }
    }
}

impl Canaries {
    fn with<T>(&self, split: &Split, ask: impl FnOnce(&mut Tally) -> T) -> T {
        let mut all = self.0.lock();
        let (text, tally) = all.entry(Arc::clone(&split.entry.id)).or_insert_with(|| (Arc::clone(&split.text), Tally::default()));
        if *text != split.text {
            (*text, *tally) = (Arc::clone(&split.text), Tally::default());
        }
        ask(tally)
    }
}

impl Gateway {
    /// The side of a request.
    pub(crate) fn side<'t>(&self, split: &'t Split, who: Option<&Identity>, source: IpAddr, headers: &HeaderMap) -> Side<'t> {
        let canary = split.takes(who, source, headers) && self.canaries.with(split, |tally| tally.rolled_back_at.is_none());
        Side { split, canary }
    }

    /// That side answered with this status.
    pub(crate) fn answered(&self, side: &Side<'_>, status: u16) {
        let (split, error) = (side.split, status >= 500);
        let names = (if side.canary { "canary" } else { "stable" }, if error { "error" } else { "ok" });
        let route = split.entry.id.to_string();
        metrics::counter!("gateway_canary_answers_total", "route" => route, "side" => names.0, "outcome" => names.1).increment(1);
        if !side.canary {
            return;
        }
        let now_ms = self.parts.clock.now_ms();
        if self.canaries.with(split, |tally| tally.answered(split.guardrail.as_ref(), error, now_ms)) {
            let route = &*split.entry.id;
            tracing::warn!(target: "gateway", route, upstream = &*split.entry.upstream.id, "too many errors: nobody goes to the canary any more");
            metrics::counter!("gateway_canary_rollbacks_total", "route" => route.to_owned()).increment(1);
        }
    }

    /// How the canaries of the routes in force do.
    #[must_use]
    pub fn canaries(&self) -> Vec<Standing> {
        let (table, now_ms) = (self.parts.table.load(), self.parts.clock.now_ms());
        let splits: Vec<&Split> = table.entries().iter().filter_map(|entry| entry.canary.as_deref()).collect();
        self.canaries.0.lock().retain(|route, _| splits.iter().any(|split| split.entry.id == *route));
        let standing = |split: &&Split| {
            let window_s = split.guardrail.as_ref().map_or(60, edge::canary::Guardrail::window_s);
            let (recent, rolled_back_at) = self.canaries.with(split, |tally| (tally.recent(window_s, now_ms), tally.rolled_back_at));
            let (answers, errors) = recent;
            Standing { route: split.entry.id.to_string(), weight: split.weight, window_s, answers, errors, rolled_back_at }
        };
        splits.iter().map(standing).collect()
    }
}
