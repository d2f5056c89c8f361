//! How long the head of a request may take over HTTP/2: the frames of a connection are followed by their headers only.
//!
//! A connection must have brought its first field block, and a field block that was begun must be ended (RFC 9113 §6.10),
//! within the same time as a head over HTTP/1. A peer that takes back more than every other request it makes (CVE-2023-44487) is
//! left alone.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// How many more requests than every other one may be taken back.
const TAKEN_BACK: u32 = 500;

/// Where in the frames a connection is.
#[derive(Debug)]
struct Frames {
    /// Octets to pass over.
    skip: usize,
    /// The next frame's header, as far as it came.
    header: [u8; 9],
    got: usize,
    /// A field block is open, or none has come yet.
    open: bool,
    /// The frame being passed over ends the field block.
    ends: bool,
    /// Two for every request taken back, less one for every request.
    taken_back: u32,
}

impl Frames {
    const fn new() -> Self {
        Self { skip: PREFACE, header: [0; 9], got: 0, open: true, ends: false, taken_back: 0 }
    }

    fn read(&mut self, mut octets: &[u8]) {
        loop {
            let over = self.skip.min(octets.len());
            self.skip -= over;
            octets = octets.get(over..).unwrap_or_default();
            if self.skip == 0 && self.ends {
                (self.open, self.ends) = (false, false);
            }
            let Some((&octet, rest)) = octets.split_first() else { return };
            if let Some(slot) = self.header.get_mut(self.got) {
                *slot = octet;
            }
            self.got += 1;
            octets = rest;
            if self.got == self.header.len() {
                self.got = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                match kind {
                    HEADERS => self.taken_back = self.taken_back.saturating_sub(1),
                    RST_STREAM => self.taken_back = self.taken_back.saturating_add(2),
                    _ => {}
                }
                let fields = kind == HEADERS || kind == CONTINUATION;
                self.open |= fields;
                self.ends = fields && flags & END_HEADERS != 0;
            }
        }
    }
}

/// An HTTP/2 connection on which heads may not take for ever.
pub(crate) struct Heads<T> {
    io: T,
    frames: Frames,
    within: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Heads<T> {
    /// Heads may take this long.
    pub(crate) const fn new(io: T, within: Duration) -> Self {
        Self { io, frames: Frames::new(), within, sleep: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heads<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.frames.read(buf.filled().get(before..).unwrap_or_default());
                if this.frames.taken_back > TAKEN_BACK {
                    tracing::info!(target: "gateway", "a peer takes its requests back again and again: left alone");
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                if !this.frames.open {
                    this.sleep = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending if this.frames.open => {
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(this.within)));
                sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            other => other,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heads<T> {
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    async fn silent_after(octets: &[u8]) -> bool {
        let (mut client, server) = duplex(1024);
        let mut heads = Heads::new(server, Duration::from_millis(40));
        client.write_all(octets).await.unwrap();
        let mut into = [0; 1024];
        let reading = async { while heads.read(&mut into).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(Duration::from_millis(300), reading).await.is_err()
    }

    #[test]
    fn taking_back_every_other_request_is_borne_and_taking_back_all_is_not() {
        let frame = |kind| [0, 0, 0, kind, END_HEADERS, 0, 0, 0, 1];
        let after = |round: &[u8]| {
            let mut frames = Frames { skip: 0, ..Frames::new() };
            (0..5_000).for_each(|_| round.iter().for_each(|kind| frames.read(&frame(*kind))));
            frames.taken_back
        };
        assert!(after(&[HEADERS, HEADERS, RST_STREAM]) <= TAKEN_BACK);
        assert!(after(&[HEADERS, RST_STREAM]) > TAKEN_BACK);
    }

    #[tokio::test]
    async fn a_field_block_that_is_not_ended_ends_the_connection_and_an_idle_one_stays() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let block = |flags| [&[0, 0, 2, HEADERS, flags, 0, 0, 0, 1, 0x82, 0x84][..]].concat();
        assert!(!silent_after(preface).await, "nothing after the preface");
        assert!(!silent_after(&[&preface[..], &SETTINGS].concat()).await, "no request at all");
        assert!(!silent_after(&[&preface[..], &SETTINGS, &block(0)].concat()).await, "no END_HEADERS");
        assert!(silent_after(&[&preface[..], &SETTINGS, &block(END_HEADERS)].concat()).await, "a whole head");
        assert!(silent_after(&[&preface[..], &block(END_HEADERS), &SETTINGS].concat()).await, "idle after it");
        let continued = [0, 0, 1, CONTINUATION, END_HEADERS, 0, 0, 0, 1, 0x86];
        assert!(silent_after(&[&preface[..], &SETTINGS, &block(0), &continued].concat()).await, "continued to its end");
        assert!(!silent_after(&[&preface[..], &SETTINGS, &block(END_HEADERS)[..10]].concat()).await, "half a head");
        let two = [&preface[..], &block(END_HEADERS), &block(0), &SETTINGS].concat();
        assert!(!silent_after(&two).await, "the second one is begun");
    }
}
