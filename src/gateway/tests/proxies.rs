//! Whose request it is: listeners of both families, and what trusted proxies tell.
use super::*;

/// A gateway on a listener that believes the peers of `trusted`.
fn behind(rig: &Rig, listen: &str, trusted: &str) -> SocketAddr {
    let inside = r#"permit(principal, action, resource) when { ip(context.source).isInRange(ip("192.0.2.0/24")) };"#;
    let outside = r#"permit(principal, action, resource); forbid(principal, action, resource) when { ip(context.source).isInRange(ip("192.0.2.0/24")) };"#;
    let local = r#"permit(principal, action, resource) when { context.source == "127.0.0.1" };"#;
    let mut routes: Vec<Route> = [("inside", inside), ("outside", outside), ("local", local)]
        .map(|(id, policy)| {
            let route =
                json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": rig.inline, "public": true, "policy": policy});
            serde_json::from_value(route).unwrap()
        })
        .into();
    let told = json!({"id": "told", "match": {"path_prefix": "/told/"}, "upstream": rig.inline, "public": true, "forwarded": true});
    let limit = json!({"key": "ip", "rate": 1, "period": "60s"});
    let once = json!({"id": "once", "match": {"path_prefix": "/once/"}, "upstream": rig.inline, "public": true, "rate_limit": limit});
    routes.extend([told, once].map(|route| serde_json::from_value(route).unwrap()));
    let gateway = Gateway::new(Parts {
        devices: Arc::new(crate::devices::NoDevices),
        table: Arc::new(ArcSwap::from_pointee(RouteTable::build(&routes, &[], &[], ISSUER).unwrap())),
        revoked: Arc::new(RevocationSet::new()),
        own: rig.gateway.parts().own.clone(),
        outbound: Arc::clone(&rig.gateway.parts().outbound),
        clock: Arc::clone(&rig.clock) as _,
        entropy: Arc::new(Counting(AtomicU64::new(1))),
        counters: Arc::new(Buckets::default()),
        store: None,
        nonces: None,
        passed_on: None,
        observing: None,
        sessions: None,
        means: crate::told::Means::default(),
        settings: Settings { trusted_proxies: vec![trusted.parse().unwrap()], ..Settings::default() },
    });
    let listener = std::net::TcpListener::bind(listen).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let stop = rig.shutdown.clone();
    tokio::spawn(async move { gateway.serve(listener, None, 1, stop).await });
    at
}

async fn get(at: SocketAddr, path: &str, fields: &str) -> u16 {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    status(&read_all(&mut stream, Duration::from_secs(2)).await.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_client_is_one_on_a_listener_of_both_families_too() {
    let rig = Rig::start().await;
    for listen in ["[::]:0", "127.0.0.1:0"] {
        let at = behind(&rig, listen, "10.0.0.0/8");
        assert_eq!(get(at, "/local/x", "").await, 200, "{listen}");
        assert_eq!(get(at, "/local/x", "X-Forwarded-For: 192.0.2.1\r\n").await, 200, "{listen}");
        assert_eq!(get(at, "/inside/x", "X-Forwarded-For: 192.0.2.1\r\n").await, 403, "{listen}");
        let at = behind(&rig, listen, "127.0.0.1/32");
        for address in ["192.0.2.1", "::ffff:192.0.2.1"] {
            let fields = format!("X-Forwarded-For: {address}\r\n");
            assert_eq!((get(at, "/inside/x", &fields).await, get(at, "/outside/x", &fields).await), (200, 403), "{listen} {address}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_trusted_proxy_names_in_either_header_is_the_source() {
    let rig = Rig::start().await;
    let at = behind(&rig, "127.0.0.1:0", "127.0.0.1/32");
    for (fields, inside, outside) in [
        ("Forwarded: for=192.0.2.1\r\n", 200, 403),
        ("Forwarded: for=198.51.100.1, for=\"[::ffff:192.0.2.1]:80\";proto=https\r\n", 200, 403),
        ("X-Forwarded-For: 198.51.100.1\r\nForwarded: for=198.51.100.1\r\n", 403, 200),
        // Nobody knows: no policy that asks for it lets anybody in.
        ("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=198.51.100.1\r\n", 403, 403),
        ("X-Forwarded-For: 198.51.100.1\r\nForwarded: for=192.0.2.1\r\n", 403, 403),
        ("Forwarded: for=unknown\r\n", 403, 403),
        ("Forwarded: for=_hidden\r\n", 403, 403),
    ] {
        assert_eq!((get(at, "/inside/x", fields).await, get(at, "/outside/x", fields).await), (inside, outside), "{fields}");
    }
    // Each source has its own quota; those that nobody knows share the proxy's.
    let once = async |fields: &str| get(at, "/once/x", fields).await;
    assert_eq!((once("Forwarded: for=192.0.2.1\r\n").await, once("Forwarded: for=192.0.2.1\r\n").await), (200, 429));
    assert_eq!((once("Forwarded: for=192.0.2.2\r\n").await, once("X-Forwarded-For: 192.0.2.2\r\n").await), (200, 429));
    assert_eq!((once("Forwarded: for=_a\r\n").await, once("Forwarded: for=_b\r\n").await), (200, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_told_what_the_proxies_told() {
    let rig = Rig::start().await;
    for (listen, fields, chain, scheme) in [
        ("127.0.0.1:0", "Forwarded: for=192.0.2.1;proto=https\r\n", "192.0.2.1, 127.0.0.1", "https"),
        ("[::]:0", "Forwarded: for=192.0.2.1;proto=https\r\n", "192.0.2.1, 127.0.0.1", "https"),
        ("[::]:0", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.2\r\n", "6.6.6.6, 192.0.2.2, 127.0.0.1", "http"),
    ] {
        let at = behind(&rig, listen, "127.0.0.1/32");
        assert_eq!(get(at, "/told/x", fields).await, 200);
        let seen = rig.upstream.seen().to_lowercase();
        assert!(
            seen.contains(&format!("x-forwarded-for: {chain}\r\n")) && seen.contains(&format!("x-forwarded-proto: {scheme}\r\n")),
            "{seen}"
        );
        rig.upstream.seen.lock().clear();
    }
}
