//! The binary under test: its files, its commands, its process.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Answer, Go, client};
use super::seed::Id;

/// The binary under test: this build's, or the one that `DOORWARD_BIN` names.
pub fn binary() -> &'static str {
    static BINARY: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| super::http::env("DOORWARD_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_doorward").to_owned()));
    &BINARY
}

/// A port nobody listens on, below the range the system hands out by itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 11_000 + u16::try_from(std::process::id() % 1000).expect("small") * 12;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 9000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory with a configuration: what an operator has before anything runs.
#[derive(Clone)]
pub struct House {
    dir: Arc<tempfile::TempDir>,
    name: &'static str,
    sections: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    env: Vec<(&'static str, String)>,
    pub issuer: String,
}

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    /// Failed with this exit code.
    #[track_caller]
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    /// The JSON it printed on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|e| panic!("not JSON ({e}): {}\nstderr: {}", self.out, self.err))
    }
    pub fn said(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }
}

impl House {
    /// A fresh directory, SQLite, every role, an issuer on a free loopback port.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("doorward-suite-").tempdir().expect("a directory");
        let port = free_port();
        let issuer = format!("http://127.0.0.1:{port}");
        let mut house =
            Self { dir: Arc::new(dir), name: "doorward.toml", sections: BTreeMap::new(), env: Vec::new(), issuer: issuer.clone() };
        house.text("server.issuer", &issuer);
        house.text("server.public_listen", &format!("127.0.0.1:{port}"));
        for key in ["server.gateway_listen", "server.admin_listen", "server.metrics_listen"] {
            house.text(key, "127.0.0.1:0");
        }
        house.set("server.roles", r#"["auth", "gateway", "admin"]"#);
        let (db, kek) = (house.path("doorward.db"), house.path("kek"));
        house.text("storage.url", &format!("sqlite://{}", db.display()));
        house.text("storage.key_file", &kek.display().to_string());
        house
    }

    /// Another configuration file in the same directory: another node, or a remote gateway.
    pub fn another(&self, name: &'static str) -> Self {
        Self { name, ..self.clone() }
    }

    /// Sets a key (`section.key`) to a TOML value.
    pub fn set(&mut self, key: &'static str, toml: &str) -> &mut Self {
        let (section, key) = key.rsplit_once('.').expect("section.key");
        self.sections.entry(section).or_default().insert(key, toml.to_owned());
        self
    }

    /// Sets a key to a string.
    pub fn text(&mut self, key: &'static str, value: &str) -> &mut Self {
        self.set(key, &serde_json::to_string(value).expect("text"))
    }

    /// Takes a whole section away.
    pub fn without(&mut self, section: &str) -> &mut Self {
        self.sections.remove(section);
        self
    }

    /// An environment variable for every command of this house.
    pub fn env(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.env.push((name, value.to_owned()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the directory.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a written file");
        path
    }

    /// The configuration file, written anew.
    pub fn config(&self) -> PathBuf {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            let _ = writeln!(text, "[{section}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        self.write(self.name, &text)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).envs(self.env.iter().map(|(k, v)| (*k, v.as_str()))).current_dir(self.dir.path());
        command
    }

    /// Runs a command with this house's `--config`.
    pub fn run(&self, args: &[&str]) -> Ran {
        let config = self.config();
        let mut all = args.to_vec();
        all.extend(["--config", config.to_str().expect("a UTF-8 path")]);
        self.run_bare(&all)
    }

    /// Runs a command as given.
    pub fn run_bare(&self, args: &[&str]) -> Ran {
        let done = self.command(args).stdin(Stdio::null()).output().expect("the binary runs");
        Ran {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn bootstrap(&self) -> Value {
        let ran = self.run(&["bootstrap", "--json"]).ok();
        let said = ran.json();
        if said["admin_client_secret"].is_string() {
            self.write("admin.json", &said.to_string());
        }
        said
    }

    #[track_caller]
    pub fn seed(&self, seed: &Value) -> Value {
        self.try_seed(seed, &[]).ok().json()
    }

    pub fn try_seed(&self, seed: &Value, more: &[&str]) -> Ran {
        let file = self.write("seed.json", &seed.to_string());
        let mut args = vec!["seed", "--file", file.to_str().expect("a UTF-8 path"), "--json"];
        args.extend(more);
        self.run(&args)
    }

    /// Starts `serve` and waits for its ready line.
    #[track_caller]
    pub fn serve(&self) -> Server {
        self.try_serve().unwrap_or_else(|e| panic!("the server did not start: {e}"))
    }

    /// As `serve`; what it said on stderr when it did not start.
    pub fn try_serve(&self) -> Result<Server, String> {
        let config = self.config();
        Server::start(self, &["serve", "--config", config.to_str().expect("a UTF-8 path")])
    }

    /// Starts any long-running command that prints a ready line.
    pub fn start(&self, args: &[&str]) -> Result<Server, String> {
        Server::start(self, args)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whether a text occurs in any file of the directory (databases and logs included).
    pub fn holds(&self, text: &str) -> Option<PathBuf> {
        std::fs::read_dir(self.dir.path())
            .expect("the directory")
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.is_file())
            .find(|p| std::fs::read(p).is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes())))
    }
}

/// A running process. Killed when dropped, and when the test process ends in any way.
pub struct Server {
    house: House,
    child: Child,
    /// While open, the watcher lets the server live.
    leash: Option<ChildStdin>,
    lines: Mutex<mpsc::Receiver<String>>,
    pub ready: Value,
    pub ready_after: Duration,
    pub issuer: String,
}

/// Starts its arguments, and kills them when its own standard input ends.
pub(super) const WATCHER: &str =
    r#"exec 3<&0; "$@" </dev/null & p=$!; { cat <&3; kill -9 $p; } >/dev/null 2>&1 & k=$!; wait $p; s=$?; kill -9 $k 2>/dev/null; exit $s"#;

impl Server {
    fn start(house: &House, args: &[&str]) -> Result<Self, String> {
        let log = house.path(&format!("{}.log", house.name));
        let stderr = std::fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let begun = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", binary()])
            .args(args)
            .envs(house.env.iter().map(|(k, v)| (*k, v.as_str())))
            .current_dir(house.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary runs");
        let leash = child.stdin.take();
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while out.read_line(&mut line).is_ok_and(|n| n > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    let _ = out.read_to_end(&mut Vec::new());
                    break;
                }
            }
        });
        let first = lines.recv_timeout(Duration::from_secs(60));
        let ready_after = begun.elapsed();
        let ready: Option<Value> = first.as_ref().ok().and_then(|l| serde_json::from_str(l).ok());
        let Some(ready) = ready.filter(|r| r["ready"] == true) else {
            drop(leash);
            let status = child.wait();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("first line {first:?}; {status:?}; log: {said}"));
        };
        let issuer = ready["issuer"].as_str().unwrap_or(&house.issuer).to_owned();
        Ok(Self { house: house.clone(), child, leash, lines: Mutex::new(lines), ready, ready_after, issuer })
    }

    pub fn pid(&self) -> u64 {
        self.ready["pid"].as_u64().expect("the ready line has the pid")
    }

    /// `host:port` of a listener of the ready line.
    #[track_caller]
    pub fn listener(&self, name: &str) -> String {
        self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready)).to_owned()
    }

    /// A URL on the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    /// A URL on the gateway's listener.
    pub fn through(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener("gateway"))
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().expect("kill");
        assert!(done.success(), "signal {name}");
    }

    /// SIGTERM, then its exit code and how long it took.
    pub fn stop(mut self) -> (i32, Duration) {
        let begun = Instant::now();
        self.signal("TERM");
        let status = self.child.wait().expect("an exit status");
        (status.code().unwrap_or(-1), begun.elapsed())
    }

    /// SIGKILL: no chance to say goodbye.
    pub fn kill(mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }

    /// Waits for the process to end by itself.
    pub fn ended_within(&mut self, limit: Duration) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// What it printed on stdout after the ready line.
    pub fn further_output(&self) -> Vec<String> {
        self.lines.lock().expect("lines").try_iter().collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.house.path(&format!("{}.log", self.house.name))).unwrap_or_default()
    }

    /// `POST /token` as a client.
    #[track_caller]
    pub fn token(&self, who: &Id, form: &[(&str, &str)]) -> Answer {
        self.post("/token", who, form)
    }

    /// A form posted as a client to an endpoint of the public listener.
    #[track_caller]
    pub fn post(&self, path: &str, who: &Id, form: &[(&str, &str)]) -> Answer {
        who.post(&self.url(path), form).go()
    }

    /// A client-credentials access token.
    #[track_caller]
    pub fn machine_token(&self, who: &Id, more: &[(&str, &str)]) -> String {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(more);
        self.token(who, &form).expect(200).json()["access_token"].as_str().expect("an access token").to_owned()
    }

    #[track_caller]
    pub fn refresh(&self, who: &Id, refresh_token: &str) -> Answer {
        self.token(who, &[("grant_type", "refresh_token"), ("refresh_token", refresh_token)])
    }

    /// What introspection says to `gw`.
    #[track_caller]
    pub fn introspect(&self, token: &str) -> Value {
        self.post("/introspect", &super::seed::GW, &[("token", token)]).expect(200).json()
    }

    #[track_caller]
    pub fn active(&self, token: &str) -> bool {
        self.introspect(token)["active"] == true
    }

    #[track_caller]
    pub fn revoke(&self, who: &Id, token: &str) {
        self.post("/revoke", who, &[("token", token)]).expect(200);
    }

    /// `GET` through the gateway with a bearer token.
    #[track_caller]
    pub fn call(&self, path: &str, token: &str) -> Answer {
        client().get(self.through(path)).bearer_auth(token).go()
    }

    /// An admin access token, from the credential that bootstrap printed.
    #[track_caller]
    pub fn admin_token(&self) -> String {
        let said: Value =
            serde_json::from_str(&std::fs::read_to_string(self.house.path("admin.json")).expect("bootstrap ran")).expect("JSON");
        let (id, secret) = (said["admin_client_id"].as_str().expect("id"), said["admin_client_secret"].as_str().expect("secret"));
        let form = [("grant_type", "client_credentials"), ("scope", "doorward.admin")];
        let answer = client().post(self.url("/token")).basic_auth(id, Some(secret)).form(&form).go().expect(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// A request to the admin API with an admin's token.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/admin/v1{path}", self.listener("admin"));
        client().request(method.parse().expect("a method"), url).bearer_auth(self.admin_token())
    }

    /// One number of the metrics page; 0 when the line is not there.
    pub fn metric(&self, starts_with: &str) -> f64 {
        let page = client().get(format!("http://{}/metrics", self.listener("metrics"))).go().expect(200).text();
        page.lines().find(|l| l.starts_with(starts_with)).and_then(|l| l.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}
