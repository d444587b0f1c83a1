-- Times are milliseconds since the Unix epoch. Numbers of deliveries, messages, parts, contents and
-- domains come from `sequence`, so none is ever used twice.

CREATE TABLE sequence (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  delivery INTEGER NOT NULL, message INTEGER NOT NULL, part INTEGER NOT NULL,
  content INTEGER NOT NULL, domain INTEGER NOT NULL,
  -- Messages up to here are in `address_index`; later ones are found by reading their rows.
  indexed_through INTEGER NOT NULL,
  -- Key of the hash of addresses: nobody can prepare addresses that collide in this database.
  address_key BLOB NOT NULL
);

CREATE TABLE node (name TEXT PRIMARY KEY, incarnation INTEGER NOT NULL) WITHOUT ROWID;

-- The digest is that of a delivery's content, which is stored once; a stream's messages have none.
CREATE TABLE content (id INTEGER PRIMARY KEY, digest BLOB, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX content_digest ON content (digest) WHERE digest IS NOT NULL;
-- How many unfinished messages share a stream's content, where it is more than one.
CREATE TABLE content_use (content_id INTEGER PRIMARY KEY, uses INTEGER NOT NULL);

CREATE TABLE delivery (
  id INTEGER PRIMARY KEY, state INTEGER NOT NULL, stream INTEGER NOT NULL, options TEXT NOT NULL,
  content_id INTEGER NOT NULL, created_at INTEGER NOT NULL, started_at INTEGER,
  wave_ends TEXT NOT NULL DEFAULT '[]',
  accepted INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0,
  failed INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0,
  cancelled INTEGER NOT NULL DEFAULT 0, in_flight INTEGER NOT NULL DEFAULT 0,
  refusals_kept INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE domain (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- state: 0 queued or in a part, else the final state. folded: NULL where equal to the address.
-- due_ms, pinned: as of the last time that it entered the queue. last_part: the part that returned it.
CREATE TABLE message (
  id INTEGER PRIMARY KEY, delivery_id INTEGER NOT NULL, domain_id INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  accepted_at INTEGER NOT NULL, due_ms INTEGER NOT NULL DEFAULT 0, pinned INTEGER,
  last_part INTEGER NOT NULL DEFAULT 0, settled_at INTEGER,
  content_id INTEGER NOT NULL DEFAULT 0, address_hash INTEGER NOT NULL,
  address TEXT NOT NULL, folded TEXT, sender TEXT, merge TEXT, last_reply TEXT
);

-- Ranks of a delivery's messages; none for streams.
CREATE TABLE segment (
  delivery_id INTEGER NOT NULL, first_ordinal INTEGER NOT NULL, first_id INTEGER NOT NULL,
  count INTEGER NOT NULL, PRIMARY KEY (delivery_id, first_ordinal)
) WITHOUT ROWID;

-- Clustered by delivery, so that filling one delivery touches one stretch of the tree.
CREATE TABLE address_index (
  delivery_id INTEGER NOT NULL, hash INTEGER NOT NULL, message_id INTEGER NOT NULL,
  PRIMARY KEY (delivery_id, hash, message_id)
) WITHOUT ROWID;

CREATE TABLE refusal (
  delivery_id INTEGER NOT NULL, ordinal INTEGER NOT NULL, line INTEGER NOT NULL,
  address TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (delivery_id, ordinal)
) WITHOUT ROWID;

-- Only messages that wait. due_ms 0: fresh, in order of acceptance.
CREATE TABLE queue (
  domain_id INTEGER NOT NULL, delivery_id INTEGER NOT NULL, due_ms INTEGER NOT NULL,
  message_id INTEGER NOT NULL, PRIMARY KEY (domain_id, delivery_id, due_ms, message_id)
) WITHOUT ROWID;

-- ids: numbers of the claimed messages, eight octets each, little endian.
CREATE TABLE part (
  id INTEGER PRIMARY KEY, node TEXT NOT NULL, incarnation INTEGER NOT NULL,
  lease_until INTEGER NOT NULL, domain_id INTEGER NOT NULL, ids BLOB NOT NULL
);

CREATE TABLE ledger (
  kind INTEGER NOT NULL, key TEXT NOT NULL, slot INTEGER NOT NULL, value INTEGER NOT NULL,
  extra TEXT NOT NULL, PRIMARY KEY (kind, key, slot)
) WITHOUT ROWID;

CREATE TABLE once (
  tenant TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, delivery_id INTEGER NOT NULL,
  first_id INTEGER NOT NULL, accepted INTEGER NOT NULL, created_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) WITHOUT ROWID;

CREATE TABLE audit (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL
);

CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
