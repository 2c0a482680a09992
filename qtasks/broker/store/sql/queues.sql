-- name: queue_find
SELECT id, name, parallelism, ordered, paused, turn IS NOT NULL
FROM queues
WHERE name = :name

-- name: queue_insert
INSERT INTO queues (name, parallelism, ordered, paused, is_set, created_at, updated_at)
VALUES (:name, :parallelism, :ordered, :paused, :is_set, :now, :now)

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
WHERE q.name <> '' AND (:name IS NULL OR q.name = :name)
ORDER BY q.name

-- name: queue_line
SELECT id, parallelism, ordered
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
SET is_full = :is_full, turn = (SELECT turn FROM line_end)
WHERE id = :id

-- name: queue_leave_line
UPDATE queues
SET is_full = :is_full, turn = NULL
WHERE id = :id
