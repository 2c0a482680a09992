-- name: make_index
-- For `forget_results`.
CREATE INDEX IF NOT EXISTS task_results_to_forget ON task_results (forget_at);

-- name: put_result
-- A task without attempts was accepted just now, and may have run before that was written. Success is
-- final: a second delivery of the same message takes nothing back. Nothing is tried again that was called
-- off while it ran, or that has gone on in another message already.
INSERT INTO task_results
    (task_id, state, value, error, attempts, created_at, finished_at, value_until, forget_at)
VALUES
    (:task_id, :state, :value, :error, :attempts, :created_at, :finished_at, :value_until, :forget_at)
ON CONFLICT (task_id) DO UPDATE SET
    state = excluded.state,
    value = excluded.value,
    error = excluded.error,
    progress = CASE WHEN excluded.finished_at IS NULL THEN task_results.progress END,
    attempts = excluded.attempts,
    finished_at = excluded.finished_at,
    value_until = excluded.value_until,
    forget_at = excluded.forget_at
WHERE
    excluded.attempts > 0
    AND task_results.state <> 'SUCCEEDED'
    AND NOT (
        excluded.state = 'RETRYING'
        AND (task_results.state = 'CANCELLED' OR task_results.attempts > excluded.attempts)
    );

-- name: cancel_result
UPDATE task_results
SET state = 'CANCELLED', progress = NULL, finished_at = :now, forget_at = :forget_at
WHERE task_id = :task_id AND state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED');

-- name: drop_result
UPDATE task_results
SET value = NULL, error = NULL
WHERE task_id = :task_id AND (value IS NOT NULL OR error IS NOT NULL);

-- name: find_result
SELECT state, value, error, progress, attempts, created_at, finished_at, value_until, forget_at
FROM task_results
WHERE task_id = :task_id;


-- name: report_progress
UPDATE task_results
SET progress = :progress
WHERE task_id = :task_id AND finished_at IS NULL;

-- name: forget_results
DELETE FROM task_results
WHERE task_id IN (SELECT task_id FROM task_results WHERE forget_at <= :now ORDER BY forget_at LIMIT 100);
