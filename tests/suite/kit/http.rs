//! HTTP as a test wants it: one blocking call, no redirects followed, the whole answer kept.
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::runtime::Runtime;

/// The one runtime every test's calls run on: connections outlive the test that opened them.
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));

static CLIENT: LazyLock<Client> = LazyLock::new(|| build(None));

#[expect(clippy::disallowed_methods, reason = "the one place where the tests build an HTTP client")]
fn build(from: Option<IpAddr>) -> Client {
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(30)).no_proxy();
    // Sooner than any listener ends an idle connection: no test asks at that very moment.
    let builder = builder.pool_idle_timeout(Duration::from_secs(5));
    RUNTIME.block_on(async { builder.local_address(from).build().expect("an HTTP client") })
}

/// The client all tests share.
pub fn client() -> &'static Client {
    &CLIENT
}

/// A client whose connections come from another address of the loopback network.
pub fn client_from(address: &str) -> Client {
    build(Some(address.parse().expect("an IP address")))
}

/// A client that shares no connection with the others: for requests whose refusal may cost the connection.
pub fn alone() -> Client {
    build(None)
}

/// Seconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "tests compare the server's times with the real clock")]
pub fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()).expect("fits")
}

/// An environment variable of the test run.
#[expect(clippy::disallowed_methods, reason = "the one place where the tests read their environment")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}), status {}: {}", self.status, self.text()))
    }
    /// The first header of that name, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
    /// Every `Set-Cookie` line.
    pub fn all_cookies(&self) -> String {
        self.headers.get_all("set-cookie").iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join("\n")
    }
    /// Passes the answer on when its status is right.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "body: {}", self.text().chars().take(600).collect::<String>());
        self
    }
    /// An OAuth error answer: status and code.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.json()["error"].as_str().unwrap_or("")), (status, code), "body: {}", self.text());
        self
    }
}

/// Sends a request and waits for the whole answer.
pub trait Go {
    fn go(self) -> Answer;
    /// As `go`, but a connection that breaks is an error to look at.
    fn try_go(self) -> Result<Answer, reqwest::Error>;
}

impl Go for RequestBuilder {
    #[track_caller]
    fn go(self) -> Answer {
        self.try_go().unwrap_or_else(|e| panic!("the request failed: {e:?}"))
    }
    fn try_go(self) -> Result<Answer, reqwest::Error> {
        RUNTIME.block_on(async {
            let begun = Instant::now();
            let response = self.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await?.to_vec();
            Ok(Answer { status, headers, body, took: begun.elapsed() })
        })
    }
}

pub fn b64(data: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(data)
}

#[track_caller]
pub fn unb64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap_or_else(|e| panic!("not base64url ({e}): {text}"))
}

/// The claims of a JWT, unverified: for looking only.
#[track_caller]
pub fn claims(jwt: &str) -> Value {
    part(jwt, 1)
}

/// The header of a JWT, unverified.
#[track_caller]
pub fn jose_header(jwt: &str) -> Value {
    part(jwt, 0)
}

#[track_caller]
fn part(jwt: &str, n: usize) -> Value {
    let segment = jwt.split('.').nth(n).unwrap_or_else(|| panic!("not a JWT: {jwt}"));
    serde_json::from_slice(&unb64(segment)).unwrap_or_else(|e| panic!("not a JWT ({e}): {jwt}"))
}

/// Unguessable text.
pub fn random() -> String {
    let mut bytes = [0u8; 24];
    aws_lc_rs::rand::SecureRandom::fill(&aws_lc_rs::rand::SystemRandom::new(), &mut bytes).expect("randomness");
    b64(bytes)
}

/// The S256 challenge of a PKCE verifier (RFC 7636 §4.2).
pub fn s256(verifier: &str) -> String {
    b64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()))
}

/// Asks again every few milliseconds until it is so; how long that took. Fails after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        if so() {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < limit, "after {limit:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
