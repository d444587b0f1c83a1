-- Sums over the deliveries that are forgotten.
CREATE TABLE gone (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  accepted INTEGER NOT NULL, refused INTEGER NOT NULL, duplicates INTEGER NOT NULL,
  sent INTEGER NOT NULL, failed INTEGER NOT NULL, expired INTEGER NOT NULL,
  cancelled INTEGER NOT NULL, in_flight INTEGER NOT NULL
);
INSERT INTO gone VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0);

-- Messages whose rows are gone. A delivery goes when all of its messages are.
ALTER TABLE delivery ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
CREATE INDEX delivery_state ON delivery (state);
CREATE INDEX delivery_content ON delivery (content_id);

-- What is pruned by age is found by age.
CREATE INDEX once_age ON once (created_at);
CREATE INDEX ledger_slot ON ledger (kind, slot);
