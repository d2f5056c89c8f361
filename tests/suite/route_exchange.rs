//! Token exchange for a route (RFC 8693): the upstream's token has its audience and less scope, and the caller's never gets there.
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::apart::{client as registered, stage};
use crate::kit::http::{claims, client, random};
use crate::kit::seed::{API, MACHINE, VAULT};
use crate::kit::{Go, House, Id, Server, Stage, Upstream};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ORDERS: &str = "https://orders.example.com";
const BROKER: Id = Id {
    id: "broker",
    secret: "broker-secret-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    method: "client_secret_basic",
    redirect: "",
    scope: "read orders open doorward.introspect doorward.feed",
};

fn exchanging(id: &str, exchange: Value) -> Value {
    json!({
        "id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "token_exchange": exchange,
        "auth": {"accept": ["jwt", "opaque"], "issuers": ["self"], "audience": API},
    })
}

fn routes() -> Value {
    json!([
        exchanging("orders", json!({"resource": ORDERS, "scopes": ["read"]})),
        exchanging("vaulted", json!({"audience": VAULT, "scopes": ["open"]})),
        exchanging("toomuch", json!({"resource": ORDERS, "scopes": ["write"]})),
        exchanging("nowhere", json!({"resource": "https://nowhere.example.com"})),
    ])
}

fn objects() -> Value {
    let policy = json!({"impersonation": true, "subject_clients": ["machine", "home"], "scopes": ["open"]});
    json!({
        "resource_servers": [{"identifier": ORDERS, "name": "Orders", "scopes": [{"name": "read"}, {"name": "orders"}], "introspection_clients": ["gw"]}],
        "clients": [registered(&BROKER, &[EXCHANGE, "client_credentials"], json!({"allowed_resources": [API, ORDERS, VAULT], "token_exchange": policy}))],
    })
}

fn as_broker(house: &mut House, secret: &str) {
    house.text("gateway.client_id", BROKER.id).text("gateway.client_secret", secret);
}

fn world() -> &'static Stage {
    static WORLD: OnceLock<Stage> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut more = objects();
        more["routes"] = routes();
        stage(|house| as_broker(house, BROKER.secret), &more)
    })
}

/// The upstream's token after a call.
fn given(server: &Server, upstream: &Upstream, path: &str, token: &str) -> String {
    let mark = random();
    server.call(&format!("{path}{mark}"), token).expect(200);
    let seen = upstream.only(&mark);
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(token)), "the caller's token got through: {:?}", seen.headers);
    seen.all("authorization")[0].strip_prefix("Bearer ").expect("a bearer token").to_owned()
}

#[test]
fn the_upstream_gets_a_token_of_its_own_once_for_many_requests() {
    let stage = world();
    let token = stage.machine_token(&MACHINE, &[]);
    let first = given(&stage.server, &stage.upstream, "/orders/", &token);
    let said = claims(&first);
    assert_eq!((said["aud"].as_str(), said["scope"].as_str(), said["client_id"].as_str()), (Some(ORDERS), Some("read"), Some("broker")));
    assert!(stage.introspect(&first)["active"].as_bool().unwrap() && said["exp"].as_i64() <= claims(&token)["exp"].as_i64());
    for _ in 0..20 {
        assert_eq!(given(&stage.server, &stage.upstream, "/orders/", &token), first, "kept, for all threads");
    }
    let opaque = given(&stage.server, &stage.upstream, "/vaulted/", &token);
    assert!(opaque.starts_with("dwa_"), "what the resource's tokens are like: {opaque}");
    let other = stage.machine_token(&MACHINE, &[]);
    assert_ne!(given(&stage.server, &stage.upstream, "/orders/", &other), first, "what one caller's became is not another's");
}

#[test]
fn many_at_once_are_one_exchange() {
    let stage = world();
    let before = stage.metric("token_exchange_total{outcome=\"ok\"}");
    let token = stage.machine_token(&MACHINE, &[]);
    let url = stage.through("/orders/x");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| client().get(&url).bearer_auth(&token).go().expect(200));
        }
    });
    let made = stage.metric("token_exchange_total{outcome=\"ok\"}") - before;
    // Other tests of this file exchange too; these sixteen are one.
    assert!((1.0..12.0).contains(&made), "{made} exchanges");
}

#[test]
fn what_is_revoked_is_not_exchanged_and_what_it_became_is_dead() {
    let stage = world();
    let token = stage.machine_token(&MACHINE, &[]);
    let inside = given(&stage.server, &stage.upstream, "/orders/", &token);
    assert!(stage.active(&inside));
    stage.revoke(&MACHINE, &token);
    let mark = random();
    assert_eq!(stage.call(&format!("/orders/{mark}"), &token).status, 401);
    assert!(stage.upstream.seen(&mark).is_empty());
    assert!(!stage.active(&inside), "what it became ends with it");
}

#[test]
fn what_the_authorization_server_refuses_is_refused_and_nothing_is_forwarded() {
    let stage = world();
    let token = stage.machine_token(&MACHINE, &[]);
    for path in ["/toomuch/", "/nowhere/"] {
        let mark = random();
        let answer = stage.call(&format!("{path}{mark}"), &token).expect(403);
        assert!(!answer.text().contains("exchange"), "the client hears no reason: {}", answer.text());
        assert!(stage.upstream.seen(&mark).is_empty(), "{path}");
    }
}

#[test]
fn a_gateway_that_is_not_known_there_or_has_no_client_forwards_nothing() {
    for secret in [Some("not-the-secret-at-all-0123456789abcdef"), None] {
        let mut more = objects();
        more["routes"] = routes();
        let stage = stage(
            |house| {
                if let Some(secret) = secret {
                    as_broker(house, secret);
                }
            },
            &more,
        );
        let (token, mark) = (stage.machine_token(&MACHINE, &[]), random());
        stage.call(&format!("/orders/{mark}"), &token).expect(503);
        assert!(stage.upstream.seen(&mark).is_empty());
    }
}

#[test]
fn a_gateway_process_of_its_own_exchanges_over_http_and_signs() {
    let stage = world();
    let upstream = Upstream::start();
    let mut house = crate::remote_gateway::gateway_house(&stage.house);
    let secret = house.write("broker", BROKER.secret);
    house.text("gateway.client_id", BROKER.id).text("gateway.client_secret_file", &secret.display().to_string());
    let mut signed = exchanging("signed", json!({"resource": ORDERS, "scopes": ["read"]}));
    signed["identity"] = json!({"signed_assertion": true});
    house.seed(&json!({"upstreams": [{"id": "echo", "targets": [{"url": upstream.url()}]}], "routes": [signed]}));
    let gateway = house.serve();
    let (token, mark) = (stage.machine_token(&MACHINE, &[]), random());
    crate::kit::wait_until("the feed is joined", std::time::Duration::from_secs(10), || gateway.call("/signed/x", &token).status == 200);
    gateway.call(&format!("/signed/{mark}"), &token).expect(200);
    let seen = upstream.only(&mark);
    assert_eq!(claims(&seen.all("authorization")[0][7..])["aud"], ORDERS);
    let assertion = seen.all("x-doorward-assertion")[0].to_owned();
    let keys = client().get(gateway.through("/.well-known/doorward-gateway/jwks.json")).go().expect(200).text();
    assert!(keys.contains(crate::kit::http::jose_header(&assertion)["kid"].as_str().unwrap()));
    assert_eq!(claims(&assertion)["iss"], format!("{}/gateway", stage.issuer));
    stage.revoke(&MACHINE, &token);
    crate::kit::wait_until("the revocation is heard", std::time::Duration::from_secs(5), || {
        gateway.call("/signed/x", &token).status == 401
    });
}

#[test]
fn what_cannot_be_is_refused_where_it_is_registered() {
    let stage = world();
    for exchange in [json!({}), json!({"resource": "a", "audience": "b"}), json!({"resource": "a", "scopes": ["a b"]}), json!({"to": "x"})]
    {
        let answer = stage.admin("POST", "/routes").json(&exchanging("bad", exchange.clone())).go().expect(422);
        assert!(answer.text().contains("token_exchange"), "{exchange}: {}", answer.text());
    }
}
