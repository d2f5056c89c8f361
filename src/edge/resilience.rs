//! What an upstream says about its targets' faults: health checks, ejection, retries, circuit breaking, bulkheads (the forms an
//! administrator writes, their mistakes, and the forms made ready).
use ledger::Mistake;
use serde::{Deserialize, Serialize};

/// Active health checks: a request (or, without a path, a connection) at intervals to every target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Asked for with GET; absent: a connection that opens is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// From one check to the next, e.g. `"10s"` (default 10 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long one check may take, e.g. `"5s"` (default 5 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Good checks in a row until a target that was down is up (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_after: Option<u32>,
    /// Bad checks in a row until a target is down (default 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_after: Option<u32>,
    /// Good statuses; empty: 200 to 399.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expect_status: Vec<u16>,
    /// Another port than the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// When a target that fails real requests is passed over for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Faults in a row (no connection, no answer in time, 500, 502, 503, 504); default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// For how long the first time, e.g. `"10s"` (default 10 s); each time in a row longer, at most 30 times that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// At most this share of the targets (default 50): beyond, a target that fails goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_percent: Option<u32>,
}

/// What is tried again. Only GET, HEAD, OPTIONS, PUT and DELETE without a body ever are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Further tries of one request, 1 to 5 (default 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// `connect`, `502`, `503`, `504`, `timeout`; empty: `connect` and `503`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
}

/// When nothing is sent to a target for a while because too much of it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerRule {
    /// The share of faults that opens it (default 50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_percent: Option<u32>,
    /// Over how long, e.g. `"10s"` (default 10 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// Of at least how many requests (default 20).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
    /// How long nothing is sent, e.g. `"10s"` (default 10 s); then one request is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for: Option<String>,
}

/// Active checks made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    pub path: Option<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub healthy_after: u32,
    pub unhealthy_after: u32,
    pub expect: Vec<u16>,
    pub port: Option<u16>,
}

/// Ejection made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejecting {
    pub failures: u32,
    pub time_ms: u64,
    pub max_percent: u32,
}

/// Retries made ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retrying {
    pub attempts: u32,
    pub connect: bool,
    pub timeout: bool,
    pub s502: bool,
    pub s503: bool,
    pub s504: bool,
}

/// A breaker made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaking {
    pub error_percent: u32,
    pub window_ms: u64,
    pub min_requests: u32,
    pub open_ms: u64,
}

/// How much of this gateway one upstream may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bulkhead {
    pub max_requests: Option<u32>,
    pub max_connections: Option<u32>,
    pub max_pending: u32,
}

impl Bulkhead {
    /// Whether it bounds nothing.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.max_requests.is_none() && self.max_connections.is_none()
    }
}

/// Milliseconds of a duration, or the default in seconds.
pub(crate) fn ms(text: Option<&String>, default_s: u64) -> u64 {
    opt_ms(text).unwrap_or_else(|| default_s.saturating_mul(1000))
}

/// Milliseconds of a duration.
pub(crate) fn opt_ms(text: Option<&String>) -> Option<u64> {
    text.and_then(|t| tokens::duration::parse(t)).and_then(|s| u64::try_from(s).ok()).map(|s| s.saturating_mul(1000))
}

/// Adds a mistake for each of these that is not a duration of a second to a day.
pub(crate) fn durations(out: &mut Vec<Mistake>, given: &[(&str, &Option<String>)]) {
    for (at, text) in given {
        if text.as_ref().is_some_and(|t| !tokens::duration::parse(t).is_some_and(|s| (1..=86_400).contains(&s))) {
            out.push(Mistake::new(*at, "a duration such as \"5s\" is needed, at most a day"));
        }
    }
}

fn within(out: &mut Vec<Mistake>, at: &str, given: Option<u32>, least: u32, most: u32) {
    if given.is_some_and(|n| !(least..=most).contains(&n)) {
        out.push(Mistake::new(at, format!("must be {least} to {most}")));
    }
}

impl HealthCheck {
    /// What is wrong.
    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        durations(out, &[("health.interval", &self.interval), ("health.timeout", &self.timeout)]);
        within(out, "health.healthy_after", self.healthy_after, 1, 100);
        within(out, "health.unhealthy_after", self.unhealthy_after, 1, 100);
        let fit = |path: &String| path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic());
        if !self.path.as_ref().is_none_or(fit) {
            out.push(Mistake::new("health.path", "a path such as \"/healthz\" is needed"));
        }
        if self.expect_status.len() > 16 || self.expect_status.iter().any(|s| !(200..=599).contains(s)) {
            out.push(Mistake::new("health.expect_status", "at most 16 statuses of 200 to 599"));
        }
        if self.path.is_none() && !self.expect_status.is_empty() {
            out.push(Mistake::new("health.expect_status", "needs health.path"));
        }
        if self.port == Some(0) {
            out.push(Mistake::new("health.port", "port 0 cannot be connected to"));
        }
    }

    /// Made ready.
    pub(crate) fn ready(&self) -> Checks {
        Checks {
            path: self.path.clone(),
            interval_ms: ms(self.interval.as_ref(), 10),
            timeout_ms: ms(self.timeout.as_ref(), 5),
            healthy_after: self.healthy_after.unwrap_or(2),
            unhealthy_after: self.unhealthy_after.unwrap_or(3),
            expect: self.expect_status.clone(),
            port: self.port,
        }
    }
}

impl Checks {
    /// Whether an answer of this status is a good one.
    #[must_use]
    pub fn good(&self, status: u16) -> bool {
        if self.expect.is_empty() { (200..400).contains(&status) } else { self.expect.contains(&status) }
    }
}

impl Ejection {
    /// What is wrong.
    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        durations(out, &[("ejection.time", &self.time)]);
        within(out, "ejection.failures", self.failures, 1, 10_000);
        within(out, "ejection.max_percent", self.max_percent, 0, 99);
    }

    /// Made ready; the default where nothing is said.
    pub(crate) fn ready(given: Option<&Self>) -> Ejecting {
        Ejecting {
            failures: given.and_then(|e| e.failures).unwrap_or(5),
            time_ms: ms(given.and_then(|e| e.time.as_ref()), 10),
            max_percent: given.and_then(|e| e.max_percent).unwrap_or(50),
        }
    }
}

impl Retries {
    /// What is wrong.
    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        within(out, "retries.attempts", self.attempts, 1, 5);
        for (n, on) in self.on.iter().enumerate() {
            if !matches!(on.as_str(), "connect" | "timeout" | "502" | "503" | "504") {
                out.push(Mistake::new(format!("retries.on[{n}]"), "must be one of connect, timeout, 502, 503, 504"));
            }
        }
    }

    /// Made ready.
    pub(crate) fn ready(&self) -> Retrying {
        let on = |name: &str, default: bool| if self.on.is_empty() { default } else { self.on.iter().any(|o| o == name) };
        Retrying {
            attempts: self.attempts.unwrap_or(1),
            connect: on("connect", true),
            timeout: on("timeout", false),
            s502: on("502", false),
            s503: on("503", true),
            s504: on("504", false),
        }
    }
}

impl Retrying {
    /// Whether an answer of this status is asked for again.
    #[must_use]
    pub const fn on_status(&self, status: u16) -> bool {
        match status {
            502 => self.s502,
            503 => self.s503,
            504 => self.s504,
            _ => false,
        }
    }
}

impl BreakerRule {
    /// What is wrong.
    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        durations(out, &[("breaker.window", &self.window), ("breaker.open_for", &self.open_for)]);
        within(out, "breaker.error_percent", self.error_percent, 1, 100);
        within(out, "breaker.min_requests", self.min_requests, 1, 1_000_000);
    }

    /// Made ready.
    pub(crate) fn ready(&self) -> Breaking {
        Breaking {
            error_percent: self.error_percent.unwrap_or(50),
            window_ms: ms(self.window.as_ref(), 10),
            min_requests: self.min_requests.unwrap_or(20),
            open_ms: ms(self.open_for.as_ref(), 10),
        }
    }
}
