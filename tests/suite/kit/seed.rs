//! The people, clients and routes that most tests share.
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::http::client;

/// A client as it shows itself at the token endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    pub id: &'static str,
    pub secret: &'static str,
    pub method: &'static str,
    pub redirect: &'static str,
    pub scope: &'static str,
}

pub const API: &str = "https://api.example.com";
pub const VAULT: &str = "https://vault.example.com";
pub const PASSWORD: &str = "correct horse battery staple";

const fn basic(id: &'static str, secret: &'static str, redirect: &'static str, scope: &'static str) -> Id {
    Id { id, secret, method: "client_secret_basic", redirect, scope }
}

/// Client credentials, JWT access tokens.
pub const MACHINE: Id = basic("machine", "machine-secret-7f3a1c5e9b2d4860a1b2c3d4e5f60718", "", "read write");
/// Client credentials, opaque access tokens.
pub const SAFE: Id = basic("safe", "safe-secret-0c2e4a6881a3c5e7f90b1d2f3a4b5c6d", "", "open");
/// Client credentials, authenticates in the form; two resources, so it must choose.
pub const POSTER: Id = Id {
    id: "poster",
    secret: "poster-secret-91b3d5f7092b4d6f8193a5c7e9fb0d1f",
    method: "client_secret_post",
    redirect: "",
    scope: "read open",
};
/// A confidential web application that asks for consent.
pub const WEB: Id =
    basic("web", "web-secret-3d5f718293a4b5c6d7e8f90a1b2c3d4e", "https://rp.example.com/cb", "openid profile email offline_access read");
/// Another confidential client with the same rights.
pub const RIVAL: Id =
    basic("rival", "rival-secret-aa10bb20cc30dd40ee50ff60a1b2c3d4", "https://rival.example.com/cb", "openid offline_access read");
/// A first-party client: no consent page.
pub const HOME: Id = basic(
    "home",
    "home-secret-55aa66bb77cc88dd99ee00ff11223344",
    "https://home.example.com/cb?keep=this",
    "openid profile email address phone offline_access read write",
);
/// A public client on a loopback address.
pub const SPA: Id = Id { id: "spa", secret: "", method: "none", redirect: "http://127.0.0.1/cb", scope: "openid read offline_access" };
/// A public client on an https address.
pub const APP: Id =
    Id { id: "app", secret: "", method: "none", redirect: "https://app.example.com/cb", scope: "openid read offline_access" };
/// A confidential client that may leave PKCE out.
pub const OLD: Id = basic("old", "old-secret-0f1e2d3c4b5a69788796a5b4c3d2e1f0", "https://old.example.com/cb", "openid");
/// May introspect both resources' tokens and read the revocation feed.
pub const GW: Id = basic("gw", "gw-secret-8e7d6c5b4a392817161514131211100f", "", "doorward.introspect doorward.feed");

impl Id {
    /// A form posted to `url`, authenticated as this client.
    pub fn post(&self, url: &str, form: &[(&str, &str)]) -> RequestBuilder {
        let mut form = form.to_vec();
        let request = client().post(url);
        let request = match self.method {
            "client_secret_basic" => request.basic_auth(self.id, Some(self.secret)),
            "client_secret_post" => {
                form.extend([("client_id", self.id), ("client_secret", self.secret)]);
                request
            }
            _ => {
                form.push(("client_id", self.id));
                request
            }
        };
        request.form(&form)
    }

    fn object(&self, grants: &[&str], resources: &[&str]) -> Value {
        let mut object = json!({
            "client_id": self.id, "grant_types": grants, "token_endpoint_auth_method": self.method,
            "scope": self.scope, "allowed_resources": resources,
        });
        if !self.secret.is_empty() {
            object["client_secret"] = json!(self.secret);
        }
        if !self.redirect.is_empty() {
            object["redirect_uris"] = json!([self.redirect]);
            object["response_types"] = json!(["code"]);
        }
        object
    }
}

/// Every standard claim of OpenID Connect Core §5.1.
pub fn alice() -> Value {
    json!({
        "username": "alice", "password": PASSWORD, "email": "alice@example.com", "email_verified": true,
        "name": "Alice A", "given_name": "Alice", "family_name": "A", "middle_name": "B", "nickname": "ali", "preferred_username": "alice",
        "profile": "https://example.com/alice", "picture": "https://example.com/alice.png", "website": "https://alice.example.com",
        "gender": "female", "birthdate": "1990-01-31", "zoneinfo": "Europe/Paris", "locale": "en-GB",
        "phone_number": "+33123456789", "phone_number_verified": true, "updated_at": 1_700_000_000,
        "address": {"formatted": "1 Rue de Rivoli\n75001 Paris", "locality": "Paris", "country": "FR"},
        "roles": ["viewer"], "groups": ["staff"]
    })
}

/// A route with a path prefix and an `auth` object.
pub fn route(id: &str, prefix: &str, upstream: &str, auth: Value) -> Value {
    json!({"id": id, "match": {"path_prefix": prefix}, "upstream": upstream, "auth": auth})
}

/// The standard seed with an upstream at `url`.
pub fn standard(url: &str) -> Value {
    let code = ["authorization_code", "refresh_token"];
    let mut home = HOME.object(&code, &[API]);
    home["first_party"] = json!(true);
    home["post_logout_redirect_uris"] = json!(["https://home.example.com/bye"]);
    let mut web = WEB.object(&code, &[API]);
    web["client_name"] = json!("The Web Shop");
    web["post_logout_redirect_uris"] = json!(["https://rp.example.com/bye"]);
    let mut old = OLD.object(&["authorization_code"], &[]);
    old["require_pkce"] = json!(false);
    old["first_party"] = json!(true);
    let auth = |freshness: &str| json!({"accept": ["jwt", "opaque"], "issuers": ["self"], "audience": API, "scopes": ["read"], "freshness": freshness});
    let mut reading = route("read", "/api/", "echo", auth("push"));
    reading["match"]["methods"] = json!(["GET", "POST"]);
    let mut optional = route("optional", "/optional/", "echo", json!({"accept": ["jwt", "none"], "issuers": ["self"], "audience": API}));
    optional["strip_prefix"] = json!(true);
    let mut forwarding = route("forwarding", "/forwarding/", "echo", auth("push"));
    forwarding["forward_credentials"] = json!(true);
    json!({
        "users": [alice(), {"username": "bob", "password": PASSWORD, "email": "bob@example.com", "name": "Bob"},
                  {"username": "carol", "password": PASSWORD}, {"username": "dora", "password": PASSWORD, "disabled": true}],
        "resource_servers": [
            {"identifier": API, "name": "API", "scopes": [{"name": "read", "description": "Read your things"}, {"name": "write"}],
             "access_token_format": "jwt", "access_token_ttl": "5m", "introspection_clients": ["gw"]},
            {"identifier": VAULT, "name": "Vault", "scopes": [{"name": "open"}], "access_token_format": "opaque", "introspection_clients": ["gw"]}
        ],
        "clients": [
            MACHINE.object(&["client_credentials"], &[API]), SAFE.object(&["client_credentials"], &[VAULT]),
            POSTER.object(&["client_credentials"], &[API, VAULT]), GW.object(&["client_credentials"], &[]),
            web, home, old, RIVAL.object(&code, &[API]), SPA.object(&code, &[API]), APP.object(&code, &[API])
        ],
        "upstreams": [{"id": "echo", "targets": [{"url": url}]}],
        "routes": [
            reading, optional, forwarding,
            route("asking", "/asking/", "echo", auth("introspect")),
            route("offline", "/offline/", "echo", auth("offline")),
            route("writing", "/writing/", "echo", json!({"accept": ["jwt"], "issuers": ["self"], "audience": API, "scopes": ["write"]})),
            route("vault", "/vault/", "echo", json!({"accept": ["opaque"], "issuers": ["self"], "audience": VAULT, "scopes": ["open"]})),
            {"id": "open", "match": {"path_prefix": "/public/"}, "upstream": "echo", "public": true},
            {"id": "silent", "match": {"path_prefix": "/silent/"}, "upstream": "echo"},
            {"id": "hosted", "match": {"path_prefix": "/hosted/", "hosts": ["one.example.com"]}, "upstream": "echo", "public": true}
        ]
    })
}
