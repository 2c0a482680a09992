-- What few messages have (URL group, schedule, callbacks, flow control, redaction): one column, so that
-- the others pay nothing for it. See `extras.py`.
ALTER TABLE messages ADD COLUMN extras BYTEA;

-- `kind`: 0 a queue with a name, 1 messages without one, 2 the messages of a flow-control key. A key is a
-- queue of its own, so that limits, fair turns and waiting cost the same for both. `rate` starts are
-- allowed in each window of `period_ms`; `wake_at` says when a queue that waits for its next window goes
-- on; `pins` has bit 1 for a pinned parallelism, 2 for a pinned rate; `used_at` is when a message last
-- named the key, to the hour.
ALTER TABLE queues ADD COLUMN kind BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN rate BIGINT;
ALTER TABLE queues ADD COLUMN period_ms BIGINT NOT NULL DEFAULT 1000;
ALTER TABLE queues ADD COLUMN window_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN window_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN wake_at BIGINT;
ALTER TABLE queues ADD COLUMN pins BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
UPDATE queues SET kind = 1 WHERE name = '';

-- claim: keys whose next window has begun
CREATE INDEX queues_wake ON queues (wake_at) WHERE wake_at IS NOT NULL;

-- Of a callback: the message that it reports on and, once that is finished, the queue of which the
-- callback still holds a slot (contract 1.5).
ALTER TABLE pending ADD COLUMN source BIGINT;
ALTER TABLE pending ADD COLUMN slot_queue BIGINT;

-- settle: the callbacks of a message that finishes
CREATE INDEX pending_source ON pending (source) WHERE source IS NOT NULL;
-- claim: the slots of a queue that callbacks hold
CREATE INDEX pending_slots ON pending (slot_queue, source) WHERE slot_queue IS NOT NULL;

-- `endpoints` is a JSON list of [url, name or null]; `headers` one of [name, value], the defaults.
CREATE TABLE url_groups (
  name TEXT COLLATE "C" PRIMARY KEY,
  endpoints BYTEA NOT NULL,
  headers BYTEA NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

-- `options` is a JSON list of [header, value]: the message that each fire makes, as it was asked for.
CREATE TABLE schedules (
  id TEXT COLLATE "C" PRIMARY KEY,
  cron TEXT COLLATE "C" NOT NULL,
  destination TEXT COLLATE "C" NOT NULL,
  options BYTEA NOT NULL,
  body BYTEA NOT NULL,
  caller_ip TEXT COLLATE "C",
  created_at BIGINT NOT NULL,
  paused BIGINT NOT NULL DEFAULT 0,
  next_at BIGINT,
  last_at BIGINT,
  last_messages BYTEA,
  error TEXT COLLATE "C"
);

-- scheduler: what is due
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL AND paused = 0;

-- Only digests of tokens are kept.
CREATE TABLE tokens (
  name TEXT COLLATE "C" PRIMARY KEY,
  digest BYTEA NOT NULL UNIQUE,
  scope TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL
);

-- The nodes that live: `seen_at` is by this database's clock. What a node holds that is not here is free.
CREATE TABLE nodes (
  id TEXT COLLATE "C" PRIMARY KEY,
  seen_at BIGINT NOT NULL
);
