//! Envoy as the front door, over gRPC and over HTTP, and calls that no Envoy would make.
use std::process::Command;

use crate::kit::fronts::{Front, deciding, holds};
use crate::kit::http::{Go, client, random};
use crate::kit::seed::MACHINE;
use crate::kit::{Stage, services};

#[test]
fn envoy_passes_and_refuses_what_is_decided_here_over_grpc() {
    let stage = deciding(|_| {});
    let Some(front) = Front::envoy(&stage, true) else { return };
    holds(&stage, &front);
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    assert_eq!(front.call("/old/x", &token).expect(200).header("deprecation"), "@1767225600");
    stage.signal("KILL");
    let mark = random();
    client().get(front.url(&format!("/public/{mark}"))).go().expect(403);
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn envoy_passes_and_refuses_what_is_decided_here_over_http() {
    let stage = deciding(|_| {});
    let Some(front) = Front::envoy(&stage, false) else { return };
    holds(&stage, &front);
}

/// A field of a message.
fn field(number: u8, octets: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut n = octets.len();
    while n > 127 {
        out.push(u8::try_from(n & 127).unwrap() | 128);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap());
    [out, octets.to_vec()].concat()
}

fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers: Vec<u8> = headers.iter().flat_map(|(n, v)| field(3, &[field(1, n.as_bytes()), field(2, v.as_bytes())].concat())).collect();
    let text = |number, text: &str| field(number, text.as_bytes());
    let http = [text(2, method), headers, text(4, path), text(5, "api.example.com"), text(6, "https")].concat();
    let source = field(1, &field(1, &field(1, &field(2, address.as_bytes()))));
    field(1, &[source, field(4, &field(2, &http))].concat())
}

/// Calls `Check` over prior-knowledge HTTP/2 with these octets; the message of the answer, and what `grpc-status` said.
fn check(stage: &Stage, framed: &[u8], more: &[&str]) -> (Vec<u8>, String) {
    let file = stage.house.path(&random());
    std::fs::write(&file, framed).unwrap();
    let heads = file.with_extension("heads");
    let done = Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg("-D")
        .arg(&heads)
        .args(more)
        .arg(format!("http://{}/envoy.service.auth.v3.Authorization/Check", stage.listener("decision")))
        .output()
        .expect("curl runs");
    let told = std::fs::read_to_string(heads).unwrap_or_default();
    let status = told.lines().find_map(|line| line.strip_prefix("grpc-status: ")).unwrap_or("none").trim().to_owned();
    (done.stdout, status)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn says(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn a_check_is_answered_with_what_to_set_and_what_to_take_off() {
    if !services::has("curl") {
        return services::skip("curl");
    }
    let stage = deciding(|_| {});
    let token = format!("Bearer {}", stage.machine_token(&MACHINE, &[("scope", "read")]));
    let asked = |path, more: &[(&str, &str)]| {
        framed(&request("192.0.2.1", "GET", path, &[&[("authorization", token.as_str())][..], more].concat()))
    };
    let (yes, status) = check(&stage, &asked("/api/x?q", &[("x.doorward.subject", "mallory"), (":path", "/api/x?q")]), &[]);
    assert_eq!(status, "0");
    for text in ["x-doorward-subject", "machine", "x.doorward.subject", "authorization"] {
        assert!(says(&yes, text), "{text} in {}", yes.escape_ascii());
    }
    assert!(!says(&yes, "mallory"));
    let (no, status) = check(&stage, &framed(&request("192.0.2.1", "GET", "/api/x", &[])), &[]);
    assert_eq!(status, "0");
    assert!(says(&no, "www-authenticate") && says(&no, "Unauthorized"), "{}", no.escape_ascii());
    let two = [("authorization", "Bearer a.b.c,Bearer d.e.f")];
    let (no, _) = check(&stage, &framed(&request("192.0.2.1", "GET", "/api/x", &two)), &[]);
    assert!(says(&no, "Bad Request"), "{}", no.escape_ascii());
    for (path, address, more) in [
        ("/api//x", "192.0.2.1", &[][..]),
        ("/api/%2e%2e/x", "192.0.2.1", &[]),
        ("/api/x", "nowhere", &[]),
        ("/api/x", "192.0.2.1", &[(":path", "/public/x")]),
        ("/api/x", "192.0.2.1", &[("x_under", "1")]),
        ("", "192.0.2.1", &[]),
    ] {
        let lines = [&[("authorization", token.as_str())][..], more].concat();
        let (no, status) = check(&stage, &framed(&request(address, "GET", path, &lines)), &[]);
        assert!(status == "0" && says(&no, "Bad Request"), "{path} {address} {more:?}: {status} {}", no.escape_ascii());
    }
    assert!(stage.upstream.seen("/").is_empty());
}

#[test]
fn what_is_no_check_is_no_yes() {
    if !services::has("curl") {
        return services::skip("curl");
    }
    let stage = deciding(|_| {});
    let good = request("192.0.2.1", "GET", "/public/x", &[]);
    assert_eq!(check(&stage, &framed(&good), &[]).1, "0");
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("cut short", framed(&good[..good.len() - 1]), "3"),
        ("no frame", good.clone(), "3"),
        ("nothing", Vec::new(), "3"),
        ("two messages", [framed(&good), framed(&good)].concat(), "3"),
        ("another length", [&[0, 0, 0, 0, 1][..], &good].concat(), "3"),
        ("compressed", [&[1, 0, 0, 0, 0][..]].concat(), "12"),
        ("too large", framed(&field(9, &vec![0; 300_000])), "8"),
    ];
    for (what, octets, status) in cases {
        let (said, heard) = check(&stage, &octets, &[]);
        assert_eq!((heard.as_str(), said.len()), (status, 0), "{what}");
    }
    assert_eq!(check(&stage, &framed(&good), &["-H", "content-type: application/json"]).1, "12");
    assert_eq!(check(&stage, &framed(&good), &["--http1.1"]).1, "12");
}
