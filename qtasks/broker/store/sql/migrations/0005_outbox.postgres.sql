-- Messages that callers leave in transactions of their own, for nodes to take in once those have committed.
-- Ids are given out as rows are written, so they come in the order in which one transaction wrote them.
-- `app` is the one whose process runs the message; `problem` says why a row could not be taken in.
CREATE TABLE outbox (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  app TEXT,
  message TEXT NOT NULL,
  problem TEXT
);

-- Tells this store from others of the same name: a caller's connection may lead to another database.
CREATE TABLE identity (
  id TEXT NOT NULL
);
INSERT INTO identity VALUES (CAST(gen_random_uuid() AS TEXT));
