//! The decision server by itself and behind Caddy and Traefik: what is told has to be complete, single and of one dialect.
use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use crate::kit::dpop::Holder;
use crate::kit::fronts::{Front, SPOOFS, deciding, holds};
use crate::kit::http::{Answer, Go, RUNTIME, client, client_from};
use crate::kit::seed::{MACHINE, SAFE};
use crate::kit::{Stage, raw, services};

/// What a front tells of `GET https://api.example.com/…`.
fn told(path: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Forwarded-Uri", path),
        ("X-Forwarded-For", "192.0.2.1"),
    ]
}

#[track_caller]
fn ask(stage: &Stage, at: &str, lines: &[(&str, &str)]) -> Answer {
    let request = client().get(format!("http://{}{at}", stage.listener("decision")));
    lines.iter().fold(request, |request, (name, value)| request.header(*name, *value)).go()
}

#[test]
fn caddy_passes_and_refuses_what_is_decided_here() {
    let stage = deciding(|_| {});
    let Some(front) = Front::caddy(&stage) else { return };
    holds(&stage, &front);
}

#[test]
fn traefik_passes_and_refuses_what_is_decided_here() {
    let stage = deciding(|_| {});
    let Some(front) = Front::traefik(&stage) else { return };
    holds(&stage, &front);
}

#[test]
fn a_decision_is_the_gateways_own_and_never_cached() {
    let stage = deciding(|_| {});
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    let bearer = format!("Bearer {token}");
    let with = |path| [told(path), vec![("Authorization", bearer.as_str())]].concat();
    let yes = ask(&stage, "/auth/forward", &with("/api/x?q=1")).expect(200);
    assert_eq!((yes.header("x-doorward-subject"), yes.header("x-doorward-scope")), ("machine", "read"));
    assert_eq!(yes.header("cache-control"), "no-store");
    assert!(!yes.header("x-request-id").is_empty());
    let public = ask(&stage, "/auth", &told("/public/x")).expect(200);
    assert_eq!((public.header("x-doorward-subject"), public.header("cache-control")), ("", "no-store"));
    for (path, status) in [("/writing/x", 403), ("/nowhere", 404), ("/gone/x", 410), ("/silent/x", 403)] {
        let no = ask(&stage, "/auth/forward", &with(path)).expect(status);
        assert_eq!((no.header("cache-control"), no.json()["status"].as_u64()), ("no-store", Some(u64::from(status))), "{path}");
    }
    let no = ask(&stage, "/auth/forward", &told("/api/x")).expect(401);
    assert!(no.header("www-authenticate").starts_with("Bearer"), "{:?}", no.headers);
    let explained = stage.admin("GET", &format!("/explanations/{}", no.header("x-request-id"))).go().expect(200).json();
    assert_eq!((explained["reason"].as_str(), explained["route"].as_str()), (Some("no_credential"), Some("read")), "{explained}");
    // An opaque token is asked about, as by the proxy.
    let opaque = format!("Bearer {}", stage.machine_token(&SAFE, &[]));
    ask(&stage, "/auth/forward", &[told("/vault/x"), vec![("Authorization", opaque.as_str())]].concat()).expect(200);
    // What is counted is counted by route, as for the proxy.
    stage.revoke(&MACHINE, &token);
    ask(&stage, "/auth/forward", &with("/api/x")).expect(401);
    let counted = || stage.metric("gateway_decisions_total{dialect=\"forward\",outcome=\"allowed\"}") >= 2.0;
    crate::kit::wait_until("the decisions are counted", std::time::Duration::from_secs(5), counted);
    let by_route = || stage.metric("auth_decisions_total{route=\"read\",outcome=\"refused\",reason=\"revoked\"}") >= 1.0;
    crate::kit::wait_until("the refusal is counted", std::time::Duration::from_secs(5), by_route);
}

#[test]
fn nginx_hears_401_and_403_alone_and_the_status_besides() {
    let stage = deciding(|_| {});
    let token = format!("Bearer {}", stage.machine_token(&MACHINE, &[("scope", "read")]));
    for (path, heard, status) in [("/api/x", 200, "200"), ("/writing/x", 403, "403"), ("/nowhere", 403, "404"), ("/gone/x", 403, "410")] {
        let url = format!("https://api.example.com{path}");
        let lines = [
            ("X-Original-Method", "GET"),
            ("X-Original-URL", url.as_str()),
            ("X-Forwarded-For", "192.0.2.1"),
            ("Authorization", token.as_str()),
        ];
        let answer = ask(&stage, "/auth/nginx", &lines);
        assert_eq!((answer.status, answer.header("x-doorward-status")), (heard, status), "{path}");
    }
}

#[test]
fn what_is_missing_double_of_two_dialects_or_contradicted_is_400() {
    let stage = deciding(|_| {});
    let whole = told("/public/x");
    ask(&stage, "/auth/forward", &whole).expect(200);
    for n in 0..whole.len() {
        let mut lines = whole.clone();
        let (name, value) = lines.remove(n);
        for at in ["/auth/forward", "/auth"] {
            assert_eq!(ask(&stage, at, &lines).status, 400, "without {name}");
        }
        if name != "X-Forwarded-For" {
            lines.extend([(name, value), (name, value)]);
            assert_eq!(ask(&stage, "/auth/forward", &lines).status, 400, "{name} twice");
        }
    }
    for more in [
        ("X-Original-URL", "https://api.example.com/public/x"),
        ("X-Original-URI", "/public/x"),
        ("X-Original-Method", "GET"),
        ("Forwarded", "for=192.0.2.9"),
        ("Forwarded", "for=192.0.2.1;proto=http"),
    ] {
        for at in ["/auth/forward", "/auth"] {
            assert_eq!(ask(&stage, at, &[whole.clone(), vec![more]].concat()).status, 400, "{more:?}");
        }
    }
    for path in [
        "public/x",
        "http://x/public/x",
        "//public/x",
        "/public//x",
        "/public/../x",
        "/public/%2e%2e/x",
        "/public/%2fx",
        "/public/\\x",
        "/public/x#y",
        "/public/%00",
        "/public/%zz",
        "*",
    ] {
        assert_eq!(ask(&stage, "/auth/forward", &told(path)).status, 400, "{path}");
    }
    for name in SPOOFS.iter().filter(|name| !name.contains('_')) {
        assert_eq!(ask(&stage, "/auth/forward", &[whole.clone(), vec![(name, "mallory")]].concat()).status, 400, "{name}");
    }
    for (name, value) in [("X-Forwarded-Method", "TRACE"), ("X-Forwarded-Method", "CONNECT")] {
        let lines: Vec<_> = whole.iter().map(|line| if line.0 == name { (name, value) } else { *line }).collect();
        assert_eq!(ask(&stage, "/auth/forward", &lines).status, 405, "{value}");
    }
    for (name, value) in [
        ("X-Forwarded-Proto", "ftp"),
        ("X-Forwarded-Host", "a b"),
        ("X-Forwarded-Host", "u@a"),
        ("X-Forwarded-Method", "G ET"),
        ("X-Forwarded-For", "unknown"),
    ] {
        let lines: Vec<_> = whole.iter().map(|line| if line.0 == name { (name, value) } else { *line }).collect();
        assert_eq!(ask(&stage, "/auth/forward", &lines).status, 400, "{name}: {value}");
    }
    assert!(stage.upstream.seen("/").is_empty(), "a decision forwards nothing");
}

#[test]
fn framing_is_looked_at_as_at_the_proxys_own_door() {
    let stage = deciding(|_| {});
    let at = stage.listener("decision");
    let head = "GET /auth/forward HTTP/1.1\r\nHost: d\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: d\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Uri: /public/x\r\n";
    assert_eq!(raw::exchange(&at, format!("{head}Connection: close\r\n\r\n").as_bytes()).status, 200);
    for bad in [
        "X_Under: 1\r\n",
        "X: a\r\n b\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "X: a\nY: b\r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n",
    ] {
        let answer = raw::exchange(&at, format!("{head}{bad}\r\n").as_bytes());
        assert_eq!((answer.status, answer.closed), (400, true), "{bad:?}");
    }
}

#[test]
fn only_fronts_are_believed() {
    let stage = deciding(|house| {
        house.set("server.decision_clients", r#"["127.0.0.7/32"]"#);
    });
    let url = format!("http://{}/auth/forward", stage.listener("decision"));
    let from = |address: &str| {
        let request = client_from(address).get(&url);
        told("/public/x").into_iter().fold(request, |request, (name, value)| request.header(name, value)).go().status
    };
    assert_eq!((from("127.0.0.7"), from("127.0.0.1"), from("127.0.0.8")), (200, 403, 403));
}

#[test]
fn a_front_may_show_a_certificate_instead() {
    if !services::has("openssl") {
        return services::skip("openssl");
    }
    let stage = deciding(|house| {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        let openssl = |args: String| {
            let done = Command::new("openssl").args(args.split(' ')).current_dir(house.dir()).output().expect("openssl runs");
            assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
        };
        openssl(format!("req -x509 {key} -days 2 -subj /CN=own -addext subjectAltName=IP:127.0.0.1 -keyout own.key -out own.pem"));
        openssl(format!("req -x509 {key} -days 2 -subj /CN=fronts -keyout ca.key -out ca.pem"));
        openssl(format!("req -new {key} -subj /CN=front -addext subjectAltName=DNS:front -keyout front.key -out front.csr"));
        openssl("x509 -req -in front.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out front.pem".into());
        let file = |name: &str| house.path(name).display().to_string();
        let (cert, key, ca) = (file("own.pem"), file("own.key"), json!([file("ca.pem")]).to_string());
        house.text("decision.tls.cert_file", &cert).text("decision.tls.key_file", &key).set("decision.tls.client_ca_files", &ca);
        house.set("server.decision_clients", "[]");
    });
    let curl = |more: &[&str]| {
        let url = format!("https://{}/auth/forward", stage.listener("decision"));
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", "own.pem"])
            .args(more)
            .arg(url)
            .current_dir(stage.house.dir());
        for (name, value) in told("/public/x") {
            curl.args(["-H", &format!("{name}: {value}")]);
        }
        String::from_utf8_lossy(&curl.output().expect("curl runs").stdout).into_owned()
    };
    assert_eq!(curl(&[]), "403");
    assert_eq!(curl(&["--cert", "front.pem", "--key", "front.key"]), "200");
    assert_eq!(curl(&["--cert", "own.pem", "--key", "own.key"]), "000", "a certificate of nobody's");
}

#[test]
fn plain_decisions_stay_on_loopback_and_a_decision_needs_a_gateway() {
    let mut house = crate::kit::House::new();
    house.text("server.decision_listen", "0.0.0.0:0").set("server.trusted_proxies", r#"["10.0.0.0/8"]"#);
    assert!(house.run(&["check"]).failed(2).said().contains("decision_listen"));
    house.text("server.decision_listen", "127.0.0.1:0").set("server.roles", r#"["auth", "admin"]"#);
    assert!(house.run(&["check"]).failed(2).said().contains("decision_listen"));
}

#[test]
fn a_proof_is_for_the_url_that_the_fronts_client_sees_and_counts_once() {
    let stage = deciding(|_| {});
    let key = Holder::new();
    let token = key.machine_token(&stage, &MACHINE);
    let proof = key.proof("GET", "https://api.example.com/api/x", Some(&token));
    let scheme = format!("DPoP {token}");
    let lines = [told("/api/x?q"), vec![("Authorization", scheme.as_str()), ("DPoP", proof.as_str())]].concat();
    ask(&stage, "/auth/forward", &lines).expect(200);
    assert!(ask(&stage, "/auth/forward", &lines).expect(401).header("www-authenticate").contains("invalid_dpop_proof"));
    for url in ["http://api.example.com/api/x", "https://api.example.com:8443/api/x", "https://api.example.com/api/y"] {
        let proof = key.proof("GET", url, Some(&token));
        let lines = [told("/api/x"), vec![("Authorization", scheme.as_str()), ("DPoP", proof.as_str())]].concat();
        assert_eq!(ask(&stage, "/auth/forward", &lines).status, 401, "{url}");
    }
}

#[test]
fn a_source_is_the_fronts_client_and_quotas_count_by_it() {
    let stage = deciding(|_| {});
    let mut route = json!({"id": "by-ip", "match": {"path_prefix": "/by-ip/"}, "upstream": "echo", "public": true});
    route["rate_limit"] = json!({"key": "ip", "rate": 2, "period": "600s"});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    let from = |source: &str| {
        let lines: Vec<_> =
            told("/by-ip/x").into_iter().map(|line| if line.0 == "X-Forwarded-For" { (line.0, source) } else { line }).collect();
        ask(&stage, "/auth/forward", &lines).status
    };
    assert_eq!([from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.1")], [200, 200, 429]);
    assert_eq!(from("192.0.2.2"), 200);
    assert_eq!(from("6.6.6.6, 192.0.2.2"), 200, "whoever came before the front's client is hearsay");
    assert_eq!(from("6.6.6.6, 192.0.2.1"), 429);
}

#[test]
fn many_fronts_ask_at_once_over_kept_connections() {
    let stage = deciding(|_| {});
    let token = format!("Bearer {}", stage.machine_token(&MACHINE, &[("scope", "read")]));
    let url = format!("http://{}/auth/forward", stage.listener("decision"));
    let statuses: Vec<u16> = RUNTIME.block_on(async {
        let calls = (0..200).map(|_| {
            let lines = [told("/api/x"), vec![("Authorization", token.as_str())]].concat();
            let request = lines.into_iter().fold(client().get(&url), |request, (name, value)| request.header(name, value));
            async move { request.send().await.map_or(0, |answer| answer.status().as_u16()) }
        });
        futures_util::future::join_all(calls).await
    });
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[test]
fn a_question_about_a_websocket_leaves_the_fronts_connection_in_use() {
    let stage = deciding(|_| {});
    let mut stream = raw::connect(&stage.listener("decision"));
    let lines: String = told("/public/x").iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for upgrade in ["Connection: Upgrade\r\nUpgrade: websocket\r\n", ""] {
        stream.write_all(format!("GET /auth/forward HTTP/1.1\r\nHost: decisions\r\n{upgrade}{lines}\r\n").as_bytes()).expect("it is sent");
        assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"), "{upgrade}");
    }
}
