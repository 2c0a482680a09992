-- name: make_table
CREATE TABLE IF NOT EXISTS task_results (
    task_id TEXT COLLATE "C" PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL,
    value BYTEA,
    error BYTEA,
    progress BYTEA,
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    value_until BIGINT NOT NULL,
    forget_at BIGINT NOT NULL
);

-- name: find_unsettled
SELECT task_id
FROM task_results
WHERE task_id IN (SELECT value FROM json_array_elements_text(CAST(:task_ids AS json))) AND finished_at IS NULL AND forget_at > :now;
