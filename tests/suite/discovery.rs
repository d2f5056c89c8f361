//! Discovery and keys (RFC 8414, OpenID Connect Discovery 1.0, RFC 7517).
use serde_json::Value;

use crate::kit::http::{Go, client, unb64};
use crate::kit::{House, Shared, Stage};

static STAGE: Shared = Shared::new();

fn metadata(stage: &Stage) -> Value {
    client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json()
}

fn list<'a>(metadata: &'a Value, name: &str) -> Vec<&'a str> {
    metadata[name].as_array().unwrap_or_else(|| panic!("no {name}")).iter().filter_map(Value::as_str).collect()
}

#[test]
fn metadata_says_what_the_conformance_suite_asks_for() {
    let stage = STAGE.get();
    let answer = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200);
    assert!(answer.header("content-type").starts_with("application/json"));
    let m = answer.json();
    assert_eq!(m["issuer"], stage.issuer.as_str());
    for endpoint in [
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "userinfo_endpoint",
        "introspection_endpoint",
        "revocation_endpoint",
        "end_session_endpoint",
    ] {
        assert!(m[endpoint].as_str().is_some_and(|u| u.starts_with(&stage.issuer)), "{endpoint}: {}", m[endpoint]);
    }
    assert!(list(&m, "scopes_supported").contains(&"openid"));
    assert_eq!(list(&m, "response_types_supported"), ["code"]);
    assert_eq!(list(&m, "code_challenge_methods_supported"), ["S256"]);
    assert_eq!(list(&m, "subject_types_supported"), ["public", "pairwise"]);
    for grant in ["authorization_code", "refresh_token", "client_credentials"] {
        assert!(list(&m, "grant_types_supported").contains(&grant), "{grant}");
    }
    for method in ["client_secret_basic", "client_secret_post", "none"] {
        assert!(list(&m, "token_endpoint_auth_methods_supported").contains(&method), "{method}");
    }
    let algs = list(&m, "id_token_signing_alg_values_supported");
    assert!(algs.contains(&"RS256") && !algs.contains(&"none"), "{algs:?}");
    assert_eq!(m["authorization_response_iss_parameter_supported"], true);
    assert_eq!(m["request_parameter_supported"], true);
    assert_eq!(m["request_uri_parameter_supported"], false);
    assert!(list(&m, "claims_supported").contains(&"email"));
    assert!(list(&m, "response_modes_supported").contains(&"query"));
}

#[test]
fn what_is_not_built_is_not_advertised_and_not_there() {
    let stage = STAGE.get();
    let m = metadata(stage);
    for (name, path) in [
        ("pushed_authorization_request_endpoint", "/par"),
        ("device_authorization_endpoint", "/device_authorization"),
        ("backchannel_authentication_endpoint", "/bc-authorize"),
        ("registration_endpoint", "/register"),
    ] {
        if m.get(name).is_none() {
            let answer = client().post(stage.url(path)).form(&[("client_id", "web")]).go();
            assert_eq!(answer.status, 404, "{path} is not advertised, and answers {}", answer.status);
        }
    }
    let bound = "tls_client_certificate_bound_access_tokens";
    assert!(m.get(bound).is_none() || m[bound] == false, "without client certificates there is nothing to bind to");
    assert!(!list(&m, "token_endpoint_auth_methods_supported").contains(&"tls_client_auth"));
}

#[test]
fn both_well_knowns_agree() {
    let stage = STAGE.get();
    let other = client().get(stage.url("/.well-known/oauth-authorization-server")).go().expect(200).json();
    let m = metadata(stage);
    for name in ["issuer", "token_endpoint", "jwks_uri", "revocation_endpoint", "introspection_endpoint"] {
        assert_eq!(other[name], m[name], "{name}");
    }
}

#[test]
fn an_issuer_with_a_path_is_found_by_path_insertion() {
    let mut house = House::new();
    let origin = house.issuer.clone();
    house.issuer = format!("{origin}/tenant");
    let issuer = house.issuer.clone();
    house.text("server.issuer", &issuer);
    house.bootstrap();
    let _server = house.serve();
    let inserted = client().get(format!("{origin}/.well-known/oauth-authorization-server/tenant")).go().expect(200).json();
    assert_eq!(inserted["issuer"], issuer.as_str());
    let appended = client().get(format!("{issuer}/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(appended["token_endpoint"], format!("{issuer}/token"));
    client().get(appended["jwks_uri"].as_str().unwrap()).go().expect(200);
}

#[test]
fn the_key_set_is_public_and_complete() {
    let stage = STAGE.get();
    let keys = client().get(stage.url("/jwks")).go().expect(200).json();
    let keys = keys["keys"].as_array().unwrap();
    let mut kids: Vec<&str> = keys.iter().map(|k| k["kid"].as_str().unwrap()).collect();
    let count = kids.len();
    kids.sort_unstable();
    kids.dedup();
    assert_eq!(kids.len(), count, "every key has its own kid");
    for alg in ["ES256", "RS256"] {
        assert!(keys.iter().any(|k| k["alg"] == alg), "{alg}");
    }
    for key in keys {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k", "oth"] {
            assert!(key.get(private).is_none(), "{private} of {key}");
        }
        assert_eq!(key["use"], "sig");
        if key["kty"] == "RSA" {
            assert!(unb64(key["n"].as_str().unwrap()).len() >= 256, "2048 bits at least");
        }
    }
}

#[test]
fn an_independent_library_accepts_metadata_and_keys() {
    let stage = STAGE.get();
    let m: openidconnect::core::CoreProviderMetadata =
        serde_json::from_slice(&client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).body).unwrap();
    assert_eq!(m.issuer().as_str(), stage.issuer);
    let keys: openidconnect::core::CoreJsonWebKeySet =
        serde_json::from_slice(&client().get(stage.url("/jwks")).go().expect(200).body).unwrap();
    assert!(keys.keys().len() >= 2);
}

#[test]
fn health_and_readiness_answer() {
    let stage = STAGE.get();
    client().get(stage.url("/healthz")).go().expect(200);
    client().get(stage.url("/readyz")).go().expect(200);
}

#[test]
fn unknown_paths_and_methods_are_refused_plainly() {
    let stage = STAGE.get();
    client().get(stage.url("/nothing-here")).go().expect(404);
    let answer = client().get(stage.url("/token")).go();
    assert_eq!(answer.status, 405);
    client().delete(stage.url("/jwks")).go().expect(405);
}

#[test]
fn scripts_of_other_origins_may_call_what_browser_clients_need_and_nothing_else() {
    let stage = STAGE.get();
    let preflight = |path: &str| {
        let asked = client().request(reqwest::Method::OPTIONS, stage.url(path)).header("origin", "https://spa.example.com");
        asked.header("access-control-request-method", "POST").header("access-control-request-headers", "authorization,dpop").go()
    };
    for (path, method) in [
        ("/token", "POST"),
        ("/revoke", "POST"),
        ("/userinfo", "GET, POST"),
        ("/jwks", "GET"),
        ("/.well-known/openid-configuration", "GET"),
        ("/.well-known/oauth-authorization-server", "GET"),
    ] {
        let told = preflight(path).expect(204);
        assert_eq!((told.header("access-control-allow-origin"), told.header("access-control-allow-methods")), ("*", method), "{path}");
        assert_eq!(told.header("access-control-allow-headers"), "Authorization, Content-Type, DPoP", "{path}");
        assert!(!told.header("access-control-max-age").is_empty() && told.header("access-control-allow-credentials").is_empty(), "{path}");
        let called = if method == "POST" { client().post(stage.url(path)) } else { client().get(stage.url(path)) };
        let answer = called.header("origin", "https://spa.example.com").go();
        // Refusals too: a script has to see why.
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert!(answer.header("access-control-allow-credentials").is_empty(), "{path}");
    }
    for path in ["/introspect", "/login", "/consent", "/account", "/authorize", "/logout"] {
        let told = preflight(path);
        assert!(told.status == 405 && told.header("access-control-allow-origin").is_empty(), "{path}: {}", told.status);
        let answer = client().get(stage.url(path)).header("origin", "https://spa.example.com").go();
        assert!(answer.header("access-control-allow-origin").is_empty(), "{path}");
    }
    let admin = stage.admin("GET", "/users").header("origin", "https://spa.example.com").go().expect(200);
    assert!(admin.header("access-control-allow-origin").is_empty());
}
