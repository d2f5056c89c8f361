//! A node that leaves says so first; three nodes behind a plain balancer are restarted one by one under load, and nothing fails.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::kit::balancer::{Balancer, Target};
use crate::kit::frames;
use crate::kit::http::{Go, client};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{API, APP, GW, HOME, MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Stage, Upstream, Visitor, raw, wait_until};
use crate::remote_gateway::gateway_house;

const GOAWAY: u8 = 7;

/// One request on a connection that is kept; the head of its answer.
fn ask(stream: &mut TcpStream, path: &str, more: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n").as_bytes()).expect("sent");
    let head = raw::read_head(stream);
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.trim().parse().ok()));
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("the body");
    head
}

fn ends(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    matches!(stream.read(&mut [0; 64]), Ok(0))
}

/// Whether a frame of that kind comes.
fn comes(stream: &mut TcpStream, kind: u8) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    loop {
        let mut head = [0_u8; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return false;
        }
        if head[3] == kind {
            return true;
        }
    }
}

fn status(address: &str, path: &str) -> u16 {
    client().get(format!("http://{address}{path}")).go().status
}

#[test]
fn a_node_that_leaves_says_so_while_it_serves_and_ends_its_connections_politely() {
    let mut stage = Stage::start(|house| {
        house.text("server.drain_notice", "8s");
    });
    let (public, gateway, metrics) = (stage.listener("public"), stage.listener("gateway"), stage.listener("metrics"));
    assert_eq!((status(&public, "/readyz"), status(&metrics, "/readyz")), (200, 200));
    let (mut kept, mut hop) = (raw::connect(&public), raw::connect(&gateway));
    let (mut second, mut parked) = (frames::connect(&public, &[]), frames::connect(&gateway, &[]));
    assert!(!ask(&mut kept, "/healthz", "").to_lowercase().contains("connection: close"));
    assert!(!ask(&mut hop, "/public/x", "").to_lowercase().contains("connection: close"));
    assert!(comes(&mut second, frames::SETTINGS) && comes(&mut parked, frames::SETTINGS));

    stage.signal("TERM");
    wait_until("it says that it leaves", Duration::from_secs(5), || {
        status(&public, "/readyz") == 503 && status(&metrics, "/readyz") == 503
    });
    // Everything is served: what was open, and what comes anew.
    for (stream, path) in [(&mut kept, "/healthz"), (&mut hop, "/public/x")] {
        let head = ask(stream, path, "").to_lowercase();
        assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    }
    assert!(ends(kept) && ends(hop), "closed after the answer that said so");
    assert!(comes(&mut second, GOAWAY) && comes(&mut parked, GOAWAY));
    assert_eq!(stage.call("/api/x", &stage.machine_token(&MACHINE, &[])).status, 200);
    assert_eq!(status(&public, "/healthz"), 200);
    // A second word ends the notice; what waits idle is closed.
    let mut idle = raw::connect(&public);
    assert!(ask(&mut idle, "/jwks", "").starts_with("HTTP/1.1 200"));
    stage.signal("TERM");
    assert_eq!(stage.server.ended_within(Duration::from_secs(20)), Some(0));
    assert!(stage.log().contains("leaving"));
}

#[test]
fn a_notice_is_part_of_the_drain() {
    let mut house = House::new();
    house.text("server.drain", "3s").text("server.drain_notice", "3s");
    assert!(house.run(&["check"]).failed(2).said().contains("server.drain_notice: must be shorter"));
}

/// What the load did and what failed.
#[derive(Default)]
struct Tally {
    done: Mutex<std::collections::BTreeMap<&'static str, usize>>,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    fn note(&self, what: &'static str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => *self.done.lock().expect("a tally").entry(what).or_default() += 1,
            Err(why) => self.failed.lock().expect("a tally").push(format!("{what}: {why}")),
        }
    }

    fn request(&self, what: &'static str, request: reqwest::RequestBuilder) -> Option<crate::kit::Answer> {
        match request.try_go() {
            Ok(answer) if answer.status == 200 => {
                self.note(what, Ok(()));
                Some(answer)
            }
            Ok(answer) => {
                self.note(what, Err(format!("{} {}", answer.status, answer.text())));
                None
            }
            Err(error) => {
                self.note(what, Err(format!("{error:?}")));
                None
            }
        }
    }
}

/// Waits until the load has done more of everything.
fn more(tally: &Tally) {
    let before = tally.done.lock().expect("a tally").clone();
    wait_until("the load goes on", Duration::from_secs(60), || {
        let now = tally.done.lock().expect("a tally").clone();
        std::thread::sleep(Duration::from_millis(20));
        !tally.failed.lock().expect("a tally").is_empty()
            || before.iter().filter(|(what, _)| **what != "restart").all(|(what, n)| now.get(what).is_some_and(|m| m > n))
    });
}

#[test]
fn three_nodes_behind_a_balancer_are_restarted_one_by_one_and_nothing_fails() {
    let Some(database) = OwnPostgres::start() else { return };
    let (upstream, mut house, entrance) = (Upstream::start(), House::new(), free_port());
    // The issuer is the balancer; this house's own node is not behind it.
    let issuer_port: u16 = house.issuer.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    house.text("storage.url", &database.url()).text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    house.text("server.drain_notice", "2s").text("server.drain", "9s");
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let mut houses = Vec::new();
    let (mut publics, mut gateways) = (Vec::new(), Vec::new());
    for name in ["one.toml", "two.toml", "three.toml"] {
        let (public, gateway, metrics) = (free_port(), free_port(), free_port());
        let mut node = house.another(name);
        node.text("server.public_listen", &format!("127.0.0.1:{public}")).text("server.gateway_listen", &format!("127.0.0.1:{gateway}"));
        node.text("server.metrics_listen", &format!("127.0.0.1:{metrics}"));
        houses.push(node);
        publics.push(Target { port: public, check: public });
        gateways.push(Target { port: gateway, check: metrics });
    }
    let mut nodes: Vec<Option<Server>> = houses.iter().map(|house| Some(house.serve())).collect();
    let Some(balancer) = Balancer::start(&[("as", issuer_port, &publics), ("gw", entrance, &gateways)]) else { return };
    for n in 0..3 {
        balancer.until_it_sends_to("as", n);
        balancer.until_it_sends_to("gw", n);
    }
    // Everything goes through the balancer; of this one the tests take the issuer's address.
    let desk = house.serve();
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let running = || !stop.load(Ordering::SeqCst) && tally.failed.lock().expect("a tally").is_empty();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running() {
                tally.request("grant", MACHINE.post(&desk.url("/token"), &[("grant_type", "client_credentials")]));
            }
        });
        scope.spawn(|| {
            while running() {
                let token = tally.request("grant", SAFE.post(&desk.url("/token"), &[("grant_type", "client_credentials")]));
                let Some(token) = token.map(|answer| text(&answer.json(), "access_token")) else { continue };
                for _ in 0..3 {
                    let told = tally.request("introspection", GW.post(&desk.url("/introspect"), &[("token", &token)]));
                    if told.is_some_and(|told| told.json()["active"] != true) {
                        tally.note("introspection", Err("an active token is told to be inactive".into()));
                    }
                }
            }
        });
        scope.spawn(|| {
            let mut token = text(&desk.person_tokens(&APP, "alice"), "refresh_token");
            while running() {
                let form = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
                let Some(next) = tally.request("refresh", APP.post(&desk.url("/token"), &form)) else { continue };
                token = text(&next.json(), "refresh_token");
            }
        });
        scope.spawn(|| {
            while running() {
                let walked = std::panic::catch_unwind(|| {
                    let mut visitor = Visitor::new();
                    visitor.tokens(&desk, &Ask::new(&HOME), "bob");
                });
                tally.note("code", walked.map_err(|_| "the walk broke off, as said above".into()));
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let token = desk.machine_token(&MACHINE, &[("resource", API)]);
                while running() {
                    tally.request("hop", client().get(format!("http://127.0.0.1:{entrance}/api/x")).bearer_auth(&token));
                }
            });
        }
        wait_until("all kinds of load", Duration::from_secs(60), || !running() || tally.done.lock().expect("a tally").len() == 5);
        for n in 0..3 {
            more(&tally);
            let node = nodes[n].take().expect("a node");
            let (code, took) = node.stop();
            tally.note("restart", if code == 0 { Ok(()) } else { Err(format!("exit code {code} after {took:?}")) });
            nodes[n] = Some(houses[n].serve());
            balancer.until_it_sends_to("as", n);
            balancer.until_it_sends_to("gw", n);
        }
        more(&tally);
        stop.store(true, Ordering::SeqCst);
    });
    println!("{:?}", tally.done.lock().expect("a tally"));
    let failed = tally.failed.into_inner().expect("a tally");
    assert!(failed.is_empty(), "{failed:#?}");
    house.run(&["audit", "verify"]).ok();
}

#[test]
fn gateways_at_the_edge_are_restarted_one_by_one_and_one_that_hears_nobody_is_not_sent_requests() {
    let upstream = Upstream::start();
    let mut house = House::new();
    house.set("server.roles", r#"["auth", "admin"]"#);
    house.bootstrap();
    let seed = standard(&upstream.url());
    house.seed(&seed);
    let auth = house.serve();
    let entrance = free_port();
    let mut houses = Vec::new();
    let mut targets = Vec::new();
    for _ in 0..2 {
        let mut node = gateway_house(&house);
        let (port, metrics) = (free_port(), free_port());
        node.text("server.gateway_listen", &format!("127.0.0.1:{port}")).text("server.metrics_listen", &format!("127.0.0.1:{metrics}"));
        node.text("server.drain_notice", "2s").text("server.drain", "9s");
        let address = house.issuer.trim_start_matches("http://").to_owned();
        node.set("outbound.allow", &format!("[\"{address}\"]"));
        node.seed(&serde_json::json!({"upstreams": seed["upstreams"], "routes": seed["routes"]}));
        houses.push(node);
        targets.push(Target { port, check: metrics });
    }
    let mut nodes: Vec<Option<Server>> = houses.iter().map(|house| Some(house.serve())).collect();
    let Some(balancer) = Balancer::start(&[("edge", entrance, &targets)]) else { return };
    balancer.until_it_sends_to("edge", 0);
    balancer.until_it_sends_to("edge", 1);
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let through = |path: &str| format!("http://127.0.0.1:{entrance}{path}");
    std::thread::scope(|scope| {
        for (who, path) in [(&MACHINE, "/api/x"), (&SAFE, "/vault/x")] {
            let (tally, stop, auth, through) = (&tally, &stop, &auth, &through);
            scope.spawn(move || {
                let token = auth.machine_token(who, &[]);
                while !stop.load(Ordering::SeqCst) && tally.failed.lock().expect("a tally").is_empty() {
                    tally.request(path, client().get(through(path)).bearer_auth(&token));
                }
            });
        }
        wait_until("load", Duration::from_secs(60), || {
            !tally.failed.lock().expect("a tally").is_empty() || tally.done.lock().expect("a tally").len() == 2
        });
        for n in 0..2 {
            more(&tally);
            let (code, took) = nodes[n].take().expect("a gateway").stop();
            tally.note("restart", if code == 0 { Ok(()) } else { Err(format!("exit code {code} after {took:?}")) });
            nodes[n] = Some(houses[n].serve());
            balancer.until_it_sends_to("edge", n);
        }
        more(&tally);
        stop.store(true, Ordering::SeqCst);
    });
    println!("{:?}", tally.done.lock().expect("a tally"));
    let failed = tally.failed.into_inner().expect("a tally");
    assert!(failed.is_empty(), "{failed:#?}");

    // The authorization server is away. A gateway that started before stays where it is; one that starts now is not ready, refuses what
    // it cannot decide, and serves what nobody has to be asked about.
    let token = auth.machine_token(&MACHINE, &[]);
    assert_eq!(client().get(through("/api/x")).bearer_auth(&token).go().status, 200);
    auth.stop();
    drop(nodes[1].take());
    let late = houses[1].serve();
    assert_eq!(client().get(late.through("/public/x")).go().status, 200);
    for path in ["/api/x", "/asking/x", "/vault/x", "/offline/x"] {
        let answer = client().get(late.through(path)).bearer_auth(&token).go();
        assert!([401, 503].contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    }
    let ready = |port: u16| status(&format!("127.0.0.1:{port}"), "/readyz");
    assert_eq!((ready(targets[1].check), ready(targets[0].check)), (503, 200));
    wait_until("the balancer has asked", Duration::from_secs(20), || !balancer.sends_to("edge", 1));
    assert!(balancer.sends_to("edge", 0));
    let auth = house.serve();
    balancer.until_it_sends_to("edge", 1);
    assert_eq!(late.call("/api/x", &auth.machine_token(&MACHINE, &[])).status, 200);
}
