-- The deliverability instance. Times are milliseconds since 1970.

CREATE TABLE bundle (
    version INTEGER PRIMARY KEY,
    etag TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    minimum_client TEXT NOT NULL,
    signed_by TEXT NOT NULL,
    notes TEXT NOT NULL,
    pushed_at INTEGER NOT NULL,
    pushed_by TEXT NOT NULL,
    share INTEGER NOT NULL,
    halted INTEGER NOT NULL,
    since INTEGER NOT NULL,
    judged_from INTEGER NOT NULL,
    why TEXT NOT NULL,
    octets_count INTEGER NOT NULL,
    -- Behind everything else: whoever reads the columns above does not read these.
    octets BLOB NOT NULL,
    compressed BLOB NOT NULL
);

CREATE TABLE client (
    name TEXT PRIMARY KEY,
    token BLOB NOT NULL UNIQUE,
    added_at INTEGER NOT NULL,
    added_by TEXT NOT NULL,
    -- The newest bundle that it was given, and the one that it said is in force; 0: none.
    given INTEGER NOT NULL DEFAULT 0,
    in_force INTEGER NOT NULL DEFAULT 0,
    program TEXT NOT NULL DEFAULT '',
    seen_at INTEGER
);

CREATE TABLE fetch (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    client TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- 200, 204 or 304.
    status INTEGER NOT NULL,
    in_force INTEGER NOT NULL,
    program TEXT NOT NULL
);

CREATE INDEX fetch_of_client ON fetch (client, id);

CREATE TABLE report (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    client TEXT NOT NULL,
    bundle INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    program TEXT NOT NULL
);
CREATE INDEX report_of_bundle ON report (bundle, at);
CREATE INDEX report_of_client ON report (client, id);

CREATE TABLE text (
    key BLOB NOT NULL,
    client TEXT NOT NULL,
    text TEXT NOT NULL,
    provider TEXT NOT NULL,
    occurrences INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    stated_at INTEGER NOT NULL,
    PRIMARY KEY (key, client)
) WITHOUT ROWID;
CREATE INDEX text_of_client ON text (client);

CREATE TABLE qualification (
    key BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    reason TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    at INTEGER NOT NULL
) WITHOUT ROWID;

-- Proposed rules that a person has accepted, as TOML.
CREATE TABLE accepted_rule (
    name TEXT PRIMARY KEY,
    rule TEXT NOT NULL,
    who TEXT NOT NULL,
    at INTEGER NOT NULL
);

CREATE TABLE trail (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    why TEXT NOT NULL
);

-- One row: the keys that bundles have named and replaced.
CREATE TABLE trust (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    keys TEXT NOT NULL
);
