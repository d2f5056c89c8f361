//! What the system calls say: for every answer that told of a change, the change was on disk before the first octet of the answer was sent
//! (SQLite: a sync of the write-ahead log; PostgreSQL: the answer to COMMIT was read), and both began after the request was read.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::http::{Go, client};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{APP, HOME, MACHINE, SAFE, standard};
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Upstream, Visitor, services, wait_until};

const CALLS: &str = "trace=read,recvfrom,recvmsg,readv,write,sendto,sendmsg,writev,fsync,fdatasync,pwrite64,openat,close,accept4,connect";

/// A trace of a running server.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn of(server: &Server, house: &House) -> Option<Self> {
        if !services::has("strace") {
            services::skip("strace");
            return None;
        }
        let file = house.path("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-y", "-s", "96", "-e", CALLS, "-p", &server.pid().to_string(), "-o"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let tasks = format!("/proc/{}/task", server.pid());
        let traced = || {
            let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            std::fs::read_dir(&tasks).expect("its threads").flatten().all(|task| !status(task).contains("TracerPid:\t0"))
        };
        for _ in 0..400 {
            if traced() {
                return Some(Self { strace, file });
            }
            if strace.try_wait().expect("strace").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = strace.kill();
        services::skip("the right to trace a process");
        None
    }

    fn end(mut self) -> Vec<Call> {
        let _ = Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
        calls(&std::fs::read_to_string(&self.file).expect("a trace"))
    }
}

/// One system call: the lines at which it began and ended, its name, its file, and what is shown of its octets.
#[derive(Debug, Clone)]
struct Call {
    began: usize,
    ended: usize,
    name: String,
    file: String,
    shown: String,
    worked: bool,
}

fn calls(trace: &str) -> Vec<Call> {
    let (mut out, mut under_way): (Vec<Call>, BTreeMap<&str, (usize, String)>) = (Vec::new(), BTreeMap::new());
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (began, whole) = if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            under_way.insert(thread, (at, begun.trim_end().to_owned()));
            continue;
        } else if rest.starts_with("<... ") {
            let Some((began, begun)) = under_way.remove(thread) else { continue };
            (began, format!("{begun} {}", rest.split_once("resumed>").map_or("", |(_, rest)| rest)))
        } else {
            (at, rest.to_owned())
        };
        let Some((name, arguments)) = whole.split_once('(') else { continue };
        let file = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(file, _)| file).to_owned();
        let worked = whole.rsplit_once(" = ").is_some_and(|(_, result)| !result.trim_start().starts_with('-') && result.trim() != "?");
        out.push(Call { began, ended: at, name: name.to_owned(), file, shown: arguments.to_owned(), worked });
    }
    out.sort_by_key(|call| call.began);
    out
}

impl Call {
    fn reads(&self) -> bool {
        ["read", "recvfrom", "recvmsg", "readv"].contains(&self.name.as_str()) && self.worked
    }
    fn writes(&self) -> bool {
        ["write", "sendto", "sendmsg", "writev"].contains(&self.name.as_str()) && self.worked
    }
}

/// For each answer with the mark of a change: when its request had been read, and when its first octet was sent.
fn answers(calls: &[Call]) -> Vec<(usize, usize, String)> {
    let mut asked: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut out = Vec::new();
    for call in calls.iter().filter(|call| call.file.starts_with("socket:") || call.file.starts_with("TCP:")) {
        let request = [
            "POST /token",
            "POST /revoke",
            "POST /par",
            "POST /login",
            "POST /consent",
            "POST /device_authorization",
            "POST /admin",
            "DELETE /admin",
        ];
        if call.reads()
            && let Some(request) = request.iter().find(|request| call.shown.contains(*request))
        {
            asked.insert(&call.file, (call.began, request));
        } else if call.writes()
            && call.shown.contains("HTTP/1.1 ")
            && let Some((read, request)) = asked.remove(call.file.as_str())
        {
            let given =
                ["HTTP/1.1 200", "HTTP/1.1 201", "HTTP/1.1 204", "HTTP/1.1 303", "HTTP/1.1 302"].iter().any(|s| call.shown.contains(s));
            if given {
                out.push((read, call.began, request.to_owned()));
            }
        }
    }
    out
}

/// Every kind of change that is answered, one after the other and then many at once.
fn work(server: &Server) -> usize {
    let mut visitor = Visitor::new();
    let mut changes = 0;
    for _ in 0..2 {
        let ask = Ask::new(&HOME);
        let code = visitor.walk(server, &ask, "alice").code(server, &ask);
        ask.redeem(server, &code).expect(200);
        let tokens = Visitor::new().tokens(server, &Ask::new(&APP), "bob");
        let next = text(&server.refresh(&APP, &text(&tokens, "refresh_token")).expect(200).json(), "refresh_token");
        server.revoke(&APP, &next);
        let (jwt, opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
        server.revoke(&MACHINE, &jwt);
        server.revoke(&SAFE, &opaque);
        let form = [
            ("response_type", "code"),
            ("redirect_uri", HOME.redirect),
            ("scope", "openid"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ];
        server.post("/par", &HOME, &form).expect(201);
        let done = server.admin("POST", "/users/carol/disable").go();
        assert!([200, 204].contains(&done.status));
        let done = server.admin("POST", "/users/carol/enable").go();
        assert!([200, 204].contains(&done.status));
        changes += 13;
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let token = server.machine_token(&SAFE, &[]);
                    server.revoke(&SAFE, &token);
                }
            });
        }
    });
    client().get(server.url("/jwks")).go().expect(200);
    changes + 64
}

/// Each answer has a durable moment of its own between its request and itself.
#[track_caller]
fn judged(calls: &[Call], least: usize, moments: &[(usize, usize)], what: &str) {
    let answers = answers(calls);
    assert!(answers.len() >= least, "{} answers of {least} seen", answers.len());
    let kinds: BTreeSet<&str> = answers.iter().map(|(_, _, request)| request.as_str()).collect();
    assert!(
        ["POST /token", "POST /revoke", "POST /par", "POST /login", "POST /admin"].iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    for (read, sent, request) in &answers {
        let durable = moments.iter().any(|(began, ended)| began > read && ended < sent);
        assert!(durable, "{request}: read at line {read}, answered at line {sent}, no {what} in between");
    }
    println!("{} answers, {} times {what}, every answer behind one", answers.len(), moments.len());
}

#[test]
fn an_answer_is_sent_after_the_log_was_synced() {
    let stage = crate::kit::Stage::start(|_| {});
    let Some(trace) = Trace::of(&stage.server, &stage.house) else { return };
    let least = work(&stage.server);
    let calls = trace.end();
    let log = |call: &&Call| call.file.ends_with("doorward.db-wal");
    let syncs: Vec<(usize, usize)> = calls
        .iter()
        .filter(|call| ["fsync", "fdatasync"].contains(&call.name.as_str()) && call.worked)
        .filter(log)
        .map(|call| (call.began, call.ended))
        .collect();
    judged(&calls, least, &syncs, "sync of the log");
    // What is synced was written before: the last page of a transaction comes before its sync, none between it and the next answer's.
    assert!(calls.iter().any(|call| call.name == "pwrite64" && call.file.ends_with("doorward.db-wal")));
}

#[test]
fn an_answer_is_sent_after_postgresql_said_that_it_was_committed() {
    let Some(database) = OwnPostgres::start() else { return };
    assert_eq!((database.sql("SHOW fsync"), database.sql("SHOW full_page_writes")), ("on".into(), "on".into()));
    // Whatever the server's own choice for others is.
    database.sql("ALTER SYSTEM SET synchronous_commit = off");
    database.sql("ALTER SYSTEM SET wal_writer_delay = '10s'");
    database.sql("SELECT pg_reload_conf()");
    wait_until("the server is careless", Duration::from_secs(5), || database.sql("SHOW synchronous_commit") == "off");
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database.url());
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    server.machine_token(&MACHINE, &[]);
    let Some(trace) = Trace::of(&server, &house) else { return };
    let least = work(&server);
    let calls = trace.end();
    // On one connection: COMMIT sent, then its answer read.
    let (mut sent, mut moments): (BTreeMap<&str, usize>, Vec<(usize, usize)>) = (BTreeMap::new(), Vec::new());
    for call in &calls {
        if call.writes() && call.shown.contains("COMMIT") {
            sent.insert(&call.file, call.began);
        } else if call.reads()
            && call.shown.contains("COMMIT\\0")
            && let Some(began) = sent.remove(call.file.as_str())
        {
            moments.push((began, call.ended));
        }
    }
    judged(&calls, least, &moments, "answer to COMMIT");
    // The writer's own session is durable all the same.
    let begun = database.sql("SELECT pg_current_wal_insert_lsn()");
    server.machine_token(&SAFE, &[]);
    let flushed = database.sql(&format!("SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '{begun}') > 0"));
    assert_eq!(flushed, "t", "acknowledged and not on disk");
}
