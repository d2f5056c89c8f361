//! A stream that comes back: lent to an HTTP parser, it is returned when the parser lets it go without having closed it.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::places::Place;

/// Where a lent stream comes back to.
pub(crate) type Home<T> = Arc<Mutex<Option<T>>>;

/// A lent stream.
pub(crate) struct Lent<T> {
    io: Option<T>,
    home: Home<T>,
    /// Its place among the connections, also once it is a WebSocket and nobody's parser has it.
    _room: Arc<Place>,
}

impl<T> Lent<T> {
    pub(crate) const fn new(io: T, home: Home<T>, room: Arc<Place>) -> Self {
        Self { io: Some(io), home, _room: room }
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.home.lock() = self.io.take();
    }
}

/// What is asked of a stream that is gone.
fn gone<R>() -> Poll<io::Result<R>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or_else(gone, |io| Pin::new(io).poll_read(cx, buf))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().map_or_else(gone, |io| Pin::new(io).poll_write(cx, buf))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or_else(gone, |io| Pin::new(io).poll_flush(cx))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or_else(gone, |io| Pin::new(io).poll_shutdown(cx))
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.io.as_mut().map_or_else(gone, |io| Pin::new(io).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
