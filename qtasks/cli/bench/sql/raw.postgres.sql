-- The pace of a server and its disk: one row, one commit. Run outside transactions, in the schema of the bench.

-- name: raw_table
CREATE TABLE IF NOT EXISTS raw (id BIGSERIAL PRIMARY KEY, body BYTEA);

-- name: raw_row
INSERT INTO raw (body)
VALUES (:body);

-- name: durability
SELECT current_setting('fsync'), current_setting('synchronous_commit');

-- name: drop_schema
DROP SCHEMA IF EXISTS {schema} CASCADE;
