//! A client that lives by FAPI 2.0: it signs its assertions, proves its key, pushes its requests and may sign those too.
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use serde_json::{Value, json};

use super::forge::Key;
use super::http::{Answer, Go, b64, client, now, random};
use super::page::Page;
use super::seed::{API, Id, PASSWORD, standard};
use super::server::{House, Server};
use super::{Ask, Landing, Stage, Upstream, Visitor};

/// The shape of what [`Client::asks`] builds on.
pub type Pairs = Vec<(String, String)>;

/// An RSA key with a name, which can sign in both ways.
pub struct Rsa {
    pub kid: String,
    pair: RsaPair,
}

impl Rsa {
    pub fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: RsaPair::generate(KeySize::Rsa2048).expect("a key") }
    }
    pub fn jwk(&self) -> Value {
        let public: PublicKeyComponents<Vec<u8>> = self.pair.public_key().into();
        assert!(!self.pair.as_der().expect("a document").as_ref().is_empty());
        json!({"kty": "RSA", "use": "sig", "kid": self.kid, "n": b64(public.n), "e": b64(public.e)})
    }
    pub fn sign(&self, alg: &str, claims: &Value) -> String {
        let encoding: &'static dyn RsaEncoding = if alg == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
        let header = json!({"alg": alg, "typ": "oauth-authz-req+jwt", "kid": self.kid});
        let input = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), input.as_bytes(), &mut signature).expect("a signature");
        format!("{input}.{}", b64(signature))
    }
}

/// A confidential client with keys of its own.
pub struct Client {
    pub id: Id,
    pub key: Key,
    pub rsa: Rsa,
    pub dpop: Key,
}

impl Client {
    pub fn new(id: &'static str, redirect: &'static str) -> Self {
        let id = Id { id, secret: "", method: "private_key_jwt", redirect, scope: "openid profile offline_access read" };
        Self { id, key: Key::new(id.id), rsa: Rsa::new("rsa"), dpop: Key::new("dpop") }
    }

    /// Its registration.
    pub fn object(&self) -> Value {
        json!({
            "client_id": self.id.id, "client_name": self.id.id, "redirect_uris": [self.id.redirect],
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "scope": self.id.scope,
            "token_endpoint_auth_method": self.id.method, "allowed_resources": [API], "dpop_bound_access_tokens": true,
            "jwks": {"keys": [self.key.jwk(), self.rsa.jwk()]}
        })
    }

    /// A client assertion (RFC 7523 §3) for this issuer.
    pub fn assertion(&self, server: &Server) -> String {
        let (id, at) = (self.id.id, now());
        let claims = json!({"iss": id, "sub": id, "aud": server.issuer, "jti": random(), "iat": at, "nbf": at, "exp": at + 60});
        self.key.sign(&json!({"alg": "ES256", "kid": self.key.kid}), &claims)
    }

    /// A form posted in this client's name, with further headers.
    #[track_caller]
    pub fn post(&self, server: &Server, path: &str, form: &[(String, String)], headers: &[(&'static str, String)]) -> Answer {
        let mut form = form.to_vec();
        form.push(("client_assertion_type".into(), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into()));
        form.push(("client_assertion".into(), self.assertion(server)));
        let request = client().post(server.url(path)).form(&form);
        headers.iter().fold(request, |r, (name, value)| r.header(*name, value)).go()
    }

    /// A DPoP proof of this client's key (RFC 9449 §4.2).
    pub fn proof(&self, method: &str, url: &str, token: Option<&str>) -> String {
        let mut jwk = self.dpop.jwk();
        for name in ["use", "alg", "kid"] {
            jwk.as_object_mut().expect("an object").remove(name);
        }
        let mut claims = json!({"jti": random(), "htm": method, "htu": url, "iat": now()});
        if let Some(token) = token {
            claims["ath"] = json!(super::http::s256(token));
        }
        self.dpop.sign(&json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}), &claims)
    }

    /// Pushes the parameters of a request.
    #[track_caller]
    pub fn push(&self, server: &Server, ask: &Ask) -> Answer {
        self.post(server, "/par", &ask.parameters, &[])
    }

    /// The same request by its reference.
    #[track_caller]
    pub fn pushed(&self, server: &Server, ask: &Ask) -> Ask {
        let told = self.push(server, ask).expect(201).json();
        let uri = told["request_uri"].as_str().expect("request_uri").to_owned();
        Ask { parameters: vec![("client_id".into(), self.id.id.into()), ("request_uri".into(), uri)], ..ask.clone() }
    }

    /// Redeems a code, proving the key.
    #[track_caller]
    pub fn redeem(&self, server: &Server, ask: &Ask, code: &str) -> Answer {
        let form =
            [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", self.id.redirect), ("code_verifier", &ask.verifier)];
        self.token(server, &form)
    }

    /// A token request that proves the key.
    #[track_caller]
    pub fn token(&self, server: &Server, form: &[(&str, &str)]) -> Answer {
        let form: Pairs = form.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.post(server, "/token", &form, &[("dpop", self.proof("POST", &server.url("/token"), None))])
    }

    /// The whole way to tokens.
    #[track_caller]
    pub fn tokens(&self, server: &Server, ask: &Ask) -> Value {
        let code = Visitor::new().walk(server, &self.pushed(server, ask), "alice").code(server, ask);
        self.redeem(server, ask, &code).expect(200).json()
    }

    /// A call through the gateway that proves the key.
    #[track_caller]
    pub fn call(&self, server: &Server, path: &str, scheme: &str, token: &str) -> Answer {
        let url = server.through(path);
        let proof = self.proof("GET", &url, Some(token));
        client().get(url).header("authorization", format!("{scheme} {token}")).header("dpop", proof).go()
    }

    /// What a request object of this client says besides a request's parameters.
    pub fn claims(&self, server: &Server, ask: &Ask) -> Value {
        let at = now();
        let mut claims = json!({"iss": self.id.id, "aud": server.issuer, "exp": at + 300, "nbf": at, "iat": at, "jti": random()});
        for (name, value) in &ask.parameters {
            claims[name] = json!(value);
        }
        claims
    }

    /// A signed request object.
    pub fn object_of(&self, claims: &Value) -> String {
        self.key.sign(&json!({"alg": "ES256", "typ": "oauth-authz-req+jwt", "kid": self.key.kid}), claims)
    }

    /// Pushes a request object and what stands beside it.
    #[track_caller]
    pub fn push_object(&self, server: &Server, object: &str, beside: &[(&str, &str)]) -> Answer {
        let mut form: Pairs = beside.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        form.push(("client_id".into(), self.id.id.into()));
        form.push(("request".into(), object.to_owned()));
        self.post(server, "/par", &form, &[])
    }
}

/// A server with the standard seed, these clients besides, and a configuration of its own.
pub fn stage(clients: Vec<Value>, configure: impl FnOnce(&mut House)) -> Stage {
    let upstream = Upstream::start();
    let mut house = House::new();
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().expect("clients").extend(clients);
    seed["resource_servers"][0]["authorization_details_types"] = json!(["payment", "account"]);
    house.seed(&seed);
    let server = house.serve();
    Stage { house, server, upstream }
}

/// The login page behind an authorization URL, opened in this browser.
#[track_caller]
pub fn login_page(visitor: &mut Visitor, url: &str) -> Page {
    visitor.open(url).kind("login")
}

/// Logs in on a page and goes on to the client.
#[track_caller]
pub fn go_on(visitor: &mut Visitor, page: &Page) -> Landing {
    match visitor.login(page, "alice", PASSWORD) {
        Landing::Page(page) if page.kind() == "consent" => visitor.send(&page.press("consent-approve")),
        done => done,
    }
}
