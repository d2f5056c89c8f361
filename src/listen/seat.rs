//! What a connection is to the places of its listener: in use, or one that can go when somebody else needs the place.
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use gateway::{Budget, Guest, Place, Places};
use ipnet::IpNet;
use tokio::{net::TcpStream, sync::Notify};

/// How many connections a listener takes.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Together.
    pub most: u32,
    /// Of one address; 0: three quarters of all.
    pub of_source: u32,
    /// Whose connections are those of many.
    pub trusted: Vec<IpNet>,
}

impl Bounds {
    /// The places of a listener.
    #[must_use]
    pub fn places(&self, name: &'static str) -> Arc<Places> {
        let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Places::new(name, number(self.most), number(self.of_source))
    }

    /// Whose place a connection takes; `None`: that of nobody in particular.
    #[must_use]
    pub fn source(&self, peer: SocketAddr) -> Option<IpAddr> {
        (!self.trusted.iter().any(|net| net.contains(&peer.ip()))).then(|| peer.ip())
    }
}

/// A connection with its place.
pub struct Seat {
    busy: AtomicUsize,
    /// Of these: answers that nobody has begun to read.
    unread: AtomicUsize,
    used: AtomicU64,
    asked: Notify,
    places: Arc<Places>,
}

/// Something is being served; until it is dropped the connection is not asked to go.
pub struct Busy(Arc<Seat>);

/// An answer whose reader has not begun: until it is dropped, its connection is in use no more for it.
pub struct Unread(Arc<Seat>);

impl Busy {
    /// The answer is there, and waits for the other end.
    #[must_use]
    pub fn answered(&self) -> Unread {
        self.0.unread.fetch_add(1, Ordering::Relaxed);
        Unread(Arc::clone(&self.0))
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Ordering::Release);
    }
}

impl Seat {
    /// Of a connection that has just come.
    #[must_use]
    pub fn new(places: &Arc<Places>) -> Arc<Self> {
        let used = AtomicU64::new(places.turn());
        Arc::new(Self { busy: AtomicUsize::new(0), unread: AtomicUsize::new(0), used, asked: Notify::new(), places: Arc::clone(places) })
    }

    /// Takes a place; `None` if its source holds too many.
    pub async fn sit(self: &Arc<Self>, source: Option<IpAddr>) -> Option<Place> {
        self.places.enter(source, Arc::clone(self) as _).await.ok()
    }

    /// What its listener holds of requests that have not come whole.
    #[must_use]
    pub fn unfinished(&self) -> &Arc<Budget> {
        self.places.unfinished()
    }

    /// Counts a request in.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Ready when the place is needed.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.used.store(self.0.places.turn(), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Guest for Seat {
    fn idle_since(&self) -> Option<u64> {
        (self.busy.load(Ordering::Acquire) <= self.unread.load(Ordering::Acquire)).then(|| self.used.load(Ordering::Relaxed))
    }
    fn leave(&self) {
        self.asked.notify_one();
    }
}

/// Tells a source that holds too many connections so, if that can be told without waiting.
pub fn refuse(stream: &TcpStream, encrypted: bool) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    if !encrypted {
        let _ = stream.try_write(BUSY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_begin_to_read_an_answer_is_in_nobodys_way() {
        let seat = Seat::new(&Places::new("test", 1, 0));
        let (one, other) = (seat.begin(), seat.begin());
        assert!(seat.idle_since().is_none());
        let answered = (one.answered(), other.answered());
        assert!(seat.idle_since().is_some(), "all that is left to do is the other end's");
        drop(answered.1);
        assert!(seat.idle_since().is_none(), "one is being read");
        drop((answered.0, one, other));
        assert!(seat.idle_since().is_some());
    }
}
