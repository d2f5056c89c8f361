//! Finished requests as operators see them: a line of the access log (JSON) and spans of a trace. Neither holds a credential, a query or a body.
use std::{rc::Rc, sync::Arc, time::Instant};

use edge::table::Entry;
use http::{HeaderMap, Method, Version, header};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokens::secret::MacKey;

use crate::{
    account::Account,
    hop::Conn,
    traced::{TraceContext, hex},
    worker::Worker,
};

/// The longest text of a caller that is written out, octets.
const LONGEST: usize = 1024;

/// Who is told of finished requests. Must not block: what cannot be taken is dropped and counted by it.
pub trait Observer: Send + Sync {
    /// Lines of the access log, each with its end.
    fn lines(&self, lines: Vec<u8>);
    /// Spans that have ended.
    fn spans(&self, spans: Vec<Span>);
}

/// What is told to whom.
#[derive(Clone)]
pub struct Observing {
    /// Whether lines are written.
    pub lines: bool,
    /// The share of requests whose spans are recorded, 0 to 1; a trusted proxy may ask for more.
    pub sample: f64,
    /// What decides which: equal nodes have the same, nobody else knows it.
    pub key: MacKey,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

/// Which side of a call a span saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one called.
    Server,
    /// The caller.
    Client,
}

/// A span that has ended (OpenTelemetry semantic conventions for HTTP).
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace: [u8; 16],
    pub id: [u8; 8],
    pub parent: Option<[u8; 8]>,
    /// Whether the parent is another process's.
    pub remote_parent: bool,
    pub side: Side,
    pub name: String,
    /// Microseconds since the epoch.
    pub from_us: i64,
    /// Microseconds since the epoch.
    pub to_us: i64,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub failed: bool,
}

/// A span's attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

/// What one thread has yet to tell.
#[derive(Default)]
pub(crate) struct Untold {
    lines: Vec<u8>,
    spans: Vec<Span>,
}

impl Untold {
    /// Tells it.
    pub(crate) fn tell(&mut self, observing: &Observing) {
        if !self.lines.is_empty() {
            observing.observer.lines(std::mem::take(&mut self.lines));
        }
        if !self.spans.is_empty() {
            observing.observer.spans(std::mem::take(&mut self.spans));
        }
    }

    const fn full(&self) -> bool {
        self.lines.len() > 48 * 1024 || self.spans.len() > 256
    }
}

/// What is remembered of a request that will be told of.
pub(crate) struct Story {
    started: Instant,
    from_ms: i64,
    version: Version,
    host: String,
    agent: Option<String>,
    /// The path as it came, for what never got a normal one.
    path: String,
    pub context: Option<TraceContext>,
    /// When the upstream was called, and when it answered; microseconds since the start.
    forwarded_us: Option<i64>,
    upstream: Option<Arc<str>>,
    answered_us: Option<i64>,
}

fn bounded(value: Option<&http::HeaderValue>) -> Option<String> {
    let text = String::from_utf8_lossy(value?.as_bytes()).into_owned();
    Some(cut(&text).to_owned())
}

/// The host a request is for. What stands before an `@` may be a password.
fn host(uri: &http::Uri, headers: &HeaderMap) -> Option<String> {
    let given = match uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => headers.get(header::HOST)?.as_bytes(),
    };
    let bare = given.rsplit(|b| *b == b'@').next().unwrap_or_default();
    Some(cut(&String::from_utf8_lossy(bare)).to_owned())
}

fn cut(text: &str) -> &str {
    let end = (0..=LONGEST.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

impl Story {
    /// Begins one, if anybody is to be told.
    pub(crate) fn begin(worker: &Worker, conn: &Conn, version: Version, headers: &HeaderMap, uri: &http::Uri) -> Option<Box<Self>> {
        let parts = worker.gateway.parts();
        let observing = parts.observing.as_ref()?;
        let context = TraceContext::begin(headers, conn.trusted, (observing.sample, &observing.key), &*parts.entropy);
        if !observing.lines && context.is_none() {
            return None;
        }
        Some(Box::new(Self {
            started: Instant::now(),
            from_ms: worker.now_ms(),
            version,
            host: host(uri, headers).unwrap_or_default(),
            agent: bounded(headers.get(header::USER_AGENT)),
            path: cut(uri.path()).to_owned(),
            context,
            forwarded_us: None,
            upstream: None,
            answered_us: None,
        }))
    }

    fn elapsed_us(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// The request goes on to an upstream.
    pub(crate) fn forwarding(&mut self, headers: &mut HeaderMap, upstream: &Arc<str>) {
        self.forwarded_us = Some(self.elapsed_us());
        self.upstream = Some(Arc::clone(upstream));
        if let Some(context) = &self.context {
            context.tell(headers);
        }
    }

    /// The upstream's answer has begun.
    pub(crate) fn answered(&mut self) {
        self.answered_us = Some(self.elapsed_us());
    }
}

/// A request whose answer is on its way; told of when that has ended, however it does.
pub(crate) struct Telling {
    worker: Rc<Worker>,
    story: Box<Story>,
    line: Line,
    path: String,
}

/// A line of the access log.
#[derive(Serialize)]
struct Line {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    protocol: &'static str,
    method: String,
    host: String,
    path: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    status: u16,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Until the answer's head, milliseconds.
    head_ms: f64,
    /// Until the answer's end, milliseconds.
    total_ms: f64,
    /// Octets of the answer's body.
    octets_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
}

/// What came of it, for its record.
pub(crate) struct End<'a> {
    pub method: &'a Method,
    pub entry: Option<&'a Entry>,
    pub account: &'a Account,
    pub status: u16,
    /// Why it was refused, or `ok`.
    pub reason: &'static str,
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of some centuries")]
fn ms(us: i64) -> f64 {
    us as f64 / 1000.0
}

impl Telling {
    /// The head of the answer is known.
    pub(crate) fn new(worker: &Rc<Worker>, conn: &Conn, mut story: Box<Story>, end: &End<'_>) -> Self {
        let who = end.account.who.as_ref().map(|believed| &believed.identity);
        let (came, agent) = (std::mem::take(&mut story.path), story.agent.take());
        let path = if end.account.path.is_empty() { came } else { cut(&end.account.path).to_owned() };
        let line = Line {
            time: String::new(),
            request_id: Some(end.account.request_id.as_str().to_owned()),
            trace_id: story.context.map(|context| hex(&context.trace)),
            peer: conn.peer.ip().to_string(),
            source: end.account.source.filter(|source| *source != conn.peer.ip()).map(|source| source.to_string()),
            protocol: protocol(story.version),
            method: cut(end.method.as_str()).to_owned(),
            host: std::mem::take(&mut story.host),
            path: String::new(),
            route: end.entry.map_or_else(String::new, |entry| entry.id.to_string()),
            upstream: story.upstream.as_deref().map(str::to_owned),
            status: end.status,
            reason: end.reason,
            credential: who.map(|who| who.kind.as_str()),
            client_id: who.and_then(|who| who.claims.client_id.as_deref()).map(|client| cut(client).to_owned()),
            sub: who.map(|who| cut(&who.claims.sub).to_owned()),
            device: who.and_then(|who| who.device.as_ref()).map(|device| device.id.clone()),
            head_ms: ms(story.elapsed_us()),
            total_ms: 0.0,
            octets_out: 0,
            user_agent: agent,
        };
        Self { worker: Rc::clone(worker), story, line, path }
    }

    /// This much of the answer's body went out.
    pub(crate) const fn sent(&mut self, octets: usize) {
        self.line.octets_out += octets as u64;
    }

    fn spans(&self, context: &TraceContext, total_us: i64, into: &mut Vec<Span>) {
        let from_us = self.story.from_ms.saturating_mul(1000);
        let line = &self.line;
        let text = |text: &str| Attribute::Text(text.to_owned());
        let mut attributes = vec![
            ("http.request.method", text(&line.method)),
            ("url.path", text(&line.path)),
            ("server.address", text(&line.host)),
            ("client.address", text(line.source.as_deref().unwrap_or(&line.peer))),
            ("network.protocol.version", text(line.protocol)),
            ("http.response.status_code", Attribute::Number(i64::from(line.status))),
            ("doorward.reason", text(line.reason)),
        ];
        if !line.route.is_empty() {
            attributes.push(("http.route", text(&line.route)));
        }
        attributes.extend(line.credential.map(|kind| ("doorward.credential", text(kind))));
        attributes.extend(line.client_id.as_deref().map(|client| ("doorward.client_id", text(client))));
        into.push(Span {
            trace: context.trace,
            id: context.span,
            parent: context.parent,
            remote_parent: context.parent.is_some(),
            side: Side::Server,
            name: format!("{} {}", line.method, line.route),
            from_us,
            to_us: from_us.saturating_add(total_us),
            attributes,
            failed: line.status >= 500,
        });
        if let (Some(began), Some(upstream)) = (self.story.forwarded_us, &line.upstream) {
            into.push(Span {
                trace: context.trace,
                id: context.onward,
                parent: Some(context.span),
                remote_parent: false,
                side: Side::Client,
                name: format!("{} {upstream}", line.method),
                from_us: from_us.saturating_add(began),
                to_us: from_us.saturating_add(self.story.answered_us.unwrap_or(total_us)),
                attributes: vec![
                    ("http.request.method", text(&line.method)),
                    ("doorward.upstream", text(upstream)),
                    ("http.response.status_code", Attribute::Number(i64::from(line.status))),
                ],
                failed: self.story.answered_us.is_none(),
            });
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let Some(observing) = self.worker.gateway.parts().observing.as_ref() else { return };
        let total_us = self.story.elapsed_us();
        self.line.path = std::mem::take(&mut self.path);
        self.line.total_ms = ms(total_us);
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.story.from_ms) * 1_000_000).ok();
        self.line.time = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
        let mut untold = self.worker.untold.borrow_mut();
        if observing.lines && serde_json::to_writer(&mut untold.lines, &self.line).is_ok() {
            untold.lines.push(b'\n');
        }
        if let Some(context) = self.story.context {
            self.spans(&context, total_us, &mut untold.spans);
        }
        if untold.full() {
            untold.tell(observing);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_host_holds_no_password() {
        let with = |value: &'static str| HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(value))]);
        let told = |uri: &'static str, value: &'static str| host(&http::Uri::from_static(uri), &with(value)).unwrap();
        assert_eq!(told("http://user:secret@api.example.com:81/x", "y"), "api.example.com:81");
        assert_eq!(told("/x", "user:secret@more@api.example.com"), "api.example.com");
        assert_eq!(told("/x", "api.example.com"), "api.example.com");
    }
}
