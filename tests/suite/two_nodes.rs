//! Two equal nodes on one PostgreSQL: races have one winner, revocations cross.
use std::sync::Barrier;
use std::time::Duration;

use crate::kit::http::{Answer, Go};
use crate::kit::seed::{APP, HOME, MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Id, Server, Upstream, Visitor, services, wait_until};

struct Nodes {
    a: Server,
    b: Server,
    house: House,
    _upstream: Upstream,
}

/// Two processes with one issuer, one database, one key-encryption key.
fn nodes(redis: bool) -> Option<Nodes> {
    let database = services::postgres()?;
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    if redis {
        let url = services::redis()?;
        house.text("shared_state.url", &url);
    }
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    Some(Nodes { a, b, house, _upstream: upstream })
}

/// The token endpoint of a node by its own address.
fn at(node: &Server) -> String {
    format!("http://{}/token", node.listener("public"))
}

/// The same form at both nodes at the same moment.
fn race(nodes: &Nodes, who: &Id, form: &[(&str, &str)]) -> (Answer, Answer) {
    let start = Barrier::new(2);
    let (first, second) = (at(&nodes.a), at(&nodes.b));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            start.wait();
            who.post(&second, form).go()
        });
        start.wait();
        let mine = who.post(&first, form).go();
        (mine, other.join().expect("an answer"))
    })
}

#[test]
fn a_refresh_token_raced_at_two_nodes_wins_exactly_once() {
    let Some(nodes) = nodes(false) else { return };
    let (mut wins_a, mut wins_b) = (0, 0);
    for round in 0..200 {
        let token = {
            // A fresh grant each round, because reuse ends the family.
            let mut visitor = Visitor::new();
            text(&visitor.tokens(&nodes.a, &Ask::new(&APP), "alice"), "refresh_token")
        };
        let (a, b) = race(&nodes, &APP, &[("grant_type", "refresh_token"), ("refresh_token", &token)]);
        let wins = [&a, &b].iter().filter(|x| x.status == 200).count();
        assert_eq!(wins, 1, "round {round}: {} {} / {} {}", a.status, a.text(), b.status, b.text());
        let (winner, loser) = if a.status == 200 { (&a, &b) } else { (&b, &a) };
        assert_eq!((loser.status, loser.json()["error"].as_str()), (400, Some("invalid_grant")));
        // The loser was a reuse: the family is dead at both nodes.
        let next = text(&winner.json(), "refresh_token");
        nodes.a.refresh(&APP, &next).expect_error(400, "invalid_grant");
        if a.status == 200 {
            wins_a += 1;
        } else {
            wins_b += 1;
        }
    }
    println!("node A won {wins_a}, node B {wins_b} of 200");
    nodes.house.run(&["audit", "verify"]).ok();
}

#[test]
fn a_code_raced_at_two_nodes_wins_exactly_once() {
    let Some(nodes) = nodes(false) else { return };
    let mut visitor = Visitor::new();
    for round in 0..200 {
        let ask = Ask::new(&HOME);
        let code = visitor.walk(&nodes.a, &ask, "alice").code(&nodes.a, &ask);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", HOME.redirect),
            ("code_verifier", ask.verifier.as_str()),
        ];
        let (a, b) = race(&nodes, &HOME, &form);
        let wins = [&a, &b].iter().filter(|x| x.status == 200).count();
        assert_eq!(wins, 1, "round {round}: {} {} / {} {}", a.status, a.text(), b.status, b.text());
    }
}

#[test]
fn a_revocation_on_one_node_is_known_on_the_other_within_a_second() {
    for redis in [false, true] {
        let Some(nodes) = nodes(redis) else { return };
        let call = |token: &str, path: &str| nodes.b.call(path, token).status;
        for (who, path) in [(&MACHINE, "/api/x"), (&SAFE, "/vault/x")] {
            for _ in 0..5 {
                let token = nodes.a.machine_token(who, &[]);
                assert_eq!(call(&token, path), 200);
                nodes.a.revoke(who, &token);
                wait_until("node B's gateway refuses", Duration::from_secs(1), || call(&token, path) == 401);
                let asked =
                    crate::kit::seed::GW.post(&format!("http://{}/introspect", nodes.b.listener("public")), &[("token", &token)]).go();
                assert_eq!(asked.expect(200).json()["active"], false);
            }
        }
    }
}

#[test]
fn a_login_at_one_node_is_a_login_at_the_other() {
    let Some(nodes) = nodes(false) else { return };
    let mut visitor = Visitor::new();
    visitor.tokens(&nodes.a, &Ask::new(&HOME), "alice");
    // The other node by its own address; cookies do not know ports.
    let silent = Ask::new(&HOME).with("prompt", "none");
    let url = silent.url(&nodes.a).replace(&nodes.a.issuer, &format!("http://{}", nodes.b.listener("public")));
    let code = visitor.open(&url).code(&nodes.a, &silent);
    silent.redeem(&nodes.a, &code).expect(200);
}

#[test]
fn an_object_changed_at_one_node_is_changed_at_the_other() {
    let Some(nodes) = nodes(false) else { return };
    assert_eq!(nodes.b.call("/api/x", &nodes.a.machine_token(&MACHINE, &[])).status, 200);
    let gone = nodes.a.admin("DELETE", "/clients/safe").go();
    assert!([200, 204].contains(&gone.status));
    wait_until("node B has forgotten the client", Duration::from_secs(1), || {
        SAFE.post(&at(&nodes.b), &[("grant_type", "client_credentials")]).go().status == 401
    });
}

#[test]
fn storage_away_is_503_and_nothing_is_issued() {
    let Some(nodes) = nodes(false) else { return };
    let token = nodes.a.machine_token(&MACHINE, &[]);
    let refresh = text(&nodes.a.person_tokens(&APP, "alice"), "refresh_token");
    let Nodes { a, b, house, _upstream } = nodes;
    b.stop();
    let admin = crate::kit::http::env("DOORWARD_TEST_POSTGRES").expect("checked");
    let config = std::fs::read_to_string(house.config()).expect("the configuration");
    let name =
        config.lines().find(|l| l.starts_with("url = ") && l.contains("suite_")).and_then(|l| l.split('/').next_back()).expect("a name");
    let name = name.trim_end_matches('"').split('?').next().expect("a name").to_owned();
    let psql = |sql: String| {
        let done = std::process::Command::new("psql").args([&admin, "-qc", &sql]).output().expect("psql");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    psql(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    psql(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"));
    let answer = a.refresh(&APP, &refresh);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    assert!(!answer.text().contains("access_token"));
    for (who, form) in
        [(&MACHINE, vec![("grant_type", "client_credentials")]), (&HOME, vec![("grant_type", "authorization_code"), ("code", "x")])]
    {
        let answer = a.token(who, &form);
        assert!(!answer.text().contains("access_token") && answer.status >= 400, "{} {}", answer.status, answer.text());
    }
    let machine = a.token(&MACHINE, &[("grant_type", "client_credentials")]);
    assert_eq!(machine.status, 503, "a token whose event cannot be written is not issued: {}", machine.text());
    wait_until("it says that it is not ready", Duration::from_secs(10), || {
        crate::kit::http::client().get(a.url("/readyz")).go().status == 503
    });
    assert_eq!(crate::kit::http::client().get(a.url("/healthz")).go().status, 200);
    wait_until("a gateway whose knowledge is old refuses", Duration::from_secs(12), || {
        [401, 503].contains(&a.call("/api/x", &token).status)
    });
    assert_eq!(a.call("/offline/x", &token).status, 200, "offline asks nobody");
    assert_eq!(crate::kit::http::client().get(a.through("/public/x")).go().status, 200);
    psql(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    wait_until("the database is found again", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(200));
        a.refresh(&APP, &refresh).status == 200
    });
    wait_until("the gateway trusts again", Duration::from_secs(10), || a.call("/api/x", &token).status == 200);
}

#[test]
fn a_key_rotated_at_one_node_is_believed_at_the_other_at_once() {
    let Some(nodes) = nodes(false) else { return };
    let mut kids = std::collections::BTreeSet::new();
    for round in 0..3 {
        for _ in 0..10 {
            let (ours, theirs) = (nodes.a.machine_token(&MACHINE, &[]), {
                let answer = MACHINE.post(&at(&nodes.b), &[("grant_type", "client_credentials")]).go().expect(200);
                text(&answer.json(), "access_token")
            });
            kids.insert(crate::kit::http::jose_header(&ours)["kid"].to_string());
            assert_eq!((nodes.b.call("/api/x", &ours).status, nodes.a.call("/api/x", &theirs).status), (200, 200), "round {round}");
        }
        let done = nodes.a.admin("POST", "/keys/rotate").go();
        assert!((200..300).contains(&done.status), "{}", done.text());
    }
    assert!(kids.len() >= 3, "{kids:?}");
    let token = nodes.a.machine_token(&MACHINE, &[]);
    assert_eq!(nodes.b.call("/api/x", &token).status, 200);
    let kid = crate::kit::http::jose_header(&token)["kid"].as_str().unwrap().to_owned();
    let done = nodes.a.admin("POST", &format!("/keys/{kid}/revoke")).go();
    assert!((200..300).contains(&done.status), "{}", done.text());
    wait_until("node B refuses the revoked key's token", Duration::from_secs(1), || nodes.b.call("/api/x", &token).status == 401);
    assert_eq!(nodes.b.call("/api/x", &nodes.a.machine_token(&MACHINE, &[])).status, 200);
}
