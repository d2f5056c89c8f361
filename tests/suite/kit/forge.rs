//! Another issuer: real keys, a key set served over HTTP, and tokens good and bad.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::http::{b64, now, random};
use super::seed::API;

/// An ES256 key with a name.
pub struct Key {
    pub kid: String,
    pub pair: EcdsaKeyPair,
}

impl Key {
    pub fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { kid: kid.to_owned(), pair }
    }

    /// Its public half as a JWK (RFC 7517).
    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": b64(&point[1..33]), "y": b64(&point[33..65])})
    }

    /// Signs any header and payload text.
    pub fn sign_text(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", b64(header), b64(payload));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        format!("{input}.{}", b64(signature))
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// The usual header of an access token (RFC 9068 §2.1).
    pub fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid})
    }
}

/// Claims of a good access token for the API with scope `read`.
pub fn good_claims(issuer: &str) -> Value {
    let at = now();
    json!({"iss": issuer, "sub": "someone", "aud": API, "exp": at + 300, "nbf": at - 1, "iat": at - 1, "jti": random(), "client_id": "theirs", "scope": "read"})
}

/// Serves a key set, counts how often it is asked, and can be changed or broken.
pub struct Issuer {
    pub url: String,
    pub address: String,
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (body, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (served, count) = (Arc::clone(&body), Arc::clone(&asked));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut buffer = [0u8; 4096];
                if stream.read(&mut buffer).unwrap_or(0) == 0 {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let answer = match &*served.lock().expect("keys") {
                    Some(set) => {
                        let set: &Value = set;
                        let text = set.to_string();
                        format!(
                            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                            text.len()
                        )
                    }
                    None => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let issuer = Self { url: format!("http://{address}"), address, keys: body, asked };
        issuer.publish(keys);
        issuer
    }

    pub fn publish(&self, keys: &[&Key]) {
        let set = json!({"keys": keys.iter().map(|k| k.jwk()).collect::<Vec<_>>()});
        *self.keys.lock().expect("keys") = Some(set);
    }

    /// Publishes any set.
    pub fn publish_set(&self, set: Value) {
        *self.keys.lock().expect("keys") = Some(set);
    }

    pub fn break_down(&self) {
        *self.keys.lock().expect("keys") = None;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
