//! What a database restored from a backup lets in, ended before anything is served from it.
//!
//! What was revoked after a backup is alive in it. The transaction that brings the rows leaves a note ([`store::RESTORE_PENDING`]);
//! it is removed when everything is ended, so that a process that dies in between leaves the rest to the next one.
use admin::Actor;
use ledger::{
    Change, EventKind, KeyState, NewEvent, ObjectKind, RevocationKind, Step, Store, StoreError,
    revocation::{API_KEY, KEPT_LONGER_S},
};
use protocol::Settings;
use store::{RESTORE_PENDING, RESTORED_AT};

use crate::foundation::Foundation;

/// Sessions or API keys ended in one transaction.
const SESSIONS: u32 = 200;

/// Ends every grant, session, API key and signing key if the note is there.
///
/// # Errors
/// Storage failed; the note stays.
pub async fn finish(foundation: &Foundation) -> anyhow::Result<()> {
    if !pending(foundation).await? {
        return Ok(());
    }
    tracing::warn!("this database comes from a backup: grants, sessions, API keys and signing keys of the backup are being ended");
    let actor = Actor::command("restore");
    let now_ms = foundation.clock.now_ms();
    let now = now_ms.div_euclid(1000);
    let until = now.saturating_add(Settings::MAX_ACCESS_TOKEN_TTL).saturating_add(KEPT_LONGER_S);
    let event = |kind| actor.sign(NewEvent::new(kind, now_ms)).with("reason", "restored");
    let ended = Change::new().step(Step::EndGrantsOf { subject: None, client_id: None, now }).event(event(EventKind::GrantEnded));
    foundation.store.apply(ended).await?;
    loop {
        let page = foundation.store.sessions(None, None, SESSIONS).await?;
        if page.items.is_empty() {
            break;
        }
        let change = page.items.iter().fold(Change::new(), |change, session| {
            let told = event(EventKind::SessionEnded).session(&session.id).subject(&session.subject);
            let step = Step::EndSession { id: session.id.clone(), now };
            change.step(step).event(told).revoke(RevocationKind::Session, &session.id, now_ms, until)
        });
        foundation.store.apply(change).await?;
    }
    // Their versions stayed behind; whatever is remembered of them goes too.
    let mut after = None::<String>;
    loop {
        let page = foundation.store.objects(ObjectKind::ApiKey, after.as_deref(), SESSIONS).await?;
        let Some(last) = page.items.last() else { break };
        after = Some(last.id.clone());
        let change = page.items.iter().fold(Change::new(), |change, key| {
            let told = event(EventKind::ApiKeyRevoked).with("id", key.id.as_str());
            change.event(told).revoke(RevocationKind::Key, format!("{API_KEY}{}", key.id), now_ms, until)
        });
        foundation.store.apply(change).await?;
    }
    if let Some(keys) = &foundation.keys {
        for row in foundation.store.keys().await?.into_iter().filter(|row| row.state != KeyState::Revoked) {
            // Another node may have finished meanwhile: its new keys stay.
            if !pending(foundation).await? {
                return Ok(());
            }
            keys.revoke(&row.kid, Some("restored from a backup"), &actor).await?;
        }
    }
    foundation.store.apply(Change::new().step(Step::RemoveMeta { name: RESTORE_PENDING.to_owned() })).await?;
    Ok(())
}

/// When this database was restored, seconds since the epoch; 0 if it never was.
///
/// # Errors
/// Storage failed.
pub async fn at(store: &dyn Store) -> Result<i64, StoreError> {
    let stored = store.meta(RESTORED_AT).await?;
    let at_ms = stored.and_then(|text| String::from_utf8(text).ok()?.parse::<i64>().ok()).unwrap_or(0);
    Ok(at_ms.div_euclid(1000))
}

/// Whether the note is there.
///
/// # Errors
/// Storage failed.
pub async fn pending(foundation: &Foundation) -> Result<bool, StoreError> {
    Ok(foundation.store.meta(RESTORE_PENDING).await?.is_some())
}

#[cfg(test)]
mod tests {
    use ledger::{Grant, Session};
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn whoever_opens_a_restored_database_ends_what_its_backup_lets_in() {
        let home = tempfile::tempdir().unwrap();
        let text = "[server]\nissuer = \"https://id.example.com\"\n";
        let config = Config::parse(&home.path().join("doorward.toml"), text, []).unwrap();
        let before = Foundation::open(&config, true).await.unwrap();
        let now = before.clock.now();
        let session = Session {
            id: "s".into(),
            subject: "alice".into(),
            auth_time: now,
            amr: vec!["pwd".into()],
            created_at: now,
            expires_at: now + 1000,
            ended_at: None,
            document: json!({}),
        };
        let grant = Grant {
            id: "g".into(),
            subject: "alice".into(),
            client_id: "web".into(),
            session: Some("s".into()),
            scope: "read".into(),
            document: json!({}),
            created_at: now,
            expires_at: now + 1000,
            ended_at: None,
        };
        let change = Change::new().step(Step::StartSession(session)).step(Step::StartGrant(grant));
        let change = change.step(Step::PutMeta { name: RESTORE_PENDING.to_owned(), value: b"1".to_vec() });
        let event = NewEvent::new(EventKind::SessionStarted, now * 1000);
        assert!(before.store.apply(change.event(event)).await.unwrap().applied());
        let old: Vec<String> = before.store.keys().await.unwrap().into_iter().map(|row| row.kid).collect();

        let after = Foundation::over(&config, before.database.clone(), false).await.unwrap();
        assert!(after.store.session("s").await.unwrap().unwrap().ended_at.is_some());
        assert!(after.store.grant("g").await.unwrap().unwrap().ended_at.is_some());
        let keys = after.store.keys().await.unwrap();
        assert!(keys.iter().filter(|row| old.contains(&row.kid)).all(|row| row.state == KeyState::Revoked));
        assert!(keys.iter().any(|row| row.state == KeyState::Current));
        assert!(after.store.meta(RESTORE_PENDING).await.unwrap().is_none());

        let (head, _) = after.store.head().await.unwrap();
        let again = Foundation::over(&config, after.database.clone(), false).await.unwrap();
        assert_eq!(again.store.head().await.unwrap().0, head, "once is enough");
    }
}
