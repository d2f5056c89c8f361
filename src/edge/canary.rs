//! A weighted canary: which callers go to a route's other upstream, and when nobody does any more.
//!
//! A caller's side follows from its name alone, so that it is the same on every node and after a restart. The errors are counted by each
//! process for itself.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use ledger::Mistake;
use serde::{Deserialize, Serialize};

use crate::{identity::Identity, route::UpstreamRef, table::Entry};

/// A part of a route's requests for another upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    pub upstream: UpstreamRef,
    /// How many of a hundred callers go there.
    pub weight: u32,
    /// What a caller is known by: `source` (default), `subject`, `client` or `header:NAME`. Where a request lacks it, its source counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// Header names and exact values: a request that has them all goes there whatever the weight.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When nobody goes there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

/// When a canary is given up: until its definition changes or the process restarts, nobody goes there, forced or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// More errors (5xx, no answer) than this of a hundred answers.
    pub errors_over: u32,
    /// Over how long, e.g. `"60s"` (default), `10s` to `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// How many answers there must be at least; 20 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u32>,
}

fn window_s(text: Option<&String>) -> Option<i64> {
    text.map_or(Some(60), |text| tokens::duration::parse(text).filter(|s| (10..=3600).contains(s)))
}

impl Canary {
    /// What is wrong with it.
    pub fn mistakes(&self, has_auth: bool, out: &mut Vec<Mistake>) {
        match &self.upstream {
            UpstreamRef::Named(id) if id.is_empty() => {
                out.push(Mistake::new("canary.upstream", "an upstream's id, or {\"targets\": …}, is needed"));
            }
            UpstreamRef::Named(_) => {}
            UpstreamRef::Inline(up) => {
                out.extend(up.faults().into_iter().map(|m| Mistake::new(format!("canary.upstream.{}", m.at), m.why)));
            }
        }
        if self.weight > 100 {
            out.push(Mistake::new("canary.weight", "0 to 100 of a hundred callers"));
        }
        match self.sticky.as_deref() {
            None | Some("source") => {}
            Some("subject" | "client") if has_auth => {}
            Some("subject" | "client") => out.push(Mistake::new("canary.sticky", "a route without auth knows no subject or client")),
            Some(other) => {
                if other.strip_prefix("header:").is_none_or(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
                    out.push(Mistake::new("canary.sticky", "must be source, subject, client or header:NAME"));
                }
            }
        }
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                out.push(Mistake::new(format!("canary.headers.{name}"), "not a header field (RFC 9110 §5)"));
            }
        }
        if let Some(rollback) = &self.rollback {
            if rollback.errors_over >= 100 {
                out.push(Mistake::new("canary.rollback.errors_over", "0 to 99 of a hundred answers"));
            }
            if window_s(rollback.window.as_ref()).is_none() {
                out.push(Mistake::new("canary.rollback.window", "a duration of 10s to 1h such as \"60s\" is needed"));
            }
            if rollback.minimum == Some(0) {
                out.push(Mistake::new("canary.rollback.minimum", "must be at least 1"));
            }
        }
    }
}

/// What a caller is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sticky {
    Source,
    Subject,
    Client,
    Header(HeaderName),
}

/// When to give up, made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guardrail {
    errors_over: u64,
    window_s: i64,
    minimum: u64,
}

/// A canary made ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The route as the canary serves it.
    pub entry: Entry,
    pub weight: u32,
    sticky: Sticky,
    force: Vec<(HeaderName, HeaderValue)>,
    pub guardrail: Option<Guardrail>,
    /// What was written: another text, another count.
    pub text: Arc<str>,
}

impl Split {
    /// A canary of a route, whose entry has the canary's upstream already.
    #[must_use]
    pub fn new(given: &Canary, entry: Entry) -> Self {
        let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
        let sticky = match given.sticky.as_deref() {
            Some("subject") => Sticky::Subject,
            Some("client") => Sticky::Client,
            Some(other) => other.strip_prefix("header:").and_then(name).map_or(Sticky::Source, Sticky::Header),
            None => Sticky::Source,
        };
        Self {
            entry,
            weight: given.weight.min(100),
            sticky,
            force: given.headers.iter().filter_map(|(n, v)| Some((name(n)?, HeaderValue::from_str(v).ok()?))).collect(),
            guardrail: given.rollback.as_ref().and_then(|rollback| {
                Some(Guardrail {
                    errors_over: u64::from(rollback.errors_over),
                    window_s: window_s(rollback.window.as_ref())?,
                    minimum: u64::from(rollback.minimum.unwrap_or(20)),
                })
            }),
            text: serde_json::to_string(given).unwrap_or_default().into(),
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{} of a hundred callers go to the canary {}", self.weight, self.entry.upstream.id)
    }

    /// Whether a request goes to the canary.
    #[must_use]
    pub fn takes(&self, who: Option<&Identity>, source: IpAddr, headers: &HeaderMap) -> bool {
        if !self.force.is_empty() && self.force.iter().all(|(name, value)| headers.get(name) == Some(value)) {
            return true;
        }
        if self.weight == 0 || self.weight == 100 {
            return self.weight == 100;
        }
        let side = |parts: &[&[u8]]| spread(self.entry.id.as_bytes(), parts) % 10_000 < u64::from(self.weight) * 100;
        match (&self.sticky, who) {
            (Sticky::Subject, Some(who)) => side(&[b"subject", who.claims.iss.as_bytes(), who.claims.sub.as_bytes()]),
            (Sticky::Client, Some(who)) if who.claims.client_id.is_some() => {
                side(&[b"client", who.claims.client_id.as_deref().unwrap_or_default().as_bytes()])
            }
            (Sticky::Header(name), _) if headers.contains_key(name) => {
                side(&[b"header", headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default()])
            }
            _ => match source.to_canonical() {
                IpAddr::V4(v4) => side(&[b"source", &v4.octets()]),
                IpAddr::V6(v6) => side(&[b"source", &v6.octets()]),
            },
        }
    }
}

/// A hash that is the same everywhere (FNV-1a with MurmurHash3's end), keyed by the route. Nobody gains by choosing a side.
fn spread(key: &[u8], parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in std::iter::once(&key).chain(parts) {
        for octet in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

const BUCKETS: usize = 10;

/// The answers of a canary within the window, in ten parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    parts: [(i64, u64, u64); BUCKETS],
    /// When it was given up.
    pub rolled_back_at: Option<i64>,
}

impl Tally {
    /// Counts an answer; whether the canary is given up by it.
    pub fn answered(&mut self, guardrail: Option<&Guardrail>, error: bool, now_ms: i64) -> bool {
        let window_s = guardrail.map_or(60, |g| g.window_s);
        // A tenth of the window each.
        let part = now_ms.div_euclid((window_s * 100).max(1));
        let at = usize::try_from(part.rem_euclid(10)).unwrap_or_default();
        if let Some(slot) = self.parts.get_mut(at) {
            if slot.0 != part {
                *slot = (part, 0, 0);
            }
            slot.1 += 1;
            slot.2 += u64::from(error);
        }
        let Some(guardrail) = guardrail.filter(|_| self.rolled_back_at.is_none()) else { return false };
        let (answers, errors) = self.recent(window_s, now_ms);
        let over = answers >= guardrail.minimum && errors * 100 > guardrail.errors_over * answers;
        if over {
            self.rolled_back_at = Some(now_ms.div_euclid(1000));
        }
        over
    }

    /// Answers, and errors among them, within the window.
    #[must_use]
    pub fn recent(&self, window_s: i64, now_ms: i64) -> (u64, u64) {
        let part = now_ms.div_euclid((window_s * 100).max(1));
        let fresh = self.parts.iter().filter(|slot| (part - 9..=part).contains(&slot.0));
        fresh.fold((0, 0), |(answers, errors), slot| (answers + slot.1, errors + slot.2))
    }
}

impl Guardrail {
    /// Over how long it looks, seconds.
    #[must_use]
    pub const fn window_s(&self) -> i64 {
        self.window_s
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{RouteTable, identity::tests::identity};

    fn split(canary: &Value) -> Split {
        let route = json!({"id": "r", "upstream": {"targets": [{"url": "http://127.0.0.1:9"}]}, "auth": {"accept": ["jwt"], "audience": "a"}, "canary": canary});
        let table = RouteTable::build(&[serde_json::from_value(route).unwrap()], &[], &[], "https://id.example.com").unwrap();
        *table.entries()[0].canary.clone().unwrap()
    }

    fn upstream() -> Value {
        json!({"targets": [{"url": "http://127.0.0.1:8"}]})
    }

    #[test]
    fn a_callers_side_is_its_own_and_the_sides_are_of_the_weight() {
        let split = split(&json!({"upstream": upstream(), "weight": 20, "sticky": "subject"}));
        let takes =
            |n: usize, from: &str| split.takes(Some(&identity(json!({"sub": format!("u{n}")}))), from.parse().unwrap(), &HeaderMap::new());
        let share = (0..5000).filter(|n| takes(*n, "192.0.2.1")).count();
        assert!((850..1150).contains(&share), "{share}");
        assert!((0..200).all(|n| takes(n, "192.0.2.1") == takes(n, "192.0.2.9")), "not the source's");
        assert_eq!(spread(b"r", &[b"subject", b"a", b"b"]), spread(b"r", &[b"subject", b"a", b"b"]));
        assert_ne!(spread(b"r", &[b"ab", b"c"]), spread(b"r", &[b"a", b"bc"]));
    }

    #[test]
    fn headers_force_a_side() {
        let split = split(&json!({"upstream": upstream(), "weight": 0, "headers": {"X-Canary": "yes", "X-Me": "1"}}));
        let mut headers = HeaderMap::new();
        headers.insert("x-canary", "yes".parse().unwrap());
        let from = "192.0.2.1".parse().unwrap();
        assert!(!split.takes(None, from, &headers));
        headers.insert("x-me", "1".parse().unwrap());
        assert!(split.takes(None, from, &headers));
    }

    #[test]
    fn a_canary_of_errors_is_given_up_once() {
        let split = split(&json!({"upstream": upstream(), "weight": 5, "rollback": {"errors_over": 10, "window": "10s", "minimum": 10}}));
        let guardrail = split.guardrail.as_ref();
        let mut tally = Tally::default();
        for n in 0..9 {
            assert!(!tally.answered(guardrail, true, 1_000_000 + n), "too few");
        }
        assert!(tally.answered(guardrail, true, 1_000_100));
        assert!(!tally.answered(guardrail, true, 1_000_200), "it is already");
        let mut old = Tally::default();
        for n in 0..9 {
            old.answered(guardrail, true, 1_000_000 + n);
        }
        assert!(!old.answered(guardrail, true, 1_011_000), "what is older than the window is forgotten");
        let mut good = Tally::default();
        assert!((0..100).all(|n| !good.answered(guardrail, n % 10 == 9, 1_000_000)), "ten of a hundred are not over ten");
    }

    #[test]
    fn every_mistake_of_a_canary_is_named() {
        let canary: Canary = serde_json::from_value(json!({"weight": 101, "sticky": "moon", "headers": {"a b": "c"},
            "rollback": {"errors_over": 100, "window": "1s", "minimum": 0}}))
        .unwrap();
        let mut out = Vec::new();
        canary.mistakes(true, &mut out);
        let at: Vec<&str> = out.iter().map(|m| m.at.as_str()).collect();
        assert_eq!(
            at,
            [
                "canary.upstream",
                "canary.weight",
                "canary.sticky",
                "canary.headers.a b",
                "canary.rollback.errors_over",
                "canary.rollback.window",
                "canary.rollback.minimum"
            ]
        );
    }
}
