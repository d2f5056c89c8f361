//! How a gateway of its own proves itself to its authorization server: a signed assertion (RFC 7523), a certificate (RFC 8705 §2), and answers
//! that the server signs (RFC 9701).
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::authority::certified;
use crate::kit::http::{Go, b64};
use crate::kit::jose::thumbprint;
use crate::kit::seed::{SAFE, VAULT, route, standard};
use crate::kit::{House, Server, Upstream};
use crate::remote_gateway::gateway_house;

/// The public half of a key file.
fn jwk(house: &House, name: &str) -> Value {
    let done = Command::new("openssl")
        .args(["pkey", "-in", &format!("{name}.key"), "-pubout", "-outform", "der"])
        .current_dir(house.dir())
        .output()
        .expect("openssl runs");
    let (x, y) = done.stdout[done.stdout.len() - 64..].split_at(32);
    let mut key = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)});
    key["kid"] = thumbprint(&key).into();
    key["alg"] = "ES256".into();
    key
}

fn gate(id: &str, method: &str, members: Value) -> Value {
    let mut client = json!({
        "client_id": id, "token_endpoint_auth_method": method, "grant_types": ["client_credentials"],
        "scope": "doorward.introspect doorward.feed",
    });
    for (name, value) in members.as_object().expect("members") {
        client[name] = value.clone();
    }
    client
}

/// A gateway that asks about every token.
fn asking(house: &House, upstream: &Upstream, id: &str, key: &str, certificate: Option<&str>, signed: bool) -> Server {
    let mut gateway = gateway_house(house);
    gateway.without("gateway").text("gateway.authorization_server", &house.issuer).text("gateway.client_id", id);
    gateway.text("gateway.client_key_file", &house.path(&format!("{key}.key")).display().to_string());
    if let Some(name) = certificate {
        gateway.text("gateway.client_certificate_file", &house.path(&format!("{name}.pem")).display().to_string());
    }
    gateway.set("gateway.signed_introspection", if signed { "true" } else { "false" });
    gateway.text("outbound.extra_ca_file", &house.path("ca.pem").display().to_string());
    let auth = json!({"accept": ["opaque"], "issuers": ["self"], "audience": VAULT, "freshness": "introspect"});
    gateway.seed(
        &json!({"upstreams": [{"id": "echo", "targets": [{"url": upstream.url()}]}], "routes": [route("vault", "/vault/", "echo", auth)]}),
    );
    gateway.serve()
}

#[test]
fn keys_certificates_and_signed_answers() {
    let (upstream, mut house) = (Upstream::start(), House::new());
    let Some(authority) = certified(&mut house) else { return };
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let keys = json!({"jwks": {"keys": [jwk(&house, "other")]}, "introspection_signed_response_alg": "ES256"});
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.push(gate("by-key", "private_key_jwt", keys.clone()));
    clients.push(gate("plain-key", "private_key_jwt", json!({"jwks": keys["jwks"]})));
    clients.push(gate("by-certificate", "tls_client_auth", json!({"tls_client_auth_subject_dn": "CN=app,O=Example"})));
    seed["resource_servers"][1]["introspection_clients"] = json!(["by-key", "plain-key", "by-certificate"]);
    house.seed(&seed);
    let server = house.serve();
    let form = [("grant_type", "client_credentials")];
    let answer = authority.client().post(server.url("/token")).basic_auth(SAFE.id, Some(SAFE.secret)).form(&form).go().expect(200);
    let token = answer.json()["access_token"].as_str().expect("a token").to_owned();

    for (id, key, certificate, signed) in
        [("by-key", "other", None, true), ("plain-key", "other", None, false), ("by-certificate", "app", Some("app"), false)]
    {
        let gateway = asking(&house, &upstream, id, key, certificate, signed);
        let begun = std::time::Instant::now();
        while gateway.call("/vault/x", &token).status != 200 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{id} is not let in: {}", gateway.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(gateway.call("/vault/x", "dwa_nonsense").status, 401, "{id}");
    }
    // Another key, another certificate: nobody is let in.
    for (id, key, certificate, signed) in [("by-key", "own", None, true), ("by-certificate", "other", Some("other"), false)] {
        let gateway = asking(&house, &upstream, id, key, certificate, signed);
        for _ in 0..5 {
            assert_eq!(gateway.call("/vault/x", &token).status, 503, "{id} {key}");
        }
    }
}

#[test]
fn another_doorward_is_asked_by_a_certificate() {
    let (upstream, mut theirs) = (Upstream::start(), House::new());
    let Some(authority) = certified(&mut theirs) else { return };
    theirs.bootstrap();
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.push(gate("by-certificate", "tls_client_auth", json!({"tls_client_auth_subject_dn": "CN=app,O=Example"})));
    seed["resource_servers"][1]["introspection_clients"] = json!(["by-certificate"]);
    theirs.seed(&seed);
    let server = theirs.serve();
    let form = [("grant_type", "client_credentials")];
    let answer = authority.client().post(server.url("/token")).basic_auth(SAFE.id, Some(SAFE.secret)).form(&form).go().expect(200);
    let token = answer.json()["access_token"].as_str().expect("a token").to_owned();

    let read = |name: &str| std::fs::read_to_string(theirs.path(name)).expect("a file");
    let asked_as = |name: &str| {
        json!({
            "endpoint": format!("{}/introspect", theirs.issuer), "client_id": "by-certificate", "auth": "tls_client_auth",
            "certificate": read(&format!("{name}.pem")), "secret": read(&format!("{name}.key")),
        })
    };
    let trusted = |name: &str| json!({"issuer": theirs.issuer, "algorithms": ["ES256"], "introspection": asked_as(name)});
    let stage = crate::kit::apart::stage(
        |house| {
            house.set("outbound.allow", &json!([theirs.issuer.trim_start_matches("https://")]).to_string());
            house.text("outbound.extra_ca_file", &authority.file().display().to_string());
        },
        &json!({
            "trusted_issuers": [trusted("app")],
            "routes": [route("abroad", "/abroad/", "echo", json!({
                "accept": ["opaque"], "issuers": [theirs.issuer], "audience": VAULT, "freshness": "introspect",
            }))],
        }),
    );
    assert_eq!(stage.call("/abroad/x", &token).status, 200, "{}", stage.log());
    assert_eq!(stage.call("/abroad/x", "dwa_nonsense").status, 401);
    let found = stage.admin("GET", "/trusted-issuers").go().expect(200).json();
    assert!(!found.to_string().contains("PRIVATE KEY"));
    let path = format!("/trusted-issuers/{}", found["items"][0]["id"].as_str().expect("an id"));
    stage.admin("PUT", &path).json(&trusted("other")).go().expect(200);
    assert_eq!(stage.call("/abroad/x", &token).status, 503, "another's certificate");
    stage
        .admin("PATCH", &path)
        .json(&json!({"introspection": {"secret": read("app.key"), "certificate": read("app.pem")}}))
        .go()
        .expect(200);
    assert_eq!(stage.call("/abroad/x", &token).status, 200, "the right one again, without a restart");
    let form = [("token", token.as_str())];
    authority.client().post(server.url("/revoke")).basic_auth(SAFE.id, Some(SAFE.secret)).form(&form).go().expect(200);
    assert_eq!(stage.call("/abroad/x", &token).status, 401);
}

#[test]
fn what_does_not_fit_together_is_said_before_the_start() {
    let house = House::new();
    let mut gateway = gateway_house(&house);
    let key = gateway.write("key.pem", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n");
    gateway.text("gateway.client_key_file", &key.display().to_string());
    assert!(gateway.run(&["check"]).failed(2).said().contains("client_secret"), "a secret and a key");
    gateway.without("gateway").text("gateway.authorization_server", &house.issuer).text("gateway.client_id", "gw");
    let said = gateway.run(&["check"]).failed(2).said();
    assert!(said.contains("gateway.client_secret_file"), "{said}");
    gateway.text("gateway.client_certificate_file", &key.display().to_string());
    assert!(gateway.run(&["check"]).failed(2).said().contains("client_certificate_file"));
    gateway.without("gateway").text("gateway.authorization_server", &house.issuer).text("gateway.client_id", "gw");
    gateway.text("gateway.client_key_file", &key.display().to_string());
    assert!(gateway.try_serve().is_err_and(|said| said.contains("client_key_file")), "not a key");
    gateway.text("gateway.identifier", "not a URI");
    assert!(gateway.run(&["check"]).failed(2).said().contains("gateway.identifier"));
}
