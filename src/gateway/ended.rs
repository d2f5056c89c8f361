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
    /// And while which request was answered.
    of: u64,
    /// Something was taken since somebody last looked.
    moved: bool,
    /// Which request was answered then.
    seen: u64,
}

impl Ended {
    /// The peer says nothing more; so many requests were begun to be answered.
    pub fn begin(&mut self, served: u64) {
        let patience = self.patience(served);
        self.seen = served;
        self.still.get_or_insert_with(|| Box::pin(sleep(patience)));
    }

    /// Those that came together are answered one by one: what was taken of one answer says nothing of the next.
    const fn patience(&self, served: u64) -> Duration {
        if self.begun && self.of == served { STILL } else { UNBEGUN }
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

    /// What came of writing to it, while so many requests were begun to be answered.
    pub const fn took(&mut self, written: &Poll<io::Result<usize>>, served: u64) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            (self.begun, self.moved, self.of) = (true, true, served);
        }
    }

    /// Ready when its answer has stood still for too long; so many requests were begun to be answered.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, served: u64) -> Poll<()> {
        let patience = self.patience(served);
        let Some(still) = &mut self.still else { return Poll::Pending };
        loop {
            ready!(still.as_mut().poll(cx));
            let next = std::mem::replace(&mut self.seen, served) != served;
            if !std::mem::take(&mut self.moved) && !next {
                return Poll::Ready(());
            }
            still.as_mut().reset(Instant::now() + patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_of_each_answer_is_waited_for() {
        let one = Poll::Ready(Ok(1));
        let mut ended = Ended::default();
        assert_eq!(ended.patience(1), UNBEGUN);
        ended.took(&one, 1);
        assert_eq!((ended.patience(1), ended.patience(2)), (STILL, UNBEGUN), "the first of two that came together");
        // It says its last in the middle of the first answer, and then the second is worked on.
        ended.begin(1);
        let began = Instant::now();
        std::future::poll_fn(|cx| ended.poll_over(cx, 2)).await;
        assert!(began.elapsed() >= STILL + UNBEGUN, "a timer is never early");
    }
}
