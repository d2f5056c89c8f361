//! What the tests are made of: a server process, people, clients, an upstream that records, a browser.
//!
//! Everything here talks to the real binary from outside, through the public contract alone.
pub mod apache;
pub mod apart;
pub mod authority;
pub mod balancer;
pub mod chrome;
pub mod dpop;
pub mod entrance;
pub mod fapi;
pub mod forge;
pub mod frames;
pub mod fronts;
pub mod http;
pub mod https;
pub mod introspecting;
pub mod jose;
pub mod nginx;
pub mod other_issuer;
pub mod own_postgres;
pub mod own_redis;
pub mod page;
pub mod pki;
pub mod raw;
pub mod redis_cluster;
pub mod registrant;
pub mod script;
pub mod seed;
pub mod server;
pub mod services;
pub mod site;
pub mod target;
pub mod totp;
pub mod upstream;
pub mod visitor;
pub mod wire;

pub use http::{Answer, Go, wait_until};
pub use page::Page;
pub use seed::{Id, standard};
pub use server::{House, Server};
pub use upstream::Upstream;
pub use visitor::{Ask, Landing, Visitor};

use std::sync::{Arc, OnceLock};

/// A server with the standard seed, its roles all on, shared by the tests of one file.
pub struct Shared(OnceLock<Arc<Stage>>);

/// One server, the house it runs in, and the upstream behind its gateway.
pub struct Stage {
    pub house: House,
    pub server: Server,
    pub upstream: Upstream,
}

impl Shared {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
    /// The file's server; the first caller starts it.
    pub fn get(&self) -> &Stage {
        self.0.get_or_init(|| Arc::new(Stage::start(|_| {})))
    }
}

impl Stage {
    /// A server of its own with the standard seed; `configure` changes the configuration first.
    pub fn start(configure: impl FnOnce(&mut House)) -> Self {
        let upstream = Upstream::start();
        let mut house = House::new();
        configure(&mut house);
        house.bootstrap();
        house.seed(&standard(&upstream.url()));
        let server = house.serve();
        Self { house, server, upstream }
    }
}

impl std::ops::Deref for Stage {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}
