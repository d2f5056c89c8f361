//! Reading the body of a message whole, into memory of its own size.
//!
//! A frame shares the buffer it was read into, 8 KiB and more. Frames that are kept until the last one has come keep all those buffers, and
//! a peer decides how many octets a frame has: one each would be eight thousand times what it sent.
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unread<E> {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body broke off: {0}")]
    Broken(E),
}

/// Reads a body of at most `most` octets. One that comes in one frame stays where it is, any other is copied as it comes. Trailers are
/// passed over.
///
/// # Errors
/// More octets than that, found when they have come; what the body itself ended with.
pub async fn read<B: Body<Data = Bytes>>(body: B, most: usize) -> Result<Bytes, Unread<B::Error>> {
    let mut body = pin!(body);
    let mut octets = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else { continue };
        if data.len() > most - octets.len() {
            return Err(Unread::TooLarge);
        }
        if octets.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        octets.extend_from_slice(&data);
    }
    Ok(octets.freeze())
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    /// A buffer that tells how many of its kind are there.
    struct Buffer(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn no_buffer_is_kept_for_the_octet_that_came_in_it() {
        let (alive, most) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let frames = (0..1000_u32).map(|n| {
            most.fetch_max(alive.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let octet = u8::try_from(n % 251).unwrap();
            let buffer = Buffer([vec![octet], vec![0; 8191]].concat(), Arc::clone(&alive));
            Ok::<_, Infallible>(Frame::data(Bytes::from_owner(buffer).slice(..1)))
        });
        let read = read(StreamBody::new(stream::iter(frames)), 1000).await.unwrap();
        assert_eq!(read, (0..1000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>());
        assert_eq!((most.into_inner(), alive.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let octets = Bytes::from(vec![1; 4096]);
        assert_eq!(read(Full::new(octets.clone()), 4096).await.unwrap().as_ptr(), octets.as_ptr());
        assert!(read(Full::new(Bytes::new()), 0).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_octet_more_is_too_large_and_a_broken_body_is_told() {
        let body = |pieces: &[Result<&'static str, &'static str>]| {
            StreamBody::new(stream::iter(pieces.iter().map(|p| p.map(|p| Frame::data(Bytes::from(p)))).collect::<Vec<_>>()))
        };
        assert_eq!(read(body(&[Ok("ab"), Ok("c")]), 3).await.unwrap(), "abc");
        assert_eq!(read(body(&[Ok("ab"), Ok("cd")]), 3).await, Err(Unread::TooLarge));
        assert_eq!(read(body(&[Ok("abcd")]), 3).await, Err(Unread::TooLarge));
        assert_eq!(read(body(&[Ok("ab"), Err("gone")]), 3).await, Err(Unread::Broken("gone")));
    }
}
