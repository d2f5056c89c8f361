//! How many log lines one place in the code may write a second: whoever can cause one cannot fill the disk with it.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ahash::AHashMap;
use parking_lot::RwLock;
use tracing::{Event, Level, Metadata, callsite::Identifier};
use tracing_subscriber::layer::{Context, Filter};

/// Warnings and errors of one place, a second.
const WARNINGS: u64 = 50;
/// Other lines of one place, a second.
const LINES: u64 = 1_000;

/// Counts the lines of each place. There are as many places as the program has.
#[derive(Debug, Default)]
pub struct Bounds {
    places: RwLock<AHashMap<Identifier, Arc<AtomicU64>>>,
}

impl Bounds {
    /// Whether another line may be written in this second.
    fn admits(&self, meta: &Metadata<'_>, second: u64) -> bool {
        let most = if *meta.level() <= Level::WARN { WARNINGS } else { LINES };
        let known = self.places.read().get(&meta.callsite()).cloned();
        let place = known.unwrap_or_else(|| Arc::clone(self.places.write().entry(meta.callsite()).or_default()));
        // The second and how many were written in it.
        let counted = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            let (of, count) = (state >> 24, state & 0xff_ffff);
            if of != second & 0xff_ffff_ffff {
                Some((second & 0xff_ffff_ffff) << 24 | 1)
            } else if count < most {
                Some(state + 1)
            } else {
                None
            }
        });
        if counted.is_err() {
            metrics::counter!("log_lines_dropped_total").increment(1);
        }
        counted.is_ok()
    }
}

impl<S> Filter<S> for Bounds {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }
    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(event.metadata(), now())
    }
}

/// Seconds since the first line.
fn now() -> u64 {
    static BEGUN: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    BEGUN.get_or_init(tokio::time::Instant::now).elapsed().as_secs()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

    use super::*;

    /// Counts lines.
    struct Counted(Arc<AtomicU64>);
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Counted {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_place_writes_so_many_lines_a_second_and_another_is_not_kept_quiet_by_it() {
        let written = Arc::new(AtomicU64::new(0));
        let subscriber = tracing_subscriber::registry().with(Counted(written.clone()).with_filter(Bounds::default()));
        tracing::subscriber::with_default(subscriber, || {
            let begun = now();
            for n in 0..100_000 {
                tracing::warn!(n, "the same again");
            }
            let seconds = now() - begun + 1;
            let many = written.swap(0, Ordering::Relaxed);
            assert!(many >= WARNINGS && many <= WARNINGS * seconds, "{many} in {seconds} s");
            tracing::warn!("another");
            assert_eq!(written.load(Ordering::Relaxed), 1);
        });
    }
}
