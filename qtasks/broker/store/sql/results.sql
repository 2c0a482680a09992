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
-- The log counts the attempts that were made (kinds 1, 2, 3 and 6), which outlives the result.
SELECT m.created_at, p.state, p.attempt, g.report, g.reported_at,
       (SELECT l.kind FROM log l WHERE l.message = m.seq ORDER BY l.epoch DESC LIMIT 1),
       (SELECT max(l.ended_at) FROM log l WHERE l.message = m.seq),
       (SELECT count(*) FROM log l WHERE l.message = m.seq AND l.kind IN (1, 2, 3, 6))
FROM messages m
LEFT JOIN pending p ON p.seq = m.seq
LEFT JOIN progress g ON g.message = p.seq
WHERE m.seq IN (SELECT seq FROM messages WHERE id = 'msg_' || substr(:task_id, 5) AND task_id = :task_id
                UNION ALL
                SELECT seq FROM messages WHERE task_id = :task_id AND substr(task_id, 5) <> substr(id, 5))
ORDER BY m.seq DESC
LIMIT 1

-- name: result_prune
DELETE FROM results
WHERE task_id IN (SELECT task_id FROM results WHERE expires_at <= :now ORDER BY expires_at LIMIT :count)

-- name: result_forget
DELETE FROM results
WHERE task_id = :task_id

-- name: messages_of_task
-- Those that have not finished, newest first: a task that goes on under its id has two for a moment.
SELECT m.id, p.seq
FROM messages m
JOIN pending p ON p.seq = m.seq
WHERE m.seq IN (SELECT seq FROM messages WHERE id = 'msg_' || substr(:task_id, 5) AND task_id = :task_id
                UNION ALL
                SELECT seq FROM messages WHERE task_id = :task_id AND substr(task_id, 5) <> substr(id, 5))
ORDER BY m.seq DESC

-- name: progress_set
INSERT INTO progress (message, report, reported_at)
VALUES (:message, :report, :now)
ON CONFLICT (message) DO UPDATE SET report = excluded.report, reported_at = excluded.reported_at

-- name: progress_walk
SELECT g.message, EXISTS (SELECT 1 FROM pending p WHERE p.seq = g.message)
FROM progress g
WHERE g.message > :after
ORDER BY g.message
LIMIT :count

-- name: progress_delete
DELETE FROM progress
WHERE message = :message
