//! `kill -9` in the operator's commands: bootstrap, seed, keys, gc, backup, restore, and the start that brings an older schema up to date.
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crash::Score;
use super::journal::{Deed, Kind, Standing};
use super::node::{Heard, Node};
use super::plan::Dice;
use super::world::{Engine, World, serve};
use crate::kit::http::{Go, env};
use crate::kit::seed::MACHINE;
use crate::kit::server::binary;
use crate::kit::{House, services};

/// Runs a command and kills it; what it printed, and its exit code if it was faster.
fn cut(house: &House, args: &[&str], after: Duration) -> (Option<i32>, String) {
    let config = house.config();
    let mut child = Command::new(binary())
        .args(args)
        .args(["--config", config.to_str().expect("UTF-8")])
        .current_dir(house.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let begun = Instant::now();
    while begun.elapsed() < after && child.try_wait().expect("a status").is_none() {
        std::thread::sleep(Duration::from_micros(300));
    }
    let _ = child.kill();
    let done = child.wait_with_output().expect("an output");
    (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
}

/// How long a command takes when nobody disturbs it, and a little more.
fn whole(act: impl FnOnce()) -> u64 {
    let begun = Instant::now();
    act();
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(1_000_000) * 11 / 10
}

/// A house with a database of its own beside another's files.
fn beside(house: &House, engine: Engine, n: u64) -> Option<(House, String)> {
    let mut other = house.another("beside.toml");
    let url = match engine {
        Engine::Sqlite => format!("sqlite://{}", house.path(&format!("beside{n}.db")).display()),
        Engine::Postgres => services::postgres()?,
    };
    other.text("storage.url", &url);
    Some((other, url))
}

fn forget(house: &House, engine: Engine, n: u64, url: &str) {
    match engine {
        Engine::Sqlite => {
            for end in ["", "-wal", "-shm", ".lock"] {
                let _ = std::fs::remove_file(house.path(&format!("beside{n}.db{end}")));
            }
        }
        Engine::Postgres => psql(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", name_of(url))),
    }
}

fn name_of(url: &str) -> String {
    url::Url::parse(url).expect("a URL").path().trim_start_matches('/').to_owned()
}

fn psql(sql: &str) {
    let server = env("DOORWARD_TEST_POSTGRES").expect("checked before");
    let done = Command::new("psql").args([&server, "-qc", sql]).output().expect("psql runs");
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The first start of all, cut short: the next one finds nothing, or goes on.
pub fn bootstrap(engine: Engine, dice: &Dice, kills: u64, score: &Score) {
    let mut when = dice.part(1);
    let mut longest = 0;
    for n in 0..kills {
        let mut house = House::new();
        let url = match engine {
            Engine::Sqlite => String::new(),
            Engine::Postgres => match services::postgres() {
                Some(url) => url,
                None => return,
            },
        };
        if !url.is_empty() {
            house.text("storage.url", &url);
        }
        if n == 0 {
            longest = whole(|| drop(house.bootstrap()));
        } else {
            let (_, first) = cut(&house, &["bootstrap", "--json"], Duration::from_micros(when.between(0, longest)));
            score.kill();
            let again = house.run(&["bootstrap", "--json"]).ok().json();
            let heard: Value = serde_json::from_str(first.trim()).unwrap_or_default();
            let mut said = if heard["admin_client_secret"].is_string() { heard } else { again };
            if !said["admin_client_secret"].is_string() {
                said = house.run(&["bootstrap", "--json", "--rotate"]).ok().json();
            }
            house.write("admin.json", &said.to_string());
        }
        house.run(&["check"]).ok();
        house.run(&["audit", "verify"]).ok();
        let server = serve(&house);
        let node = Node::of(&house, &server);
        // Refused is refused at once; a machine with much else to do may take its time.
        let (begun, mut heard) = (Instant::now(), node.admin("GET", "/keys", None));
        while matches!(heard, Heard::Perhaps(_) | Heard::Unsent(_)) && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(100));
            heard = node.admin("GET", "/keys", None);
        }
        assert!(matches!(heard, Heard::Yes(_)), "kill {n}: the administrator's credential does not open the administration: {heard:?}");
        server.kill();
        if engine == Engine::Postgres {
            psql(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", name_of(&url)));
        }
    }
}

/// A seed of many objects.
fn many(n: u64) -> Value {
    let client = |i: u64| {
        json!({"client_id": format!("bulk-{n}-{i}"), "client_name": format!("bulk {i}"), "grant_types": ["client_credentials"], "scope": "read",
            "token_endpoint_auth_method": "client_secret_basic", "client_secret": format!("bulk-secret-{n}-{i}-0123456789abcdef0123456789"),
            "allowed_resources": [crate::kit::seed::API]})
    };
    json!({
        "clients": (0..150).map(client).collect::<Vec<_>>(),
        "users": (0..80).map(|i| json!({"username": format!("bulk-{n}-{i}"), "name": "Bulk"})).collect::<Vec<_>>(),
    })
}

/// A command on a world whose server is stopped, cut short; then the server is started and everything is judged.
pub fn offline(world: &World, n: u64, when: &mut Dice) {
    let house = &world.house;
    let journal = &world.journal;
    let moment = |when: &mut Dice, most| Duration::from_micros(when.between(2_000, most));
    match when.below(5) {
        0 => {
            // Whatever was done, the second run makes it whole and the third has nothing to do.
            let seed = many(n);
            let file = house.write("bulk.json", &seed.to_string());
            let args = ["seed", "--file", file.to_str().expect("UTF-8"), "--json"];
            journal.note("seed, cut short");
            cut(house, &args, moment(when, 120_000));
            house.run(&args).ok();
            for (path, list, name) in [("/clients", "clients", "client_id"), ("/users", "users", "username")] {
                for object in seed[list].as_array().into_iter().flatten() {
                    let at = format!("{path}/{}", object[name].as_str().unwrap_or_default());
                    let marker = object["client_name"].as_str().or_else(|| object["name"].as_str());
                    let deed = Deed::new("seed").puts(at, marker);
                    let deed = match list {
                        "clients" => deed.tells(format!("object.created client/{}", object[name].as_str().unwrap_or_default())),
                        _ => deed,
                    };
                    let ticket = journal.ask(deed);
                    journal.done(ticket, vec![], vec![]);
                }
            }
            let head = |house: &House| house.run(&["audit", "verify"]).ok().json()["head"].as_u64();
            let before = head(house);
            house.run(&args).ok();
            if head(house) != before {
                journal.violation("a seed that was applied already wrote events");
            }
        }
        1 => {
            let ticket = journal.ask(Deed::new("keys rotate, cut short"));
            let (code, _) = cut(house, &["keys", "rotate", "--alg", "ES256"], moment(when, 80_000));
            match code {
                Some(0) => journal.done(ticket, vec![], vec![]),
                _ => journal.unsure(ticket, "killed"),
            }
        }
        2 => {
            let listed = house.run(&["keys", "list"]).ok().json();
            let all =
                listed["keys"].as_array().or_else(|| listed["items"].as_array()).or_else(|| listed.as_array()).cloned().unwrap_or_default();
            let kid = all.iter().find(|key| key["alg"] == "ES256" && key["state"] == "current").and_then(|key| key["kid"].as_str());
            let Some(kid) = kid else { return journal.violation(&format!("no ES256 key signs: {listed}")) };
            let ticket = journal.ask(Deed::new("keys revoke, cut short").ends(format!("key:{kid}")).tells(format!("key.revoked {kid}")));
            let (code, _) = cut(house, &["keys", "revoke", kid, "--reason", "rehearsal"], moment(when, 80_000));
            match code {
                Some(0) => journal.done(ticket, vec![], vec![]),
                _ => journal.unsure(ticket, "killed"),
            }
        }
        3 => {
            journal.note("gc, cut short");
            cut(house, &["gc", "--once"], moment(when, 60_000));
        }
        _ => {
            journal.note("backup, cut short");
            let file = house.path(&format!("cut-{n}.backup"));
            let to = file.to_str().expect("UTF-8");
            let (code, _) = cut(house, &["backup", "--to", to], moment(when, 60_000));
            if code != Some(0) && file.exists() {
                // Half a backup is refused before anything is written.
                if let Some((other, url)) = beside(house, Engine::Sqlite, 900_000 + n) {
                    let ran = other.run(&["restore", "--from", to]);
                    if ran.code == 0 && other.run(&["audit", "verify"]).code != 0 {
                        journal.violation("a backup that was cut short was restored, and is not whole");
                    }
                    forget(house, Engine::Sqlite, 900_000 + n, &url);
                }
            }
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What a world's credentials have to be in a copy of its database: dead ones dead, and living ones living or, after a restore, dead too.
fn compare(world: &World, house: &House, restored: bool, what: &str) {
    let server = serve(house);
    let node = Node::of(house, &server);
    for (_, held, standing) in world.journal.held() {
        let Kind::Access { path } = held.thing.kind else { continue };
        if standing == Standing::Unsure {
            continue;
        }
        let alive = standing == Standing::Alive && !restored;
        let active = node.introspect(&held.thing.text).is_some_and(|said| said["active"] == true);
        let status = node.call(path, &held.thing.text);
        if active != alive || status != Some(if alive { 200 } else { 401 }) {
            let tags = &held.thing.tags;
            world.journal.violation(&format!("after {what}: {tags:?} has to be alive={alive}: introspection {active}, gateway {status:?}"));
        }
    }
    for id in ["machine", "app", "tv", "m0"] {
        if node.read(&format!("/clients/{id}")).flatten().is_none() {
            world.journal.violation(&format!("after {what}: client {id} is not there"));
        }
    }
    let fresh = MACHINE.post(&node.url("/token"), &[("grant_type", "client_credentials")]).go();
    if fresh.status != 200 {
        world.journal.violation(&format!("after {what}: no token: {}", fresh.text()));
    }
    let ran = house.run(&["audit", "verify"]);
    if ran.code != 0 {
        world.journal.violation(&format!("after {what}: audit verify: {}", ran.said()));
    }
    server.kill();
}

/// A world with a past, whose server is stopped.
fn past(engine: Engine, dice: &Dice, name: &str) -> Option<World> {
    let mut world = World::new(engine, dice.clone(), name, 1, |_| {})?;
    let (server, node) = world.start();
    world.load(&[&node], || std::thread::sleep(Duration::from_millis(700)));
    world.judge(&[&node]);
    world.verdict();
    server.stop();
    Some(world)
}

/// A restore cut short: nothing is there, or all of it, and nothing of it is let in.
pub fn restore(engine: Engine, dice: &Dice, kills: u64, score: &Score) {
    let Some(world) = past(engine, dice, &format!("restore-{}", engine.name())) else { return };
    let file = world.house.path("whole.backup");
    let from = file.to_str().expect("UTF-8");
    world.house.run(&["backup", "--to", from]).ok();
    let (mut when, mut longest) = (dice.part(2), 0);
    for n in 0..=kills {
        let Some((house, url)) = beside(&world.house, engine, n) else { return };
        if n == 0 {
            longest = whole(|| drop(house.run(&["restore", "--from", from]).ok()));
        } else {
            cut(&house, &["restore", "--from", from], Duration::from_micros(when.between(longest / 20, longest)));
            score.kill();
            let again = house.run(&["restore", "--from", from]);
            if again.code != 0 && !again.err.contains("empty") {
                world.journal.violation(&format!("a restore that was cut short cannot be run again: {}", again.said()));
            }
        }
        compare(&world, &house, true, "a restore");
        forget(&world.house, engine, n, &url);
        score.add(world.journal.violations().len());
        world.verdict();
    }
}

const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");

fn scripts(engine: Engine) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(format!("{MIGRATIONS}/{}", engine.name())).expect("migrations").map(|f| f.expect("a file").path()).collect();
    names.sort();
    names.iter().map(|path| std::fs::read_to_string(path).expect("a script")).collect()
}

/// A copy of a world's database as a doorward of `version` would have left it.
fn older(world: &World, house: &House, url: &str, version: usize) {
    let scripts = scripts(world.engine);
    match world.engine {
        Engine::Sqlite => {
            let db = rusqlite::Connection::open(url.trim_start_matches("sqlite://")).expect("a database");
            db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)").expect("a table");
            scripts[..version].iter().for_each(|script| db.execute_batch(script).expect("a script"));
            db.execute_batch(&format!("ATTACH '{}' AS newest", house.path("doorward.db").display())).expect("attached");
            let list = |sql: &str| -> Vec<String> {
                let mut found = db.prepare(sql).expect("a query");
                found.query_map([], |row| row.get(0)).expect("rows").map(|name| name.expect("a name")).collect()
            };
            for table in list(
                "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'schema_migrations'",
            ) {
                let both = format!(
                    "SELECT a.name FROM pragma_table_info('{table}', 'main') a JOIN pragma_table_info('{table}', 'newest') b ON a.name = b.name"
                );
                let columns = list(&both).iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(", ");
                if columns.is_empty() {
                    continue;
                }
                db.execute_batch(&format!(
                    "DELETE FROM main.{table}; INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newest.{table}"
                ))
                .expect("copied");
            }
            db.execute_batch(&format!(
                "INSERT INTO main.schema_migrations SELECT * FROM newest.schema_migrations WHERE version <= {version}; DETACH newest"
            ))
            .expect("told");
        }
        Engine::Postgres => {
            let (name, from) = (name_of(url), world.storage.clone());
            psql(&format!("DROP DATABASE {name}"));
            psql(&format!("CREATE DATABASE {name} TEMPLATE {}", name_of(&from)));
            let mut all = String::from(
                "ALTER SCHEMA public RENAME TO newest; CREATE SCHEMA public; SET search_path TO public;\n\
                 CREATE TABLE schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL);\n",
            );
            scripts[..version].iter().for_each(|script| all.push_str(&format!("{script};\n")));
            all.push_str(
                "DO $$ DECLARE t text; cols text; BEGIN
                   FOR t IN SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name <> 'schema_migrations' LOOP
                     SELECT string_agg(quote_ident(c.column_name), ',') INTO cols FROM information_schema.columns c
                       JOIN information_schema.columns n ON n.table_schema = 'newest' AND n.table_name = c.table_name AND n.column_name = c.column_name
                       WHERE c.table_schema = 'public' AND c.table_name = t;
                     IF cols IS NOT NULL THEN
                       EXECUTE format('DELETE FROM public.%I', t);
                       EXECUTE format('INSERT INTO public.%I (%s) SELECT %s FROM newest.%I', t, cols, cols, t);
                     END IF;
                   END LOOP; END $$;\n",
            );
            all.push_str(&format!("INSERT INTO schema_migrations SELECT * FROM newest.schema_migrations WHERE version <= {version};\nDROP SCHEMA newest CASCADE;\n"));
            let file = house.write("older.sql", &all);
            let done = Command::new("psql").args([url, "-q", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().expect("UTF-8")]).output();
            let done = done.expect("psql runs");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

/// The start of this doorward on an older schema, cut short again and again until it comes through.
pub fn migrate(engine: Engine, dice: &Dice, kills: u64, score: &Score) {
    let Some(world) = past(engine, dice, &format!("migrate-{}", engine.name())) else { return };
    let newest = scripts(engine).len();
    let (mut when, mut done, mut n) = (dice.part(3), 0, 0);
    while done < kills {
        n += 1;
        let Some((house, url)) = beside(&world.house, engine, n) else { return };
        let version = 1 + when.below(newest - 1);
        older(&world, &world.house, &url, version);
        for _ in 0..1 + when.below(3) {
            cut(&house, &["serve"], Duration::from_micros(when.between(1_000, 60_000)));
            score.kill();
            done += 1;
        }
        compare(&world, &house, false, &format!("a start on schema {version}"));
        forget(&world.house, engine, n, &url);
        score.add(world.journal.violations().len());
        world.verdict();
    }
}
