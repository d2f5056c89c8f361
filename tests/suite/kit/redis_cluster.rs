//! A Redis Cluster of a test's own: masters with a replica each, one of which may be killed; slots may be moved.
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::http::wait_until;
use super::server::{WATCHER, free_port};
use super::services::{has, skip};

/// The user of the tests' nodes: no more rights than counting takes.
pub const USER: &str = "doorward";
pub const PASSWORD: &str = "count-0123456789abcdef";
const RIGHTS: &str = "on >count-0123456789abcdef ~doorward:limit:* +eval +evalsha +get +set +del +ping +cluster|slots";
const ADMIN: &str = "admin-0123456789abcdef";

struct Node {
    port: u16,
    child: Child,
    leash: Option<ChildStdin>,
}

/// The running cluster.
pub struct RedisCluster {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

/// A port whose neighbour 10,000 above is a port too: the cluster's own talk goes there.
fn port() -> u16 {
    loop {
        let port = free_port();
        if std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl RedisCluster {
    /// Three masters and three replicas; `None`, said out loud, where Redis is missing.
    pub fn start() -> Option<Self> {
        if !(has("redis-server") && has("redis-cli")) {
            skip("redis-server and redis-cli");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("doorward-cluster-").tempdir().expect("a folder");
        let nodes: Vec<Node> = (0..6)
            .map(|n| {
                let (port, home) = (port(), dir.path().join(n.to_string()));
                std::fs::create_dir(&home).expect("a folder");
                let config = format!(
                    "bind 127.0.0.1\nport {port}\ncluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 1000\n\
                     cluster-replica-validity-factor 0\nsave \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n\
                     dir {}\nrequirepass {ADMIN}\nmasterauth {ADMIN}\nuser {USER} {RIGHTS}\n",
                    home.display()
                );
                std::fs::write(home.join("redis.conf"), config).expect("written");
                let log = std::fs::File::create(home.join("log")).expect("a log");
                let mut child = Command::new("sh")
                    .args(["-c", WATCHER, "watcher", "redis-server"])
                    .arg(home.join("redis.conf"))
                    .stdin(Stdio::piped())
                    .stdout(log)
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("redis-server runs");
                let leash = child.stdin.take();
                Node { port, child, leash }
            })
            .collect();
        let cluster = Self { nodes, _dir: dir };
        for node in &cluster.nodes {
            wait_until("a node answers", Duration::from_secs(20), || cluster.ask(node.port, &["ping"]).contains("PONG"));
        }
        let places: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut words = vec!["--cluster", "create"];
        words.extend(places.iter().map(String::as_str));
        words.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let said = cluster.cli(&words);
        assert!(said.contains("All 16384 slots covered"), "{said}");
        cluster.settled();
        Some(cluster)
    }

    fn cli(&self, words: &[&str]) -> String {
        let done = Command::new("redis-cli").args(["--no-auth-warning", "-a", ADMIN]).args(words).output().expect("redis-cli");
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    }

    fn ask(&self, port: u16, command: &[&str]) -> String {
        let port = port.to_string();
        self.cli(&[&["-p", port.as_str()], command].concat())
    }

    /// Waits until every node that runs takes the cluster for whole, with as many replicas in step as there are to be.
    fn settled(&self) {
        wait_until("the cluster is whole", Duration::from_secs(60), || {
            std::thread::sleep(Duration::from_millis(50));
            self.nodes.iter().all(|node| {
                let replica_in_step = || {
                    let told = self.ask(node.port, &["info", "replication"]);
                    told.contains("role:master") || told.contains("master_link_status:up")
                };
                self.ask(node.port, &["cluster", "info"]).contains("cluster_state:ok") && replica_in_step()
            })
        });
    }

    /// Where a node of ours may begin to look: two of the masters.
    pub fn url(&self) -> String {
        format!("redis://{USER}:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}", self.nodes[0].port, self.nodes[1].port)
    }

    /// The same by one node.
    pub fn url_of_one(&self) -> String {
        format!("redis-cluster://{USER}:{PASSWORD}@127.0.0.1:{}", self.nodes[2].port)
    }

    /// The masters, each by its port and name.
    fn masters(&self) -> Vec<(u16, String)> {
        let told =
            self.nodes.iter().map(|node| self.ask(node.port, &["cluster", "nodes"])).find(|told| told.contains("myself")).expect("a node");
        let master = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let flags = words.get(2)?;
            let port = words.get(1)?.split('@').next()?.rsplit(':').next()?.parse().ok()?;
            (flags.contains("master") && !flags.contains("fail")).then(|| (port, words[0].to_owned()))
        };
        told.lines().filter_map(master).collect()
    }

    /// How many counters the masters hold, each.
    pub fn counters(&self) -> Vec<usize> {
        let size = |(port, _): &(u16, String)| self.ask(*port, &["dbsize"]).trim().parse().expect("a number");
        self.masters().iter().map(size).collect()
    }

    /// Kills a master with SIGKILL.
    pub fn kill_a_master(&mut self) {
        let (port, _) = self.masters().into_iter().next().expect("a master");
        let at = self.nodes.iter().position(|node| node.port == port).expect("a node of ours");
        let mut node = self.nodes.remove(at);
        drop(node.leash.take());
        let _ = node.child.wait();
    }

    /// Waits until the dead master's replica has taken its place everywhere.
    pub fn until_replaced(&self) {
        wait_until("three masters again", Duration::from_secs(60), || {
            std::thread::sleep(Duration::from_millis(50));
            self.masters().len() == 3
        });
        self.settled();
    }

    /// Moves slots, counters and all, from one master to another.
    pub fn move_slots(&self, slots: u32) {
        let masters = self.masters();
        let (from, to) = (&masters[0], &masters[1]);
        let (at, slots) = (format!("127.0.0.1:{}", from.0), slots.to_string());
        let words =
            ["--cluster", "reshard", &at, "--cluster-from", &from.1, "--cluster-to", &to.1, "--cluster-slots", &slots, "--cluster-yes"];
        let said = self.cli(&words);
        assert!(said.contains("Moving slot") && !said.contains("ERR"), "{said}");
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.leash.take());
            let _ = node.child.wait();
        }
    }
}

/// One server that speaks TLS only, with a certificate `redis.pem` in the house's folder; only [`USER`] is let in.
pub struct SecureRedis {
    pub port: u16,
    child: Child,
    leash: Option<ChildStdin>,
}

impl SecureRedis {
    pub fn start(house: &super::House, authority: &str) -> Self {
        let port = free_port();
        let config = format!(
            "bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file redis.pem\ntls-key-file redis.key\ntls-ca-cert-file {authority}\n\
             tls-auth-clients no\nsave \"\"\nappendonly no\nuser default off\nuser {USER} {RIGHTS}\n"
        );
        house.write("redis.conf", &config);
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", "redis-server", "redis.conf"])
            .current_dir(house.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs");
        let leash = child.stdin.take();
        wait_until("Redis listens", Duration::from_secs(20), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { port, child, leash }
    }
}

impl Drop for SecureRedis {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}
