//! A house that lives through many faults: its people and clients, the workers in it, its journal, and where it is kept when a promise broke.
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::hand::Hand;
use super::journal::Journal;
use super::judge::{Judge, Ledger};
use super::node::Node;
use super::plan::Dice;
use crate::kit::apart::devices;
use crate::kit::forge::Key;
use crate::kit::seed::{API, Id, PASSWORD, VAULT, standard};
use crate::kit::server::free_port;
use crate::kit::{House, Server, Upstream, services};

/// Where everything is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// Who is in the play.
pub struct Cast {
    /// One a hand.
    pub people: Vec<&'static str>,
    /// The `sub` of each.
    pub subjects: HashMap<String, String>,
    pub machines: Vec<Id>,
    pub opaque: Vec<Id>,
    /// The key of the client `signer`.
    pub signer: Key,
}

const PEOPLE: [&str; 4] = ["ann", "ben", "cleo", "dan"];
const MACHINES: [&str; 4] = ["m0", "m1", "m2", "m3"];
const OPAQUE: [&str; 2] = ["o0", "o1"];
const SECRET: &str = "rehearsal-secret-5a1d9c3e7b2f4860a1b2c3d4e5f60718";

const fn machine(id: &'static str, scope: &'static str) -> Id {
    Id { id, secret: SECRET, method: "client_secret_basic", redirect: "", scope }
}

/// The play's own people and clients on the standard stage.
pub fn seed(upstream: &str, signer: &Key) -> Value {
    let mut seed = standard(upstream);
    for server in seed["resource_servers"].as_array_mut().expect("servers") {
        server["access_token_ttl"] = json!("2h");
    }
    let people = PEOPLE.map(|name| json!({"username": name, "name": name, "password": PASSWORD}));
    seed["users"].as_array_mut().expect("users").extend(people);
    let client = |id: &str, scope: &str, resource: &str| {
        json!({"client_id": id, "client_secret": SECRET, "grant_types": ["client_credentials"], "scope": scope,
            "token_endpoint_auth_method": "client_secret_basic", "allowed_resources": [resource]})
    };
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.extend(MACHINES.iter().map(|id| client(id, "read", API)));
    clients.extend(OPAQUE.iter().map(|id| client(id, "open", VAULT)));
    clients.push(json!({"client_id": "signer", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"],
        "scope": "read", "allowed_resources": [API], "jwks": {"keys": [signer.jwk()]}}));
    clients.extend(devices()["clients"].as_array().expect("clients").iter().cloned());
    seed
}

/// Starts a server at the address it had before. Between two lives others on this machine may borrow its port: then it waits for it.
pub fn serve(house: &House) -> Server {
    for _ in 0..100 {
        match house.try_serve() {
            Err(why) if why.trim_end().lines().last().is_some_and(|line| line.contains("is taken by another program")) => {
                std::thread::sleep(Duration::from_millis(200));
            }
            started => return started.unwrap_or_else(|why| panic!("the server did not start: {why}")),
        }
    }
    house.serve()
}

/// A house, its journal and its workers.
pub struct World {
    pub house: House,
    /// A second node on the same database (PostgreSQL).
    pub second: Option<House>,
    _upstream: Upstream,
    pub journal: Journal,
    pub cast: Arc<Cast>,
    pub hands: Vec<Hand>,
    pub dice: Dice,
    /// How long an end may take to be known at another node.
    pub patience: Duration,
    /// How many older things the judge looks at again.
    pub older: usize,
    pub engine: Engine,
    /// The URL of its database (PostgreSQL).
    pub storage: String,
    name: String,
    ledger: Ledger,
    /// From here on the journal has not been judged.
    young: u64,
    round: u64,
}

impl World {
    /// Bootstrapped and seeded; `None` (said out loud) where the engine is not there. `configure` changes the configuration first.
    pub fn new(engine: Engine, dice: Dice, name: &str, nodes: usize, configure: impl FnOnce(&mut House)) -> Option<Self> {
        let upstream = Upstream::start();
        let mut house = House::new();
        let mut storage = String::new();
        if engine == Engine::Postgres {
            storage = services::postgres()?;
            house.text("storage.url", &storage);
        }
        house.text("log.filter", "warn");
        configure(&mut house);
        house.bootstrap();
        let signer = Key::new("signer");
        let said = house.try_seed(&seed(&upstream.url(), &signer), &[]);
        assert_eq!(said.code, 0, "{}", said.said());
        let second = (nodes > 1).then(|| {
            let mut second = house.another("second.toml");
            second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
            second
        });
        let journal = Journal::create(&house.path("journal.jsonl"));
        journal.note(&format!("{name} on {}", engine.name()));
        let cast = Cast {
            people: PEOPLE.to_vec(),
            subjects: HashMap::new(),
            machines: MACHINES.iter().map(|id| machine(id, "read")).collect(),
            opaque: OPAQUE.iter().map(|id| machine(id, "open")).collect(),
            signer,
        };
        // A second is promised; how busy this machine is is not.
        let lag = if nodes > 1 { Duration::from_secs(3) } else { Duration::ZERO };
        journal.lag(lag);
        let mut world = Self {
            house,
            second,
            _upstream: upstream,
            journal,
            cast: Arc::new(cast),
            hands: Vec::new(),
            dice,
            patience: lag,
            older: 40,
            engine,
            storage,
            name: name.to_owned(),
            ledger: Ledger::default(),
            young: 0,
            round: 0,
        };
        world.open();
        Some(world)
    }

    /// Who is who, and where the ledger begins.
    fn open(&mut self) {
        let server = serve(&self.house);
        let node = Node::of(&self.house, &server);
        let subjects = PEOPLE.iter().map(|name| {
            let user = node.read(&format!("/users/{name}")).flatten().expect("a user");
            ((*name).to_owned(), user["id"].as_str().expect("an id").to_owned())
        });
        let subjects = subjects.collect();
        let cast = Arc::get_mut(&mut self.cast).expect("nobody else has it yet");
        cast.subjects = subjects;
        for name in PEOPLE {
            self.journal.saw(&format!("/users/{name}"), Some(name));
        }
        for n in 0..PEOPLE.len() {
            let mut hand = Hand::new(n, self.dice.part(1000 + n as u64), Arc::clone(&self.cast));
            hand.alone = self.second.is_none();
            self.hands.push(hand);
        }
        server.stop();
    }

    /// Every hand is at work at the nodes until `act` is through and says so.
    pub fn load(&mut self, nodes: &[&Node], act: impl FnOnce()) {
        self.round += 1;
        self.journal.note(&format!("round {}", self.round));
        let (stop, journal) = (AtomicBool::new(false), &self.journal);
        let plan = self.dice.part(self.round);
        std::thread::scope(|scope| {
            for (n, hand) in self.hands.iter_mut().enumerate() {
                hand.replan(plan.part(n as u64));
                let (stop, mut dice) = (&stop, plan.part(100 + n as u64));
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let node = nodes[dice.below(nodes.len())];
                        hand.turn(journal, node);
                    }
                });
            }
            // What it broke is not left running.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            stop.store(true, Ordering::SeqCst);
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// Whoever was asked has been started again, or is known to be done: compares journal and nodes. How many promises are broken so far.
    pub fn judge(&mut self, nodes: &[&Node]) -> usize {
        self.journal.settle();
        let mut dice = self.dice.part(5000 + self.round);
        for hand in &mut self.hands {
            hand.examine(&self.journal, nodes[dice.below(nodes.len())]);
        }
        self.journal.settle();
        let mut once: Vec<_> = self.hands.iter_mut().flat_map(|hand| std::mem::take(&mut hand.once)).collect();
        let silent = std::sync::atomic::AtomicBool::default();
        let judge = Judge { house: &self.house, journal: &self.journal, nodes, patience: self.patience, older: self.older, silent };
        let young = std::mem::replace(&mut self.young, self.journal.position());
        judge.judge(&mut self.ledger, &once, young, &mut dice);
        // Some are tried again, in this life or another.
        once.retain(|one| one.until > crate::kit::http::now() && dice.one_in(4));
        if let Some(hand) = self.hands.first_mut() {
            hand.once = once;
        }
        self.journal.counts().violations
    }

    /// Everything once more, however old.
    pub fn judge_all(&mut self, nodes: &[&Node]) -> usize {
        self.older = usize::MAX;
        self.judge(nodes)
    }

    /// Copies files and database to a place that stays, and names it.
    pub fn keep(&self) -> PathBuf {
        let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/faults").join(format!("{}-{}", self.name, std::process::id()));
        let _ = std::fs::create_dir_all(&place);
        let _ = Command::new("cp").arg("-a").arg(self.house.dir()).arg(&place).status();
        if self.engine == Engine::Postgres {
            let _ = self.house.run(&["backup", "--to", place.join("postgres.backup").to_str().expect("UTF-8")]);
        }
        place
    }

    /// Starts a node.
    pub fn start(&self) -> (Server, Node) {
        let server = serve(&self.house);
        let node = Node::of(&self.house, &server);
        (server, node)
    }

    /// Starts the second node.
    pub fn start_second(&self) -> (Server, Node) {
        let house = self.second.as_ref().expect("a second node");
        let server = serve(house);
        let node = Node::of(house, &server);
        (server, node)
    }

    /// Fails if a promise was broken; says where everything is.
    #[track_caller]
    pub fn verdict(&self) {
        let broken = self.journal.violations();
        if !broken.is_empty() {
            let place = self.keep();
            panic!("{}: {} broken promises; kept in {}:\n{}", self.name, broken.len(), place.display(), broken.join("\n"));
        }
    }
}
