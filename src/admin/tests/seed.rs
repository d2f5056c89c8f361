//! Declarative seeds.
use super::*;

const CONTRACT_SEED: &str = r#"{
  "users": [{"username": "alice", "password": "correct horse battery staple", "email": "alice@example.com", "email_verified": true, "name": "Alice A", "roles": ["viewer"], "groups": []}],
  "resource_servers": [{"identifier": "https://api.example.com", "name": "API", "scopes": [{"name": "read"}, {"name": "write"}], "access_token_format": "jwt", "access_token_ttl": "5m", "introspection_clients": ["gw"]}],
  "clients": [
    {"client_id": "machine", "client_secret": "machine secret 0123456789", "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "read write", "allowed_resources": ["https://api.example.com"]},
    {"client_id": "web", "redirect_uris": ["https://rp.example.com/cb"], "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "client_secret_basic", "scope": "openid profile email offline_access read", "allowed_resources": ["https://api.example.com"]},
    {"client_id": "spa", "redirect_uris": ["http://127.0.0.1/cb"], "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none", "scope": "openid read offline_access", "allowed_resources": ["https://api.example.com"]},
    {"client_id": "gw", "client_secret": "gateway secret 0123456789", "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.introspect doorward.feed"}
  ],
  "trusted_issuers": [{"issuer": "https://other.example.com", "jwks_uri": "https://other.example.com/jwks", "algorithms": ["ES256", "RS256"]}],
  "upstreams": [{"id": "echo", "targets": [{"url": "http://127.0.0.1:9000"}]}],
  "routes": [
    {"id": "read", "match": {"path_prefix": "/api/", "methods": ["GET"]}, "upstream": "echo", "auth": {"accept": ["jwt", "opaque"], "issuers": ["self", "https://other.example.com"], "audience": "https://api.example.com", "scopes": ["read"], "freshness": "push"}},
    {"id": "open", "match": {"path_prefix": "/public/"}, "upstream": "echo", "public": true}
  ],
  "api_keys": [], "devices": [], "policies": []
}"#;

#[tokio::test]
async fn a_seed_applied_twice_changes_nothing_and_shows_no_secret_again() {
    let b = bench().await;
    let actor = Actor::command("seed");
    let preview = crate::seed::plan(&b.objects, CONTRACT_SEED.as_bytes(), &actor).await.unwrap().preview();
    assert_eq!((preview["applied"].clone(), preview["created"].as_array().unwrap().len()), (json!(false), 10));
    assert_eq!(b.head().await, 0, "a plan changes nothing");

    let first = crate::seed::apply(&b.objects, CONTRACT_SEED.as_bytes(), &actor).await.unwrap();
    assert_eq!(first["applied"], true);
    assert_eq!(first["created"].as_array().unwrap().len(), 10);
    assert!(first["users"][0].get("password").is_none(), "a given password is not repeated");
    let by_id = |id: &str| first["clients"].as_array().unwrap().iter().find(|c| c["client_id"] == id).unwrap().clone();
    assert!(by_id("web")["client_secret"].as_str().unwrap().starts_with("dws_"));
    assert!(by_id("spa").get("client_secret").is_none());
    assert!(by_id("machine").get("client_secret").is_none());
    let id = first["users"][0]["id"].as_str().unwrap();
    assert_eq!(b.store.object(ObjectKind::User, id).await.unwrap().unwrap().key, "alice");
    assert_eq!(b.kinds_since(0).await, vec!["object.created"; 10]);

    let head = b.head().await;
    let second = crate::seed::apply(&b.objects, CONTRACT_SEED.as_bytes(), &actor).await.unwrap();
    assert_eq!((second["unchanged"].clone(), second["created"].clone(), second["replaced"].clone()), (json!(10), json!([]), json!([])));
    assert!(!second.to_string().contains("dws_"));
    assert_eq!(second["users"][0]["id"], id);
    assert_eq!(b.head().await, head);
}

#[tokio::test]
async fn a_changed_seed_replaces_what_differs_and_an_unchanged_secret_stays() {
    let b = bench().await;
    let actor = Actor::command("seed");
    crate::seed::apply(&b.objects, CONTRACT_SEED.as_bytes(), &actor).await.unwrap();
    let before = b.secret(ObjectKind::User, &b.objects.find(ObjectKind::User, "alice").await.unwrap().unwrap().id, "password").await;
    let changed = CONTRACT_SEED.replace("Alice A", "Alice B").replace("machine secret 0123456789", "another machine secret 01234");
    let head = b.head().await;
    let result = crate::seed::apply(&b.objects, changed.as_bytes(), &actor).await.unwrap();
    assert_eq!(result["replaced"], json!([{ "kind": "user", "key": "alice" }, { "kind": "client", "key": "machine" }]));
    assert_eq!(b.kinds_since(head).await, ["object.replaced", "secret.rotated"]);
    let alice = b.objects.find(ObjectKind::User, "alice").await.unwrap().unwrap();
    assert_eq!(alice.document["name"], "Alice B");
    assert_eq!(b.secret(ObjectKind::User, &alice.id, "password").await, before);
}

#[tokio::test]
async fn a_list_that_restricts_is_never_empty_and_what_is_told_is_not_given() {
    let b = bench().await;
    let bad = r#"{
      "routes": [{"id": "r", "match": {"path_prefix": "/a/", "methods": [], "hosts": []}, "upstream": "u",
        "auth": {"accept": ["mtls"], "certificate": {"allow": [], "authorities": [], "spiffe_trust_domains": []}}}],
      "api_keys": [
        {"id": "k", "scopes": [], "audience": [], "routes": [], "allowed_cidrs": [], "revoked": true, "api_key": "short"},
        {"id": "l", "owner": {"subject": "a", "client_id": "b"}, "revoked": false}
      ]
    }"#;
    let Err(Failure::Invalid(mistakes)) = crate::seed::apply(&b.objects, bad.as_bytes(), &Actor::command("seed")).await else { panic!() };
    let at: Vec<&str> = mistakes.iter().map(|m| m.at.as_str()).collect();
    for expected in [
        "routes[0].auth.certificate.allow",
        "routes[0].auth.certificate.authorities",
        "routes[0].auth.certificate.spiffe_trust_domains",
        "api_keys[0].audience",
        "api_keys[0].revoked",
        "api_keys[0].api_key",
        "api_keys[1].owner",
    ] {
        assert!(at.contains(&expected), "{expected} is not in {mistakes:#?}");
    }
    assert_eq!((at.contains(&"api_keys[0].scopes"), at.contains(&"api_keys[1].revoked"), b.head().await), (false, false, 0));
}

#[tokio::test]
async fn a_bad_seed_is_refused_whole_with_every_mistake_and_its_path() {
    let b = bench().await;
    let bad = r#"{
      "users": [{"username": "bob", "password": "long enough secret"}, {"usernam": "x"}, {"username": "bob"}],
      "clients": [{"client_id": "ok", "token_endpoint_auth_method": "none", "client_secret": "must not be"}, {"redirect_uris": "https://a/"}],
      "routes": [{"id": "r", "match": {"path_prefix": "/a/"}, "upstream": "nowhere", "cors": {}}],
      "client": [], "api_keys": [{"id": "k", "owner": {"subject": "nobody"}, "expires_at": "soon", "api_key": "dwa_x"}], "devices": {}
    }"#;
    let Err(Failure::Invalid(mistakes)) = crate::seed::apply(&b.objects, bad.as_bytes(), &Actor::command("seed")).await else { panic!() };
    let told: Vec<String> = mistakes.iter().map(|m| format!("{}: {}", m.at, m.why)).collect();
    for expected in [
        "client: is not known; did you mean `clients`?",
        "api_keys[0].api_key: begins as this server's tokens do",
        "api_keys[0].expires_at: a date and time such as 2030-01-31T12:00:00Z (RFC 3339), or seconds since the epoch, is needed",
        "devices: must be an array",
        "users[1].usernam: is not known; did you mean `username`?",
        "users[1].username: is missing",
        "users[2].username: comes twice in this seed",
        "clients[0].client_secret: a public client has no secret",
        "clients[1].redirect_uris: must be an array",
        "clients[1].client_id: is missing",
        "routes[0].cors.allow_origins: is missing",
    ] {
        assert!(told.iter().any(|t| t == expected), "{expected} is not in {told:#?}");
    }
    assert_eq!(b.head().await, 0);
    let dangling = r#"{"routes": [{"id": "r", "match": {"path_prefix": "/a/"}, "upstream": "nowhere", "public": true}]}"#;
    let Err(Failure::Invalid(mistakes)) = crate::seed::apply(&b.objects, dangling.as_bytes(), &Actor::command("seed")).await else {
        panic!()
    };
    assert_eq!(mistakes[0].at, "routes[0].upstream");
    let both = dangling.replacen('{', r#"{"nonsense": [], "#, 1);
    let Err(Failure::Invalid(mistakes)) = crate::seed::apply(&b.objects, both.as_bytes(), &Actor::command("seed")).await else { panic!() };
    let at: Vec<&str> = mistakes.iter().map(|m| m.at.as_str()).collect();
    assert_eq!(at, ["nonsense", "routes[0].upstream"]);
}
