-- Fresh messages of streams that wait, in the order of their acceptance: as a row of `queue` with due_ms 0 would
-- be (who counts what waits by hand counts both tables), but side by side, whatever their domains. Bounded: what is too much moves into `queue`.
CREATE TABLE arrival (
  message_id INTEGER PRIMARY KEY, domain_id INTEGER NOT NULL, delivery_id INTEGER NOT NULL
);
