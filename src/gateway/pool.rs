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
    Refusal,
    balance::{Balance, Secured, Target},
    upstream::Protocol,
};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use outbound::connect::{self, Endpoint};
use rustls::ClientConfig;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Sleep,
};

use crate::{
    answered::{Checked, Expecting},
    body::RequestBody,
    standing::{Standing, Upstreams},
    trust::Handshakes,
};

/// How long an HTTP/1.1 connection is kept without use.
const IDLE: Duration = Duration::from_secs(60);
/// How long an HTTP/2 connection is.
const IDLE_HTTP2: Duration = Duration::from_secs(300);
/// How long a target that could not be reached is passed over while others can.
const PENALTY: Duration = Duration::from_secs(5);
/// Most octets of an HTTP/1.1 answer that wait for whoever is sent them; its head has to fit.
const READ_BUFFER: usize = 128 * 1024;
/// Most octets of one stream that wait for its reader.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

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
    /// Whose connections are counted.
    counted: Option<Arc<Standing>>,
    /// Where its upstream has TLS of its own.
    opened: Option<Opened>,
}

/// What a connection was opened under: what is said of the upstream's TLS, and what its files held.
#[derive(Clone)]
struct Opened {
    secured: Arc<Secured>,
    epoch: u64,
}

impl Opened {
    /// Whether a connection may be used for a target now.
    fn fits(opened: Option<&mut Self>, target: &Target, epoch: u64) -> bool {
        match (opened, &target.secured) {
            (None, None) => true,
            (Some(opened), Some(now)) if opened.epoch == epoch => {
                if !Arc::ptr_eq(&opened.secured, now) && opened.secured == *now {
                    opened.secured = Arc::clone(now);
                }
                Arc::ptr_eq(&opened.secured, now)
            }
            _ => false,
        }
    }
}

/// An HTTP/2 connection, for many requests at once.
struct Many {
    sender: http2::SendRequest<RequestBody>,
    counted: Option<Arc<Standing>>,
    opened: Option<Opened>,
    used: Instant,
}

/// Why there is no connection.
pub(crate) enum Unopened {
    /// As many are open as may be.
    Full(Refusal),
    Fault(io::Error),
}

/// Where it is watched what becomes of requests.
#[derive(Clone, Copy)]
pub(crate) struct Watching<'a> {
    /// Counts connections, perhaps.
    pub standing: &'a Arc<Standing>,
    /// Set while one waits for its turn to open a connection: nobody is to blame then.
    pub queued: &'a Cell<bool>,
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
    http2: Option<Many>,
    down_until: Option<Instant>,
    /// Wakes who waits here for a connection.
    given: Rc<Notify>,
    waiting: Rc<Cell<u32>>,
}

impl Bench {
    /// Whether there is nothing to remember, and nobody waits.
    fn is_bare(&self) -> bool {
        let down = self.down_until.is_some_and(|until| until > Instant::now());
        self.http1.is_empty() && self.http2.is_none() && !down && self.waiting.get() == 0
    }
}

/// What there is instead of nothing to send on.
enum Room {
    Kept(Taken),
    New(Option<OwnedSemaphorePermit>),
}

/// Counts one who waits while it lives.
struct Waiting(Rc<Cell<u32>>);

impl Waiting {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

type Standings = AHashMap<usize, (Arc<Balance>, Arc<Standing>)>;

/// The connections of one thread.
pub(crate) struct Pool {
    benches: RefCell<AHashMap<Arc<str>, Bench>>,
    most: usize,
    turn: Cell<usize>,
    now: Cell<Instant>,
    own: Handshakes,
    /// What all threads know of upstreams.
    pub upstreams: Arc<Upstreams>,
    /// The same of those met since the last sweep, by the address of what is said of them.
    standings: RefCell<Standings>,
    chance: Cell<u64>,
    counted: Cell<bool>,
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
        let outdated = self.line.opened.as_ref().is_some_and(|opened| opened.epoch != self.pool.upstreams.trusts.epoch());
        if outdated || self.line.sender.is_closed() {
            return;
        }
        // Others wait for a connection: those of this thread can have this one, but now and then another thread's turn is made.
        let starved = self.line.counted.as_ref().is_some_and(|standing| standing.is_starved());
        if starved && (self.pool.chance(4) == 0 || !self.pool.hand_over(&self.key)) {
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
    pub(crate) fn new(most: usize, tls: &Arc<ClientConfig>, upstreams: &Arc<Upstreams>) -> Self {
        Self {
            benches: RefCell::default(),
            most,
            turn: Cell::new(0),
            now: Cell::new(Instant::now()),
            own: Handshakes::new(tls, None),
            standings: RefCell::default(),
            chance: Cell::new(upstreams.chance() | 1),
            counted: Cell::new(false),
            upstreams: Arc::clone(upstreams),
        }
    }

    /// How an upstream stands.
    pub(crate) fn standing(&self, balance: &Arc<Balance>) -> Arc<Standing> {
        let mut standings = self.standings.borrow_mut();
        let (_, standing) =
            standings.entry(Arc::as_ptr(balance).addr()).or_insert_with(|| (Arc::clone(balance), self.upstreams.of(balance)));
        Arc::clone(standing)
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// A number below `n`, by chance (xorshift, begun with entropy: it decides over load, nothing else).
    pub(crate) fn chance(&self, n: usize) -> usize {
        let mut x = self.chance.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.chance.set(x);
        usize::try_from(x >> 11).unwrap_or(0).checked_rem(n).unwrap_or(0)
    }

    /// Whether a target could not be reached a moment ago.
    pub(crate) fn is_down(&self, target: &Target) -> bool {
        let benches = self.benches.borrow();
        benches.get(&*target.key).and_then(|b| b.down_until).is_some_and(|until| until > Instant::now())
    }

    /// Tells the time, which is read once a request. A connection given back later than that counts as idle for longer.
    pub(crate) fn tell(&self, now: Instant) {
        self.now.set(now);
    }

    /// A kept connection, if one is ready.
    pub(crate) fn take(&self, target: &Target, only_http1: bool) -> Option<Taken> {
        let epoch = if target.secured.is_some() { self.upstreams.trusts.epoch() } else { 0 };
        let mut benches = self.benches.borrow_mut();
        let bench = benches.get_mut(&*target.key)?;
        if !only_http1 && let Some(many) = &mut bench.http2 {
            if many.sender.is_ready() && Opened::fits(many.opened.as_mut(), target, epoch) {
                many.used = self.now.get();
                return Some(Taken { sender: Sender::Http2(many.sender.clone()), idle: Some(Duration::ZERO) });
            }
            bench.http2 = None;
        }
        let mut unready = Vec::new();
        let mut found = None;
        while let Some(mut idle) = bench.http1.pop_back() {
            if !Opened::fits(idle.line.opened.as_mut(), target, epoch) {
                continue;
            }
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

    /// Opens a new connection; `watched` where connections may be counted.
    pub(crate) async fn open(
        &self,
        target: &Target,
        only_http1: bool,
        within: Duration,
        watched: Option<Watching<'_>>,
    ) -> Result<Taken, Unopened> {
        let (room, counted) = match watched.filter(|of| of.standing.counts_connections()) {
            None => (None, None),
            Some(Watching { standing, queued }) => {
                queued.set(true);
                let room = self.room(target, only_http1, standing).await.map_err(Unopened::Full)?;
                queued.set(false);
                match room {
                    Room::Kept(taken) => return Ok(taken),
                    Room::New(room) => (room, Some(Arc::clone(standing))),
                }
            }
        };
        let opened = tokio::time::timeout(within, self.handshake(target, only_http1, room, counted))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let down_until = if opened.is_ok() { None } else { Some(Instant::now() + PENALTY) };
        self.benches.borrow_mut().entry(Arc::clone(&target.key)).or_default().down_until = down_until;
        opened.map_err(Unopened::Fault)
    }

    /// Room for a connection, or one that was given back meanwhile.
    async fn room(&self, target: &Target, only_http1: bool, standing: &Standing) -> Result<Room, Refusal> {
        self.counted.set(true);
        let (given, waiting) = {
            let mut benches = self.benches.borrow_mut();
            let bench = benches.entry(Arc::clone(&target.key)).or_default();
            (Rc::clone(&bench.given), Rc::clone(&bench.waiting))
        };
        let _waiting = Waiting::new(&waiting);
        let mut room = std::pin::pin!(standing.connect());
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room.map(Room::New),
                () = given.notified() => {
                    // Its task has to see the end of the last answer first.
                    for _ in 0..4 {
                        if let Some(taken) = self.take(target, only_http1) {
                            return Ok(Room::Kept(taken));
                        }
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Wakes one who waits on this thread for a connection of this key; whether there is one.
    fn hand_over(&self, key: &str) -> bool {
        let benches = self.benches.borrow();
        let Some(bench) = benches.get(key).filter(|bench| bench.waiting.get() > 0) else { return false };
        bench.given.notify_one();
        true
    }

    async fn handshake(
        &self,
        target: &Target,
        only_http1: bool,
        room: Option<OwnedSemaphorePermit>,
        counted: Option<Arc<Standing>>,
    ) -> io::Result<Taken> {
        // Read first: files that change meanwhile make it outdated.
        let epoch = self.upstreams.trusts.epoch();
        let opened = target.secured.as_ref().map(|secured| Opened { secured: Arc::clone(secured), epoch });
        let secured = target.secured.as_ref().map(|secured| self.upstreams.trusts.of(secured)).transpose()?;
        let offer = secured.as_deref().unwrap_or(&self.own);
        let tls = match target.protocol {
            _ if !target.tls => None,
            Protocol::Http2 if !only_http1 => Some(&offer.http2),
            Protocol::Auto if !only_http1 => Some(&offer.both),
            _ => Some(&offer.http1),
        };
        let name = offer.name.as_deref().unwrap_or(&target.host);
        let stream = connect::open_as(&Endpoint { host: &target.host, address: None, port: target.port, tls }, name).await?;
        let prior = !target.tls && target.protocol == Protocol::Http2 && !only_http1;
        if prior || stream.chose_http2() {
            let (sender, connection) = http2::Builder::new(Here)
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(1 << 21)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(40 * 1024)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)?;
            tokio::task::spawn_local(async move {
                drop(connection.await);
                drop(room);
            });
            let mut benches = self.benches.borrow_mut();
            let bench = benches.entry(Arc::clone(&target.key)).or_default();
            bench.http2 = Some(Many { sender: sender.clone(), counted, opened, used: Instant::now() });
            bench.given.notify_waiters();
            return Ok(Taken { sender: Sender::Http2(sender), idle: None });
        }
        let (stream, expecting) = Checked::new(stream);
        let (sender, connection) =
            http1::Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            drop(connection.with_upgrades().await);
            drop(room);
        });
        let timer = Box::pin(tokio::time::sleep(IDLE));
        Ok(Taken { sender: Sender::Http1(Box::new(Line { sender, expecting, timer, counted, opened })), idle: None })
    }

    /// Closes idle connections that others wait for.
    pub(crate) fn relieve(&self) {
        if !self.counted.get() {
            return;
        }
        for bench in self.benches.borrow_mut().values_mut() {
            bench.http1.retain(|idle| !idle.line.counted.as_ref().is_some_and(|standing| standing.is_starved()));
            if bench.http2.as_ref().is_some_and(|many| many.counted.as_ref().is_some_and(|standing| standing.is_starved())) {
                bench.http2 = None;
            }
        }
    }

    /// Closes what has been idle for long.
    pub(crate) fn sweep(&self) {
        self.standings.borrow_mut().clear();
        self.benches.borrow_mut().retain(|_, bench| {
            bench.http1.retain(|idle| !idle.line.sender.is_closed() && idle.since.elapsed() < IDLE);
            // Streams that are open go on.
            bench.http2 = bench.http2.take().filter(|many| !many.sender.is_closed() && many.used.elapsed() < IDLE_HTTP2);
            !bench.is_bare()
        });
    }

    /// How many connections are kept.
    pub(crate) fn len(&self) -> usize {
        self.benches.borrow().values().map(|b| b.http1.len() + usize::from(b.http2.is_some())).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trust::Trusts;

    struct Fixed;
    impl tokens::Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn target(server_name: &str) -> Target {
        let upstream = json!({"id": "u", "targets": [{"url": "https://a"}], "tls": {"server_name": server_name}});
        let route = json!({"id": "r", "match": {}, "upstream": "u", "public": true});
        let (route, upstream) = (serde_json::from_value(route).unwrap(), serde_json::from_value(upstream).unwrap());
        let table = edge::RouteTable::build(&[route], &[upstream], &[], "https://id.example.com").unwrap();
        table.entries()[0].upstream.targets[0].clone()
    }

    /// A connection opened before anything changed.
    async fn line(io: tokio::io::DuplexStream, target: &Target) -> Box<Line> {
        let (stream, expecting) = Checked::new(io);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(connection);
        tokio::task::yield_now().await;
        let opened = target.secured.clone().map(|secured| Opened { secured, epoch: 0 });
        Box::new(Line { sender, expecting, timer: Box::pin(tokio::time::sleep(IDLE)), counted: None, opened })
    }

    #[tokio::test]
    async fn a_connection_is_used_while_what_it_was_opened_under_is_in_force() {
        let local = tokio::task::LocalSet::new();
        local.run_until(Box::pin(scene())).await;
    }

    async fn scene() {
        let trusts = Trusts::new(Arc::new(rustls::RootCertStore::empty()));
        let upstreams = Arc::new(Upstreams::new(trusts, Arc::new(Fixed)));
        let outbound = outbound::Outbound::new(&[], &[]).unwrap();
        let pool = Rc::new(Pool::new(8, outbound.tls(), &upstreams));
        let (one, same, other) = (target("one.example"), target("one.example"), target("other.example"));
        let give = |line| Kept::new(Rc::clone(&pool), Arc::clone(&one.key), line).give_back();
        let took = |target: &Target| match pool.take(target, true)?.sender {
            Sender::Http1(line) => Some(line),
            Sender::Http2(_) => None,
        };

        let (_far, near) = tokio::io::duplex(64);
        give(line(near, &one).await);
        let again = took(&same).expect("the same, said again");
        give(again);
        assert_eq!(pool.len(), 1);
        assert!(took(&other).is_none(), "another name has to be proved");
        assert_eq!(pool.len(), 0);

        let (_far, near) = tokio::io::duplex(64);
        give(line(near, &one).await);
        let busy = took(&one).expect("nothing has changed");
        upstreams.trusts.changed();
        give(busy);
        assert_eq!(pool.len(), 0, "its files changed while it was in use");
        pool.sweep();
        assert!(pool.benches.borrow().is_empty(), "nothing is remembered of what is no longer used");
    }
}
