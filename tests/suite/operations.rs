//! What an operator does: bootstrap, check, keys, audit, backup, reload, drain.
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::kit::http::{Go, client, jose_header};
use crate::kit::seed::{HOME, MACHINE, standard};
use crate::kit::{House, Stage, raw, wait_until};

fn made() -> House {
    let house = House::new();
    house.bootstrap();
    house.seed(&standard("http://127.0.0.1:9"));
    house
}

#[test]
fn bootstrap_prints_its_secret_once() {
    let house = House::new();
    let first = house.bootstrap();
    for name in ["issuer", "admin_client_id", "admin_client_secret", "admin_token"] {
        assert!(first[name].is_string(), "{name}: {first}");
    }
    assert!(!first["expires_at"].is_null());
    let second = house.run(&["bootstrap", "--json"]).ok().json();
    assert!(second.get("admin_client_secret").is_none_or(Value::is_null), "{second}");
    assert!(second.get("admin_token").is_none_or(Value::is_null), "{second}");
    let third = house.run(&["bootstrap", "--json", "--rotate"]).ok().json();
    assert!(third["admin_client_secret"].is_string() && third["admin_client_secret"] != first["admin_client_secret"]);
    let mode = std::fs::metadata(house.path("kek")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "the key-encryption key is its owner's alone");
    let server = house.serve();
    let ask = |secret: &Value| {
        let form = [("grant_type", "client_credentials"), ("scope", "doorward.admin")];
        client().post(server.url("/token")).basic_auth(first["admin_client_id"].as_str().unwrap(), secret.as_str()).form(&form).go().status
    };
    assert_eq!((ask(&first["admin_client_secret"]), ask(&third["admin_client_secret"])), (401, 200));
    let users = format!("http://{}/admin/v1/users", server.listener("admin"));
    client().get(users).bearer_auth(third["admin_token"].as_str().unwrap()).go().expect(200);
}

#[test]
fn bad_configuration_is_refused_whole_with_exit_code_2() {
    let mut house = House::new();
    house
        .set("server.isuer", "\"x\"")
        .set("lifetimes.code", "\"soon\"")
        .set("lifetimes.access_token", "\"0s\"")
        .set("gateway.max_stalenes", "\"5s\"");
    for command in [&["check"][..], &["bootstrap", "--json"], &["serve"]] {
        let ran = house.run(command).failed(2);
        for word in ["isuer", "issuer", "lifetimes.code", "access_token", "max_staleness"] {
            assert!(ran.err.contains(word), "{word} is not named by {command:?}: {}", ran.err);
        }
    }
    assert_eq!(house.run_bare(&["serve", "--config", "/nowhere.toml"]).code, 2);
    assert_eq!(house.run_bare(&["frobnicate"]).code, 2);
    assert_eq!(house.run_bare(&["serve"]).code, 2);
    let mut plain = House::new();
    plain.text("server.issuer", "http://id.example.com");
    plain.run(&["check"]).failed(2);
    let mut long = House::new();
    long.text("lifetimes.code", "2m");
    long.run(&["check"]).failed(2);
    let mut grace = House::new();
    grace.text("lifetimes.refresh_grace", "11s");
    grace.run(&["check"]).failed(2);
}

#[test]
fn the_environment_overrides_the_file() {
    let mut house = House::new();
    house.env("DOORWARD_LIFETIMES__ACCESS_TOKEN", "0s");
    house.run(&["check"]).failed(2);
    let mut house = House::new();
    house.env("DOORWARD_LIFETIMES__REFRESH_GRACE", "99s");
    assert!(house.run(&["check"]).failed(2).err.contains("refresh_grace"));
}

#[test]
fn check_is_content_with_what_bootstrap_made_and_says_what_is_missing() {
    let house = made();
    house.run(&["check"]).ok();
    std::fs::remove_file(house.path("kek")).unwrap();
    assert_ne!(house.run(&["check"]).code, 0);
    assert!(!house.path("kek").exists(), "check makes nothing");
}

#[test]
fn a_wrong_or_missing_key_encryption_key_refuses_to_start() {
    let house = made();
    let kek = house.path("kek");
    let good = std::fs::read(&kek).unwrap();
    let other = House::new();
    other.bootstrap();
    std::fs::copy(other.path("kek"), &kek).unwrap();
    assert!(house.try_serve().is_err(), "a wrong key starts nothing");
    assert_ne!(house.run(&["bootstrap", "--json"]).code, 0, "and bootstrap makes no new issuer key in silence");
    std::fs::remove_file(&kek).unwrap();
    assert!(house.try_serve().is_err(), "a missing key starts nothing");
    assert_ne!(house.run(&["bootstrap", "--json"]).code, 0, "a new key for an old database");
    std::fs::write(&kek, good).unwrap();
    std::fs::set_permissions(&kek, std::fs::Permissions::from_mode(0o600)).unwrap();
    house.serve().machine_token(&MACHINE, &[]);
}

#[test]
fn a_second_process_on_one_database_is_refused() {
    let house = made();
    let server = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", "127.0.0.1:0");
    assert!(second.try_serve().is_err());
    server.machine_token(&MACHINE, &[]);
    server.kill();
    // The lock dies with its process.
    house.serve().machine_token(&MACHINE, &[]);
}

#[test]
fn what_only_reads_runs_beside_the_server_and_what_writes_does_not() {
    let stage = Stage::start(|_| {});
    let token = stage.machine_token(&MACHINE, &[]);
    let house = &stage.house;
    assert!(house.run(&["check"]).ok().out.contains("in order"));
    let verified = house.run(&["audit", "verify"]).ok().json();
    assert!(verified["ok"] == true && verified["head"].as_u64().is_some_and(|head| head > 5), "{verified}");
    let exported = house.run(&["audit", "export"]).ok().out;
    assert!(exported.lines().last().is_some_and(|line| line.contains("token.issued")), "the token of a moment ago is in it");
    assert!(house.run(&["keys", "list"]).ok().out.contains(jose_header(&token)["kid"].as_str().unwrap()));
    let explained = |token: &str| house.run(&["explain", "--path", "/api/x", "--token", token, "--json"]).ok().json();
    assert_eq!(explained(&token)["allowed"], true);
    stage.revoke(&MACHINE, &token);
    assert_eq!((explained(&token)["allowed"].as_bool(), explained(&token)["status"].as_u64()), (Some(false), Some(401)));
    let copy = house.path("beside.backup");
    house.run(&["backup", "--to", copy.to_str().unwrap()]).ok();
    assert!(house.try_seed(&standard("http://127.0.0.1:9"), &["--plan"]).ok().out.contains("echo"));
    let writes: [&[&str]; 5] =
        [&["bootstrap", "--json"], &["gc", "--once"], &["keys", "rotate"], &["keys", "revoke", "x"], &["restore", "--from", "x"]];
    for command in writes {
        let refused = house.run(command).failed(1);
        assert!(refused.err.contains("the database is in use"), "{command:?}: {}", refused.err);
    }
    assert!(house.try_seed(&standard("http://127.0.0.1:9"), &[]).failed(1).err.contains("the database is in use"));
    // What was read beside it has not disturbed it, and what was saved beside it restores.
    stage.machine_token(&MACHINE, &[]);
    let mut fresh = House::new();
    let db = fresh.path("restored.db");
    fresh.text("storage.url", &format!("sqlite://{}", db.display()));
    std::fs::copy(house.path("kek"), fresh.path("kek")).unwrap();
    fresh.run(&["restore", "--from", copy.to_str().unwrap()]).ok();
    fresh.run(&["audit", "verify"]).ok();
}

#[test]
fn keys_rotate_at_rest_and_old_tokens_still_pass() {
    let stage = Stage::start(|_| {});
    let token = stage.machine_token(&MACHINE, &[]);
    let Stage { house, server, upstream: _upstream } = stage;
    server.stop();
    let list = house.run(&["keys", "list"]).ok().out;
    let old = jose_header(&token)["kid"].as_str().unwrap().to_owned();
    assert!(list.contains(&old), "{list}");
    assert!(!list.contains("\"d\""));
    house.run(&["keys", "rotate"]).ok();
    let server = house.serve();
    let next = server.machine_token(&MACHINE, &[]);
    assert_ne!(jose_header(&next)["kid"], old.as_str());
    assert_eq!((server.call("/api/x", &token).status, server.call("/api/x", &next).status), (200, 200));
    server.stop();
    house.run(&["keys", "revoke", &old]).ok();
    let server = house.serve();
    assert_eq!((server.call("/api/x", &token).status, server.call("/api/x", &next).status), (401, 200));
    assert!(!client().get(server.url("/jwks")).go().text().contains(&old));
}

/// Changes the database behind the server's back, then verifies.
fn tampered(sql: &str) -> String {
    let house = made();
    house.run(&["audit", "verify"]).ok();
    let db = rusqlite::Connection::open(house.path("doorward.db")).unwrap();
    let changed = db.execute(sql, []).unwrap();
    assert!(changed > 0, "{sql} changed nothing");
    db.close().unwrap();
    house.run(&["audit", "verify"]).failed(1).said()
}

#[test]
fn audit_verify_names_a_changed_row() {
    let said = tampered("UPDATE events SET document = replace(document, '}', ', \"x\": 1}') WHERE seq = 3");
    assert!(said.contains('3'), "{said}");
}

#[test]
fn audit_verify_names_a_removed_row() {
    let said = tampered("DELETE FROM events WHERE seq = 4");
    assert!(said.contains('4') || said.contains('5'), "{said}");
}

#[test]
fn audit_verify_names_a_reordered_row() {
    let said = tampered("UPDATE events SET seq = CASE seq WHEN 2 THEN -5 ELSE seq END WHERE seq = 2");
    assert!(said.contains('2') || said.contains("-5"), "{said}");
}

#[test]
fn audit_verify_sees_a_cut_tail() {
    tampered("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)");
}

#[test]
fn audit_export_is_json_lines_in_order() {
    let house = made();
    let out = house.run(&["audit", "export"]).ok().out;
    let seqs: Vec<i64> = out.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["seq"].as_i64().expect("seq")).collect();
    assert!(seqs.len() > 5 && seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
    assert!(!out.contains(MACHINE.secret));
}

#[test]
fn gc_purges_what_has_expired_and_keeps_what_lives() {
    let stage = Stage::start(|house| {
        house.text("lifetimes.refresh_token", "2s").text("lifetimes.refresh_idle", "2s");
    });
    let live = stage.machine_token(&MACHINE, &[]);
    stage.person_tokens(&crate::kit::seed::APP, "alice");
    let rows = |house: &House| {
        let db = rusqlite::Connection::open(house.path("doorward.db")).unwrap();
        db.query_row("SELECT count(*) FROM artefacts", [], |r| r.get::<_, i64>(0)).unwrap()
    };
    let Stage { house, server, upstream: _upstream } = stage;
    server.stop();
    assert!(rows(&house) > 0);
    // Spent codes and tokens are remembered a while so that a replay is known as one.
    std::thread::sleep(Duration::from_millis(2500));
    house.run(&["gc", "--once"]).ok();
    house.run(&["audit", "verify"]).ok();
    let server = house.serve();
    assert_eq!(server.call("/api/x", &live).status, 200);
}

#[test]
fn a_backup_brings_everything_back() {
    let stage = Stage::start(|_| {});
    let token = stage.machine_token(&MACHINE, &[]);
    let Stage { house, server, upstream: _upstream } = stage;
    server.stop();
    let copy = house.path("backup");
    house.run(&["backup", "--to", copy.to_str().unwrap()]).ok();
    let server = house.serve();
    let gone = server.admin("DELETE", "/clients/machine").go();
    assert!([200, 204].contains(&gone.status));
    server.stop();
    // A database that is there is never overwritten.
    assert_ne!(house.run(&["restore", "--from", copy.to_str().unwrap()]).code, 0);
    for part in ["doorward.db", "doorward.db-wal", "doorward.db-shm"] {
        let _ = std::fs::remove_file(house.path(part));
    }
    house.run(&["restore", "--from", copy.to_str().unwrap()]).ok();
    house.run(&["audit", "verify"]).ok();
    let server = house.serve();
    let fresh = server.machine_token(&MACHINE, &[]);
    assert_eq!(server.call("/api/x", &fresh).status, 200);
    // What was revoked after the backup is not in it: nothing issued before comes back to life.
    assert_eq!((server.call("/api/x", &token).status, server.active(&token)), (401, false));
    server.stop();
    assert_ne!(house.run(&["restore", "--from", "/nowhere/backup"]).code, 0);
    let junk = house.write("junk", "not a backup");
    assert_ne!(house.run(&["restore", "--from", junk.to_str().unwrap()]).code, 0);
    house.serve().machine_token(&MACHINE, &[]);
}

#[test]
fn policy_prints_the_numbers() {
    let policy = House::new().run_bare(&["policy", "--json"]).ok().json();
    let text = policy.to_string();
    for word in ["leeway", "code", "refresh", "argon2"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let stage = Stage::start(|_| {});
    assert!(stage.admin("GET", "/policy").go().expect(200).json().is_object());
}

#[test]
fn explain_says_why() {
    let house = made();
    let allowed = house.run(&["explain", "--path", "/public/x", "--json"]).ok().out;
    assert!(allowed.contains("open"), "{allowed}");
    let refused = house.run(&["explain", "--path", "/api/x", "--json"]);
    assert!(refused.out.contains("read") && refused.out.contains("401"), "{}", refused.said());
    let nothing = house.run(&["explain", "--path", "/nowhere", "--json"]);
    assert!(nothing.said().contains("40"), "{}", nothing.said());
}

#[test]
fn the_ready_line_is_one_line_and_names_only_what_runs() {
    let mut house = House::new();
    house.set("server.roles", r#"["auth"]"#);
    house.bootstrap();
    let server = house.serve();
    let ready = server.ready.as_object().unwrap();
    assert!(ready.contains_key("public") && ready["ready"] == true && ready["issuer"] == house.issuer.as_str());
    assert!(!ready.contains_key("gateway") && !ready.contains_key("admin") && !ready.contains_key("mqtt"), "{ready:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.further_output().is_empty());
}

#[test]
fn sigterm_lets_the_last_request_finish() {
    let stage = Stage::start(|_| {});
    let mut stream = raw::connect(&stage.listener("gateway"));
    stream.write_all(b"POST /public/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stage.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(b"lo").unwrap();
    let answer = raw::read_rest(&mut stream, Duration::from_secs(3));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let Stage { mut server, .. } = stage;
    assert_eq!(server.ended_within(Duration::from_secs(11)), Some(0));
}

#[test]
fn sighup_with_a_bad_file_keeps_the_old_state() {
    let stage = Stage::start(|_| {});
    let config = stage.house.config();
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "[server]\nroles = [\"nonsense\"]\n").unwrap();
    stage.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    stage.machine_token(&MACHINE, &[]);
    std::fs::write(&config, good.replace("[server]", "[lifetimes]\ncode = \"30s\"\n[server]")).unwrap();
    stage.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    stage.machine_token(&MACHINE, &[]);
    stage.person_tokens(&HOME, "alice");
}

#[test]
fn sighup_changes_nothing_that_needs_a_restart() {
    let stage = Stage::start(|_| {});
    let config = stage.house.config();
    let good = std::fs::read_to_string(&config).unwrap();
    let metadata = || client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).text();
    let before = metadata();
    for (at, more) in [
        ("[server]", "profile = \"oidc-dynamic\""),
        ("[server]", "profile = \"fapi2\""),
        ("[server]", "dpop_nonce = true"),
        ("[server]", "cross_site_session_state = true"),
        ("", "[registration]\nopen = true\nclient_id_metadata = true"),
        ("", "[mail]\nsink_dir = \"mail\""),
    ] {
        std::fs::write(&config, if at.is_empty() { format!("{good}\n{more}\n") } else { good.replacen(at, &format!("{at}\n{more}"), 1) })
            .unwrap();
        let refused = || stage.log().matches("can only change with a restart").count();
        let said = refused();
        stage.signal("HUP");
        wait_until("it is refused", Duration::from_secs(5), || refused() > said);
        assert_eq!(metadata(), before, "{more}");
        stage.machine_token(&MACHINE, &[]);
    }
}

#[test]
fn a_database_that_is_moved_away_is_storage_away_until_a_restart() {
    let house = made();
    let server = house.serve();
    let token = server.machine_token(&MACHINE, &[]);
    let database =
        std::fs::read_dir(house.dir()).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().ends_with("-wal")).unwrap();
    let database = database.to_string_lossy().trim_end_matches("-wal").to_owned();
    for end in ["", "-wal", "-shm", ".lock"] {
        let (from, kept) = (format!("{database}{end}"), format!("{database}{end}.kept"));
        std::fs::rename(&from, &kept).unwrap();
        // Somebody copies it back: another file under the old name.
        std::fs::copy(&kept, &from).unwrap();
    }
    for (path, form) in [("/token", [("grant_type", "client_credentials")]), ("/revoke", [("token", token.as_str())])] {
        let answer = MACHINE.post(&server.url(path), &form).go().expect(503);
        assert!(!answer.header("retry-after").is_empty(), "{path}");
    }
    let ready = client().get(server.url("/readyz")).go().expect(503);
    assert!(!ready.header("retry-after").is_empty());
    assert_eq!(server.stop().0, 0);
    let server = house.serve();
    assert!(server.active(&token), "what was not acknowledged did not happen");
    server.revoke(&MACHINE, &token);
    assert!(!server.active(&token));
}

#[test]
fn logs_can_go_to_a_file_as_json_lines() {
    let stage = Stage::start(|house| {
        let path = house.path("log.jsonl").display().to_string();
        house.text("log.format", "json").text("log.file", &path);
    });
    stage.machine_token(&MACHINE, &[]);
    stage.call("/api/x", "a.b.c");
    let Stage { house, server, .. } = stage;
    server.stop();
    let log = std::fs::read_to_string(house.path("log.jsonl")).unwrap();
    assert!(log.lines().count() > 0);
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn it_is_ready_quickly_and_small() {
    let house = made();
    let server = house.serve();
    // A debug build on a busy machine; the release figures are measured by scripts/bench.
    assert!(server.ready_after < Duration::from_secs(5), "{:?}", server.ready_after);
}

#[test]
fn keys_rotate_by_themselves_without_a_refused_token() {
    let stage = Stage::start(|house| {
        house.text("keys.rotate_every", "3s").text("keys.publish_before", "1s");
    });
    let mut tokens: Vec<String> = Vec::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(11) {
        let token = stage.machine_token(&MACHINE, &[]);
        let kid = jose_header(&token)["kid"].as_str().unwrap().to_owned();
        assert!(client().get(stage.url("/jwks")).go().text().contains(&kid), "signed with a key that is not published");
        tokens.push(token);
        for token in &tokens {
            assert_eq!(stage.call("/api/x", token).status, 200, "a good token was refused");
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    let kids: std::collections::BTreeSet<String> = tokens.iter().map(|t| jose_header(t)["kid"].to_string()).collect();
    assert!(kids.len() >= 3, "{} keys in eleven seconds", kids.len());
}

#[test]
fn stats_and_metrics_say_what_the_contract_names() {
    let stage = Stage::start(|_| {});
    stage.revoke(&MACHINE, &stage.machine_token(&MACHINE, &[]));
    stage.call("/api/x", "a.b.c");
    let stats = stage.admin("GET", "/stats").go().expect(200).json().to_string();
    for word in ["panics", "rows", "cache", "jwks", "feed", "build"] {
        assert!(stats.to_lowercase().contains(word), "{word}: {stats}");
    }
    crate::kit::wait_until("every metric is there", Duration::from_secs(5), || {
        let page = client().get(format!("http://{}/metrics", stage.listener("metrics"))).go().expect(200).text();
        let names = [
            "panics_total",
            "jwks_fetch_total",
            "db_rows{",
            "cache_entries{",
            "auth_decisions_total{",
            "revocation_propagation_seconds_bucket{",
            "process_resident_memory_bytes",
            "process_open_fds",
        ];
        names.iter().all(|n| page.lines().any(|l| l.starts_with(n)))
            && page.lines().any(|l| l.contains("_seconds_bucket{") && l.contains("request"))
    });
}
