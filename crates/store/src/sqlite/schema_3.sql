-- The ledger of evidence. Times are milliseconds since 1970; 0 or NULL: none.

-- One row for each address of which anything is recorded. What it holds is judged from the ledger.
CREATE TABLE address (
  id INTEGER PRIMARY KEY AUTOINCREMENT, address TEXT NOT NULL UNIQUE, domain TEXT NOT NULL, state INTEGER NOT NULL,
  reason INTEGER, since INTEGER NOT NULL, until INTEGER, counts BLOB NOT NULL,
  last_counted_at INTEGER, cause INTEGER NOT NULL, cause_id INTEGER NOT NULL, changes_at INTEGER,
  created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, last_entry_at INTEGER NOT NULL
);
CREATE INDEX address_due ON address (changes_at) WHERE changes_at IS NOT NULL;
CREATE INDEX address_idle ON address (last_entry_at) WHERE state = 0;
CREATE INDEX address_state ON address (state, reason, id);

-- text, reason, type, status, rule, version: NULL for a delivery.
-- standing: 0 may count, 1 held by hold number standing_by, 2 undone by task number standing_by.
CREATE TABLE evidence (
  id INTEGER PRIMARY KEY AUTOINCREMENT, address_id INTEGER NOT NULL, at INTEGER NOT NULL,
  provider TEXT NOT NULL, delivery_id INTEGER, message_id INTEGER, channel INTEGER NOT NULL,
  authentic INTEGER NOT NULL, standing INTEGER NOT NULL, standing_by INTEGER NOT NULL,
  text BLOB, reply TEXT, reason INTEGER, type INTEGER, status INTEGER, rule TEXT, version TEXT
);
CREATE INDEX evidence_address ON evidence (address_id);
CREATE INDEX evidence_at ON evidence (at);
CREATE INDEX evidence_text ON evidence (text) WHERE text IS NOT NULL;
CREATE INDEX evidence_standing ON evidence (standing, standing_by) WHERE standing > 0;

-- deed: JSON.
CREATE TABLE action (
  id INTEGER PRIMARY KEY AUTOINCREMENT, address_id INTEGER NOT NULL, at INTEGER NOT NULL,
  deed TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL
);
CREATE INDEX action_address ON action (address_id);

-- person_*: what a person said; NULL: nobody did.
CREATE TABLE text (
  key BLOB PRIMARY KEY, normalised TEXT NOT NULL, first_raw TEXT NOT NULL, reason INTEGER NOT NULL,
  type INTEGER NOT NULL, status INTEGER NOT NULL, rule TEXT NOT NULL, version TEXT NOT NULL,
  person_reason INTEGER, person_type INTEGER, person_status INTEGER, qualified_by TEXT NOT NULL,
  occurrences INTEGER NOT NULL, first_at INTEGER NOT NULL, last_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE seen (key BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at);

CREATE TABLE stray (
  kind INTEGER NOT NULL, day INTEGER NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (kind, day)
) WITHOUT ROWID;

-- work: JSON. cursor_at, cursor_id: how far it has come.
CREATE TABLE task (
  id INTEGER PRIMARY KEY AUTOINCREMENT, work TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
  started_at INTEGER NOT NULL, addresses INTEGER NOT NULL, cursor_at INTEGER NOT NULL,
  cursor_id INTEGER NOT NULL
);

-- entry: 0 and the 32 octets of a SHA-256, or 1 and a domain mask.
CREATE TABLE suppression (
  entry BLOB PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE hold (
  id INTEGER PRIMARY KEY, provider TEXT NOT NULL, doubted_since INTEGER NOT NULL,
  tripped_at INTEGER NOT NULL, usual INTEGER NOT NULL, sudden INTEGER NOT NULL, ended_at INTEGER,
  ending INTEGER, who TEXT NOT NULL, why TEXT NOT NULL
);

-- How many rows of `text` there are: counting them would take as long as there are many.
CREATE TABLE tally (id INTEGER PRIMARY KEY CHECK (id = 1), texts INTEGER NOT NULL);
INSERT INTO tally VALUES (1, 0);
