-- name: result_insert
INSERT INTO results (task_id, state, value, error, attempts, created_at, finished_at, expires_at)
VALUES (:task_id, :state, :value, :error, :attempts, :created_at, :finished_at, :expires_at)
ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, value = excluded.value, error = excluded.error,
  attempts = excluded.attempts, finished_at = excluded.finished_at, expires_at = excluded.expires_at

-- name: result_find
SELECT state, value, error, attempts, created_at, finished_at
FROM results
WHERE task_id = :task_id AND expires_at > :now

-- name: result_of_message
SELECT m.created_at, p.state, p.attempt,
       (SELECT l.kind FROM log l WHERE l.message = m.seq ORDER BY l.epoch DESC LIMIT 1)
FROM messages m
LEFT JOIN pending p ON p.seq = m.seq
WHERE m.task_id = :task_id
ORDER BY m.seq DESC
LIMIT 1

-- name: result_prune
DELETE FROM results
WHERE task_id IN (SELECT task_id FROM results WHERE expires_at <= :now ORDER BY expires_at LIMIT :count)

-- name: result_forget
DELETE FROM results
WHERE task_id = :task_id
