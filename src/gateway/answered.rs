//! The octets of an upstream's answers over HTTP/1.1: each head is looked at before the parser reads it.
//!
//! hyper's parser takes a bare LF for the end of a line; a sender that lets one through into a value would be heard saying two
//! fields. What else does not belong into a head the parser refuses itself.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says that a head is to come: a request is being sent. One request at a time is on a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expecting(Arc<AtomicBool>);

impl Expecting {
    /// The next octets are a head.
    pub(crate) fn head(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where in a head the reader is.
#[derive(Debug, Default)]
struct Head {
    /// Octets of the line so far, its CR among them.
    line: usize,
    /// The last octet before what comes next.
    last: u8,
    /// The first octets: `HTTP/1.1 200`.
    start: [u8; 12],
    started: bool,
}

/// What became of a head with more octets.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    More,
    /// It ends after so many of them; whether it is interim, so that another follows.
    Ends(usize, bool),
    Broken,
}

impl Head {
    fn read(&mut self, octets: &[u8]) -> Read {
        let mut at = 0;
        loop {
            let rest = octets.get(at..).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest);
            let here = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            if !self.started && self.line < self.start.len() {
                for (to, from) in self.start.iter_mut().skip(self.line).zip(here) {
                    *to = *from;
                }
            }
            self.line += here.len();
            self.last = here.last().copied().unwrap_or(self.last);
            let Some(end) = end else { return Read::More };
            if self.line == 0 || self.last != b'\r' {
                return Read::Broken;
            }
            at += end + 1;
            let empty = self.line == 1;
            (self.line, self.last) = (0, 0);
            match (empty, self.started) {
                (true, true) => {
                    // 101 is the last head there is.
                    let code = self.start.get(9..).unwrap_or_default();
                    return Read::Ends(at, code.starts_with(b"1") && code != b"101");
                }
                (true, false) => return Read::Broken,
                (false, _) => self.started = true,
            }
        }
    }
}

/// A connection to an upstream whose answers' heads are checked.
pub(crate) struct Checked<T> {
    io: T,
    expecting: Expecting,
    head: Option<Head>,
}

impl<T> Checked<T> {
    pub(crate) fn new(io: T) -> (Self, Expecting) {
        let expecting = Expecting::default();
        (Self { io, expecting: expecting.clone(), head: None }, expecting)
    }

    fn check(&mut self, mut octets: &[u8]) -> io::Result<()> {
        if self.expecting.0.load(Ordering::Relaxed) {
            self.expecting.0.store(false, Ordering::Relaxed);
            self.head = Some(Head::default());
        }
        while let Some(head) = &mut self.head {
            match head.read(octets) {
                Read::More => break,
                Read::Broken => return Err(io::Error::new(io::ErrorKind::InvalidData, "a bare line break in the head of an answer")),
                Read::Ends(at, interim) => {
                    self.head = if interim { Some(Head::default()) } else { None };
                    octets = octets.get(at..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Checked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if this.head.is_some() || this.expecting.0.load(Ordering::Relaxed) {
            let checked = this.check(buf.filled().get(before..).unwrap_or_default());
            if checked.is_err() {
                buf.set_filled(before);
            }
            return Poll::Ready(checked);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Checked<T> {
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
    use super::*;

    fn good(octets: &[u8]) -> bool {
        let whole = {
            let (mut checked, expecting) = Checked::new(());
            expecting.head();
            checked.check(octets).is_ok()
        };
        let (mut checked, expecting) = Checked::new(());
        expecting.head();
        let split = octets.iter().all(|octet| checked.check(&[*octet]).is_ok());
        assert_eq!(whole, split, "however it arrives: {}", octets.escape_ascii());
        whole
    }

    #[test]
    fn every_line_of_an_answers_head_ends_in_crlf() {
        assert!(good(b"HTTP/1.1 200 OK\r\nX: a\r\n\r\nbody\nwith\nlines"));
        assert!(good(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nX: a\r\n\r\n\n\n"));
        assert!(good(b"HTTP/1.1 101 Switching\r\n\r\n\nframes"));
        assert!(!good(b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: x\r\n\r\n"));
        assert!(!good(b"HTTP/1.1 200 OK\nX: a\n\n"));
        assert!(!good(b"HTTP/1.1 200 OK\r\nX: a\r\n\nb"));
        assert!(!good(b"\r\nHTTP/1.1 200 OK\r\nX: a\n\r\n"), "nothing comes before the status line");
        assert!(!good(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nX: a\n\r\n"));
    }
}
