//! Idle connections whose parser was let go: they go on as if nothing had been.
use super::*;

/// Longer than it takes to be parked, shorter than it takes to be ended.
const PAUSE: Duration = Duration::from_millis(350);

async fn answered(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n").as_bytes()).await.unwrap();
    read_all(stream, Duration::from_millis(150)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_is_served_again_and_again() {
    let rig = Rig::start().await;
    let mut stream = rig.connect().await;
    for round in 0..3 {
        assert_eq!(status(&answered(&mut stream, "/public/x").await), 200, "{round}");
        tokio::time::sleep(PAUSE).await;
    }
    // One that never asked anything is parked too.
    let mut late = rig.connect().await;
    tokio::time::sleep(PAUSE).await;
    assert_eq!(status(&answered(&mut late, "/public/x").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wakes_it_may_come_in_pieces_or_many_at_once() {
    let rig = Rig::start().await;
    let mut stream = rig.connect().await;
    assert_eq!(status(&answered(&mut stream, "/public/x").await), 200);
    tokio::time::sleep(PAUSE).await;
    for piece in ["G", "ET /pub", "lic/x HTTP/1.1\r\nHo", "st: gw\r\n", "\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(status(&read_all(&mut stream, Duration::from_millis(200)).await.0), 200);
    tokio::time::sleep(PAUSE).await;
    stream.write_all("GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n".repeat(3).as_bytes()).await.unwrap();
    let (three, _) = read_all(&mut stream, Duration::from_millis(300)).await;
    assert_eq!(three.matches("HTTP/1.1 200").count(), 3, "{three}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_after_parking_is_refused_and_only_that() {
    let rig = Rig::start().await;
    let mut stream = rig.connect().await;
    for _ in 0..2 {
        assert_eq!(status(&answered(&mut stream, "/public/x").await), 200);
    }
    tokio::time::sleep(PAUSE).await;
    let before = rig.upstream.requests.load(Ordering::SeqCst);
    stream.write_all(b"GET /public/a HTTP/1.1\r\nHost: gw\r\n\r\nGET /public/b HTTP/1.1\nHost: gw\n\n").await.unwrap();
    let (text, closed) = read_all(&mut stream, Duration::from_secs(1)).await;
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)).collect();
    assert_eq!((statuses, closed), (vec!["200", "400"], true), "{text}");
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_ends_with_the_server_the_client_and_its_patience() {
    let rig = Rig::start().await;
    let mut left = rig.connect().await;
    assert_eq!(status(&answered(&mut left, "/public/x").await), 200);
    let (_, closed) = read_all(&mut left, Duration::from_secs(3)).await;
    assert!(closed, "ended when nothing more is asked");

    let mut stream = rig.connect().await;
    assert_eq!(status(&answered(&mut stream, "/public/x").await), 200);
    tokio::time::sleep(PAUSE).await;
    rig.shutdown.cancel();
    let (text, closed) = read_all(&mut stream, Duration::from_millis(300)).await;
    assert!(closed && text.is_empty(), "{text}");
}
