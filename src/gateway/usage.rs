//! Who uses what: requests, answers and times by route and consumer, since the start of the process.
//!
//! Each thread counts by the belief it holds anyway and hands its sums over a few times a second. A consumer is a client, a subject, an API
//! key or a certificate's name; never a credential. Whoever comes after [`MOST`] pairs are known is counted together as `(others)`.
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use ahash::AHashMap;
use edge::identity::{Identity, Issuer, Kind};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    record::{CLASSES, class, seconds},
    seen::Believed,
};

/// Pairs of route and consumer that are told apart.
const MOST: usize = 4096;
/// The name of everybody else.
const OTHERS: &str = "(others)";
/// The longest name kept, octets.
const LONGEST: usize = 256;

/// The sums of one pair.
#[derive(Debug, Clone)]
struct Tally {
    answers: [u64; 6],
    us: u64,
    latency: [u32; CLASSES],
}

impl Default for Tally {
    fn default() -> Self {
        Self { answers: [0; 6], us: 0, latency: [0; CLASSES] }
    }
}

impl Tally {
    fn add(&mut self, status: u16, elapsed: Duration) {
        if let Some(n) = self.answers.get_mut(usize::from(status / 100)) {
            *n += 1;
        }
        self.us = self.us.saturating_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        if let Some(n) = self.latency.get_mut(class(elapsed)) {
            *n = n.saturating_add(1);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.answers.iter_mut().zip(other.answers).for_each(|(to, n)| *to += n);
        self.us = self.us.saturating_add(other.us);
        self.latency.iter_mut().zip(other.latency).for_each(|(to, n)| *to = to.saturating_add(n));
    }

    fn requests(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// The time within which this share of the requests was answered, milliseconds.
    fn within(&self, share: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let wanted = self.latency.iter().map(|n| u64::from(*n)).sum::<u64>() as f64 * share;
        let mut passed = 0.0;
        for (class, n) in self.latency.iter().enumerate() {
            passed += f64::from(*n);
            if passed >= wanted && passed > 0.0 {
                return seconds(class) * 1000.0;
            }
        }
        0.0
    }
}

/// One thread's counts since it last handed them over.
#[derive(Default)]
pub(crate) struct Counts(RefCell<AHashMap<(usize, usize), Counted>>);

/// Whose requests, and their sums. The belief is held, so that its address is nobody else's meanwhile.
type Counted = (Option<Rc<Believed>>, Tally);

impl Counts {
    /// A request of a route (by its index) was answered.
    pub(crate) fn add(&self, route: usize, who: Option<&Rc<Believed>>, status: u16, elapsed: Duration) {
        let whose = who.map_or(0, |believed| Rc::as_ptr(believed).addr());
        let mut counts = self.0.borrow_mut();
        let (_, tally) = counts.entry((route, whose)).or_insert_with(|| (who.map(Rc::clone), Tally::default()));
        tally.add(status, elapsed);
    }

    /// Hands everything over; `route` names a route by its index.
    pub(crate) fn hand_over(&self, usage: &Usage, route: impl Fn(usize) -> Option<Arc<str>>, now: i64) {
        let counts = std::mem::take(&mut *self.0.borrow_mut());
        if counts.is_empty() {
            return;
        }
        let mut all = usage.0.lock();
        for ((at, _), (who, tally)) in counts {
            let Some(route) = route(at) else { continue };
            let (consumer, credential) = who.as_ref().map_or(("anonymous".into(), "none"), |who| name(&who.identity));
            let mut pair = (route, consumer);
            if all.len() >= MOST && !all.contains_key(&pair) {
                pair.1 = OTHERS.to_owned();
            }
            let sums = all.entry(pair).or_insert_with(|| Sums { credential, first_at: now, ..Sums::default() });
            sums.tally.merge(&tally);
            sums.last_at = now;
        }
    }
}

/// What a consumer is called, and by which kind of credential it came.
fn name(who: &Identity) -> (String, &'static str) {
    let claims = &who.claims;
    let mut name = match (who.kind, &who.device) {
        (_, Some(device)) => format!("device:{}", device.id),
        (Kind::ApiKey, _) => who.kid.clone().unwrap_or_else(|| format!("api_key:{}", claims.sub)),
        (Kind::Certificate, _) => format!("certificate:{}", claims.sub),
        _ => match (&who.issuer, &claims.client_id) {
            (Issuer::Own, Some(client)) => format!("client:{client}"),
            (Issuer::Own, None) => format!("subject:{}", claims.sub),
            (Issuer::Foreign(issuer) | Issuer::Authority(issuer), client) => {
                format!("{issuer}|{}", client.as_deref().unwrap_or(&claims.sub))
            }
        },
    };
    if name.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(end);
    }
    (name, who.kind.as_str())
}

#[derive(Debug, Clone, Default)]
struct Sums {
    credential: &'static str,
    tally: Tally,
    first_at: i64,
    last_at: i64,
}

/// The counts of all threads.
#[derive(Debug, Default)]
pub struct Usage(Mutex<AHashMap<(Arc<str>, String), Sums>>);

/// What one consumer asked of one route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consumption {
    /// The route's id.
    pub route: String,
    /// `client:…`, `subject:…`, `api_key:…`, `device:…`, `certificate:…`, `issuer|…`, `anonymous` or `(others)`.
    pub consumer: String,
    /// The kind of its credential when it was first seen.
    pub credential: &'static str,
    /// Requests answered.
    pub requests: u64,
    /// Answers by class, `2xx` to `5xx`.
    pub answers: std::collections::BTreeMap<String, u64>,
    /// Seconds until the answers' heads, all together.
    pub seconds: f64,
    /// Half of the answers came within this many milliseconds (to 25 %).
    pub p50_ms: f64,
    /// 99 of 100 answers came within this many milliseconds (to 25 %).
    pub p99_ms: f64,
    /// When it was first seen, seconds since the epoch.
    pub first_at: i64,
    /// When it was last seen, seconds since the epoch, to a second.
    pub last_at: i64,
}

impl Usage {
    /// Everything counted, the busiest first.
    #[must_use]
    pub fn all(&self) -> Vec<Consumption> {
        let all = self.0.lock();
        #[expect(clippy::cast_precision_loss, reason = "microseconds of some centuries")]
        let mut out: Vec<Consumption> = all
            .iter()
            .map(|((route, consumer), sums)| Consumption {
                route: route.to_string(),
                consumer: consumer.clone(),
                credential: sums.credential,
                requests: sums.tally.requests(),
                answers: (1..)
                    .zip(sums.tally.answers.iter().skip(1))
                    .filter(|(_, n)| **n > 0)
                    .map(|(c, n)| (format!("{c}xx"), *n))
                    .collect(),
                seconds: sums.tally.us as f64 / 1e6,
                p50_ms: sums.tally.within(0.5),
                p99_ms: sums.tally.within(0.99),
                first_at: sums.first_at,
                last_at: sums.last_at,
            })
            .collect();
        drop(all);
        out.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| (&a.route, &a.consumer).cmp(&(&b.route, &b.consumer))));
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::Introspection;

    fn believed(claims: serde_json::Value) -> Rc<Believed> {
        let Ok(Introspection::Active(claims)) = Introspection::from_value(claims) else { panic!("active") };
        let identity = Identity { issuer: Issuer::Own, kind: Kind::Opaque, claims: *claims, kid: None, device: None };
        Rc::new(Believed::new(identity, 0, 0, 0))
    }

    #[test]
    fn pairs_are_told_apart_until_there_are_too_many() {
        let (usage, counts) = (Usage::default(), Counts::default());
        let route = |_: usize| Some(Arc::from("r"));
        let a = believed(json!({"active": true, "exp": 9, "client_id": "a", "sub": "x"}));
        counts.add(0, Some(&a), 200, Duration::from_millis(2));
        counts.add(0, Some(&a), 503, Duration::from_millis(2));
        counts.add(0, None, 200, Duration::from_millis(2));
        counts.hand_over(&usage, route, 5);
        counts.add(0, Some(&a), 200, Duration::from_millis(2));
        counts.hand_over(&usage, route, 7);
        let all = usage.all();
        let busiest = &all[0];
        assert_eq!((busiest.consumer.as_str(), busiest.requests, busiest.first_at, busiest.last_at), ("client:a", 3, 5, 7));
        assert_eq!((busiest.answers["2xx"], busiest.answers["5xx"]), (2, 1));
        assert!(busiest.p50_ms > 1.0 && busiest.p99_ms < 4.0, "{busiest:?}");
        assert_eq!(all[1].consumer, "anonymous");

        for n in 0..MOST + 10 {
            let who = believed(json!({"active": true, "exp": 9, "client_id": format!("c{n}")}));
            counts.add(0, Some(&who), 200, Duration::ZERO);
            drop(who);
        }
        counts.hand_over(&usage, route, 9);
        let all = usage.all();
        assert_eq!(all.len(), MOST + 1);
        assert_eq!(all.iter().find(|row| row.consumer == OTHERS).unwrap().requests, 12);
        assert_eq!(all.iter().map(|row| row.requests).sum::<u64>() as usize, MOST + 10 + 4);
    }
}
