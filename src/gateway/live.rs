//! What is open under a credential: streams and sockets that end when it is revoked or expires.
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use edge::identity::Issuer;
use ledger::RevocationSet;

use crate::{
    Standing, certificate,
    seen::Believed,
    terms::{Behind, Terms},
};

/// One open thing.
struct Open {
    believed: Rc<Believed>,
    /// The certificate of the connection, where the credential rests on it.
    standing: Option<Standing>,
    terms: Terms,
    waker: Waker,
    over: Rc<Cell<bool>>,
}

/// Everything open on one thread.
#[derive(Default)]
pub(crate) struct Live {
    open: RefCell<Vec<Option<Open>>>,
    free: RefCell<Vec<usize>>,
}

impl Live {
    fn put(&self, open: Open) -> usize {
        let mut all = self.open.borrow_mut();
        if let Some(at) = self.free.borrow_mut().pop()
            && let Some(slot) = all.get_mut(at)
        {
            *slot = Some(open);
            return at;
        }
        all.push(Some(open));
        all.len() - 1
    }

    fn remove(&self, at: usize) {
        if let Some(slot) = self.open.borrow_mut().get_mut(at)
            && slot.take().is_some()
        {
            self.free.borrow_mut().push(at);
        }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len() - self.free.borrow().len()
    }

    /// Ends what was revoked or has expired, or cannot be confirmed: what is known of ends is too old. Returns how many.
    pub(crate) fn sweep(&self, revoked: &RevocationSet, now_ms: i64, behind: Behind) -> usize {
        let now = now_ms.div_euclid(1000);
        self.end(|open| {
            if open.terms.over(now_ms, behind) {
                return true;
            }
            let identity = &open.believed.identity;
            if open.standing.as_ref().is_some_and(|standing| standing().is_err()) {
                return true;
            }
            identity.claims.exp <= now || revoked.revoked(&identity.facts()).is_some() || identity.ended_elsewhere(revoked)
        })
    }

    /// Ends what is open under other issuers' tokens for which `stands` does not hold. Returns how many.
    pub(crate) fn sweep_strange(&self, stands: impl Fn(&Believed) -> bool) -> usize {
        self.end(|open| matches!(open.believed.identity.issuer, Issuer::Foreign(_)) && !stands(&open.believed))
    }

    /// Shows the terms of everything that is open.
    pub(crate) fn each(&self, mut see: impl FnMut(&Terms)) {
        self.open.borrow().iter().flatten().filter(|open| !open.over.get()).for_each(|open| see(&open.terms));
    }

    /// Ends everything for which `over` holds.
    fn end(&self, over: impl Fn(&Open) -> bool) -> usize {
        let mut wakers = Vec::new();
        for open in self.open.borrow().iter().flatten() {
            if !open.over.get() && over(open) {
                open.over.set(true);
                wakers.push(open.waker.clone());
            }
        }
        let ended = wakers.len();
        wakers.into_iter().for_each(Waker::wake);
        ended
    }
}

/// A lease: what it is held by ends when the credential does. Registered only once there is something to wait for.
pub(crate) struct Lease {
    live: Rc<Live>,
    believed: Rc<Believed>,
    standing: Option<Standing>,
    terms: Terms,
    watched: Option<(usize, Rc<Cell<bool>>)>,
}

impl Lease {
    pub(crate) fn new(live: &Rc<Live>, believed: &Rc<Believed>, standing: Option<&Standing>, terms: &Terms) -> Self {
        let standing = standing.filter(|_| certificate::rests_on(believed)).cloned();
        Self { live: Rc::clone(live), believed: Rc::clone(believed), standing, terms: terms.clone(), watched: None }
    }

    /// Whether the credential has ended.
    pub(crate) fn over(&self) -> bool {
        self.watched.as_ref().is_some_and(|(_, over)| over.get())
    }

    /// To be called before returning `Pending`: wakes this task when the credential ends.
    pub(crate) fn watch(&mut self, cx: &Context<'_>) {
        if let Some((at, _)) = &self.watched {
            if let Some(Some(open)) = self.live.open.borrow_mut().get_mut(*at)
                && !open.waker.will_wake(cx.waker())
            {
                open.waker = cx.waker().clone();
            }
            return;
        }
        let over = Rc::new(Cell::new(false));
        let open = Open {
            believed: Rc::clone(&self.believed),
            standing: self.standing.clone(),
            terms: self.terms.clone(),
            waker: cx.waker().clone(),
            over: Rc::clone(&over),
        };
        self.watched = Some((self.live.put(open), over));
    }

    /// Ready once the credential has ended.
    pub(crate) fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.over() {
            return Poll::Ready(());
        }
        self.watch(cx);
        Poll::Pending
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((at, _)) = self.watched.take() {
            self.live.remove(at);
        }
    }
}
