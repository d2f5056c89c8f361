//! Request bodies: whole or not at all, whatever the method, and in time.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_arrives_whatever_the_method() {
    let rig = Rig::start().await;
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "POST"] {
        rig.upstream.seen.lock().clear();
        let fields = "Host: gw\r\nTransfer-Encoding: chunked\r\nConnection: close";
        let answer = rig.raw(format!("{method} /public/x HTTP/1.1\r\n{fields}\r\n\r\n5\r\nHELLO\r\n0\r\n\r\n")).await;
        assert_eq!(status(&answer), 200, "{method}");
        let seen = rig.upstream.seen();
        assert!(seen.contains("transfer-encoding: chunked") && seen.contains("5\r\nHELLO\r\n0\r\n\r\n"), "{method}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_pauses_for_too_long_is_answered_with_408() {
    let rig = Rig::start().await;
    for framing in ["Content-Length: 10\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n5\r\nx"] {
        let mut stream = rig.connect().await;
        stream.write_all(format!("POST /public/x HTTP/1.1\r\nHost: gw\r\n{framing}").as_bytes()).await.unwrap();
        let (answer, closed) = read_all(&mut stream, Duration::from_secs(5)).await;
        assert_eq!((status(&answer), closed), (408, true), "{framing}: {answer}");
    }
}
