-- Types are those that SQLite and PostgreSQL share; ids are hex, times Unix milliseconds.
CREATE TABLE customers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    language TEXT NOT NULL
);

CREATE TABLE machines (
    id TEXT NOT NULL PRIMARY KEY,
    customer TEXT NOT NULL REFERENCES customers (id),
    name TEXT NOT NULL,
    standing TEXT NOT NULL,
    evidence_key TEXT NOT NULL,
    sealing_key TEXT NOT NULL,
    tls_key TEXT NOT NULL,
    hostname TEXT NOT NULL,
    os TEXT NOT NULL,
    agent TEXT NOT NULL,
    address TEXT NOT NULL,
    joined_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    certificate_until BIGINT NOT NULL,
    labels TEXT NOT NULL,
    groups TEXT NOT NULL,
    verdict TEXT NOT NULL,
    newest_run TEXT,
    chain_seq BIGINT NOT NULL,
    chain_head TEXT NOT NULL
);

CREATE UNIQUE INDEX machines_by_name ON machines (name) WHERE standing = 'admitted';
CREATE INDEX machines_by_standing ON machines (standing);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    token TEXT NOT NULL,
    until BIGINT NOT NULL
);

CREATE TABLE token_uses (
    token TEXT NOT NULL REFERENCES tokens (id),
    used_by TEXT NOT NULL,
    PRIMARY KEY (token, used_by)
);

CREATE TABLE staff_joins (
    staff_key TEXT NOT NULL PRIMARY KEY,
    order_key TEXT NOT NULL,
    tls_key TEXT NOT NULL,
    tls_spki TEXT NOT NULL,
    name TEXT NOT NULL,
    joined_at BIGINT NOT NULL
);

CREATE TABLE suspensions (
    staff_key TEXT NOT NULL PRIMARY KEY,
    suspended_at BIGINT NOT NULL
);

CREATE TABLE locks (
    id TEXT NOT NULL PRIMARY KEY,
    envelope BLOB NOT NULL
);

CREATE TABLE drafts (
    id TEXT NOT NULL PRIMARY KEY,
    draft BLOB NOT NULL,
    made_at BIGINT NOT NULL
);

CREATE TABLE jobs (
    id BIGINT NOT NULL PRIMARY KEY,
    action TEXT NOT NULL,
    staff_key TEXT NOT NULL,
    staff TEXT NOT NULL,
    reason TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    selected BIGINT NOT NULL
);

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    job BIGINT NOT NULL,
    machine TEXT NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    refusal TEXT,
    order_envelope BLOB NOT NULL,
    not_after BIGINT NOT NULL,
    receipt BLOB,
    report BLOB,
    settled_at BIGINT,
    chain_seq BIGINT,
    chain_head TEXT
);

CREATE INDEX runs_by_job ON runs (job);
CREATE INDEX runs_open ON runs (not_after) WHERE state IN ('queued', 'offered', 'running');
CREATE INDEX runs_by_machine ON runs (machine, settled_at);
