//! Opaque tokens of other issuers (RFC 7662, RFC 9701): asked about where the route says, kept for that issuer and token alone, decided over each time.
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::apart::stage;
use crate::kit::forge::{Key, good_claims};
use crate::kit::http::{b64, client, now, random};
use crate::kit::introspecting::Introspecting;
use crate::kit::seed::{API, SAFE, VAULT, route};
use crate::kit::{Go, Stage, raw, wait_until};

struct World {
    stage: Stage,
    one: Introspecting,
    two: Introspecting,
    signing: Introspecting,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (one, two, signing) = (Introspecting::start(), Introspecting::start(), Introspecting::start());
        let auth = |issuers: &[&str], more: Value| {
            let mut auth = json!({"accept": ["opaque"], "issuers": issuers, "audience": API, "scopes": ["read"]});
            for (name, value) in more.as_object().unwrap() {
                auth[name] = value.clone();
            }
            auth
        };
        let more = json!({
            "trusted_issuers": [one.trusted(json!({})), two.trusted(json!({"auth": "client_secret_post"})), signing.trusted(json!({"signed_response": true}))],
            "routes": [
                route("one", "/one/", "echo", auth(&[&one.url], json!({}))),
                route("two", "/two/", "echo", auth(&[&two.url], json!({}))),
                route("both", "/both/", "echo", auth(&[&two.url, &one.url, "self"], json!({"accept": ["opaque", "jwt"]}))),
                route("write", "/write/", "echo", auth(&[&one.url], json!({"scopes": ["write"]}))),
                route("other", "/other/", "echo", auth(&[&one.url], json!({"audience": VAULT, "scopes": []}))),
                route("always", "/always/", "echo", auth(&[&one.url], json!({"freshness": "introspect", "accept": ["opaque", "jwt"]}))),
                route("short", "/short/", "echo", auth(&[&one.url], json!({"freshness": "introspect", "cache_ttl": "30s"}))),
                route("signed", "/signed/", "echo", auth(&[&signing.url], json!({"freshness": "introspect"}))),
                route("selfish", "/selfish/", "echo", auth(&["self"], json!({}))),
            ],
        });
        let allowed = json!([one.address, two.address, signing.address]).to_string();
        let stage = stage(
            |house| {
                house.set("outbound.allow", &allowed);
            },
            &more,
        );
        World { stage, one, two, signing }
    })
}

fn good(issuer: &str) -> Value {
    json!({"active": true, "iss": issuer, "sub": "someone", "client_id": "theirs", "aud": API, "scope": "read more", "exp": now() + 300, "token_type": "Bearer"})
}

fn status(path: &str, token: &str) -> u16 {
    let (world, mark) = (world(), random());
    let status = world.stage.call(&format!("{path}{mark}"), token).status;
    assert_eq!(world.stage.upstream.seen(&mark).len(), usize::from(status == 200), "what is refused is not forwarded, what is not is once");
    status
}

/// A token nobody has heard of, and what issuer one says of it.
fn told(answer: Value) -> String {
    let token = random();
    world().one.says(&token, answer);
    token
}

#[test]
fn a_token_the_issuer_vouches_for_passes_and_is_remembered_for_a_while() {
    let w = world();
    let token = told(good(&w.one.url));
    let mark = random();
    w.stage.call(&format!("/one/{mark}"), &token).expect(200);
    let seen = w.stage.upstream.only(&mark);
    assert_eq!((seen.all("x-doorward-subject"), seen.all("x-doorward-client")), (vec!["someone"], vec!["theirs"]));
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(&token)));
    for _ in 0..10 {
        assert_eq!(status("/one/", &token), 200);
    }
    let asked = w.one.asked(&token);
    // Each thread asks for itself.
    assert!(asked.len() <= 16, "{} questions for eleven requests", asked.len());
    let expected = format!("Basic {}", b64_std("gate:s3cret%3Aat+the%2Fgate"));
    assert!(
        asked.iter().all(|q| q.authorization.as_deref() == Some(&expected)
            && q.path == "/introspect"
            && q.form["token_type_hint"] == "access_token")
    );
}

fn b64_std(text: &str) -> String {
    let url = b64(text).replace('-', "+").replace('_', "/");
    let pad = (4 - url.len() % 4) % 4;
    format!("{url}{}", "=".repeat(pad))
}

#[test]
fn what_the_issuer_does_not_say_plainly_does_not_count() {
    let url = &world().one.url;
    let with = |name: &str, value: Value| {
        let mut answer = good(url);
        if value.is_null() {
            answer.as_object_mut().unwrap().remove(name);
        } else {
            answer[name] = value;
        }
        answer
    };
    for (answer, expected) in [
        (json!({"active": false}), 401),
        (with("active", json!("true")), 503),
        (with("active", json!(1)), 503),
        (with("active", Value::Null), 503),
        (json!([]), 503),
        (with("exp", Value::Null), 503),
        (with("exp", json!("soon")), 503),
        (with("exp", json!(now() - 60)), 401),
        (with("exp", json!(4_102_444_800_i64)), 200),
        (with("nbf", json!(now() + 120)), 401),
        (with("iss", json!("https://another.example.com")), 401),
        (with("aud", json!(VAULT)), 401),
        (with("aud", Value::Null), 401),
        (with("token_type", json!("mac")), 401),
        (with("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})), 401),
        (with("cnf", json!({"unknown": "x"})), 401),
        (with("sub", json!("a\nb")), 401),
        (with("scope", json!("other")), 403),
        (with("iss", Value::Null), 200),
        (with("aud", json!([VAULT, API])), 200),
    ] {
        let token = told(answer.clone());
        assert_eq!(status("/one/", &token), expected, "{answer}");
    }
}

#[test]
fn every_hit_is_decided_over_anew_and_no_answer_is_another_issuers() {
    let w = world();
    let token = told(good(&w.one.url));
    for _ in 0..3 {
        assert_eq!(status("/one/", &token), 200);
        assert_eq!(status("/write/", &token), 403, "known on another route, and not enough here");
        assert_eq!(status("/other/", &token), 401, "known on another route, and for another audience");
        assert_eq!(status("/two/", &token), 401, "the other issuer knows nothing of it");
        assert_eq!(status("/selfish/", &token), 401, "and this server did not make it");
    }
    assert!(!w.two.asked(&token).is_empty() && w.two.asked(&token).len() <= 16);
    assert!(w.two.asked(&token).iter().all(|q| q.authorization.is_none() && q.form["client_secret"] == "s3cret:at the/gate"));
}

#[test]
fn issuers_are_asked_in_the_routes_order_and_never_about_our_own() {
    let w = world();
    let token = told(good(&w.one.url));
    assert_eq!(status("/both/", &token), 200);
    assert!(!w.two.asked(&token).is_empty() && !w.one.asked(&token).is_empty());
    let token = random();
    w.two.says(&token, good(&w.two.url));
    assert_eq!(status("/both/", &token), 200);
    assert!(w.one.asked(&token).is_empty(), "the first that knew it was enough");
    let own = w.stage.machine_token(&SAFE, &[]);
    assert_eq!(status("/both/", &own), 401, "ours, and for another audience");
    assert!(w.one.asked(&own).is_empty() && w.two.asked(&own).is_empty(), "a token of ours was shown to somebody else");
    w.stage.revoke(&SAFE, &own);
    assert_eq!(status("/both/", &own), 401);
    assert!(w.one.asked(&own).is_empty() && w.two.asked(&own).is_empty());
}

#[test]
fn asked_every_time_means_every_time_and_the_answer_counts_at_once() {
    let w = world();
    let token = told(good(&w.one.url));
    for n in 1..=4 {
        assert_eq!(status("/always/", &token), 200);
        assert_eq!(w.one.asked(&token).len(), n);
    }
    w.one.says(&token, json!({"active": false}));
    assert_eq!(status("/always/", &token), 401);
    // A JWT of the issuer's too is asked about, after it was believed.
    let jwt = w.one.key.sign(&w.one.key.header(), &good_claims(&w.one.url));
    assert_eq!(status("/always/", &jwt), 401, "good by itself, and the issuer does not vouch for it");
    w.one.says(&jwt, good(&w.one.url));
    assert_eq!(status("/always/", &jwt), 200);
    w.one.says(&jwt, json!({"active": false}));
    assert_eq!(status("/always/", &jwt), 401);
    let kept = told(good(&w.one.url));
    for _ in 0..6 {
        assert_eq!(status("/short/", &kept), 200);
    }
    assert!(w.one.asked(&kept).len() <= 16);
}

#[test]
fn what_a_token_opened_ends_when_its_issuer_says_so() {
    let w = world();
    let open = |path: &str, token: &str| {
        let mut stream = raw::connect(&w.stage.listener("gateway"));
        let request = format!("GET {path}sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let head = raw::read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
        stream
    };
    // It has events for half a minute.
    let ended = |stream: &mut TcpStream| match stream.read(&mut [0; 4096]) {
        Ok(octets) => octets == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    };
    let (token, other) = (told(good(&w.one.url)), told(good(&w.one.url)));
    let mut gone: Vec<TcpStream> = ["/one/", "/always/"].iter().map(|path| open(path, &token)).collect();
    let mut stays = open("/one/", &other);
    w.one.says(&token, json!({"active": false}));
    for stream in &mut gone {
        wait_until("it is closed", Duration::from_secs(20), || ended(stream));
    }
    assert!(!ended(&mut stays), "another's goes on");
}

#[test]
fn a_jwt_where_only_opaque_tokens_are_taken_is_asked_about_at_the_issuer_it_names() {
    let w = world();
    let jwt = w.one.key.sign(&w.one.key.header(), &good_claims(&w.one.url));
    assert_eq!(status("/one/", &jwt), 401);
    w.one.says(&jwt, good(&w.one.url));
    let jwt = w.one.key.sign(&w.one.key.header(), &good_claims(&w.one.url));
    w.one.says(&jwt, good(&w.one.url));
    assert_eq!(status("/one/", &jwt), 200);
    let ours = w.stage.machine_token(&crate::kit::seed::MACHINE, &[]);
    assert_eq!(status("/one/", &ours), 401);
    assert!(w.one.asked(&ours).is_empty(), "a token of ours was shown to somebody else");
}

#[test]
fn many_requests_with_one_token_are_few_questions() {
    // An issuer of its own, so that nobody else waits.
    let slow = Introspecting::start();
    let trusted = slow.trusted(json!({}));
    let stage = stage(
        |house| {
            house.set("outbound.allow", &json!([slow.address]).to_string());
        },
        &json!({
            "trusted_issuers": [trusted],
            "routes": [route("slow", "/slow/", "echo", json!({"accept": ["opaque"], "issuers": [slow.url], "audience": API}))],
        }),
    );
    slow.slowly(Duration::from_millis(400));
    let token = random();
    slow.says(&token, good(&slow.url));
    let url = stage.through("/slow/x");
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| client().get(&url).bearer_auth(&token).go().expect(200));
        }
    });
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    assert!(slow.asked(&token).len() <= threads, "{} questions", slow.asked(&token).len());
}

#[test]
fn an_issuer_that_does_not_answer_lets_nobody_in_and_what_is_not_good_is_not_asked_for_again_and_again() {
    let down = Introspecting::start();
    let trusted = down.trusted(json!({}));
    let stage = stage(
        |house| {
            house.set("outbound.allow", &json!([down.address]).to_string());
        },
        &json!({
            "trusted_issuers": [trusted],
            "routes": [
                route("down", "/down/", "echo", json!({"accept": ["opaque"], "issuers": [down.url], "audience": API})),
                route("either", "/either/", "echo", json!({"accept": ["opaque", "none"], "issuers": [down.url], "audience": API})),
            ],
        }),
    );
    for _ in 0..50 {
        assert_eq!(stage.call("/down/x", "made-up").status, 401);
    }
    assert!(down.asked("made-up").len() <= 16, "{} questions about one bad token", down.asked("made-up").len());
    down.answers(Some(500));
    for path in ["/down/", "/either/"] {
        let (mark, token) = (random(), random());
        down.says(&token, good(&down.url));
        assert_eq!(stage.call(&format!("{path}{mark}"), &token).status, 503);
        assert!(stage.upstream.seen(&mark).is_empty());
    }
    down.answers(Some(401));
    assert_eq!(stage.call("/down/x", &random()).status, 503, "it does not know us");
    down.answers(None);
    let token = random();
    down.says(&token, good(&down.url));
    assert_eq!(stage.call("/down/x", &token).status, 200);
    assert!(stage.metric("introspection_total") > 0.0);
}

#[test]
fn signed_answers_are_the_issuers_for_us_and_of_this_moment() {
    let w = world();
    let (token, signing) = (random(), &w.signing);
    signing.says(&token, good(&signing.url));
    signing.signs_nothing();
    assert_eq!(status("/signed/", &token), 503, "an answer without a signature");
    let header = |typ: &str, kid: &str| json!({"alg": "ES256", "typ": typ, "kid": kid});
    let right = header("token-introspection+jwt", "theirs");
    let claims = |changes: Value| {
        let mut claims = json!({"iss": signing.url, "aud": "gate", "iat": now()});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let (key, stranger) = (&signing.key, Arc::new(Key::new("theirs")));
    for (key, header, claims) in [
        (&stranger, right.clone(), claims(json!({}))),
        (key, header("JWT", "theirs"), claims(json!({}))),
        (key, header("at+jwt", "theirs"), claims(json!({}))),
        (key, json!({"alg": "none", "typ": "token-introspection+jwt"}), claims(json!({}))),
        (key, right.clone(), claims(json!({"iss": "https://another.example.com"}))),
        (key, right.clone(), claims(json!({"aud": "another"}))),
        (key, right.clone(), claims(json!({"iat": now() - 3600}))),
        (key, right.clone(), claims(json!({"iat": null}))),
    ] {
        signing.signs(key, header.clone(), claims.clone());
        assert_eq!(status("/signed/", &token), 503, "{header} {claims}");
    }
    signing.signs(key, right, claims(json!({})));
    assert_eq!(status("/signed/", &token), 200);
    assert!(signing.asked(&token).iter().all(|q| q.accept == "application/token-introspection+jwt"));
    assert!(signing.fetched("/.well-known/openid-configuration") >= 1 && signing.fetched("/keys") >= 1, "its keys by its metadata");
}

#[test]
fn the_secret_is_kept_sealed_never_shown_and_can_be_changed() {
    let w = world();
    assert_eq!(
        w.stage.house.holds("s3cret:at the/gate").map(|p| p.file_name().unwrap().to_owned()),
        Some("seed.json".into()),
        "in what was given, and nowhere else"
    );
    let own = Introspecting::start();
    let path = {
        let made = w.stage.admin("POST", "/trusted-issuers").json(&own.trusted(json!({}))).go().expect(201);
        assert!(!made.text().contains("s3cret"));
        format!("/trusted-issuers/{}", made.json()["id"].as_str().unwrap())
    };
    let shown = w.stage.admin("GET", &path).go().expect(200);
    assert!(shown.json()["introspection"]["client_id"] == "gate" && !shown.text().contains("secret\":\""));
    w.stage.admin("PATCH", &path).json(&json!({"introspection": {"client_id": "gate2"}})).go().expect(200);
    w.stage.admin("PATCH", &path).json(&json!({"introspection": {"secret": "another"}})).go().expect(200);
    let bare = json!({"issuer": "https://bare.example.com", "algorithms": ["ES256"], "introspection": {"endpoint": "https://bare.example.com/i", "client_id": "x"}});
    let answer = w.stage.admin("POST", "/trusted-issuers").json(&bare).go().expect(422);
    assert!(answer.text().contains("introspection.secret"), "{}", answer.text());
    let mute = json!({"issuer": "https://mute.example.com", "algorithms": ["ES256"]});
    w.stage.admin("POST", "/trusted-issuers").json(&mute).go().expect(201);
    let asking = route(
        "mute",
        "/mute/",
        "echo",
        json!({"accept": ["jwt"], "issuers": ["https://mute.example.com"], "audience": API, "freshness": "introspect"}),
    );
    let answer = w.stage.admin("POST", "/routes").json(&asking).go();
    assert!(answer.status >= 400 && answer.text().contains("introspection"), "{}", answer.text());
    let events = w.stage.admin("GET", "/events?limit=500").go().expect(200).text();
    assert!(events.contains("secret.rotated") && !events.contains("s3cret"));
    assert!(!w.stage.log().contains("s3cret"));
}

#[test]
fn keys_by_discovery_are_those_of_the_issuer_itself() {
    let (honest, liar) = (Introspecting::start(), Introspecting::start());
    liar.describes(Some(json!({"issuer": honest.url, "jwks_uri": format!("{}/keys", liar.url)})));
    let bare = |issuer: &Introspecting| json!({"issuer": issuer.url, "algorithms": ["ES256"]});
    let stage = stage(
        |house| {
            house.set("outbound.allow", &json!([honest.address, liar.address]).to_string());
        },
        &json!({
            "trusted_issuers": [bare(&honest), bare(&liar)],
            "routes": [route("found", "/found/", "echo", json!({"accept": ["jwt"], "issuers": [honest.url, liar.url], "audience": API}))],
        }),
    );
    let token = |of: &Introspecting| of.key.sign(&of.key.header(), &good_claims(&of.url));
    for _ in 0..10 {
        assert_eq!(stage.call("/found/x", &token(&honest)).status, 200);
        assert_eq!(stage.call("/found/x", &token(&liar)).status, 503, "its metadata names another issuer: there are no keys to judge by");
    }
    assert_eq!(honest.fetched("/.well-known/openid-configuration"), 1, "once an hour");
    assert_eq!(liar.fetched("/keys"), 0);
    assert!(liar.fetched("/.well-known/openid-configuration") <= 4, "{} fetches", liar.fetched("/.well-known/openid-configuration"));
    let unknown = honest.key.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": "unknown"}), &good_claims(&honest.url));
    for _ in 0..10 {
        assert_eq!(stage.call("/found/x", &unknown).status, 401);
    }
    assert!(honest.fetched("/keys") <= 4, "{} fetches", honest.fetched("/keys"));
    // What else an issuer may be trusted with asks for its key set by name.
    let mut more = bare(&honest);
    more["issuer"] = json!("https://more.example.com");
    more["software_statements"] = json!(true);
    assert!(stage.admin("POST", "/trusted-issuers").json(&more).go().expect(422).text().contains("jwks_uri"));
}
