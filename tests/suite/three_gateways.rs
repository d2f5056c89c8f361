//! Revoke under load: one authorization server, three gateways of their own, requests and open streams on all of them.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::gateway_live::closed_within_a_second;
use crate::kit::seed::{MACHINE, standard};
use crate::kit::{House, Server, Upstream, raw, wait_until};
use crate::remote_gateway::gateway_house;

const GATEWAYS: usize = 3;
const THREADS: usize = 2;
const VICTIMS: usize = 12;
const BYSTANDERS: usize = 3;

/// One request of the load: which token, when it was sent and answered, and how.
struct Asked {
    token: usize,
    sent: Instant,
    heard: Instant,
    status: u16,
}

/// One request on a kept connection.
fn ask(stream: &mut TcpStream, token: &str) -> u16 {
    let request = format!("GET /api/load HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let head = raw::read_head(stream);
    let length = head
        .lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))
        .map_or(0, |(_, n)| n.trim().parse().expect("a length"));
    let mut body = vec![0_u8; length];
    stream.read_exact(&mut body).expect("the body");
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head:?}"))
}

/// Asks with one token after the other until told to stop.
fn load(address: String, tokens: Arc<Vec<String>>, stop: Arc<AtomicBool>, first: usize) -> Vec<Asked> {
    let mut stream = raw::connect(&address);
    let mut all = Vec::new();
    let mut turn = first;
    while !stop.load(Ordering::Relaxed) {
        let token = turn % tokens.len();
        turn += 1;
        let sent = Instant::now();
        let status = ask(&mut stream, &tokens[token]);
        all.push(Asked { token, sent, heard: Instant::now(), status });
    }
    all
}

/// Opens something that stays open, and reads its head.
fn open(address: &str, token: &str, request: &str) -> TcpStream {
    let mut stream = raw::connect(address);
    stream.write_all(request.replace("TOKEN", token).as_bytes()).expect("sent");
    let head = raw::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

const SOCKET: &str = "GET /api/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const EVENTS: &str = "GET /api/sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nAccept: text/event-stream\r\n\r\n";

fn started(upstream: &Upstream) -> (House, Server, Vec<(House, Server)>) {
    let mut house = House::new();
    house.set("server.roles", r#"["auth", "admin"]"#);
    house.bootstrap();
    let seed = standard(&upstream.url());
    house.seed(&seed);
    let auth = house.serve();
    let own = serde_json::json!({"upstreams": seed["upstreams"], "routes": seed["routes"]});
    let gateways = (0..GATEWAYS).map(|_| {
        let mut gateway = gateway_house(&house);
        gateway.set("outbound.allow", &format!("[\"{}\"]", house.issuer.trim_start_matches("http://")));
        gateway.seed(&own);
        let served = gateway.serve();
        (gateway, served)
    });
    let gateways = gateways.collect();
    (house, auth, gateways)
}

#[test]
fn three_gateways_obey_within_a_second_and_let_nothing_through_afterwards() {
    let upstream = Upstream::start();
    let (_house, auth, gateways) = started(&upstream);
    let tokens: Arc<Vec<String>> = Arc::new((0..VICTIMS + BYSTANDERS).map(|_| auth.machine_token(&MACHINE, &[])).collect());
    let addresses: Vec<String> = gateways.iter().map(|(_, server)| server.listener("gateway")).collect();
    for address in &addresses {
        wait_until("every token passes", Duration::from_secs(10), || {
            let mut stream = raw::connect(address);
            tokens.iter().all(|token| ask(&mut stream, token) == 200)
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = Vec::new();
    for (gateway, address) in addresses.iter().enumerate() {
        for n in 0..THREADS {
            let (address, tokens, stop) = (address.clone(), tokens.clone(), stop.clone());
            loads.push((gateway, std::thread::spawn(move || load(address, tokens, stop, n * 7))));
        }
    }
    let mut revoked = Vec::new();
    for victim in 0..VICTIMS {
        let streams: Vec<_> = addresses.iter().flat_map(|at| [SOCKET, EVENTS].map(|request| open(at, &tokens[victim], request))).collect();
        auth.revoke(&MACHINE, &tokens[victim]);
        let since = Instant::now();
        revoked.push(since);
        for stream in streams {
            closed_within_a_second(stream, "a stream of a revoked token", since);
        }
    }
    // What was asked last of all is heard too.
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let mut delays = Vec::new();
    let mut answered = vec![Vec::new(); GATEWAYS];
    let all: Vec<(usize, Vec<Asked>)> = loads.into_iter().map(|(gateway, load)| (gateway, load.join().expect("the load"))).collect();
    for (gateway, asked) in &all {
        answered[*gateway].extend(asked.iter());
    }
    for asked in &answered {
        assert!(asked.len() > 200, "only {} requests", asked.len());
        for bystander in VICTIMS..VICTIMS + BYSTANDERS {
            assert!(asked.iter().filter(|a| a.token == bystander).all(|a| a.status == 200));
        }
        for (victim, since) in revoked.iter().enumerate() {
            let of = || asked.iter().filter(|a| a.token == victim);
            let refused = of().filter(|a| a.status == 401).map(|a| a.heard).min().expect("a refusal");
            assert!(of().all(|a| a.status == 200 || a.status == 401));
            // Whatever was sent after anybody heard the refusal is refused.
            assert_eq!(of().filter(|a| a.status == 200 && a.sent > refused).count(), 0, "let through after the refusal");
            let last = of().filter(|a| a.status == 200).map(|a| a.sent).max().expect("it passed before");
            let delay = last.saturating_duration_since(*since);
            assert!(delay < Duration::from_secs(1), "let through {delay:?} after the revocation");
            delays.push(delay);
        }
    }
    delays.sort();
    eprintln!("let through after the answer to the revocation, at most: {:?} (of {})", delays.last().expect("some"), delays.len());
    for (_, gateway) in &gateways {
        // Counted from the decision on, before it was durable: on a busy disk that is longer than from the answer.
        assert!(gateway.metric("revocation_propagation_seconds_count") >= VICTIMS as f64);
    }
}
