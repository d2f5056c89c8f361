//! Routes from a file: hot, whole, and a bad one changes nothing.
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client};
use crate::kit::{House, Server, Upstream, wait_until};

fn written(file: &Path, content: &Value) {
    // As editors and configuration management do it: a new file under the old name.
    let next = file.with_extension("next");
    std::fs::write(&next, content.to_string()).expect("written");
    std::fs::rename(&next, file).expect("renamed");
}

fn routes(upstream: &Upstream, ids: &[&str]) -> Value {
    let routes: Vec<Value> =
        ids.iter().map(|id| json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "filed", "public": true})).collect();
    json!({"upstreams": [{"id": "filed", "targets": [{"url": upstream.url()}]}], "routes": routes})
}

fn status(server: &Server, path: &str) -> u16 {
    client().get(server.through(path)).go().status
}

fn becomes(server: &Server, path: &str, wanted: u16) {
    wait_until(&format!("{path} is {wanted}"), Duration::from_secs(10), || status(server, path) == wanted);
}

#[test]
fn a_file_is_taken_in_whole_and_a_bad_one_changes_nothing() {
    let upstream = Upstream::start();
    let mut house = House::new();
    let file = house.path("routes.json");
    written(&file, &routes(&upstream, &["a", "b"]));
    house.text("gateway.routes_file", &file.display().to_string());
    house.bootstrap();
    house.seed(&json!({
        "upstreams": [{"id": "mine", "targets": [{"url": upstream.url()}]}],
        "routes": [{"id": "own", "match": {"path_prefix": "/own/"}, "upstream": "mine", "public": true}],
    }));
    let server = house.serve();
    // There from the first request on, beside what others made.
    assert_eq!(
        [status(&server, "/a/1"), status(&server, "/b/1"), status(&server, "/own/1"), status(&server, "/c/1")],
        [200, 200, 200, 404]
    );

    written(&file, &routes(&upstream, &["b", "c"]));
    becomes(&server, "/c/1", 200);
    assert_eq!([status(&server, "/a/1"), status(&server, "/b/1"), status(&server, "/own/1")], [404, 200, 200]);
    let events = server.admin("GET", "/events?kind=object.&limit=200").go().expect(200).text();
    assert!(events.contains("routes_file"), "{events}");

    // Not JSON, an unknown member, a lost upstream, what does not belong there: refused as a whole, each said.
    let mut lost = routes(&upstream, &["d"]);
    lost["upstreams"] = json!([]);
    let mut unknown = routes(&upstream, &["d"]);
    unknown["routes"][0]["publik"] = json!(true);
    let mut users = routes(&upstream, &["d"]);
    users["users"] = json!([{"username": "mallory", "password": "correct horse battery staple"}]);
    for (n, bad) in [json!("{"), lost, unknown, users].iter().enumerate() {
        written(&file, bad);
        let wanted = f64::from(u32::try_from(n).unwrap() + 1);
        wait_until("it is refused", Duration::from_secs(10), || server.metric("routes_file_total{outcome=\"refused\"}") >= wanted);
        assert_eq!([status(&server, "/b/1"), status(&server, "/c/1"), status(&server, "/d/1")], [200, 200, 404], "{bad}");
    }
    assert!(server.log().contains("the old routes stay"));
    server.admin("GET", "/users/mallory").go().expect(404);

    // A file that is gone takes nothing with it.
    std::fs::remove_file(&file).expect("removed");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(status(&server, "/b/1"), 200);
    written(&file, &json!({}));
    becomes(&server, "/b/1", 404);
    assert_eq!(status(&server, "/own/1"), 200);
}

#[test]
fn what_others_need_cannot_go() {
    let upstream = Upstream::start();
    let mut house = House::new();
    let file = house.path("routes.json");
    written(&file, &routes(&upstream, &["a"]));
    house.text("gateway.routes_file", &file.display().to_string());
    house.bootstrap();
    let server = house.serve();
    let route = json!({"id": "theirs", "match": {"path_prefix": "/theirs/"}, "upstream": "filed", "public": true});
    server.admin("POST", "/routes").json(&route).go().expect(201);
    written(&file, &json!({}));
    wait_until("it is refused", Duration::from_secs(10), || server.metric("routes_file_total{outcome=\"refused\"}") >= 1.0);
    assert_eq!([status(&server, "/a/1"), status(&server, "/theirs/1")], [200, 200]);
}

#[test]
fn what_others_made_is_not_taken_over() {
    let upstream = Upstream::start();
    let mut house = House::new();
    let file = house.path("routes.json");
    written(&file, &routes(&upstream, &["a"]));
    house.text("gateway.routes_file", &file.display().to_string());
    house.bootstrap();
    let server = house.serve();
    let route = json!({"id": "theirs", "match": {"path_prefix": "/theirs/"}, "upstream": "filed", "public": true});
    server.admin("POST", "/routes").json(&route).go().expect(201);
    let mut taking = routes(&upstream, &["a", "theirs"]);
    taking["routes"][1]["match"]["path_prefix"] = json!("/taken/");
    written(&file, &taking);
    wait_until("it is refused", Duration::from_secs(10), || server.metric("routes_file_total{outcome=\"refused\"}") >= 1.0);
    assert_eq!([status(&server, "/a/1"), status(&server, "/theirs/1"), status(&server, "/taken/1")], [200, 200, 404]);
    assert!(server.log().contains("routes[1]: was made by other hands"));
    // Once they have let it go, it is the file's; changed by others since, it still is.
    server.admin("DELETE", "/routes/theirs").go().expect(204);
    taking["routes"][1]["match"]["path_prefix"] = json!("/ours/");
    written(&file, &taking);
    becomes(&server, "/ours/1", 200);
    written(&file, &routes(&upstream, &["a"]));
    becomes(&server, "/ours/1", 404);
}

#[test]
fn check_says_what_is_wrong_with_the_file() {
    let mut house = House::new();
    let file = house.path("routes.json");
    written(&file, &json!({"clients": [{"client_id": "x"}], "rutes": []}));
    house.text("gateway.routes_file", &file.display().to_string());
    house.bootstrap();
    let said = house.run(&["check"]).failed(1).said();
    assert!(said.contains("clients[0]") && said.contains("rutes"), "{said}");
}
