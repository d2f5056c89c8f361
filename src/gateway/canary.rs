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
    /// `None` for a canary that was replaced: requests that began under it say nothing of the one in force.
    fn with<T>(&self, split: &Split, in_force: impl FnOnce() -> bool, ask: impl FnOnce(&mut Tally) -> T) -> Option<T> {
        let mut all = self.0.lock();
        let (text, tally) = all.entry(Arc::clone(&split.entry.id)).or_insert_with(|| (Arc::clone(&split.text), Tally::default()));
        if *text != split.text {
            if !in_force() {
                return None;
            }
            (*text, *tally) = (Arc::clone(&split.text), Tally::default());
        }
        Some(ask(tally))
    }
}

impl Gateway {
    /// Whether a canary is of the routes in force, as it is.
    fn in_force(&self, split: &Split) -> bool {
        let table = self.parts.table.load();
        table.entries().iter().filter(|entry| entry.id == split.entry.id).any(|entry| {
            let now = entry.canary.as_deref();
            now.is_some_and(|now| now.text == split.text)
        })
    }

    /// The side of a request.
    pub(crate) fn side<'t>(&self, split: &'t Split, who: Option<&Identity>, source: IpAddr, headers: &HeaderMap) -> Side<'t> {
        let goes = || self.canaries.with(split, || self.in_force(split), |tally| tally.rolled_back_at.is_none());
        let canary = split.takes(who, source, headers) && goes() == Some(true);
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
        let answered = |tally: &mut Tally| tally.answered(split.guardrail.as_ref(), error, now_ms);
        if self.canaries.with(split, || self.in_force(split), answered) == Some(true) {
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
            let seen = self.canaries.with(split, || true, |tally| (tally.recent(window_s, now_ms), tally.rolled_back_at));
            let ((answers, errors), rolled_back_at) = seen.unwrap_or_default();
            Standing { route: split.entry.id.to_string(), weight: split.weight, window_s, answers, errors, rolled_back_at }
        };
        splits.iter().map(standing).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(weight: u32) -> Split {
        let upstream = |port: u16| json!({"targets": [{"url": format!("http://127.0.0.1:{port}")}]});
        let route =
            json!({"id": "r", "match": {}, "upstream": upstream(8), "public": true, "canary": {"upstream": upstream(9), "weight": weight}});
        let table = edge::RouteTable::build(&[serde_json::from_value(route).unwrap()], &[], &[], "https://id.example.com").unwrap();
        *table.entries()[0].canary.clone().unwrap()
    }

    #[test]
    fn a_canary_that_was_replaced_takes_nothing_back() {
        let (old, new) = (split(10), split(20));
        let canaries = Canaries::default();
        assert_eq!(canaries.with(&old, || true, |_| ()), Some(()));
        assert_eq!(canaries.with(&new, || true, |tally| tally.rolled_back_at = Some(7)), Some(()));
        assert_eq!(canaries.with(&old, || false, |_| ()), None, "a late answer");
        assert_eq!(canaries.with(&new, || false, |tally| tally.rolled_back_at), Some(Some(7)));
        assert_eq!(canaries.with(&old, || true, |tally| tally.rolled_back_at), Some(None), "put back on purpose");
    }
}
