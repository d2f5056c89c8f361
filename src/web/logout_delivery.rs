//! Tells clients that a session has ended (OpenID Connect Back-Channel Logout 1.0 §2.5).
//!
//! Nothing is queued: what has to be told is what is stored, the participants of ended sessions. Whatever ended a session (the person, an
//! administrator, a new password, a revocation) and on whichever node, the next look finds it; a node that dies loses nothing. A try is
//! claimed by one conditional statement, so that of several nodes one makes it.
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ledger::{Artefact, Committed, EventKind, Listener, StoreError};
use outbound::Call;
use protocol::{
    Evidence,
    backchannel_logout::{self as logout, Participant},
};
use tokio::{sync::Notify, task::JoinSet};

use crate::{App, oauth};

/// How far back ended sessions are looked for, seconds: tries end after five minutes, but a process may have been down.
const LOOK_BACK: i64 = 900;
/// The same at the start: as long as ended sessions are kept.
const AT_START: i64 = 86_400;
/// Tries at once.
const AT_ONCE: usize = 32;
/// Tries at one client at once: a slow one does not hold up the others.
const AT_ONCE_OF_ONE: usize = 8;
/// Tries at once at all clients together that did not hear the last time: whoever listens finds room beside them. Each of those has one.
const AT_ONCE_OF_DEAF: usize = AT_ONCE / 2;
/// Participants read at once.
const BATCH: u32 = 500;
/// How many times so many are read in one look while there is room.
const BATCHES: u32 = 40;
/// Clients remembered for not having heard.
const DEAF: usize = 10_000;
/// At the latest so long after the last look comes the next: other nodes' leftovers and tries that are due.
const EVERY: Duration = Duration::from_secs(5);
/// At the earliest.
const PAUSE: Duration = Duration::from_millis(50);

/// Rings when a session may have ended.
#[derive(Default)]
pub(crate) struct Ended(Notify);

impl Listener for Ended {
    fn committed(&self, batch: &Committed) {
        const ENDING: [EventKind; 3] = [EventKind::SessionEnded, EventKind::SubjectRevoked, EventKind::UserDisabled];
        if batch.events.iter().any(|e| ENDING.iter().any(|kind| kind.as_str() == e.kind)) {
            self.0.notify_one();
        }
    }
}

/// Tells until the server is dropped or closes.
pub async fn run(app: Weak<App>) {
    let Some((closing, ended)) = app.upgrade().map(|app| (app.closing.clone(), Arc::clone(&app.ended))) else { return };
    let mut telling = Telling::default();
    // Until then everything that is kept is looked through: at the start, and as long as somebody may have waited for room.
    let mut wide_until = i64::MIN;
    let mut looked = false;
    loop {
        let Some(strong) = app.upgrade() else { return };
        let now = strong.clock.now();
        let look_back = if !looked || now <= wide_until { AT_START } else { LOOK_BACK };
        match telling.look(&strong, look_back).await {
            Ok(()) => {
                looked = true;
                if telling.crowded {
                    wide_until = now + LOOK_BACK;
                }
            }
            Err(error) => tracing::warn!(%error, "ended sessions could not be looked for; trying again"),
        }
        drop(strong);
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = closing.cancelled() => return,
            () = ended.0.notified() => {}
            () = telling.one_done() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// A try that has ended: of which participant, and whether its client heard.
struct Done {
    id: Vec<u8>,
    client: String,
    heard: bool,
}

/// The tries under way.
#[derive(Default)]
struct Telling {
    tasks: JoinSet<Done>,
    /// Participants that are being told, and which client each is.
    now: HashMap<Vec<u8>, String>,
    /// Clients that did not hear the last time.
    deaf: HashSet<String>,
    /// Somebody is due for whom there was no room.
    crowded: bool,
}

impl Telling {
    /// Ends when a try has ended that made room for another; never, if nobody waits for room.
    async fn one_done(&mut self) {
        while let Some(done) = self.tasks.join_next().await {
            self.ended(done.ok());
            if self.tasks.is_empty() {
                // Those whose task broke off may be tried again.
                self.now.clear();
            }
            if self.crowded {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    fn ended(&mut self, done: Option<Done>) {
        let Some(done) = done else { return };
        self.now.remove(&done.id);
        if done.heard {
            self.deaf.remove(&done.client);
        } else if self.deaf.len() < DEAF {
            self.deaf.insert(done.client);
        }
    }

    /// Whether a try at a client may begin now.
    fn has_room(&self, client: &str) -> bool {
        let of_one = self.now.values().filter(|c| *c == client).count();
        if self.now.len() >= AT_ONCE {
            return false;
        }
        if self.deaf.contains(client) {
            return of_one == 0 && self.now.values().filter(|c| self.deaf.contains(*c)).count() < AT_ONCE_OF_DEAF;
        }
        of_one < AT_ONCE_OF_ONE
    }

    /// Looks once and begins to tell everybody who is due and has room, however many wait before them.
    async fn look(&mut self, app: &Arc<App>, look_back: i64) -> Result<(), StoreError> {
        while let Some(done) = self.tasks.try_join_next() {
            self.ended(done.ok());
        }
        let now = app.clock.now();
        self.crowded = false;
        for batch in 0..BATCHES {
            let rows = app.store.left_behind(now - look_back, now, (batch * BATCH, BATCH)).await?;
            let last = rows.len() < BATCH as usize;
            for row in rows {
                self.consider(app, row).await?;
            }
            if last {
                return Ok(());
            }
            if self.now.len() >= AT_ONCE {
                break;
            }
        }
        self.crowded = true;
        Ok(())
    }

    async fn consider(&mut self, app: &Arc<App>, row: Artefact) -> Result<(), StoreError> {
        if self.now.contains_key(&row.id) {
            return Ok(());
        }
        let Ok(participant) = serde_json::from_str::<Participant>(&row.document) else {
            app.store.apply(logout::forget(&row)).await?;
            return Ok(());
        };
        if !self.has_room(&participant.client_id) {
            self.crowded = true;
            return Ok(());
        }
        self.now.insert(row.id.clone(), participant.client_id.clone());
        let app = Arc::clone(app);
        self.tasks.spawn(async move {
            let heard = tell(&app, &row, &participant).await.unwrap_or_else(|error| {
                tracing::warn!(%error, client = participant.client_id, "a client could not be told of an ended session; trying again");
                // Ours is the fault.
                true
            });
            Done { id: row.id, client: participant.client_id, heard }
        });
        Ok(())
    }
}

/// One try at one client: whether it heard. Who need not be told, or is being told by another node, is not deaf.
async fn tell(app: &App, row: &Artefact, participant: &Participant) -> Result<bool, StoreError> {
    let known = app.catalog.client(&participant.client_id).await?;
    let client = known.as_ref().map(|k| &k.client).filter(|c| !c.disabled);
    let Some((client, uri)) = client.and_then(|c| Some((c, c.backchannel_logout_uri.as_deref()?))) else {
        app.store.apply(logout::forget(row)).await?;
        return Ok(true);
    };
    if !app.store.apply(logout::claim(row, participant, app.clock.now())).await?.applied() {
        return Ok(true);
    }
    let signed = {
        let (ring, evidence) = (app.keys.load(), Evidence::default());
        logout::token(&oauth::context(app, &ring, 0, &evidence), client, &participant.subject, row.grant.as_deref().unwrap_or_default())
    };
    let heard = match signed {
        Ok(token) => post(app, uri, &token).await,
        Err(error) => {
            tracing::error!(reason = %error.reason, client = participant.client_id, "no logout token");
            false
        }
    };
    let outcome = if heard { "delivered" } else { "failed" };
    metrics::counter!("backchannel_logouts_total", "outcome" => outcome).increment(1);
    app.store.apply(logout::tried(row, participant, heard, app.clock.now_ms())).await?;
    Ok(heard)
}

/// Posts the token. 200 and 204 are an acceptance (§2.8).
async fn post(app: &App, uri: &str, token: &str) -> bool {
    let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    match app.outbound.call(Call { method: Method::POST, url: uri, headers, body: Bytes::from(body) }).await {
        Ok(reply) if matches!(reply.status, StatusCode::OK | StatusCode::NO_CONTENT) => true,
        Ok(reply) => {
            tracing::warn!(uri, status = reply.status.as_u16(), "a client did not accept the end of a session");
            false
        }
        Err(why) => {
            tracing::warn!(uri, %why, "a client could not be told of the end of a session");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins as many tries at a client as there is room for.
    fn fill(telling: &mut Telling, client: &str) -> usize {
        let mut begun = 0;
        while telling.has_room(client) {
            telling.now.insert(format!("{client}{begun}").into_bytes(), client.to_owned());
            begun += 1;
        }
        begun
    }

    #[test]
    fn clients_that_do_not_hear_leave_room_for_those_that_do() {
        let mut telling = Telling::default();
        assert_eq!(fill(&mut telling, "new"), AT_ONCE_OF_ONE);
        telling.now.clear();
        for n in 0..100 {
            telling.ended(Some(Done { id: Vec::new(), client: format!("dead{n}"), heard: false }));
        }
        let deaf: usize = (0..100).map(|n| fill(&mut telling, &format!("dead{n}"))).sum();
        assert_eq!(deaf, AT_ONCE_OF_DEAF, "one each, and together no more than half");
        assert_eq!(fill(&mut telling, "honest"), AT_ONCE_OF_ONE);
        telling.now.clear();
        telling.ended(Some(Done { id: Vec::new(), client: "dead1".into(), heard: true }));
        assert_eq!((fill(&mut telling, "dead1"), fill(&mut telling, "dead2")), (AT_ONCE_OF_ONE, 1));
    }
}
