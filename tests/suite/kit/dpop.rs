//! A sender that holds a key: proofs good and bad (RFC 9449 §4.2).
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::forge::Key;
use super::http::{Answer, Go, client, now, random, s256};
use super::jose::thumbprint;
use super::{Id, Server};

/// An ES256 key and the proofs it makes.
pub struct Holder {
    key: Key,
}

impl Holder {
    pub fn new() -> Self {
        Self { key: Key::new("holder") }
    }

    /// Its public key as a proof's header carries it.
    pub fn jwk(&self) -> Value {
        let mut jwk = self.key.jwk();
        for member in ["kid", "use", "alg"] {
            jwk.as_object_mut().expect("an object").remove(member);
        }
        jwk
    }

    pub fn jkt(&self) -> String {
        thumbprint(&self.jwk())
    }

    pub fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()})
    }

    /// Any header and claims, signed by this key.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.key.sign(header, claims)
    }

    /// A good proof, changed before it is signed.
    pub fn changed(&self, method: &str, url: &str, token: Option<&str>, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (self.header(), json!({"jti": random(), "htm": method, "htu": url, "iat": now()}));
        if let Some(token) = token {
            claims["ath"] = json!(s256(token));
        }
        change(&mut header, &mut claims);
        self.sign(&header, &claims)
    }

    pub fn proof(&self, method: &str, url: &str, token: Option<&str>) -> String {
        self.changed(method, url, token, |_, _| {})
    }

    /// A form posted to the token endpoint with a proof.
    pub fn token(&self, server: &Server, who: &Id, form: &[(&str, &str)]) -> Answer {
        let url = server.url("/token");
        who.post(&url, form).header("dpop", self.proof("POST", &url, None)).go()
    }

    /// A client-credentials token bound to this key.
    #[track_caller]
    pub fn machine_token(&self, server: &Server, who: &Id) -> String {
        let answer = self.token(server, who, &[("grant_type", "client_credentials")]).expect(200).json();
        assert_eq!(answer["token_type"], "DPoP", "{answer}");
        answer["access_token"].as_str().expect("an access token").to_owned()
    }

    /// A `GET` with a token and a good proof.
    pub fn get(&self, url: &str, token: &str) -> RequestBuilder {
        client().get(url).header("authorization", format!("DPoP {token}")).header("dpop", self.proof("GET", url, Some(token)))
    }
}
