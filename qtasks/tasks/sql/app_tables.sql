-- name: outbox_first
SELECT id, message
FROM qtasks_outbox
WHERE problem IS NULL
ORDER BY id
LIMIT :count

-- name: outbox_set_aside
UPDATE qtasks_outbox
SET problem = :problem
WHERE id = :id

-- name: inbox_index
-- For pruning.
CREATE INDEX IF NOT EXISTS qtasks_inbox_created_at ON qtasks_inbox (created_at)

-- name: inbox_enter
-- Whoever comes second waits here for the first one's commit or rollback.
INSERT INTO qtasks_inbox (id, created_at)
VALUES (:id, :now)
ON CONFLICT (id) DO NOTHING
RETURNING id

-- name: inbox_find
SELECT result
FROM qtasks_inbox
WHERE id = :id

-- name: inbox_keep
UPDATE qtasks_inbox
SET result = :result
WHERE id = :id

-- name: inbox_leave
DELETE FROM qtasks_inbox
WHERE id = :id

-- name: inbox_prune
DELETE FROM qtasks_inbox
WHERE created_at < :before
RETURNING 1
