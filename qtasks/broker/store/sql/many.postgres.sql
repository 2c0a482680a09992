-- The same for many rows at once, as arrays: one statement where there would be one for each row.

-- name: message_insert_many
WITH stored AS (
INSERT INTO messages (seq, id, task_id, queue, url, method, headers, body, created_at, not_before,
                      max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras)
SELECT *
FROM unnest(
  CAST(:seq AS BIGINT[]),
  CAST(:id AS TEXT[]),
  CAST(:task_id AS TEXT[]),
  CAST(:queue AS TEXT[]),
  CAST(:url AS TEXT[]),
  CAST(:method AS TEXT[]),
  CAST(:headers AS BYTEA[]),
  CAST(:body AS BYTEA[]),
  CAST(:created_at AS BIGINT[]),
  CAST(:not_before AS BIGINT[]),
  CAST(:max_retries AS BIGINT[]),
  CAST(:retry_delay AS TEXT[]),
  CAST(:timeout_ms AS BIGINT[]),
  CAST(:labels AS TEXT[]),
  CAST(:caller_ip AS TEXT[]),
  CAST(:result_ttl_ms AS BIGINT[]),
  CAST(:extras AS BYTEA[])))
INSERT INTO pending (seq, queue, app, state, due_at, source)
SELECT *
FROM unnest(
  CAST(:seq AS BIGINT[]),
  CAST(:place AS BIGINT[]),
  CAST(:app AS TEXT[]),
  CAST(:state AS BIGINT[]),
  CAST(:due_at AS BIGINT[]),
  CAST(:source AS BIGINT[]))

-- name: message_append_many
-- All of them or none, as with one.
WITH given AS (
  SELECT *
  FROM unnest(
    CAST(:id AS TEXT[]),
    CAST(:task_id AS TEXT[]),
    CAST(:queue AS TEXT[]),
    CAST(:url AS TEXT[]),
    CAST(:method AS TEXT[]),
    CAST(:headers AS BYTEA[]),
    CAST(:body AS BYTEA[]),
    CAST(:created_at AS BIGINT[]),
    CAST(:max_retries AS BIGINT[]),
    CAST(:retry_delay AS TEXT[]),
    CAST(:timeout_ms AS BIGINT[]),
    CAST(:labels AS TEXT[]),
    CAST(:caller_ip AS TEXT[]),
    CAST(:result_ttl_ms AS BIGINT[]),
    CAST(:extras AS BYTEA[]),
    CAST(:app AS TEXT[])) WITH ORDINALITY
  AS given(id, task_id, queue, url, method, headers, body, made_at, max_retries, retry_delay, timeout_ms, labels,
           caller_ip, result_ttl_ms, extras, app, number)),
placed AS (
  SELECT given.*, q.id AS place, q.ordered
  FROM given
  JOIN queues AS q ON q.name = given.queue AND q.turn IS NOT NULL),
fresh AS (
  SELECT placed.*, m.seq + placed.number AS seq, greatest(m.created_at, placed.made_at) AS created_at
  FROM placed, (SELECT seq, created_at FROM messages ORDER BY seq DESC LIMIT 1) AS m
  WHERE (SELECT count(*) FROM placed) = (SELECT count(*) FROM given)),
stored AS (
  INSERT INTO messages (seq, id, task_id, queue, url, method, headers, body, created_at, not_before,
                        max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras)
  SELECT seq, id, task_id, queue, url, method, headers, body, created_at, created_at,
         max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras
  FROM fresh)
INSERT INTO pending (seq, queue, app, state, due_at)
SELECT seq, place, app, 0, CASE WHEN ordered = 1 THEN 0 ELSE created_at END
FROM fresh

-- name: dedup_insert_many
INSERT INTO dedup (key, message_id, expires_at)
SELECT *
FROM unnest(
  CAST(:key AS TEXT[]),
  CAST(:message_id AS TEXT[]),
  CAST(:expires_at AS BIGINT[]))
ON CONFLICT (key) DO UPDATE SET message_id = excluded.message_id, expires_at = excluded.expires_at

-- name: log_insert_many
INSERT INTO log (message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error, headers, body)
SELECT *
FROM unnest(
  CAST(:message AS BIGINT[]),
  CAST(:epoch AS BIGINT[]),
  CAST(:kind AS BIGINT[]),
  CAST(:started_at AS BIGINT[]),
  CAST(:ended_at AS BIGINT[]),
  CAST(:next_at AS BIGINT[]),
  CAST(:cancel_at AS BIGINT[]),
  CAST(:status AS BIGINT[]),
  CAST(:error AS TEXT[]),
  CAST(:headers AS BYTEA[]),
  CAST(:body AS BYTEA[]))
ON CONFLICT (message, epoch) DO UPDATE SET kind = excluded.kind, ended_at = excluded.ended_at,
  next_at = excluded.next_at, status = excluded.status, error = excluded.error, headers = excluded.headers,
  body = excluded.body

-- name: result_insert_many
INSERT INTO results (task_id, state, value, error, attempts, created_at, finished_at, expires_at)
SELECT *
FROM unnest(
  CAST(:task_id AS TEXT[]),
  CAST(:state AS TEXT[]),
  CAST(:value AS BYTEA[]),
  CAST(:error AS BYTEA[]),
  CAST(:attempts AS BIGINT[]),
  CAST(:created_at AS BIGINT[]),
  CAST(:finished_at AS BIGINT[]),
  CAST(:expires_at AS BIGINT[]))
ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, value = excluded.value, error = excluded.error,
  attempts = excluded.attempts, finished_at = excluded.finished_at, expires_at = excluded.expires_at

-- name: pending_again_many
UPDATE pending AS p
SET state = v.state, due_at = v.due_at, attempt = v.attempt, interrupted = v.interrupted, guard_until = v.guard_until,
    lease_owner = NULL, lease_until = NULL, started_at = NULL
FROM unnest(
  CAST(:state AS BIGINT[]),
  CAST(:due_at AS BIGINT[]),
  CAST(:attempt AS BIGINT[]),
  CAST(:interrupted AS BIGINT[]),
  CAST(:guard_until AS BIGINT[]),
  CAST(:seq AS BIGINT[]))
  AS v(state, due_at, attempt, interrupted, guard_until, seq)
WHERE p.seq = v.seq
