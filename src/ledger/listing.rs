//! What may be read where answers can be a little late: pages for people, and counts. Nothing here says whether a credential counts.
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Event, Grant, Object, ObjectKind, Page, Session, Store, StoreError};

/// Pages of lists, and sizes. A page holds everything that was committed with an event before it was asked for, wherever it is read; sizes
/// may be older.
#[async_trait]
pub trait Listings: Send + Sync {
    /// As [`Store::objects`].
    async fn list_objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError>;
    /// As [`Store::sessions`].
    async fn list_sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError>;
    /// As [`Store::grants`]; `of` is the subject and the client.
    async fn list_grants(&self, of: (Option<&str>, Option<&str>), after: Option<&str>, limit: u32) -> Result<Page<Grant>, StoreError>;
    /// As [`Store::events`].
    async fn list_events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError>;
    /// As [`Store::counts`].
    async fn count_rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError>;
}

/// The listings of a store that has no replicas.
pub struct Own(pub Arc<dyn Store>);

#[async_trait]
impl Listings for Own {
    async fn list_objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
        self.0.objects(kind, after, limit).await
    }
    async fn list_sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError> {
        self.0.sessions(subject, after, limit).await
    }
    async fn list_grants(&self, of: (Option<&str>, Option<&str>), after: Option<&str>, limit: u32) -> Result<Page<Grant>, StoreError> {
        self.0.grants(of.0, of.1, after, limit).await
    }
    async fn list_events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.0.events(after, limit).await
    }
    async fn count_rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.0.counts().await
    }
}
