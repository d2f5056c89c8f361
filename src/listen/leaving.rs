//! That a process will leave, said before it does.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Whether a process has said that it will leave: readiness fails, answers end their HTTP/1.1 connections, HTTP/2 connections take no
/// further requests; everything is served.
#[derive(Debug, Clone, Default)]
pub struct Leaving {
    told: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Leaving {
    /// Says so.
    pub fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it was said.
    #[must_use]
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Cancelled when it is said.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// When it is said; never, if it was said already: who comes then is served until the end.
    pub async fn said_from_now_on(&self) {
        if self.told() {
            std::future::pending::<()>().await;
        }
        self.token.cancelled().await;
    }
}
