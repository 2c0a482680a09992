-- The pace of a disk: one row, one commit, with what qtasks itself sets for its file.

-- name: raw_log
PRAGMA journal_mode = WAL;

-- name: raw_full
PRAGMA synchronous = FULL;

-- name: raw_relaxed
PRAGMA synchronous = NORMAL;

-- name: raw_table
CREATE TABLE raw (id INTEGER PRIMARY KEY, body BLOB);

-- name: raw_begin
BEGIN IMMEDIATE;

-- name: raw_row
INSERT INTO raw (body)
VALUES (:body);

-- name: raw_commit
COMMIT;
