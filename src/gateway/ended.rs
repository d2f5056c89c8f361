//! A peer that has said its last (RFC 9112 §9.6): what it asked is answered all the same, for as long as the answer gets on. Nobody can tell it
//! from one that is gone before something is sent to it, so it does not keep what it asked for under way for long.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// How long the beginning of an answer is waited for on behalf of a peer that says nothing more.
const UNBEGUN: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };
/// How long the answer may stand still once it has begun: who says his last in the middle of one has most likely left.
const STILL: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(1) };

/// Whether the peer has closed its side, and what its answer has done since.
#[derive(Debug, Default)]
pub struct Ended {
    still: Option<Pin<Box<Sleep>>>,
    /// Something of an answer was taken since the last request came.
    begun: bool,
    /// Or since somebody last looked.
    moved: bool,
}

impl Ended {
    /// The peer says nothing more.
    pub fn begin(&mut self) {
        let patience = if self.begun { STILL } else { UNBEGUN };
        self.still.get_or_insert_with(|| Box::pin(sleep(patience)));
    }

    /// Something more was asked.
    pub const fn asked(&mut self) {
        self.begun = false;
    }

    /// Whether it does.
    #[must_use]
    pub const fn has(&self) -> bool {
        self.still.is_some()
    }

    /// What came of writing to it.
    pub const fn took(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            (self.begun, self.moved) = (true, true);
        }
    }

    /// Ready when its answer has stood still for too long.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(still) = &mut self.still else { return Poll::Pending };
        loop {
            ready!(still.as_mut().poll(cx));
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(());
            }
            still.as_mut().reset(Instant::now() + STILL);
        }
    }
}
