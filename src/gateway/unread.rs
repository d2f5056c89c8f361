//! Readers over HTTP/2 that open no window for what is ready for them: after a while the upstream is let go. Over HTTP/1 the
//! connection itself is unread then ([`crate::framed`]).
use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use crate::body::{AnswerBody, Streamed};

/// After so many sweeps without being asked for more, an answer is given up: about a minute.
const SWEEPS: u32 = 15;

struct Watch {
    stream: Weak<RefCell<Streamed>>,
    asked: u32,
    sweeps: u32,
}

/// The answers of one thread that are on their way over HTTP/2.
#[derive(Default)]
pub(crate) struct Unread(RefCell<Vec<Watch>>);

impl Unread {
    /// Watches an answer, if it takes time.
    pub(crate) fn watch(&self, body: &AnswerBody) {
        if let AnswerBody::Stream(stream) = body {
            self.0.borrow_mut().push(Watch { stream: Rc::downgrade(stream), asked: 0, sweeps: 0 });
        }
    }

    /// Gives up what was not asked for more since long. Called at intervals.
    pub(crate) fn sweep(&self) {
        self.0.borrow_mut().retain_mut(|watch| {
            let Some(stream) = watch.stream.upgrade() else { return false };
            let mut stream = stream.borrow_mut();
            match stream.unread() {
                Some(asked) if asked == watch.asked => watch.sweeps += 1,
                other => (watch.asked, watch.sweeps) = (other.unwrap_or_default(), 0),
            }
            if watch.sweeps >= SWEEPS {
                stream.give_up();
            }
            watch.sweeps < SWEEPS
        });
    }
}
