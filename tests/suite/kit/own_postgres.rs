//! A PostgreSQL of a test's own, which may be stopped, crashed, paused and started again.
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::http::wait_until;
use super::server::{WATCHER, free_port};
use super::services::skip;

/// A running (or stopped) server in a folder of its own. Durable as in production.
pub struct OwnPostgres {
    home: tempfile::TempDir,
    bin: PathBuf,
    pub port: u16,
    running: Option<(Child, Option<ChildStdin>)>,
}

/// Where the server's programs are.
fn programs() -> Option<PathBuf> {
    let told = Command::new("pg_config").arg("--bindir").output().ok().filter(|o| o.status.success());
    let told = told.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    let mut debian: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    debian.sort();
    told.into_iter()
        .chain(debian.into_iter().rev())
        .chain(["/usr/local/bin".into(), "/usr/bin".into()])
        .find(|dir| dir.join("initdb").exists())
}

/// Root hands over to `postgres`, who alone may run it.
fn as_postgres(program: &str) -> Vec<String> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    let before: &[&str] = if root { &["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] } else { &[] };
    before.iter().map(|word| (*word).to_owned()).chain([program.to_owned()]).collect()
}

fn command(words: &[String]) -> Command {
    let (first, rest) = words.split_first().expect("a program");
    let mut command = Command::new(first);
    command.args(rest).current_dir("/");
    command
}

impl OwnPostgres {
    /// A new one; `None`, said out loud, where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            skip("PostgreSQL's initdb");
            return None;
        };
        let home = tempfile::Builder::new().prefix("doorward-postgres-").tempdir().expect("a directory");
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        if as_postgres("").len() > 1 {
            for path in [home.path(), &data] {
                let done = Command::new("chown").arg("postgres").arg(path).status().expect("chown");
                assert!(done.success(), "chown postgres");
            }
        }
        let mut init = command(&as_postgres(bin.join("initdb").to_str().expect("UTF-8")));
        init.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-instructions",
            "--no-sync",
        ]);
        let done = init.output().expect("initdb runs");
        assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        let mut own = Self { home, bin, port: free_port(), running: None };
        own.up();
        Some(own)
    }

    /// A streaming replica of this one, in step with it.
    pub fn replica(&self) -> Self {
        let home = tempfile::Builder::new().prefix("doorward-postgres-").tempdir().expect("a directory");
        if as_postgres("").len() > 1 {
            let done = Command::new("chown").arg("postgres").arg(home.path()).status().expect("chown");
            assert!(done.success(), "chown postgres");
        }
        let mut copy = command(&as_postgres(self.bin.join("pg_basebackup").to_str().expect("UTF-8")));
        copy.args(["-d", &self.url(), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(home.path().join("data"));
        let done = copy.output().expect("pg_basebackup runs");
        assert!(done.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&done.stderr));
        let mut own = Self { home, bin: self.bin.clone(), port: free_port(), running: None };
        own.up();
        own
    }

    /// Starts it (again) and waits until it takes connections.
    pub fn up(&mut self) {
        let mut words: Vec<String> = ["-c", WATCHER, "watcher"].map(str::to_owned).to_vec();
        words.extend(as_postgres(self.bin.join("postgres").to_str().expect("UTF-8")));
        let folder = self.home.path().display().to_string();
        let port = self.port.to_string();
        let sizes =
            ["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB", "-c", "max_connections=120", "-c", "logging_collector=off"];
        words.extend(["-D".to_owned(), format!("{folder}/data"), "-p".to_owned(), port, "-k".to_owned(), folder]);
        words.extend(sizes.map(str::to_owned));
        let log = std::fs::File::options().create(true).append(true).open(self.home.path().join("server.log")).expect("a log");
        let mut child = Command::new("sh")
            .args(words)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs");
        let leash = child.stdin.take();
        self.running = Some((child, leash));
        wait_until("PostgreSQL takes connections", Duration::from_secs(60), || {
            let done = Command::new("psql").args([&self.url(), "-qtAc", "SELECT 1"]).output().expect("psql");
            done.status.success() || {
                std::thread::sleep(Duration::from_millis(30));
                false
            }
        });
    }

    pub fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// As reached through another port: a wire that leads here.
    pub fn url_through(&self, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// What a statement says, unaligned and without headings.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        self.try_sql(statement).unwrap_or_else(|said| panic!("psql: {said}"))
    }

    /// The same, or what is wrong with it.
    pub fn try_sql(&self, statement: &str) -> Result<String, String> {
        let done = Command::new("psql").args([&self.url(), "-qtAX", "-v", "ON_ERROR_STOP=1", "-c", statement]).output().expect("psql");
        let said = if done.status.success() { &done.stdout } else { &done.stderr };
        let said = String::from_utf8_lossy(said).trim().to_owned();
        if done.status.success() { Ok(said) } else { Err(said) }
    }

    /// Ends every connection of others.
    pub fn drop_connections(&self) {
        self.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
    }

    fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.home.path().join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn signal(&self, name: &str, pid: u32) {
        let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    }

    /// The server and all its processes.
    fn family(&self) -> Vec<u32> {
        let Some(first) = self.pid() else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        std::iter::once(first).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// Stops it: `INT` breaks off what is under way and writes everything down, `QUIT` is a crash.
    pub fn down(&mut self, signal: &str) {
        if let Some(pid) = self.pid() {
            self.signal(signal, pid);
        }
        if let Some((mut child, leash)) = self.running.take() {
            let _ = child.wait();
            drop(leash);
        }
    }

    /// Stands still: connections stay open and nobody answers.
    pub fn pause(&self) {
        for pid in self.family() {
            self.signal("STOP", pid);
        }
    }

    /// Goes on.
    pub fn resume(&self) {
        for pid in self.family() {
            self.signal("CONT", pid);
        }
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.resume();
        self.down("QUIT");
    }
}
