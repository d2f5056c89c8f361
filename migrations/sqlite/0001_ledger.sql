-- The ledger and everything that changes with it (SQLite). Times are seconds since the epoch unless the name ends in _ms.
CREATE TABLE artefacts (
    kind        TEXT    NOT NULL,
    id          BLOB    NOT NULL,
    mac         BLOB    NOT NULL,
    grant_id    TEXT,
    document    TEXT    NOT NULL,
    created_at  BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL,
    consumed_at BIGINT,
    successor   BLOB,
    seq         BIGINT  NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX artefacts_expiry ON artefacts (expires_at);

CREATE TABLE grants (
    id         TEXT   NOT NULL PRIMARY KEY,
    subject    TEXT   NOT NULL,
    client_id  TEXT   NOT NULL,
    session    TEXT,
    scope      TEXT   NOT NULL,
    document   TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at   BIGINT
);
CREATE INDEX grants_of_subject ON grants (subject, created_at, id) WHERE ended_at IS NULL;
CREATE INDEX grants_of_client ON grants (client_id, created_at, id) WHERE ended_at IS NULL;
CREATE INDEX grants_by_age ON grants (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX grants_expiry ON grants (expires_at);
CREATE INDEX grants_ended ON grants (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE sessions (
    id         TEXT   NOT NULL PRIMARY KEY,
    subject    TEXT   NOT NULL,
    auth_time  BIGINT NOT NULL,
    amr        TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at   BIGINT,
    document   TEXT   NOT NULL
);
CREATE INDEX sessions_of_subject ON sessions (subject, created_at, id) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_age ON sessions (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE consents (
    subject    TEXT   NOT NULL,
    client_id  TEXT   NOT NULL,
    scopes     TEXT   NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (subject, client_id)
);

CREATE TABLE objects (
    kind        TEXT   NOT NULL,
    id          TEXT   NOT NULL,
    natural_key TEXT   NOT NULL,
    document    TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (kind, id),
    UNIQUE (kind, natural_key)
);

CREATE TABLE secrets (
    kind  TEXT NOT NULL,
    id    TEXT NOT NULL,
    slot  TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, id, slot)
);

CREATE TABLE keys (
    kid        TEXT   NOT NULL PRIMARY KEY,
    alg        TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    public_jwk TEXT   NOT NULL,
    sealed     BLOB   NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE revocations (
    kind       TEXT   NOT NULL,
    id         TEXT   NOT NULL,
    seq        BIGINT NOT NULL,
    at_ms      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX revocations_in_order ON revocations (seq, kind, id);
CREATE INDEX revocations_expiry ON revocations (expires_at);

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY,
    at_ms    BIGINT NOT NULL,
    kind     TEXT   NOT NULL,
    document TEXT   NOT NULL,
    hash     BLOB   NOT NULL
);

-- The ledger's head: one row, rewritten by every transaction that appends events.
CREATE TABLE chain (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    seq  BIGINT NOT NULL,
    hash BLOB   NOT NULL
);
INSERT INTO chain (one, seq, hash) VALUES (1, 0, zeroblob(32));
