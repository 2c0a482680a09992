-- name: queue_find
SELECT id, name, parallelism, ordered, paused, created_at, updated_at
FROM queues
WHERE name = :name

-- name: queue_insert
INSERT INTO queues (name, parallelism, ordered, paused, created_at, updated_at)
VALUES (:name, :parallelism, :ordered, :paused, :now, :now)

-- name: queue_update
UPDATE queues
SET parallelism = :parallelism, paused = :paused, is_full = 0, is_set = 1,
    ready_at = coalesce(ready_at, :now), updated_at = :now
WHERE name = :name

-- name: queue_declare
UPDATE queues
SET parallelism = :parallelism, is_full = 0, ready_at = coalesce(ready_at, :now), updated_at = :now
WHERE name = :name AND is_set = 0 AND ordered = :ordered AND parallelism <> :parallelism

-- name: queue_pause
UPDATE queues
SET paused = :paused, is_full = 0, ready_at = coalesce(ready_at, :now), updated_at = :now
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
WHERE ready_at IS NOT NULL AND paused = 0 AND is_full = 0
ORDER BY ready_at, id
LIMIT :count

-- name: queue_mark
-- The queue may have something to start: whoever enqueues, promotes or frees a slot says so here.
UPDATE queues
SET ready_at = :now
WHERE id = :id AND ready_at IS NULL

-- name: queue_freed
-- A slot became free, or a message ready again.
UPDATE queues
SET is_full = 0,
    ready_at = CASE WHEN EXISTS (SELECT 1 FROM pending p WHERE p.queue = :id AND p.state = 0)
                    THEN coalesce(ready_at, :now) END
WHERE id = :id
  AND (is_full = 1 OR ready_at IS NULL)
  AND (ready_at IS NOT NULL OR EXISTS (SELECT 1 FROM pending p WHERE p.queue = :id AND p.state = 0))

-- name: queue_mark_all
UPDATE queues
SET ready_at = :now, is_full = 0
WHERE EXISTS (SELECT 1 FROM pending p WHERE p.queue = queues.id AND p.state = 0)

-- name: queue_turn
-- After a claim: to the back of the line, or out of it: NULL when nothing is ready, full when nothing
-- more may start. Enqueueing to a full queue then changes nothing here, and wakes nobody.
UPDATE queues
SET ready_at = :ready_at, is_full = :is_full
WHERE id = :id
