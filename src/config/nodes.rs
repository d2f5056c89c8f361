//! `[storage]`, `[storage.replicas]` and `[shared_state]`: what nodes stand on and share.
use std::path::PathBuf;

use super::{Compared, Key, Reader, Seconds, Secret, setting};

section! {
    /// The database, and the key that seals what is secret in it.
    StorageSection {
        /// `sqlite://PATH` (a relative path starts at this file's folder) or `postgres://user:password@host/database`.
        url: Option<Secret> = "",
        /// A file that holds the URL instead, for a URL with a password.
        url_file: Option<PathBuf> = "",
        /// The file of the key-encryption key: 32 octets in base64url or hexadecimal, mode 0600. Default: `kek` beside this file. Made by
        /// `bootstrap` or the first start when it is absent and the database is new.
        key_file: Option<PathBuf> = "",
        /// The key-encryption key itself, for environments that hand secrets over as variables
        /// (`DOORWARD_STORAGE__KEY`).
        key: Option<Secret> = "",
        /// Connections to PostgreSQL, or reading connections to SQLite.
        connections: u32 = "8",
    }
}

section! {
    /// Streaming replicas of a PostgreSQL database. They answer pages of lists and of the event ledger, and how many rows a table has, for
    /// the administration API, the metrics and `audit export`; nothing that decides about a credential. A page is whole up to the moment of
    /// the question: a replica that has not got that far, went its own way or does not answer is left out, and the primary answers.
    ReplicasSection {
        /// Each `postgres://user:password@host/database`, at most 8; the user needs no more than to read.
        urls: Vec<Secret> = "",
        /// A file that holds the URLs instead, one a line.
        urls_file: Option<PathBuf> = "",
        /// How old the rows may be that a replica counts, and how long one may stay behind before it is left out, `1s` to `1h`.
        max_lag: Seconds = r#""5s""#,
    }
}

section! {
    /// Rate counters that several nodes share: Redis or Valkey, one server or a cluster. It may vanish without harm to correctness: each node
    /// then counts for itself. Nodes wake each other through PostgreSQL.
    SharedStateSection {
        /// `redis://[user:password@]host[:port]`, `rediss://` with TLS (`valkey://`, `valkeys://` are the same). A cluster: some of its nodes
        /// after each other, `redis://a:6379,b:6379,c:6379` (each may be a URL of its own), or one as `redis-cluster://a:6379`
        /// (`rediss-cluster://`, `valkey-cluster://`, `valkeys-cluster://`, or `?cluster=true` at the end). User and password are those
        /// of the first, for all of them. Absent: counted in this process.
        url: Option<Secret> = "",
        /// A file that holds the URL instead.
        url_file: Option<PathBuf> = "",
        /// The authorities of its certificates, PEM, instead of those that the system trusts.
        ca_file: Option<PathBuf> = "",
    }
}

/// Replicas, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// Where they are.
    pub urls: Vec<Secret>,
    /// How far behind they may be.
    pub max_lag: Seconds,
}

/// The most replicas of one node.
const MOST: usize = 8;

impl Replicas {
    /// Checks the section.
    pub(super) fn check(r: &mut Reader, section: ReplicasSection, database: &str) -> Option<Self> {
        let ReplicasSection { mut urls, urls_file, max_lag } = section;
        if let Some(file) = urls_file {
            if !urls.is_empty() {
                r.wrong("storage.replicas.urls", "give either this or storage.replicas.urls_file, not both");
            }
            match std::fs::read_to_string(&file) {
                Ok(text) => {
                    urls.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| Secret::from(line.to_owned())));
                }
                Err(error) => r.wrong("storage.replicas.urls_file", &format!("{}: {error}", file.display())),
            }
        }
        let postgres =
            |url: &str| ["postgres://", "postgresql://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
        if !urls.iter().all(|url| postgres(url.expose())) {
            r.wrong("storage.replicas.urls", "each must be postgres://…");
            return None;
        }
        if !urls.is_empty() && !postgres(database) {
            r.wrong("storage.replicas.urls", "only PostgreSQL has replicas: storage.url must be postgres://…");
        }
        if urls.len() > MOST {
            r.wrong("storage.replicas.urls", "are at most 8");
        }
        if !(1..=3600).contains(&max_lag.0) {
            r.wrong("storage.replicas.max_lag", "must be between 1 second and 1 hour");
        }
        Some(Self { urls, max_lag })
    }
}
