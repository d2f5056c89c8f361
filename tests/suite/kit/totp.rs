//! An authenticator: codes of a shared secret (RFC 6238), and people who have one.
use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::http::{Go, now};
use super::page::Page;
use super::seed::PASSWORD;
use super::server::Server;
use super::visitor::{Ask, Landing, Visitor, text};

/// An authenticator that knows a secret.
#[derive(Clone)]
pub struct Authenticator(Vec<u8>);

impl Authenticator {
    /// Takes the secret as people type it (RFC 4648 §6).
    pub fn new(base32: &str) -> Self {
        let bits: String = base32.chars().map(|c| format!("{:05b}", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).expect("base32"))).collect();
        Self(bits.as_bytes().chunks_exact(8).map(|b| b.iter().fold(0, |n, bit| n << 1 | (bit - b'0'))).collect())
    }

    /// The code so many steps from now.
    pub fn code(&self, steps: i64) -> String {
        let step = now().div_euclid(30) + steps;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0), &step.to_be_bytes());
        let at = usize::from(tag.as_ref()[19] & 15);
        let number = u32::from_be_bytes(tag.as_ref()[at..at + 4].try_into().expect("four octets")) & 0x7fff_ffff;
        format!("{:06}", number % 1_000_000)
    }
}

impl Server {
    /// Makes a person with a password.
    #[track_caller]
    pub fn person(&self, username: &str) {
        self.admin("POST", "/users").json(&json!({"username": username, "password": PASSWORD})).go().expect(201);
    }

    /// Gives a person a second factor.
    #[track_caller]
    pub fn enrol(&self, username: &str) -> Authenticator {
        let said: Value = self.admin("POST", &format!("/users/{username}/totp")).go().expect(200).json();
        assert!(text(&said, "otpauth_uri").starts_with("otpauth://totp/"), "{said}");
        Authenticator::new(&text(&said, "secret"))
    }
}

impl Visitor {
    /// Sends a code from the page of the second factor.
    #[track_caller]
    pub fn otp(&mut self, page: &Page, code: &str) -> Landing {
        self.send(&page.press("otp-submit").fill("otp", code))
    }

    /// Logs in with both factors.
    #[track_caller]
    pub fn both(&mut self, server: &Server, ask: &Ask, username: &str, code: &str) -> Landing {
        let page = self.open(&ask.url(server)).kind("login");
        let page = self.login(&page, username, PASSWORD).kind("mfa");
        self.otp(&page, code)
    }
}
