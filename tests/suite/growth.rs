//! What stays when tokens have come and gone: nothing of those that expired, one row of a chain however long.
use std::time::Duration;

use crate::kit::http::now;
use crate::kit::seed::{APP, SAFE};
use crate::kit::visitor::text;
use crate::kit::{House, Stage, wait_until};

fn number(house: &House, sql: &str) -> i64 {
    let db = rusqlite::Connection::open_with_flags(house.path("doorward.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_chain_of_refreshes_is_one_row_and_its_oldest_token_still_ends_it() {
    let stage = Stage::start(|_| {});
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let rows = || number(&stage.house, "SELECT count(*) FROM artefacts WHERE kind = 'refresh'");
    assert_eq!(rows(), 1);
    let mut token = first.clone();
    for _ in 0..30 {
        let next = text(&stage.refresh(&APP, &token).expect(200).json(), "refresh_token");
        assert_ne!(next, token);
        token = next;
    }
    assert_eq!(rows(), 1);
    // Thirty rotations ago, and nothing stored of it: it still tells that it was given out once.
    stage.refresh(&APP, &first).expect_error(400, "invalid_grant");
    stage.refresh(&APP, &token).expect_error(400, "invalid_grant");
    assert_eq!(number(&stage.house, "SELECT count(*) FROM events WHERE kind = 'refresh.reused'"), 1);
}

#[test]
fn a_spent_refresh_token_that_is_given_back_ends_its_chain_too() {
    let stage = Stage::start(|_| {});
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let second = text(&stage.refresh(&APP, &first).expect(200).json(), "refresh_token");
    stage.post("/revoke", &APP, &[("token", &first)]).expect(200);
    stage.refresh(&APP, &second).expect_error(400, "invalid_grant");
}

#[test]
fn a_refresh_token_of_right_form_that_was_never_given_ends_nothing() {
    let stage = Stage::start(|_| {});
    let real = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    // The id of a real chain, and a secret that somebody thought of: prefix and checksum are right.
    let mut octets = tokens::b64::decode(real.strip_prefix("dwr_").unwrap()).unwrap();
    octets[30] ^= 1;
    let mut crc = flate2::Crc::new();
    crc.update(b"dwr_");
    crc.update(&octets[..48]);
    octets[48..].copy_from_slice(&crc.sum().to_be_bytes());
    let made_up = format!("dwr_{}", tokens::b64::encode(&octets));
    stage.refresh(&APP, &made_up).expect_error(400, "invalid_grant");
    stage.post("/revoke", &APP, &[("token", &made_up)]);
    stage.refresh(&APP, &real).expect(200);
}

#[test]
fn tokens_that_expired_leave_no_row() {
    let stage = Stage::start(|house| {
        house.text("lifetimes.access_token", "2s");
    });
    for _ in 0..100 {
        stage.machine_token(&SAFE, &[]);
    }
    let Stage { house, server, upstream: _upstream } = stage;
    server.stop();
    assert!(number(&house, "SELECT count(*) FROM artefacts WHERE kind = 'access'") >= 100);
    let last = number(&house, "SELECT max(expires_at) FROM artefacts WHERE kind = 'access'");
    wait_until("the last token has expired", Duration::from_secs(20), || now() > last);
    house.run(&["gc", "--once"]).ok();
    assert_eq!(number(&house, "SELECT count(*) FROM artefacts WHERE kind = 'access'"), 0);
    assert_eq!(number(&house, "PRAGMA auto_vacuum"), 2, "a new file can give pages back");
}
