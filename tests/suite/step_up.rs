//! Stepping up for a resource (RFC 9470): the gateway's challenge, the way through `/authorize`, the token that passes.
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::dpop::Holder;
use crate::kit::http::{Answer, Go, claims, client, now, random};
use crate::kit::seed::{API, HOME, Id, MACHINE, PASSWORD, VAULT, route};
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Visitor, apart, wait_until};

const ONE: &str = "urn:doorward:acr:1";
const TWO: &str = "urn:doorward:acr:2";

/// A first-party client of the resource whose tokens are opaque.
const KEEPER: Id = Id {
    id: "keeper",
    secret: "keeper-secret-4b5c6d7e8f90a1b2c3d4e5f60718293a",
    method: "client_secret_basic",
    redirect: "https://keeper.example.com/cb",
    scope: "openid open",
};

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let auth = |demands: Value| {
            let mut auth = json!({"accept": ["jwt", "opaque"], "issuers": ["self"], "audience": API, "scopes": ["read"]});
            auth.as_object_mut().unwrap().extend(demands.as_object().unwrap().clone());
            auth
        };
        let routes = [
            ("strong", auth(json!({"acr_values": [TWO]}))),
            ("known", auth(json!({"acr_values": ["urn:elsewhere", ONE]}))),
            ("recent", auth(json!({"max_age": "2s"}))),
            ("both", auth(json!({"acr_values": [TWO], "max_age": "5m"}))),
            ("sealed", auth(json!({"acr_values": [TWO], "max_age": "10m", "audience": VAULT, "scopes": ["open"]}))),
        ];
        let routes: Vec<Value> = routes.into_iter().map(|(id, auth)| route(id, &format!("/{id}/"), "echo", auth)).collect();
        let keeper = json!({
            "client_id": KEEPER.id, "client_secret": KEEPER.secret, "grant_types": ["authorization_code"], "response_types": ["code"],
            "token_endpoint_auth_method": KEEPER.method, "redirect_uris": [KEEPER.redirect], "scope": KEEPER.scope,
            "allowed_resources": [VAULT], "first_party": true,
        });
        apart::stage(|_| {}, &json!({"routes": routes, "clients": [keeper]}))
    })
}

/// A parameter of the challenge.
#[track_caller]
fn demanded(answer: &Answer, name: &str) -> Option<String> {
    let challenge = answer.header("www-authenticate");
    let (_, after) = challenge.split_once(&format!(" {name}=\""))?;
    after.split_once('"').map(|(value, _)| value.to_owned())
}

#[track_caller]
fn challenged(answer: Answer) -> Answer {
    let answer = answer.expect(401);
    assert_eq!(demanded(&answer, "error").as_deref(), Some("insufficient_user_authentication"), "{:?}", answer.headers);
    answer
}

fn access(stage: &Stage, ask: &Ask, code: &str) -> String {
    text(&ask.redeem(stage, code).expect(200).json(), "access_token")
}

/// A person with a second factor that only the password was asked of so far.
fn person(stage: &Stage, name: &str, ask: &Ask) -> (Visitor, crate::kit::totp::Authenticator, String) {
    stage.person(name);
    let mut visitor = Visitor::new();
    let code = visitor.walk(stage, ask, name).code(stage, ask);
    let token = access(stage, ask, &code);
    (visitor, stage.enrol(name), token)
}

#[test]
fn the_challenge_leads_to_a_token_that_passes() {
    let stage = stage();
    let first = Ask::new(&HOME);
    let (mut visitor, own, weak) = person(stage, "step-level", &first);
    assert_eq!(claims(&weak)["acr"], ONE);
    let mark = random();
    let refused = challenged(stage.call(&format!("/strong/{mark}"), &weak));
    assert!(refused.header("www-authenticate").starts_with("Bearer "), "{:?}", refused.headers);
    assert!(demanded(&refused, "error_description").is_some() && demanded(&refused, "max_age").is_none());
    assert_eq!(stage.upstream.seen(&mark).len(), 0, "nothing was forwarded");
    // Elsewhere the token is as good as before; the challenge is of the route.
    stage.call("/api/x", &weak).expect(200);
    stage.call("/known/x", &weak).expect(200);

    let ask = Ask::new(&HOME).with("acr_values", &demanded(&refused, "acr_values").expect("acr_values"));
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    let code = visitor.otp(&page, &own.code(0)).code(stage, &ask);
    let strong = access(stage, &ask, &code);
    stage.call(&format!("/strong/{mark}"), &strong).expect(200);
    stage.call("/known/x", &strong).expect(200);
    stage.call("/both/x", &strong).expect(200);
    let counted = |line: &str| line.starts_with("auth_decisions_total{") && line.contains("\"strong\"") && line.contains("\"step_up\"");
    let metrics = || client().get(format!("http://{}/metrics", stage.listener("metrics"))).go().expect(200).text();
    wait_until("the refusal is counted", Duration::from_secs(2), || metrics().lines().any(counted));
}

#[test]
fn a_login_too_long_ago_is_renewed_with_the_max_age_of_the_challenge() {
    let stage = stage();
    let ask = Ask::new(&HOME);
    let mut visitor = Visitor::new();
    let code = visitor.walk(stage, &ask, "bob").code(stage, &ask);
    let token = access(stage, &ask, &code);
    stage.call("/recent/x", &token).expect(200);
    let at = claims(&token)["auth_time"].as_i64().unwrap();
    wait_until("the login is old", Duration::from_secs(10), || now() > at + 2);
    let refused = challenged(stage.call("/recent/x", &token));
    assert_eq!((demanded(&refused, "max_age").as_deref(), demanded(&refused, "acr_values")), (Some("2"), None));
    let ask = Ask::new(&HOME).with("max_age", &demanded(&refused, "max_age").unwrap());
    let page = visitor.open(&ask.url(stage)).kind("login");
    let code = visitor.login(&page, "bob", PASSWORD).code(stage, &ask);
    stage.call("/recent/x", &access(stage, &ask, &code)).expect(200);
}

#[test]
fn whose_authentication_is_not_told_has_to_step_up_and_a_bad_token_is_just_bad() {
    let stage = stage();
    let machine = stage.machine_token(&MACHINE, &[]);
    for route in ["strong", "recent", "both"] {
        challenged(stage.call(&format!("/{route}/x"), &machine));
    }
    let both = challenged(stage.call("/both/x", &machine));
    assert_eq!((demanded(&both, "acr_values").as_deref(), demanded(&both, "max_age").as_deref()), (Some(TWO), Some("300")));
    let bad = stage.call("/strong/x", "no.such.token").expect(401);
    assert_eq!(demanded(&bad, "error").as_deref(), Some("invalid_token"));
    let none = client().get(stage.through("/strong/x")).go().expect(401);
    assert_eq!(demanded(&none, "error"), None);
    // A token bound to a key hears it in its own scheme.
    let (holder, url) = (Holder::new(), stage.through("/strong/x"));
    let refused = challenged(holder.get(&url, &holder.machine_token(stage, &MACHINE)).go());
    assert!(refused.header("www-authenticate").starts_with("DPoP ") && demanded(&refused, "algs").is_some(), "{:?}", refused.headers);
    // A mistake in a route is named.
    let wrong = route("wrong", "/wrong/", "echo", json!({"accept": ["jwt"], "audience": API, "acr_values": ["a\"b"], "max_age": "soon"}));
    let said = stage.admin("POST", "/routes").json(&wrong).go().expect(422).text();
    assert!(said.contains("auth.acr_values[0]") && said.contains("auth.max_age"), "{said}");
    let why = stage.house.run(&["explain", "--path", "/strong/x", "--token", &machine, "--json"]).ok().json();
    assert_eq!((why["reason"].as_str(), why["status"].as_u64()), (Some("step_up"), Some(401)));
    assert!(why["steps"].to_string().contains(TWO), "{why}");
}

#[test]
fn an_opaque_token_is_asked_about_and_introspection_tells_how_it_came_about() {
    let stage = stage();
    let ask = Ask::new(&KEEPER);
    let (mut visitor, own, weak) = person(stage, "step-opaque", &ask);
    assert!(!weak.contains('.'), "opaque");
    let told = stage.introspect(&weak);
    assert_eq!(told["acr"], ONE);
    assert!(told["auth_time"].as_i64().is_some_and(|at| (now() - at).abs() < 60), "{told}");
    let refused = challenged(stage.call("/sealed/x", &weak));
    let ask = Ask::new(&KEEPER).with("acr_values", &demanded(&refused, "acr_values").unwrap());
    let ask = ask.with("max_age", &demanded(&refused, "max_age").unwrap());
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    let code = visitor.otp(&page, &own.code(0)).code(stage, &ask);
    let strong = access(stage, &ask, &code);
    assert_eq!(stage.introspect(&strong)["acr"], TWO);
    stage.call("/sealed/x", &strong).expect(200);
    let own_view = stage.post("/introspect", &KEEPER, &[("token", &strong)]).expect(200).json();
    assert_eq!(own_view["acr"], TWO);
}
