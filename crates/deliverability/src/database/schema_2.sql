-- Who has which bundle: the client was sent it whole, or has named it by its tag. What it says counts only then.
CREATE TABLE holder (
    version INTEGER NOT NULL,
    client TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (version, client)
) WITHOUT ROWID;
CREATE INDEX holder_of_client ON holder (client);
-- Until now `given` was what a client had been offered. What it said is in force it has for sure.
INSERT INTO holder SELECT c.in_force, c.name, COALESCE(c.seen_at, c.added_at) FROM client c
    WHERE c.in_force IN (SELECT version FROM bundle);
UPDATE client SET in_force = 0 WHERE in_force NOT IN (SELECT version FROM bundle);
UPDATE client SET given = in_force;

-- What is old is looked for by its age.
CREATE INDEX fetch_by_age ON fetch (at);
CREATE INDEX report_by_age ON report (at);
CREATE INDEX trail_by_age ON trail (at);
CREATE INDEX text_by_age ON text (stated_at);

-- The cluster or key that a person named: what was said so can be withdrawn so.
ALTER TABLE qualification ADD COLUMN said_of TEXT NOT NULL DEFAULT '';
ALTER TABLE accepted_rule ADD COLUMN said_of TEXT NOT NULL DEFAULT '';
CREATE INDEX qualification_by_age ON qualification (at);
