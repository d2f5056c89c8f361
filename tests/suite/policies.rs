//! Policies of the gateway: a default for every route, candidates tried beside the ones in force, dry runs, tests in delivery.
use serde_json::{Value, json};

use crate::kit::http::{Go, client, random};
use crate::kit::seed::{API, MACHINE, route, standard};
use crate::kit::{House, Stage, Upstream};

fn policed(id: &str, prefix: &str, policy: Option<&str>, shadow: Option<&str>) -> Value {
    let mut route = route(id, prefix, "echo", json!({"accept": ["jwt", "none"], "audience": API}));
    for (name, text) in [("policy", policy), ("policy_shadow", shadow)] {
        if let Some(text) = text {
            route[name] = json!(text);
        }
    }
    route
}

const MACHINES_READ: &str = r#"permit(principal is Client, action == Action::"GET", resource);"#;

fn stage(configure: impl FnOnce(&mut House), routes: &[Value], policies: Value) -> Stage {
    let (upstream, mut house) = (Upstream::start(), House::new());
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["routes"].as_array_mut().unwrap().extend(routes.iter().cloned());
    seed["policies"] = policies;
    house.seed(&seed);
    let server = house.serve();
    Stage { house, server, upstream }
}

/// `policy_shadow_total` of a route, by whether it differs.
fn counted(stage: &Stage, route: &str, differs: bool) -> u64 {
    let text = client().get(format!("http://{}/metrics", stage.listener("metrics"))).go().expect(200).text();
    let named = |line: &&str| {
        line.starts_with("policy_shadow_total{")
            && line.contains(&format!("route=\"{route}\""))
            && line.contains(&format!("differs=\"{differs}\""))
    };
    text.lines().find(named).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn with_a_default_policy_every_route_without_one_is_judged_by_the_stored_ones() {
    let own = policed("own", "/own/", Some("permit(principal, action, resource);"), None);
    let stored = json!([{"id": "machines", "cedar": format!("{MACHINES_READ} permit(principal is Anonymous, action, resource == Route::\"open\");")}]);
    let stage = stage(
        |house| {
            house.text("gateway.default_policy", "shared");
        },
        &[own],
        stored,
    );
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[]));
    let call = |method: &str, path: &str| client().request(method.parse().unwrap(), stage.through(path)).bearer_auth(&token).go().status;
    assert_eq!(call("GET", "/api/x"), 200);
    assert_eq!(call("POST", &format!("/api/{mark}")), 403);
    assert_eq!(call("POST", "/own/x"), 200, "its own policy decides");
    assert_eq!(client().get(stage.through("/optional/x")).go().status, 403, "nobody is permitted to that");
    assert_eq!(client().post(stage.through("/public/x")).go().status, 200, "a public route is judged too");
    assert!(stage.upstream.seen(&mark).is_empty());
    stage.admin("DELETE", "/policies/machines").go().expect(204);
    assert_eq!((call("GET", "/api/x"), client().post(stage.through("/public/x")).go().status), (403, 403), "no policy permits nothing");
    let ran = stage.house.another("wrong.toml").text("gateway.default_policy", "everything").run(&["check"]);
    assert!(ran.code == 2 && ran.said().contains("gateway.default_policy"), "{}", ran.said());
}

#[test]
fn a_candidate_is_tried_beside_the_policy_in_force_and_decides_nothing() {
    let never = "forbid(principal, action, resource);";
    let routes = [
        policed("tried", "/tried/", Some(MACHINES_READ), Some(r#"permit(principal is Client, action, resource);"#)),
        policed("unpoliced", "/unpoliced/", None, Some(never)),
        policed("shared", "/shared/", Some("shared"), None),
    ];
    let stored = json!([{"id": "read", "cedar": MACHINES_READ}, {"id": "lockdown", "cedar": never, "mode": "shadow"}]);
    let stage = stage(|_| {}, &routes, stored);
    let token = stage.machine_token(&MACHINE, &[]);
    let call = |method: &str, path: &str| client().request(method.parse().unwrap(), stage.through(path)).bearer_auth(&token).go();
    assert_eq!((call("GET", "/tried/x").status, counted(&stage, "tried", false)), (200, 1));
    let refused = call("POST", "/tried/x");
    assert_eq!((refused.status, counted(&stage, "tried", true)), (403, 1), "what would be allowed is not");
    let line = stage.log().lines().find(|line| line.contains("would decide otherwise")).map(str::to_owned).unwrap_or_default();
    assert!(line.contains(refused.header("x-request-id")) && line.contains("tried"), "{line}");
    assert_eq!((call("GET", "/unpoliced/x").status, counted(&stage, "unpoliced", true)), (200, 1), "what would be forbidden is not");
    assert_eq!((call("GET", "/shared/x").status, counted(&stage, "shared", true)), (200, 1));
    for _ in 0..50 {
        call("POST", "/tried/x");
    }
    assert_eq!(counted(&stage, "tried", true), 51);
    let logged = stage.log().lines().filter(|line| line.contains("would decide otherwise")).count();
    assert!(logged < 51, "{logged} lines");
    stage.admin("PATCH", "/policies/lockdown").json(&json!({"mode": "enforce"})).go().expect(200);
    assert_eq!(call("GET", "/shared/x").status, 403);
    let wrong = stage.admin("PATCH", "/policies/lockdown").json(&json!({"mode": "maybe"})).go();
    assert_eq!(wrong.status, 422);
}

#[test]
fn a_dry_run_tells_what_would_change_and_changes_nothing() {
    let routes = [policed("shared", "/shared/", Some("shared"), None)];
    let stage = stage(|_| {}, &routes, json!([{"id": "read", "cedar": MACHINES_READ}]));
    let question = |action: &str| {
        json!({"principal": {"type": "Client", "id": "machine", "parents": [{"type": "Group", "id": "g"}]}, "action": action,
        "resource": {"type": "Route", "id": "shared"}, "context": {"method": action}})
    };
    let machine = json!({"sub": "machine", "client_id": "machine", "scope": "read"});
    let body = json!({
        "policies": [{"id": "write", "cedar": r#"permit(principal in Group::"g", action == Action::"POST", resource);"#}],
        "remove": ["read"],
        "questions": [question("GET"), question("POST"), question("PUT")],
        "requests": [{"path": "/shared/x", "caller": machine}, {"path": "/public/x"}],
    });
    let told = stage.admin("POST", "/policies/dry-run").json(&body).go().expect(200).json();
    let changed = |list: &str| told[list].as_array().unwrap().iter().map(|one| one["changed"] == true).collect::<Vec<_>>();
    assert_eq!((changed("questions"), changed("requests"), &told["changed"]), (vec![true, true, false], vec![true, false], &json!(3)));
    assert_eq!((&told["questions"][0]["before"]["by"], &told["questions"][1]["after"]["by"]), (&json!(["read#0"]), &json!(["write#0"])));
    assert_eq!(told["requests"][0]["after"]["reason"], "policy");
    assert_eq!(stage.call("/shared/x", &stage.machine_token(&MACHINE, &[])).status, 200, "nothing was changed");
    assert_eq!(stage.admin("GET", "/policies/write").go().status, 404);
    let wrong = json!({"policies": [{"id": "x", "cedar": "permit(all)"}], "remove": ["none"], "questions": [{"action": "GET"}]});
    let refused = stage.admin("POST", "/policies/dry-run").json(&wrong).go();
    assert_eq!(refused.status, 422);
    for at in ["policies[0].cedar", "remove", "questions[0]"] {
        assert!(refused.json()["errors"].as_array().unwrap().iter().any(|e| e["at"] == at), "{at}: {}", refused.text());
    }
}

#[test]
fn tests_of_policies_run_in_delivery_and_a_changed_policy_fails_them() {
    let sensor = r#"permit(principal in DeviceType::"temperature-sensor", action == Action::"POST", resource == Route::"readings");"#;
    let mut readings = policed("readings", "/readings/", Some(sensor), None);
    readings["auth"] = json!({"accept": ["jwt"], "audience": API, "scopes": ["write"]});
    let (upstream, house) = (Upstream::start(), House::new());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["routes"].as_array_mut().unwrap().push(readings);
    house.seed(&seed);
    let caller = |scope: &str| json!({"sub": "c", "client_id": "c", "scope": scope, "device": {"id": "s", "type": "temperature-sensor"}});
    let post = |caller: Value| json!({"method": "POST", "path": "/readings/1", "caller": caller});
    let tests = json!({"tests": [
        {"name": "a sensor posts", "request": post(caller("write")), "expect": {"allowed": true, "route": "readings", "by": "readings#0"}},
        {"name": "and does not put", "request": {"method": "PUT", "path": "/readings/1", "caller": caller("write")}, "expect": {"status": 403, "reason": "policy"}},
        {"name": "not without the scope", "request": post(caller("read")), "expect": {"status": 403, "reason": "scope"}},
        {"name": "nobody", "request": {"method": "POST", "path": "/readings/1"}, "expect": {"status": 401, "reason": "no_credential"}},
        {"name": "nowhere", "request": {"path": "/nowhere"}, "expect": {"status": 404}},
    ]});
    let file = house.write("tests.json", &tests.to_string());
    let run = || house.run(&["explain", "--file", file.to_str().unwrap()]);
    let ran = run().ok();
    assert_eq!(ran.out.lines().filter(|line| line.starts_with("ok ")).count(), 5, "{}", ran.out);
    seed["routes"].as_array_mut().unwrap().last_mut().unwrap()["policy"] = json!("permit(principal, action, resource);");
    house.seed(&seed);
    let ran = run().failed(1);
    assert!(ran.out.contains("FAIL and does not put") && ran.out.contains("reason: expected policy, is ok"), "{}", ran.out);
    assert_eq!(house.run(&["explain", "--json", "--file", file.to_str().unwrap()]).failed(1).json()["failed"], 1);
    let wrong = house.write("wrong.json", r#"{"tests": [{"request": {"path": "x"}, "expect": {}}]}"#);
    assert!(house.run(&["explain", "--file", wrong.to_str().unwrap()]).failed(2).err.contains("tests[0].request.path"));
}
