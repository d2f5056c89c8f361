//! Memory: what a rush took goes back to the system.
use std::{io::Write as _, net::TcpStream, time::Duration};

use crate::kit::{Stage, raw, wait_until};

/// Fewer than a process may usually have open, and enough to be seen.
const RUSH: usize = 700;

/// Memory of the process's own, kB: pages of the binary and of the database not counted.
fn own(stage: &Stage) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:").map(str::to_owned)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Connections that have been served once and stay open.
fn rush(address: &str, count: usize) -> Vec<TcpStream> {
    let served = |_| {
        let mut stream = raw::connect(address);
        stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 4"));
        stream
    };
    (0..count).map(served).collect()
}

#[test]
fn what_a_rush_of_connections_took_goes_back() {
    let stage = Stage::start(|house| {
        house.set("server.max_connections", "4000").set("server.max_connections_per_source", "4000");
    });
    let address = stage.listener("gateway");
    // What the first of them makes once and for all is no part of it.
    drop(rush(&address, RUSH / 20));
    let before = own(&stage);
    let open = rush(&address, RUSH);
    let most = own(&stage);
    assert!(before > 0 && most > before, "{before} {most}");
    drop(open);
    // Whether it goes back is seen while something happens, as it always does.
    wait_until("a good part of it is given back", Duration::from_secs(30), || {
        drop(raw::exchange(&address, b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        own(&stage) < before + (most - before) * 2 / 3
    });
}
