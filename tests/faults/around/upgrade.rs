//! A newer doorward brings the schema further while nodes of this one serve, restart and start (decision 0022): what only adds disturbs
//! nobody; what does not is marked, and refused at the start.
use std::time::Duration;

use super::load::Load;
use crate::kit::http::Go;
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{MACHINE, standard};
use crate::kit::server::free_port;
use crate::kit::{House, Upstream, wait_until};

/// What a newer doorward might do, each script as one transaction.
const FUTURE: [(&str, &str); 4] = [
    ("more_columns", "ALTER TABLE grants ADD COLUMN colour TEXT; ALTER TABLE artefacts ADD COLUMN weight BIGINT NOT NULL DEFAULT 7"),
    ("another_table", "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, document TEXT NOT NULL)"),
    ("another_index", "CREATE INDEX grants_by_colour ON grants (colour)"),
    (
        "more_of_the_rest",
        "ALTER TABLE objects ADD COLUMN tenant TEXT; ALTER TABLE events ADD COLUMN note TEXT; ALTER TABLE sessions ADD COLUMN place TEXT; ALTER TABLE revocations ADD COLUMN by TEXT; ALTER TABLE keys ADD COLUMN origin TEXT",
    ),
];

fn script(version: usize, name: &str, sql: &str) -> String {
    format!(
        "BEGIN; {sql}; INSERT INTO schema_migrations (version, name, checksum) VALUES ({version}, '{version:04}_{name}', 'later'); COMMIT;"
    )
}

/// As a doorward does it beside nodes that serve: it lets go of what it waits for soon, and tries again.
fn bring_further(database: &OwnPostgres, script: &str) {
    wait_until("the script has its tables", Duration::from_secs(60), || {
        match database.try_sql(&format!("SET lock_timeout = '300ms'; {script}")) {
            Ok(_) => true,
            Err(said) => {
                assert!(said.contains("lock timeout"), "{said}");
                false
            }
        }
    });
}

#[test]
fn nodes_serve_on_restart_and_start_beside_a_schema_that_a_newer_one_brought_further() {
    let Some(database) = OwnPostgres::start() else { return };
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database.url());
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    let known: usize = database.sql("SELECT max(version) FROM schema_migrations").parse().expect("a version");
    let load = Load::new(&server, &server.issuer, 2);
    let copy = house.path("copy");
    load.during(|| {
        for (n, (name, sql)) in FUTURE.iter().enumerate() {
            let until = load.acknowledged() + 10;
            wait_until("clients are served", Duration::from_secs(30), || load.acknowledged() >= until);
            bring_further(&database, &script(known + 1 + n, name, sql));
        }
        let until = load.acknowledged() + 20;
        wait_until("clients are served beside the new schema", Duration::from_secs(30), || load.acknowledged() >= until);
        // Another node of this version starts beside it.
        let mut second = house.another("second.toml");
        second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
        let other = second.serve();
        assert_eq!(other.call("/api/x", &server.machine_token(&MACHINE, &[])).status, 200);
        assert!(other.log().contains("upgraded by a newer doorward"), "{}", other.log());
        other.stop();
        house.run(&["check"]).ok();
        // What it does not know it cannot save.
        let said = house.run(&["backup", "--to", copy.to_str().expect("UTF-8")]).failed(1).said();
        assert!(said.contains("newer doorward"), "{said}");
    });
    assert_eq!(load.refused(), 0, "nobody was told to come back");
    let told = load.judge(&server);
    assert_eq!(told.broken, 0);
    server.person_tokens(&crate::kit::seed::APP, "alice");
    assert_eq!(server.admin("GET", "/grants").go().expect(200).json()["items"].as_array().map(Vec::is_empty), Some(false));
    // One it could not live with, by its name: whoever runs goes on, nobody of this version starts.
    database.sql(&script(known + 9, "less.breaking", "CREATE TABLE never_mind (id TEXT)"));
    let mut late = house.another("late.toml");
    late.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let said = late.try_serve().err().expect("it does not start");
    assert!(said.contains("less.breaking") && said.contains("newer"), "{said}");
    server.machine_token(&MACHINE, &[]);
    assert!(server.metric("panics_total") < 1.0);
}

#[test]
fn a_migration_that_waits_for_a_long_reader_holds_up_nobody() {
    let Some(database) = OwnPostgres::start() else { return };
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database.url());
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    // Longer than a node waits for a lock. As if the newest migration were still to come, and it wanted a table that somebody reads for long.
    let newest = database.sql("SELECT max(version) FROM schema_migrations");
    let name = database.sql("SELECT name FROM schema_migrations ORDER BY version DESC LIMIT 1");
    let text = std::fs::read_to_string(format!("{}/migrations/postgres/{name}.sql", env!("CARGO_MANIFEST_DIR"))).expect("the script");
    let indexes: Vec<&str> = text.split("CREATE INDEX ").skip(1).filter_map(|rest| rest.split_whitespace().next()).collect();
    if indexes.is_empty() || text.contains("ALTER TABLE") || text.contains("CREATE TABLE") || text.contains("DROP ") {
        // Not one that can be taken back here.
        return;
    }
    for index in indexes {
        database.sql(&format!("DROP INDEX {index}"));
    }
    database.sql(&format!("DELETE FROM schema_migrations WHERE version = {newest}"));
    let reading = std::process::Command::new("psql")
        .args([&database.url(), "-qc", "BEGIN; LOCK TABLE artefacts IN ROW EXCLUSIVE MODE; SELECT pg_sleep(7); COMMIT"])
        .spawn();
    let mut reading = reading.expect("psql");
    wait_until("somebody holds the table", Duration::from_secs(10), || {
        database.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(7)%' AND wait_event = 'PgSleep'") == "1"
    });
    let load = Load::new(&server, &server.issuer, 1);
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    load.during(|| {
        let other = second.serve();
        assert!(reading.try_wait().expect("psql").is_some() || reading.wait().is_ok(), "it waited for the reader");
        other.machine_token(&MACHINE, &[]);
    });
    assert_eq!(load.refused(), 0, "nobody was told to come back");
    assert_eq!(database.sql("SELECT max(version) FROM schema_migrations"), newest);
    load.judge(&server);
}

#[test]
fn an_embedded_database_of_a_newer_doorward_is_opened_too() {
    let house = House::new();
    house.bootstrap();
    house.seed(&standard("http://127.0.0.1:9"));
    let db = rusqlite::Connection::open(house.path("doorward.db")).expect("a database");
    let known: usize =
        db.query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get::<_, i64>(0)).expect("a version") as usize;
    for (n, (name, sql)) in FUTURE.iter().enumerate() {
        db.execute_batch(&script(known + 1 + n, name, sql)).expect("migrated");
    }
    drop(db);
    let server = house.serve();
    let token = server.machine_token(&MACHINE, &[]);
    assert!(server.active(&token));
    server.person_tokens(&crate::kit::seed::APP, "alice");
    server.stop();
    house.run(&["audit", "verify"]).ok();
    let db = rusqlite::Connection::open(house.path("doorward.db")).expect("a database");
    db.execute_batch(&script(known + 9, "less.breaking", "CREATE TABLE never_mind (id TEXT)")).expect("migrated");
    drop(db);
    let said = house.try_serve().err().expect("it does not start");
    assert!(said.contains("less.breaking"), "{said}");
}
