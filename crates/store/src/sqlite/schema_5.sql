-- Bundles of rules. Times are milliseconds since 1970.
CREATE TABLE bundle (version INTEGER PRIMARY KEY, key BLOB NOT NULL, octets BLOB NOT NULL);

-- version: NULL while no bundle is in force. trust: the words of the node.
CREATE TABLE bundle_in_force (
  id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER, trust TEXT NOT NULL, since INTEGER NOT NULL
);
INSERT INTO bundle_in_force VALUES (1, NULL, '', 0);

CREATE TABLE bundle_application (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
  from_version INTEGER, to_version INTEGER, difference TEXT NOT NULL
);
