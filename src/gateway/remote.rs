//! The authorization server of a gateway process of its own: metadata (RFC 8414), keys, introspection (RFC 7662), and the
//! revocation feed, an ordered stream of server-sent events that is taken up again where it broke off.
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use ledger::{Committed, Listener, Revocation};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;
use tokens::{Alg, Clock, Entropy, jwk::VerifyingKey};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    Gateway,
    credentials::{Credentials, Proves},
    exchange::{ExchangeError, Exchanged, Exchanges, Order},
    introspector,
    jwks::{Fetch, Jwks},
    signed_answer,
    source::{Introspect, IntrospectError, Introspection, KeySource, Own},
};

const TIME: Duration = Duration::from_secs(5);
/// A feed that says nothing for this long is taken for dead (it beats every second).
const SILENCE: Duration = Duration::from_secs(4);
/// A clock that lost more than this against the passing of time was set back.
const SET_BACK_MS: i64 = 1_000;
const RETRY: Duration = Duration::from_millis(250);
const MAX_ANSWER: usize = 1024 * 1024;
const MAX_EVENT: usize = 64 * 1024 * 1024;

/// How to reach the authorization server.
pub struct Config {
    /// Its issuer identifier; http only for loopback.
    pub issuer: String,
    /// This gateway's own client, with the scopes `doorward.introspect doorward.feed`.
    pub credentials: Credentials,
    /// Whether introspection answers have to be signed (RFC 9701).
    pub signed_introspection: bool,
    /// Roots of trust, see [`outbound::client_config`]; with the client's certificate, if it proves itself by one.
    pub tls: ClientConfig,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// Why the authorization server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    #[error("{0:?} is not an https URL (http is for loopback only)")]
    Issuer(String),
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
    #[error("{0} did not answer as it should")]
    Answer(&'static str),
}

/// What we use of the metadata.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
    token_endpoint: String,
    introspection_endpoint: String,
    /// Where a client with a certificate goes instead (RFC 8705 §5).
    #[serde(default)]
    mtls_endpoint_aliases: Aliases,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Aliases {
    token_endpoint: Option<String>,
    introspection_endpoint: Option<String>,
}

struct OwnToken {
    text: String,
    renew_at_ms: i64,
}

/// The authorization server, from afar.
pub struct Remote {
    issuer: Arc<str>,
    credentials: Credentials,
    signed: bool,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metadata: ArcSwapOption<Metadata>,
    keys: ArcSwapOption<Jwks>,
    token: Mutex<Option<OwnToken>>,
    fresh_at: AtomicI64,
    /// When that was heard, in time that nobody sets.
    heard_at: parking_lot::Mutex<Instant>,
}

impl Remote {
    /// Prepares to speak to it; nothing is sent yet.
    ///
    /// # Errors
    /// [`RemoteError::Issuer`] or [`RemoteError::Client`].
    pub fn new(config: Config) -> Result<Arc<Self>, RemoteError> {
        let url = Url::parse(&config.issuer).map_err(|_| RemoteError::Issuer(config.issuer.clone()))?;
        if !(url.scheme() == "https" || (url.scheme() == "http" && loopback(&url))) {
            return Err(RemoteError::Issuer(config.issuer));
        }
        Ok(Arc::new(Self {
            issuer: config.issuer.as_str().into(),
            credentials: config.credentials,
            signed: config.signed_introspection,
            http: client(config.tls)?,
            clock: config.clock,
            entropy: config.entropy,
            metadata: ArcSwapOption::empty(),
            keys: ArcSwapOption::empty(),
            token: Mutex::new(None),
            fresh_at: AtomicI64::new(0),
            heard_at: parking_lot::Mutex::new(Instant::now()),
        }))
    }

    /// Itself as the gateway's authorization server.
    #[must_use]
    pub fn own(self: &Arc<Self>) -> Own {
        let fresh = Arc::clone(self);
        Own {
            issuer: Arc::clone(&self.issuer),
            keys: Arc::clone(self) as Arc<dyn KeySource>,
            introspect: Arc::clone(self) as Arc<dyn Introspect>,
            fresh_at_ms: Arc::new(move || fresh.fresh_at_ms()),
        }
    }

    /// What was last heard is as old as the server said, and then by as much as has passed: a clock that was set back makes nobody look fresh.
    fn fresh_at_ms(&self) -> i64 {
        let (at_ms, now_ms) = (self.fresh_at.load(Ordering::Acquire), self.clock.now_ms());
        let passed = i64::try_from(self.heard_at.lock().elapsed().as_millis()).unwrap_or(i64::MAX);
        if now_ms - at_ms < passed - SET_BACK_MS { now_ms - passed } else { at_ms }
    }

    /// Follows the feed until `shutdown`, telling the gateway of every revocation; keeps the keys fresh.
    pub async fn follow(self: Arc<Self>, gateway: Arc<Gateway>, shutdown: CancellationToken) {
        let renewing = async {
            loop {
                if self.keys.load().as_ref().is_none_or(|k| k.due()) {
                    self.refresh().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let following = async {
            loop {
                if let Err(why) = self.feed(&gateway).await {
                    tracing::warn!(target: "gateway", %why, "revocation feed broke off");
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = renewing => {}
            () = following => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, RemoteError> {
        if let Some(known) = self.metadata.load_full() {
            return Ok(known);
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let fail = RemoteError::Answer("the metadata document");
        let document = self.fetch(&url).await.ok_or_else(|| fail.clone())?;
        let mut metadata: Metadata = serde_json::from_slice(&document).map_err(|_| fail.clone())?;
        if *metadata.issuer != *self.issuer {
            return Err(fail);
        }
        if matches!(self.credentials.proves, Proves::Certificate) {
            let aliases = std::mem::take(&mut metadata.mtls_endpoint_aliases);
            metadata.token_endpoint = aliases.token_endpoint.unwrap_or(metadata.token_endpoint);
            metadata.introspection_endpoint = aliases.introspection_endpoint.unwrap_or(metadata.introspection_endpoint);
        }
        let metadata = Arc::new(metadata);
        self.metadata.store(Some(Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// The key source, once the metadata is known.
    async fn jwks(&self) -> Option<Arc<Jwks>> {
        if let Some(known) = self.keys.load_full() {
            return Some(known);
        }
        let metadata = self.metadata().await.ok()?;
        let fetch = Arc::new(Plainly(self.http.clone()));
        let jwks = Arc::new(Jwks::new(&self.issuer, &metadata.jwks_uri, fetch, Arc::clone(&self.clock)));
        let before = self.keys.compare_and_swap(&None::<Arc<Jwks>>, Some(Arc::clone(&jwks)));
        Some(before.as_ref().map_or(jwks, Arc::clone))
    }

    /// Our own access token, renewed before it ends.
    async fn access_token(&self) -> Result<String, RemoteError> {
        let mut kept = self.token.lock().await;
        let now = self.clock.now_ms();
        if let Some(token) = kept.as_ref().filter(|t| t.renew_at_ms > now) {
            return Ok(token.text.clone());
        }
        let metadata = self.metadata().await?;
        let form = [("grant_type", "client_credentials"), ("scope", "doorward.introspect doorward.feed")];
        let fail = || RemoteError::Answer("the token endpoint");
        let (status, _, body) = self.post(&metadata.token_endpoint, &form, "application/json").await.map_err(|_| fail())?;
        let answer: Value = if status == 200 { serde_json::from_slice(&body).map_err(|_| fail())? } else { return Err(fail()) };
        let text = answer.get("access_token").and_then(Value::as_str).ok_or(RemoteError::Answer("the token endpoint"))?.to_owned();
        let lives = answer.get("expires_in").and_then(Value::as_i64).unwrap_or(60).max(2);
        *kept = Some(OwnToken { text: text.clone(), renew_at_ms: now + lives * 700 });
        Ok(text)
    }

    /// Posts a form as our client; whatever it is answered.
    async fn post(&self, url: &str, form: &[(&str, &str)], accept: &str) -> Result<(u16, HeaderMap, Bytes), IntrospectError> {
        let away = |_: reqwest::Error| IntrospectError::Unavailable;
        let (headers, proof) =
            self.credentials.prove(&self.issuer, self.clock.now(), &*self.entropy).map_err(|_| IntrospectError::Unavailable)?;
        let form: Vec<(&str, &str)> = form.iter().copied().chain(proof.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        let request = self.http.post(url).headers(headers).header(http::header::ACCEPT, accept).form(&form).timeout(TIME);
        let answer = request.send().await.map_err(away)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = bounded(answer).await.ok_or(IntrospectError::Nonsense)?;
        Ok((status, headers, body))
    }

    /// Asks about a token (RFC 7662 §2.1).
    async fn ask(&self, token: &str, hint: &str) -> Result<Value, IntrospectError> {
        let metadata = self.metadata().await.map_err(|_| IntrospectError::Unavailable)?;
        let form = [("token", token), ("token_type_hint", hint)];
        let accept = if self.signed { signed_answer::MEDIA_TYPE } else { "application/json" };
        let (status, headers, body) = self.post(&metadata.introspection_endpoint, &form, accept).await?;
        if status != 200 {
            return Err(IntrospectError::Unavailable);
        }
        introspector::read(&headers, &body, self.signed, (&self.issuer, &self.credentials.client_id), self, self.clock.now()).await
    }

    async fn fetch(&self, url: &str) -> Option<Bytes> {
        get(&self.http, url).await
    }

    async fn feed(&self, gateway: &Gateway) -> Result<(), RemoteError> {
        let token = self.access_token().await?;
        // Always from the beginning: what is known is taken in twice without harm, and a restored database has another history.
        let url = format!("{}/feed", self.issuer.trim_end_matches('/'));
        let mut position = None;
        let fail = || RemoteError::Answer("the revocation feed");
        let sent = self.http.get(url).bearer_auth(token).header(http::header::ACCEPT, "text/event-stream").send();
        let answer = tokio::time::timeout(TIME, sent).await.map_err(|_| fail())?.map_err(|_| fail())?;
        if answer.status() != http::StatusCode::OK {
            if answer.status() == http::StatusCode::UNAUTHORIZED {
                *self.token.lock().await = None;
            }
            return Err(fail());
        }
        let mut stream = answer.bytes_stream();
        let mut events = Events::default();
        while let Ok(Some(octets)) = tokio::time::timeout(SILENCE, stream.next()).await {
            events.take(&octets.map_err(|_| fail())?).ok_or_else(fail)?;
            while let Some(event) = events.next() {
                self.hear(gateway, &event, &mut position).ok_or_else(fail)?;
            }
        }
        Err(fail())
    }

    /// Takes in one event of a connection. `None` if it makes no sense: the feed is then joined anew. `position` is how far the
    /// ledger is known on this connection; none before the snapshot, whose first part may come as revocations of their own.
    fn hear(&self, gateway: &Gateway, event: &Event, position: &mut Option<u64>) -> Option<()> {
        #[derive(Deserialize)]
        struct Beat {
            head: u64,
            at_ms: i64,
            #[serde(default)]
            revocations: Vec<Revocation>,
        }
        match event.name.as_str() {
            "snapshot" | "beat" => {
                let beat: Beat = serde_json::from_str(&event.data).ok()?;
                let joining = event.name == "snapshot";
                // No ledger goes back: who answers now is not who answered before.
                if !joining && position.is_none_or(|known| beat.head < known) {
                    return None;
                }
                *position = Some(beat.head);
                if joining {
                    gateway.joined(&beat.revocations, beat.head);
                } else {
                    gateway.committed(&Committed { events: Vec::new(), revocations: beat.revocations, head: beat.head });
                }
                // The server's word for when it knew; never later than we heard it, and back with our clock when that is set back.
                *self.heard_at.lock() = Instant::now();
                self.fresh_at.store(beat.at_ms.min(self.clock.now_ms()), Ordering::Release);
            }
            "revocation" => {
                let revocation: Revocation = serde_json::from_str(&event.data).ok()?;
                // More may come at the same position: only a beat says how far the ledger is known.
                match *position {
                    None => gateway.joined(&[revocation], 0),
                    Some(head) => gateway.committed(&Committed { events: Vec::new(), revocations: vec![revocation], head }),
                }
            }
            _ => {}
        }
        Some(())
    }
}

#[async_trait]
impl Introspect for Remote {
    async fn introspect(&self, token: &str) -> Result<Introspection, IntrospectError> {
        Introspection::from_value(self.ask(token, "access_token").await?)
    }
    async fn introspect_key(&self, key: &str) -> Result<Introspection, IntrospectError> {
        Introspection::of_key(self.ask(key, edge::api_key::HINT).await?)
    }
}

#[async_trait]
impl Exchanges for Remote {
    async fn exchange(&self, order: &Order) -> Result<Exchanged, ExchangeError> {
        let metadata = self.metadata().await.map_err(|_| ExchangeError::Unavailable)?;
        let answered = self.post(&metadata.token_endpoint, &order.form(), "application/json").await;
        let (status, _, body) = answered.map_err(|why| match why {
            IntrospectError::Unavailable => ExchangeError::Unavailable,
            IntrospectError::Nonsense => ExchangeError::Nonsense,
        })?;
        Exchanged::read(status, &body)
    }
}

#[async_trait]
impl KeySource for Remote {
    fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey> {
        self.keys.load().as_ref()?.find(kid, alg)
    }
    fn generation(&self) -> u64 {
        self.keys.load().as_ref().map_or(0, |k| k.generation())
    }
    fn usable(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|k| k.usable())
    }
    async fn refresh(&self) {
        if let Some(jwks) = self.jwks().await {
            jwks.refresh().await;
        }
    }
}

struct Plainly(reqwest::Client);

#[async_trait]
impl Fetch for Plainly {
    async fn fetch(&self, uri: &str) -> Option<Bytes> {
        get(&self.0, uri).await
    }
}

async fn get(http: &reqwest::Client, url: &str) -> Option<Bytes> {
    let answer = http.get(url).timeout(TIME).send().await.ok()?;
    if answer.status() == http::StatusCode::OK { bounded(answer).await } else { None }
}

async fn bounded(answer: reqwest::Response) -> Option<Bytes> {
    let mut stream = answer.bytes_stream();
    let mut out = Vec::new();
    while let Some(octets) = stream.next().await {
        out.extend_from_slice(&octets.ok()?);
        if out.len() > MAX_ANSWER {
            return None;
        }
    }
    Some(out.into())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one client for the authorization server an operator configured: no redirects, no proxies"
)]
fn client(tls: ClientConfig) -> Result<reqwest::Client, RemoteError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(TIME)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent("doorward-gateway")
        .build()
        .map_err(|why| RemoteError::Client(why.to_string()))
}

fn loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Reads server-sent events (WHATWG HTML §9.2) from octets as they come.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
    /// Where the unread part of the buffer begins.
    start: usize,
    /// No line ends before this.
    searched: usize,
    event: Event,
}

impl Events {
    /// Adds octets. `None` if an event is too large.
    fn take(&mut self, octets: &[u8]) -> Option<()> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(octets);
        (self.buffer.len() <= MAX_EVENT && self.event.data.len() <= MAX_EVENT).then_some(())
    }

    /// The next whole event, if there is one.
    fn next(&mut self) -> Option<Event> {
        loop {
            let Some(at) = memchr::memchr(b'\n', self.buffer.get(self.searched..)?) else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + at;
            let line = String::from_utf8_lossy(self.buffer.get(self.start..end)?);
            (self.start, self.searched) = (end + 1, end + 1);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.name = value.to_owned(),
                "data" if self.event.data.is_empty() => self.event.data = value.to_owned(),
                "data" => {
                    self.event.data.push('\n');
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_across_any_cut() {
        let text = "event: snapshot\ndata: {\"head\":3,\ndata: \"at_ms\":5}\n\n: comment\n\nid: 4\r\nevent: revocation\r\ndata: {}\r\n\r\n";
        for size in 1..20 {
            let mut events = Events::default();
            let mut out = Vec::new();
            for part in text.as_bytes().chunks(size) {
                events.take(part).unwrap();
                while let Some(event) = events.next() {
                    out.push((event.name, event.data));
                }
            }
            assert_eq!(out, [("snapshot".into(), "{\"head\":3,\n\"at_ms\":5}".into()), ("revocation".to_owned(), "{}".to_owned())]);
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        assert!(loopback(&Url::parse("http://127.0.0.9:8080").unwrap()));
        assert!(!loopback(&Url::parse("http://10.0.0.1:8080").unwrap()));
    }

    #[test]
    fn a_large_event_in_small_pieces_is_searched_once() {
        let mut events = Events::default();
        let began = std::time::Instant::now();
        for _ in 0..20_000 {
            events.take(&[b'x'; 256]).unwrap();
            assert_eq!(events.next(), None);
        }
        assert_eq!(events.searched, 20_000 * 256);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
