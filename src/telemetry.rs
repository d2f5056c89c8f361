//! What the process tells about itself: logs and Prometheus metrics. Neither ever carries a secret, code, token or key.
use std::{
    fs::OpenOptions,
    io,
    path::Path,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    Layer as _,
    filter::{FilterExt as _, LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{config::LogSection, log_bounds::Bounds};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics this process has had; the contract is none.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts logging as configured: human or JSON lines, to standard error or a file.
///
/// # Errors
/// A filter that cannot be read, a file that cannot be opened, or logging that is already started.
pub fn start_logs(log: &LogSection) -> anyhow::Result<()> {
    let filter = filter(&log.filter)?;
    let writer = match &log.file {
        Some(file) => tracing_subscriber::fmt::writer::BoxMakeWriter::new(Mutex::new(open(file)?)),
        None => tracing_subscriber::fmt::writer::BoxMakeWriter::new(io::stderr),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let layer = if log.format == "json" { layer.json().flatten_event(true).boxed() } else { layer.boxed() };
    tracing_subscriber::registry().with(layer.with_filter(filter.and(Bounds::default()))).try_init().context("logging is already started")
}

/// What is logged. Below a warning the TLS library writes out what it sends, session tickets among it: whoever reads those could go on with
/// a client's session.
fn filter(text: &str) -> anyhow::Result<Targets> {
    let asked: Targets = text.parse().context("log.filter")?;
    let quiet = asked
        .iter()
        .filter(|(target, _)| target.starts_with("rustls"))
        .map(|(target, level)| (target.to_owned(), level.min(LevelFilter::WARN)));
    let quiet: Vec<_> = quiet.collect();
    let level = asked.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::WARN);
    let named = quiet.iter().any(|(target, _)| target == "rustls");
    let asked = if named { asked } else { asked.with_target("rustls", level) };
    Ok(asked.with_targets(quiet))
}

/// Opens a file to append to, and its folder.
///
/// # Errors
/// It cannot be opened.
pub fn open(file: &Path) -> anyhow::Result<std::fs::File> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    OpenOptions::new().create(true).append(true).open(file).with_context(|| format!("{}", file.display()))
}

/// Counts panics and logs where they were, without their message (it could quote input).
pub fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("panics_total").increment(1);
            let place = info.location().map_or_else(String::new, ToString::to_string);
            tracing::error!(place, "panic");
        }));
    });
}

/// Seconds; fine where revocations should be, coarse where they must not be.
const PROPAGATION: &[f64] = &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds a request may take.
const DURATIONS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Installs the recorder that every `metrics` macro of the process reports to.
///
/// # Errors
/// A recorder that is already installed.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("revocation_propagation_seconds".into()), PROPAGATION)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), DURATIONS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("a metrics recorder is already installed"))?;
    describe();
    Ok(handle)
}

fn describe() {
    metrics::describe_counter!("panics_total", "Panics since the start; always 0");
    metrics::describe_counter!("jwks_fetch_total", "Fetches of other issuers' keys");
    metrics::describe_counter!("auth_decisions_total", "Decisions of the gateway by route, outcome and reason");
    metrics::describe_counter!("routes_file_total", "Versions of the routes file taken in or refused");
    metrics::describe_counter!("access_log_dropped_total", "Batches of the access log that could not be written");
    metrics::describe_counter!("trace_spans_total", "Spans handed to the exporter");
    metrics::describe_gauge!("upstream_up", "1 while requests go to the target, by upstream and target");
    metrics::describe_counter!("upstream_faults_total", "Requests a target failed: no connection, no answer in time, 500, 502, 503, 504");
    metrics::describe_counter!("upstream_ejections_total", "How often a target was passed over for a while because requests failed");
    metrics::describe_counter!("upstream_breaker_opened_total", "How often the circuit breaker of a target opened");
    metrics::describe_counter!("upstream_retries_total", "Requests sent again, by upstream and reason");
    metrics::describe_counter!("upstream_refused_total", "Requests refused with 503 for their upstream's sake, by upstream and reason");
    metrics::describe_counter!("introspection_total", "Questions about tokens of trusted issuers, by issuer and outcome");
    metrics::describe_counter!("discovery_fetch_total", "Fetches of trusted issuers' metadata, by issuer and outcome");
    metrics::describe_counter!("token_exchange_total", "Tokens exchanged for upstreams, by outcome");
    metrics::describe_counter!("assertions_signed_total", "Assertions signed for upstreams; most requests send one that is kept");
    metrics::describe_counter!("client_crl_reads_total", "Revocation lists of client certificates read anew or refused, by outcome");
    metrics::describe_counter!("client_ocsp_questions_total", "Questions to OCSP responders about client certificates, by outcome");
    metrics::describe_counter!("log_lines_dropped_total", "Log lines of one place beyond so many a second");
    metrics::describe_counter!("connections_evicted_total", "Unused connections that made room, by listener");
    metrics::describe_counter!("connections_refused_total", "Connections of a source that held too many, by listener");
    metrics::describe_counter!("requests_unfinished_dropped_total", "Requests given up that did not come whole, by listener");
    metrics::describe_counter!(
        "password_queue_refused_total",
        "Passwords that found no place in the queue (full) or lost it to another source"
    );
    metrics::describe_counter!("store_commits_in_doubt_total", "Commits whose answer was lost, by what the ledger said became of them");
    metrics::describe_counter!("store_purged_rows_total", "Expired rows deleted");
    metrics::describe_counter!("store_purge_runs_total", "Rounds of deleting expired rows that began");
    metrics::describe_gauge!("db_rows", "Rows by table");
    metrics::describe_gauge!("cache_entries", "Entries by cache");
    metrics::describe_gauge!("process_resident_memory_bytes", "Resident memory");
    metrics::describe_gauge!("process_open_fds", "Open file descriptors");
    metrics::describe_gauge!("connections_open", "Open connections by listener");
    metrics::describe_counter!("http_handed_over_total", "Connections that asked for something other than what machines ask all the time");
    metrics::describe_histogram!("revocation_propagation_seconds", "From the commit of a revocation to its being known at the edge");
    metrics::counter!("panics_total").increment(0);
    metrics::counter!("jwks_fetch_total").increment(0);
    metrics::counter!("store_purged_rows_total").increment(0);
    // Said from the start on, so that nobody takes silence for zero.
    for (outcome, reason) in [("allowed", "ok"), ("refused", "no_route")] {
        metrics::counter!("auth_decisions_total", "route" => "", "outcome" => outcome, "reason" => reason).increment(0);
    }
    let _none_yet = [
        metrics::histogram!("revocation_propagation_seconds"),
        metrics::histogram!("http_request_seconds", "endpoint" => "token", "status" => "200"),
        metrics::histogram!("gateway_request_seconds", "route" => ""),
    ];
    metrics::gauge!("cache_entries", "cache" => "revocations").set(0.0);
    for table in ["artefacts", "grants", "sessions", "events", "revocations"] {
        metrics::gauge!("db_rows", "table" => table).set(0.0);
    }
    refresh_process_gauges();
}

/// What a counter stands at, over all its labels.
#[must_use]
pub fn counted(metrics: &PrometheusHandle, counter: &str) -> u64 {
    let page = metrics.render();
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(counter)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
    });
    values.sum()
}

/// Refreshes the gauges of the process itself.
pub fn refresh_process_gauges() {
    if let Some(bytes) = resident_memory() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Some(open) = open_files() {
        metrics::gauge!("process_open_fds").set(open as f64);
    }
}

/// Resident memory in octets (`VmRSS`), where the system tells.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn open_files() -> Option<usize> {
    // The listing itself holds one descriptor while it is read.
    std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1))
}

/// Names this build: the version, and when its executable was written.
#[must_use]
pub fn build_id() -> String {
    let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|meta| meta.modified()).ok();
    let stamp = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
    format!("{}+{stamp:x}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_lets_the_tls_library_write_out_what_it_sends() {
        for text in ["trace", "rustls=trace", "info,rustls=debug", "warn,rustls::server::hs=trace,rustls=trace"] {
            let filter = filter(text).unwrap();
            for target in ["rustls", "rustls::server::hs", "rustls::msgs::handshake"] {
                assert!(!filter.would_enable(target, &tracing::Level::INFO), "{text} {target}");
                assert!(filter.would_enable(target, &tracing::Level::WARN), "{text} {target}");
            }
        }
        let filter = filter("error,access=trace").unwrap();
        assert!(!filter.would_enable("rustls", &tracing::Level::WARN) && filter.would_enable("access", &tracing::Level::TRACE));
    }

    #[test]
    fn every_promised_metric_is_there_from_the_start() {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("revocation_propagation_seconds".into()), PROPAGATION)
            .unwrap()
            .build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        let page = handle.render();
        for expected in [
            "panics_total 0",
            "jwks_fetch_total 0",
            "db_rows{table=\"events\"} 0",
            "cache_entries{cache=\"revocations\"} 0",
            "auth_decisions_total{route=\"\",outcome=\"allowed\",reason=\"ok\"} 0",
            "revocation_propagation_seconds_count 0",
            "gateway_request_seconds",
            "http_request_seconds",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(page.contains(&format!("\n{expected}")), "{expected}\n{page}");
        }
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_other_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("jwks_fetch_total", "outcome" => "ok").increment(2);
            metrics::counter!("jwks_fetch_total", "outcome" => "failed").increment(3);
            metrics::counter!("jwks_fetch_total_else").increment(9);
        });
        assert_eq!(counted(&handle, "jwks_fetch_total"), 5);
    }
}
