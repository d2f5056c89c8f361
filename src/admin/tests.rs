//! The API over the real embedded database.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use ledger::{ArtefactKind, Change, EventKind, Grant, NewEvent, ObjectKind, RevocationKind, Session, Step, Store};
use protocol::Settings;
use serde_json::{Value, json};
use tokens::{Clock, Entropy, secret::MacKey};
use tower::ServiceExt as _;

use crate::*;

mod live;
mod seed;

struct Hands(AtomicI64);
impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Dice(Mutex<u64>);
impl Entropy for Dice {
    fn fill(&self, out: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in out {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*state >> 33) as u8;
        }
    }
}

struct Door;
#[async_trait]
impl AdminAuth for Door {
    fn token_id(&self, jwt: &str) -> Option<String> {
        jwt.ends_with(".b3Vycw").then(|| "from-jwt".to_owned())
    }
    async fn authenticate(&self, bearer: &str) -> Result<Principal, Refused> {
        let scope = match bearer {
            "all" => "openid doorward.admin",
            "read" => "doorward.admin.read",
            "none" => "doorward.feed",
            "away" => return Err(Refused::Away),
            _ => return Err(Refused::Invalid),
        };
        Ok(Principal { actor: Actor { client_id: "root".into(), subject: None }, scope: scope.into() })
    }
}

struct Keys;
#[async_trait]
impl KeyControl for Keys {
    async fn rotate(&self, alg: Option<&str>, _: &Actor) -> Result<Value, KeyRefused> {
        Ok(json!({ "rotated": alg }))
    }
    async fn revoke(&self, kid: &str, reason: Option<&str>, _: &Actor) -> Result<Value, KeyRefused> {
        if kid == "k1" { Ok(json!({ "kid": kid, "reason": reason })) } else { Err(KeyRefused::Unknown) }
    }
}

struct Numbers;
impl StatsSource for Numbers {
    fn stats(&self) -> Stats {
        Stats { caches: vec![("tokens".into(), 3)], build_id: "test".into(), ..Stats::default() }
    }
}

struct Bench {
    app: Router,
    objects: Objects,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Hands(AtomicI64::new(1_700_000_000_000)));
    let url = format!("sqlite://{}", dir.path().join("db").display());
    let store: Arc<dyn Store> = ::store::open(&url, &::store::Options::default(), Arc::clone(&clock)).await.unwrap();
    let objects = Objects::new(
        "https://id.example.com",
        Arc::clone(&store),
        clock,
        Arc::new(Dice(Mutex::new(7))),
        MacKey::new([7; 32]),
        Arc::new(tokio::sync::Semaphore::new(2)),
    );
    let state = AdminState {
        listings: Arc::new(ledger::listing::Own(store.clone())),
        explains: None,
        objects: objects.clone(),
        settings: Settings::for_issuer("https://id.example.com"),
        auth: Arc::new(Door),
        keys: Arc::new(Keys),
        stats: Arc::new(Numbers),
        policy: json!({ "code": { "ttl_max": "60s" } }),
    };
    Bench { app: router(Arc::new(state)), objects, store, _dir: dir }
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    fn errors(&self) -> Vec<String> {
        self.body["errors"].as_array().unwrap().iter().map(|e| e["at"].as_str().unwrap().to_owned()).collect()
    }
}

impl Bench {
    async fn send(&self, request: Request<Body>) -> Reply {
        let reply = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = reply.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Reply { status: parts.status, headers: parts.headers, body }
    }
    async fn ask(&self, method: &str, path: &str, body: Value) -> Reply {
        self.ask_if(method, path, body, None).await
    }
    async fn ask_if(&self, method: &str, path: &str, body: Value, tag: Option<&str>) -> Reply {
        let mut request = Request::builder().method(method).uri(format!("/admin/v1{path}")).header("authorization", "Bearer all");
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            request = request.header("content-type", "application/json");
            Body::from(body.to_string())
        };
        self.send(request.body(body).unwrap()).await
    }
    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, Value::Null).await
    }
    async fn secret(&self, kind: ObjectKind, id: &str, slot: &str) -> Option<Vec<u8>> {
        self.store.secret(kind, id, slot).await.unwrap()
    }
    async fn kinds_since(&self, seq: u64) -> Vec<String> {
        self.store.events(seq, 1000).await.unwrap().into_iter().map(|e| e.kind).collect()
    }
    async fn head(&self) -> u64 {
        self.store.head().await.unwrap().0
    }
    async fn revoked(&self) -> Vec<(RevocationKind, String)> {
        self.store.revocations(0, 0, 1000).await.unwrap().into_iter().map(|r| (r.kind, r.id)).collect()
    }
    /// A live session and, in it, a live grant.
    async fn live(&self, subject: &str, client: &str, name: &str) {
        let (session, grant) = (format!("s-{name}"), format!("g-{name}"));
        let change = Change::new()
            .step(Step::StartSession(Session {
                id: session.clone(),
                subject: subject.into(),
                auth_time: 1_700_000_000,
                amr: vec!["pwd".into()],
                created_at: 1_700_000_000,
                expires_at: 1_800_000_000,
                ended_at: None,
                document: json!({}),
            }))
            .step(Step::StartGrant(Grant {
                id: grant,
                subject: subject.into(),
                client_id: client.into(),
                session: Some(session),
                scope: "openid".into(),
                document: json!({}),
                created_at: 1_700_000_000,
                expires_at: 1_800_000_000,
                ended_at: None,
            }))
            .event(NewEvent::new(EventKind::SessionStarted, 1_700_000_000_000).subject(subject));
        assert!(self.store.apply(change).await.unwrap().applied());
    }
    async fn alive(&self, name: &str) -> (bool, bool) {
        let session = self.store.session(&format!("s-{name}")).await.unwrap().unwrap();
        let grant = self.store.grant(&format!("g-{name}")).await.unwrap().unwrap();
        (session.ended_at.is_none(), grant.ended_at.is_none())
    }
}

#[tokio::test]
async fn a_user_lives_through_create_read_replace_patch_and_delete() {
    let b = bench().await;
    let made = b.ask("POST", "/users", json!({ "username": "carol", "password": "long enough secret", "email": "c@example.com" })).await;
    assert_eq!((made.status, made.header("etag")), (StatusCode::CREATED, "\"1\""));
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/admin/v1/users/{id}"));
    assert!(made.body.get("password").is_none());

    assert_eq!(b.ask("POST", "/users", json!({ "username": "carol" })).await.status, StatusCode::CONFLICT);
    assert_eq!(b.get("/users/carol").await.body, b.get(&format!("/users/{id}")).await.body);
    assert_eq!(b.get("/users?username=carol").await.body["items"][0]["id"], id);
    assert_eq!(b.get("/users?username=nobody").await.body, json!({ "items": [], "next": null }));

    let patched = b.ask_if("PATCH", "/users/carol", json!({ "email": null, "roles": ["a"] }), Some("\"1\"")).await;
    assert_eq!((patched.status, patched.header("etag")), (StatusCode::OK, "\"2\""));
    assert!(patched.body.get("email").is_none());
    assert_eq!(b.ask_if("PATCH", "/users/carol", json!({ "name": "x" }), Some("\"1\"")).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(b.ask("PUT", "/users/carol", patched.body.clone()).await.header("etag"), "\"2\"", "the same again is no new version");
    let bad = b.ask("PUT", "/users/carol", json!({ "username": "carol", "id": "other", "emial": "x" })).await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(bad.header("content-type"), "application/problem+json");
    assert_eq!(bad.errors(), ["emial", "id"]);
    assert_eq!(b.ask("PUT", "/users/nobody", json!({ "username": "nobody" })).await.status, StatusCode::NOT_FOUND);

    b.live(&id, "web", "one").await;
    assert_eq!(b.ask_if("DELETE", "/users/carol", Value::Null, Some("\"1\"")).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(b.ask("DELETE", "/users/carol", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.get(&format!("/users/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(b.alive("one").await, (false, false));
    assert!(b.revoked().await.contains(&(RevocationKind::Subject, id.clone())));
    assert_eq!(b.secret(ObjectKind::User, &id, "password").await, None);
}

#[tokio::test]
async fn a_route_table_that_would_be_wrong_is_refused() {
    let b = bench().await;
    let route = json!({ "id": "r", "match": { "path_prefix": "/a/" }, "upstream": "up", "public": true });
    let lost = b.ask("POST", "/routes", route.clone()).await;
    assert_eq!((lost.status, lost.errors()), (StatusCode::UNPROCESSABLE_ENTITY, vec!["upstream".to_owned()]));
    let up = json!({ "id": "up", "targets": [{ "url": "http://127.0.0.1:9000" }] });
    assert_eq!(b.ask("POST", "/upstreams", up).await.status, StatusCode::CREATED);
    assert_eq!(b.ask("POST", "/routes", route).await.status, StatusCode::CREATED);
    let needed = b.ask("DELETE", "/upstreams/up", Value::Null).await;
    assert_eq!(needed.status, StatusCode::CONFLICT);
    assert!(needed.body["detail"].as_str().unwrap().contains("route `r`"));
    assert_eq!(b.ask("DELETE", "/routes/r", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.ask("DELETE", "/upstreams/up", Value::Null).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_resource_server_is_found_by_its_percent_encoded_identifier() {
    let b = bench().await;
    let made = b.ask("POST", "/resource-servers", json!({ "identifier": "https://api.example.com/v1" })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let found = b.get("/resource-servers/https%3A%2F%2Fapi.example.com%2Fv1").await;
    assert_eq!((found.status, &found.body["id"]), (StatusCode::OK, &made.body["id"]));
    assert_eq!(b.get("/resource-servers?identifier=https://api.example.com/v1").await.body["items"][0], found.body);
}

#[tokio::test]
async fn a_resource_server_that_a_client_names_stays_what_it_is() {
    let b = bench().await;
    let made = b.ask("POST", "/resource-servers", json!({ "identifier": "https://api.example.com" })).await.body;
    let path = format!("/resource-servers/{}", made["id"].as_str().unwrap());
    for n in 0..201 {
        let resources: &[&str] = if n == 200 { &["https://api.example.com"] } else { &[] };
        let client = json!({ "client_id": format!("c{n:03}"), "grant_types": ["client_credentials"], "response_types": [],
            "allowed_resources": resources });
        assert_eq!(b.ask("POST", "/clients", client).await.status, StatusCode::CREATED);
    }
    let head = b.head().await;
    let kept = b.ask("DELETE", &path, Value::Null).await;
    assert_eq!(kept.status, StatusCode::CONFLICT);
    assert!(kept.body["detail"].as_str().unwrap().contains("client `c200`"), "{}", kept.body);
    let moved = b.ask("PATCH", &path, json!({ "identifier": "https://else.example.com" })).await;
    assert_eq!((moved.status, b.head().await), (StatusCode::CONFLICT, head));
    assert_eq!(b.ask("DELETE", "/clients/c200", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.ask("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_listing_goes_on_where_its_cursor_says() {
    let b = bench().await;
    for i in 0..5 {
        let client = json!({ "client_id": format!("c{i}"), "grant_types": ["client_credentials"], "response_types": [] });
        assert_eq!(b.ask("POST", "/clients", client).await.status, StatusCode::CREATED);
    }
    let (mut seen, mut path) = (Vec::new(), "/clients?limit=2".to_owned());
    loop {
        let page = b.get(&path).await.body;
        seen.extend(page["items"].as_array().unwrap().iter().map(|c| c["client_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/clients?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4"]);
    for bad in ["limit=0", "limit=x", "cursor=%20", "colour=red", "limit=1&limit=2"] {
        assert_eq!(b.get(&format!("/clients?{bad}")).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    assert_eq!(b.get("/clients?limit=100000").await.status, StatusCode::OK);
}

#[tokio::test]
async fn nobody_gets_in_without_the_right_token() {
    let b = bench().await;
    let ask = async |method: Method, authorization: &[&str]| {
        let mut request = Request::builder().method(method).uri("/admin/v1/users");
        for line in authorization {
            request = request.header("authorization", *line);
        }
        b.send(request.header("content-type", "application/json").body(Body::from("{")).unwrap()).await
    };
    let bare = ask(Method::POST, &[]).await;
    assert_eq!((bare.status, bare.header("www-authenticate")), (StatusCode::UNAUTHORIZED, "Bearer realm=\"doorward-admin\""));
    let wrong = ask(Method::POST, &["Bearer wrong"]).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(wrong.header("www-authenticate").contains("error=\"invalid_token\""));
    assert_eq!(ask(Method::POST, &["Basic YTpi"]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(Method::POST, &["Bearer all", "Bearer all"]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(Method::POST, &["Bearer away"]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let narrow = ask(Method::POST, &["Bearer read"]).await;
    assert_eq!(narrow.status, StatusCode::FORBIDDEN);
    assert!(narrow.header("www-authenticate").contains("insufficient_scope"));
    assert_eq!(ask(Method::POST, &["Bearer none"]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::POST, &["bearer all"]).await.status, StatusCode::BAD_REQUEST, "believed; the body is not JSON");
}

#[tokio::test]
async fn bad_requests_get_the_status_their_rfc_names() {
    let b = bench().await;
    let send = async |kind: Option<&str>, body: String| {
        let mut request = Request::builder().method("POST").uri("/admin/v1/users").header("authorization", "Bearer all");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        b.send(request.body(Body::from(body)).unwrap()).await.status
    };
    let good = json!({ "username": "frank" }).to_string();
    assert_eq!(send(None, good.clone()).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(send(Some("text/plain"), good.clone()).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(send(Some("application/json"), "[]".into()).await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Some("application/json"), r#"{"username":"a","username":"b"}"#.into()).await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Some("application/json"), format!("{{\"x\":{}{}}}", "[".repeat(40), "]".repeat(40))).await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Some("application/json"), format!("\"{}\"", "x".repeat(json::MAX_BODY))).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send(Some("application/json; charset=utf-8"), good).await, StatusCode::CREATED);
    let wrong = b.ask("PUT", "/users", Value::Null).await;
    assert_eq!((wrong.status, wrong.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, POST, HEAD"));
    assert_eq!(b.get("/users/%ff").await.status, StatusCode::BAD_REQUEST);
    for absent in ["/certificates", "/nothing"] {
        assert_eq!(b.get(absent).await.status, StatusCode::NOT_FOUND, "{absent}");
    }
}

/// The router and the description come from one table; this is the proof on the wire.
#[tokio::test]
async fn every_operation_answers_and_is_described() {
    let b = bench().await;
    let request = Request::builder().uri("/admin/v1/openapi.json").body(Body::empty()).unwrap();
    let described = b.send(request).await;
    assert_eq!(described.status, StatusCode::OK);
    let paths = described.body["paths"].as_object().unwrap();
    let count: usize = paths.values().map(|p| p.as_object().unwrap().len()).sum();
    assert_eq!(count, operations::all().len());
    let mut ids = std::collections::HashSet::new();
    for operation in operations::all() {
        let path = format!("{}{}", operations::PREFIX, operation.path);
        let entry = &paths[&operation.path][operation.method.as_str().to_ascii_lowercase()];
        assert!(ids.insert(entry["operationId"].as_str().unwrap().to_owned()));
        let request = Request::builder()
            .method(operation.method.clone())
            .uri(path.replace("{id}", "x").replace("{kid}", "x").replace("{auth_req_id}", "x"))
            .body(Body::empty())
            .unwrap();
        let expected = if operation.access.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        assert_eq!(b.send(request).await.status, expected, "{path}");
    }
    let text = described.body.to_string();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("\"$ref\":\"#") {
        rest = &rest[at + 9..];
        let pointer = &rest[..rest.find('"').unwrap()];
        assert!(described.body.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

#[tokio::test]
async fn the_reads_answer_with_what_is_there() {
    let b = bench().await;
    b.live("u", "web", "one").await;
    assert_eq!(b.get("/sessions?subject=u").await.body["items"][0]["id"], "s-one");
    assert_eq!(b.get("/grants?client_id=web").await.body["items"][0]["id"], "g-one");
    assert_eq!(b.get("/sessions/s-one").await.body["subject"], "u");
    assert_eq!(b.ask("DELETE", "/grants/g-one", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.ask("DELETE", "/sessions/s-one", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.ask("DELETE", "/sessions/s-none", Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(b.alive("one").await, (false, false));
    assert_eq!(b.get("/events?after=1").await.body["items"][0]["kind"], "grant.ended");
    assert_eq!(b.get("/keys").await.body["items"], json!([]));
    assert_eq!(b.get("/policy").await.body["code"]["ttl_max"], "60s");
    let stats = b.get("/stats").await.body;
    assert_eq!((&stats["build_id"], &stats["caches"]["tokens"], &stats["panics"]), (&json!("test"), &json!(3), &json!(0)));
    assert!(stats["rows"].is_object());
    assert_eq!(b.ask("POST", "/keys/rotate", json!({ "alg": "ES256" })).await.body["rotated"], "ES256");
}
