-- The ledger and everything that changes with it (PostgreSQL). Text compares by its bytes, as in SQLite. Times are seconds since the epoch unless the name ends in _ms.
CREATE TABLE artefacts (
    kind        TEXT COLLATE "C" NOT NULL,
    id          BYTEA    NOT NULL,
    mac         BYTEA    NOT NULL,
    grant_id    TEXT COLLATE "C",
    document    TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL,
    consumed_at BIGINT,
    successor   BYTEA,
    seq         BIGINT  NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX artefacts_expiry ON artefacts (expires_at);

CREATE TABLE grants (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    subject    TEXT COLLATE "C" NOT NULL,
    client_id  TEXT COLLATE "C" NOT NULL,
    session    TEXT COLLATE "C",
    scope      TEXT COLLATE "C" NOT NULL,
    document   TEXT COLLATE "C" NOT NULL,
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
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    subject    TEXT COLLATE "C" NOT NULL,
    auth_time  BIGINT NOT NULL,
    amr        TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at   BIGINT,
    document   TEXT COLLATE "C" NOT NULL
);
CREATE INDEX sessions_of_subject ON sessions (subject, created_at, id) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_age ON sessions (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE consents (
    subject    TEXT COLLATE "C" NOT NULL,
    client_id  TEXT COLLATE "C" NOT NULL,
    scopes     TEXT COLLATE "C" NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (subject, client_id)
);

CREATE TABLE objects (
    kind        TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    natural_key TEXT COLLATE "C" NOT NULL,
    document    TEXT COLLATE "C" NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (kind, id),
    UNIQUE (kind, natural_key)
);

CREATE TABLE secrets (
    kind  TEXT COLLATE "C" NOT NULL,
    id    TEXT COLLATE "C" NOT NULL,
    slot  TEXT COLLATE "C" NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (kind, id, slot)
);

CREATE TABLE keys (
    kid        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    alg        TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    public_jwk TEXT COLLATE "C" NOT NULL,
    sealed     BYTEA   NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE TABLE meta (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE revocations (
    kind       TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    seq        BIGINT NOT NULL,
    at_ms      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX revocations_in_order ON revocations (seq, kind, id);
CREATE INDEX revocations_expiry ON revocations (expires_at);

CREATE TABLE events (
    seq      BIGINT PRIMARY KEY,
    at_ms    BIGINT NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    document TEXT COLLATE "C" NOT NULL,
    hash     BYTEA   NOT NULL
);

-- The ledger's head: one row, rewritten by every transaction that appends events.
CREATE TABLE chain (
    one  SMALLINT PRIMARY KEY CHECK (one = 1),
    seq  BIGINT NOT NULL,
    hash BYTEA   NOT NULL
);
INSERT INTO chain (one, seq, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));
