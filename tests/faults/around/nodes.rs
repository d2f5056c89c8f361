//! Three equal nodes on one PostgreSQL race for everything that counts once: one wins, and a replay costs what the contract says (§5).
use std::sync::Barrier;
use std::time::Duration;

use serde_json::json;

use super::rounds;
use crate::kit::apart::{KIOSK, asked, begin, devices};
use crate::kit::dpop::Holder;
use crate::kit::forge::Key;
use crate::kit::http::{Answer, Go, client, now, random};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{API, APP, HOME, Id, MACHINE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Landing, Server, Upstream, Visitor, wait_until};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct Nodes {
    all: Vec<Server>,
    house: House,
    _upstream: Upstream,
    _database: OwnPostgres,
}

fn nodes(key: &Key) -> Option<Nodes> {
    let (database, upstream, mut house) = (OwnPostgres::start()?, Upstream::start(), House::new());
    house.text("storage.url", &database.url());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.extend(devices()["clients"].as_array().expect("devices").clone());
    clients.push(json!({
        "client_id": "signer", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"], "redirect_uris": [],
        "response_types": [], "scope": "read", "allowed_resources": [API], "jwks": {"keys": [key.jwk()]},
    }));
    house.seed(&seed);
    let mut all = vec![house.serve()];
    for name in ["second.toml", "third.toml"] {
        let mut node = house.another(name);
        node.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
        all.push(node.serve());
    }
    Some(Nodes { all, house, _upstream: upstream, _database: database })
}

impl Nodes {
    fn at(&self, node: usize, path: &str) -> String {
        format!("http://{}{path}", self.all[node].listener("public"))
    }

    /// The same at every node (twice at the first) at one moment.
    fn race(&self, request: impl Fn(usize) -> Answer + Sync) -> Vec<Answer> {
        let start = Barrier::new(self.all.len() + 1);
        std::thread::scope(|scope| {
            let racers: Vec<_> = [0, 0, 1, 2]
                .into_iter()
                .map(|node| {
                    let (start, request) = (&start, &request);
                    scope.spawn(move || {
                        start.wait();
                        request(node)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("an answer")).collect()
        })
    }

    fn form(&self, who: &Id, form: &[(&str, &str)]) -> Vec<Answer> {
        self.race(|node| who.post(&self.at(node, "/token"), form).go())
    }
}

/// The one that won; the others were refused like this.
#[track_caller]
fn winner(answers: Vec<Answer>, status: u16, error: &str) -> Answer {
    let told: Vec<String> = answers.iter().map(|a| format!("{} {}", a.status, a.text())).collect();
    let (mut won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| a.status == 200);
    assert_eq!(won.len(), 1, "{told:#?}");
    for answer in lost {
        answer.expect_error(status, error);
    }
    won.remove(0)
}

#[test]
fn whatever_counts_once_is_won_once_by_three_nodes() {
    let (key, holder) = (Key::new("one"), Holder::new());
    let Some(nodes) = nodes(&key) else { return };
    let first = &nodes.all[0];
    let mut visitor = Visitor::new();
    visitor.tokens(first, &Ask::new(&HOME), "alice");
    for _ in 0..rounds(12) {
        // A code: what the winner got is dead, because the others used it again.
        let ask = Ask::new(&HOME);
        let code = visitor.walk(first, &ask, "alice").code(first, &ask);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", HOME.redirect),
            ("code_verifier", ask.verifier.as_str()),
        ];
        let won = winner(nodes.form(&HOME, &form), 400, "invalid_grant").json();
        for node in &nodes.all {
            let access = text(&won, "access_token");
            wait_until("what the code gave is dead everywhere", Duration::from_secs(1), || node.call("/api/x", &access).status == 401);
        }
        first.refresh(&HOME, &text(&won, "refresh_token")).expect_error(400, "invalid_grant");

        // A refresh token: its family is dead.
        let mut once = visitor.clone();
        let token = text(&once.tokens(first, &Ask::new(&APP), "alice"), "refresh_token");
        let won = winner(nodes.form(&APP, &[("grant_type", "refresh_token"), ("refresh_token", &token)]), 400, "invalid_grant").json();
        for node in 0..3 {
            let form = [("grant_type", "refresh_token"), ("refresh_token", &*text(&won, "refresh_token"))].map(|(k, v)| (k, v.to_owned()));
            let form: Vec<(&str, &str)> = form.iter().map(|(k, v)| (*k, v.as_str())).collect();
            APP.post(&nodes.at(node, "/token"), &form).go().expect_error(400, "invalid_grant");
        }

        // A client's assertion.
        let claims = json!({"iss": "signer", "sub": "signer", "aud": first.issuer, "jti": random(), "iat": now(), "exp": now() + 60});
        let assertion = key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": key.kid}), &claims);
        let form = [("client_assertion_type", TYPE), ("client_assertion", &assertion), ("grant_type", "client_credentials")];
        winner(nodes.race(|node| client().post(nodes.at(node, "/token")).form(&form).go()), 401, "invalid_client");

        // A proof of a key at the token endpoint; the name in it is the issuer's, whichever node is asked.
        let proof = holder.proof("POST", &first.url("/token"), None);
        let form = [("grant_type", "client_credentials")];
        let proved = nodes.race(|node| MACHINE.post(&nodes.at(node, "/token"), &form).header("dpop", &proof).go());
        let bound = text(&winner(proved, 400, "invalid_dpop_proof").json(), "access_token");

        // A proof at the gateways, which answer to one host.
        let proof = holder.proof("GET", "http://api.example.com/api/x", Some(&bound));
        let passed = nodes.race(|node| {
            let request = client().get(nodes.all[node].through("/api/x")).header("host", "api.example.com");
            request.header("authorization", format!("DPoP {bound}")).header("dpop", &proof).go()
        });
        let status: Vec<u16> = passed.iter().map(|answer| answer.status).collect();
        assert_eq!((status.iter().filter(|s| **s == 200).count(), status.iter().filter(|s| **s == 401).count()), (1, 3), "{status:?}");

        // A device's code.
        let begun = begin(first, &KIOSK, &[]);
        let page = asked(&mut visitor, first, &begun, "alice");
        visitor.send(&page.press("device-approve")).kind("device");
        let device_code = text(&begun, "device_code");
        let form = [("grant_type", crate::kit::apart::DEVICE_CODE), ("device_code", device_code.as_str())];
        winner(nodes.form(&KIOSK, &form), 400, "invalid_grant");

        // A pushed request: one browser at each node, all logged in; one gets a code.
        let ask = Ask::new(&HOME);
        let form: Vec<(&str, &str)> = ask.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let pushed = text(&first.post("/par", &HOME, &form).expect(201).json(), "request_uri");
        let cookies = visitor.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("; ");
        let went = nodes.race(|node| {
            let query = [("client_id", HOME.id), ("request_uri", pushed.as_str())];
            let request = client().get(url::Url::parse_with_params(&nodes.at(node, "/authorize"), query).expect("a URL"));
            request.header("cookie", &cookies).go()
        });
        let codes = went.iter().filter(|answer| answer.header("location").contains("code=")).count();
        let told: Vec<_> = went.iter().map(|a| (a.status, a.header("location").to_owned())).collect();
        assert_eq!(codes, 1, "{told:?}");
    }
    assert!(matches!(visitor.open(&Ask::new(&HOME).url(first)), Landing::Away(_)));
    for node in &nodes.all {
        assert!(node.metric("panics_total") < 1.0);
    }
    nodes.house.run(&["audit", "verify"]).ok();
}
