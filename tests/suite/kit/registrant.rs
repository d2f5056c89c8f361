//! Clients that register themselves (RFC 7591), each from an address of its own on the loopback network.
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::forge::Key;
use super::http::{Answer, Go, client_from, now, random};
use super::seed::Id;
use super::server::Server;

/// An address that no other test uses: limits by source do not meet.
pub fn somewhere() -> reqwest::Client {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    client_from(&format!("127.9.{}.{}", n / 200 % 250, n % 200 + 1))
}

/// `POST /register` with this metadata.
#[track_caller]
pub fn register(server: &Server, metadata: &Value) -> Answer {
    somewhere().post(server.url("/register")).json(metadata).go()
}

/// What the client hears of itself.
#[track_caller]
pub fn registered(server: &Server, metadata: &Value) -> Value {
    register(server, metadata).expect(201).json()
}

/// The client as the other parts of the kit know one.
#[track_caller]
pub fn id_of(told: &Value) -> Id {
    let text = |name: &str| -> &'static str { Box::leak(told[name].as_str().unwrap_or_default().to_owned().into_boxed_str()) };
    let redirect: &'static str = Box::leak(told["redirect_uris"][0].as_str().unwrap_or_default().to_owned().into_boxed_str());
    Id { id: text("client_id"), secret: text("client_secret"), method: text("token_endpoint_auth_method"), redirect, scope: text("scope") }
}

/// A request to the client's own address (RFC 7592), with its registration access token.
pub fn own(told: &Value, method: &str) -> reqwest::RequestBuilder {
    let url = told["registration_client_uri"].as_str().expect("registration_client_uri");
    let token = told["registration_access_token"].as_str().expect("registration_access_token");
    somewhere().request(method.parse().expect("a method"), url).bearer_auth(token)
}

/// A client assertion (RFC 7523 §3).
pub fn assertion(server: &Server, client_id: &str, key: &Key) -> String {
    let claims = json!({"iss": client_id, "sub": client_id, "aud": server.issuer, "jti": random(), "iat": now(), "exp": now() + 60});
    key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": key.kid}), &claims)
}
