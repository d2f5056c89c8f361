//! A database for a test, its clock, and the records tests are made of.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

use ledger::{
    Artefact, ArtefactKind, Change, Committed, Event, EventKind, Grant, Listener, NewEvent, Object, ObjectKind, Session, Step, chain,
};
use serde_json::json;
use tokens::Clock;

use crate::{Database, Options, open};

/// A clock that stands where it was put.
pub(crate) struct Stopped(pub(crate) AtomicI64);

impl Clock for Stopped {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct World {
    store: Option<Arc<dyn Database>>,
    pub(crate) clock: Arc<Stopped>,
    pub(crate) url: String,
    server: Option<String>,
    pub(crate) folder: tempfile::TempDir,
    count: u32,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

#[expect(clippy::disallowed_methods, reason = "a test asks which servers it may use")]
pub(crate) fn server(variable: &str) -> Option<String> {
    let found = std::env::var(variable).ok().filter(|url| !url.is_empty());
    if found.is_none() {
        println!("skipped: {variable} is not set");
    }
    found
}

pub(crate) const NOW: i64 = 1_800_000_000;

impl World {
    async fn at(url: String, server: Option<String>, folder: tempfile::TempDir) -> Self {
        let clock = Arc::new(Stopped(AtomicI64::new(NOW * 1000)));
        let mut world = Self { store: None, clock, url, server, folder, count: 0 };
        world.reopen().await;
        world
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::at(format!("sqlite://{}", folder.path().join("doorward.db").display()), None, folder).await
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let server = server("DOORWARD_TEST_POSTGRES")?;
        let url = create(&server).await;
        Some(Self::at(url, Some(server), tempfile::tempdir().expect("a folder")).await)
    }

    /// Another, empty database of the same engine.
    pub(crate) async fn another(&mut self) -> Self {
        match &self.server {
            Some(server) => {
                let url = create(server).await;
                Self::at(url, Some(server.clone()), tempfile::tempdir().expect("a folder")).await
            }
            None => Self::sqlite().await,
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn Database> {
        Arc::clone(self.store.as_ref().expect("open"))
    }

    pub(crate) async fn reopen(&mut self) {
        self.store = None;
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        self.store = Some(open(&self.url, &Options::default(), clock).await.expect("opens"));
    }

    pub(crate) fn unique(&mut self) -> String {
        self.count += 1;
        format!("{:06}", self.count)
    }

    pub(crate) async fn end(mut self) {
        self.store = None;
        if let Some(server) = &self.server {
            let name = self.url.rsplit('/').next().expect("a name");
            execute(server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

async fn create(server: &str) -> String {
    let name = format!("doorward_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    execute(server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    execute(server, format!("CREATE DATABASE {name}")).await;
    let (base, _) = server.rsplit_once('/').expect("postgres://user@host:port/database");
    format!("{base}/{name}")
}

async fn execute(server: &str, sql: String) {
    use sqlx::{Connection as _, Executor as _};
    let mut connection = sqlx::PgConnection::connect(server).await.expect("the server of DOORWARD_TEST_POSTGRES");
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("a database");
}

/// A listener that remembers.
#[derive(Default)]
pub(crate) struct Ear(pub(crate) Mutex<Committed>);

impl Listener for Ear {
    fn committed(&self, batch: &Committed) {
        let mut heard = self.0.lock().expect("no panic");
        heard.events.extend(batch.events.iter().cloned());
        heard.revocations.extend(batch.revocations.iter().cloned());
        heard.head = heard.head.max(batch.head);
    }
}

pub(crate) fn event() -> NewEvent {
    NewEvent::new(EventKind::TokenIssued, NOW * 1000).client("c1").with("n", 1)
}

pub(crate) fn told(step: Step) -> Change {
    Change::new().step(step).event(event())
}

pub(crate) fn artefact(kind: ArtefactKind, id: &[u8]) -> Artefact {
    Artefact {
        kind,
        id: id.to_vec(),
        mac: vec![7; 32],
        grant: None,
        document: "{\"a\":1}".into(),
        created_at: NOW,
        expires_at: NOW + 60,
        consumed_at: None,
        successor: None,
        seq: 3,
    }
}

pub(crate) fn consume(kind: ArtefactKind, id: &[u8], now: i64) -> Step {
    Step::Consume { kind, id: id.to_vec(), now, successor: None }
}

pub(crate) fn grant(id: &str, subject: &str, client: &str) -> Grant {
    Grant {
        id: id.into(),
        subject: subject.into(),
        client_id: client.into(),
        session: Some("s1".into()),
        scope: "a b".into(),
        document: json!({"resource": "https://api", "n": [1, 2]}),
        created_at: NOW,
        expires_at: NOW + 3600,
        ended_at: None,
    }
}

pub(crate) fn session(id: &str, subject: &str) -> Session {
    Session {
        id: id.into(),
        subject: subject.into(),
        auth_time: NOW,
        amr: vec!["pwd".into()],
        created_at: NOW,
        expires_at: NOW + 3600,
        ended_at: None,
        document: json!({"ip": "::1"}),
    }
}

pub(crate) fn object(kind: ObjectKind, id: &str, key: &str) -> Object {
    Object {
        kind, id: id.into(), key: key.into(), document: json!({"id": id, "ü": "'\"\\"}), version: 1, created_at: NOW, updated_at: NOW
    }
}

/// Every event, read in pages.
pub(crate) async fn all_events(store: &Arc<dyn Database>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let page = store.events(all.last().map_or(0, |e| e.seq), 97).await.expect("events");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Walks the whole ledger from its checkpoint to its head.
pub(crate) async fn verify(store: &Arc<dyn Database>) -> Result<u64, chain::Broken> {
    let (seq, hash) = store.checkpoint().await.expect("checkpoint");
    let mut verifier = chain::Verifier::after(seq, hash);
    for event in all_events(store).await.iter().skip_while(|e| e.seq <= seq) {
        verifier.row(event)?;
    }
    let (head, hash) = store.head().await.expect("head");
    verifier.finish(head, &hash)
}
