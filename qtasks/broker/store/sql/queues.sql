-- name: queue_find
SELECT id, name, parallelism, ordered, paused, created_at, updated_at
FROM queues
WHERE name = :name

-- name: queue_insert
INSERT INTO queues (name, parallelism, ordered, paused, created_at, updated_at)
VALUES (:name, :parallelism, :ordered, :paused, :now, :now)

-- name: queue_update
UPDATE queues
SET parallelism = :parallelism, paused = :paused, ready_at = coalesce(ready_at, :now), updated_at = :now
WHERE name = :name

-- name: queue_declare
UPDATE queues
SET parallelism = :parallelism, ordered = :ordered, ready_at = coalesce(ready_at, :now), updated_at = :now
WHERE name = :name

-- name: queue_pause
UPDATE queues
SET paused = :paused, ready_at = coalesce(ready_at, :now), updated_at = :now
WHERE name = :name

-- name: queue_list
SELECT q.name, q.parallelism, q.ordered, q.paused, q.created_at, q.updated_at,
       (SELECT count(*) FROM pending p WHERE p.queue = q.id)
FROM queues q
WHERE q.name <> '' AND (:name IS NULL OR q.name = :name)
ORDER BY q.name

-- name: queue_ready
SELECT id, parallelism, ordered
FROM queues
WHERE ready_at IS NOT NULL AND paused = 0
ORDER BY ready_at, id
LIMIT :count

-- name: queue_mark
-- The queue may have something to start: whoever enqueues, promotes or frees a slot says so here.
UPDATE queues
SET ready_at = :now
WHERE id = :id AND ready_at IS NULL

-- name: queue_mark_if_ready
UPDATE queues
SET ready_at = :now
WHERE id = :id AND ready_at IS NULL
  AND EXISTS (SELECT 1 FROM pending p WHERE p.queue = :id AND p.state = 0)

-- name: queue_mark_all
UPDATE queues
SET ready_at = :now
WHERE ready_at IS NULL
  AND EXISTS (SELECT 1 FROM pending p WHERE p.queue = queues.id AND p.state = 0)

-- name: queue_turn
-- After a claim: to the back of the line, or out of it (NULL) when nothing more can start.
UPDATE queues
SET ready_at = :ready_at
WHERE id = :id
