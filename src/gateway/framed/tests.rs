//! The octets of a connection: silence, half-closed peers, peers that do not read.
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

#[tokio::test]
async fn an_answer_that_takes_long_is_no_idleness_and_idleness_ends_the_connection() {
    let shared = Arc::<Shared>::default();
    let (mut client, server) = duplex(1024);
    let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
    let mut into = [0; 1024];
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(framed.read(&mut into).await.unwrap() > 0);
    let (busy, _) = shared.begin();
    assert!(tokio::time::timeout(IDLE_TIME * 4, framed.read(&mut into)).await.is_err(), "kept while it is answered");
    drop(busy);
    let ended = tokio::time::timeout(IDLE_TIME * 3, framed.read(&mut into)).await.expect("ended when nothing more is asked");
    assert_eq!(ended.unwrap(), 0);
}

#[tokio::test]
async fn a_request_the_parser_has_not_handed_on_yet_is_no_idleness() {
    let shared = Arc::<Shared>::default();
    let (mut client, server) = duplex(1024);
    let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
    let mut into = [0; 1024];
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(framed.read(&mut into).await.unwrap() > 0);
    assert!(tokio::time::timeout(PARK_TIME * 4, framed.read(&mut into)).await.is_err(), "nobody has begun to answer it");
    shared.close();
    assert!(tokio::time::timeout(PARK_TIME * 4, framed.read(&mut into)).await.is_err(), "nor does a drain end it");
    drop(shared.begin());
    assert_eq!(framed.read(&mut into).await.unwrap(), 0);
}

#[tokio::test]
async fn a_peer_that_has_not_read_the_end_of_its_answer_is_not_idle() {
    let shared = Arc::<Shared>::default();
    let (_client, server) = duplex(16);
    let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
    let written = tokio::time::timeout(PARK_TIME / 4, framed.write_all(&[b'x'; 64])).await;
    assert!(written.is_err(), "there is no room for all of it");
    assert!(tokio::time::timeout(PARK_TIME * 4, framed.read(&mut [0; 64])).await.is_err());
    assert!(!shared.unpark());
}

#[tokio::test]
async fn only_the_handshake_itself_decides_what_comes_after_it() {
    let shared = Arc::<Shared>::default();
    let (mut client, server) = duplex(1024);
    let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
    let mut into = [0; 1024];
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: other\r\nUpgrade: websocket\r\n";
    // One with a body is no handshake: nothing waits for it, and it decides nothing about the one that follows.
    client.write_all(format!("{upgrade}Content-Length: 1\r\n\r\nx{upgrade}\r\nframes").as_bytes()).await.unwrap();
    let read = framed.read(&mut into).await.unwrap();
    let text = String::from_utf8_lossy(&into[..read]).into_owned();
    assert!(text.ends_with("\r\n\r\n"), "what comes after the second one waits: {text}");
    let first = shared.begin();
    assert!(!shared.is_handshake());
    shared.decide(true);
    drop(first);
    let _second = shared.begin();
    assert!(shared.is_handshake());
    assert!(tokio::time::timeout(PARK_TIME / 4, framed.read(&mut into)).await.is_err());
    shared.decide(true);
    assert!(!shared.is_handshake());
    assert_eq!(framed.read(&mut into).await.unwrap(), "frames".len());
}

#[tokio::test]
async fn the_request_in_place_of_a_refused_one_is_whole_however_little_is_read_at_a_time() {
    let (mut client, server) = duplex(1024);
    let mut framed = Framed::new(server, Vec::new(), Arc::default());
    client.write_all(b"GET / HTTP/1.1\nHost: x\n\n").await.unwrap();
    let mut seen = Vec::new();
    let mut few = [0; 7];
    while seen.len() < REFUSED.len() {
        let n = tokio::time::timeout(Duration::from_secs(1), framed.read(&mut few)).await.unwrap().unwrap();
        seen.extend_from_slice(&few[..n]);
    }
    assert_eq!(seen, REFUSED);
}

/// Takes what is written, and gets none of it to the other end: a peer behind TLS that does not read.
struct Deaf;
impl AsyncRead for Deaf {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
        Poll::Ready(Ok(()))
    }
}
impl AsyncWrite for Deaf {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn who_does_not_read_is_asked_for_nothing_more_and_ends() {
    let within = UNREAD_TIME * 10;
    for shut in [false, true] {
        let mut framed = Framed::new(Deaf, Vec::new(), Arc::default());
        assert!(framed.read(&mut [0; 64]).await.unwrap() > 0);
        framed.write_all(b"an answer").await.unwrap();
        assert!(futures_util::poll!(Box::pin(framed.flush())).is_pending());
        assert!(futures_util::poll!(Box::pin(framed.read(&mut [0; 64]))).is_pending(), "nothing more is read of it");
        let ended = async { if shut { framed.shutdown().await } else { framed.flush().await } };
        assert!(tokio::time::timeout(within, ended).await.expect("in time").is_err());
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_more_is_answered_and_not_waited_for_without_end() {
    let ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for answered in [true, false] {
        let shared = Arc::<Shared>::default();
        let (mut client, server) = duplex(1024);
        let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
        let mut into = [0; 1024];
        client.write_all(ask).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(framed.read(&mut into).await.unwrap() > 0);
        let (busy, _) = shared.begin();
        assert!(futures_util::poll!(Box::pin(framed.read(&mut into))).is_pending(), "its answer is on the way");
        assert!(shared.idle_since().is_some(), "whoever says more goes before it");
        if answered {
            framed.write_all(b"an answer").await.unwrap();
            drop(busy);
            assert!(matches!(futures_util::poll!(Box::pin(framed.read(&mut into))), Poll::Ready(Ok(0))));
        } else {
            let ended = tokio::time::timeout(IDLE_TIME * 10, framed.read(&mut into)).await.expect("in time");
            assert_eq!(ended.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_head_that_is_given_up_is_free_at_once_also_where_answers_are_not_read() {
    for unread in [false, true] {
        let (shared, budget) = (Arc::<Shared>::default(), Budget::new("test", 0));
        shared.counts_with(&budget);
        let (mut client, server) = duplex(64);
        let mut framed = Framed::new(server, Vec::new(), Arc::clone(&shared));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        assert!(futures_util::poll!(Box::pin(framed.read(&mut [0; 64]))).is_pending());
        assert!(!framed.held.is_empty() && framed.partial.is_some());
        if unread {
            framed.write_all(&[b'x'; 64]).await.unwrap();
            assert!(futures_util::poll!(Box::pin(framed.write(b"x"))).is_pending());
        }
        let _others: Vec<_> = (0..256).map(|_| Unfinished::new(&budget)).inspect(|other| other.holds(4096)).collect();
        if unread {
            assert!(futures_util::poll!(Box::pin(framed.write(b"x"))).is_pending());
            assert!(framed.held.capacity() == 0 && framed.partial.is_none());
        }
        let mut seen = [0; REFUSED.len()];
        framed.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, REFUSED);
        assert!(matches!(shared.begin().1, Some(Refusal::TooSlow)));
    }
}
