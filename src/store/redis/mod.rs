//! Counters shared by nodes over Redis, Valkey or Redis Cluster. When it is away each node counts for itself.
mod place;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use edge::limit::{Ask, Counters, Quota, Verdict};
use parking_lot::Mutex;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ServerErrorKind, TlsCertificates, ToRedisArgs,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};
use tokio::time::{Instant, timeout};

use crate::memory::Memory;

/// The longest a request waits for shared counters.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// After a failure, how long nobody waits for them at all.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a question is sent on where a cluster's slots have moved, all within [`PATIENCE`].
const REDIRECTIONS: u32 = 3;
/// Parts of a cluster, by hash slots, whose failures are kept apart.
const PARTS: u16 = 64;
/// The hash slots of every cluster.
const SLOTS: u16 = 16_384;

/// The arithmetic of `edge::limit::gcra`, where the states are. Keys: the counters. Arguments: now; for each key interval, window (all
/// microseconds, with fractions) and cost. All are counted or none. Answers, for each, allowed, arrival and wanted as offsets from now; a
/// key expires when it no longer matters. Numbers are doubles: a quarter of a microsecond is the least that counts at once.
const GCRA: &str = r"
local now, all, out, set = tonumber(ARGV[1]), true, {}, {}
for n = 1, #KEYS do
  local interval, window, cost = tonumber(ARGV[n * 3 - 1]), tonumber(ARGV[n * 3]), tonumber(ARGV[n * 3 + 1])
  local arrival = tonumber(redis.call('GET', KEYS[n]) or '0')
  if arrival < now then arrival = now end
  if arrival > now + window then arrival = now + window end
  local units = cost
  if units < 1 then units = 1 end
  local wanted = arrival + interval * units
  local allowed = wanted - now <= window + 0.25
  all = all and allowed
  if cost > 0 then set[n] = wanted end
  out[n * 3 - 2], out[n * 3 - 1], out[n * 3] = allowed and 1 or 0, math.floor(arrival - now), math.ceil(wanted - now)
end
if all then
  for n, wanted in pairs(set) do
    redis.call('SET', KEYS[n], string.format('%.2f', wanted), 'PX', math.ceil((wanted - now) / 1000) + 1)
  end
end
return out
";

/// Gives units back. Arguments: interval, cost.
const REFUND: &str = r"
local arrival = tonumber(redis.call('GET', KEYS[1]) or '0')
if arrival > 0 then
  redis.call('SET', KEYS[1], string.format('%.2f', arrival - tonumber(ARGV[1]) * tonumber(ARGV[2])), 'KEEPTTL')
end
return 1
";

#[derive(Clone)]
enum Link {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

/// How the server is found.
enum Target {
    Single(Box<Client>),
    Cluster(Box<redis::cluster::ClusterClient>),
}

/// The connection, made in the background: a request waits for it no longer than for an answer.
struct Line {
    target: Target,
    link: Mutex<Option<Link>>,
    connecting: tokio::sync::Mutex<()>,
}

/// Counters in Redis, with counters of this process to fall back to.
pub struct Redis {
    line: Arc<Line>,
    script: Text,
    refund: Text,
    local: Memory,
    /// One a part of the cluster; one in all where there is none.
    away_until: Vec<Mutex<Option<Instant>>>,
    was_away: AtomicBool,
}

/// A script and its name at the server.
struct Text {
    code: &'static str,
    hash: String,
}

impl Text {
    fn new(code: &'static str) -> Self {
        Self { code, hash: Script::new(code).get_hash().to_owned() }
    }

    /// Runs it where its keys are. A server that does not know it is sent it with the question: nobody else of a cluster is asked.
    async fn run<T: FromRedisValue>(&self, link: Link, keys: &[String], arguments: &[impl ToRedisArgs]) -> RedisResult<T> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        match link.ask(&command("EVALSHA", &self.hash)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => link.ask(&command("EVAL", self.code)).await,
            other => other,
        }
    }
}

impl Link {
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        async fn on<T: FromRedisValue>(mut link: impl ConnectionLike, command: &Cmd) -> RedisResult<T> {
            command.query_async(&mut link).await
        }
        match self.clone() {
            Self::Single(link) => on(link, command).await,
            Self::Cluster(link) => on(link, command).await,
        }
    }
}

impl Line {
    async fn connect(self: Arc<Self>) -> RedisResult<Link> {
        let _alone = self.connecting.lock().await;
        if let Some(link) = self.link.lock().clone() {
            return Ok(link);
        }
        let link = match &self.target {
            Target::Single(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(Some(PATIENCE));
                Link::Single(ConnectionManager::new_with_config(Client::clone(client), config).await?)
            }
            Target::Cluster(client) => Link::Cluster(client.get_async_connection().await?),
        };
        *self.link.lock() = Some(link.clone());
        Ok(link)
    }
}

impl Redis {
    /// For the URLs of [`place`]. `authorities` (PEM) replace those that the system trusts. Connects on first use.
    ///
    /// # Errors
    /// The URL is malformed. That the server is away is no error: counting is local until it is there.
    pub fn open(url: &str, authorities: Option<Vec<u8>>) -> RedisResult<Self> {
        let (urls, cluster) = place::read(url)?;
        let certificates = authorities.map(|root| TlsCertificates { client_tls: None, root_cert: Some(root) });
        let target = match urls.first() {
            Some(one) if !cluster => Target::Single(Box::new(match certificates {
                Some(certificates) => Client::build_with_tls(one.as_str(), certificates)?,
                None => Client::open(one.as_str())?,
            })),
            _ => {
                let builder = ClusterClientBuilder::new(urls).connection_timeout(CONNECT).response_timeout(PATIENCE);
                let builder = builder.retries(REDIRECTIONS).min_retry_wait(5).max_retry_wait(20);
                let builder = match certificates {
                    Some(certificates) => builder.certs(certificates),
                    None => builder,
                };
                Target::Cluster(Box::new(builder.build()?))
            }
        };
        let parts = if cluster { usize::from(PARTS) } else { 1 };
        Ok(Self {
            line: Arc::new(Line { target, link: Mutex::default(), connecting: tokio::sync::Mutex::default() }),
            script: Text::new(GCRA),
            refund: Text::new(REFUND),
            local: Memory::new(),
            away_until: std::iter::repeat_with(Mutex::default).take(parts).collect(),
            was_away: AtomicBool::new(false),
        })
    }

    /// Connects now, so that the first request need not (it would count locally rather than wait).
    ///
    /// # Errors
    /// The server is away. Counting is local until it is there.
    pub async fn connect(&self) -> RedisResult<()> {
        let late = || RedisError::from((ErrorKind::Io, "no answer in time"));
        timeout(CONNECT, self.link()).await.map_err(|_| late())?.map(|_| ())
    }

    async fn link(&self) -> RedisResult<Link> {
        if let Some(link) = self.line.link.lock().clone() {
            return Ok(link);
        }
        let connecting = tokio::spawn(Arc::clone(&self.line).connect());
        connecting.await.unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "connecting was interrupted"))))
    }

    /// When whoever holds a key is asked again.
    fn away_until(&self, key: &str) -> Option<&Mutex<Option<Instant>>> {
        let part = if self.away_until.len() > 1 { slot(key) / (SLOTS / PARTS) } else { 0 };
        self.away_until.get(usize::from(part))
    }

    /// Runs `work` about a key unless the server was away a moment ago; `None` if it is (or was) away.
    async fn shared<T>(&self, key: &str, work: impl AsyncFnOnce(Link) -> RedisResult<T>) -> Option<T> {
        let away_until = self.away_until(key)?;
        if away_until.lock().is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let outcome = timeout(PATIENCE, async { work(self.link().await?).await }).await;
        let why = match outcome {
            Ok(Ok(value)) => {
                *away_until.lock() = None;
                if self.was_away.swap(false, Ordering::AcqRel) {
                    tracing::info!("shared rate counters are back");
                }
                return Some(value);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        *away_until.lock() = Some(Instant::now() + PAUSE);
        metrics::counter!("shared_counters_away_total").increment(1);
        if !self.was_away.swap(true, Ordering::AcqRel) {
            tracing::warn!(error = %why, "shared rate counters are away: this node counts for itself");
        }
        None
    }

    async fn count(&self, asks: &[Ask<'_>], now_ms: i64) -> Option<Vec<Verdict>> {
        let now = now_ms.saturating_mul(1000);
        let keys: Vec<String> = asks.iter().map(|ask| tagged(ask.key)).collect();
        let mut arguments = vec![now.to_string()];
        for ask in asks {
            arguments.push(micros(ask.quota.interval_ns().unwrap_or_default()).to_string());
            arguments.push(micros(ask.quota.window_ns()).to_string());
            arguments.push(ask.cost.to_string());
        }
        let first = asks.first()?.key;
        let answer = self.shared(first, async |link| self.script.run::<Vec<i64>>(link, &keys, &arguments).await).await?;
        let (told, _) = answer.as_chunks::<3>();
        let counted = told.iter().all(|[allowed, ..]| *allowed == 1);
        Some(asks.iter().zip(told).map(|(ask, told)| verdict(ask, *told, counted)).collect())
    }

    async fn one(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        if quota.interval_ns().is_some() {
            let asked = self.count(&[Ask { key, quota: *quota, cost }], now_ms).await;
            if let Some(verdict) = asked.and_then(|verdicts| verdicts.first().copied()) {
                return verdict;
            }
        }
        self.local.count(key, quota, cost, now_ms)
    }
}

#[expect(clippy::cast_precision_loss, reason = "told with the precision that a double has")]
fn micros(ns: i64) -> f64 {
    ns as f64 / 1000.0
}

/// The key as stored: the counter's own name is the cluster's hash tag.
fn tagged(key: &str) -> String {
    format!("doorward:limit:{{{key}}}")
}

/// The hash slot of a counter (Redis Cluster specification): CRC-16/XMODEM of its tag.
fn slot(key: &str) -> u16 {
    let bit = |crc: u16| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    let crc = key.bytes().fold(0_u16, |crc, octet| (0..8).fold(crc ^ (u16::from(octet) << 8), |crc, _| bit(crc)));
    crc % SLOTS
}

fn verdict(ask: &Ask<'_>, [allowed, arrival, wanted]: [i64; 3], counted: bool) -> Verdict {
    let allowed = allowed == 1;
    let (interval, window) = (ask.quota.interval_ns().unwrap_or(1), ask.quota.window_ns());
    let after = if counted && ask.cost > 0 { wanted } else { arrival };
    let ms = |us: i64| (us.max(0) + 999) / 1000;
    Verdict {
        allowed,
        // What was rounded on the way is less than a microsecond.
        remaining: u32::try_from((window - after * 1000 + 999).max(0) / interval.max(1)).unwrap_or(u32::MAX),
        retry_after_ms: if allowed { 0 } else { ms(wanted - window / 1000) },
        reset_ms: ms(after),
    }
}

#[async_trait]
impl Counters for Redis {
    async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        self.one(key, quota, cost, now_ms).await
    }
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
        self.one(key, quota, 0, now_ms).await
    }
    async fn clear(&self, key: &str) {
        self.local.forget(key);
        self.shared(key, async |link| link.ask::<()>(&Cmd::del(tagged(key))).await).await;
    }
    async fn refund(&self, key: &str, quota: &Quota, cost: u32) {
        self.local.give_back(key, quota, cost);
        let arguments = [micros(quota.interval_ns().unwrap_or_default()).to_string(), cost.to_string()];
        self.shared(key, async |link| self.refund.run::<()>(link, &[tagged(key)], &arguments).await).await;
    }
    async fn hit_all(&self, asks: &[Ask<'_>], now_ms: i64) -> Vec<Verdict> {
        // The keys of a cluster are on several nodes: one question each, and units given back where one refuses.
        let together = matches!(self.line.target, Target::Single(_)) && asks.iter().all(|ask| ask.quota.interval_ns().is_some());
        if together && let Some(verdicts) = self.count(asks, now_ms).await {
            return verdicts;
        }
        let mut out: Vec<Verdict> = Vec::with_capacity(asks.len());
        for (n, ask) in asks.iter().enumerate() {
            let verdict = self.one(ask.key, &ask.quota, ask.cost, now_ms).await;
            out.push(verdict);
            if !verdict.allowed {
                for counted in asks.iter().take(n) {
                    self.refund(counted.key, &counted.quota, counted.cost).await;
                }
                break;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31C3 % SLOTS);
        assert_eq!(slot(""), 0);
        let redis = Redis::open("redis://127.0.0.1:1,127.0.0.1:2", None).unwrap();
        assert_eq!(redis.away_until.len(), 64);
        assert!((0..10_000).all(|n| redis.away_until(&n.to_string()).is_some()));
    }
}
