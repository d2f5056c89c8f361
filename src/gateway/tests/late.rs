//! Deadlines and who is to blame for them: a target that hangs, or a caller that keeps it waiting.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_is_to_blame_whichever_deadline_ends_it_and_one_kept_waiting_is_not() {
    let rig = Rig::start().await;
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = hung.local_addr().unwrap();
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((stream, _)) = hung.accept().await {
            all.push(stream);
        }
    });
    let (gateway, at) = rig.sibling(Arc::clone(&rig.gateway.parts().outbound), |_| {
        let route = |id: &str, deadline: &str, limits: Value| {
            let mut upstream = json!({"targets": [{"url": format!("http://{to}")}], "breaker": {"min_requests": 1}});
            if !deadline.is_empty() {
                upstream[deadline] = json!("1s");
            }
            let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": upstream, "public": true});
            if !limits.is_null() {
                route["limits"] = limits;
            }
            serde_json::from_value(route).unwrap()
        };
        let routes = [
            route("each", "timeout", Value::Null),
            route("total", "total_timeout", Value::Null),
            route("head", "", json!({"response_time": "1s"})),
        ];
        RouteTable::build(&routes, &[], &[], ISSUER).unwrap()
    });
    let send = async |path: &str, length: usize| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: gw\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        status(&read_all(&mut stream, Duration::from_secs(5)).await.0)
    };
    let blamed = || gateway.upstreams().iter().filter(|target| target.breaker == "open").count();
    let (each, total, head) = tokio::join!(send("/each/x", 5), send("/total/x", 5), send("/head/x", 5));
    assert_eq!((each, total, head), (408, 504, 504));
    assert_eq!((blamed(), gateway.upstreams().len()), (0, 3), "the callers did not send what they had said");
    let (each, total, head) = tokio::join!(send("/each/x", 0), send("/total/x", 0), send("/head/x", 0));
    assert_eq!((each, total, head), (504, 504, 504));
    assert_eq!(blamed(), 3);
}
