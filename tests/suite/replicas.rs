//! Replicas of PostgreSQL: pages are whole wherever they come from, and nothing that decides about a credential comes from one.
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client, random};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{APP, GW, MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream, wait_until};

struct Stand {
    primary: OwnPostgres,
    replica: OwnPostgres,
    house: House,
    one: Server,
    two: Server,
    token: String,
    _upstream: Upstream,
}

/// Two nodes on a primary and its replica.
fn stand() -> Option<Stand> {
    let primary = OwnPostgres::start()?;
    let replica = primary.replica();
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &primary.url()).text("storage.replicas.max_lag", "1s");
    house.set("storage.replicas.urls", &json!([replica.url()]).to_string());
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let one = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let two = second.serve();
    let token = one.admin_token();
    let stand = Stand { primary, replica, house, one, two, token, _upstream: upstream };
    stand.until("following");
    Some(stand)
}

impl Stand {
    fn get(&self, node: &Server, path: &str) -> crate::kit::Answer {
        client().get(format!("http://{}/admin/v1{path}", node.listener("admin"))).bearer_auth(&self.token).go()
    }

    /// All of a list, page by page.
    fn all(&self, node: &Server, path: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(node, &format!("{path}?limit=50{cursor}")).expect(200).json();
            items.extend(page["items"].as_array().expect("items").clone());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    fn named(&self, node: &Server, name: &str) -> bool {
        self.all(node, "/users").iter().any(|user| user["username"] == name)
    }

    /// Makes somebody at a node.
    fn make(&self, node: &Server) -> String {
        let name = random().to_lowercase();
        let url = format!("http://{}/admin/v1/users", node.listener("admin"));
        client().post(url).bearer_auth(&self.token).json(&json!({"username": name})).go().expect(201);
        name
    }

    fn standing(&self, node: &Server) -> Value {
        self.get(node, "/stats").expect(200).json()["replicas"][0].clone()
    }

    /// Waits until both nodes say so of the replica.
    fn until(&self, standing: &str) {
        for node in [&self.one, &self.two] {
            wait_until(standing, Duration::from_secs(20), || self.standing(node)["standing"] == standing);
        }
    }

    fn reads(&self, outcome: &str) -> f64 {
        let of = |node: &Server| {
            node.metric(&format!("storage_replica_reads_total{{replica=\"127.0.0.1:{}\",outcome=\"{outcome}\"}}", self.replica.port))
        };
        of(&self.one) + of(&self.two)
    }

    /// Everybody who is made at one node is in the next list, at either.
    fn lists_are_whole(&self) {
        for n in 0..6 {
            let (here, there) = if n % 2 == 0 { (&self.one, &self.two) } else { (&self.two, &self.one) };
            let name = self.make(here);
            assert!(self.named(here, &name), "the node that wrote");
            assert!(self.named(there, &self.make(here)), "the other node");
        }
    }

    /// What is spent, revoked, changed counts at once at both nodes.
    fn credentials_are_the_primarys(&self) {
        let tokens = self.one.person_tokens(&APP, "alice");
        let first = text(&tokens, "refresh_token");
        let form = [("grant_type", "refresh_token"), ("refresh_token", first.as_str())];
        let next = self.one.token(&APP, &form).expect(200).json();
        let at = |path: &str| format!("http://{}{path}", self.two.listener("public"));
        APP.post(&at("/token"), &form).go().expect_error(400, "invalid_grant");
        let form = [("grant_type", "refresh_token"), ("refresh_token", next["refresh_token"].as_str().expect("a token"))];
        APP.post(&at("/token"), &form).go().expect_error(400, "invalid_grant");
        for who in [&MACHINE, &SAFE] {
            let token = self.one.machine_token(who, &[]);
            assert!(self.one.active(&token));
            self.one.revoke(who, &token);
            assert!(!self.one.active(&token));
            wait_until("the other node knows", Duration::from_secs(1), || {
                GW.post(&at("/introspect"), &[("token", &token)]).go().expect(200).json()["active"] == false
            });
        }
    }
}

#[test]
fn pages_from_a_replica_are_whole_and_one_that_stands_still_is_left_out() {
    let Some(stand) = stand() else { return };
    stand.lists_are_whole();
    stand.credentials_are_the_primarys();
    assert!(stand.reads("answered") > 0.0, "the replica was asked");
    let kinds = |node: &Server| stand.all(node, "/events").len();
    assert_eq!(kinds(&stand.one), kinds(&stand.two));

    // It takes connections and answers, and is where it was.
    stand.replica.sql("SELECT pg_wal_replay_pause()");
    wait_until("it stands still", Duration::from_secs(10), || stand.replica.sql("SELECT pg_get_wal_replay_pause_state()") == "paused");
    let name = stand.make(&stand.one);
    let shown = |name: &str| stand.replica.sql(&format!("SELECT count(*) FROM objects WHERE document LIKE '%{name}%'")) == "1";
    assert!(!shown(&name), "the replica does not have it");
    stand.lists_are_whole();
    stand.credentials_are_the_primarys();
    assert!(stand.reads("behind") > 0.0, "it was asked and had not got that far");
    stand.until("behind");
    let asked = stand.reads("behind") + stand.reads("answered");
    stand.lists_are_whole();
    assert_eq!(stand.reads("behind") + stand.reads("answered"), asked, "who is left out is not asked");
    let lag = stand.standing(&stand.one)["lag_ms"].as_i64().expect("a lag");
    assert!(lag >= 1000, "{lag}");
    let gauge = format!("storage_replica_in_use{{replica=\"127.0.0.1:{}\"}}", stand.replica.port);
    assert!(stand.one.metric(&gauge) < 0.5);
    // An export is whole, too.
    let exported = stand.house.run(&["audit", "export"]).ok().out.lines().count();
    assert!(exported >= stand.all(&stand.one, "/events").len() - 50, "{exported}");

    stand.replica.sql("SELECT pg_wal_replay_resume()");
    stand.until("following");
    assert!(stand.one.metric(&gauge) > 0.5 && shown(&name));
    let before = stand.reads("answered");
    stand.lists_are_whole();
    assert!(stand.reads("answered") > before);
    assert!(stand.house.run(&["check"]).ok().said().contains("in order"));
}

#[test]
fn a_replica_that_dies_or_goes_its_own_way_is_left_out_and_replaces_no_primary() {
    let Some(mut stand) = stand() else { return };
    stand.replica.down("QUIT");
    for node in [&stand.one, &stand.two] {
        assert!(stand.named(node, "alice"), "the first list after its death");
    }
    stand.until("away");
    assert!(stand.house.run(&["check"]).failed(1).said().contains("does not answer"));
    stand.lists_are_whole();
    stand.replica.up();
    stand.until("following");

    // Paused to the core: connections stay open, nobody answers.
    stand.replica.pause();
    assert!(stand.named(&stand.one, "alice"));
    stand.until("away");
    stand.replica.resume();
    stand.until("following");

    // The primary away is 503, whatever a replica could tell.
    stand.primary.down("INT");
    wait_until("pages are refused", Duration::from_secs(20), || stand.get(&stand.one, "/users").status == 503);
    stand.primary.up();
    wait_until("pages are there", Duration::from_secs(20), || stand.get(&stand.one, "/users").status == 200);
    stand.until("following");

    // Promoted, it writes a ledger of its own; what it tells then is believed by nobody.
    stand.replica.sql("SELECT pg_promote()");
    stand.replica.sql("UPDATE objects SET document = replace(document, 'alice', 'mallory') WHERE kind = 'user'");
    for node in [&stand.one, &stand.two] {
        assert!(stand.named(node, "alice") && !stand.named(node, "mallory"));
    }
    stand.until("strange");
    stand.lists_are_whole();
    assert!(stand.house.run(&["check"]).failed(1).said().contains("promoted"));
}

#[test]
fn a_replica_of_another_history_is_no_replica() {
    let (Some(primary), Some(other)) = (OwnPostgres::start(), OwnPostgres::start()) else { return };
    // Another issuer's database with a longer ledger, and a replica of that.
    let mut far = House::new();
    far.text("storage.url", &other.url());
    far.bootstrap();
    let upstream = Upstream::start();
    far.seed(&standard(&upstream.url()));
    let replica = other.replica();
    let mut house = House::new();
    house.text("storage.url", &primary.url()).set("storage.replicas.urls", &json!([replica.url()]).to_string());
    house.bootstrap();
    let node = house.serve();
    let said = node.admin("GET", "/clients").go().expect(200).text();
    assert!(!said.contains("machine") && said.contains("doorward-admin"), "{said}");
    wait_until("it is left out", Duration::from_secs(20), || {
        node.admin("GET", "/stats").go().expect(200).json()["replicas"][0]["standing"] == "strange"
    });
}

#[test]
fn replicas_are_postgresqls_and_their_urls_are_secrets() {
    let mut house = House::new();
    house.set("storage.replicas.urls", r#"["postgres://reader:hush-hush@127.0.0.1/doorward"]"#);
    let said = house.run(&["check"]).failed(2).said();
    assert!(said.contains("storage.replicas.urls") && said.contains("only PostgreSQL") && !said.contains("hush"), "{said}");
    house.set("storage.replicas.urls", r#"["mysql://reader:hush-hush@127.0.0.1/doorward"]"#);
    let said = house.run(&["check"]).failed(2).said();
    assert!(said.contains("must be postgres://") && !said.contains("hush"), "{said}");
}
