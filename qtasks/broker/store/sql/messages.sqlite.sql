-- The messages of a call are looked up together: a statement for each would cost as much as storing it.

-- name: dedup_find
SELECT d.key, d.message_id, m.task_id, p.state, p.attempt, m.extras
FROM json_each(:keys) AS k
CROSS JOIN dedup AS d ON d.key = k.value
LEFT JOIN messages AS m ON m.id = d.message_id
LEFT JOIN pending AS p ON p.seq = m.seq
WHERE d.expires_at > :now

-- name: dedup_find_tasks
-- A task's id is its deduplication id too, and has an index already: no second row is kept for it.
SELECT m.seq, m.task_id, m.id, m.created_at
FROM json_each(:task_ids) AS k
CROSS JOIN messages AS m ON m.task_id = k.value
