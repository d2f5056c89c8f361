//! The token side over its router: what is asked is HTTP, what is answered is HTTP.
mod store;

use std::sync::{Arc, atomic::Ordering};

use accounts::User;
use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use base64::Engine;
use futures_util::StreamExt;
use http::{HeaderMap, Request, StatusCode, header};
use ledger::{Artefact, ArtefactKind, EventKind, Grant, NewEvent, RevocationKind, Store};
use protocol::{
    Client, ResourceServer, Settings,
    client_auth::KnownClient,
    resource::ScopeEntry,
    stored::{Authentication, CodeDocument},
};
use serde_json::{Value, json};
use tokens::{
    Alg,
    keyring::{Kept, KeyRing, State},
    secret::{self, MacKey, SecretKind},
    sign::SigningKey,
};
use tower::ServiceExt;

use self::store::World;
use crate::{App, Parts, account::hashing::Hashing};

const ISSUER: &str = "https://id.example.com/t";
const API: &str = "https://api.example.com";
const NOW_MS: i64 = 1_700_000_000_000;
const FORM: &str = "application/x-www-form-urlencoded";

struct Server {
    world: Arc<World>,
    router: Router,
    mac: MacKey,
}

fn key() -> SigningKey {
    SigningKey::generate(Alg::ES256).unwrap().0
}

impl Server {
    fn new(settings: impl FnOnce(&mut Settings)) -> Self {
        let world = Arc::new(World::default());
        world.now_ms.store(NOW_MS, Ordering::Relaxed);
        let mut chosen = Settings::for_issuer(ISSUER);
        settings(&mut chosen);
        let mac = MacKey::new([3; 32]);
        let app = App::new(Parts {
            settings: chosen,
            store: world.clone(),
            keys: Arc::new(ArcSwap::from_pointee(KeyRing::new(vec![Kept { state: State::Current, key: key(), changed_at: 0 }]))),
            revoked: Arc::clone(&world.revoked),
            clock: world.clone(),
            entropy: world.clone(),
            mac: mac.clone(),
            counters: world.clone(),
            hashing: Hashing::new(1),
            outbound: Arc::new(outbound::Outbound::new(&[], &[]).expect("a policy")),
            key_uses: Arc::default(),
            trusted_proxies: Vec::new(),
            closing: tokio_util::sync::CancellationToken::new(),
        });
        let server = Self { world, router: crate::router(app), mac };
        server.people();
        server
    }

    fn people(&self) {
        let scopes = vec![ScopeEntry { name: "read".into(), description: None }];
        self.world.object(&ResourceServer {
            id: "api".into(),
            identifier: API.into(),
            scopes,
            introspection_clients: vec!["gw".into()],
            ..ResourceServer::default()
        });
        self.world.object(&User { id: "u1".into(), username: "alice".into(), ..User::default() });
        let machine = |id: &str, scope: &str| Client {
            client_id: id.into(),
            grant_types: vec!["client_credentials".into()],
            scope: scope.into(),
            allowed_resources: vec![API.into()],
            ..Client::default()
        };
        self.client(&machine("machine", "read"));
        self.client(&Client { access_token_format: Some("opaque".into()), ..machine("opaque", "read") });
        self.client(&Client { allowed_resources: Vec::new(), ..machine("gw", "doorward.introspect doorward.feed") });
        self.client(&machine("other", "read"));
        self.client(&Client {
            grant_types: vec!["authorization_code".into(), "refresh_token".into()],
            redirect_uris: vec!["https://rp/cb".into()],
            id_token_signed_response_alg: Some("ES256".into()),
            ..machine("web", "openid email offline_access read")
        });
    }

    fn client(&self, client: &Client) {
        let mac = self.mac.mac(KnownClient::DOMAIN, format!("secret-{}", client.client_id).as_bytes());
        self.world.rows.lock().secrets.insert((client.client_id.clone(), KnownClient::SECRET.into()), mac.to_vec());
        self.world.object(client);
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let octets = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&octets).unwrap_or(Value::Null))
    }
    async fn post(&self, path: &str, client: &str, form: &str) -> (StatusCode, HeaderMap, Value) {
        self.send(posted(path, Some(&basic(client)), FORM, form)).await
    }
    async fn token(&self, client: &str) -> String {
        let (status, _, body) = self.post("/token", client, "grant_type=client_credentials").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }
    async fn active(&self, caller: &str, token: &str) -> bool {
        let (status, _, body) = self.post("/introspect", caller, &format!("token={token}")).await;
        assert_eq!(status, StatusCode::OK);
        body["active"].as_bool().unwrap()
    }

    /// A code as the authorization endpoint would have stored it.
    fn code(&self, scope: &str) -> String {
        let issued = secret::generate(SecretKind::Code, NOW_MS, self.world.as_ref(), &self.mac);
        let now = NOW_MS / 1000;
        let document = CodeDocument {
            client_id: "web".into(),
            redirect_uri: "https://rp/cb".into(),
            code_challenge: None,
            nonce: None,
            subject: "u1".into(),
            session: None,
            scope: scope.into(),
            resource: API.into(),
            authentication: Authentication { auth_time: now, acr: None, amr: Vec::new() },
            claims: None,
            ..CodeDocument::default()
        };
        let grant = Grant {
            id: "g1".into(),
            subject: "u1".into(),
            client_id: "web".into(),
            session: None,
            scope: scope.into(),
            document: json!({}),
            created_at: now,
            expires_at: now + 600,
            ended_at: None,
        };
        let artefact = Artefact {
            kind: ArtefactKind::Code,
            id: issued.id.to_vec(),
            mac: issued.mac.to_vec(),
            grant: Some("g1".into()),
            document: serde_json::to_string(&document).unwrap(),
            created_at: now,
            expires_at: now + 60,
            consumed_at: None,
            successor: None,
            seq: 0,
        };
        let mut rows = self.world.rows.lock();
        rows.grants.insert("g1".into(), grant);
        rows.artefacts.insert((ArtefactKind::Code.as_str(), artefact.id.clone()), artefact);
        issued.plain.expose().to_owned()
    }
    async fn redeem(&self, code: &str) -> (StatusCode, HeaderMap, Value) {
        self.post("/token", "web", &format!("grant_type=authorization_code&code={code}&redirect_uri=https%3A%2F%2Frp%2Fcb")).await
    }
    async fn refresh(&self, token: &Value) -> (StatusCode, HeaderMap, Value) {
        self.post("/token", "web", &format!("grant_type=refresh_token&refresh_token={}", token.as_str().unwrap())).await
    }
}

fn basic(client: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{client}:secret-{client}")))
}
fn posted(path: &str, authorization: Option<&str>, media: &str, body: &str) -> Request<Body> {
    let mut request = Request::post(format!("/t{path}")).header(header::CONTENT_TYPE, media);
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}
fn got(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_machines_token_is_active_for_its_api_until_it_is_revoked_and_nobody_else_hears_of_it() {
    let server = Server::new(|_| {});
    for client in ["machine", "opaque"] {
        let token = server.token(client).await;
        assert!(server.active("gw", &token).await && server.active(client, &token).await);
        assert!(!server.active("other", &token).await);
        let (status, _, body) = server.post("/revoke", "other", &format!("token={token}")).await;
        assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
        assert!(server.active("gw", &token).await);
        let (status, ..) = server.post("/revoke", client, &format!("token={token}&token_type_hint=nonsense")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!server.active("gw", &token).await && !server.active(client, &token).await, "a cached answer is asked anew");
        assert_eq!(server.post("/revoke", client, &format!("token={token}")).await.0, StatusCode::OK);
    }
    assert_eq!(server.world.kinds(), ["token.issued", "token.revoked", "token.issued", "token.revoked"]);
}

#[tokio::test]
async fn a_cached_token_expires_on_time() {
    let server = Server::new(|s| s.access_token_ttl = 10);
    let token = server.token("machine").await;
    assert!(server.active("gw", &token).await);
    server.world.now_ms.fetch_add(10_000, Ordering::Relaxed);
    assert!(!server.active("gw", &token).await);
}

#[tokio::test]
async fn malformed_requests_get_the_error_their_rfc_names() {
    let server = Server::new(|_| {});
    let cc = "grant_type=client_credentials";
    let secret = basic("machine");
    let cases: [(Request<Body>, u16, &str); 11] = [
        (posted("/token?x=1", Some(&secret), FORM, cc), 400, "invalid_request"),
        (posted("/token", Some(&secret), "application/json", "{}"), 400, "invalid_request"),
        (posted("/token", Some(&secret), FORM, &format!("{cc}&scope=read&scope=read")), 400, "invalid_request"),
        (posted("/token", Some(&secret), FORM, &format!("{cc}&client_id=machine&client_secret=x")), 400, "invalid_request"),
        (posted("/token", Some(&secret), FORM, "scope=read"), 400, "invalid_request"),
        (posted("/token", Some(&secret), FORM, "grant_type=password"), 400, "unsupported_grant_type"),
        (posted("/token", Some(&secret), FORM, "grant_type=authorization_code&code=x"), 400, "invalid_grant"),
        (posted("/token", Some(&secret), FORM, &format!("{cc}&scope=write")), 400, "invalid_scope"),
        (posted("/token", Some(&secret), FORM, &format!("{cc}&resource=https%3A%2F%2Felse")), 400, "invalid_target"),
        (posted("/token", Some(&basic("nobody")), FORM, cc), 401, "invalid_client"),
        (posted("/token", Some(&secret), FORM, &format!("{cc}&x={}", "y".repeat(70_000))), 413, "invalid_request"),
    ];
    for (i, (request, status, code)) in cases.into_iter().enumerate() {
        let (got, headers, body) = server.send(request).await;
        assert_eq!((got.as_u16(), body["error"].as_str()), (status, Some(code)), "case {i}: {body}");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
    }
    assert_eq!(server.world.kinds(), ["client.auth_failed"]);
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow_and_a_wrong_path_a_problem() {
    let server = Server::new(|_| {});
    let (status, headers, body) = server.send(got("/t/token")).await;
    assert_eq!((status, &headers[header::ALLOW]), (StatusCode::METHOD_NOT_ALLOWED, &"POST,OPTIONS".parse().unwrap()));
    assert_eq!((&body["status"], &headers[header::X_CONTENT_TYPE_OPTIONS]), (&json!(405), &"nosniff".parse().unwrap()));
    assert_eq!(server.send(got("/nowhere")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn storage_away_is_503_and_nothing_is_issued() {
    let server = Server::new(|_| {});
    server.token("machine").await;
    server.world.away.store(true, Ordering::Relaxed);
    let (status, headers, body) = server.post("/token", "machine", "grant_type=client_credentials").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key(header::RETRY_AFTER) && body.get("access_token").is_none());
    assert_eq!(server.send(got("/readyz")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.send(got("/healthz")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_code_works_once_and_its_second_use_takes_back_what_it_gave() {
    let server = Server::new(|_| {});
    let code = server.code("email offline_access openid read");
    let (status, _, body) = server.redeem(&code).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let access = body["access_token"].as_str().unwrap().to_owned();
    assert!(body["id_token"].is_string() && body["refresh_token"].is_string());
    let userinfo = || Request::get("/t/userinfo").header(header::AUTHORIZATION, format!("bearer {access}")).body(Body::empty()).unwrap();
    let (status, _, told) = server.send(userinfo()).await;
    assert_eq!((status, &told["sub"]), (StatusCode::OK, &json!("u1")));
    let (_, _, told) = server.post("/introspect", "gw", &format!("token={access}")).await;
    assert_eq!((&told["username"], &told["grant"]), (&json!("alice"), &json!("g1")));
    let (status, _, again) = server.redeem(&code).await;
    assert_eq!((status, &again["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    assert!(!server.active("gw", &access).await);
    let (status, headers, _) = server.send(userinfo()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(headers[header::WWW_AUTHENTICATE].to_str().unwrap().contains("invalid_token"));
    assert_eq!(server.refresh(&body["refresh_token"]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(server.world.kinds(), ["token.issued", "code.replayed", "grant.ended"]);
}

#[tokio::test]
async fn a_code_raced_many_times_wins_once() {
    let server = Server::new(|_| {});
    let code = server.code("openid read");
    let answers = futures_util::future::join_all((0..50).map(|_| server.redeem(&code))).await;
    assert_eq!(answers.iter().filter(|(status, ..)| *status == StatusCode::OK).count(), 1);
}

#[tokio::test]
async fn refresh_tokens_rotate_and_reuse_ends_the_family() {
    let server = Server::new(|_| {});
    let (_, _, first) = server.redeem(&server.code("offline_access openid read")).await;
    let (status, _, second) = server.refresh(&first["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    let token = |body: &Value, name: &str| body[name].as_str().unwrap().to_owned();
    assert!(server.active("web", &token(&second, "refresh_token")).await);
    assert!(!server.active("gw", &token(&second, "refresh_token")).await, "only its own client may know a refresh token");
    assert!(!server.active("web", &token(&first, "refresh_token")).await);
    let stolen = format!("grant_type=refresh_token&refresh_token={}", token(&second, "refresh_token"));
    assert_eq!(server.post("/token", "other", &stolen).await.2["error"], "unauthorized_client");
    assert_eq!(server.refresh(&first["refresh_token"]).await.2["error"], "invalid_grant");
    assert_eq!(server.refresh(&second["refresh_token"]).await.2["error"], "invalid_grant");
    assert!(!server.active("gw", &token(&second, "access_token")).await);
    let kinds = server.world.kinds();
    assert_eq!(kinds, ["token.issued", "token.issued", "token.refreshed", "refresh.reused", "grant.ended"]);
}

#[tokio::test]
async fn racing_refreshes_within_the_grace_period_get_one_successor() {
    let server = Server::new(|s| s.refresh_grace = 10);
    let (_, _, first) = server.redeem(&server.code("offline_access openid read")).await;
    let answers = futures_util::future::join_all((0..20).map(|_| server.refresh(&first["refresh_token"]))).await;
    let mut successors: Vec<_> = answers.iter().map(|(_, _, body)| body["refresh_token"].as_str().unwrap().to_owned()).collect();
    successors.dedup();
    assert_eq!(successors.len(), 1);
    assert_ne!(first["refresh_token"], successors[0].as_str());
}

#[tokio::test]
async fn revoking_a_refresh_token_takes_its_access_tokens_with_it() {
    let server = Server::new(|_| {});
    let (_, _, body) = server.redeem(&server.code("offline_access openid read")).await;
    let access = body["access_token"].as_str().unwrap();
    assert!(server.active("gw", access).await);
    let (status, ..) = server.post("/revoke", "web", &format!("token={}", body["refresh_token"].as_str().unwrap())).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!server.active("gw", access).await);
    assert_eq!(server.refresh(&body["refresh_token"]).await.2["error"], "invalid_grant");
}

#[tokio::test]
async fn a_changed_client_is_seen_at_once() {
    let server = Server::new(|_| {});
    server.token("machine").await;
    let client =
        Client { client_id: "machine".into(), grant_types: vec!["client_credentials".into()], disabled: true, ..Client::default() };
    server.client(&client);
    let (status, _, body) = server.post("/token", "machine", "grant_type=client_credentials").await;
    assert_eq!((status, &body["error"]), (StatusCode::UNAUTHORIZED, &json!("invalid_client")));
}

#[tokio::test]
async fn a_client_disabled_on_another_node_gets_nothing_from_a_copy_in_memory() {
    let server = Server::new(|_| {});
    let (_, _, first) = server.redeem(&server.code("offline_access openid read")).await;
    for (id, grant_types) in [("machine", vec!["client_credentials"]), ("opaque", vec!["client_credentials"])] {
        server.token(id).await;
        let grant_types = grant_types.into_iter().map(str::to_owned).collect();
        let gone = Client { client_id: id.into(), grant_types, disabled: true, ..Client::default() };
        server.world.object_elsewhere(&gone);
        let (status, _, body) = server.post("/token", id, "grant_type=client_credentials").await;
        assert_eq!((status, &body["error"]), (StatusCode::UNAUTHORIZED, &json!("invalid_client")));
    }
    let issued = server.world.kinds().iter().filter(|k| *k == "token.issued").count();
    server.world.object_elsewhere(&Client { client_id: "web".into(), disabled: true, ..Client::default() });
    assert_eq!(server.refresh(&first["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(server.world.kinds().iter().filter(|k| *k == "token.issued").count(), issued);
}

#[tokio::test]
async fn a_client_changed_on_another_node_is_read_again_and_served() {
    let server = Server::new(|_| {});
    server.token("machine").await;
    let changed = Client {
        client_id: "machine".into(),
        grant_types: vec!["client_credentials".into()],
        scope: "read".into(),
        allowed_resources: vec![API.into()],
        access_token_ttl: Some("7s".into()),
        ..Client::default()
    };
    server.world.object_elsewhere(&changed);
    let (status, _, body) = server.post("/token", "machine", "grant_type=client_credentials").await;
    assert_eq!((status, &body["expires_in"]), (StatusCode::OK, &json!(7)));
}

#[tokio::test]
async fn a_token_of_a_node_whose_clock_is_ahead_is_active() {
    let server = Server::new(|s| s.access_token_ttl = 60);
    server.world.now_ms.fetch_add(8_000, Ordering::Relaxed);
    let token = server.token("machine").await;
    server.world.now_ms.fetch_sub(8_000, Ordering::Relaxed);
    assert!(server.active("gw", &token).await);
    // Expired here, still accepted by whoever allows for clocks: it can be revoked.
    server.world.now_ms.fetch_add(8_000 + 65_000, Ordering::Relaxed);
    assert!(!server.active("gw", &token).await);
    assert_eq!(server.post("/revoke", "machine", &format!("token={token}")).await.0, StatusCode::OK);
    assert_eq!(server.world.kinds().last().map(String::as_str), Some("token.revoked"));
}

#[tokio::test]
async fn the_feed_loses_nothing_to_a_failed_read_and_names_a_position_when_it_is_complete() {
    let server = Server::new(|_| {});
    let feed = server.token("gw").await;
    let two = ledger::Change::new()
        .revoke(RevocationKind::Grant, "g1", 1, i64::MAX)
        .revoke(RevocationKind::Grant, "g2", 1, i64::MAX)
        .event(NewEvent::new(EventKind::GrantEnded, 1));
    assert!(server.world.apply(two).await.unwrap().applied());
    server.world.fail_read_of_revocations.store(2, Ordering::Relaxed);
    let request = Request::get("/t/feed?after=1").header(header::AUTHORIZATION, format!("Bearer {feed}")).body(Body::empty()).unwrap();
    let mut stream = server.router.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
    assert_eq!(&stream.next().await.unwrap().unwrap()[..], b": resumed\n\n");
    let news = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
    let events: Vec<&str> = news.split("\n\n").collect();
    assert!(events[0].contains("\"g1\"") && !events[0].contains("id: 2"), "{news}");
    assert!(events[1].contains("\"g2\"") && events[1].contains("\nid: 2\n"), "{news}");
    assert!(events[2].starts_with("event: beat"), "{news}");
}

#[tokio::test]
async fn a_flood_of_wrong_secrets_waits_and_disturbs_nobody_else() {
    let server = Server::new(|_| {});
    let wrong = || posted("/token", None, FORM, "grant_type=client_credentials&client_id=machine&client_secret=x");
    let mut last = (StatusCode::OK, HeaderMap::new());
    for _ in 0..202 {
        let (status, headers, _) = server.send(wrong()).await;
        last = (status, headers);
    }
    let (status, headers) = last;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let told = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(told("ratelimit-policy"), "\"client-auth\";q=200;w=60");
    assert_eq!(told("ratelimit"), format!("\"client-auth\";r=0;t={}", told("retry-after")));
    server.token("other").await;
    assert!(server.world.kinds().len() <= 31, "the ledger is not flooded");
}

#[tokio::test]
async fn metadata_and_keys_are_prepared_and_known_by_their_tag() {
    let server = Server::new(|_| {});
    for path in [
        "/t/.well-known/openid-configuration",
        "/t/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/t",
        "/t/jwks",
    ] {
        let (status, headers, body) = server.send(got(path)).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(body["issuer"] == ISSUER || body["keys"][0]["kid"].is_string());
        assert!(!body.to_string().contains("\"d\""));
        let again = Request::get(path).header(header::IF_NONE_MATCH, &headers[header::ETAG]).body(Body::empty()).unwrap();
        assert_eq!(server.send(again).await.0, StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn the_feed_tells_what_is_revoked_from_where_it_is_asked_and_ends_with_its_token() {
    let server = Server::new(|_| {});
    let (token, feed) = (server.token("machine").await, server.token("gw").await);
    let open = |query: &str, token: &str| {
        let request = Request::get(format!("/t/feed{query}")).header(header::AUTHORIZATION, format!("Bearer {token}"));
        server.router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    assert_eq!(open("", &token).await.unwrap().status(), StatusCode::FORBIDDEN);
    server.post("/revoke", "machine", &format!("token={token}")).await;
    let mut fresh = open("", &feed).await.unwrap().into_body().into_data_stream();
    let snapshot = String::from_utf8(fresh.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(snapshot.starts_with("event: snapshot\nid: 3\n") && snapshot.contains("\"kind\":\"token\""), "{snapshot}");
    let mut resumed = open("?after=2", &feed).await.unwrap().into_body().into_data_stream();
    assert_eq!(&resumed.next().await.unwrap().unwrap()[..], b": resumed\n\n");
    let news = String::from_utf8(resumed.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(news.starts_with("event: revocation\nid: 3\n") && news.contains("event: beat\ndata: {\"head\":3,"), "{news}");
    let (status, ..) = server.post("/revoke", "gw", &format!("token={feed}")).await;
    assert_eq!(status, StatusCode::OK);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while resumed.next().await.is_some() {}
        while fresh.next().await.is_some() {}
    });
    assert!(ended.await.is_ok());
}

#[tokio::test]
async fn references_that_nobody_issued_are_looked_for_only_so_often_and_issued_ones_always() {
    let server = Server::new(|_| {});
    let (known, later) = (server.token("opaque").await, server.token("opaque").await);
    let made_up = |n: i64| secret::generate(SecretKind::Access, n, server.world.as_ref(), &MacKey::new([9; 32])).plain;
    let ask = async |token: &str| server.post("/introspect", "gw", &format!("token={token}")).await;
    let mut answers = Vec::new();
    for n in 0..300 {
        let (status, headers, body) = ask(made_up(n).expose()).await;
        match status {
            StatusCode::OK => assert_eq!(body, json!({"active": false})),
            _ => assert!(status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(header::RETRY_AFTER), "{status}"),
        }
        answers.push(status == StatusCode::OK);
    }
    assert_eq!(answers.iter().filter(|looked| **looked).count(), 200, "a second has no more");
    for token in [&known, &later] {
        assert_eq!(ask(token).await.2["active"], true, "what was issued says so itself");
    }
    server.world.now_ms.fetch_add(1_000, Ordering::Relaxed);
    assert_eq!(ask(made_up(1_000).expose()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_strangers_look_for_in_vain_takes_nothing_from_what_clients_may_look_for() {
    let server = Server::new(|_| {});
    let made_up = |n: i64| secret::generate(SecretKind::Access, n, server.world.as_ref(), &MacKey::new([9; 32])).plain;
    let userinfo = async |n: i64| {
        let shown = format!("Bearer {}", made_up(n).expose());
        let request = Request::get("/t/userinfo").header(header::AUTHORIZATION, shown).body(Body::empty()).unwrap();
        server.router.clone().oneshot(request).await.unwrap().status()
    };
    let introspect = async |n: i64| server.post("/introspect", "gw", &format!("token={}", made_up(n).expose())).await.0;
    for n in 0..200 {
        assert_eq!(userinfo(n).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(userinfo(200).await, StatusCode::SERVICE_UNAVAILABLE);
    for n in 300..500 {
        assert_eq!(introspect(n).await, StatusCode::OK);
    }
    assert_eq!(introspect(500).await, StatusCode::SERVICE_UNAVAILABLE);
    server.world.now_ms.fetch_add(1_000, Ordering::Relaxed);
    for n in 600..801 {
        introspect(n).await;
    }
    assert_eq!((introspect(900).await, userinfo(901).await), (StatusCode::SERVICE_UNAVAILABLE, StatusCode::UNAUTHORIZED));
}
