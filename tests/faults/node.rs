//! A running process as the harness talks to it: its addresses, its administration, and answers that may not come.
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client};
use crate::kit::seed::GW;
use crate::kit::{House, Id, Server};

/// What became of a request.
#[derive(Debug)]
pub enum Heard {
    /// 2xx or 3xx.
    Yes(Answer),
    /// 4xx: nothing was done.
    No(Answer),
    /// No answer, or 5xx: it may have happened.
    Perhaps(String),
    /// It was never sent.
    Unsent(String),
}

impl Heard {
    pub fn of(result: Result<Answer, reqwest::Error>) -> Self {
        match result {
            Ok(answer) if answer.status < 400 => Self::Yes(answer),
            Ok(answer) if answer.status < 500 => Self::No(answer),
            Ok(answer) => Self::Perhaps(format!("{} {}", answer.status, answer.text())),
            Err(error) if error.is_connect() => Self::Unsent("nobody listens".to_owned()),
            Err(_) => Self::Perhaps("the connection broke".to_owned()),
        }
    }
}

/// Addresses and an administrator's token.
pub struct Node {
    pub issuer: String,
    public: String,
    gateway: String,
    admin: String,
    credential: (String, String),
    token: Mutex<String>,
}

impl Node {
    /// A node of a house that was bootstrapped.
    pub fn of(house: &House, server: &Server) -> Self {
        let said: Value = serde_json::from_str(&std::fs::read_to_string(house.path("admin.json")).expect("bootstrap ran")).expect("JSON");
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let listener = |name: &str| server.ready[name].as_str().map(|l| format!("http://{l}")).unwrap_or_default();
        Self {
            issuer: server.issuer.clone(),
            public: listener("public"),
            gateway: listener("gateway"),
            admin: listener("admin"),
            credential: (text("admin_client_id"), text("admin_client_secret")),
            token: Mutex::default(),
        }
    }

    /// A URL on the public listener, by the node's own address.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.public)
    }

    /// A form posted as a client.
    pub fn post(&self, path: &str, who: &Id, form: &[(&str, &str)]) -> Heard {
        Heard::of(who.post(&self.url(path), form).try_go())
    }

    fn fetch_token(&self) -> Option<String> {
        let form = [("grant_type", "client_credentials"), ("scope", "doorward.admin")];
        let (id, secret) = &self.credential;
        let answer =
            client().post(self.url("/token")).basic_auth(id, Some(secret)).form(&form).try_go().ok().filter(|a| a.status == 200)?;
        answer.json()["access_token"].as_str().map(str::to_owned)
    }

    /// A request to the administration.
    pub fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Heard {
        for again in [false, true] {
            let mut token = self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            if token.is_empty() || again {
                let Some(fresh) = self.fetch_token() else { return Heard::Unsent("no administrator's token".to_owned()) };
                token.clone_from(&fresh);
                *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
            }
            let mut request =
                client().request(method.parse().expect("a method"), format!("{}/admin/v1{path}", self.admin)).bearer_auth(token);
            if let Some(body) = body {
                request = request.json(body);
            }
            match Heard::of(request.try_go()) {
                // The key that signed the administrator's token was revoked.
                Heard::No(answer) if answer.status == 401 && !again => {}
                heard => return heard,
            }
        }
        Heard::Unsent("not let in".to_owned())
    }

    /// What the administration says at a path, if it could be asked: `Some(None)` is 404.
    pub fn read(&self, path: &str) -> Option<Option<Value>> {
        match self.admin("GET", path, None) {
            Heard::Yes(answer) => Some(Some(answer.json())),
            Heard::No(answer) if answer.status == 404 => Some(None),
            _ => None,
        }
    }

    /// What introspection says to the gateway's client.
    pub fn introspect(&self, token: &str) -> Option<Value> {
        match self.post("/introspect", &GW, &[("token", token)]) {
            Heard::Yes(answer) => Some(answer.json()),
            _ => None,
        }
    }

    /// The status of a call through the gateway.
    pub fn call(&self, path: &str, token: &str) -> Option<u16> {
        client().get(format!("{}{path}", self.gateway)).bearer_auth(token).try_go().ok().map(|a| a.status)
    }

    /// The ledger after a position: its rows.
    pub fn events(&self, after: u64) -> Option<Vec<Value>> {
        let (mut rows, mut last) = (Vec::new(), after);
        loop {
            let page = self.read(&format!("/events?limit=200&after={last}"))??;
            let items = page["items"].as_array()?;
            last = items.last().and_then(|e| e["seq"].as_u64()).unwrap_or(last);
            rows.extend(items.iter().cloned());
            if items.is_empty() || page["next"].is_null() {
                return Some(rows);
            }
        }
    }

    /// A revocation by an administrator.
    pub fn revoke(&self, kind: &str, id: &str) -> Heard {
        self.admin("POST", "/revocations", Some(&json!({"kind": kind, "id": id, "reason": "rehearsal"})))
    }
}
