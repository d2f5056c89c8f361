//! Storms of tokens that nobody issued: keys that there are not, references that there are not.
use std::collections::BTreeSet;

use serde_json::json;

use crate::kit::forge::{Issuer, Key, good_claims};
use crate::kit::http::{Go, b64, client, client_from, random};
use crate::kit::seed::{API, GW, MACHINE, route, standard};
use crate::kit::{House, Server, Upstream};

/// A server that trusts another issuer, whose fetches are counted.
struct Trusting {
    house: House,
    server: Server,
    _upstream: Upstream,
    issuer: Issuer,
    key: Key,
}

fn trusting() -> Trusting {
    let key = Key::new("k1");
    let (issuer, upstream) = (Issuer::start(&[&key]), Upstream::start());
    let mut house = House::new();
    house.set("outbound.allow", &json!([issuer.address]).to_string());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["trusted_issuers"] = json!([{"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"]}]);
    let auth = json!({"accept": ["jwt", "opaque"], "issuers": ["self", issuer.url], "audience": API, "scopes": ["read"]});
    seed["routes"].as_array_mut().unwrap().push(route("storm", "/storm/", "echo", auth));
    house.seed(&seed);
    Trusting { server: house.serve(), house, _upstream: upstream, issuer, key }
}

/// The names and labels of everything that is measured, without the numbers.
fn series(server: &Server) -> BTreeSet<String> {
    let page = client().get(format!("http://{}/metrics", server.listener("metrics"))).go().expect(200).text();
    page.lines()
        .filter(|l| !l.starts_with('#') && !l.contains("_bucket{"))
        .filter_map(|l| l.rsplit_once(' '))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// A well-formed reference that nobody issued.
fn made_up() -> String {
    let body: Vec<u8> = random().bytes().chain(random().bytes()).cycle().take(48).collect();
    let mut crc = flate2::Crc::new();
    crc.update(b"dwa_");
    crc.update(&body);
    format!("dwa_{}", b64([&body[..], &crc.sum().to_be_bytes()].concat()))
}

#[test]
fn keys_that_there_are_not_are_asked_for_once_in_five_seconds() {
    let t = trusting();
    let good = t.key.sign(&t.key.header(), &good_claims(&t.issuer.url));
    t.server.call("/storm/x", &good).expect(200);
    let (before, began) = (t.issuer.asked(), crate::kit::http::now());
    let signed = |issuer: &str, n: usize| {
        t.key.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": format!("made-up-{n}-{}", random())}), &good_claims(issuer))
    };
    std::thread::scope(|scope| {
        for part in 0..8 {
            let (t, signed) = (&t, &signed);
            scope.spawn(move || {
                for n in 0..60 {
                    let theirs = signed(&t.issuer.url, part * 100 + n);
                    assert_eq!(t.server.call("/storm/x", &theirs).status, 401);
                    let ours = signed(&t.server.url(""), part * 100 + n);
                    assert_eq!(t.server.call("/storm/x", &ours).status, 401);
                    let said = t.server.post("/introspect", &GW, &[("token", &theirs)]).expect(200).json();
                    assert_eq!(said, json!({"active": false}));
                }
            });
        }
    });
    let took = usize::try_from(crate::kit::http::now() - began).unwrap();
    // One for each five seconds, and one at either end.
    assert!(t.issuer.asked() - before <= took / 5 + 2, "{} fetches in {took} s", t.issuer.asked() - before);
    t.server.call("/storm/x", &good).expect(200);
}

#[test]
fn made_up_tokens_leave_nothing_behind_in_rows_memory_or_metrics() {
    let t = trusting();
    let machine = t.server.machine_token(&MACHINE, &[]);
    t.server.call("/storm/x", &machine).expect(200);
    for token in [made_up(), "dwa_short".to_owned(), "a.b.c".to_owned()] {
        t.server.call("/storm/x", &token).expect(401);
        t.server.post("/introspect", &GW, &[("token", &token)]).expect(200);
    }
    for method in ["GET", "BREW"] {
        client().request(method.parse().unwrap(), t.server.through("/nowhere")).go();
    }
    let rows = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let file = rusqlite::Connection::open_with_flags(t.house.path("doorward.db"), flags).unwrap();
        ["artefacts", "grants", "sessions", "consents", "objects", "secrets", "revocations"]
            .map(|table| file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap())
    };
    let (kept, measured) = (rows(), series(&t.server));
    for n in 0..200 {
        let token = match n % 4 {
            0 | 1 => made_up(),
            2 => format!("dwa_{}", random()),
            _ => format!("{}.{}.{}", b64(random()), b64(random()), b64(random())),
        };
        assert_eq!(t.server.call("/storm/x", &token).status, 401);
        assert_eq!(t.server.post("/introspect", &GW, &[("token", &token)]).expect(200).json(), json!({"active": false}));
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
        t.server.token(&MACHINE, &refresh);
        let path = format!("/{}/{n}", random());
        let odd = client_from("127.0.46.1").request(format!("M{n}").parse().unwrap(), t.server.through(&path)).go();
        assert!(odd.status >= 400 && odd.status < 500, "{}", odd.status);
    }
    assert_eq!(rows(), kept, "no row for a token that is none");
    let new: Vec<String> = series(&t.server).difference(&measured).cloned().collect();
    assert!(new.len() < 24, "labels of strangers' making: {new:?}");
    assert!(!new.iter().any(|name| name.contains("made-up") || name.contains("M199")), "{new:?}");
    t.server.call("/storm/x", &machine).expect(200);
}
