-- What few messages have (URL group, schedule, callbacks, flow control, redaction): one column, so that
-- the others pay nothing for it. See `extras.py`.
ALTER TABLE messages ADD COLUMN extras BLOB;

-- `kind`: 0 a queue with a name, 1 messages without one, 2 the messages of a flow-control key. A key is a
-- queue of its own, so that limits, fair turns and waiting cost the same for both. `rate` starts are
-- allowed in each window of `period_ms`; `wake_at` says when a queue that waits for its next window goes
-- on; `pins` has bit 1 for a pinned parallelism, 2 for a pinned rate; `used_at` is when a message last
-- named the key, to the hour.
ALTER TABLE queues ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN rate INTEGER;
ALTER TABLE queues ADD COLUMN period_ms INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE queues ADD COLUMN window_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN window_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN wake_at INTEGER;
ALTER TABLE queues ADD COLUMN pins INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
UPDATE queues SET kind = 1 WHERE name = '';

-- claim: keys whose next window has begun
CREATE INDEX queues_wake ON queues (wake_at) WHERE wake_at IS NOT NULL;

-- Of a callback: the message that it reports on and, once that is finished, the queue of which the
-- callback still holds a slot (contract 1.5).
ALTER TABLE pending ADD COLUMN source INTEGER;
ALTER TABLE pending ADD COLUMN slot_queue INTEGER;

-- settle: the callbacks of a message that finishes
CREATE INDEX pending_source ON pending (source) WHERE source IS NOT NULL;
-- claim: the slots of a queue that callbacks hold
CREATE INDEX pending_slots ON pending (slot_queue, source) WHERE slot_queue IS NOT NULL;

-- `endpoints` is a JSON list of [url, name or null]; `headers` one of [name, value], the defaults.
CREATE TABLE url_groups (
  name TEXT PRIMARY KEY,
  endpoints BLOB NOT NULL,
  headers BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) WITHOUT ROWID;

-- `options` is a JSON list of [header, value]: the message that each fire makes, as it was asked for.
CREATE TABLE schedules (
  id TEXT PRIMARY KEY,
  cron TEXT NOT NULL,
  destination TEXT NOT NULL,
  options BLOB NOT NULL,
  body BLOB NOT NULL,
  caller_ip TEXT,
  created_at INTEGER NOT NULL,
  paused INTEGER NOT NULL DEFAULT 0,
  next_at INTEGER,
  last_at INTEGER,
  last_messages BLOB,
  error TEXT
);

-- scheduler: what is due
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL AND paused = 0;

-- Only digests of tokens are kept.
CREATE TABLE tokens (
  name TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  scope TEXT NOT NULL,
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
