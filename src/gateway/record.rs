//! What is counted: decisions, times, sizes. Each thread counts for itself and hands its sums over a few times a second.
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

/// Upper bounds of the latency classes, microseconds: powers of two and their middles.
pub(crate) const CLASSES: usize = 48;

/// The class of a time.
pub(crate) fn class(elapsed: Duration) -> usize {
    let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = us.ilog2() as usize;
    let upper = usize::from(power > 0 && us >> (power - 1) & 1 == 1);
    (power * 2 + upper).min(CLASSES - 1)
}

/// What a class stands for, seconds.
pub(crate) fn seconds(class: usize) -> f64 {
    let base = f64::from(1_u32 << (class / 2).min(31));
    (if class.is_multiple_of(2) { base * 1.25 } else { base * 1.75 }) / 1e6
}

/// The counts of one route (or of requests no route is for) on one thread.
pub(crate) struct Meter {
    route: Arc<str>,
    allowed: Cell<u64>,
    refused: RefCell<Vec<(&'static str, u64)>>,
    status: [Cell<u64>; 6],
    latency: [Cell<u32>; CLASSES],
    touched: Cell<bool>,
}

impl Meter {
    pub(crate) fn new(route: Arc<str>) -> Self {
        Self {
            route,
            allowed: Cell::new(0),
            refused: RefCell::default(),
            status: Default::default(),
            latency: std::array::from_fn(|_| Cell::new(0)),
            touched: Cell::new(false),
        }
    }

    /// A request was let through.
    pub(crate) fn allow(&self) {
        self.allowed.set(self.allowed.get() + 1);
    }

    /// A request was refused.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.touched.set(true);
        let mut refused = self.refused.borrow_mut();
        match refused.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, n)) => *n += 1,
            None => refused.push((reason, 1)),
        }
    }

    /// A request was answered.
    pub(crate) fn answer(&self, status: u16, elapsed: Duration) {
        self.touched.set(true);
        if let Some(n) = self.status.get(usize::from(status / 100)) {
            n.set(n.get() + 1);
        }
        if let Some(n) = self.latency.get(class(elapsed)) {
            n.set(n.get() + 1);
        }
    }

    /// Hands the sums to the recorder.
    pub(crate) fn flush(&self) {
        if !self.touched.replace(false) {
            return;
        }
        let route = || self.route.to_string();
        let allowed = self.allowed.take();
        if allowed > 0 {
            metrics::counter!("auth_decisions_total", "route" => route(), "outcome" => "allowed", "reason" => "ok").increment(allowed);
        }
        for (reason, n) in self.refused.take() {
            metrics::counter!("auth_decisions_total", "route" => route(), "outcome" => "refused", "reason" => reason).increment(n);
        }
        for (class, n) in self.status.iter().enumerate() {
            let n = n.take();
            if n > 0 {
                metrics::counter!("gateway_requests_total", "route" => route(), "status" => format!("{class}xx")).increment(n);
            }
        }
        let histogram = metrics::histogram!("gateway_request_seconds", "route" => route());
        for (class, n) in self.latency.iter().enumerate() {
            let n = n.take();
            if n > 0 {
                histogram.record_many(seconds(class), n as usize);
            }
        }
    }
}

/// A revocation reached this gateway this long after it was decided.
pub(crate) fn propagated(ms: i64) {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a few seconds")]
    metrics::histogram!("revocation_propagation_seconds").record(ms.max(0) as f64 / 1000.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_say() {
        for us in [1_u64, 2, 3, 5, 100, 1_500, 40_000, 9_000_000] {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let (shown, real) = (seconds(class(Duration::from_micros(us))), us as f64 / 1e6);
            assert!(shown / real < 1.6 && real / shown < 1.6, "{us}: {shown}");
        }
    }
}
