//! Fills a database with what a deployment holds after years: clients, devices, users, opaque tokens, grants with refresh tokens, and the
//! ledger that tells of them. Rows are made by the server's own code under the database's own keys, so every token and secret works; only
//! the writing is done in big transactions (SQLite without syncing, PostgreSQL by COPY). The server must not run meanwhile.
//!
//! `growth <doorward.toml> <tokens> <sample file> [<clients> <devices> <users>]`: half of the tokens are opaque access tokens, a quarter
//! grants, a quarter their refresh tokens; there are a fiftieth as many clients, a fifth as many devices. The database must have been
//! seeded with the clients `bench` and `app`, the user `alice` and the resource servers of `scripts/bench.d/seed.json`.
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, bail};
use doorward::{config::Config, foundation::Foundation};
use ledger::{Artefact, ArtefactKind, Change, EventKind, Grant, NewEvent, Object, ObjectKind, Step, chain};
use protocol::{
    Client, Evidence, ResourceServer, Scope,
    client_auth::KnownClient,
    issue::{self, Order},
    stored::{Authentication, GrantDocument, RefreshDocument},
};
use serde_json::{Value, json};
use tokens::{
    id,
    secret::{self, SecretKind},
};

/// Tables with their columns, as the statements of the store name them.
const TABLES: [(&str, &str, usize); 5] = [
    ("objects", "kind, id, natural_key, document, version, created_at, updated_at", 7),
    ("secrets", "kind, id, slot, value", 4),
    ("grants", "id, subject, client_id, session, scope, document, created_at, expires_at, ended_at", 9),
    ("artefacts", "kind, id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq", 10),
    ("events", "seq, at_ms, kind, document, hash", 5),
];
/// Rows in one transaction of SQLite.
const AT_ONCE: u64 = 200_000;

/// One value of one column.
enum Cell {
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
    Null,
}

/// Where rows go.
enum Sink {
    Sqlite(rusqlite::Connection, BTreeMap<&'static str, String>),
    Postgres(Vec<(&'static str, Child, BufWriter<ChildStdin>)>, String),
}

impl Sink {
    fn open(url: &str) -> anyhow::Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            let connection = rusqlite::Connection::open(path)?;
            connection.execute_batch(
                "PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000; PRAGMA wal_autocheckpoint = 100000; PRAGMA mmap_size = 0; BEGIN",
            )?;
            let statement = |(table, columns, n): (&'static str, &str, usize)| {
                let places = (1..=n).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
                (table, format!("INSERT INTO {table} ({columns}) VALUES ({places})"))
            };
            return Ok(Self::Sqlite(connection, TABLES.into_iter().map(statement).collect()));
        }
        let copy = |(table, columns, _): (&'static str, &str, usize)| {
            let sql = format!("COPY {table} ({columns}) FROM STDIN");
            let mut child = Command::new("psql").args(["-q", "-v", "ON_ERROR_STOP=1", url, "-c", &sql]).stdin(Stdio::piped()).spawn()?;
            let stdin = child.stdin.take().context("psql reads nothing")?;
            Ok((table, child, BufWriter::with_capacity(1 << 20, stdin)))
        };
        Ok(Self::Postgres(TABLES.into_iter().map(copy).collect::<anyhow::Result<_>>()?, url.to_owned()))
    }

    fn row(&mut self, table: &'static str, cells: Vec<Cell>) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(connection, statements) => {
                let mut statement = connection.prepare_cached(statements.get(table).context("no such table")?)?;
                let values = cells.into_iter().map(|cell| match cell {
                    Cell::Int(v) => rusqlite::types::Value::Integer(v),
                    Cell::Text(v) => rusqlite::types::Value::Text(v),
                    Cell::Blob(v) => rusqlite::types::Value::Blob(v),
                    Cell::Null => rusqlite::types::Value::Null,
                });
                statement.execute(rusqlite::params_from_iter(values))?;
            }
            Self::Postgres(copies, _) => {
                let (_, _, out) = copies.iter_mut().find(|(name, ..)| *name == table).context("no such table")?;
                for (at, cell) in cells.iter().enumerate() {
                    if at > 0 {
                        out.write_all(b"\t")?;
                    }
                    match cell {
                        Cell::Int(v) => write!(out, "{v}")?,
                        Cell::Text(v) => out.write_all(v.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").as_bytes())?,
                        Cell::Blob(v) => {
                            out.write_all(b"\\\\x")?;
                            v.iter().try_for_each(|b| write!(out, "{b:02x}"))?;
                        }
                        Cell::Null => out.write_all(b"\\N")?,
                    }
                }
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn pause(&self) -> anyhow::Result<()> {
        if let Self::Sqlite(connection, _) = self {
            connection.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn finish(self, head: u64, hash: &[u8; 32]) -> anyhow::Result<()> {
        let hash = chain::hex::encode(hash);
        match self {
            Self::Sqlite(connection, _) => {
                let end = "COMMIT; PRAGMA synchronous = FULL; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)";
                connection.execute_batch(&format!("UPDATE chain SET seq = {head}, hash = x'{hash}'; {end}"))?;
            }
            Self::Postgres(copies, url) => {
                for (table, mut child, out) in copies {
                    drop(out.into_inner().map_err(std::io::IntoInnerError::into_error)?);
                    if !child.wait()?.success() {
                        bail!("{table} could not be filled");
                    }
                }
                let sql = format!("UPDATE chain SET seq = {head}, hash = decode('{hash}', 'hex')");
                for sql in [sql.as_str(), "VACUUM ANALYZE", "CHECKPOINT"] {
                    if !Command::new("psql").args(["-q", "-v", "ON_ERROR_STOP=1", &url, "-c", sql]).status()?.success() {
                        bail!("{sql}");
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is written, and the ledger that tells of it.
struct Fill {
    sink: Sink,
    head: u64,
    hash: [u8; 32],
    rows: u64,
}

impl Fill {
    fn row(&mut self, table: &'static str, cells: Vec<Cell>) -> anyhow::Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(AT_ONCE) {
            self.sink.pause()?;
        }
        self.sink.row(table, cells)
    }

    /// What the store makes of a change of these kinds of steps.
    fn apply(&mut self, change: Change) -> anyhow::Result<()> {
        for step in change.steps {
            match step {
                Step::Put(a) => {
                    let grant = a.grant.map_or(Cell::Null, Cell::Text);
                    let (created, expires) = (Cell::Int(a.created_at), Cell::Int(a.expires_at));
                    let (kind, seq) = (Cell::Text(a.kind.as_str().to_owned()), Cell::Int(i64::try_from(a.seq)?));
                    let (id, mac, document) = (Cell::Blob(a.id), Cell::Blob(a.mac), Cell::Text(a.document));
                    self.row("artefacts", vec![kind, id, mac, grant, document, created, expires, Cell::Null, Cell::Null, seq])?;
                }
                Step::StartGrant(g) => {
                    let session = g.session.map_or(Cell::Null, Cell::Text);
                    let (scope, document) = (Cell::Text(g.scope), Cell::Text(g.document.to_string()));
                    let (created, expires) = (Cell::Int(g.created_at), Cell::Int(g.expires_at));
                    let (id, subject, client) = (Cell::Text(g.id), Cell::Text(g.subject), Cell::Text(g.client_id));
                    self.row("grants", vec![id, subject, client, session, scope, document, created, expires, Cell::Null])?;
                }
                Step::CreateObject(o) => {
                    let (kind, document) = (Cell::Text(o.kind.as_str().to_owned()), Cell::Text(o.document.to_string()));
                    let (version, created) = (Cell::Int(o.version), Cell::Int(o.created_at));
                    self.row(
                        "objects",
                        vec![kind, Cell::Text(o.id), Cell::Text(o.key), document, version, created, Cell::Int(o.updated_at)],
                    )?;
                }
                Step::PutSecret { kind, id, slot, value } => {
                    let kind = Cell::Text(kind.as_str().to_owned());
                    self.row("secrets", vec![kind, Cell::Text(id), Cell::Text(slot), Cell::Blob(value)])?;
                }
                _ => {}
            }
        }
        for event in change.events {
            let (seq, kind, document) = (self.head + 1, event.kind.as_str(), event.document());
            self.hash = chain::link(&self.hash, seq, event.at_ms, kind, &document);
            self.head = seq;
            let cells = vec![
                Cell::Int(i64::try_from(seq)?),
                Cell::Int(event.at_ms),
                Cell::Text(kind.to_owned()),
                Cell::Text(document),
                Cell::Blob(self.hash.to_vec()),
            ];
            self.row("events", cells)?;
        }
        Ok(())
    }
}

/// An object like another one, under another name.
fn created(kind: ObjectKind, id: &str, key: &str, document: Value, at_ms: i64) -> Change {
    let now = at_ms.div_euclid(1000);
    let object = Object { kind, id: id.to_owned(), key: key.to_owned(), document, version: 1, created_at: now, updated_at: now };
    let told = NewEvent::new(EventKind::ObjectCreated, at_ms).with("actor", "cli:seed").with("object", kind.as_str()).with("id", id);
    Change::new().step(Step::CreateObject(object)).event(told)
}

fn with(document: &Value, members: &[(&str, &str)]) -> Value {
    let mut document = document.clone();
    for (name, value) in members {
        if let Some(member) = document.get_mut(*name) {
            *member = json!(value);
        }
    }
    document
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [config, tokens, sample, more @ ..] = arguments.as_slice() else {
        bail!("growth <doorward.toml> <tokens> <sample file> [<clients> <devices> <users>]");
    };
    let config = Config::load(std::path::Path::new(config)).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
    let tokens: u64 = tokens.parse()?;
    let size = |at: usize, usual: u64| more.get(at).map_or(Ok(usual), |text| text.parse::<u64>());
    let (clients, devices, users) = (size(0, tokens / 50)?, size(1, tokens / 5)?, size(2, tokens / 50)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(&config, tokens, (clients, devices, users), File::create(sample)?))
}

async fn fill(config: &Config, tokens: u64, (clients, devices, users): (u64, u64, u64), sample: File) -> anyhow::Result<()> {
    let foundation = Foundation::open(config, false).await?;
    let (head, hash) = foundation.database.head().await?;
    let read = async |kind: ObjectKind, name: &str| {
        let found = match foundation.store.object(kind, name).await? {
            Some(found) => Some(found),
            None => foundation.store.object_by_key(kind, name).await?,
        };
        found.with_context(|| format!("{} {name} is not there: seed it first", kind.as_str()))
    };
    let (bench, app, alice) =
        (read(ObjectKind::Client, "bench").await?, read(ObjectKind::Client, "app").await?, read(ObjectKind::User, "alice").await?);
    let opaque: ResourceServer = serde_json::from_value(read(ObjectKind::ResourceServer, "urn:bench:opaque").await?.document)?;
    let password = foundation.store.secret(ObjectKind::User, &alice.id, "password").await?.context("alice has no password")?;
    let (mac, entropy, ring) = (foundation.mac(), foundation.entropy.clone(), foundation.keys()?.ring().load_full());
    let (settings, clock) = (foundation.settings.clone(), foundation.clock.clone());
    let evidence = Evidence::default();
    drop(foundation);

    let mut fill = Fill { sink: Sink::open(config.storage_url.expose())?, head, hash, rows: 0 };
    let mut sample = BufWriter::new(sample);
    let now_ms = clock.now_ms();
    // As if issued one after the other in the hour before now.
    let at = |n: u64, of: u64| now_ms - 3_600_000 + i64::try_from(n.saturating_mul(3_590_000) / of.max(1)).unwrap_or(0);
    let kept = |n: u64, of: u64| n.is_multiple_of((of / 20_000).max(1));

    for n in 0..clients {
        let (at_ms, name) = (at(n, clients), format!("client-{n:09}"));
        let plain = secret::generate(SecretKind::ClientSecret, at_ms, &*entropy, &mac).plain;
        let value = mac.mac(KnownClient::DOMAIN, plain.expose().as_bytes()).to_vec();
        let put = Step::PutSecret { kind: ObjectKind::Client, id: name.clone(), slot: KnownClient::SECRET.to_owned(), value };
        fill.apply(created(ObjectKind::Client, &name, &name, with(&bench.document, &[("client_id", &name)]), at_ms).step(put))?;
        if kept(n, clients) {
            writeln!(sample, "{}", json!({ "client": name, "secret": plain.expose() }))?;
        }
    }
    let mut subjects = Vec::new();
    for n in 0..users {
        let (at_ms, name) = (at(n, users), format!("user-{n:09}"));
        let sub = id::new_text(at_ms, &*entropy);
        let put = Step::PutSecret { kind: ObjectKind::User, id: sub.clone(), slot: "password".to_owned(), value: password.clone() };
        let document = with(&alice.document, &[("id", &sub), ("username", &name), ("email", &format!("{name}@bench.test"))]);
        fill.apply(created(ObjectKind::User, &sub, &name, document, at_ms).step(put))?;
        if kept(n, users) {
            writeln!(sample, "{}", json!({ "user": name, "sub": sub }))?;
        }
        subjects.push(sub);
    }
    for n in 0..devices {
        let (at_ms, name) = (at(n, devices), format!("device-{n:09}"));
        let digest = tokens::hash::sha256(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let certificates = json!([{ "sha256": digest }]);
        let document = json!({ "id": name, "name": format!("Meter {n}"), "type": "meter", "groups": ["field"], "disabled": false, "certificates": certificates });
        let mark = format!("sha256|{digest}");
        let now = at_ms.div_euclid(1000);
        let row = Object {
            kind: ObjectKind::DeviceBinding,
            id: mark.clone(),
            key: mark,
            document: json!({ "device": name }),
            version: 1,
            created_at: now,
            updated_at: now,
        };
        fill.apply(created(ObjectKind::Device, &name, &name, document, at_ms).step(Step::CreateObject(row)))?;
    }

    let mut record: Client = serde_json::from_value(bench.document.clone())?;
    record.access_token_ttl = Some("24h".to_owned());
    let app: Client = serde_json::from_value(app.document)?;
    let (scope, app_scope) = (Scope::parse("read").ok().context("scope")?, "offline_access openid read".to_owned());
    let (accesses, grants) = (tokens / 2, tokens / 4);
    for n in 0..accesses {
        let now_ms = at(n, accesses);
        if clients > 0 {
            record.client_id = format!("client-{:09}", n % clients);
        }
        let context = issue::Context {
            settings: &settings,
            keys: &ring,
            mac: &mac,
            entropy: &*entropy,
            now_ms,
            head: fill.head,
            evidence: &evidence,
            slots: None,
        };
        let order = Order {
            client: &record,
            server: Some(&opaque),
            audience: "urn:bench:opaque",
            subject: &record.client_id,
            grant: None,
            session: None,
            scope: &scope,
            authentication: None,
            user: None,
            grant_type: "client_credentials",
            confirmation: None,
            details: None,
            actor: None,
            from: None,
            device: None,
        };
        let access = issue::access_token(&context, &order).map_err(|_| anyhow::anyhow!("no token could be issued"))?;
        if kept(n, accesses) {
            writeln!(sample, "{}", json!({ "access": access.text.expose() }))?;
        }
        fill.apply(access.change)?;
    }
    for n in 0..grants {
        let at_ms = at(n, grants);
        let now = at_ms.div_euclid(1000);
        let (grant, session) = (id::new_text(at_ms, &*entropy), id::new_text(at_ms, &*entropy));
        let of = usize::try_from(n.wrapping_mul(7919)).unwrap_or(0).checked_rem(subjects.len()).and_then(|at| subjects.get(at));
        let subject = of.cloned().unwrap_or_else(|| alice.id.clone());
        let authentication = Authentication { auth_time: now, acr: Some("1".to_owned()), amr: vec!["pwd".to_owned()] };
        let (resource, ends) = ("urn:bench:es256".to_owned(), now + settings.refresh_token_ttl);
        let document = GrantDocument { resource: resource.clone(), authentication: authentication.clone(), ..GrantDocument::default() };
        let row = Grant {
            id: grant.clone(),
            subject: subject.clone(),
            client_id: app.client_id.clone(),
            session: Some(session.clone()),
            scope: app_scope.clone(),
            document: json!(document),
            created_at: now,
            expires_at: ends,
            ended_at: None,
        };
        let refresh = RefreshDocument {
            client_id: app.client_id.clone(),
            subject: subject.clone(),
            session: Some(session.clone()),
            scope: app_scope.clone(),
            resource: resource.clone(),
            authentication,
            family_expires_at: ends,
            ..RefreshDocument::default()
        };
        let mut nonce = [0; 16];
        entropy.fill(&mut nonce);
        let issued = secret::link(SecretKind::Refresh, id::new_id(at_ms, &*entropy), nonce, &mac);
        let put = Artefact {
            kind: ArtefactKind::Refresh,
            id: issued.id.to_vec(),
            mac: issued.mac.to_vec(),
            grant: Some(grant.clone()),
            document: serde_json::to_string(&refresh)?,
            created_at: now,
            expires_at: ends.min(now + settings.refresh_idle),
            consumed_at: None,
            successor: None,
            seq: fill.head,
        };
        let told = NewEvent::new(EventKind::GrantStarted, at_ms).subject(&subject).client(&app.client_id).grant(&grant).session(&session);
        let told = told.with("scope", app_scope.as_str()).with("resource", resource.as_str());
        fill.apply(Change::new().step(Step::StartGrant(row)).step(Step::Put(put)).event(told))?;
        if kept(n, grants) {
            writeln!(sample, "{}", json!({ "refresh": issued.plain.expose(), "grant": grant, "sub": subject }))?;
        }
    }
    sample.flush()?;
    let (head, hash) = (fill.head, fill.hash);
    fill.sink.finish(head, &hash)
}
