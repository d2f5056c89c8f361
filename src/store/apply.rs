//! One batch of changes in one transaction: their steps in order, their events chained, their revocations placed.
use ahash::AHashMap;
use ledger::{Artefact, Change, Committed, Event, Guarded, ObjectKind, Outcome, Revocation, Step, StoreError, chain};

use crate::{
    exec::{Exec, Value, Write, args, place, row},
    group::{self, Reads},
    statements::{self as sql, Many, SIZES},
};

/// What became of one change.
pub(crate) type Answer = Result<Outcome, StoreError>;

/// An event whose text is ready; only its place and hash are missing.
#[derive(Debug)]
pub(crate) struct Told {
    at_ms: i64,
    kind: &'static str,
    document: String,
}

/// A change as the writer takes it: event texts are made by the caller, not by the one writer.
#[derive(Debug)]
pub(crate) struct Ask {
    steps: Vec<Step>,
    events: Vec<Told>,
}

impl Ask {
    /// What was asked for, once it is done.
    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl From<Change> for Ask {
    fn from(change: Change) -> Self {
        let told = |e: &ledger::NewEvent| Told { at_ms: e.at_ms, kind: e.kind.as_str(), document: e.document() };
        Self { events: change.events.iter().map(told).collect(), steps: change.steps }
    }
}

/// A committed transaction.
#[derive(Debug)]
pub(crate) struct Done {
    /// One for each change, in order.
    pub(crate) answers: Vec<Answer>,
    /// The head the transaction began on.
    pub(crate) before: u64,
    /// What to tell the listeners.
    pub(crate) committed: Committed,
}

/// Applies changes in one transaction. A refused change leaves nothing and does not disturb its neighbours.
///
/// The first pass runs without savepoints and stores new short-lived things last, many rows a statement. Only if a
/// change fails after it has written is everything undone and run again with a savepoint around each change.
pub(crate) async fn commit<W: Write>(w: &mut W, asks: &[Ask]) -> Result<Done, StoreError> {
    match attempt(w, asks).await {
        Ok(done) => Ok(done),
        // Sent to be committed and certainly not committed, now or later: once more, by what stands there now.
        Err(_) if w.undone() => match attempt(w, asks).await {
            Err(fault) => {
                w.rollback().await;
                Err(fault)
            }
            done => done,
        },
        Err(fault) => {
            w.rollback().await;
            Err(fault)
        }
    }
}

async fn attempt<W: Write>(w: &mut W, asks: &[Ask]) -> Result<Done, StoreError> {
    let mut batch = Batch::on(w.begin().await?);
    let answers = match batch.together(w, asks).await? {
        Some(answers) => answers,
        None => {
            w.rollback().await;
            batch = Batch::on(w.begin().await?);
            batch.apart(w, asks).await?
        }
    };
    batch.finish(w, answers).await
}

struct Batch<'a> {
    before: u64,
    hash: [u8; 32],
    puts: Vec<&'a Artefact>,
    /// Versions of objects as this transaction has seen them: every token of a client asks for the same one.
    versions: AHashMap<(ObjectKind, &'a str), Option<i64>>,
    committed: Committed,
}

/// How one change went.
enum Went {
    Well,
    /// The guard at this step refused; nothing was written before it.
    Refused(usize),
    /// The guard at this step refused after something was written.
    Dirty(usize),
}

impl<'a> Batch<'a> {
    fn on((before, hash): (u64, [u8; 32])) -> Self {
        let committed = Committed { head: before, ..Committed::default() };
        Self { before, hash, puts: Vec::new(), versions: AHashMap::new(), committed }
    }

    /// The quick pass. `None`: a change has to be undone on its own.
    async fn together<W: Write>(&mut self, w: &mut W, asks: &'a [Ask]) -> Result<Option<Vec<Answer>>, StoreError> {
        let mut answers = Vec::with_capacity(asks.len());
        while let Some((ask, _)) = asks.get(answers.len()..).and_then(<[Ask]>::split_first) {
            if W::TOGETHER && asks.len() > 1 {
                let once = |ask: &Ask| matches!(ask.steps.first(), Some(Step::Put(_)));
                let rest = asks.get(answers.len()..).unwrap_or_default();
                let rest = rest.iter().position(once).and_then(|at| rest.get(..at)).unwrap_or(rest);
                match self.run(w, rest, &mut answers).await {
                    Ok(0) => {}
                    Ok(_) => continue,
                    Err(fault @ StoreError::Unavailable(_)) => return Err(fault),
                    Err(_) => return Ok(None),
                }
            }
            let (puts, revocations) = (self.puts.len(), self.committed.revocations.len());
            match self.steps(w, ask, (true, asks.len() > 1)).await {
                Ok(Went::Well) => answers.push(Ok(self.tell(ask))),
                Ok(Went::Refused(step)) => {
                    self.puts.truncate(puts);
                    self.committed.revocations.truncate(revocations);
                    answers.push(Ok(Outcome::Refused(Guarded { step })));
                }
                // Alone in its transaction: undoing the transaction undoes the change.
                Ok(Went::Dirty(step)) if asks.len() == 1 => return Ok(Some(vec![Ok(Outcome::Refused(Guarded { step }))])),
                Ok(Went::Dirty(_)) => return Ok(None),
                Err(fault @ StoreError::Unavailable(_)) => return Err(fault),
                Err(_) if asks.len() > 1 => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
        let wanted = self.puts.len() as u64;
        match w.put(&self.puts).await {
            Ok(stored) => Ok((stored == wanted).then_some(answers)),
            Err(StoreError::Corrupt(_)) if asks.len() > 1 => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Decides the run that these changes begin with, together; returns how many it had. One alone is none.
    async fn run<W: Write>(&mut self, w: &mut W, asks: &'a [Ask], answers: &mut Vec<Answer>) -> Result<usize, StoreError> {
        let run = group::run(asks.iter().map(|ask| ask.steps.as_slice()));
        if run.len() < 2 {
            return Ok(0);
        }
        let reads: Vec<Reads<'_>> = run.iter().flat_map(|plain| plain.reads.iter().map(|(_, read)| *read)).collect();
        let mut stands = if reads.is_empty() { Vec::new() } else { w.stand(&reads).await? }.into_iter();
        // The first guard of each that refuses, if one does; who is not refused takes.
        let refused: Vec<Option<usize>> = run
            .iter()
            .map(|plain| {
                let all = plain.reads.iter().map(|(at, _)| (*at, stands.next().unwrap_or(false))).collect::<Vec<_>>();
                all.into_iter().find(|(_, stands)| !stands).map(|(at, _)| at)
            })
            .collect();
        let through = |refused: &Option<usize>| refused.is_none();
        let takes =
            run.iter().zip(&refused).filter(|(_, r)| through(r)).filter_map(|(p, _)| p.takes.map(|(_, takes)| takes)).collect::<Vec<_>>();
        let mut taken = if takes.is_empty() { Vec::new() } else { w.take(&takes).await? }.into_iter();
        for ((plain, refused), ask) in run.iter().zip(refused).zip(asks) {
            let refused = refused.or_else(|| plain.takes.filter(|_| !taken.next().unwrap_or(false)).map(|(at, _)| at));
            answers.push(Ok(match refused {
                Some(step) => Outcome::Refused(Guarded { step }),
                None => {
                    self.puts.extend(&plain.puts);
                    self.tell(ask)
                }
            }));
        }
        Ok(run.len())
    }

    /// The careful pass: a savepoint around each change.
    async fn apart<W: Write>(&mut self, w: &mut W, asks: &'a [Ask]) -> Result<Vec<Answer>, StoreError> {
        let mut answers = Vec::with_capacity(asks.len());
        for ask in asks {
            w.run(sql::SAVEPOINT, &[]).await?;
            let revocations = self.committed.revocations.len();
            let answer = match self.steps(w, ask, (false, true)).await {
                Ok(Went::Well) => Ok(self.tell(ask)),
                Ok(Went::Refused(step) | Went::Dirty(step)) => Ok(Outcome::Refused(Guarded { step })),
                Err(fault @ StoreError::Unavailable(_)) => return Err(fault),
                Err(fault) => Err(fault),
            };
            if !matches!(answer, Ok(Outcome::Applied { .. })) {
                self.committed.revocations.truncate(revocations);
                self.versions.clear();
                w.run(sql::ROLLBACK_TO, &[]).await?;
            }
            w.run(sql::RELEASE, &[]).await?;
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn finish<W: Write>(self, w: &mut W, answers: Vec<Answer>) -> Result<Done, StoreError> {
        if !answers.iter().any(|a| matches!(a, Ok(Outcome::Applied { .. }))) {
            w.rollback().await;
            return Ok(Done { answers, before: self.before, committed: Committed { head: self.before, ..Committed::default() } });
        }
        let head = self.committed.head;
        let moved = head != self.before;
        if moved {
            w.append(&self.committed.events, head, &self.hash).await?;
        }
        w.commit(moved.then_some(head)).await?;
        Ok(Done { answers, before: self.before, committed: self.committed })
    }

    /// Gives the events of an applied change their places.
    fn tell(&mut self, ask: &Ask) -> Outcome {
        for Told { at_ms, kind, document } in &ask.events {
            let seq = self.committed.head + 1;
            self.hash = chain::link(&self.hash, seq, *at_ms, kind, document);
            let (kind, document) = ((*kind).to_owned(), document.clone());
            self.committed.events.push(Event { seq, at_ms: *at_ms, kind, document, hash: self.hash });
            self.committed.head = seq;
        }
        Outcome::Applied { seq: self.committed.head }
    }

    async fn steps<E: Exec>(&mut self, e: &mut E, ask: &'a Ask, (later, shared): (bool, bool)) -> Result<Went, StoreError> {
        let mut doing = Doing { e, wrote: false };
        for (at, step) in ask.steps.iter().enumerate() {
            let went_on = match step {
                // What a change begins with is there to be stored once: one that comes again is refused before it has disturbed anybody.
                Step::Put(artefact) if later && at == 0 && shared => {
                    let free = !doing.found(sql::ARTEFACT, args![artefact.kind.as_str(), &artefact.id]).await?;
                    if free {
                        self.puts.push(artefact);
                    }
                    free
                }
                Step::Put(artefact) if later => {
                    self.puts.push(artefact);
                    true
                }
                Step::Revoke(revocation) => {
                    let last = self.committed.head + ask.events.len() as u64;
                    if ask.events.is_empty() {
                        return Err(StoreError::Corrupt("a revocation came without the event that places it".into()));
                    }
                    let revocation = Revocation { seq: last, ..revocation.clone() };
                    doing.revoke(&revocation).await?;
                    self.committed.revocations.push(revocation);
                    true
                }
                Step::ObjectIs { kind, id, version } => {
                    let stands = match self.versions.get(&(*kind, id.as_str())) {
                        Some(seen) => *seen,
                        None => {
                            let read = doing.version(*kind, id).await?;
                            self.versions.insert((*kind, id), read);
                            read
                        }
                    };
                    stands == Some(*version)
                }
                other => {
                    if matches!(other, Step::CreateObject(_) | Step::ReplaceObject { .. } | Step::DeleteObject { .. }) {
                        self.versions.clear();
                    }
                    doing.step(other).await?
                }
            };
            if !went_on {
                return Ok(if doing.wrote { Went::Dirty(at) } else { Went::Refused(at) });
            }
        }
        Ok(Went::Well)
    }
}

/// A change being run: remembers whether it has left anything yet.
struct Doing<'e, E> {
    e: &'e mut E,
    wrote: bool,
}

impl<E: Exec> Doing<'_, E> {
    /// Runs a statement that must touch exactly one row.
    async fn one(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<bool, StoreError> {
        let touched = self.e.run(sql, args).await?;
        self.wrote |= touched > 0;
        Ok(touched == 1)
    }

    /// Runs a statement that may touch any number of rows.
    async fn any(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<bool, StoreError> {
        self.wrote |= self.e.run(sql, args).await? > 0;
        Ok(true)
    }

    async fn found(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<bool, StoreError> {
        Ok(row(self.e, sql, args).await?.is_some())
    }

    /// The version of an object, if it exists.
    async fn version(&mut self, kind: ObjectKind, id: &str) -> Result<Option<i64>, StoreError> {
        row(self.e, sql::VERSION, args![kind.as_str(), id]).await?.map(|mut r| r.int()).transpose()
    }

    async fn revoke(&mut self, r: &Revocation) -> Result<bool, StoreError> {
        self.any(sql::REVOKE, args![r.kind.as_str(), &r.id, place(r.seq)?, r.at_ms, r.expires_at]).await
    }

    /// Runs one step; `false` if its guard refused.
    async fn step(&mut self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::Consume { kind, id, now, successor } => self.one(sql::CONSUME, args![*now, successor, kind.as_str(), id]).await,
            Step::Extend { kind, id, now, expires_at } => self.one(sql::EXTEND, args![*expires_at, kind.as_str(), id, *now]).await,
            Step::Rotate { kind, id, now, from, to, expires_at, born, seq } => {
                self.one(sql::ROTATE, args![to, *now, *expires_at, born, place(*seq)?, kind.as_str(), id, from]).await
            }
            Step::Put(a) => {
                let mut values = Vec::with_capacity(10);
                a.columns(&mut values);
                self.one(smallest(&sql::PUT_ARTEFACTS), &values).await
            }
            Step::Save(a) => {
                let mut values = Vec::with_capacity(10);
                a.columns(&mut values);
                self.any(sql::SAVE, &values).await
            }
            Step::Remove { kind, id } => self.any(sql::REMOVE, args![kind.as_str(), id]).await,
            Step::EndApiKeysOf { owner } => self.any(sql::END_API_KEYS_OF, args![owner]).await,
            Step::GrantLive { .. }
            | Step::StartGrant(_)
            | Step::UpdateGrant { .. }
            | Step::EndGrant { .. }
            | Step::EndGrantsOf { .. }
            | Step::EndGrantsOfSession { .. }
            | Step::PutConsent(_)
            | Step::ForgetConsents { .. }
            | Step::ForgetConsentsOfClient { .. } => self.grant_step(step).await,
            Step::SessionLive { .. }
            | Step::StartSession(_)
            | Step::UpdateSession(_)
            | Step::EndSession { .. }
            | Step::EndSessionsOf { .. } => self.session_step(step).await,
            Step::ObjectIs { .. }
            | Step::CreateObject(_)
            | Step::ReplaceObject { .. }
            | Step::DeleteObject { .. }
            | Step::PutSecret { .. }
            | Step::RemoveSecret { .. } => self.object_step(step).await,
            Step::PutKey(_)
            | Step::MoveKey { .. }
            | Step::RemoveKey { .. }
            | Step::InitMeta { .. }
            | Step::PutMeta { .. }
            | Step::RemoveMeta { .. } => self.key_step(step).await,
            Step::Revoke(r) => self.revoke(r).await,
        }
    }

    async fn grant_step(&mut self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::GrantLive { id, now } => self.found(sql::GRANT_LIVE, args![id, *now]).await,
            Step::StartGrant(g) => {
                let document = g.document.to_string();
                let args = args![&g.id, &g.subject, &g.client_id, &g.session, &g.scope, &document, g.created_at, g.expires_at, g.ended_at];
                self.one(sql::START_GRANT, args).await
            }
            Step::UpdateGrant { id, scope, document, expires_at } => {
                self.any(sql::UPDATE_GRANT, args![scope, &document.to_string(), *expires_at, id]).await
            }
            Step::EndGrant { id, now } => self.any(sql::END_GRANT, args![*now, id]).await,
            Step::EndGrantsOf { subject, client_id, now } => match (subject, client_id) {
                (Some(s), Some(c)) => self.any(sql::END_GRANTS_OF_BOTH, args![*now, s, c]).await,
                (Some(s), None) => self.any(sql::END_GRANTS_OF_SUBJECT, args![*now, s]).await,
                (None, Some(c)) => self.any(sql::END_GRANTS_OF_CLIENT, args![*now, c]).await,
                (None, None) => self.any(sql::END_GRANTS, args![*now]).await,
            },
            Step::EndGrantsOfSession { id, now } => self.any(sql::END_GRANTS_OF_SESSION, args![*now, id]).await,
            Step::ForgetConsentsOfClient { client_id } => self.any(sql::FORGET_CONSENTS_OF_CLIENT, args![client_id]).await,
            Step::PutConsent(c) => self.any(sql::PUT_CONSENT, args![&c.subject, &c.client_id, &list(&c.scopes)?, c.granted_at]).await,
            Step::ForgetConsents { subject, client_id: Some(c) } => self.any(sql::FORGET_CONSENT, args![subject, c]).await,
            Step::ForgetConsents { subject, client_id: None } => self.any(sql::FORGET_CONSENTS, args![subject]).await,
            _ => Ok(true),
        }
    }

    async fn session_step(&mut self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::SessionLive { id, now } => self.found(sql::SESSION_LIVE, args![id, *now]).await,
            Step::StartSession(s) => {
                let (amr, document) = (list(&s.amr)?, s.document.to_string());
                let args = args![&s.id, &s.subject, s.auth_time, &amr, s.created_at, s.expires_at, s.ended_at, &document];
                self.one(sql::START_SESSION, args).await
            }
            Step::UpdateSession(s) => {
                let (amr, document) = (list(&s.amr)?, s.document.to_string());
                self.one(sql::UPDATE_SESSION, args![s.auth_time, &amr, &document, s.expires_at, &s.id]).await
            }
            Step::EndSession { id, now } => self.any(sql::END_SESSION, args![*now, id]).await,
            Step::EndSessionsOf { subject, now } => self.any(sql::END_SESSIONS_OF, args![*now, subject]).await,
            _ => Ok(true),
        }
    }

    async fn object_step(&mut self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::ObjectIs { kind, id, version } => Ok(self.version(*kind, id).await? == Some(*version)),
            Step::CreateObject(o) => {
                let document = o.document.to_string();
                let args = args![o.kind.as_str(), &o.id, &o.key, &document, o.version, o.created_at, o.updated_at];
                self.one(sql::CREATE_OBJECT, args).await
            }
            Step::ReplaceObject { kind, id, key, document, version, now } => {
                self.one(sql::REPLACE_OBJECT, args![key, &document.to_string(), *now, kind.as_str(), id, *version]).await
            }
            Step::DeleteObject { kind, id, version } => {
                let gone = match version {
                    Some(version) => self.one(sql::DELETE_OBJECT_VERSION, args![kind.as_str(), id, *version]).await?,
                    None => self.one(sql::DELETE_OBJECT, args![kind.as_str(), id]).await?,
                };
                Ok(gone && self.any(sql::REMOVE_SECRETS, args![kind.as_str(), id]).await?)
            }
            Step::PutSecret { kind, id, slot, value } => self.any(sql::PUT_SECRET, args![kind.as_str(), id, slot, value]).await,
            Step::RemoveSecret { kind, id, slot } => self.any(sql::REMOVE_SECRET, args![kind.as_str(), id, slot]).await,
            _ => Ok(true),
        }
    }

    async fn key_step(&mut self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::PutKey(k) => {
                let args = args![&k.kid, &k.alg, k.state.as_str(), &k.public_jwk, &k.sealed, k.created_at, k.changed_at];
                self.any(sql::PUT_KEY, args).await
            }
            Step::MoveKey { kid, from, to, now } => {
                let state = |at: usize| from.get(at).or(from.first()).map_or("", |s| s.as_str());
                self.one(sql::MOVE_KEY, args![to.as_str(), *now, kid, state(0), state(1), state(2), state(3)]).await
            }
            Step::RemoveKey { kid } => self.any(sql::REMOVE_KEY, args![kid]).await,
            Step::InitMeta { name, value } => self.one(sql::INIT_META, args![name, value]).await,
            Step::RemoveMeta { name } => self.any(sql::REMOVE_META, args![name]).await,
            Step::PutMeta { name, value } => self.any(sql::PUT_META, args![name, value]).await,
            _ => Ok(true),
        }
    }
}

fn list(items: &[String]) -> Result<String, StoreError> {
    serde_json::to_string(items).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// A row as the columns of its insert statement.
pub(crate) trait Columns {
    /// Appends this row's values.
    fn columns<'v>(&'v self, out: &mut Vec<Value<'v>>);
}

impl Columns for Artefact {
    fn columns<'v>(&'v self, out: &mut Vec<Value<'v>>) {
        let seq = i64::try_from(self.seq).unwrap_or(i64::MAX);
        out.extend_from_slice(args![
            self.kind.as_str(),
            &self.id,
            &self.mac,
            &self.grant,
            &self.document,
            self.created_at,
            self.expires_at,
            self.consumed_at,
            &self.successor,
            seq
        ]);
    }
}

impl Columns for Event {
    fn columns<'v>(&'v self, out: &mut Vec<Value<'v>>) {
        let seq = i64::try_from(self.seq).unwrap_or(i64::MAX);
        out.extend_from_slice(args![seq, self.at_ms, &self.kind, &self.document, self.hash.as_slice()]);
    }
}

impl<T: Columns> Columns for &T {
    fn columns<'v>(&'v self, out: &mut Vec<Value<'v>>) {
        T::columns(self, out);
    }
}

fn smallest(many: &Many) -> &'static str {
    let [.., one] = many;
    one
}

/// Inserts rows with as few statements as the prepared sizes allow. Returns how many were inserted.
pub(crate) async fn insert_many<E: Exec, T: Columns + Sync>(e: &mut E, many: &Many, items: &[T]) -> Result<u64, StoreError> {
    let (mut rest, mut inserted, mut values) = (items, 0, Vec::new());
    for (size, sql) in SIZES.into_iter().zip(many) {
        while let Some((now, later)) = rest.split_at_checked(size) {
            values.clear();
            now.iter().for_each(|item| item.columns(&mut values));
            inserted += e.run(sql, &values).await?;
            rest = later;
        }
    }
    Ok(inserted)
}
