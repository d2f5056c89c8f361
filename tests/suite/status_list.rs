//! Token Status List: the `status` claim, the served lists, and every way a bit flips.
use std::io::Read as _;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, claims, client, now, unb64};
use crate::kit::jose::verified;
use crate::kit::seed::{API, GW, HOME, MACHINE, POSTER, WEB, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream, services, wait_until};

fn house() -> (House, Upstream) {
    let (upstream, house) = (Upstream::start(), House::new());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["resource_servers"][0]["status_list"] = json!(true);
    house.seed(&seed);
    (house, upstream)
}

fn server() -> &'static Server {
    static STAGE: OnceLock<(Server, Upstream)> = OnceLock::new();
    &STAGE
        .get_or_init(|| {
            let (house, upstream) = house();
            (house.serve(), upstream)
        })
        .0
}

/// Where a token's status is.
fn place(token: &str) -> (usize, String) {
    let status = &claims(token)["status"]["status_list"];
    (usize::try_from(status["idx"].as_u64().expect("idx")).unwrap(), status["uri"].as_str().expect("uri").to_owned())
}

/// The claims of a list and its bits.
fn list(server: &Server, uri: &str) -> (Value, Vec<u8>) {
    let answer = client().get(uri).header("accept", "application/statuslist+jwt").go().expect(200);
    assert_eq!(answer.header("content-type"), "application/statuslist+jwt");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    let told = verified(server, &answer.text(), "ES256", "statuslist+jwt");
    assert_eq!(told["sub"], uri);
    assert_eq!(told["status_list"]["bits"], 1);
    let mut bits = Vec::new();
    flate2::read::ZlibDecoder::new(&unb64(told["status_list"]["lst"].as_str().unwrap())[..]).read_to_end(&mut bits).expect("zlib");
    (told, bits)
}

fn bit(server: &Server, token: &str) -> u8 {
    let (index, uri) = place(token);
    list(server, &uri).1[index / 8] >> (index % 8) & 1
}

fn flips(what: &str, token: &str) {
    // A list is made at most once a second.
    wait_until(what, Duration::from_millis(1500), || bit(server(), token) == 1);
}

#[test]
fn a_token_names_its_place_in_a_list_that_says_it_is_valid() {
    let token = server().machine_token(&MACHINE, &[]);
    let (index, uri) = place(&token);
    assert!(uri.starts_with(&format!("{}/status/", server().issuer)), "{uri}");
    let (told, bits) = list(server(), &uri);
    assert!(index < bits.len() * 8);
    assert_eq!(bit(server(), &token), 0);
    let (iat, exp) = (told["iat"].as_i64().unwrap(), told["exp"].as_i64().unwrap());
    assert!(iat <= now() + 1 && exp > now() && told["ttl"].as_i64().unwrap() > 0, "{told}");
    let cached = client().get(&uri).go().expect(200);
    assert!(cached.header("cache-control").contains("max-age=1"), "{}", cached.header("cache-control"));
    // The gateway and introspection take such a token like any other.
    server().call("/api/x", &token).expect(200);
    assert!(server().active(&token));
}

#[test]
fn a_revoked_token_flips_its_own_bit_only_and_within_a_second() {
    let [token, other] = [0, 1].map(|_| server().machine_token(&MACHINE, &[]));
    assert_ne!(place(&token), place(&other));
    assert_eq!((bit(server(), &token), bit(server(), &other)), (0, 0));
    server().revoke(&MACHINE, &token);
    flips("the bit after /revoke", &token);
    assert_eq!(bit(server(), &other), 0);
}

#[test]
fn the_end_of_a_grant_a_session_a_person_or_a_client_flips_the_bits_of_what_came_of_it() {
    let tokens = server().person_tokens(&HOME, "alice");
    let access = text(&tokens, "access_token");
    assert_eq!(bit(server(), &access), 0);
    server().revoke(&HOME, &text(&tokens, "refresh_token"));
    flips("the bit after the grant's end", &access);

    let access = text(&server().person_tokens(&WEB, "bob"), "access_token");
    let told = claims(&access);
    assert_eq!(bit(server(), &access), 0);
    server().admin("DELETE", &format!("/sessions/{}", told["sid"].as_str().unwrap())).go();
    flips("the bit after the session's end", &access);

    let access = text(&server().person_tokens(&HOME, "carol"), "access_token");
    assert_eq!(bit(server(), &access), 0);
    assert!(server().admin("POST", "/users/carol/disable").go().status < 300);
    flips("the bit after the account was disabled", &access);

    let token = server().machine_token(&POSTER, &[("resource", API)]);
    let order = json!({"kind": "client", "id": POSTER.id, "reason": "test"});
    assert!(server().admin("POST", "/revocations").json(&order).go().status < 300);
    flips("the bit after the client was revoked", &token);
    let later = server().machine_token(&POSTER, &[("resource", API)]);
    assert_eq!(bit(server(), &later), 0, "what is issued after a revocation is valid");
}

#[test]
fn lists_and_their_bits_survive_a_kill() {
    let (house, _upstream) = house();
    let first = house.serve();
    let [dead, alive] = [0, 1].map(|_| first.machine_token(&MACHINE, &[]));
    first.revoke(&MACHINE, &dead);
    first.kill();
    let second = house.serve();
    assert_eq!((bit(&second, &dead), bit(&second, &alive)), (1, 0));
    let new = second.machine_token(&MACHINE, &[]);
    assert_ne!(place(&new), place(&alive));
    assert_ne!(place(&new), place(&dead));
    assert_eq!(bit(&second, &new), 0);
}

#[test]
fn every_node_serves_every_list_and_sees_what_another_revoked() {
    let Some(database) = services::postgres() else { return };
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["resource_servers"][0]["status_list"] = json!(true);
    house.seed(&seed);
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let [one, two] = [0, 1].map(|_| a.machine_token(&MACHINE, &[]));
    let (index, uri) = place(&one);
    let there = uri.replace(&a.issuer, &format!("http://{}", b.listener("public")));
    let at_b = || {
        let told = claims(&client().get(&there).go().expect(200).text());
        assert_eq!(told["sub"], uri.as_str(), "it is the same list");
        let mut bits = Vec::new();
        let lst = unb64(told["status_list"]["lst"].as_str().unwrap());
        flate2::read::ZlibDecoder::new(&lst[..]).read_to_end(&mut bits).expect("zlib");
        bits[index / 8] >> (index % 8) & 1
    };
    assert_eq!(at_b(), 0);
    a.revoke(&MACHINE, &one);
    wait_until("the bit at the other node", Duration::from_secs(2), || at_b() == 1);
    assert_eq!((bit(&a, &one), bit(&a, &two)), (1, 0));
    let form = [("grant_type", "client_credentials")];
    let other = MACHINE.post(&format!("http://{}/token", b.listener("public")), &form).go().expect(200).json();
    assert_ne!(place(&text(&other, "access_token")).1, uri, "each node fills lists of its own");
}

#[test]
fn indexes_do_not_tell_the_order_of_issue() {
    let indexes: Vec<usize> = (0..8).map(|_| place(&server().machine_token(&MACHINE, &[])).0).collect();
    assert!(indexes.windows(2).any(|pair| pair[1] < pair[0]), "{indexes:?}");
    assert!(indexes.windows(2).any(|pair| pair[1].abs_diff(pair[0]) > 64), "{indexes:?}");
}

#[test]
fn only_apis_that_want_it_have_lists_and_unknown_ones_are_nowhere() {
    // An API without the setting, and tokens for the server itself.
    assert!(claims(&server().machine_token(&GW, &[])).get("status").is_none());
    let (_, uri) = place(&server().machine_token(&MACHINE, &[]));
    client().get(server().url("/status/AAAAAAAAAAAAAAAAAAAAAA")).go().expect(404);
    client().get(server().url("/status/nonsense")).go().expect(404);
    client().get(server().url("/status/../jwks")).go();
    client().post(&uri).go().expect(405);
    client().get(format!("{uri}?time=1700000000")).go().expect(501);
    let preflight = client().request(reqwest::Method::OPTIONS, &uri).header("origin", "https://rp.example.com").go();
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
}

#[test]
fn a_list_is_made_at_most_once_a_second_however_much_is_revoked() {
    let (house, _upstream) = house();
    let server = house.serve();
    let tokens: Vec<_> = (0..12).map(|_| server.machine_token(&MACHINE, &[])).collect();
    let (_, uri) = place(&tokens[0]);
    let made = || server.metric("status_lists_made_total");
    let begun = std::time::Instant::now();
    for token in &tokens {
        server.revoke(&MACHINE, token);
        std::thread::scope(|all| {
            for _ in 0..4 {
                all.spawn(|| list(&server, &uri));
            }
        });
    }
    let most = begun.elapsed().as_secs_f64() + 1.0;
    assert!(made() >= 1.0 && made() <= most, "{} lists in {most} s", made());
}
