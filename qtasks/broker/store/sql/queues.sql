-- name: queue_find
SELECT id, name, parallelism, ordered, paused, turn IS NOT NULL
FROM queues
WHERE name = :name

-- name: queue_insert
INSERT INTO queues (name, parallelism, ordered, paused, is_set, kind, created_at, updated_at)
VALUES (:name, :parallelism, :ordered, :paused, :is_set, :kind, :now, :now)

-- A queue that may have something to start stands in line with a turn number; NULL is out of line. Turns
-- only grow along the line, whatever the clock does. A full or paused queue keeps its number but is
-- passed over, and gets a new one at the end of the line when that is over.

-- name: queue_update
UPDATE queues
SET parallelism = :parallelism, paused = :paused, is_full = 0, is_set = 1, updated_at = :now,
    turn = (SELECT turn FROM line_end)
WHERE name = :name

-- name: queue_declare
UPDATE queues
SET parallelism = :parallelism, is_full = 0, updated_at = :now,
    turn = (SELECT turn FROM line_end)
WHERE name = :name AND is_set = 0 AND ordered = :ordered AND parallelism <> :parallelism

-- name: queue_pause
UPDATE queues
SET paused = :paused, is_full = 0, updated_at = :now,
    turn = (SELECT turn FROM line_end)
WHERE name = :name

-- name: queue_delete
DELETE FROM queues
WHERE id = :id

-- name: queue_waiting
SELECT m.id
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = :id AND p.state <> 1

-- name: queue_active
SELECT m.id
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = :id AND p.state = 1

-- name: queue_move_active
UPDATE pending
SET queue = :to
WHERE queue = :id AND state = 1

-- name: queue_list
SELECT q.name, q.parallelism, q.ordered, q.paused, q.created_at, q.updated_at,
       (SELECT count(*) FROM pending p WHERE p.queue = q.id)
FROM queues q
WHERE q.kind = 0 AND (CAST(:name AS TEXT) IS NULL OR q.name = :name)
ORDER BY q.name

-- name: queue_line
SELECT id, parallelism, ordered, rate, period_ms, window_at, window_count
FROM queues
WHERE turn IS NOT NULL AND paused = 0 AND is_full = 0
ORDER BY turn, id
LIMIT :count

-- name: queue_join_line
-- A message of the queue is ready. If it stands in line already, or is full, nothing changes.
UPDATE queues
SET turn = (SELECT turn FROM line_end)
WHERE id = :id AND turn IS NULL

-- name: queue_freed
-- A slot became free, or a message ready again.
UPDATE queues
SET is_full = 0,
    turn = CASE WHEN EXISTS (SELECT 1 FROM pending p WHERE p.queue = :id AND p.state = 0)
                THEN (SELECT turn FROM line_end) END
WHERE id = :id
  AND (is_full = 1 OR (turn IS NULL AND EXISTS (SELECT 1 FROM pending p WHERE p.queue = :id AND p.state = 0)))

-- name: queue_join_all
UPDATE queues
SET turn = (SELECT turn FROM line_end), is_full = 0
WHERE EXISTS (SELECT 1 FROM pending p WHERE p.queue = queues.id AND p.state = 0)

-- name: queue_rejoin
-- After a claim that may have left something: to the end of the line.
UPDATE queues
SET is_full = :is_full, turn = (SELECT turn FROM line_end), wake_at = :wake_at
WHERE id = :id

-- name: queue_leave_line
UPDATE queues
SET is_full = :is_full, turn = NULL, wake_at = :wake_at
WHERE id = :id

-- name: queue_count
SELECT count(*)
FROM queues
WHERE kind = 0

-- name: queue_wake
-- The next window of a rate has begun.
UPDATE queues
SET is_full = 0, wake_at = NULL,
    turn = CASE WHEN EXISTS (SELECT 1 FROM pending p WHERE p.queue = queues.id AND p.state = 0)
                THEN (SELECT turn FROM line_end) END
WHERE wake_at <= :now

-- name: queue_wake_all
UPDATE queues
SET wake_at = 0
WHERE wake_at IS NOT NULL

-- name: queue_spend
UPDATE queues
SET window_at = :window_at, window_count = :count
WHERE id = :id

-- name: flow_find
SELECT id, pins, parallelism, rate, period_ms, used_at
FROM queues
WHERE name = :name

-- name: flow_insert
INSERT INTO queues (name, parallelism, ordered, kind, used_at, created_at, updated_at)
VALUES (:name, :unlimited, 0, :kind, :now, :now, :now)

-- name: flow_update
UPDATE queues
SET parallelism = :parallelism, rate = :rate, period_ms = :period_ms, pins = :pins, used_at = :now,
    updated_at = :now, is_full = 0, wake_at = NULL,
    turn = (SELECT turn FROM line_end)
WHERE id = :id

-- name: flow_touch
UPDATE queues
SET used_at = :now
WHERE id = :id

-- name: flow_prune_candidates
SELECT q.id,
       q.kind = 2 AND q.pins = 0 AND q.paused = 0 AND q.used_at <= :before AND q.window_at <= :before
       AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.queue = q.id)
FROM queues q
WHERE q.id > :after
ORDER BY q.id
LIMIT :count
