//! A connection whose first octets have been read already.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// HTTP/2's preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Gives what was read first once more, then the rest.
pub struct Rewound<T> {
    io: T,
    first: Vec<u8>,
    at: usize,
}

impl<T> Rewound<T> {
    /// Gives octets that were read from a connection to whoever reads on.
    pub const fn again(io: T, first: Vec<u8>) -> Self {
        Self { io, first, at: 0 }
    }
}

impl<T: AsyncRead + Unpin> Rewound<T> {
    /// Reads until it is clear whether the peer begins with HTTP/2's preface. A peer that sends a part of it and no more costs nothing
    /// while it is silent.
    ///
    /// # Errors
    /// The connection broke or ended before.
    pub async fn sniff(mut io: T) -> io::Result<(Self, bool)> {
        let mut first = Vec::new();
        loop {
            // The room to read into is the stack's: a task has it for all its life.
            let more = std::future::poll_fn(|cx| {
                let mut octets = [0; 1024];
                let mut into = ReadBuf::new(&mut octets);
                ready!(Pin::new(&mut io).poll_read(cx, &mut into))?;
                first.extend_from_slice(into.filled());
                Poll::Ready(io::Result::Ok(into.filled().len()))
            });
            if more.await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let whole = first.starts_with(PREFACE);
            if whole || !PREFACE.starts_with(&first) {
                return Ok((Self { io, first, at: 0 }, whole));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.first.get(self.at..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(left.get(..count).unwrap_or_default());
        self.at += count;
        if self.at == self.first.len() {
            (self.first, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    /// Counts how often it is asked for octets.
    struct Counted<T>(T, Arc<AtomicUsize>);
    impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn what_came_first_is_read_again_whichever_protocol_it_is() {
        for (text, http2) in [(PREFACE, true), (b"PRI / HTTP/1.1\r\n\r\n".as_slice(), false), (b"GET / HTTP/1.1\r\n\r\n", false)] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(&text[..1]).await.unwrap();
            let (sniffed, ()) = tokio::join!(Rewound::sniff(server), async { client.write_all(&text[1..]).await.unwrap() });
            let (mut rewound, found) = sniffed.unwrap();
            assert_eq!(found, http2);
            client.write_all(b"rest").await.unwrap();
            drop(client);
            let mut all = Vec::new();
            rewound.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, [text, b"rest"].concat());
        }
    }

    #[tokio::test]
    async fn half_a_preface_and_silence_cost_nothing() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI").await.unwrap();
        let polls = Arc::new(AtomicUsize::new(0));
        assert!(timeout(Duration::from_millis(200), Rewound::sniff(Counted(server, Arc::clone(&polls)))).await.is_err());
        assert!(polls.load(Ordering::SeqCst) <= 4, "{polls:?}");
    }
}
