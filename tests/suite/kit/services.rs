//! PostgreSQL and Redis, when the test run has them; otherwise the skip is said out loud.
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::http::env;

/// Says that a test is skipped and why; a failure where skipping is not allowed.
#[track_caller]
pub fn skip(what: &str) {
    assert!(env("DOORWARD_TEST_NO_SKIP").is_none(), "{what} is needed and missing");
    eprintln!("skipped: {what} is not there");
}

/// The URL of a fresh PostgreSQL database of its own.
pub fn postgres() -> Option<String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Some(server) = env("DOORWARD_TEST_POSTGRES") else {
        skip("PostgreSQL (DOORWARD_TEST_POSTGRES)");
        return None;
    };
    let name = format!("suite_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let done = Command::new("psql").args([&server, "-qc", &format!("CREATE DATABASE {name}")]).output().expect("psql runs");
    assert!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
    let mut url = url::Url::parse(&server).expect("a URL");
    url.set_path(&name);
    Some(url.to_string())
}

/// The URL of the Redis server.
pub fn redis() -> Option<String> {
    let url = env("DOORWARD_TEST_REDIS");
    if url.is_none() {
        skip("Redis (DOORWARD_TEST_REDIS)");
    }
    url
}

/// Whether a command can be run here.
pub fn has(command: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {command}")]).output().is_ok_and(|o| o.status.success())
}
