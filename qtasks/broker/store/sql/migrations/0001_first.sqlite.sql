-- Content of a message: written once, read at every attempt, pruned with the history. `created_at`
-- never falls from one message to the next, so that the sequence is an index by time as well.
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  task_id TEXT,
  queue TEXT,
  url TEXT NOT NULL,
  method TEXT NOT NULL,
  headers BLOB NOT NULL,
  body BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  max_retries INTEGER NOT NULL,
  retry_delay TEXT,
  timeout_ms INTEGER NOT NULL,
  labels TEXT,
  caller_ip TEXT,
  result_ttl_ms INTEGER
);

-- results of a task that has not finished, and the repeat of an enqueue whose answer was lost: a message that a call
-- makes has the digits of its task's id and is found by its own, so this has all others of a task, as replays
CREATE INDEX messages_task ON messages (task_id) WHERE substr(task_id, 5) <> substr(id, 5);

-- `turn` is the place in the line for claims, `is_full` says that no more may start for now, `is_set`
-- that the API has decided its settings, against which a declaration in code does not count.
CREATE TABLE queues (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  parallelism INTEGER NOT NULL,
  ordered INTEGER NOT NULL,
  paused INTEGER NOT NULL DEFAULT 0,
  turn INTEGER,
  is_full INTEGER NOT NULL DEFAULT 0,
  is_set INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
);

-- claim visits only queues that may have something to start, however many queues there are
CREATE INDEX queues_line ON queues (turn) WHERE turn IS NOT NULL AND paused = 0 AND is_full = 0;

-- the turn of whoever joins the line
CREATE VIEW line_end AS
SELECT coalesce(max(turn), 0) + 1 AS turn
FROM queues
WHERE turn IS NOT NULL AND paused = 0 AND is_full = 0;

-- What is not finished: small rows, changed at every step, gone when the message is done.
CREATE TABLE pending (
  seq INTEGER PRIMARY KEY,
  queue INTEGER NOT NULL,
  app TEXT,
  state INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  lease_epoch INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_until INTEGER,
  started_at INTEGER,
  interrupted INTEGER NOT NULL DEFAULT 0,
  guard_until INTEGER,
  cancel_at INTEGER
);

-- claim: the next to start in a queue, and how many of its slots are taken
CREATE INDEX pending_claim ON pending (queue, state, due_at, seq);

-- promote: what has waited long enough
CREATE INDEX pending_due ON pending (due_at) WHERE state >= 2;

-- One row for each attempt that ended, and for each thing that befell a message between attempts.
CREATE TABLE log (
  message INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  next_at INTEGER,
  cancel_at INTEGER,
  status INTEGER,
  error TEXT,
  headers BLOB,
  body BLOB,
  PRIMARY KEY (message, epoch)
) WITHOUT ROWID;

-- pages of the log, newest first: by the end of an attempt, and by its start
CREATE INDEX log_ended ON log (ended_at, message, epoch);
CREATE INDEX log_started ON log (started_at, message, epoch);
CREATE INDEX log_cancelled ON log (cancel_at, message, epoch) WHERE cancel_at IS NOT NULL;

CREATE TABLE dead_letters (
  message INTEGER PRIMARY KEY,
  died_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  status INTEGER NOT NULL,
  error TEXT,
  headers BLOB NOT NULL,
  body BLOB NOT NULL
);

CREATE INDEX dead_letters_died ON dead_letters (died_at, message);

CREATE TABLE dedup (
  key TEXT PRIMARY KEY,
  message_id TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE results (
  task_id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  value BLOB,
  error BLOB,
  attempts INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  finished_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX results_expires ON results (expires_at);
