//! nginx as somebody's upstream.
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::free_port;
use super::{services, wait_until};

/// An nginx of its own folder and port.
pub struct Nginx {
    process: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// Starts one with this server block, in which `PORT` stands for its port and `DIR` for its folder; `None` and said out loud where
    /// nginx is missing.
    pub fn start(server: &str) -> Option<Self> {
        Self::prepared(server, |_| {})
    }

    /// The same, its folder filled before.
    pub fn prepared(server: &str, fill: impl FnOnce(&std::path::Path)) -> Option<Self> {
        let Some(nginx) = ["nginx", "/usr/sbin/nginx"].into_iter().find(|nginx| Command::new(nginx).arg("-v").output().is_ok()) else {
            services::skip("nginx");
            return None;
        };
        let (dir, port) = (tempfile::tempdir().expect("a folder"), free_port());
        fill(dir.path());
        let folder = dir.path().display().to_string();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {folder}/{of};")).concat();
        let server = server.replace("PORT", &port.to_string()).replace("DIR", &folder);
        let config = format!(
            "daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\nhttp {{ access_log {folder}/access.log; {temporary}\nserver {{ {server} }} }}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let mut process = Command::new(nginx)
            .args(["-p", &folder, "-c", "nginx.conf", "-e"])
            .arg(format!("{folder}/error.log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        wait_until("nginx listens", Duration::from_secs(10), || {
            assert!(
                process.try_wait().expect("a process").is_none(),
                "{}",
                std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default()
            );
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self { process, port, dir })
    }

    /// What it wrote of requests.
    pub fn accessed(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its workers with it when it is asked to end.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
