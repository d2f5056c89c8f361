//! Floods of connections: idle, half-said, slow, and frames of HTTP/2 that want something for nothing.
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::kit::frames::{self, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame};
use crate::kit::http::{Go, alone, client_from};
use crate::kit::{Stage, raw, wait_until};

const LISTENERS: [&str; 4] = ["public", "gateway", "admin", "metrics"];

/// A server whose listeners take so many connections, and so many of one source.
fn holding(most: u32, of_source: u32) -> Stage {
    Stage::start(|house| {
        house.set("server.max_connections", &most.to_string()).set("server.max_connections_per_source", &of_source.to_string());
    })
}

/// Whether the other end has closed it.
fn closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a mode");
    let over = match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).expect("a mode");
    over
}

/// Whether there is an answer, or the end.
fn heard(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a mode");
    let silent = stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a mode");
    !silent
}

/// Resident memory, kB.
fn resident(stage: &Stage) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// What it has used of the processors, ticks.
fn processor_time(stage: &Stage) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", stage.pid())).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[test]
fn whoever_says_nothing_makes_room_the_first_first() {
    let stage = holding(40, 40);
    for (listener, said) in LISTENERS.into_iter().flat_map(|l| [(l, ""), (l, "GET /x HTTP/1.1\r\nHo")]) {
        let address = stage.listener(listener);
        let (mut open, begun): (Vec<TcpStream>, _) = (Vec::new(), Instant::now());
        for _ in 0..120 {
            let mut stream = raw::connect(&address);
            stream.write_all(said.as_bytes()).expect("sent");
            open.push(stream);
        }
        // Accepted in the order they came: the last are there, the first are not.
        wait_until("the first have gone", Duration::from_secs(20), || open[..80].iter_mut().all(closed));
        // Others have places too: questions after health and metrics, and those of them that are closing.
        let latest = open[92..].iter_mut().all(|stream| !closed(stream));
        // On a machine so slow that heads are too late by now, everybody goes.
        assert!(latest || begun.elapsed() > Duration::from_secs(8), "{listener}: not the latest");
        assert_ne!(alone().get(format!("http://{address}/healthz")).go().status, 0);
        let evicted = stage.metric(&format!("connections_evicted_total{{listener=\"{listener}\"}}"));
        assert!(evicted >= 80.0 || listener == "metrics", "{listener}: {evicted}");
    }
}

#[test]
fn whoever_is_served_stays_and_a_source_has_its_part_only() {
    let stage = holding(20, 5);
    let address = stage.listener("public");
    let begun =
        b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 29\r\nExpect: 100-continue\r\n\r\n";
    let mut busy: Vec<TcpStream> = (0..5).map(|_| raw::connect(&address)).collect();
    for stream in &mut busy {
        stream.write_all(begun).expect("sent");
        let head = raw::read_head(stream);
        assert!(head.starts_with("HTTP/1.1 100"), "{head}");
        stream.write_all(b"grant").expect("sent");
    }
    let told = raw::exchange(&address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(told.status == 503 && told.closed && told.text.to_lowercase().contains("retry-after: 1"), "{}", told.text);
    let elsewhere = client_from("127.0.45.9").get(format!("http://{address}/healthz")).try_go();
    assert!(elsewhere.is_ok_and(|answer| answer.status != 503));
    assert!(busy.iter_mut().all(|stream| !closed(stream)), "what is served is not cut");
    busy[0].write_all(b"_type=client_credentials").expect("sent");
    let answer = raw::read_head(&mut busy[0]);
    assert!(answer.starts_with("HTTP/1.1 4") && !answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn descriptors_that_run_out_keep_nobody_out_for_long() {
    let stage = Stage::start(|_| {});
    // Fewer than the places of any listener, and fewer than the server knows of.
    let limited = std::process::Command::new("prlimit").args(["--pid", &stage.pid().to_string(), "--nofile=256:256"]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit (util-linux)");
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..500 {
        open.push(raw::connect(&stage.listener(if n % 2 == 0 { "public" } else { "gateway" })));
    }
    alone().get(stage.url("/healthz")).go().expect(200);
    let token = stage.machine_token(&crate::kit::seed::MACHINE, &[]);
    // A hop needs a descriptor for its upstream, too, and the server keeps some for that only of those it knew of when it started.
    wait_until("a hop finds its descriptor", Duration::from_secs(20), || stage.call("/api/x", &token).status == 200);
    assert!(stage.metric("connections_evicted_total") > 0.0);
    wait_until("the first have gone", Duration::from_secs(20), || open[..200].iter_mut().all(closed));
}

#[test]
fn idle_connections_of_http2_make_room_too() {
    let stage = holding(10, 10);
    for listener in ["public", "gateway"] {
        let mut open: Vec<TcpStream> = (0..30).map(|_| frames::connect(&stage.listener(listener), &[])).collect();
        wait_until("the first have gone", Duration::from_secs(30), || {
            open[..20].iter_mut().all(|stream| frames::ends(stream, Duration::from_millis(100)))
        });
        assert_ne!(alone().get(format!("http://{}/healthz", stage.listener(listener))).go().status, 0);
    }
}

#[test]
fn frames_for_nothing_cost_the_authorization_server_little_memory() {
    let stage = Stage::start(|_| {});
    alone().get(stage.url("/jwks")).go().expect(200);
    let before = resident(&stage);
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[])] {
        let mut stream = frames::connect(&stage.listener("public"), &[]);
        let many = frame(kind, 0, 0, payload).repeat(1_000);
        // Nothing of the answers is read.
        frames::pour(&mut stream, (0..1_000).map(|_| many.clone()));
        alone().get(stage.url("/jwks")).go().expect(200);
    }
    // Asked and taken back at once.
    let mut stream = frames::connect(&stage.listener("public"), &[]);
    let head = frames::get("/jwks");
    let asked = (0..50_000_u32).map(|n| {
        let id = n * 2 + 1;
        [frame(HEADERS, END_HEADERS | END_STREAM, id, &head), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
    });
    frames::pour(&mut stream, asked);
    alone().get(stage.url("/jwks")).go().expect(200);
    let grown = resident(&stage).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB");
    assert_eq!(stage.metric("panics_total"), 0.0);
}

#[test]
fn a_body_that_comes_octet_by_octet_takes_its_own_size() {
    let stage = Stage::start(|_| {});
    alone().get(stage.url("/jwks")).go().expect(200);
    let head = "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n";
    let mut open: Vec<TcpStream> = (0..64).map(|_| raw::connect(&stage.listener("public"))).collect();
    for stream in &mut open {
        stream.set_nodelay(true).expect("a mode");
        stream.write_all(head.as_bytes()).expect("sent");
    }
    // All of them wait for a body before it begins.
    wait_until("they are waited for", Duration::from_secs(20), || stage.metric("http_handed_over_total") >= 64.0);
    let before = resident(&stage);
    for _ in 0..400 {
        for stream in &mut open {
            stream.write_all(b"a").expect("sent");
        }
        // So that each is read by itself.
        std::thread::sleep(Duration::from_millis(4));
    }
    alone().get(stage.url("/jwks")).go().expect(200);
    let after = resident(&stage);
    // 25 thousand octets; the buffers they came in would be 200 MB.
    assert!(after < before + 32 * 1024, "{before} to {after} kB");
    assert!(!open.iter().any(heard), "all of them are still waited for");
}

#[test]
fn who_asks_and_does_not_read_is_not_answered_into_memory() {
    let stage = Stage::start(|_| {});
    alone().get(stage.url("/jwks")).go().expect(200);
    let before = resident(&stage);
    for listener in ["public", "gateway", "admin", "metrics"] {
        let mut stream = raw::connect(&stage.listener(listener));
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        // One after the other, as much as is taken; of the query nothing is made, but the quick lane leaves it to the library.
        let many = "GET /.well-known/openid-configuration?x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
        let mut left = 64;
        while left > 0 && stream.write_all(many.as_bytes()).is_ok() {
            left -= 1;
        }
        // Until nothing more is made of it.
        let mut last = 0;
        wait_until("it rests", Duration::from_secs(120), || {
            std::thread::sleep(Duration::from_millis(300));
            let now = processor_time(&stage);
            std::mem::replace(&mut last, now) + 4 > now
        });
        let grown = resident(&stage).saturating_sub(before);
        assert!(grown < 48 * 1024, "{listener}: {grown} kB");
    }
    alone().get(stage.url("/jwks")).go().expect(200);
}

#[test]
fn what_is_held_of_requests_that_do_not_come_whole_is_bounded_and_the_longest_silent_go() {
    // 128 connections: 1 MiB, the least.
    let stage = holding(128, 128);
    let odd = "x".repeat(30 * 1024);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: {odd}");
    let body = format!(
        "POST /token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\na={odd}"
    );
    for (listener, part, rest) in
        [("public", &head, "\r\n\r\n"), ("gateway", &head, "\r\n\r\n"), ("admin", &head, "\r\n\r\n"), ("public", &body, "")]
    {
        let address = stage.listener(listener);
        let dropped = || stage.metric(&format!("requests_unfinished_dropped_total{{listener=\"{listener}\"}}"));
        let before = dropped();
        let mut open: Vec<TcpStream> = Vec::new();
        for _ in 0..60 {
            let mut stream = raw::connect(&address);
            stream.write_all(part.as_bytes()).expect("sent");
            open.push(stream);
        }
        // Of so many times 30 KiB some thirty are waited for.
        wait_until("most have been given up", Duration::from_secs(8), || dropped() - before >= 26.0);
        assert!(dropped() - before < 60.0, "{listener}: the others are waited for");
        wait_until("they are told", Duration::from_secs(8), || open.iter().filter(|stream| heard(stream)).count() >= 26);
        if !rest.is_empty() {
            // Whoever comes now is not the one that goes.
            let mut last = raw::connect(&address);
            last.write_all(part.as_bytes()).expect("sent");
            last.write_all(rest.as_bytes()).expect("sent");
            let answer = raw::read_head(&mut last);
            assert!(answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 408"), "{listener}: {answer}");
        }
    }
}
