//! A person's browser whose server may die at any moment: as `kit::Visitor`, but a broken connection is an answer to think about.
use std::collections::BTreeMap;

use reqwest::RequestBuilder;
use url::Url;

use super::node::{Heard, Node};
use crate::kit::http::{Answer, Go, client};
use crate::kit::seed::PASSWORD;
use crate::kit::{Ask, Page};

/// Where a way ended.
pub enum End {
    Page(Page),
    Away(BTreeMap<String, String>),
    /// It broke, for this reason, and what was asked last may have happened.
    Broken(String),
}

/// Cookies, and who it is.
#[derive(Debug, Clone)]
pub struct Person {
    pub username: String,
    pub cookies: BTreeMap<String, String>,
    /// How often the login page and the consent page were filled in.
    pub logins: usize,
    pub consents: usize,
}

impl Person {
    pub fn new(username: &str) -> Self {
        Self { username: username.to_owned(), cookies: BTreeMap::new(), logins: 0, consents: 0 }
    }

    pub fn with(username: &str, cookies: &BTreeMap<String, String>) -> Self {
        Self { username: username.to_owned(), cookies: cookies.clone(), logins: 0, consents: 0 }
    }

    fn once(&mut self, mut request: RequestBuilder) -> Heard {
        if !self.cookies.is_empty() {
            let line: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            request = request.header("cookie", line.join("; "));
        }
        let heard = Heard::of(request.try_go());
        if let Heard::Yes(answer) | Heard::No(answer) = &heard {
            self.keep(answer);
        }
        heard
    }

    fn keep(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie").iter().filter_map(|v| v.to_str().ok()) {
            let Some((name, value)) = line.split(';').next().and_then(|pair| pair.split_once('=')) else { continue };
            let lower = line.to_lowercase();
            if value.is_empty() || lower.contains("max-age=0") || lower.contains("1970") {
                self.cookies.remove(name.trim());
            } else {
                self.cookies.insert(name.trim().into(), value.into());
            }
        }
    }

    /// Opens a URL and follows redirects as long as they stay with the node.
    pub fn open(&mut self, url: &str) -> End {
        let heard = self.once(client().get(url));
        self.follow(url, heard)
    }

    fn follow(&mut self, from: &str, mut heard: Heard) -> End {
        let origin = Url::parse(from).expect("a URL").origin();
        let mut at = from.to_owned();
        for _ in 0..12 {
            let answer = match heard {
                Heard::Yes(answer) | Heard::No(answer) => answer,
                Heard::Perhaps(why) | Heard::Unsent(why) => return End::Broken(why),
            };
            if !(300..400).contains(&answer.status) {
                return End::Page(Page::new(at, answer));
            }
            let next = Url::parse(&at).expect("a URL").join(answer.header("location")).expect("a location");
            if next.origin() != origin {
                return End::Away(next.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect());
            }
            at = next.to_string();
            heard = self.once(client().get(&at));
        }
        End::Broken(format!("redirects without end at {at}"))
    }

    /// Presses a button of a page.
    pub fn press(&mut self, page: &Page, button: &str, fill: &[(&str, &str)]) -> End {
        if !page.has(button) {
            return End::Broken(format!("no #{button} on {} ({})", page.url, page.status()));
        }
        let press = fill.iter().fold(page.press(button), |press, (name, value)| press.fill(name, value));
        if press.method == "get" {
            return self.open(Url::parse_with_params(&press.action, &press.fields).expect("a URL").as_str());
        }
        let origin = Url::parse(&press.action).expect("a URL").origin().ascii_serialization();
        let heard = self.once(client().post(&press.action).form(&press.fields).header("origin", origin));
        self.follow(&press.action, heard)
    }

    /// Goes through login and consent as far as they are asked for.
    pub fn walk(&mut self, node: &Node, ask: &Ask) -> End {
        let url = Url::parse_with_params(&node.url("/authorize"), &ask.parameters).expect("a URL");
        self.on(url.as_str())
    }

    /// The same from any URL.
    pub fn on(&mut self, url: &str) -> End {
        let mut at = self.open(url);
        for _ in 0..4 {
            at = match at {
                End::Page(page) if page.kind() == "login" => {
                    let username = self.username.clone();
                    self.logins += 1;
                    self.press(&page, "login-submit", &[("username", &username), ("password", PASSWORD)])
                }
                End::Page(page) if page.kind() == "consent" => {
                    self.consents += 1;
                    self.press(&page, "consent-approve", &[])
                }
                done => return done,
            };
        }
        at
    }

    /// Whether this browser is logged in at a node; `None` if it could not be asked.
    pub fn logged_in(&mut self, node: &Node) -> Option<bool> {
        match self.open(&node.url("/account")) {
            End::Page(page) => Some(page.kind() == "account"),
            _ => None,
        }
    }
}
