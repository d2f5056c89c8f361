//! Every statement, once, in SQL that SQLite and PostgreSQL both speak.
//!
//! Ids are TEXT or BLOB/BYTEA, times BIGINT, JSON is TEXT; no dialect functions. Parameters are `$1…` and appear
//! for the first time in ascending order: SQLite numbers them by first appearance, PostgreSQL by their digits, so both agree.
use std::sync::LazyLock;

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: &str = $sql;)*
        /// Every statement, for the tests that prepare and explain them.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name),)*];
    };
}

statements! {
    // One transaction.
    SAVEPOINT = "SAVEPOINT change";
    ROLLBACK_TO = "ROLLBACK TO SAVEPOINT change";
    RELEASE = "RELEASE SAVEPOINT change";
    HEAD = "SELECT seq, hash FROM chain WHERE one = 1";
    SET_HEAD = "UPDATE chain SET seq = $1, hash = $2 WHERE one = 1";

    // Short-lived things.
    /// A thing whose grant has ended cannot be consumed; one whose grant does not exist (yet) can. What is consumed stays
    /// until its grant's end: a late replay has to be noticed.
    CONSUME = "UPDATE artefacts SET consumed_at = $1, successor = $2, expires_at = COALESCE((SELECT CASE WHEN g.expires_at > artefacts.expires_at \
        THEN g.expires_at ELSE artefacts.expires_at END FROM grants g WHERE g.id = artefacts.grant_id), expires_at) WHERE kind = $3 AND id = $4 AND consumed_at IS NULL AND expires_at > $1 \
        AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = artefacts.grant_id AND grants.ended_at IS NOT NULL)";
    /// The same, in its place.
    ROTATE = "UPDATE artefacts SET mac = $1, created_at = $2, expires_at = $3, successor = $4, seq = $5 WHERE kind = $6 AND id = $7 AND mac = $8 \
        AND consumed_at IS NULL AND expires_at > $2 \
        AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = artefacts.grant_id AND grants.ended_at IS NOT NULL)";
    EXTEND = "UPDATE artefacts SET expires_at = $1 WHERE kind = $2 AND id = $3 AND consumed_at IS NULL AND expires_at > $4 \
        AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = artefacts.grant_id AND grants.ended_at IS NOT NULL)";
    SAVE = "INSERT INTO artefacts (kind, id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
        ON CONFLICT (kind, id) DO UPDATE SET mac = excluded.mac, grant_id = excluded.grant_id, document = excluded.document, \
        created_at = excluded.created_at, expires_at = excluded.expires_at, consumed_at = excluded.consumed_at, \
        successor = excluded.successor, seq = excluded.seq";
    REMOVE = "DELETE FROM artefacts WHERE kind = $1 AND id = $2";
    END_API_KEYS_OF = "DELETE FROM artefacts WHERE kind = 'api_key' AND grant_id = $1";
    ARTEFACT = "SELECT mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq FROM artefacts WHERE kind = $1 AND id = $2";
    WAITING = "SELECT id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq FROM artefacts \
        WHERE kind = 'backchannel' AND grant_id = $1 AND consumed_at IS NULL AND expires_at > $2 ORDER BY created_at LIMIT $3";
    PARTICIPANTS = "SELECT id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq FROM artefacts \
        WHERE kind = 'participant' AND grant_id = $1 ORDER BY grant_id, id LIMIT $2";
    LEFT_BEHIND = "SELECT a.id, a.mac, a.grant_id, a.document, a.created_at, a.expires_at, a.consumed_at, a.successor, a.seq \
        FROM sessions s CROSS JOIN artefacts a \
        WHERE s.ended_at IS NOT NULL AND s.ended_at >= $1 AND a.kind = 'participant' AND a.grant_id = s.id AND a.created_at <= $2 ORDER BY s.ended_at LIMIT $3 OFFSET $4";
    /// Those whose ids begin alike, in order.
    ARTEFACTS = "SELECT id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq FROM artefacts \
        WHERE kind = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4";

    // Grants.
    GRANT_LIVE = "SELECT 1 FROM grants WHERE id = $1 AND ended_at IS NULL AND expires_at > $2";
    START_GRANT = "INSERT INTO grants (id, subject, client_id, session, scope, document, created_at, expires_at, ended_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    UPDATE_GRANT = "UPDATE grants SET scope = $1, document = $2, expires_at = $3 WHERE id = $4";
    END_GRANT = "UPDATE grants SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL";
    END_GRANTS_OF_BOTH = "UPDATE grants SET ended_at = $1 WHERE subject = $2 AND client_id = $3 AND ended_at IS NULL";
    END_GRANTS_OF_SUBJECT = "UPDATE grants SET ended_at = $1 WHERE subject = $2 AND ended_at IS NULL";
    END_GRANTS_OF_CLIENT = "UPDATE grants SET ended_at = $1 WHERE client_id = $2 AND ended_at IS NULL";
    END_GRANTS_OF_SESSION = "UPDATE grants SET ended_at = $1 WHERE session = $2 AND ended_at IS NULL";
    END_GRANTS = "UPDATE grants SET ended_at = $1 WHERE ended_at IS NULL";
    GRANT = "SELECT id, subject, client_id, session, scope, document, created_at, expires_at, ended_at FROM grants WHERE id = $1";
    GRANTS_OF_BOTH = "SELECT id, subject, client_id, session, scope, document, created_at, expires_at, ended_at FROM grants \
        WHERE subject = $1 AND client_id = $2 AND ended_at IS NULL AND (created_at, id) > ($3, $4) AND expires_at > $5 ORDER BY created_at, id LIMIT $6";
    GRANTS_OF_SUBJECT = "SELECT id, subject, client_id, session, scope, document, created_at, expires_at, ended_at FROM grants \
        WHERE subject = $1 AND ended_at IS NULL AND (created_at, id) > ($2, $3) AND expires_at > $4 ORDER BY created_at, id LIMIT $5";
    GRANTS_OF_CLIENT = "SELECT id, subject, client_id, session, scope, document, created_at, expires_at, ended_at FROM grants \
        WHERE client_id = $1 AND ended_at IS NULL AND (created_at, id) > ($2, $3) AND expires_at > $4 ORDER BY created_at, id LIMIT $5";
    GRANTS = "SELECT id, subject, client_id, session, scope, document, created_at, expires_at, ended_at FROM grants \
        WHERE ended_at IS NULL AND id > $1 AND expires_at > $2 ORDER BY id LIMIT $3";

    // Sessions.
    SESSION_LIVE = "SELECT 1 FROM sessions WHERE id = $1 AND ended_at IS NULL AND expires_at > $2";
    START_SESSION = "INSERT INTO sessions (id, subject, auth_time, amr, created_at, expires_at, ended_at, document) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    UPDATE_SESSION = "UPDATE sessions SET auth_time = $1, amr = $2, document = $3, expires_at = $4 WHERE id = $5 AND ended_at IS NULL";
    END_SESSION = "UPDATE sessions SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL";
    END_SESSIONS_OF = "UPDATE sessions SET ended_at = $1 WHERE subject = $2 AND ended_at IS NULL";
    SESSION = "SELECT id, subject, auth_time, amr, created_at, expires_at, ended_at, document FROM sessions WHERE id = $1";
    SESSIONS_OF_SUBJECT = "SELECT id, subject, auth_time, amr, created_at, expires_at, ended_at, document FROM sessions \
        WHERE subject = $1 AND ended_at IS NULL AND (created_at, id) > ($2, $3) AND expires_at > $4 ORDER BY created_at, id LIMIT $5";
    SESSIONS = "SELECT id, subject, auth_time, amr, created_at, expires_at, ended_at, document FROM sessions \
        WHERE ended_at IS NULL AND (created_at, id) > ($1, $2) AND expires_at > $3 ORDER BY created_at, id LIMIT $4";

    // Consents.
    PUT_CONSENT = "INSERT INTO consents (subject, client_id, scopes, granted_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (subject, client_id) DO UPDATE SET scopes = excluded.scopes, granted_at = excluded.granted_at";
    FORGET_CONSENT = "DELETE FROM consents WHERE subject = $1 AND client_id = $2";
    FORGET_CONSENTS = "DELETE FROM consents WHERE subject = $1";
    FORGET_CONSENTS_OF_CLIENT = "DELETE FROM consents WHERE client_id = $1";
    CONSENT = "SELECT scopes, granted_at FROM consents WHERE subject = $1 AND client_id = $2";

    // Objects and their secrets.
    VERSION = "SELECT version FROM objects WHERE kind = $1 AND id = $2";
    CREATE_OBJECT = "INSERT INTO objects (kind, id, natural_key, document, version, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    REPLACE_OBJECT = "UPDATE objects SET natural_key = $1, document = $2, version = version + 1, updated_at = $3 WHERE kind = $4 AND id = $5 AND version = $6 \
        AND NOT EXISTS (SELECT 1 FROM objects taken WHERE taken.kind = $4 AND taken.natural_key = $1 AND taken.id <> $5)";
    DELETE_OBJECT = "DELETE FROM objects WHERE kind = $1 AND id = $2";
    DELETE_OBJECT_VERSION = "DELETE FROM objects WHERE kind = $1 AND id = $2 AND version = $3";
    OBJECT = "SELECT id, natural_key, document, version, created_at, updated_at FROM objects WHERE kind = $1 AND id = $2";
    OBJECT_BY_KEY = "SELECT id, natural_key, document, version, created_at, updated_at FROM objects WHERE kind = $1 AND natural_key = $2";
    OBJECTS = "SELECT id, natural_key, document, version, created_at, updated_at FROM objects WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3";
    PUT_SECRET = "INSERT INTO secrets (kind, id, slot, value) VALUES ($1, $2, $3, $4) ON CONFLICT (kind, id, slot) DO UPDATE SET value = excluded.value";
    REMOVE_SECRET = "DELETE FROM secrets WHERE kind = $1 AND id = $2 AND slot = $3";
    REMOVE_SECRETS = "DELETE FROM secrets WHERE kind = $1 AND id = $2";
    SECRET = "SELECT value FROM secrets WHERE kind = $1 AND id = $2 AND slot = $3";
    SECRETS_OF = "SELECT slot, value FROM secrets WHERE kind = $1 AND id = $2";

    // Keys and named values.
    PUT_KEY = "INSERT INTO keys (kid, alg, state, public_jwk, sealed, created_at, changed_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
        ON CONFLICT (kid) DO UPDATE SET alg = excluded.alg, state = excluded.state, public_jwk = excluded.public_jwk, sealed = excluded.sealed, \
        created_at = excluded.created_at, changed_at = excluded.changed_at";
    MOVE_KEY = "UPDATE keys SET state = $1, changed_at = $2 WHERE kid = $3 AND state IN ($4, $5, $6, $7)";
    REMOVE_KEY = "DELETE FROM keys WHERE kid = $1 AND state IN ('retired', 'revoked')";
    KEYS = "SELECT kid, alg, state, public_jwk, sealed, created_at, changed_at FROM keys ORDER BY created_at, kid";
    INIT_META = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    PUT_META = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    REMOVE_META = "DELETE FROM meta WHERE name = $1";
    META = "SELECT value FROM meta WHERE name = $1";

    // The ledger.
    EVENTS = "SELECT seq, at_ms, kind, document, hash FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";
    EVENT_HASH = "SELECT hash FROM events WHERE seq = $1";
    /// The later of two for one id wins; its expiry never shrinks.
    REVOKE = "INSERT INTO revocations (kind, id, seq, at_ms, expires_at) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, \
        expires_at = CASE WHEN excluded.expires_at > revocations.expires_at THEN excluded.expires_at ELSE revocations.expires_at END";
    REVOCATIONS = "SELECT kind, id, seq, at_ms, expires_at FROM revocations WHERE seq > $1 AND expires_at > $2 ORDER BY seq, kind, id LIMIT $3";
    REVOCATIONS_AT = "SELECT kind, id, seq, at_ms, expires_at FROM revocations WHERE seq = $1 ORDER BY kind, id";

    // Purging.
    PURGE_ARTEFACTS = "DELETE FROM artefacts WHERE (kind, id) IN (SELECT kind, id FROM artefacts WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
    PURGE_REVOCATIONS = "DELETE FROM revocations WHERE (kind, id) IN (SELECT kind, id FROM revocations WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
    PURGE_GRANTS_EXPIRED = "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
    PURGE_GRANTS_ENDED = "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE ended_at IS NOT NULL AND ended_at <= $1 ORDER BY ended_at LIMIT $2)";
    PURGE_SESSIONS_EXPIRED = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
    PURGE_SESSIONS_ENDED = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE ended_at IS NOT NULL AND ended_at <= $1 ORDER BY ended_at LIMIT $2)";
    TRUNCATE_EVENTS = "DELETE FROM events WHERE seq <= $1";
    FIRST_EVENT = "SELECT seq FROM events ORDER BY seq LIMIT 1";

    // Migrations.
    APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version";
    RECORD_MIGRATION = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)";
    CREATE_MIGRATIONS = "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)";
}

/// Rows a many-row insert may carry, largest first.
pub(crate) const SIZES: [usize; 4] = [64, 16, 4, 1];

/// One insert statement for each of [`SIZES`].
pub(crate) type Many = [&'static str; SIZES.len()];

/// Appends events.
pub(crate) static APPEND_EVENTS: LazyLock<Many> =
    LazyLock::new(|| many("INSERT INTO events (seq, at_ms, kind, document, hash) VALUES ", 5, ""));

/// Stores short-lived things, skipping those whose (kind, id) is taken.
pub(crate) static PUT_ARTEFACTS: LazyLock<Many> = LazyLock::new(|| {
    many(
        "INSERT INTO artefacts (kind, id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq) VALUES ",
        10,
        " ON CONFLICT DO NOTHING",
    )
});

/// Reads a table in the order of its key, the first `key` columns, after a given key.
pub(crate) fn page_of(table: &str, columns: &[&str], key: usize) -> &'static str {
    let keys = columns.iter().take(key).copied().collect::<Vec<_>>().join(", ");
    let after = (1..=key).map(|at| format!("${at}")).collect::<Vec<_>>().join(", ");
    format!("SELECT {} FROM {table} WHERE ({keys}) > ({after}) ORDER BY {keys} LIMIT ${}", columns.join(", "), key + 1).leak()
}

/// Fills a table.
pub(crate) fn insert_into(table: &str, columns: &[&str]) -> Many {
    many(&format!("INSERT INTO {table} ({}) VALUES ", columns.join(", ")), columns.len(), "")
}

fn many(head: &str, columns: usize, tail: &str) -> Many {
    SIZES.map(|rows| &*many_rows(head, columns, rows, tail).leak())
}

fn many_rows(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    let row = |r: usize| (1..=columns).map(|c| format!("${}", r * columns + c)).collect::<Vec<_>>().join(", ");
    let rows = (0..rows).map(|r| format!("({})", row(r))).collect::<Vec<_>>().join(", ");
    format!("{head}{rows}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_first_appear_in_ascending_order() {
        let many = APPEND_EVENTS.iter().chain(PUT_ARTEFACTS.iter()).map(|sql| ("many", *sql));
        for (name, sql) in ALL.iter().copied().chain(many) {
            let mut highest = 0;
            for part in sql.split('$').skip(1) {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                let number: usize = digits.parse().expect("a number after $");
                assert!(number <= highest + 1, "{name}: ${number} appears before ${}", highest + 1);
                highest = highest.max(number);
            }
        }
    }
}
