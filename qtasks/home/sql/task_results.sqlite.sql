-- name: make_table
CREATE TABLE IF NOT EXISTS task_results (
    task_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    value BLOB,
    error BLOB,
    progress BLOB,
    attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    value_until INTEGER NOT NULL,
    forget_at INTEGER NOT NULL
);

-- name: find_unsettled
SELECT task_id
FROM task_results
WHERE task_id IN (SELECT value FROM json_each(:task_ids)) AND finished_at IS NULL AND forget_at > :now;
