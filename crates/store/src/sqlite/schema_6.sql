-- Who said a text first: the MX host or the domain of the recipient. Empty: met before this column was.
ALTER TABLE text ADD COLUMN host TEXT NOT NULL DEFAULT '';
