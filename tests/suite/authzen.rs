//! The policy decision point (AuthZEN Authorization API 1.0) and the same policies at the gateway's routes (Cedar).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::http::{Go, client, random};
use crate::kit::seed::{API, HOME, Id, MACHINE, PASSWORD, VAULT, route, standard};
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Upstream, Visitor};

const PEP: (&str, &str) = ("pep", "pep-secret-5a6b7c8d9e0f1a2b3c4d5e6f70818293");

/// The fixture that certification of decision points loads.
const FIXTURE: &str = r#"
    permit(principal in Team::"readers", action == Action::"read", resource in Shelf::"records");
    permit(principal == user::"alice", action == Action::"write", resource in Shelf::"records")
      unless { resource has status && resource.status == "archived" };
    permit(principal in Team::"readers", action == Action::"write", resource in Shelf::"records")
      when { principal has role && principal.role == "admin" };
    permit(principal in Team::"readers", action == Action::"delete", resource in Shelf::"records")
      when { context.action has soft && context.action.soft == true };
"#;

/// A client whose tokens are opaque.
const KEEPER: Id = Id {
    id: "keeper",
    secret: "keeper-secret-4b5c6d7e8f90a1b2c3d4e5f60718293a",
    method: "client_secret_basic",
    redirect: "https://keeper.example.com/cb",
    scope: "openid open",
};

struct Desk {
    server: Server,
    upstream: Upstream,
}

fn desk() -> &'static Desk {
    static DESK: OnceLock<Desk> = OnceLock::new();
    DESK.get_or_init(|| {
        let (upstream, house) = (Upstream::start(), House::new());
        house.bootstrap();
        let mut seed = standard(&upstream.url());
        let member = |kind: &str, id: &str, group: [&str; 2]| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": [{"type": group[0], "id": group[1]}]});
        seed["policies"] = json!([{"id": "records", "cedar": FIXTURE, "entities": [
            member("user", "alice", ["Team", "readers"]), member("user", "bob", ["Team", "readers"]),
            member("record", "record-1", ["Shelf", "records"]), member("record", "record-2", ["Shelf", "records"]),
        ]}]);
        let clients = seed["clients"].as_array_mut().unwrap();
        clients.push(json!({"client_id": PEP.0, "client_secret": PEP.1, "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.decide"}));
        let mut firmware = route("firmware", "/firmware/", "echo", json!({"accept": ["jwt"], "audience": API}));
        firmware["policy"] = json!(r#"permit(principal in Role::"viewer", action == Action::"GET", resource == Route::"firmware");
            @id("machines") permit(principal == Client::"machine", action == Action::"POST", resource) when { context.scopes.contains("write") };"#);
        seed["routes"].as_array_mut().unwrap().push(firmware);
        // The same rule for tokens that say nothing themselves, and what the upstream is told of their people.
        let mut sealed = route("sealed", "/sealed/", "echo", json!({"accept": ["opaque"], "audience": VAULT, "scopes": ["open"]}));
        sealed["policy"] = json!(r#"permit(principal is User, action, resource);
            forbid(principal, action, resource) unless { principal in Role::"viewer" && context.amr.contains("pwd") };"#);
        sealed["identity"] = json!({"headers": {"X-Roles": "roles", "X-Groups": "groups"}});
        seed["routes"].as_array_mut().unwrap().push(sealed);
        seed["clients"].as_array_mut().unwrap().push(json!({
            "client_id": KEEPER.id, "client_secret": KEEPER.secret, "grant_types": ["authorization_code"], "response_types": ["code"],
            "token_endpoint_auth_method": KEEPER.method, "redirect_uris": [KEEPER.redirect], "scope": KEEPER.scope,
            "allowed_resources": [VAULT], "first_party": true,
        }));
        house.seed(&seed);
        Desk { server: house.serve(), upstream }
    })
}

fn ask(path: &str, body: &Value) -> crate::kit::Answer {
    client().post(desk().server.url(path)).basic_auth(PEP.0, Some(PEP.1)).json(body).go()
}

fn question(who: &str, what: &str) -> Value {
    json!({"subject": {"type": "user", "id": who}, "action": {"name": what}, "resource": {"type": "record", "id": "record-1"}})
}

fn allowed(body: &Value) -> bool {
    let answer = ask("/access/v1/evaluation", body).expect(200).json();
    answer["decision"].as_bool().expect("a decision")
}

#[test]
fn authzen_pdp_evaluation_decides_the_fixture() {
    for (who, what, expected) in [
        ("alice", "read", true),
        ("bob", "read", true),
        ("alice", "write", true),
        ("bob", "write", false),
        ("mallory", "read", false),
        ("bob", "delete", false),
    ] {
        assert_eq!(allowed(&question(who, what)), expected, "{who} {what}");
    }
    let mut archived = question("alice", "write");
    archived["resource"]["properties"] = json!({"status": "archived", "size": 1.5, "nothing": null});
    assert!(!allowed(&archived));
    archived["subject"]["properties"] = json!({"role": "admin"});
    assert!(allowed(&archived));
    for soft in [true, false] {
        let mut delete = question("bob", "delete");
        delete["action"]["properties"] = json!({"soft": soft});
        delete["unknown"] = json!({"fields": "are ignored"});
        assert_eq!(allowed(&delete), soft);
        assert_eq!(allowed(&delete), soft, "the same again");
    }
}

#[test]
fn authzen_pdp_evaluation_refuses_what_is_no_request() {
    let s = &desk().server;
    for (pointer, value) in
        [("/subject", json!(1)), ("/subject/id", json!(null)), ("/action/name", json!(5)), ("/resource/type", json!({}))]
    {
        let mut body = question("alice", "read");
        *body.pointer_mut(pointer).unwrap() = value;
        assert_eq!(ask("/access/v1/evaluation", &body).status, 400, "{pointer}");
    }
    for body in [json!([]), json!({}), json!("x")] {
        assert_eq!(ask("/access/v1/evaluation", &body).status, 400, "{body}");
    }
    let raw = |content: &str, text: &'static str| {
        client()
            .post(s.url("/access/v1/evaluation"))
            .basic_auth(PEP.0, Some(PEP.1))
            .header("content-type", content.to_owned())
            .body(text)
            .go()
            .status
    };
    assert_eq!(raw("application/json", ""), 400);
    assert_eq!(raw("application/json", "{\"subject\": "), 400);
    assert_eq!(raw("application/json", "{\"subject\":1,\"subject\":2}"), 400);
    assert_eq!(raw("text/plain", "{}"), 415);
    assert_eq!(client().get(s.url("/access/v1/evaluation")).go().status, 405);
    let charset = client().post(s.url("/access/v1/evaluation")).basic_auth(PEP.0, Some(PEP.1));
    let charset = charset
        .header("content-type", "application/json; charset=utf-8")
        .header("x-request-id", "r-1")
        .body(question("alice", "read").to_string())
        .go();
    assert_eq!((charset.status, charset.header("x-request-id")), (200, "r-1"));
}

#[test]
fn authzen_pdp_answers_only_whoever_may_ask() {
    let s = &desk().server;
    let url = s.url("/access/v1/evaluation");
    let body = question("alice", "read");
    let nobody = client().post(&url).json(&body).go();
    assert_eq!(nobody.status, 401);
    assert!(!nobody.header("www-authenticate").is_empty());
    assert_eq!(client().post(&url).basic_auth(PEP.0, Some("wrong")).json(&body).go().status, 401);
    assert_eq!(client().post(&url).basic_auth(MACHINE.id, Some(MACHINE.secret)).json(&body).go().status, 403);
    assert_eq!(client().post(&url).bearer_auth(s.machine_token(&MACHINE, &[])).json(&body).go().status, 403);
    let form = [("grant_type", "client_credentials")];
    let token = client().post(s.url("/token")).basic_auth(PEP.0, Some(PEP.1)).form(&form).go().expect(200).json();
    let token = token["access_token"].as_str().unwrap().to_owned();
    client().post(&url).bearer_auth(token).json(&body).go().expect(200);
    let metadata = client().get(s.url("/.well-known/authzen-configuration")).go().expect(200).json();
    assert_eq!(metadata["access_evaluation_endpoint"], url);
}

#[test]
fn authzen_pdp_evaluations_merges_defaults_and_stops_where_told() {
    let body = |semantic: &str| {
        json!({"subject": {"type": "user", "id": "bob"}, "resource": {"type": "record", "id": "record-1"},
        "evaluations": [{"action": {"name": "read"}}, {"action": {"name": "write"}}, {"subject": {"type": "user", "id": "alice"}, "action": {"name": "write"}}, {}],
        "options": {"evaluations_semantic": semantic}})
    };
    let told = |semantic: &str| -> Vec<bool> {
        let answer = ask("/access/v1/evaluations", &body(semantic)).expect(200).json();
        answer["evaluations"].as_array().unwrap().iter().map(|e| e["decision"].as_bool().unwrap()).collect()
    };
    assert_eq!(told("execute_all"), [true, false, true, false]);
    assert_eq!(told("deny_on_first_deny"), [true, false]);
    assert_eq!(told("permit_on_first_permit"), [true]);
    assert_eq!(ask("/access/v1/evaluations", &body("sometimes")).status, 400);
    assert_eq!(ask("/access/v1/evaluations", &question("alice", "read")).expect(200).json()["decision"], true);
    let many: Vec<Value> = (0..201).map(|_| question("alice", "read")).collect();
    assert_eq!(ask("/access/v1/evaluations", &json!({"evaluations": many})).status, 400);
}

#[test]
fn authzen_pdp_searches_find_who_which_and_what() {
    let who = json!({"subject": {"type": "user", "id": "stray"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}, "page": {"limit": 1}});
    let first = ask("/access/v1/search/subject", &who).expect(200).json();
    assert_eq!(first["results"], json!([{"type": "user", "id": "alice"}]));
    let mut next = who;
    next["page"]["token"] = first["page"]["next_token"].clone();
    assert_eq!(ask("/access/v1/search/subject", &next).expect(200).json()["results"], json!([{"type": "user", "id": "bob"}]));
    let which = json!({"subject": {"type": "user", "id": "alice"}, "action": {"name": "write"}, "resource": {"type": "record"}});
    let found = ask("/access/v1/search/resource", &which).expect(200).json();
    assert_eq!(found["results"], json!([{"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}]));
    let what = json!({"subject": {"type": "user", "id": "bob"}, "resource": {"type": "record", "id": "record-1"}});
    assert_eq!(ask("/access/v1/search/action", &what).expect(200).json()["results"], json!([{"name": "read"}]));
    let ghost = json!({"subject": {"type": "ghost"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}});
    assert_eq!(ask("/access/v1/search/subject", &ghost).expect(200).json()["results"], json!([]));
}

#[test]
fn a_changed_policy_counts_from_the_answer_on_and_a_broken_one_changes_nothing() {
    let s = &desk().server;
    let mut asked = question("alice", "stamp");
    asked["resource"]["id"] = json!("record-2");
    assert!(!allowed(&asked));
    let text = r#"permit(principal == user::"alice", action == Action::"stamp", resource);"#;
    s.admin("POST", "/policies").json(&json!({"id": "stamps", "cedar": text})).go().expect(201);
    assert!(allowed(&asked));
    let broken = s.admin("PUT", "/policies/stamps").json(&json!({"id": "stamps", "cedar": "permit(principal"})).go();
    assert_eq!(broken.status, 422, "{}", broken.text());
    assert!(allowed(&asked));
    s.admin("DELETE", "/policies/stamps").go().expect(204);
    assert!(!allowed(&asked));
}

#[test]
fn a_route_is_judged_by_its_policy_and_the_upstream_sees_nothing_of_a_refusal() {
    let d = desk();
    let viewer = Visitor::new().tokens(&d.server, &Ask::new(&HOME), "alice");
    let viewer = viewer["access_token"].as_str().unwrap();
    let other = Visitor::new().tokens(&d.server, &Ask::new(&HOME), "bob");
    let other = other["access_token"].as_str().unwrap();
    let go = |method: &str, mark: &str, token: &str| {
        client().request(method.parse().unwrap(), d.server.through(&format!("/firmware/{mark}"))).bearer_auth(token).go().status
    };
    let mark = random();
    assert_eq!(go("GET", &mark, viewer), 200);
    d.upstream.only(&mark);
    let refused = random();
    assert_eq!(go("GET", &refused, other), 403);
    assert_eq!(go("DELETE", &refused, viewer), 403);
    let reader = d.server.machine_token(&MACHINE, &[("scope", "read")]);
    assert_eq!(go("POST", &refused, &reader), 403);
    assert!(d.upstream.seen(&refused).is_empty());
    let writer = d.server.machine_token(&MACHINE, &[("scope", "write")]);
    assert_eq!(go("POST", &random(), &writer), 200);
    let wrong = json!({"id": "wrong", "match": {"path_prefix": "/wrong/"}, "upstream": "echo", "auth": {"accept": ["jwt"], "audience": API}, "policy": "permit(everybody);"});
    assert_eq!(d.server.admin("POST", "/routes").json(&wrong).go().status, 422);
}

#[test]
fn an_opaque_token_meets_the_same_policy_and_tells_the_upstream_the_same() {
    let d = desk();
    let token = |name: &str| text(&Visitor::new().tokens(&d.server, &Ask::new(&KEEPER), name), "access_token");
    let (viewer, other) = (token("alice"), token("bob"));
    assert!(!viewer.contains('.'), "an opaque token: {viewer}");
    let go = |mark: &str, token: &str| client().get(d.server.through(&format!("/sealed/{mark}"))).bearer_auth(token).go().status;
    let (mark, refused) = (random(), random());
    assert_eq!(go(&mark, &viewer), 200);
    let seen = d.upstream.only(&mark);
    let told = |name: &str| seen.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    assert_eq!((told("x-roles"), told("x-groups")), (vec!["viewer"], vec!["staff"]));
    assert_eq!(go(&refused, &other), 403);
    assert!(d.upstream.seen(&refused).is_empty());
}

#[test]
fn a_disabled_account_may_nothing_whatever_is_written_for_it() {
    let s = &desk().server;
    let cedar = r#"permit(principal == User::"zelda", action == Action::"ring", resource); permit(principal is User, action == Action::"ring", resource == Doc::"bell");"#;
    let zelda = json!({"username": "zelda", "password": PASSWORD, "name": "Zelda"});
    let id = s.admin("POST", "/users").json(&zelda).go().expect(201).json()["id"].as_str().unwrap().to_owned();
    s.admin("POST", "/policies").json(&json!({"id": "bell", "cedar": cedar})).go().expect(201);
    let asked = json!({"subject": {"type": "User", "id": "zelda"}, "action": {"name": "ring"}, "resource": {"type": "Doc", "id": "bell"}});
    let by_id = json!({"subject": {"type": "User", "id": id}, "action": {"name": "ring"}, "resource": {"type": "Doc", "id": "bell"}});
    let found = |kind: &str| ask(&format!("/access/v1/search/{kind}"), &asked).expect(200).json()["results"].as_array().unwrap().len();
    assert!(allowed(&asked) && allowed(&by_id));
    assert_eq!((found("subject"), found("action")), (1, 1));
    s.admin("POST", &format!("/users/{id}/disable")).go();
    assert!(!allowed(&asked) && !allowed(&by_id));
    let batch = ask("/access/v1/evaluations", &json!({"evaluations": [asked, by_id]})).expect(200).json();
    assert_eq!(batch["evaluations"], json!([{"decision": false}, {"decision": false}]));
    assert_eq!((found("subject"), found("action")), (0, 0));
}

#[test]
fn more_than_one_question_is_worth_is_refused() {
    let mut large = question("alice", "read");
    large["context"] = json!({"a": vec![1; 20_000]});
    assert_eq!(ask("/access/v1/evaluation", &large).status, 400);
    large["context"] = json!({"a": vec![1; 900]});
    large["evaluations"] = json!(vec![json!({}); 200]);
    assert_eq!(ask("/access/v1/evaluations", &large).status, 400, "two hundred times the defaults");
    let small: Vec<Value> = (0..200).map(|n| json!({"context": {"n": n}})).collect();
    large["context"] = json!({});
    large["evaluations"] = json!(small);
    assert_eq!(ask("/access/v1/evaluations", &large).expect(200).json()["evaluations"].as_array().unwrap().len(), 200);
}

#[test]
fn nobody_asks_without_end() {
    let s = &desk().server;
    let id = "greedy";
    let secret = "greedy-secret-6a6b7c8d9e0f1a2b3c4d5e6f7081829";
    let greedy = json!({"client_id": id, "client_secret": secret, "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.decide"});
    s.admin("POST", "/clients").json(&greedy).go().expect(201);
    let body = json!({"resource": {"type": "record", "id": "record-1"}, "action": {"name": "read"}});
    let limited = (0..1_000)
        .map(|_| {
            client()
                .post(s.url("/access/v1/search/subject"))
                .basic_auth(id, Some(secret))
                .json(&json!({
        "subject": {"type": "ghost"}, "resource": body["resource"], "action": body["action"]}))
                .go()
        })
        .find(|answer| answer.status != 200);
    let limited = limited.expect("a limit");
    assert_eq!(limited.status, 429);
    assert!(!limited.header("retry-after").is_empty());
    assert!(allowed(&question("alice", "read")), "another client is not concerned");
}
