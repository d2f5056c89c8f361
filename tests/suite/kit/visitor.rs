//! A person with a browser that has scripts switched off: cookies, redirects, plain forms.
use std::collections::BTreeMap;

use reqwest::Client;
use serde_json::Value;
use url::Url;

use super::http::{Answer, Go, client, client_from, random, s256};
use super::page::{Page, Press};
use super::seed::{Id, PASSWORD};
use super::server::Server;

/// An authorization request in the making (RFC 6749 §4.1.1, OpenID Connect Core §3.1.2.1).
#[derive(Debug, Clone)]
pub struct Ask {
    pub who: Id,
    pub parameters: Vec<(String, String)>,
    pub verifier: String,
    pub state: String,
    pub nonce: String,
}

impl Ask {
    /// A complete, correct request for everything the client may have.
    pub fn new(who: &Id) -> Self {
        let (verifier, state, nonce) = (format!("{}{}", random(), random()), random(), random());
        let parameters = [
            ("client_id", who.id),
            ("redirect_uri", who.redirect),
            ("response_type", "code"),
            ("scope", who.scope),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &s256(&verifier)),
            ("code_challenge_method", "S256"),
        ];
        let parameters = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        Self { who: *who, parameters, verifier, state, nonce }
    }

    /// Sets or replaces a parameter.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.retain(|(k, _)| k != name);
        self.again(name, value)
    }

    /// Adds a parameter, even when it is there already.
    pub fn again(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.parameters.retain(|(k, _)| k != name);
        self
    }

    pub fn url(&self, server: &Server) -> String {
        Url::parse_with_params(&server.url("/authorize"), &self.parameters).expect("a URL").to_string()
    }

    /// Redeems a code at the token endpoint.
    #[track_caller]
    pub fn redeem(&self, server: &Server, code: &str) -> Answer {
        let redirect = self.parameters.iter().find(|(k, _)| k == "redirect_uri").map_or(self.who.redirect, |(_, v)| v);
        let form = [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect), ("code_verifier", &self.verifier)];
        server.token(&self.who, &form)
    }
}

/// Where a step ended.
#[derive(Debug, Clone)]
pub enum Landing {
    /// A page of ours.
    Page(Page),
    /// A redirect away from the issuer.
    Away(Url),
}

impl Landing {
    #[track_caller]
    pub fn page(self) -> Page {
        match self {
            Self::Page(page) => page,
            Self::Away(url) => panic!("expected a page, was sent to {url}"),
        }
    }

    /// A page of that kind.
    #[track_caller]
    pub fn kind(self, kind: &str) -> Page {
        let page = self.page();
        assert_eq!(page.kind(), kind, "{} ({}): {}", page.url, page.status(), page.answer.text());
        page
    }

    /// The parameters of the redirect to the client.
    #[track_caller]
    pub fn away(self) -> (String, BTreeMap<String, String>) {
        match self {
            Self::Away(url) => {
                let parameters = url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
                (url.as_str().split('?').next().unwrap_or_default().to_owned(), parameters)
            }
            Self::Page(page) => {
                panic!("expected a redirect, got {} ({}, {}): {}", page.kind(), page.url, page.status(), page.answer.text())
            }
        }
    }

    /// The code the client was sent, after checking `state` and `iss` (RFC 9207).
    #[track_caller]
    pub fn code(self, server: &Server, ask: &Ask) -> String {
        let (_, got) = self.away();
        assert_eq!(got.get("state"), Some(&ask.state), "{got:?}");
        assert_eq!(got.get("iss"), Some(&server.issuer), "{got:?}");
        got.get("code").unwrap_or_else(|| panic!("no code: {got:?}")).clone()
    }

    /// The error the client was sent, after checking `iss` and that there is no code.
    #[track_caller]
    pub fn error(self, server: &Server) -> String {
        let (_, got) = self.away();
        assert_eq!(got.get("iss"), Some(&server.issuer), "{got:?}");
        assert!(!got.contains_key("code"), "{got:?}");
        got.get("error").unwrap_or_else(|| panic!("no error: {got:?}")).clone()
    }
}

/// One person's browser.
#[derive(Clone)]
pub struct Visitor {
    http: Client,
    pub cookies: BTreeMap<String, String>,
    /// The last `Set-Cookie` lines in full, by name.
    pub set_cookies: BTreeMap<String, String>,
}

impl Visitor {
    pub fn new() -> Self {
        Self { http: client().clone(), cookies: BTreeMap::new(), set_cookies: BTreeMap::new() }
    }

    /// A visitor with another HTTP client.
    pub fn using(http: Client) -> Self {
        Self { http, ..Self::new() }
    }

    /// A visitor whose connections come from another loopback address.
    pub fn from(address: &str) -> Self {
        Self { http: client_from(address), ..Self::new() }
    }

    fn keep(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie").iter().filter_map(|v| v.to_str().ok()) {
            let Some((name, value)) = line.split(';').next().and_then(|pair| pair.split_once('=')) else { continue };
            self.set_cookies.insert(name.trim().into(), line.into());
            let lower = line.to_lowercase();
            if value.is_empty() || lower.contains("max-age=0") || lower.contains("1970") {
                self.cookies.remove(name.trim());
            } else {
                self.cookies.insert(name.trim().into(), value.into());
            }
        }
    }

    fn cookie_line(&self) -> String {
        self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("; ")
    }

    /// One request with this browser's cookies; no redirect followed.
    #[track_caller]
    pub fn once(&mut self, mut request: reqwest::RequestBuilder) -> Answer {
        if !self.cookies.is_empty() {
            request = request.header("cookie", self.cookie_line());
        }
        let answer = request.go();
        self.keep(&answer);
        answer
    }

    /// Opens a URL and follows redirects as long as they stay with the issuer.
    #[track_caller]
    pub fn open(&mut self, url: &str) -> Landing {
        let answer = self.once(self.http.get(url));
        self.follow(url, answer)
    }

    #[track_caller]
    fn follow(&mut self, from: &str, mut answer: Answer) -> Landing {
        let origin = Url::parse(from).expect("a URL").origin();
        let mut at = from.to_owned();
        for _ in 0..12 {
            if !(300..400).contains(&answer.status) {
                return Landing::Page(Page::new(at, answer));
            }
            let next = Url::parse(&at).expect("a URL").join(answer.header("location")).expect("a location");
            if next.origin() != origin {
                return Landing::Away(next);
            }
            at = next.to_string();
            answer = self.once(self.http.get(&at));
        }
        panic!("redirects without end at {at}");
    }

    /// Sends a form as the browser would, with its `Origin`.
    #[track_caller]
    pub fn send(&mut self, press: &Press) -> Landing {
        let origin = Url::parse(&press.action).expect("a URL").origin().ascii_serialization();
        self.send_from(press, Some(&origin))
    }

    /// Sends a form with another `Origin`, or none.
    #[track_caller]
    pub fn send_from(&mut self, press: &Press, origin: Option<&str>) -> Landing {
        if press.method == "get" {
            let url = Url::parse_with_params(&press.action, &press.fields).expect("a URL");
            return self.open(url.as_str());
        }
        let mut request = self.http.post(&press.action).form(&press.fields);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = self.once(request);
        self.follow(&press.action, answer)
    }

    /// Fills in the login page.
    #[track_caller]
    pub fn login(&mut self, page: &Page, username: &str, password: &str) -> Landing {
        self.send(&page.press("login-submit").fill("username", username).fill("password", password))
    }

    /// Goes through login and consent as far as they are asked for.
    #[track_caller]
    pub fn walk(&mut self, server: &Server, ask: &Ask, username: &str) -> Landing {
        let mut at = self.open(&ask.url(server));
        for _ in 0..4 {
            at = match at {
                Landing::Page(page) if page.kind() == "login" => self.login(&page, username, PASSWORD),
                Landing::Page(page) if page.kind() == "consent" => self.send(&page.press("consent-approve")),
                done => return done,
            };
        }
        at
    }

    /// The whole way to tokens.
    #[track_caller]
    pub fn tokens(&mut self, server: &Server, ask: &Ask, username: &str) -> Value {
        let code = self.walk(server, ask, username).code(server, ask);
        ask.redeem(server, &code).expect(200).json()
    }
}

impl Server {
    /// Tokens of a person for a client, from a fresh browser.
    #[track_caller]
    pub fn person_tokens(&self, who: &Id, username: &str) -> Value {
        Visitor::new().tokens(self, &Ask::new(who), username)
    }
}

/// A member of a JSON object that must be text.
#[track_caller]
pub fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}
