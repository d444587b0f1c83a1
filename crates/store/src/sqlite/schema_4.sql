-- To whom a message was sent, after its row is gone: for links and bounces that come late.
-- hash: SHA-256 of the folded address.
CREATE TABLE past (
  message_id INTEGER PRIMARY KEY, delivery_id INTEGER NOT NULL, accepted_at INTEGER NOT NULL, hash BLOB NOT NULL
);
