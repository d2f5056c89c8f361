//! A browser without scripts: keeps cookies, reads forms, posts them.
use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
};
use http::{HeaderMap, StatusCode, header};
use ledger::{Object, ObjectKind, RevocationSet};
use protocol::{Client, ResourceServer, Settings, resource::ScopeEntry};
use serde_json::json;
use tokens::{
    Alg, Clock,
    keyring::{Kept, KeyRing, State},
    secret::MacKey,
    sign::SigningKey,
};
use tower::ServiceExt;

use super::store::{World, secret};
use crate::{App, Parts, account::hashing::Hashing};

pub(super) const ISSUER: &str = "http://127.0.0.1:8080";
pub(super) const PASSWORD: &str = "correct horse battery staple";
pub(super) const CALLBACK: &str = "https://rp.example.com/cb";
pub(super) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A server with two people and one client.
pub(super) struct Site {
    pub(super) world: Arc<World>,
    pub(super) router: Router,
    pub(super) key: SigningKey,
}

impl World {
    fn object(&self, kind: ObjectKind, id: &str, key: &str, document: serde_json::Value) {
        let object = Object { kind, id: id.into(), key: key.into(), document, version: 1, created_at: 0, updated_at: 0 };
        self.rows.lock().objects.insert((kind.as_str(), id.to_owned()), object);
    }
    fn person(&self, id: &str, name: &str, disabled: bool) {
        self.object(ObjectKind::User, id, name, json!({"id": id, "username": name, "disabled": disabled}));
        let hashed = accounts::password::hash(PASSWORD, self).expect("hashes");
        self.rows.lock().secrets.insert(secret(ObjectKind::User, id, "password"), hashed.into_bytes());
    }
}

pub(super) fn client() -> Client {
    Client {
        client_id: "web".into(),
        client_name: Some("Web <b>Shop</b>".into()),
        redirect_uris: vec![CALLBACK.into()],
        post_logout_redirect_uris: vec!["https://rp.example.com/bye".into()],
        scope: "openid profile read".into(),
        allowed_resources: vec!["https://api.example.com".into()],
        ..Client::default()
    }
}

pub(super) fn site(issuer: &str, client: &Client) -> Site {
    let world = Arc::new(World::default());
    world.now_ms.store(1_700_000_000_000, std::sync::atomic::Ordering::Relaxed);
    world.object(ObjectKind::Client, &client.client_id, &client.client_id, json!(client));
    let scopes = vec![ScopeEntry { name: "read".into(), description: Some("Read your things".into()) }];
    let server = ResourceServer { id: "api".into(), identifier: "https://api.example.com".into(), scopes, ..ResourceServer::default() };
    world.object(ObjectKind::ResourceServer, "api", &server.identifier, json!(server));
    world.person("alice-id", "alice", false);
    world.person("bob-id", "bob", false);
    world.person("mallory-id", "mallory", true);
    let (key, _) = SigningKey::generate(Alg::ES256).expect("a key");
    let ring = KeyRing::new(vec![Kept { state: State::Current, key: key.clone(), changed_at: 0 }]);
    let app = App::new(Parts {
        settings: Settings::for_issuer(issuer),
        store: Arc::clone(&world) as _,
        keys: Arc::new(ArcSwap::from_pointee(ring)),
        revoked: Arc::new(RevocationSet::new()),
        clock: Arc::clone(&world) as _,
        entropy: Arc::clone(&world) as _,
        mac: MacKey::new([9; 32]),
        counters: Arc::clone(&world) as _,
        hashing: Hashing::new(2),
        outbound: Arc::new(outbound::Outbound::new(&[], &[]).expect("a policy")),
        key_uses: Arc::default(),
        trusted_proxies: Vec::new(),
        closing: Default::default(),
    });
    Site { world, router: crate::router(app), key }
}

impl Site {
    pub(super) fn later(&self, seconds: i64) {
        self.world.now_ms.fetch_add(seconds * 1000, std::sync::atomic::Ordering::Relaxed);
    }
    pub(super) fn now(&self) -> i64 {
        self.world.now()
    }
    pub(super) fn events(&self) -> Vec<&'static str> {
        self.world.rows.lock().events.iter().map(|e| e.kind.as_str()).collect()
    }
    pub(super) fn commits(&self) -> usize {
        self.world.rows.lock().commits
    }
}

/// An answer, read.
pub(super) struct Seen {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn location(&self) -> &str {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{}", self.body);
        self.headers[header::LOCATION].to_str().expect("text")
    }
    /// A parameter of the location.
    pub(super) fn told(&self, name: &str) -> Option<String> {
        let url = url::Url::parse(ISSUER).expect("a base").join(self.location()).expect("a URL");
        url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
    }
    pub(super) fn page(&self) -> &str {
        self.body.split("name=\"page\" content=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("")
    }
    pub(super) fn has(&self, id: &str) -> bool {
        self.body.contains(&format!("id=\"{id}\""))
    }
    /// Hidden fields and checked boxes of the first form.
    pub(super) fn fields(&self) -> BTreeMap<String, String> {
        let form = self.body.split("<form").nth(1).and_then(|f| f.split("</form>").next()).unwrap_or_default();
        let attribute =
            |tag: &str, name: &str| tag.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        form.split("<input")
            .skip(1)
            .map(|tag| tag.split('>').next().unwrap_or_default())
            .filter(|tag| tag.contains("type=\"hidden\"") || tag.contains(" checked"))
            .filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value")?)))
            .collect()
    }
}

pub(super) struct Visitor<'a> {
    site: &'a Site,
    pub(super) cookie: Option<String>,
}

impl<'a> Visitor<'a> {
    pub(super) fn of(site: &'a Site) -> Self {
        Self { site, cookie: None }
    }

    async fn send(&mut self, mut request: http::request::Builder, body: Body) -> Seen {
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request: Request = request.body(body).expect("a request");
        let response = self.site.router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        for line in parts.headers.get_all(header::SET_COOKIE) {
            let line = line.to_str().expect("text");
            self.cookie = (!line.contains("Max-Age=0")).then(|| line.split(';').next().unwrap_or_default().to_owned());
        }
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        Seen { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).expect("text") }
    }

    pub(super) async fn get(&mut self, path: &str) -> Seen {
        self.send(Request::get(path), Body::empty()).await
    }

    pub(super) async fn post(&mut self, path: &str, fields: &BTreeMap<String, String>) -> Seen {
        self.post_from(path, fields, None).await
    }

    pub(super) async fn post_from(&mut self, path: &str, fields: &BTreeMap<String, String>, origin: Option<&str>) -> Seen {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        self.send(request, Body::from(body)).await
    }

    /// An authorization request with further parameters.
    pub(super) async fn authorize(&mut self, more: &str) -> Seen {
        self.get(&authorize(more)).await
    }

    /// The login page of a request, filled in.
    pub(super) async fn login_form(&mut self, more: &str, name: &str, password: &str) -> BTreeMap<String, String> {
        let location = self.authorize(more).await.location().to_owned();
        let page = self.get(&location).await;
        assert_eq!((page.status, page.page()), (StatusCode::OK, "login"), "{}", page.body);
        filled(page.fields(), &[("username", name), ("password", password), ("action", "login")])
    }

    /// Logs in; the answer of the form.
    pub(super) async fn log_in(&mut self, more: &str, name: &str) -> Seen {
        let form = self.login_form(more, name, PASSWORD).await;
        self.post("/login", &form).await
    }

    /// Goes all the way to a code.
    pub(super) async fn arrive(&mut self, more: &str) -> Seen {
        let location = self.log_in(more, "alice").await.location().to_owned();
        let page = self.get(&location).await;
        assert_eq!(page.page(), "consent", "{}", page.body);
        let form = filled(page.fields(), &[("decision", "approve")]);
        self.post("/consent", &form).await
    }
}

pub(super) fn authorize(more: &str) -> String {
    format!(
        "/authorize?client_id=web&redirect_uri=https%3A%2F%2Frp.example.com%2Fcb&response_type=code&scope=openid+read&state=xyz\
         &code_challenge={CHALLENGE}&code_challenge_method=S256{more}"
    )
}

pub(super) fn filled(mut fields: BTreeMap<String, String>, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    fields.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    fields
}
