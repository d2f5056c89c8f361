//! Other people's gateways in front of an upstream, asking doorward: private processes with the configurations of `docs/GATEWAYS.md`.
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::http::{Answer, Go, alone, client, env, random, wait_until};
use super::raw;
use super::seed::{API, MACHINE, route, standard};
use super::server::{House, WATCHER, free_port};
use super::services::{has, skip};
use super::{Stage, Upstream};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/GATEWAYS.md");

/// A server of the standard seed that decides for others, with routes for what fronts have to pass on.
pub fn deciding(configure: impl FnOnce(&mut House)) -> Stage {
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("server.decision_listen", "127.0.0.1:0");
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let auth = json!({"accept": ["jwt"], "audience": API, "scopes": ["read"]});
    let mut limited = route("limited", "/limited/", "echo", auth.clone());
    limited["rate_limit"] = json!({"key": "client", "rate": 2, "period": "600s"});
    let mut old = route("old", "/old/", "echo", auth.clone());
    old["version"] = json!({"deprecated_at": "2026-01-01T00:00:00Z", "sunset_at": "2099-01-01T00:00:00Z", "successor": "/api/"});
    let mut gone = route("gone", "/gone/", "echo", auth);
    gone["version"] = json!({"sunset_at": "2026-01-01T00:00:00Z", "successor": "/api/"});
    seed["routes"].as_array_mut().expect("routes").extend([limited, old, gone]);
    house.seed(&seed);
    let server = house.serve();
    Stage { house, server, upstream }
}

/// The code block of that language, the n-th (from 0), under a heading of the page.
fn documented(heading: &str, language: &str, n: usize) -> String {
    let page = std::fs::read_to_string(DOCS).expect("the page");
    let section = page.split("\n## ").find(|s| s.starts_with(heading)).unwrap_or_else(|| panic!("{heading} in {DOCS}"));
    let block = section.split(&format!("```{language}\n")).nth(n + 1).unwrap_or_else(|| panic!("{language} {n} under {heading}"));
    block.split("\n```").next().expect("its end").to_owned() + "\n"
}

/// A running front. Killed when dropped, and when the test process ends in any way.
pub struct Front {
    dir: tempfile::TempDir,
    child: Child,
    leash: Option<ChildStdin>,
    pub port: u16,
}

/// A program of the Python packages, if they are there.
fn packaged(name: &str) -> Option<PathBuf> {
    let found = env("DOORWARD_TEST_PYTHON").map(|python| Path::new(&python).with_file_name(name)).filter(|path| path.exists());
    if found.is_none() {
        skip(&format!("{name} (PyPI packages, DOORWARD_TEST_PYTHON)"));
    }
    found
}

fn installed(name: &str) -> Option<PathBuf> {
    if has(name) {
        return Some(name.into());
    }
    let system = Path::new("/usr/sbin").join(name);
    if system.exists() {
        return Some(system);
    }
    skip(name);
    None
}

impl Front {
    fn start(stage: &Stage, binary: &Path, files: &[(&str, String)], arguments: &dyn Fn(u16) -> Vec<String>) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::Builder::new().prefix("doorward-front-").tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable");
        let port = free_port();
        let decision = stage.listener("decision");
        let (decides, serves) = (decision.rsplit(':').next().expect("a port"), stage.upstream.url());
        let serves = serves.rsplit(':').next().expect("a port");
        for (name, text) in files {
            let mut text = text.clone();
            for (documented, real) in [("8000", port.to_string().as_str()), ("8084", decides), ("9000", serves)] {
                text = text.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{real}"));
                text = text.replace(&format!("port_value: {documented}"), &format!("port_value: {real}"));
            }
            std::fs::write(dir.path().join(name), text.replace("@DIR@", &dir.path().display().to_string())).expect("written");
        }
        let log = std::fs::File::create(dir.path().join("front.log")).expect("a log");
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(binary)
            .args(arguments(port))
            .env("HOME", dir.path())
            .env("XDG_DATA_HOME", dir.path())
            .env("XDG_CONFIG_HOME", dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("it runs");
        let leash = child.stdin.take();
        let mut front = Self { dir, child, leash, port };
        wait_until("the front listens", Duration::from_secs(30), || {
            assert!(front.child.try_wait().expect("a status").is_none(), "it ended: {}", front.log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        front
    }

    pub fn nginx(stage: &Stage) -> Option<Self> {
        let binary = installed("nginx")?;
        // A private process: its own folders, no log of the system's.
        let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("  {kind}_temp_path @DIR@/{kind};\n")).concat();
        let config = documented("nginx", "nginx", 0).replacen("http {\n", &format!("http {{\n  access_log off;\n{own}"), 1);
        let files = [("nginx.conf", format!("daemon off;\npid @DIR@/nginx.pid;\nerror_log stderr warn;\nworker_processes 1;\n{config}"))];
        let arguments = |_| vec!["-p".into(), ".".into(), "-e".into(), "stderr".into(), "-c".into(), "nginx.conf".into()];
        Some(Self::start(stage, &binary, &files, &arguments))
    }

    pub fn haproxy(stage: &Stage) -> Option<Self> {
        let binary = installed("haproxy")?;
        let files = [("doorward.lua", documented("HAProxy", "lua", 0)), ("haproxy.cfg", documented("HAProxy", "haproxy", 0))];
        Some(Self::start(stage, &binary, &files, &|_| vec!["-db".into(), "-f".into(), "haproxy.cfg".into()]))
    }

    pub fn caddy(stage: &Stage) -> Option<Self> {
        let binary = packaged("caddy")?;
        let files = [("Caddyfile", documented("Caddy", "caddyfile", 0))];
        Some(Self::start(stage, &binary, &files, &|_| vec!["run".into(), "--config".into(), "Caddyfile".into()]))
    }

    pub fn traefik(stage: &Stage) -> Option<Self> {
        let binary = packaged("traefik")?;
        let files = [("routes.yml", documented("Traefik", "yaml", 0))];
        let arguments = |port| {
            let entry = format!("--entrypoints.front.address=127.0.0.1:{port}");
            vec![entry, "--providers.file.filename=routes.yml".into(), "--global.checknewversion=false".into()]
        };
        let front = Self::start(stage, &binary, &files, &arguments);
        // It listens before it has read its routes.
        wait_until("Traefik has routes", Duration::from_secs(15), || client().get(front.url("/public/x")).go().status == 200);
        Some(front)
    }

    /// Envoy with the filter that asks over gRPC, or over HTTP.
    pub fn envoy(stage: &Stage, grpc: bool) -> Option<Self> {
        let binary = packaged("envoy")?;
        let mut config = documented("Envoy", "yaml", 0);
        if !grpc {
            let filter = documented("Envoy", "yaml", 1);
            let indented = filter.lines().map(|line| format!("{}{line}\n", " ".repeat(18))).collect::<String>();
            let begin = config.find("                  - name: envoy.filters.http.ext_authz").expect("the filter");
            let end = config.find("                  - name: envoy.filters.http.router").expect("the next one");
            config.replace_range(begin..end, &indented);
            config = config.replacen(
                "explicit_http_config: { http2_protocol_options: {} }",
                "explicit_http_config: { http_protocol_options: {} }",
                1,
            );
        }
        let arguments = |_| ["-c", "envoy.yaml", "--use-dynamic-base-id", "-l", "warn", "--concurrency", "1"].map(str::to_owned).to_vec();
        Some(Self::start(stage, &binary, &[("envoy.yaml", config)], &arguments))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `GET` with a bearer token.
    #[track_caller]
    pub fn call(&self, path: &str, token: &str) -> Answer {
        client().get(self.url(path)).bearer_auth(token).go()
    }

    /// What it said.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("front.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the front said: {}", self.log());
        }
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}

/// Names that an upstream may read as an identity header.
pub const SPOOFS: [&str; 30] = [
    "X-Doorward-Subject",
    "x-doorward-subject",
    "X-DOORWARD-SUBJECT",
    "x-Doorward-sUBJECT",
    "X_Doorward_Subject",
    "X-Doorward_Subject",
    "X_Doorward-Subject",
    "X.Doorward.Subject",
    "X-Doorward.Subject",
    "X.Doorward-Subject",
    "X~Doorward~Subject",
    "X!Doorward!Subject",
    "X-Doorward!Subject",
    "X+Doorward+Subject",
    "X-Doorward+Subject",
    "X*Doorward*Subject",
    "X'Doorward'Subject",
    "X|Doorward|Subject",
    "X`Doorward`Subject",
    "X^Doorward^Subject",
    "X#Doorward#Subject",
    "X$Doorward$Subject",
    "X%Doorward%Subject",
    "X&Doorward&Subject",
    "X-Doorward-Client",
    "X_Doorward_Client",
    "X.Doorward.Client",
    "X-Doorward-Scope",
    "X_Doorward_Scope",
    "X.Doorward.Scope",
];

/// What clients add so that another path, method, host or address is decided over.
const DISGUISES: [&str; 20] = [
    "X-Forwarded-Uri: /public/x",
    "X-Forwarded-Method: OPTIONS",
    "X-Forwarded-Host: one.example.com",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Prefix: /public",
    "X-Forwarded-Path: /public/x",
    "X-Original-URL: http://x/public/x",
    "X-Original-URI: /public/x",
    "X-Original-Method: OPTIONS",
    "X-Original-Host: one.example.com",
    "X-Original-URL: /public/x",
    "X-Rewrite-URL: /public/x",
    "X-Auth-Request-Redirect: /public/x",
    "X-HTTP-Method-Override: OPTIONS",
    "Forwarded: for=10.0.0.1;proto=https;host=one.example.com",
    "X-Forwarded-For: 10.0.0.1",
    "X-Envoy-Original-Path: /public/x",
    "X_Forwarded_Uri: /public/x",
    "X-Forwarded-Uri: /public/x\r\nX-Forwarded-Uri: /public/x",
    "X-Original-Method: GET\r\nX-Original-URL: http://x/public/x",
];

/// Everything a front has to do right, whichever it is.
pub fn holds(stage: &Stage, front: &Front) {
    passes_who_may_and_says_who_it_is(stage, front);
    refuses_with_the_status_of_the_decision(stage, front);
    lets_nobody_say_who_it_is(stage, front);
    decides_over_what_was_asked(stage, front);
    hears_of_revocations_at_once(stage, front);
}

fn passes_who_may_and_says_who_it_is(stage: &Stage, front: &Front) {
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[("scope", "read")]));
    front.call(&format!("/api/things?mark={mark}"), &token).expect(200);
    let seen = stage.upstream.only(&mark);
    assert_eq!(seen.target(), format!("/api/things?mark={mark}"));
    for (name, value) in [("x-doorward-subject", "machine"), ("x-doorward-client", "machine"), ("x-doorward-scope", "read")] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    assert!(!seen.headers.iter().any(|(_, value)| value.contains(&token)), "the credential ends here: {:?}", seen.headers);
    let (mark, body) = (random(), random());
    client().post(front.url(&format!("/api/{mark}"))).bearer_auth(&token).body(body.clone()).go().expect(200);
    assert_eq!(stage.upstream.only(&mark).body, body.as_bytes());
    let mark = random();
    client().get(front.url(&format!("/public/{mark}"))).go().expect(200);
    assert!(stage.upstream.only(&mark).all("x-doorward-subject").is_empty());
}

fn refuses_with_the_status_of_the_decision(stage: &Stage, front: &Front) {
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[("scope", "read")]));
    let answer = client().get(front.url(&format!("/api/{mark}"))).go().expect(401);
    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
    assert!(front.call(&format!("/api/{mark}"), "dwa_nonsense").expect(401).header("www-authenticate").contains("invalid_token"));
    front.call(&format!("/writing/{mark}"), &token).expect(403);
    front.call(&format!("/nowhere/{mark}"), &token).expect(404);
    client().delete(front.url(&format!("/api/{mark}"))).bearer_auth(&token).go().expect(405);
    let gone = front.call(&format!("/gone/{mark}"), &token).expect(410);
    assert!(gone.header("link").contains("successor-version"), "{:?}", gone.headers);
    assert!(stage.upstream.seen(&mark).is_empty());
    let limited: Vec<Answer> = (0..4).map(|_| front.call("/limited/x", &token)).collect();
    let last = &limited[3];
    assert_eq!(last.status, 429, "{:?}", limited.iter().map(|a| a.status).collect::<Vec<_>>());
    assert!(last.header("retry-after").parse::<u64>().is_ok_and(|s| s > 0), "{:?}", last.headers);
}

fn reads_as_identity(name: &str) -> bool {
    let folded: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    ["x-doorward-subject", "x-doorward-client", "x-doorward-scope"].contains(&folded.as_str())
}

fn lets_nobody_say_who_it_is(stage: &Stage, front: &Front) {
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    for name in SPOOFS {
        for (path, credential) in [("/public/", String::new()), ("/api/", format!("Authorization: Bearer {token}\r\n"))] {
            let mark = random();
            let answer = raw::get(&front.address(), &format!("{path}{mark}"), &format!("{credential}{name}: mallory\r\n"));
            for seen in stage.upstream.seen(&mark) {
                let told: Vec<_> = seen.headers.iter().filter(|(n, v)| reads_as_identity(n) && v.contains("mallory")).collect();
                assert!(told.is_empty(), "{name} at {path}: {told:?}");
            }
            assert!([200, 400, 403].contains(&answer.status), "{name}: {}", answer.text);
        }
    }
}

fn decides_over_what_was_asked(stage: &Stage, front: &Front) {
    for disguise in DISGUISES {
        let mark = random();
        let answer = raw::get(&front.address(), &format!("/api/{mark}"), &format!("{disguise}\r\n"));
        assert!(answer.status >= 400, "{disguise}: {}", answer.text);
        assert!(stage.upstream.seen(&mark).is_empty(), "{disguise}");
    }
    for path in [
        "/public/../api/@",
        "/public/%2e%2e/api/@",
        "/public/..%2fapi/@",
        "/public/..;/api/@",
        "//api/@",
        "/public//../api/@",
        "/public%2f..%2fapi/@",
        "/public/x/../../api/@",
        "/%61pi/@",
    ] {
        let mark = random();
        raw::get(&front.address(), &path.replace('@', &mark), "");
        // A front may make a public path of it, but then that is what it sends on.
        for seen in stage.upstream.seen(&mark) {
            let target = seen.target();
            assert!(target.starts_with("/public/") && !target.contains("..") && !target.contains('%'), "{path}: {target}");
        }
    }
}

fn hears_of_revocations_at_once(stage: &Stage, front: &Front) {
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    for _ in 0..3 {
        front.call("/api/before", &token).expect(200);
    }
    stage.revoke(&MACHINE, &token);
    let mark = random();
    for _ in 0..3 {
        let answer = alone().get(front.url(&format!("/api/{mark}"))).bearer_auth(&token).go().expect(401);
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{:?}", answer.headers);
    }
    assert!(stage.upstream.seen(&mark).is_empty());
}
