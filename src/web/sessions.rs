//! A browser's cookie session: tower-sessions on our own store.
//!
//! The store holds a hash of the cookie's value, never the value. What a request changes in its session is kept as [`Step`]s and committed
//! together with whatever the request does, in one transaction; a visit that needs nothing writes nothing.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue};
use ledger::{Artefact, ArtefactKind, Change, Session as SignOn, Step, Store, StoreError};
use parking_lot::Mutex;
use protocol::session_state;
use serde_json::Value;
use time::OffsetDateTime;
use tokens::{Clock, Entropy, hash, id, secret::MacKey};
use tower_sessions::{
    Expiry, Session, SessionStore,
    session::{Id, Record},
    session_store,
};

use crate::{
    App,
    cookies::{Cookie, MOST_TICKETS, Ticket, elsewhere},
};

/// Which single sign-on session the browser is in.
const SIGN_ON: &str = "sid";
/// What the browser's forms and waiting requests are bound to. Never shown.
const BINDING: &str = "binding";

/// Rows of one request: read from the store, written to a list of steps.
struct Rows {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    written: Mutex<Vec<Step>>,
    /// When the row that was read ends.
    until: AtomicI64,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}

fn row(id: &Id) -> Vec<u8> {
    hash::sha256(&[b"browser".as_slice(), &id.0.to_be_bytes()].concat()).to_vec()
}

fn broken(error: impl fmt::Display) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}

impl Rows {
    fn keep(&self, record: &Record) -> session_store::Result<()> {
        let document = serde_json::to_string(&record.data).map_err(|e| session_store::Error::Encode(e.to_string()))?;
        self.written.lock().push(Step::Save(Artefact {
            kind: ArtefactKind::Browser,
            id: row(&record.id),
            mac: Vec::new(),
            grant: None,
            document,
            created_at: self.clock.now(),
            expires_at: record.expiry_date.unix_timestamp(),
            consumed_at: None,
            successor: None,
            seq: 0,
        }));
        Ok(())
    }
}

#[async_trait]
impl SessionStore for Rows {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        record.id = Id(i128::from_be_bytes(random));
        self.keep(record)
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.keep(record)
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let found = self.store.artefact(ArtefactKind::Browser, &row(id)).await.map_err(broken)?;
        let Some(found) = found.filter(|a| a.expires_at > self.clock.now()) else { return Ok(None) };
        let data = serde_json::from_str(&found.document).map_err(|e| session_store::Error::Decode(e.to_string()))?;
        let expiry_date = OffsetDateTime::from_unix_timestamp(found.expires_at).map_err(|e| session_store::Error::Decode(e.to_string()))?;
        self.until.store(found.expires_at, Ordering::Relaxed);
        Ok(Some(Record { id: *id, data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.written.lock().push(Step::Remove { kind: ArtefactKind::Browser, id: row(id) });
        Ok(())
    }
}

/// The browser at the other end.
pub struct Browser {
    session: Session,
    rows: Arc<Rows>,
    cookie: Cookie,
    presented: bool,
    tickets: Vec<Ticket>,
    elsewhere: Option<Elsewhere>,
}

/// What clients of other sites are answered by, where that was chosen.
struct Elsewhere {
    mac: MacKey,
    /// The cookie's value in the request.
    presented: Option<String>,
    /// Its value from now on.
    next: Mutex<Option<String>>,
}

impl Elsewhere {
    fn of(app: &App, headers: &HeaderMap) -> Option<Self> {
        session_state::across_sites(&app.settings).then(|| Self {
            mac: app.mac.clone(),
            presented: elsewhere::read(headers).map(str::to_owned),
            next: Mutex::new(None),
        })
    }

    fn say(&self, value: String) {
        *self.next.lock() = (self.presented.as_ref() != Some(&value)).then_some(value);
    }
}

/// What is known of a browser's login where its own cookie may not come along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The session it is in.
    In(String),
    /// It was in one.
    Out,
    /// Nothing: nobody logged in here, or the browser keeps such cookies to itself.
    Nothing,
}

fn away(error: tower_sessions::session::Error) -> StoreError {
    use tower_sessions::session::Error;
    match error {
        Error::Store(session_store::Error::Backend(why)) => StoreError::Unavailable(why),
        other => StoreError::Corrupt(other.to_string()),
    }
}

impl Browser {
    /// The browser of a request. Nothing is read yet.
    #[must_use]
    pub fn of(app: &App, headers: &HeaderMap) -> Self {
        let cookie = Cookie::of(&app.settings.issuer);
        let presented = cookie.read(headers);
        let rows = Arc::new(Rows {
            store: Arc::clone(&app.store),
            clock: Arc::clone(&app.clock),
            entropy: Arc::clone(&app.entropy),
            written: Mutex::new(Vec::new()),
            until: AtomicI64::new(0),
        });
        let known: Option<Id> = presented.and_then(|value| value.parse().ok());
        let session = Session::new(known, Arc::clone(&rows), None);
        let elsewhere = Elsewhere::of(app, headers);
        Self { session, rows, cookie, presented: presented.is_some(), tickets: cookie.tickets(headers), elsewhere }
    }

    async fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        if self.session.id().is_none() && !self.session.is_modified() {
            return Ok(None);
        }
        Ok(self.session.get_value(name).await.map_err(away)?.and_then(|v| v.as_str().map(str::to_owned)))
    }

    /// What this browser's forms are bound to, if it has any.
    pub async fn binding(&self) -> Result<Option<String>, StoreError> {
        self.text(BINDING).await
    }

    /// Of all that waiting requests of this browser may be bound to, the one that is meant.
    pub async fn bound(&self, meant: impl Fn(&str) -> bool) -> Result<Option<String>, StoreError> {
        let own = self.binding().await?.filter(|own| meant(own));
        // The last first: they are what is tied to.
        Ok(own.or_else(|| {
            self.tickets.iter().rev().filter_map(Ticket::value).take(MOST_TICKETS).find(|ticket| meant(ticket)).map(str::to_owned)
        }))
    }

    /// What a request that waits until `expires_at` is bound to: the browser's session, or without one a ticket with a cookie of its own.
    pub async fn tie(&self, expires_at: i64) -> Result<(String, Option<HeaderValue>), StoreError> {
        if self.binding().await?.is_some() {
            return Ok((self.bind(expires_at).await?, None));
        }
        let ticket = self
            .tickets
            .iter()
            .rev()
            .find_map(Ticket::value)
            .map(str::to_owned)
            .unwrap_or_else(|| id::random_text(self.rows.entropy.as_ref(), 32));
        let cookie = self.cookie.ticket(&ticket, expires_at - self.rows.clock.now());
        Ok((ticket, cookie))
    }

    /// What this browser's forms are bound to, from now on until `expires_at`.
    pub async fn bind(&self, expires_at: i64) -> Result<String, StoreError> {
        if let Some(binding) = self.binding().await? {
            // A row that ends long before what is bound to it is prolonged; one that nearly lasts is left alone.
            let (until, now) = (self.rows.until.load(Ordering::Relaxed), self.rows.clock.now());
            if until != 0 && until < now + (expires_at - now) / 2 {
                self.live_until(expires_at);
            }
            return Ok(binding);
        }
        let binding = id::random_text(self.rows.entropy.as_ref(), 32);
        self.session.insert_value(BINDING, Value::String(binding.clone())).await.map_err(away)?;
        self.live_until(expires_at);
        Ok(binding)
    }

    fn live_until(&self, expires_at: i64) {
        self.rows.until.store(expires_at, Ordering::Relaxed);
        let at = OffsetDateTime::from_unix_timestamp(expires_at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        self.session.set_expiry(Some(Expiry::AtDateTime(at)));
    }

    /// The live single sign-on session this browser is in.
    pub async fn sign_on(&self) -> Result<Option<SignOn>, StoreError> {
        let Some(sid) = self.text(SIGN_ON).await? else { return Ok(None) };
        let found = self.live(&sid).await?;
        if let (Some(elsewhere), Some(session)) = (&self.elsewhere, &found) {
            elsewhere.say(session_state::reference(&session.id, &elsewhere.mac));
        }
        Ok(found)
    }

    async fn live(&self, sid: &str) -> Result<Option<SignOn>, StoreError> {
        let now = self.rows.clock.now();
        Ok(self.rows.store.session(sid).await?.filter(|s| s.ended_at.is_none() && s.expires_at > now))
    }

    /// What the cookie for clients of other sites tells of the login; nothing where that was not chosen.
    pub async fn seen(&self) -> Result<Seen, StoreError> {
        let Some(elsewhere) = &self.elsewhere else { return Ok(Seen::Nothing) };
        let Some(value) = &elsewhere.presented else { return Ok(Seen::Nothing) };
        match session_state::referred(value, &elsewhere.mac) {
            Some(sid) => Ok(self.live(sid).await?.map_or(Seen::Out, |session| Seen::In(session.id))),
            None if value == session_state::ENDED => Ok(Seen::Out),
            None => Ok(Seen::Nothing),
        }
    }

    /// Puts the browser into a session. Its cookie changes: one that somebody planted before is worth nothing.
    pub async fn sign_in(&self, session: &SignOn) -> Result<(), StoreError> {
        self.bind(session.expires_at).await?;
        self.session.cycle_id().await.map_err(away)?;
        self.session.insert_value(SIGN_ON, Value::String(session.id.clone())).await.map_err(away)?;
        self.live_until(session.expires_at);
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.say(session_state::reference(&session.id, &elsewhere.mac));
        }
        Ok(())
    }

    /// Forgets the browser: row and cookie go.
    pub async fn sign_out(&self) -> Result<(), StoreError> {
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.say(session_state::ENDED.to_owned());
        }
        self.session.flush().await.map_err(away)
    }

    /// Adds what changed in the browser's session to a change, and says which `Set-Cookie` lines belong to it.
    pub async fn seal(&self, change: Change) -> Result<(Change, Vec<HeaderValue>), StoreError> {
        let empty = self.session.is_empty().await;
        if self.session.is_modified() && !empty {
            self.session.save().await.map_err(away)?;
        }
        let steps = std::mem::take(&mut *self.rows.written.lock());
        let cookie = match self.session.id() {
            Some(id) if steps.iter().any(|s| matches!(s, Step::Save(_))) => self.cookie.set(&id.to_string()),
            None if self.presented && empty => self.cookie.remove(),
            _ => None,
        };
        let state = self.elsewhere.as_ref().and_then(|e| e.next.lock().take()).and_then(|value| elsewhere::set(&value));
        let cookies = cookie.into_iter().chain(state).collect();
        Ok((Change { steps: change.steps.into_iter().chain(steps).collect(), events: change.events }, cookies))
    }
}
