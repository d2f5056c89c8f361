//! Connections as they arrive, to the last that the system has let in.
use std::{io, net::SocketAddr};

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Who arrives at a listener.
pub struct Arrivals(Door);

/// ENFILE and EMFILE.
const NO_DESCRIPTOR: [Option<i32>; 2] = [Some(23), Some(24)];

enum Door {
    Open(TcpListener),
    /// Nobody is waited for any more; some may have come.
    Closing(std::net::TcpListener),
    Closed,
}

impl Arrivals {
    /// At this listener.
    #[must_use]
    pub const fn new(listener: TcpListener) -> Self {
        Self(Door::Open(listener))
    }

    /// The next connection; after `stop` those that the system has let in already, which closing the listener would cut off, and then nobody.
    pub async fn next(&mut self, stop: &CancellationToken) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        if let Door::Open(listener) = &self.0 {
            tokio::select! {
                biased;
                accepted = listener.accept() => return Some(accepted),
                () = stop.cancelled() => {}
            }
        }
        // The runtime asks the system only when it was told of somebody, and somebody may have come since: now the system itself is asked.
        self.0 = match std::mem::replace(&mut self.0, Door::Closed) {
            Door::Open(listener) => {
                lock(&listener);
                listener.into_std().map_or(Door::Closed, Door::Closing)
            }
            door => door,
        };
        let Door::Closing(listener) = &self.0 else { return None };
        match listener.accept() {
            Ok((stream, peer)) => {
                Some(stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map(|stream| (stream, peer)))
            }
            // Nobody is left, or nobody can be taken.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || NO_DESCRIPTOR.contains(&error.raw_os_error()) => {
                self.0 = Door::Closed;
                None
            }
            // What became of this one; others may have come behind it (accept(2)).
            Err(error) => Some(Err(error)),
        }
    }
}

/// Whoever knocks from now on is not heard: a handshake that began and ended between the last look and the close would be cut off. The knock
/// (SYN) comes again (RFC 9293 §3.8.1), a second later, to the next process or to nobody. Whoever was answered already and whose last ACK is
/// under way over a network may still be cut off; nothing he asked for was done. Where the system cannot do that, that moment stays.
fn lock(listener: &TcpListener) {
    /// `BPF_RET | BPF_K` with 0: no octet of any packet goes in.
    const NOBODY: [SockFilter; 1] = [SockFilter::new(6, 0, 0, 0)];
    let _ = SockRef::from(listener).attach_filter(&NOBODY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_the_system_let_in_is_taken_even_if_nobody_was_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (mut arrivals, stop) = (Arrivals::new(listener), CancellationToken::new());
        stop.cancel();
        // The runtime does not turn between these and the question.
        let waiting: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
        for _ in &waiting {
            assert!(arrivals.next(&stop).await.is_some_and(|arrived| arrived.is_ok()));
        }
        assert!(arrivals.next(&stop).await.is_none() && arrivals.next(&stop).await.is_none());
        assert!(std::net::TcpStream::connect(at).is_err(), "the door is closed");
    }
}
