//! The newcomer's one command: from nothing to a token, a call, a revocation, a refusal.
use std::time::Duration;

use crate::kit::http::{Go, client};
use crate::kit::{House, services, wait_until};

#[test]
fn one_command_gives_everything_and_the_revoked_token_is_refused() {
    if [8080, 8081].iter().any(|p| std::net::TcpStream::connect(("127.0.0.1", *p)).is_ok()) {
        return services::skip("a free port 8080 and 8081");
    }
    let house = House::new();
    let dir = house.path("data").display().to_string();
    let server = house.start(&["quickstart", "--data-dir", &dir, "--json"]).expect("a ready line");
    assert_eq!(server.issuer, "http://127.0.0.1:8080");
    let demo = &server.ready["demo"];
    let of = |name: &str| demo[name].as_str().unwrap_or_else(|| panic!("no {name} in {demo}")).to_owned();
    for name in ["username", "password"] {
        of(name);
    }
    let form = [("grant_type", "client_credentials"), ("scope", &of("scope")), ("resource", &of("resource"))];
    let tokens =
        client().post(server.url("/token")).basic_auth(of("client_id"), Some(of("client_secret"))).form(&form).go().expect(200).json();
    let token = tokens["access_token"].as_str().unwrap().to_owned();
    let call = || client().get(of("protected_url")).bearer_auth(&token).go().status;
    let post =
        |path: &str| client().post(server.url(path)).basic_auth(of("client_id"), Some(of("client_secret"))).form(&[("token", &token)]).go();
    assert_eq!(post("/introspect").expect(200).json()["active"], true);
    assert_eq!(call(), 200);
    post("/revoke").expect(200);
    assert_eq!(call(), 401);
    assert_eq!(post("/introspect").expect(200).json()["active"], false);
    assert_eq!(client().get(of("protected_url")).go().status, 401);
    server.stop();

    // A second start finds everything there; the tour is printed and says 200 and 401.
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["quickstart", "--data-dir", &dir])
        .stdout(std::fs::File::create(house.path("tour")).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let tour = || std::fs::read_to_string(house.path("tour")).unwrap_or_default();
    wait_until("the tour is over", Duration::from_secs(20), || {
        let tour = tour();
        tour.contains("401") && tour.contains("curl")
    });
    let said = tour();
    let done = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(done.success());
    child.wait().unwrap();
    for word in ["200", "401", "revoke", " ms", "http://127.0.0.1:8081"] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}
