//! `private_key_jwt` (RFC 7523 §3, OpenID Connect Core §9, FAPI 2.0 §5.3.2.1) and workload identity, at every endpoint that asks who a client is.
use std::sync::{LazyLock, OnceLock};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents},
};
use serde_json::{Value, json};

use crate::kit::forge::{Issuer, Key};
use crate::kit::http::{Answer, Go, b64, client, now, random, s256};
use crate::kit::seed::{API, MACHINE, standard};
use crate::kit::server::free_port;
use crate::kit::{House, Server, Upstream, services, wait_until};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const BACK: &str = "https://signer.example.com/cb";

static KEY: LazyLock<Key> = LazyLock::new(|| Key::new("one"));
static RSA: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).expect("a key"));

fn rsa_jwk() -> Value {
    let components = RsaPublicKeyComponents::<Vec<u8>>::from(RSA.public_key());
    json!({"kty": "RSA", "kid": "rsa", "use": "sig", "n": b64(components.n), "e": b64(components.e)})
}

fn rs256(claims: &Value) -> String {
    let input = format!("{}.{}", b64(r#"{"alg":"RS256","kid":"rsa","typ":"JWT"}"#), b64(claims.to_string()));
    let mut signature = vec![0; RSA.public_modulus_len()];
    RSA.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature).expect("a signature");
    format!("{input}.{}", b64(signature))
}

/// A client that proves itself with keys.
fn signer(id: &str, more: Value) -> Value {
    let mut client = json!({
        "client_id": id, "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials", "authorization_code"],
        "response_types": ["code"], "redirect_uris": [BACK], "scope": "openid read", "allowed_resources": [API],
    });
    for (name, value) in more.as_object().expect("members") {
        client[name] = value.clone();
    }
    client
}

struct Stage {
    server: Server,
    keys: Issuer,
    cluster: Issuer,
    cluster_key: Key,
    _upstream: Upstream,
}

impl std::ops::Deref for Stage {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let (keys, cluster_key) = (Issuer::start(&[&KEY]), Key::new("cluster"));
        let (cluster, upstream) = (Issuer::start(&[&cluster_key]), Upstream::start());
        let mut house = House::new();
        house.set("outbound.allow", &json!([keys.address, cluster.address]).to_string());
        house.bootstrap();
        house.seed(&seed(&upstream, &keys, &cluster));
        Stage { server: house.serve(), keys, cluster, cluster_key, _upstream: upstream }
    })
}

fn seed(upstream: &Upstream, keys: &Issuer, cluster: &Issuer) -> Value {
    let own = json!({"keys": [KEY.jwk()]});
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.push(signer("signer", json!({"jwks": own})));
    clients.push(signer("other", json!({"jwks": own})));
    clients.push(signer("legacy", json!({"jwks": own, "assertion_audience": "legacy"})));
    clients.push(signer("rsa", json!({"jwks": {"keys": [rsa_jwk()]}})));
    clients.push(signer("old-rsa", json!({"jwks": {"keys": [rsa_jwk()]}, "token_endpoint_auth_signing_alg": "RS256"})));
    clients.push(signer("fetched", json!({"jwks_uri": format!("{}/jwks", keys.url)})));
    let workload = json!({"issuer": cluster.url, "subject": "system:serviceaccount:shop:cart"});
    clients.push(signer("workload", json!({"workload_identity": workload})));
    seed["trusted_issuers"] = json!([{"issuer": cluster.url, "jwks_uri": format!("{}/jwks", cluster.url), "algorithms": ["ES256"]}]);
    seed
}

fn header(key: &Key) -> Value {
    json!({"alg": "ES256", "kid": key.kid, "typ": "JWT"})
}

fn claims(server: &Server, id: &str) -> Value {
    json!({"iss": id, "sub": id, "aud": server.issuer, "jti": random(), "iat": now(), "exp": now() + 60})
}

/// A good assertion of `signer` with these members replaced; `null` takes one out.
fn with(server: &Server, id: &str, more: Value) -> String {
    let mut claims = claims(server, id);
    for (name, value) in more.as_object().expect("members") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    KEY.sign(&header(&KEY), &claims)
}

fn post(url: &str, assertion: &str, form: &[(&str, &str)]) -> Answer {
    let mut all = vec![("client_assertion_type", TYPE), ("client_assertion", assertion)];
    all.extend(form);
    client().post(url).form(&all).go()
}

fn token(server: &Server, assertion: &str) -> Answer {
    post(&server.url("/token"), assertion, &[("grant_type", "client_credentials"), ("scope", "read")])
}

fn pushed(server: &Server, assertion: &str) -> Answer {
    let challenge = s256(&random());
    let form = [
        ("client_id", "signer"),
        ("response_type", "code"),
        ("redirect_uri", BACK),
        ("scope", "openid"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    post(&server.url("/par"), assertion, &form)
}

#[track_caller]
fn refused(answer: Answer) {
    answer.expect_error(401, "invalid_client");
}

#[test]
fn a_signed_assertion_proves_a_client_at_every_endpoint() {
    let stage = stage();
    let answer = token(stage, &with(stage, "signer", json!({}))).expect(200).json();
    let access = answer["access_token"].as_str().expect("a token");
    let told = post(&stage.url("/introspect"), &with(stage, "signer", json!({})), &[("token", access)]).expect(200).json();
    assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!("signer")));
    pushed(stage, &with(stage, "signer", json!({}))).expect(201);
    post(&stage.url("/revoke"), &with(stage, "signer", json!({})), &[("token", access)]).expect(200);
    assert!(!stage.active(access));
    let metadata = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    for endpoint in ["token", "introspection", "revocation"] {
        let methods = &metadata[format!("{endpoint}_endpoint_auth_methods_supported")];
        assert!(methods.as_array().expect("methods").contains(&json!("private_key_jwt")), "{methods}");
        assert!(!methods.to_string().contains("tls_client_auth"), "nobody asks for certificates here");
        let algorithms = &metadata[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        assert!(algorithms.as_array().expect("algorithms").contains(&json!("ES256")), "{algorithms}");
    }
    assert!(metadata.get("mtls_endpoint_aliases").is_none());
}

#[test]
fn fapi2_ensure_client_assertion_in_token_endpoint() {
    let stage = stage();
    let form = [("grant_type", "client_credentials"), ("client_id", "signer")];
    client().post(stage.url("/token")).form(&form).go().expect_error(401, "invalid_client");
    let typed = [("grant_type", "client_credentials"), ("client_id", "signer"), ("client_assertion_type", TYPE)];
    client().post(stage.url("/token")).form(&typed).go().expect_error(401, "invalid_client");
    let untyped = with(stage, "signer", json!({}));
    let form = [("grant_type", "client_credentials"), ("client_assertion", untyped.as_str())];
    client().post(stage.url("/token")).form(&form).go().expect_error(401, "invalid_client");
    refused(token(stage, "nonsense"));
    refused(token(stage, &with(stage, "nobody", json!({}))));
}

#[test]
fn fapi2_ensure_signed_client_assertion_with_rs256_fails() {
    let stage = stage();
    refused(token(stage, &rs256(&claims(stage, "rsa"))));
    token(stage, &rs256(&claims(stage, "old-rsa"))).expect(200);
}

#[test]
fn fapi2_ensure_client_assertion_with_exp_is_5_minutes_in_past_fails() {
    let stage = stage();
    refused(token(stage, &with(stage, "signer", json!({"iat": now() - 360, "exp": now() - 300}))));
    refused(token(stage, &with(stage, "signer", json!({"exp": null}))));
    refused(token(stage, &with(stage, "signer", json!({"exp": now() + 400}))));
    refused(token(stage, &with(stage, "signer", json!({"iat": null}))));
}

#[test]
fn fapi2_ensure_client_assertion_with_wrong_aud_fails() {
    let stage = stage();
    refused(token(stage, &with(stage, "signer", json!({"aud": "https://other.example.com"}))));
    refused(token(stage, &with(stage, "signer", json!({"aud": null}))));
}

#[test]
fn fapi2_ensure_client_assertion_with_no_sub_fails() {
    let stage = stage();
    refused(token(stage, &with(stage, "signer", json!({"sub": null}))));
    let unnamed = with(stage, "signer", json!({"sub": null}));
    let form = [("grant_type", "client_credentials"), ("client_id", "signer")];
    refused(post(&stage.url("/token"), &unnamed, &form));
    refused(token(stage, &with(stage, "signer", json!({"sub": "other"}))));
    refused(token(stage, &with(stage, "signer", json!({"iss": "other"}))));
}

#[test]
fn fapi2_par_ensure_jwt_client_assertions_nbf_8_seconds_in_the_future_is_accepted() {
    let stage = stage();
    pushed(stage, &with(stage, "signer", json!({"nbf": now() + 8, "iat": now() + 8}))).expect(201);
}

#[test]
fn fapi2_par_ensure_jwt_client_assertions_nbf_over_60_seconds_in_the_future_fails() {
    let stage = stage();
    refused(pushed(stage, &with(stage, "signer", json!({"nbf": now() + 65}))));
    refused(pushed(stage, &with(stage, "signer", json!({"iat": now() + 65, "exp": now() + 120}))));
}

#[test]
fn fapi2_par_test_array_as_audience_fails() {
    let stage = stage();
    refused(pushed(stage, &with(stage, "signer", json!({"aud": [stage.issuer]}))));
}

#[test]
fn fapi2_par_test_par_endpoint_url_as_audience_fails() {
    let stage = stage();
    refused(pushed(stage, &with(stage, "signer", json!({"aud": stage.url("/par")}))));
}

#[test]
fn fapi2_par_test_token_endpoint_url_as_audience_fails() {
    let stage = stage();
    refused(pushed(stage, &with(stage, "signer", json!({"aud": stage.url("/token")}))));
}

#[test]
fn old_libraries_may_be_registered_to_name_the_endpoint() {
    let stage = stage();
    for aud in [json!(stage.url("/token")), json!([stage.issuer]), json!([stage.url("/token"), "https://x.example.com"])] {
        token(stage, &with(stage, "legacy", json!({"aud": aud}))).expect(200);
    }
    refused(token(stage, &with(stage, "legacy", json!({"aud": "https://x.example.com"}))));
}

#[test]
fn a_jti_counts_once_wherever_the_assertion_is_shown_again() {
    let stage = stage();
    let assertion = with(stage, "signer", json!({}));
    let access = token(stage, &assertion).expect(200).json()["access_token"].as_str().expect("a token").to_owned();
    refused(token(stage, &assertion));
    refused(pushed(stage, &assertion));
    refused(post(&stage.url("/introspect"), &assertion, &[("token", &access)]));
    refused(post(&stage.url("/revoke"), &assertion, &[("token", &access)]));
    assert!(stage.active(&access), "the replay revoked nothing");
    let asked = with(stage, "signer", json!({}));
    post(&stage.url("/introspect"), &asked, &[("token", &access)]).expect(200);
    refused(post(&stage.url("/introspect"), &asked, &[("token", &access)]));
    refused(token(stage, &asked));
    // The same jti of another client is another assertion.
    let jti = random();
    token(stage, &with(stage, "signer", json!({"jti": jti}))).expect(200);
    token(stage, &with(stage, "other", json!({"jti": jti}))).expect(200);
    refused(token(stage, &with(stage, "signer", json!({"jti": jti}))));
    refused(token(stage, &with(stage, "signer", json!({"jti": null}))));
}

#[test]
fn another_key_another_type_and_a_changed_assertion_prove_nothing() {
    let stage = stage();
    let stranger = Key { kid: KEY.kid.clone(), ..Key::new("one") };
    refused(token(stage, &stranger.sign(&header(&stranger), &claims(stage, "signer"))));
    let mut typed = header(&KEY);
    typed["typ"] = json!("client-authentication+jwt");
    token(stage, &KEY.sign(&typed, &claims(stage, "signer"))).expect(200);
    typed["typ"] = json!("at+jwt");
    refused(token(stage, &KEY.sign(&typed, &claims(stage, "signer"))));
    let good = with(stage, "signer", json!({}));
    refused(token(stage, &good.replacen('e', "f", 1)));
    let (head, rest) = good.split_once('.').expect("segments");
    let (_, signature) = rest.split_once('.').expect("segments");
    let swapped = format!("{head}.{}.{signature}", b64(claims(stage, "other").to_string()));
    refused(token(stage, &swapped));
    token(stage, &good).expect(200);
}

#[test]
fn an_assertion_beside_another_method_is_refused() {
    let stage = stage();
    let assertion = with(stage, "signer", json!({}));
    let form = [("grant_type", "client_credentials"), ("client_assertion_type", TYPE), ("client_assertion", assertion.as_str())];
    let basic = client().post(stage.url("/token")).basic_auth(MACHINE.id, Some(MACHINE.secret)).form(&form).go();
    basic.expect_error(400, "invalid_request");
    refused(post(&stage.url("/token"), &assertion, &[("grant_type", "client_credentials"), ("client_id", "other")]));
    post(&stage.url("/token"), &assertion, &[("grant_type", "client_credentials"), ("client_secret", "x")])
        .expect_error(400, "invalid_request");
    refused(token(stage, &with(stage, MACHINE.id, json!({}))));
    let secret = [("grant_type", "client_credentials"), ("client_id", "signer"), ("client_secret", "x")];
    refused(client().post(stage.url("/token")).form(&secret).go());
    token(stage, &assertion).expect(200);
}

#[test]
fn keys_at_an_address_are_fetched_again_for_a_new_kid_but_rarely() {
    let stage = stage();
    token(stage, &with(stage, "fetched", json!({}))).expect(200);
    let first = stage.keys.asked();
    for _ in 0..5 {
        token(stage, &with(stage, "fetched", json!({}))).expect(200);
    }
    assert_eq!(stage.keys.asked(), first, "a fresh set is not asked for again");
    let next = Key::new("two");
    stage.keys.publish(&[&next]);
    let rotated = || token(stage, &next.sign(&header(&next), &claims(stage, "fetched"))).status;
    let within = std::time::Duration::from_secs(30);
    wait_until("the new key is found", within, || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        rotated() == 200
    });
    assert_eq!(stage.keys.asked(), first + 1);
    refused(token(stage, &with(stage, "fetched", json!({}))));
    // Unknown kids make no storm.
    for n in 0..20 {
        let guess = Key { kid: format!("guess-{n}"), ..Key::new("x") };
        refused(token(stage, &guess.sign(&header(&guess), &claims(stage, "fetched"))));
    }
    assert!(stage.keys.asked() <= first + 3, "{} fetches", stage.keys.asked() - first);
    stage.keys.break_down();
    assert_eq!(rotated(), 200, "the last good set serves while the address is down");
    assert!(stage.metric("jwks_fetch_total{") >= 1.0);
}

#[test]
fn a_workload_is_proved_by_its_platforms_token() {
    let stage = stage();
    let platform = |change: Value| {
        let mut claims = json!({
            "iss": stage.cluster.url, "sub": "system:serviceaccount:shop:cart", "aud": [stage.issuer], "iat": now(), "exp": now() + 3600,
        });
        for (name, value) in change.as_object().expect("members") {
            claims[name] = value.clone();
        }
        stage.cluster_key.sign(&json!({"alg": "ES256", "kid": "cluster"}), &claims)
    };
    let shown = |assertion: &str| {
        post(&stage.url("/token"), assertion, &[("grant_type", "client_credentials"), ("scope", "read"), ("client_id", "workload")])
    };
    let good = platform(json!({}));
    let answer = shown(&good).expect(200).json();
    assert_eq!(crate::kit::http::claims(answer["access_token"].as_str().expect("a token"))["sub"], "workload");
    shown(&good).expect(200);
    refused(shown(&platform(json!({"sub": "system:serviceaccount:shop:thief"}))));
    refused(shown(&platform(json!({"aud": "https://x.example.com"}))));
    refused(shown(&platform(json!({"exp": now() - 61}))));
    refused(shown(&platform(json!({"iss": "https://x.example.com"}))));
    refused(token(stage, &good));
    refused(post(&stage.url("/token"), &good, &[("grant_type", "client_credentials"), ("client_id", "signer")]));
    refused(shown(&with(stage, "workload", json!({}))));
}

#[test]
fn a_spent_jti_stays_spent_when_the_process_dies() {
    let (upstream, house) = (Upstream::start(), House::new());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().expect("clients").push(signer("signer", json!({"jwks": {"keys": [KEY.jwk()]}})));
    house.seed(&seed);
    let server = house.serve();
    let assertion = with(&server, "signer", json!({"exp": now() + 300}));
    token(&server, &assertion).expect(200);
    server.kill();
    let server = house.serve();
    refused(token(&server, &assertion));
    token(&server, &with(&server, "signer", json!({}))).expect(200);
}

#[test]
fn a_refused_request_spends_its_assertion_too() {
    let stage = stage();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let nothing: [Case<'_>; 5] = [
        ("/token", &[("grant_type", "client_credentials"), ("scope", "nobodys")], "invalid_scope"),
        ("/token", &[("grant_type", "authorization_code"), ("code", "dwc_wrong"), ("redirect_uri", BACK)], "invalid_grant"),
        ("/token", &[], "invalid_request"),
        ("/par", &[("client_id", "signer"), ("response_type", "code")], "invalid_request"),
        ("/device_authorization", &[], "unauthorized_client"),
    ];
    for (path, form, error) in nothing {
        let assertion = with(stage, "signer", json!({}));
        post(&stage.url(path), &assertion, form).expect_error(400, error);
        refused(token(stage, &assertion));
        refused(post(&stage.url(path), &assertion, form));
    }
}

#[test]
fn a_jti_spent_at_one_node_is_spent_at_the_other_and_after_a_restart() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().expect("clients").push(signer("signer", json!({"jwks": {"keys": [KEY.jwk()]}})));
    house.seed(&seed);
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let at = |node: &Server, assertion: &str| {
        let url = format!("http://{}/token", node.listener("public"));
        post(&url, assertion, &[("grant_type", "client_credentials"), ("scope", "read")])
    };
    for _ in 0..20 {
        let assertion = with(&a, "signer", json!({}));
        let (one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(|| at(&b, &assertion));
            (at(&a, &assertion), other.join().expect("an answer"))
        });
        let mut both = [one.status, two.status];
        both.sort_unstable();
        assert_eq!(both, [200, 401], "{} / {}", one.text(), two.text());
    }
    let assertion = with(&a, "signer", json!({"exp": now() + 300}));
    at(&a, &assertion).expect(200);
    a.kill();
    let a = house.serve();
    refused(at(&a, &assertion));
    refused(at(&b, &assertion));
}
