//! The access log, traces and analytics of the gateway: what they tell, and what they never do.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::kit::http::{Go, client};
use crate::kit::seed::{MACHINE, standard};
use crate::kit::{House, Server, Upstream, wait_until};

/// The head of a request and its body.
type Export = (String, Vec<u8>);

/// An OpenTelemetry collector that keeps what it is sent (OTLP over HTTP, protobuf).
struct Collector {
    port: u16,
    got: Arc<Mutex<Vec<Export>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
                    let mut stream = stream;
                    loop {
                        let (mut head, mut length) = (String::new(), 0);
                        loop {
                            let mut line = String::new();
                            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                                return;
                            }
                            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                                length = n.trim().parse().expect("a length");
                            }
                            if line == "\r\n" {
                                break;
                            }
                            head.push_str(&line);
                        }
                        let mut body = vec![0; length];
                        reader.read_exact(&mut body).expect("the body");
                        kept.lock().expect("kept").push((head, body));
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    }
                });
            }
        });
        Self { port, got }
    }

    fn holds(&self, needle: &[u8]) -> bool {
        self.got.lock().expect("kept").iter().any(|(_, body)| body.windows(needle.len()).any(|w| w == needle))
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn house(upstream: &Upstream) -> House {
    let mut house = House::new();
    let log = house.path("access.log");
    house.text("log.access_file", &log.display().to_string());
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    house
}

fn line_of(file: &Path, mark: &str) -> Value {
    let mut found = None;
    wait_until("the line is written", Duration::from_secs(10), || {
        found = lines(file).into_iter().find(|line| line["path"].as_str().is_some_and(|path| path.contains(mark)));
        found.is_some()
    });
    found.expect("a line")
}

fn ask(server: &Server, path: &str, token: &str) -> u16 {
    client().get(server.through(path)).bearer_auth(token).header("user-agent", "ua \"x\"\t1").go().status
}

#[test]
fn every_request_is_a_line_and_no_line_holds_a_secret() {
    let upstream = Upstream::start();
    let house = house(&upstream);
    let server = house.serve();
    let file = house.path("access.log");
    let token = server.machine_token(&MACHINE, &[]);
    assert_eq!(ask(&server, "/api/first?secret=hunter2", &token), 200);
    let (most, signature) = token.rsplit_once('.').expect("a JWT");
    let forged = format!("{most}.{}", signature.chars().rev().skip(1).chain(signature.chars().next_back()).collect::<String>());
    assert_eq!(ask(&server, "/api/second", &forged), 401);
    assert_eq!(client().get(server.through("/public/third")).go().status, 200);
    assert_eq!(client().get(server.through("/nowhere/fourth")).go().status, 404);
    let first = line_of(&file, "first");
    for (member, value) in [
        ("method", "GET"),
        ("path", "/api/first"),
        ("route", "read"),
        ("upstream", "echo"),
        ("reason", "ok"),
        ("credential", "jwt"),
        ("client_id", MACHINE.id),
        ("peer", "127.0.0.1"),
        ("protocol", "1.1"),
        ("user_agent", "ua \"x\"\t1"),
    ] {
        assert_eq!(first[member], value, "{member}: {first}");
    }
    assert_eq!(first["status"], 200);
    assert!(first["octets_out"].as_u64().is_some_and(|n| n > 0) && first["total_ms"].as_f64() >= first["head_ms"].as_f64(), "{first}");
    assert!(first["time"].as_str().is_some_and(|t| t.ends_with('Z')) && first["request_id"].is_string(), "{first}");
    let second = line_of(&file, "second");
    assert_eq!((second["status"].as_u64(), second["reason"].as_str(), &second["client_id"]), (Some(401), Some("signature"), &Value::Null));
    assert!(second.get("upstream").is_none(), "{second}");
    assert_eq!(line_of(&file, "third")["route"], "open");
    assert_eq!(line_of(&file, "fourth")["reason"], "no_route");

    // Moved away as log rotation does, it is opened anew.
    let moved = house.path("access.log.1");
    std::fs::rename(&file, &moved).expect("moved");
    server.signal("HUP");
    wait_until("the file is there again", Duration::from_secs(10), || file.exists());
    assert_eq!(ask(&server, "/api/fifth", &token), 200);
    assert_eq!(line_of(&file, "fifth")["status"], 200);
    assert!(lines(&file).len() < lines(&moved).len());

    // What was asked last is written before the process ends.
    assert_eq!(ask(&server, "/api/last", &token), 200);
    let log = server.log();
    let (code, _) = server.stop();
    assert_eq!(code, 0);
    assert_eq!(line_of(&file, "last")["status"], 200);
    let written = |file: &Path| std::fs::read_to_string(file).expect("a file");
    let everything = [written(&file), written(&moved), log].concat();
    assert!(!everything.contains("hunter2") && !everything.contains(signature) && !everything.contains(&token[..40]));
}

#[test]
fn a_request_is_two_spans_of_the_callers_trace() {
    let (upstream, collector) = (Upstream::start(), Collector::start());
    let mut house = house(&upstream);
    house.text("telemetry.otlp_endpoint", &format!("http://127.0.0.1:{}", collector.port));
    let server = house.serve();
    let token = server.machine_token(&MACHINE, &[]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let answer = client().get(server.through("/api/traced")).bearer_auth(&token).header("traceparent", parent).go();
    assert_eq!(answer.status, 200);
    let seen = upstream.only("/api/traced");
    let onward = seen.all("traceparent");
    assert_eq!(onward.len(), 1, "{onward:?}");
    let parts: Vec<&str> = onward[0].split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", "0af7651916cd43dd8448eb211c80319c", "01"));
    assert_ne!(parts[2], "b7ad6b7169203331");
    assert_eq!(line_of(&house.path("access.log"), "traced")["trace_id"], parts[1]);
    let hex = |text: &str| -> Vec<u8> { (0..text.len() / 2).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()).collect() };
    let (trace, parent, span) = (hex(parts[1]), hex("b7ad6b7169203331"), hex(parts[2]));
    // The span of the caller is one's parent; the one the upstream was told of is there too.
    wait_until("the spans arrive", Duration::from_secs(20), || {
        collector.holds(&trace) && collector.holds(&parent) && collector.holds(&span) && collector.holds(b"GET read")
    });
    let got = collector.got.lock().unwrap();
    assert!(got.iter().all(|(head, _)| head.starts_with("POST /v1/traces ")), "{:?}", got[0].0);
    assert!(got.iter().all(|(_, body)| !body.windows(20).any(|w| w == &token.as_bytes()[..20])));
    drop(got);
    assert!(server.metric("trace_spans_total") >= 2.0);
}

#[test]
fn where_nothing_is_recorded_the_trace_passes_as_it_came() {
    let upstream = Upstream::start();
    let house = house(&upstream);
    let server = house.serve();
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client().get(server.through("/public/untraced")).header("traceparent", given).go().expect(200);
    assert_eq!(upstream.only("/public/untraced").all("traceparent"), [given]);
}

#[test]
fn analytics_say_who_used_which_route() {
    let upstream = Upstream::start();
    let house = house(&upstream);
    let server = house.serve();
    let token = server.machine_token(&MACHINE, &[]);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/api/counted", &token), 200);
    }
    client().get(server.through("/public/counted")).go().expect(200);
    let path = format!("/analytics?route=read&consumer=client:{}", MACHINE.id);
    wait_until("five are counted", Duration::from_secs(5), || {
        let found = server.admin("GET", &path).go().expect(200).json();
        found["items"][0]["requests"] == 5
    });
    let row = server.admin("GET", &path).go().json()["items"][0].clone();
    assert_eq!((row["credential"].as_str(), row["answers"]["2xx"].as_u64()), (Some("jwt"), Some(5)));
    assert!(row["p99_ms"].as_f64() >= row["p50_ms"].as_f64() && row["first_at"].is_i64());
    let all = server.admin("GET", "/analytics").go().expect(200).json();
    assert!(all["items"].as_array().unwrap().iter().any(|row| row["route"] == "open" && row["consumer"] == "anonymous"));
    server.admin("GET", "/analytics?nonsense=1").go().expect(400);
}
