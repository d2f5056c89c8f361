//! A plain balancer before equal nodes: HAProxy, asking each node whether it is ready. It tries nothing twice: what a node fails is seen.
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::http::{Go, client};
use super::server::{WATCHER, free_port};
use super::{services, wait_until};

/// A place that is balanced over: where requests go, and where readiness is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub port: u16,
    pub check: u16,
}

/// A running balancer. Killed when dropped.
pub struct Balancer {
    child: Child,
    leash: Option<ChildStdin>,
    numbers: u16,
    _dir: tempfile::TempDir,
}

impl Balancer {
    /// One front for each name, at its port, over its targets; `None`, said out loud, where HAProxy is missing.
    pub fn start(fronts: &[(&str, u16, &[Target])]) -> Option<Self> {
        let Some(haproxy) = ["haproxy", "/usr/sbin/haproxy"].into_iter().find(|name| Command::new(name).arg("-v").output().is_ok()) else {
            services::skip("haproxy");
            return None;
        };
        let (dir, numbers) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut text =
            "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 2s\n  timeout check 4s\n  timeout client 30s\n  timeout server 30s\n  \
                        retries 0\n  timeout http-keep-alive 30s\n"
                .to_owned();
        text += &format!("frontend numbers\n  bind 127.0.0.1:{numbers}\n  stats enable\n  stats uri /\n");
        for (name, port, targets) in fronts {
            text +=
                &format!("frontend {name}-in\n  bind 127.0.0.1:{port}\n  default_backend {name}\nbackend {name}\n  balance roundrobin\n");
            text += "  option httpchk\n  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host nodes\n  http-check expect status 200\n  default-server inter 200ms fastinter 100ms fall 1 rise 1\n";
            for (n, target) in targets.iter().enumerate() {
                text += &format!("  server {name}{n} 127.0.0.1:{} check port {}\n", target.port, target.check);
            }
        }
        let config = dir.path().join("haproxy.cfg");
        std::fs::write(&config, text).expect("written");
        let log = std::fs::File::create(dir.path().join("haproxy.log")).expect("a log");
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", haproxy, "-db", "-f"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("haproxy runs");
        let leash = child.stdin.take();
        wait_until("HAProxy listens", Duration::from_secs(10), || {
            let ended = child.try_wait().expect("a process").is_some();
            assert!(!ended, "{}", std::fs::read_to_string(dir.path().join("haproxy.log")).unwrap_or_default());
            TcpStream::connect(("127.0.0.1", numbers)).is_ok()
        });
        Some(Self { child, leash, numbers, _dir: dir })
    }

    /// Whether requests go to the n-th target of a front.
    pub fn sends_to(&self, front: &str, n: usize) -> bool {
        let page = client().get(format!("http://127.0.0.1:{}/;csv", self.numbers)).go().expect(200).text();
        let line = page.lines().find(|line| line.starts_with(&format!("{front},{front}{n},"))).expect("a line of that target");
        // It begins with sending requests to all of them, before it has asked.
        let fields: Vec<&str> = line.split(',').collect();
        fields[17] == "UP" && fields[36] == "L7OK"
    }

    /// Waits until requests go there.
    pub fn until_it_sends_to(&self, front: &str, n: usize) {
        wait_until("the balancer sends requests there", Duration::from_secs(20), || self.sends_to(front, n));
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}
