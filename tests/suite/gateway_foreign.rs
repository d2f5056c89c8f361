//! Tokens of a trusted foreign issuer (RFC 9068, RFC 7515, RFC 8725), and its key set.
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::forge::{Issuer, Key, good_claims};
use crate::kit::http::{b64, now, random};
use crate::kit::seed::{API, VAULT, route, standard};
use crate::kit::{House, Server, Upstream, wait_until};

struct Abroad {
    server: Server,
    upstream: Upstream,
    issuer: Issuer,
    key: Key,
    old: Issuer,
    old_key: Key,
}

/// A server that trusts two issuers: a modern one and one that types its tokens `JWT`.
fn abroad() -> Abroad {
    let (key, old_key) = (Key::new("k1"), Key::new("o1"));
    let (issuer, old, upstream) = (Issuer::start(&[&key]), Issuer::start(&[&old_key]), Upstream::start());
    let mut house = House::new();
    house.set("outbound.allow", &json!([issuer.address, old.address]).to_string());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["trusted_issuers"] = json!([
        {"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"]},
        {"issuer": old.url, "jwks_uri": format!("{}/jwks", old.url), "algorithms": ["ES256"], "token_typ": ["JWT"]},
    ]);
    let auth = json!({"accept": ["jwt"], "issuers": ["self", issuer.url, old.url], "audience": API, "scopes": ["read"]});
    seed["routes"].as_array_mut().unwrap().push(route("abroad", "/abroad/", "echo", auth));
    house.seed(&seed);
    Abroad { server: house.serve(), upstream, issuer, key, old, old_key }
}

fn shared() -> &'static Abroad {
    static ABROAD: OnceLock<Abroad> = OnceLock::new();
    ABROAD.get_or_init(abroad)
}

fn status(abroad: &Abroad, token: &str) -> u16 {
    abroad.server.call("/abroad/x", token).status
}

/// Good claims with changes; null removes.
fn changed(issuer: &str, changes: Value) -> Value {
    let mut claims = good_claims(issuer);
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn a_good_foreign_token_passes_where_its_issuer_is_named() {
    let a = shared();
    let (mark, token) = (random(), a.key.sign(&a.key.header(), &good_claims(&a.issuer.url)));
    a.server.call(&format!("/abroad/{mark}"), &token).expect(200);
    assert_eq!(a.upstream.only(&mark).all("x-doorward-subject"), ["someone"]);
    assert_eq!(a.server.call("/api/x", &token).status, 401, "this route trusts self alone");
    let typ = json!({"alg": "ES256", "typ": "application/at+jwt", "kid": "k1"});
    assert_eq!(status(a, &a.key.sign(&typ, &good_claims(&a.issuer.url))), 200);
    let many = changed(&a.issuer.url, json!({"aud": [API, "https://else.example.com"]}));
    assert_eq!(status(a, &a.key.sign(&a.key.header(), &many)), 200);
}

#[test]
fn wrong_claims_are_401() {
    let a = shared();
    let at = now();
    for changes in [
        json!({"iss": "https://nobody.example.com"}),
        json!({"iss": a.old.url}),
        json!({"iss": null}),
        json!({"aud": VAULT}),
        json!({"aud": null}),
        json!({"aud": [VAULT]}),
        json!({"aud": "https://api.example.com/"}),
        json!({"exp": at - 61}),
        json!({"exp": null}),
        json!({"exp": (at + 300).to_string()}),
        json!({"exp": at + 11 * 366 * 86400}),
        json!({"nbf": at + 120}),
        json!({"nbf": "now"}),
        json!({"iat": at + 120}),
        json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}),
        json!({"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}),
        json!({"sub": "a\nb"}),
    ] {
        let token = a.key.sign(&a.key.header(), &changed(&a.issuer.url, changes.clone()));
        assert_eq!(status(a, &token), 401, "{changes}");
    }
    for changes in [json!({"exp": at + 5}), json!({"nbf": at + 8}), json!({"exp": at - 5})] {
        let token = a.key.sign(&a.key.header(), &changed(&a.issuer.url, changes.clone()));
        assert_eq!(status(a, &token), 200, "within the leeway: {changes}");
    }
    let scope = a.key.sign(&a.key.header(), &changed(&a.issuer.url, json!({"scope": "reading"})));
    assert_eq!(status(a, &scope), 403);
}

#[test]
fn wrong_headers_and_signatures_are_401() {
    let a = shared();
    let good = good_claims(&a.issuer.url);
    for header in [
        json!({"alg": "none", "typ": "at+jwt", "kid": "k1"}),
        json!({"alg": "HS256", "typ": "at+jwt", "kid": "k1"}),
        json!({"alg": "RS256", "typ": "at+jwt", "kid": "k1"}),
        json!({"alg": "ES384", "typ": "at+jwt", "kid": "k1"}),
        json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}),
        json!({"alg": "ES256", "kid": "k1"}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1", "crit": ["exp"]}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1", "crit": []}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1", "b64": false}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1", "zip": "DEF"}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "unheard-of"}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "../../etc/passwd"}),
    ] {
        assert_eq!(status(a, &a.key.sign(&header, &good)), 401, "{header}");
    }
    // Its own key inside the header convinces nobody.
    let stranger = Key::new("k1");
    let mut own = stranger.header();
    own["jwk"] = stranger.jwk();
    assert_eq!(status(a, &stranger.sign(&own, &good)), 401, "a stranger's key under a known kid");
    assert_eq!(status(a, &stranger.sign(&stranger.header(), &good)), 401);
    // The other trusted issuer's key.
    let mut crossed = a.old_key.header();
    crossed["kid"] = json!("o1");
    assert_eq!(status(a, &a.old_key.sign(&crossed, &good)), 401, "another issuer's key");
}

#[test]
fn forms_that_can_be_read_two_ways_are_401() {
    let a = shared();
    let claims = good_claims(&a.issuer.url).to_string();
    let header = a.key.header().to_string();
    let twice = format!(r#"{{"scope":"nothing",{}"#, &claims[1..]);
    let twice_header = format!(r#"{{"typ":"at+jwt",{}"#, &header[1..]);
    let good = a.key.sign_text(&header, &claims);
    let parts: Vec<&str> = good.split('.').collect();
    // The last character of an ES256 signature carries unused bits.
    let mut noncanonical = good.clone();
    let last = noncanonical.pop().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    noncanonical.push(alphabet.as_bytes()[at ^ 1] as char);
    for (what, token) in [
        ("duplicate claim", a.key.sign_text(&header, &twice)),
        ("duplicate header member", a.key.sign_text(&twice_header, &claims)),
        ("non-canonical base64url", noncanonical),
        ("padding", format!("{good}==")),
        ("four segments", format!("{good}.{}", parts[2])),
        ("two segments", format!("{}.{}", parts[0], parts[1])),
        ("empty signature", format!("{}.{}.", parts[0], parts[1])),
        ("JSON serialisation", b64(json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]}).to_string())),
        ("claims that are no object", a.key.sign_text(&header, "[1]")),
        ("claims that are no JSON", a.key.sign_text(&header, "hello")),
    ] {
        assert_eq!(status(a, &token), 401, "{what}");
    }
    assert_eq!(status(a, &good), 200, "and the good one is good");
}

#[test]
fn an_older_server_is_believed_only_as_registered() {
    let a = shared();
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": "o1"});
    assert_eq!(status(a, &a.old_key.sign(&header, &good_claims(&a.old.url))), 200);
    for changes in [json!({"nonce": "n"}), json!({"at_hash": "x"}), json!({"events": {}}), json!({"aud": "theirs"})] {
        let token = a.old_key.sign(&header, &changed(&a.old.url, changes.clone()));
        assert_eq!(status(a, &token), 401, "an ID or logout token is no access token: {changes}");
    }
}

#[test]
fn unknown_kids_do_not_hammer_the_issuer() {
    let a = abroad();
    assert_eq!(status(&a, &a.key.sign(&a.key.header(), &good_claims(&a.issuer.url))), 200);
    let before = a.issuer.asked();
    for n in 0..50 {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": format!("made-up-{n}")});
        assert_eq!(status(&a, &a.key.sign(&header, &good_claims(&a.issuer.url))), 401);
    }
    assert!(a.issuer.asked() - before <= 2, "{} fetches", a.issuer.asked() - before);
}

#[test]
fn a_new_key_is_found_and_the_last_good_set_serves_while_the_issuer_is_down() {
    let a = abroad();
    let second = Key::new("k2");
    assert_eq!(status(&a, &a.key.sign(&a.key.header(), &good_claims(&a.issuer.url))), 200);
    a.issuer.publish(&[&a.key, &second]);
    let token = second.sign(&second.header(), &good_claims(&a.issuer.url));
    wait_until("the new key is found", Duration::from_secs(30), || {
        let found = status(&a, &token) == 200;
        if !found {
            std::thread::sleep(Duration::from_millis(300));
        }
        found
    });
    a.issuer.break_down();
    for _ in 0..3 {
        assert_eq!(status(&a, &a.key.sign(&a.key.header(), &good_claims(&a.issuer.url))), 200, "last good set");
        assert_eq!(status(&a, &token), 200);
    }
}

#[test]
fn an_issuer_that_may_not_be_reached_is_not_fetched() {
    let key = Key::new("k1");
    let (issuer, upstream) = (Issuer::start(&[&key]), Upstream::start());
    let house = House::new();
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["trusted_issuers"] = json!([{"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"]}]);
    let auth = json!({"accept": ["jwt"], "issuers": [issuer.url], "audience": API});
    seed["routes"].as_array_mut().unwrap().push(route("abroad", "/abroad/", "echo", auth));
    let ran = house.try_seed(&seed, &[]);
    if ran.code == 0 {
        let server = house.serve();
        let status = server.call("/abroad/x", &key.sign(&key.header(), &good_claims(&issuer.url))).status;
        assert!([401, 503].contains(&status), "{status}");
    }
    assert_eq!(issuer.asked(), 0, "loopback is not for outbound requests unless allowed");
}
