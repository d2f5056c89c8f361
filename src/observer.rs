//! Where the gateway's access log and traces go: a file of its own, and an OpenTelemetry collector (OTLP over HTTP).
//!
//! Neither may hold up a request: both have a thread of their own and a bounded queue, and what does not fit is dropped and counted.
use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use gateway::observed::{Attribute, Observer, Observing, Side, Span};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};

use crate::{config::Config, telemetry};

/// Batches of lines that may wait for the file.
const WAITING: usize = 256;

/// The access log and the traces of a process.
pub struct Told {
    lines: Option<Lines>,
    spans: Option<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

/// What is told by this configuration; `None` where nothing is. The key decides which traces are recorded.
///
/// # Errors
/// The file cannot be opened, or the collector's address not be used.
pub fn open(config: &Config, key: tokens::secret::MacKey) -> anyhow::Result<Option<(Observing, Arc<Told>)>> {
    let lines = config.log.access_file.as_deref().map(Lines::open).transpose().context("log.access_file")?;
    let spans = config.telemetry.otlp_endpoint.as_deref().map(exporter).transpose().context("telemetry.otlp_endpoint")?;
    if lines.is_none() && spans.is_none() {
        return Ok(None);
    }
    let sample = if spans.is_some() { config.telemetry.share().unwrap_or(1.0) } else { 0.0 };
    let written = lines.is_some();
    let told =
        Arc::new(Told { lines, spans, scope: InstrumentationScope::builder("doorward").with_version(env!("CARGO_PKG_VERSION")).build() });
    Ok(Some((Observing { lines: written, sample, key, observer: told.clone() }, told)))
}

impl Told {
    /// Opens the file anew: whoever moved it away wants a new one.
    pub fn reopen(&self) {
        if let Some(lines) = &self.lines {
            lines.reopen.store(true, Ordering::Release);
        }
    }

    /// Sends what is left.
    pub fn finish(&self) {
        if let Some(spans) = &self.spans
            && let Err(error) = spans.shutdown_with_timeout(Duration::from_secs(2))
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
        if let Some(lines) = &self.lines {
            let (done, told) = sync_channel(1);
            if lines.queue.try_send(Batch::Flush(done)).is_ok() {
                let _ = told.recv_timeout(Duration::from_secs(2));
            }
        }
    }
}

impl Observer for Told {
    fn lines(&self, batch: Vec<u8>) {
        if let Some(lines) = &self.lines
            && lines.queue.try_send(Batch::Lines(batch)).is_err()
        {
            metrics::counter!("access_log_dropped_total").increment(1);
        }
    }

    fn spans(&self, spans: Vec<Span>) {
        if let Some(processor) = &self.spans {
            metrics::counter!("trace_spans_total").increment(spans.len() as u64);
            spans.into_iter().for_each(|span| processor.on_end(self.data(span)));
        }
    }
}

impl Told {
    fn data(&self, span: Span) -> SpanData {
        let at = |us: i64| SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or(0));
        let context =
            SpanContext::new(TraceId::from_bytes(span.trace), SpanId::from_bytes(span.id), TraceFlags::SAMPLED, false, TraceState::NONE);
        let attribute = |(name, value): (&'static str, Attribute)| match value {
            Attribute::Text(text) => KeyValue::new(name, text),
            Attribute::Number(number) => KeyValue::new(name, number),
        };
        SpanData {
            span_context: context,
            parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: span.remote_parent,
            span_kind: match span.side {
                Side::Server => SpanKind::Server,
                Side::Client => SpanKind::Client,
            },
            name: span.name.into(),
            start_time: at(span.from_us),
            end_time: at(span.to_us),
            attributes: span.attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if span.failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// Sends spans to `{endpoint}/v1/traces`.
fn exporter(endpoint: &str) -> anyhow::Result<BatchSpanProcessor> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(Duration::from_secs(5))
        .build()?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let resource = Resource::builder_empty()
        .with_attributes([KeyValue::new("service.name", "doorward"), KeyValue::new("service.version", telemetry::build_id())])
        .build();
    processor.set_resource(&resource);
    Ok(processor)
}

enum Batch {
    Lines(Vec<u8>),
    /// Answered when everything before it is in the file.
    Flush(SyncSender<()>),
}

/// The access log's file, written by a thread of its own.
struct Lines {
    queue: SyncSender<Batch>,
    reopen: Arc<AtomicBool>,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = telemetry::open(path)?;
        let (queue, batches) = sync_channel(WAITING);
        let reopen = Arc::new(AtomicBool::new(false));
        let (again, path) = (reopen.clone(), path.to_owned());
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&path, file, &batches, &again))?;
        Ok(Self { queue, reopen })
    }
}

fn write(path: &Path, mut file: File, batches: &Receiver<Batch>, reopen: &AtomicBool) {
    loop {
        let batch = batches.recv_timeout(Duration::from_millis(500));
        if reopen.swap(false, Ordering::AcqRel) {
            match telemetry::open(path) {
                Ok(new) => file = new,
                Err(error) => tracing::error!(%error, "the access log could not be opened anew; the old file stays"),
            }
        }
        match batch {
            Ok(Batch::Lines(lines)) => {
                if let Err(error) = file.write_all(&lines) {
                    metrics::counter!("access_log_dropped_total").increment(1);
                    tracing::error!(%error, "the access log cannot be written");
                }
            }
            Ok(Batch::Flush(done)) => drop(done.send(())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
