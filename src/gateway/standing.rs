//! How upstreams stand: the health, load and faults of their targets, known to all threads of the process. Health and load are read
//! without waiting; only a breaker is behind a lock, of its target alone.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use edge::{
    Refusal,
    balance::Balance,
    breaker::{Breaker, Circuit},
};
use parking_lot::Mutex;
use serde::Serialize;
use tokens::Entropy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::trust::Trusts;

/// What a repetition costs of what each request earns: one in five.
const COST: i64 = 5;
/// What may be saved up: so many repetitions at once.
const SAVED: i64 = 20 * COST;
/// An ejection is at most so many times the first one.
const LONGEST: u32 = 30;

/// Every upstream of the process that has anything to be watched.
pub(crate) struct Upstreams {
    epoch: Instant,
    known: Mutex<AHashMap<Arc<str>, Arc<Standing>>>,
    pub trusts: Trusts,
    entropy: Arc<dyn Entropy>,
}

/// One upstream.
pub(crate) struct Standing {
    balance: Arc<Balance>,
    pub targets: Vec<Arc<TargetState>>,
    requests: Option<Arc<Semaphore>>,
    connections: Option<Arc<Semaphore>>,
    /// Requests that wait for one of these.
    pending: AtomicU32,
    /// Of these, for a connection.
    starved: AtomicU32,
    /// What may be spent on repetitions.
    saved: AtomicI64,
}

/// One target.
#[derive(Default)]
pub(crate) struct TargetState {
    key: Arc<str>,
    in_flight: AtomicU32,
    faults: AtomicU32,
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// The active checks say so.
    checked_down: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// One target as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    pub upstream: String,
    pub target: String,
    /// Whether requests go to it.
    pub up: bool,
    /// Whether the active checks find it well.
    pub healthy: bool,
    /// Whether it is passed over because requests failed.
    pub ejected: bool,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    pub requests: u32,
}

impl Upstreams {
    pub(crate) fn new(trusts: Trusts, entropy: Arc<dyn Entropy>) -> Self {
        Self { epoch: Instant::now(), known: Mutex::default(), trusts, entropy }
    }

    /// Milliseconds of the clock that standings count by.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A number by chance.
    pub(crate) fn chance(&self) -> u64 {
        let mut octets = [0; 8];
        self.entropy.fill(&mut octets);
        u64::from_be_bytes(octets)
    }

    /// How this upstream stands. What is known of a target is kept when the table changes around it.
    pub(crate) fn of(&self, balance: &Arc<Balance>) -> Arc<Standing> {
        let mut known = self.known.lock();
        let before = known.get(&balance.id).cloned();
        if let Some(before) = &before
            && before.balance == *balance
        {
            return Arc::clone(before);
        }
        let standing = Arc::new(Standing::new(Arc::clone(balance), before.as_deref()));
        known.insert(Arc::clone(&balance.id), Arc::clone(&standing));
        standing
    }

    /// Forgets upstreams that are no longer there.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.known.lock().retain(|id, _| wanted(id));
    }

    /// Every target of every upstream that is watched.
    pub(crate) fn report(&self) -> Vec<TargetReport> {
        let now = self.now();
        let mut all: Vec<TargetReport> = self.known.lock().values().flat_map(|standing| standing.report(now)).collect();
        all.sort_by(|a, b| (&a.upstream, &a.target).cmp(&(&b.upstream, &b.target)));
        all
    }
}

impl Standing {
    fn new(balance: Arc<Balance>, before: Option<&Self>) -> Self {
        let kept = |key: &Arc<str>| before.and_then(|b| b.targets.iter().find(|t| t.key == *key)).cloned();
        let fresh = |key: &Arc<str>| Arc::new(TargetState { key: Arc::clone(key), ..TargetState::default() });
        let targets = balance.targets.iter().map(|t| kept(&t.key).unwrap_or_else(|| fresh(&t.key))).collect();
        let room = |most: Option<u32>, old: Option<(Option<u32>, &Option<Arc<Semaphore>>)>| match (most, old) {
            (Some(most), Some((Some(same), Some(room)))) if most == same => Some(Arc::clone(room)),
            (Some(most), _) => Some(Arc::new(Semaphore::new(most as usize))),
            (None, _) => None,
        };
        let (own, old) = (balance.bulkhead, before.map(|b| b.balance.bulkhead));
        Self {
            targets,
            requests: room(own.max_requests, before.map(|b| (old.and_then(|o| o.max_requests), &b.requests))),
            connections: room(own.max_connections, before.map(|b| (old.and_then(|o| o.max_connections), &b.connections))),
            pending: AtomicU32::new(0),
            starved: AtomicU32::new(0),
            saved: AtomicI64::new(SAVED / 2),
            balance,
        }
    }

    /// Room for a request (`None`: there is always some).
    pub(crate) async fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        match &self.requests {
            None => Ok(None),
            Some(room) => self.room(room, None).await.map(Some),
        }
    }

    /// Whether its connections are counted.
    pub(crate) const fn counts_connections(&self) -> bool {
        self.connections.is_some()
    }

    /// Room for a connection (`None`: there is always some).
    pub(crate) async fn connect(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        match &self.connections {
            None => Ok(None),
            Some(room) => self.room(room, Some(&self.starved)).await.map(Some),
        }
    }

    async fn room(&self, room: &Arc<Semaphore>, starved: Option<&AtomicU32>) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Counted::new(&self.pending);
        if waiting.before >= self.balance.bulkhead.max_pending {
            return Err(Refusal::Full("upstream_full"));
        }
        let _starved = starved.map(Counted::new);
        let within = Duration::from_millis(self.balance.connect_timeout_ms);
        match tokio::time::timeout(within, Arc::clone(room).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::Full("upstream_full")),
        }
    }

    /// Whether somebody waits for a connection, so that none should be kept idle.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed) > 0
    }

    /// Whether requests may go to a target, its breaker apart.
    pub(crate) fn is_up(&self, at: usize, now: u64) -> bool {
        self.targets.get(at).is_some_and(|t| self.is_healthy(t) && t.ejected_until.load(Ordering::Relaxed) <= now)
    }

    /// What the active checks say, where there are any: what they said before they were taken away does not count.
    fn is_healthy(&self, target: &TargetState) -> bool {
        self.balance.health.is_none() || !target.checked_down.load(Ordering::Relaxed)
    }

    /// Whether a target's breaker would let a request through.
    pub(crate) fn is_closed(&self, at: usize, now: u64) -> bool {
        self.balance.breaker.is_none() || self.targets.get(at).is_some_and(|t| t.breaker.lock().lets(now))
    }

    /// Takes a target for a request; false if its breaker does not let it through.
    pub(crate) fn take(&self, at: usize, now: u64) -> bool {
        match (&self.balance.breaker, self.targets.get(at)) {
            (Some(rule), Some(target)) => target.breaker.lock().take(rule, now),
            _ => true,
        }
    }

    /// How many requests a target has.
    pub(crate) fn load(&self, at: usize) -> u32 {
        self.targets.get(at).map_or(0, |t| t.in_flight.load(Ordering::Relaxed))
    }

    /// Hears what became of a request at a target.
    pub(crate) fn hear(&self, at: usize, now: u64, good: bool) {
        let Some(target) = self.targets.get(at) else { return };
        if let Some(rule) = &self.balance.breaker
            && target.breaker.lock().hear(rule, now, good)
        {
            self.event("upstream_breaker_opened_total", target, "circuit breaker opened");
        }
        let rule = self.balance.ejecting;
        if good {
            if target.faults.load(Ordering::Relaxed) != 0 {
                target.faults.store(0, Ordering::Relaxed);
            }
            let times = target.ejections.load(Ordering::Relaxed);
            let calm = rule.time_ms.saturating_mul(u64::from(times));
            if times > 0 && now > target.ejected_until.load(Ordering::Relaxed).saturating_add(calm) {
                target.ejections.store(0, Ordering::Relaxed);
            }
            return;
        }
        metrics::counter!("upstream_faults_total", "upstream" => self.balance.id.to_string(), "target" => self.shown(at)).increment(1);
        if target.faults.fetch_add(1, Ordering::Relaxed) + 1 < rule.failures || !self.is_up(at, now) {
            return;
        }
        let out = (0..self.targets.len()).filter(|n| *n == at || !self.is_up(*n, now)).count();
        if out * 100 > rule.max_percent as usize * self.targets.len() {
            return;
        }
        let times = (target.ejections.fetch_add(1, Ordering::Relaxed) + 1).min(LONGEST);
        target.faults.store(0, Ordering::Relaxed);
        target.ejected_until.store(now.saturating_add(rule.time_ms.saturating_mul(u64::from(times))), Ordering::Relaxed);
        self.event("upstream_ejections_total", target, "target passed over for a while");
    }

    /// Hears from the active checks.
    pub(crate) fn checked(&self, at: usize, up: bool) {
        let Some(target) = self.targets.get(at) else { return };
        if target.checked_down.swap(!up, Ordering::Relaxed) == up {
            tracing::warn!(target: "gateway", upstream = %self.balance.id, at = %target.key, up, "health of a target changed");
        }
    }

    /// A request earns a part of a repetition.
    pub(crate) fn earn(&self) {
        if self.saved.load(Ordering::Relaxed) < SAVED {
            self.saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there is enough left for a repetition, which is spent.
    pub(crate) fn spend(&self) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| (saved >= COST).then_some(saved - COST)).is_ok()
    }

    fn shown(&self, at: usize) -> String {
        self.balance
            .targets
            .get(at)
            .map(|t| format!("{}://{}", if t.tls { "https" } else { "http" }, String::from_utf8_lossy(t.authority.as_bytes())))
            .unwrap_or_default()
    }

    fn event(&self, metric: &'static str, target: &TargetState, what: &'static str) {
        let at = self.targets.iter().position(|t| t.key == target.key).unwrap_or(usize::MAX);
        metrics::counter!(metric, "upstream" => self.balance.id.to_string(), "target" => self.shown(at)).increment(1);
        tracing::warn!(target: "gateway", upstream = %self.balance.id, at = %target.key, "{what}");
    }

    fn report(&self, now: u64) -> impl Iterator<Item = TargetReport> {
        self.targets
            .iter()
            .enumerate()
            .map(move |(at, target)| {
                let circuit = if self.balance.breaker.is_some() { target.breaker.lock().circuit(now) } else { Circuit::Closed };
                let ejected = target.ejected_until.load(Ordering::Relaxed) > now;
                let healthy = self.is_healthy(target);
                TargetReport {
                    upstream: self.balance.id.to_string(),
                    target: self.shown(at),
                    up: healthy && !ejected && circuit != Circuit::Open,
                    healthy,
                    ejected,
                    breaker: match circuit {
                        Circuit::Closed => "closed",
                        Circuit::Open => "open",
                        Circuit::HalfOpen => "half_open",
                    },
                    requests: target.in_flight.load(Ordering::Relaxed),
                }
            })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Counted while it lives.
struct Counted<'a> {
    count: &'a AtomicU32,
    before: u32,
}

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request at a target, until the last octet of its answer.
pub(crate) struct Flight {
    standing: Arc<Standing>,
    at: usize,
}

impl Flight {
    pub(crate) fn new(standing: &Arc<Standing>, at: usize) -> Self {
        if let Some(target) = standing.targets.get(at) {
            target.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Self { standing: Arc::clone(standing), at }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(target) = self.standing.targets.get(self.at) {
            target.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn standing(extra: serde_json::Value) -> Standing {
        let mut upstream = json!({"id": "u", "targets": [{"url": "http://a"}, {"url": "http://b"}, {"url": "http://c"}]});
        upstream.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let route = json!({"id": "r", "match": {}, "upstream": "u", "public": true});
        let (route, upstream) = (serde_json::from_value(route).unwrap(), serde_json::from_value(upstream).unwrap());
        let table = edge::RouteTable::build(&[route], &[upstream], &[], "https://id.example.com").unwrap();
        Standing::new(Arc::clone(&table.entries()[0].upstream), None)
    }

    #[test]
    fn faults_in_a_row_eject_for_longer_each_time_and_never_more_than_the_share() {
        let s = standing(json!({"ejection": {"failures": 2, "time": "10s", "max_percent": 50}}));
        s.hear(0, 0, false);
        s.hear(0, 0, true);
        s.hear(0, 0, false);
        assert!(s.is_up(0, 0), "not in a row");
        s.hear(0, 0, false);
        assert!(!s.is_up(0, 9_999) && s.is_up(0, 10_000));
        (0..4).for_each(|_| s.hear(1, 5, false));
        assert!(s.is_up(1, 5), "two of three are more than half");
        (0..2).for_each(|_| s.hear(0, 10_000, false));
        assert!(!s.is_up(0, 29_999) && s.is_up(0, 30_000), "twice as long");
        s.hear(0, 70_000, true);
        (0..2).for_each(|_| s.hear(0, 70_000, false));
        assert!(s.is_up(0, 80_000), "forgiven");
    }

    #[test]
    fn what_checks_said_counts_while_there_are_checks() {
        let checked = standing(json!({"health": {"path": "/x"}}));
        checked.checked(0, false);
        assert!(!checked.is_up(0, 0) && checked.is_up(1, 0));
        let of = |extra| Standing::new(Arc::clone(&standing(extra).balance), Some(&checked));
        assert!(!of(json!({"health": {"path": "/y"}})).is_up(0, 0), "known of the target, whatever changed around it");
        assert!(of(json!({})).is_up(0, 0));
    }

    #[test]
    fn repetitions_are_a_fifth_of_the_requests_once_what_was_saved_is_spent() {
        let s = standing(json!({}));
        while s.spend() {}
        let mut repeated = 0;
        for _ in 0..100 {
            s.earn();
            repeated += u32::from(s.spend());
        }
        assert_eq!(repeated, 20);
    }

    #[tokio::test]
    async fn beyond_its_bulkhead_a_request_waits_or_is_refused() {
        let s = standing(json!({"max_requests": 1, "max_pending": 1, "connect_timeout": "1s"}));
        let first = s.enter().await.unwrap();
        let (second, third) = tokio::join!(s.enter(), s.enter());
        assert_eq!((second.is_err(), third.err()), (true, Some(Refusal::Full("upstream_full"))));
        drop(first);
        assert!(s.enter().await.is_ok_and(|permit| permit.is_some()));
    }
}
