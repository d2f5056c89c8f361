//! A Redis of a test's own, which may be killed, paused, emptied and started again.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::http::wait_until;
use super::server::{WATCHER, free_port};
use super::services::{has, skip};

/// A running (or killed) server that keeps nothing on disk.
pub struct OwnRedis {
    pub port: u16,
    running: Option<(Child, Option<ChildStdin>, u32)>,
}

impl OwnRedis {
    /// A new one; `None`, said out loud, where Redis is not installed.
    pub fn start() -> Option<Self> {
        if !has("redis-server") {
            skip("redis-server");
            return None;
        }
        let mut own = Self { port: free_port(), running: None };
        own.up();
        Some(own)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it (again) and waits until it answers.
    pub fn up(&mut self) {
        let port = self.port.to_string();
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", "redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/tmp")
            .spawn()
            .expect("redis-server runs");
        let leash = child.stdin.take();
        wait_until("Redis answers", Duration::from_secs(20), || self.try_say("PING").is_some_and(|said| said.starts_with("+PONG")));
        let told = self.say("INFO server");
        let pid = told.lines().find_map(|line| line.strip_prefix("process_id:")).and_then(|pid| pid.trim().parse().ok()).expect("its pid");
        self.running = Some((child, leash, pid));
    }

    fn try_say(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut buffer = vec![0; 65536];
        let read = stream.read(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    }

    /// The beginning of its answer to an inline command.
    pub fn say(&self, command: &str) -> String {
        self.try_say(command).expect("Redis answers")
    }

    fn signal(&self, name: &str) {
        if let Some((_, _, pid)) = &self.running {
            let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Dead at once.
    pub fn kill(&mut self) {
        self.signal("KILL");
        if let Some((mut child, leash, _)) = self.running.take() {
            let _ = child.wait();
            drop(leash);
        }
    }

    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.resume();
        self.kill();
    }
}
