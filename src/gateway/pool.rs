//! Kept connections to upstreams, one pool a thread: nothing is shared, nothing is locked.
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use edge::{
    balance::{Balance, Target},
    upstream::Protocol,
};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use outbound::connect::{self, Endpoint};
use rustls::ClientConfig;
use tokio::time::Sleep;

use crate::{
    answered::{Checked, Expecting},
    body::RequestBody,
};

/// How long an HTTP/1.1 connection is kept without use.
const IDLE: Duration = Duration::from_secs(60);
/// How long a target that could not be reached is passed over while others can.
const PENALTY: Duration = Duration::from_secs(5);

/// Runs hyper's tasks on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// A connection ready to send.
pub(crate) enum Sender {
    Http1(Box<Line>),
    Http2(http2::SendRequest<RequestBody>),
}

/// One HTTP/1.1 connection, for one request at a time.
pub(crate) struct Line {
    pub sender: http1::SendRequest<RequestBody>,
    /// To be told of every request.
    pub expecting: Expecting,
    /// Kept over requests: to move a deadline away costs less than to set one.
    pub timer: Pin<Box<Sleep>>,
}

/// A sender taken from the pool.
pub(crate) struct Taken {
    pub sender: Sender,
    /// How long it had been idle; `None` for a new connection.
    pub idle: Option<Duration>,
}

struct Idle {
    line: Box<Line>,
    since: Instant,
}

#[derive(Default)]
struct Bench {
    http1: VecDeque<Idle>,
    http2: Option<http2::SendRequest<RequestBody>>,
    down_until: Option<Instant>,
}

/// The connections of one thread.
pub(crate) struct Pool {
    benches: RefCell<AHashMap<Arc<str>, Bench>>,
    most: usize,
    turn: Cell<usize>,
    now: Cell<Instant>,
    tls_http1: Arc<ClientConfig>,
    tls_http2: Arc<ClientConfig>,
    tls_both: Arc<ClientConfig>,
}

/// An HTTP/1.1 connection to give back once its answer has been read.
pub(crate) struct Kept {
    pool: Rc<Pool>,
    key: Arc<str>,
    line: Box<Line>,
}

impl Kept {
    pub(crate) const fn new(pool: Rc<Pool>, key: Arc<str>, line: Box<Line>) -> Self {
        Self { pool, key, line }
    }

    /// The answer has been read to its end.
    pub(crate) fn give_back(self) {
        if self.line.sender.is_closed() {
            return;
        }
        let mut benches = self.pool.benches.borrow_mut();
        let idle = Idle { line: self.line, since: self.pool.now.get() };
        match benches.get_mut(&*self.key) {
            Some(bench) if bench.http1.len() < self.pool.most => bench.http1.push_back(idle),
            Some(_) => {}
            None => benches.entry(self.key).or_default().http1.push_back(idle),
        }
    }
}

impl Pool {
    pub(crate) fn new(most: usize, tls: &Arc<ClientConfig>) -> Self {
        let with = |protocols: &[&[u8]]| {
            let mut config = ClientConfig::clone(tls);
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        };
        Self {
            benches: RefCell::default(),
            most,
            turn: Cell::new(0),
            now: Cell::new(Instant::now()),
            tls_http1: with(&[b"http/1.1"]),
            tls_http2: with(&[b"h2"]),
            tls_both: with(&[b"h2", b"http/1.1"]),
        }
    }

    /// Tells the time, which is read once a request. A connection given back later than that counts as idle for longer.
    pub(crate) fn tell(&self, now: Instant) {
        self.now.set(now);
    }

    /// The targets in the order to try them: each in its turn, those that were down last.
    pub(crate) fn order<'a>(&self, balance: &'a Balance) -> impl Iterator<Item = &'a Target> + use<'a> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let single = balance.targets.len() == 1;
        let mut order: Vec<usize> = Vec::new();
        if !single {
            let start = turn.checked_rem(balance.order.len()).unwrap_or(0);
            for at in balance.order.iter().cycle().skip(start).take(balance.order.len()) {
                if !order.contains(at) {
                    order.push(*at);
                }
            }
            let benches = self.benches.borrow();
            let now = Instant::now();
            let down = |at: &usize| {
                let key = balance.targets.get(*at).map(|t| &t.key);
                key.and_then(|k| benches.get(&**k)).and_then(|b| b.down_until).is_some_and(|until| until > now)
            };
            order.sort_by_key(down);
        }
        let first = if single { balance.targets.first() } else { None };
        first.into_iter().chain(order.into_iter().filter_map(|at| balance.targets.get(at)))
    }

    /// A kept connection, if one is ready.
    pub(crate) fn take(&self, target: &Target, only_http1: bool) -> Option<Taken> {
        let mut benches = self.benches.borrow_mut();
        let bench = benches.get_mut(&*target.key)?;
        if !only_http1 && let Some(sender) = &bench.http2 {
            if sender.is_ready() {
                return Some(Taken { sender: Sender::Http2(sender.clone()), idle: Some(Duration::ZERO) });
            }
            bench.http2 = None;
        }
        let mut unready = Vec::new();
        let mut found = None;
        while let Some(idle) = bench.http1.pop_back() {
            if idle.line.sender.is_ready() {
                let for_long = self.now.get().saturating_duration_since(idle.since);
                found = Some(Taken { idle: Some(for_long), sender: Sender::Http1(idle.line) });
                break;
            }
            if !idle.line.sender.is_closed() {
                unready.push(idle);
            }
        }
        bench.http1.extend(unready.into_iter().rev());
        found.filter(|t| t.idle.is_some_and(|idle| idle < IDLE))
    }

    /// Opens a new connection.
    pub(crate) async fn open(&self, target: &Target, only_http1: bool, within: Duration) -> io::Result<Taken> {
        let opened =
            tokio::time::timeout(within, self.handshake(target, only_http1)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let down_until = if opened.is_ok() { None } else { Some(Instant::now() + PENALTY) };
        self.benches.borrow_mut().entry(Arc::clone(&target.key)).or_default().down_until = down_until;
        opened
    }

    async fn handshake(&self, target: &Target, only_http1: bool) -> io::Result<Taken> {
        let tls = match target.protocol {
            _ if !target.tls => None,
            Protocol::Http2 if !only_http1 => Some(&self.tls_http2),
            Protocol::Auto if !only_http1 => Some(&self.tls_both),
            _ => Some(&self.tls_http1),
        };
        let stream = connect::open(&Endpoint { host: &target.host, address: None, port: target.port, tls }).await?;
        let prior = !target.tls && target.protocol == Protocol::Http2 && !only_http1;
        if prior || stream.chose_http2() {
            let (sender, connection) = http2::Builder::new(Here)
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(1 << 21)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)?;
            tokio::task::spawn_local(async move { drop(connection.await) });
            self.benches.borrow_mut().entry(Arc::clone(&target.key)).or_default().http2 = Some(sender.clone());
            return Ok(Taken { sender: Sender::Http2(sender), idle: None });
        }
        let (stream, expecting) = Checked::new(stream);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
        let timer = Box::pin(tokio::time::sleep(IDLE));
        Ok(Taken { sender: Sender::Http1(Box::new(Line { sender, expecting, timer })), idle: None })
    }

    /// Closes what has been idle for long.
    pub(crate) fn sweep(&self) {
        for bench in self.benches.borrow_mut().values_mut() {
            bench.http1.retain(|idle| !idle.line.sender.is_closed() && idle.since.elapsed() < IDLE);
        }
    }

    /// How many connections are kept.
    pub(crate) fn len(&self) -> usize {
        self.benches.borrow().values().map(|b| b.http1.len() + usize::from(b.http2.is_some())).sum()
    }
}
