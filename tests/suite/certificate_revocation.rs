//! Revoked client certificates (RFC 5280 §5, RFC 6960): refused with the next request, on open connections too, and what they opened is cut.
use std::cell::RefCell;
use std::time::Duration;

use serde_json::json;

use crate::kit::pki::{Client, Pki, Responder, Wire, curl, der, openssl};
use crate::kit::{House, wait_until};
use crate::mtls_gateway::{World, world};

const SOON: Duration = Duration::from_secs(15);

fn lists(house: &mut House, files: &[&str]) {
    let files: Vec<_> = files.iter().map(|file| house.path(file)).collect();
    house.set("server.tls.client_crl_files", &json!(files).to_string());
}

/// A world whose authorities both publish lists.
fn listed(configure: impl FnOnce(&mut House)) -> Option<World> {
    let prepare = |_: &House, root: &Pki, second: &Pki| {
        root.client("pump", "DNS:pump.example.com");
        root.list("root.crl", &[]);
        second.list("second.crl", &[]);
    };
    world(prepare, |house| {
        lists(house, &["root.crl", "second.crl"]);
        configure(house);
    })
}

fn websocket(world: &World, certificate: &str, more: &str) -> Wire {
    let mut wire = Client::new(&world.house, certificate).connect(&world.gateway());
    wire.send(&format!(
        "GET /mtls/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    ));
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    wire
}

fn events(world: &World, certificate: &str, path: &str, more: &str) -> Wire {
    let mut wire = Client::new(&world.house, certificate).connect(&world.gateway());
    wire.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{more}\r\n"));
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    wire
}

#[test]
fn a_listed_certificate_is_refused_on_the_connection_that_is_open() {
    let Some(world) = listed(|_| {}) else { return };
    let client = Client::new(&world.house, "app");
    let (mut open, mut other) = (client.connect(&world.gateway()), Client::new(&world.house, "pump").connect(&world.gateway()));
    let (socket, stream) = (websocket(&world, "app", ""), events(&world, "app", "/mtls/sse", ""));
    let bound = format!("Authorization: Bearer {}\r\n", world.bound_token().1["access_token"].as_str().expect("a token"));
    let under_a_token = events(&world, "app", "/bound/sse", &bound);
    let mut bystander = websocket(&world, "pump", "");
    assert_eq!((open.get("/mtls/x", ""), other.get("/mtls/x", ""), open.get("/bound/x", &bound)), (200, 200, 200));
    world.root.revoke("app");
    world.root.list("root.crl", &[]);
    wait_until("the open connection is nobody's", SOON, || open.get("/mtls/x", "") == 401);
    // What it opened is closed: by the certificate itself, or under a token that is bound to it.
    assert!(socket.closes_within(Duration::from_secs(2)), "the WebSocket is still open");
    assert!(stream.closes_within(Duration::from_secs(2)), "the event stream is still open");
    assert!(under_a_token.closes_within(Duration::from_secs(2)), "the stream under a bound token is still open");
    assert_eq!(open.get("/bound/x", &bound), 401, "a token whose key is revoked");
    assert_eq!(open.get("/public/x", ""), 200, "what is for everybody needs no certificate");
    // A resumed session and a new one are no better; the authorization server believes it no more either.
    let mut again = client.connect(&world.gateway());
    assert_eq!(again.get("/mtls/x", ""), 401);
    assert!(again.is_resumed(), "the session was not resumed");
    assert_eq!(world.curl(Some("app"), "/mtls/x", &[]), Ok(401));
    let (status, answer) = world.bound_token();
    assert_eq!((status, &answer["error"]), (Ok(401), &json!("invalid_client")), "{answer}");
    // Nobody else is touched.
    assert_eq!(other.get("/mtls/x", ""), 200);
    bystander.send("still here");
    assert_eq!(world.curl(Some("pump"), "/mtls/x", &[]), Ok(200));
    assert!(world.server.metric("auth_decisions_total{route=\"mtls\",outcome=\"refused\",reason=\"certificate_revoked\"}") >= 1.0);
}

#[test]
fn a_bad_list_is_refused_and_the_old_one_stays() {
    let Some(world) = listed(|_| {}) else { return };
    let refused = || world.server.metric("client_crl_reads_total{outcome=\"refused\"}");
    world.root.revoke("app");
    world.root.list("root.crl", &[]);
    wait_until("it is revoked", SOON, || world.curl(Some("app"), "/mtls/x", &[]) == Ok(401));
    let good = std::fs::read(world.house.path("root.crl")).expect("a list");
    // Garbage; a list of the same name that another key has signed; one that is for some certificates only; a truncated one.
    let elsewhere = House::new();
    Pki::root(&elsewhere, "root").list("root.crl", &[]);
    world.root.list("partial.crl", &["-crlexts", "partial"]);
    let read = |house: &House, name: &str| std::fs::read(house.path(name)).expect("a list");
    let bad = [b"nonsense".to_vec(), read(&elsewhere, "root.crl"), read(&world.house, "partial.crl"), good[..good.len() / 2].to_vec()];
    for (n, bad) in bad.into_iter().enumerate() {
        let before = refused();
        std::fs::write(world.house.path("root.crl"), bad).expect("written");
        wait_until("it is refused", SOON, || refused() > before);
        assert_eq!((world.curl(Some("app"), "/mtls/x", &[]), world.curl(Some("pump"), "/mtls/x", &[])), (Ok(401), Ok(200)), "bad list {n}");
        world.server.signal("HUP");
    }
    assert!(world.server.log().contains("a new revocation list is refused"), "said out loud");
    let checked = world.house.run(&["check"]).failed(1);
    assert!(checked.said().contains("client_crl_files"), "{}", checked.said());
    // The next good one counts again, in DER as well.
    openssl(&world.house, &["ca", "-config", "root.cnf", "-revoke", "pump.pem"]);
    world.root.list("next.crl", &[]);
    openssl(&world.house, &["crl", "-in", "next.crl", "-outform", "der", "-out", "root.crl"]);
    wait_until("the new list counts", SOON, || world.curl(Some("pump"), "/mtls/x", &[]) == Ok(401));
}

#[test]
fn a_list_past_its_time_says_nothing() {
    for (policy, status) in [("hard", 503), ("soft", 200)] {
        let configure = |house: &mut House| {
            house.text("server.tls.client_crl", policy);
        };
        let Some(world) = listed(configure) else { return };
        let mut open = Client::new(&world.house, "pump").connect(&world.gateway());
        assert_eq!(open.get("/mtls/x", ""), 200);
        world.root.revoke("app");
        // Out of date by more than the clock difference that is forgiven.
        world.root.list("root.crl", &["-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250102000000Z"]);
        wait_until("it says nothing more", SOON, || {
            open.get("/mtls/x", "") == status && world.curl(Some("app"), "/mtls/x", &[]) == Ok(401)
        });
        assert_eq!(world.curl(Some("pump"), "/mtls/x", &[]), Ok(status), "{policy}");
        assert_eq!(open.get("/public/x", ""), 200);
        world.root.list("root.crl", &[]);
        wait_until("the next one counts", SOON, || open.get("/mtls/x", "") == 200);
    }
}

#[test]
fn every_authority_needs_a_list_unless_that_is_waived() {
    for (policy, status) in [("hard", 503), ("soft", 200)] {
        let prepare = |_: &House, root: &Pki, second: &Pki| {
            second.client("other", "DNS:other.example.com");
            root.list("root.crl", &[]);
        };
        let configure = |house: &mut House| {
            lists(house, &["root.crl"]);
            house.text("server.tls.client_crl", policy);
        };
        let Some(world) = world(prepare, configure) else { return };
        assert_eq!((world.curl(Some("app"), "/mtls/x", &[]), world.curl(Some("other"), "/mtls/x", &[])), (Ok(200), Ok(status)), "{policy}");
    }
}

/// A world that asks `openssl ocsp`. Certificates name it, or the configuration does.
fn asking(policy: &'static str, named: bool, more: impl FnOnce(&mut House, &Pki)) -> Option<(World, Responder)> {
    let kept = RefCell::new(None);
    let prepare = |_: &House, root: &Pki, _: &Pki| {
        let mut started = root.responder();
        let access = if named { format!("authorityInfoAccess=OCSP;URI:{}\n", started.url()) } else { String::new() };
        for name in ["asked", "pump"] {
            root.issue(name, &format!("/CN={name}"), &format!("extendedKeyUsage=clientAuth\nsubjectAltName=DNS:app.example.com\n{access}"));
        }
        started.start();
        kept.replace(Some((started, Pki::reopen(root))));
    };
    let world = world(prepare, |house| {
        let kept = kept.borrow();
        let (responder, root) = kept.as_ref().expect("prepared");
        house.text("server.tls.client_ocsp", policy).text("server.tls.client_ocsp_max_age", "1s");
        house.set("outbound.allow", &json!([responder.address()]).to_string());
        if !named {
            house.text("server.tls.client_ocsp_url", &responder.url());
        }
        more(house, root);
    });
    world.zip(kept.into_inner().map(|(responder, _)| responder))
}

#[test]
fn the_authority_is_asked_and_its_answer_counts_on_open_connections() {
    for named in [true, false] {
        let Some((world, _responder)) = asking("hard", named, |_, _| {}) else { return };
        let mut open = Client::new(&world.house, "asked").connect(&world.gateway());
        assert_eq!(open.get("/mtls/x", ""), 200, "the first answer is waited for: {}", world.server.log());
        let (socket, mut bystander) = (websocket(&world, "asked", ""), Client::new(&world.house, "pump").connect(&world.gateway()));
        assert_eq!(bystander.get("/mtls/x", ""), 200);
        world.root.revoke("asked");
        wait_until("the open connection is nobody's", SOON, || open.get("/mtls/x", "") == 401);
        assert!(socket.closes_within(Duration::from_secs(2)), "the WebSocket is still open");
        assert_eq!((world.curl(Some("asked"), "/mtls/x", &[]), bystander.get("/mtls/x", "")), (Ok(401), 200));
        assert!(world.server.metric("client_ocsp_questions_total{outcome=\"good\"}") >= 2.0);
        assert!(world.server.metric("client_ocsp_questions_total{outcome=\"revoked\"}") >= 1.0);
    }
}

#[test]
fn without_an_answer_the_policy_decides() {
    for (policy, status) in [("hard", 503), ("soft", 200)] {
        let Some((world, mut responder)) = asking(policy, true, |_, _| {}) else { return };
        responder.stop();
        assert_eq!(world.curl(Some("asked"), "/mtls/x", &[]), Ok(status), "{policy}");
        // One without an address in it cannot be asked about.
        assert_eq!(world.curl(Some("app"), "/mtls/x", &[]), Ok(status), "{policy}");
        assert_eq!(world.curl(Some("asked"), "/public/x", &[]), Ok(200));
        world.root.revoke("asked");
        responder.start();
        wait_until("it answers again", SOON, || world.curl(Some("asked"), "/mtls/x", &[]) == Ok(401));
        responder.stop();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(world.curl(Some("asked"), "/mtls/x", &[]), Ok(401), "{policy}: what was revoked stays so");
    }
}

#[test]
fn only_the_authority_or_whom_it_has_delegated_to_answers() {
    // A certificate of the authority's that is not for signing answers, and the authority itself.
    for (signer, status) in [("app", 503), ("root", 200)] {
        let kept = RefCell::new(None);
        let prepare = |_: &House, root: &Pki, _: &Pki| {
            let mut responder = root.responder_by(signer);
            responder.start();
            kept.replace(Some(responder));
        };
        let configure = |house: &mut House| {
            let kept = kept.borrow();
            let responder = kept.as_ref().expect("prepared");
            house.text("server.tls.client_ocsp", "hard").text("server.tls.client_ocsp_url", &responder.url());
            house.set("outbound.allow", &json!([responder.address()]).to_string());
        };
        let Some(world) = world(prepare, configure) else { return };
        assert_eq!(world.curl(Some("app"), "/mtls/x", &[]), Ok(status), "{signer}");
    }
}

#[test]
fn an_address_that_may_not_be_called_is_not_called() {
    let prepare = |_: &House, root: &Pki, _: &Pki| {
        root.issue("inward", "/CN=inward", "extendedKeyUsage=clientAuth\nauthorityInfoAccess=OCSP;URI:http://127.0.0.1:9/\n");
    };
    let Some(world) = world(prepare, |house| {
        house.text("server.tls.client_ocsp", "hard");
    }) else {
        return;
    };
    assert_eq!(world.curl(Some("inward"), "/mtls/x", &[]), Ok(503));
    assert!(world.server.log().contains("the URL is not one that may be called"), "{}", world.server.log());
}

#[test]
fn an_answer_makes_up_for_a_missing_list() {
    let Some((world, mut responder)) = asking("soft", true, |house, root| {
        root.list("root.crl", &["-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250102000000Z"]);
        lists(house, &["root.crl"]);
    }) else {
        return;
    };
    assert_eq!(world.curl(Some("asked"), "/mtls/x", &[]), Ok(200));
    responder.stop();
    assert_eq!(world.curl(Some("pump"), "/mtls/x", &[]), Ok(503), "neither list nor answer");
}

#[test]
fn mistakes_of_the_configuration_are_told_at_once() {
    let mut house = House::new();
    house
        .set("server.tls.client_crl_files", "[\"none.crl\"]")
        .text("server.tls.client_crl", "maybe")
        .text("server.tls.client_ocsp", "often");
    house.text("server.tls.client_ocsp_url", "ldap://x").text("server.tls.client_ocsp_max_age", "2h").set("server.tls.client_depth", "9");
    let said = house.run(&["check"]).failed(2).said();
    for key in ["client_crl", "client_ocsp", "client_ocsp_url", "client_ocsp_max_age", "client_depth", "client_ca_files"] {
        assert!(said.contains(&format!("server.tls.{key}")), "{key}: {said}");
    }
}

#[test]
fn certificates_that_a_proxy_passes_on_are_asked_about_too() {
    let Some((world, _responder)) = asking("hard", true, |house, _| {
        house.set("server.trusted_proxies", r#"["127.0.0.1/32"]"#).set("server.client_certificate_header", "true");
    }) else {
        return;
    };
    let passed = format!("Client-Cert: :{}:", der(&world.house, "asked"));
    let token = || {
        let form = "grant_type=client_credentials&scope=read&client_id=by-dns";
        curl(&world.house, None, &format!("{}/token", world.server.issuer), &["-H", &passed, "--data", form]).0
    };
    let call = || world.curl(None, "/mtls/x", &["-H", &passed]);
    assert_eq!((token(), call()), (Ok(200), Ok(200)));
    world.root.revoke("asked");
    wait_until("neither believes it", SOON, || (token(), call()) == (Ok(401), Ok(401)));
}
