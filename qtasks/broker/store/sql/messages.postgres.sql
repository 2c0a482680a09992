-- The messages of a call are looked up together: a statement for each would cost as much as storing it.

-- name: dedup_find
SELECT d.key, d.message_id, m.task_id, p.state, p.attempt, m.extras
FROM json_array_elements_text(CAST(:keys AS json)) AS k(value)
JOIN dedup AS d ON d.key = k.value
LEFT JOIN messages AS m ON m.id = d.message_id
LEFT JOIN pending AS p ON p.seq = m.seq
WHERE d.expires_at > :now

-- name: dedup_find_tasks
-- A task's id is its deduplication id too, and no second row is kept for it: two indexes have it between them.
SELECT m.seq, m.task_id, m.id, m.created_at
FROM json_array_elements_text(CAST(:task_ids AS json)) AS k(value)
JOIN messages AS m ON m.id = 'msg_' || substr(k.value, 5)
UNION ALL
SELECT m.seq, m.task_id, m.id, m.created_at
FROM json_array_elements_text(CAST(:task_ids AS json)) AS k(value)
JOIN messages AS m ON m.task_id = k.value AND substr(m.task_id, 5) <> substr(m.id, 5)

-- name: message_insert
WITH stored AS (
  INSERT INTO messages (seq, id, task_id, queue, url, method, headers, body, created_at, not_before,
                        max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras)
  VALUES (:seq, :id, :task_id, :queue, :url, :method, :headers, :body, :created_at, :not_before,
          :max_retries, :retry_delay, :timeout_ms, :labels, :caller_ip, :result_ttl_ms, :extras))
INSERT INTO pending (seq, queue, app, state, due_at, source)
VALUES (:seq, :place, :app, :state, :due_at, :source)

-- name: message_append
-- Stores nothing unless the queue stands in line already: all that is known elsewhere by `look_around` it finds
-- itself, so that its transaction is one round trip.
WITH fresh AS (
  SELECT m.seq + 1 AS seq, q.id AS place, q.ordered,
         greatest(m.created_at, CAST(:created_at AS BIGINT)) AS created_at
  FROM queues AS q, (SELECT seq, created_at FROM messages ORDER BY seq DESC LIMIT 1) AS m
  WHERE q.name = CAST(:queue AS TEXT) AND q.turn IS NOT NULL),
stored AS (
  INSERT INTO messages (seq, id, task_id, queue, url, method, headers, body, created_at, not_before,
                        max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras)
  SELECT seq, CAST(:id AS TEXT), CAST(:task_id AS TEXT), CAST(:queue AS TEXT), CAST(:url AS TEXT), CAST(:method AS TEXT),
         CAST(:headers AS BYTEA), CAST(:body AS BYTEA), created_at, created_at, CAST(:max_retries AS BIGINT),
         CAST(:retry_delay AS TEXT), CAST(:timeout_ms AS BIGINT), CAST(:labels AS TEXT), CAST(:caller_ip AS TEXT),
         CAST(:result_ttl_ms AS BIGINT), CAST(:extras AS BYTEA)
  FROM fresh)
INSERT INTO pending (seq, queue, app, state, due_at)
SELECT seq, place, CAST(:app AS TEXT), 0, CASE WHEN ordered = 1 THEN 0 ELSE created_at END
FROM fresh

-- name: pending_orphans
-- By way of the queues, so that a large backlog is not read: the index begins with queue and state.
SELECT q.id, q.ordered, p.started_at,
       p.seq, p.attempt - 1, p.lease_epoch - 1, p.interrupted, p.guard_until, p.app,
       m.id, m.task_id, m.queue, m.url, m.method, m.headers, m.body, m.created_at,
       m.max_retries, m.retry_delay, m.timeout_ms, m.caller_ip, m.result_ttl_ms, m.not_before, m.extras, p.source, 0
FROM queues q
CROSS JOIN pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = q.id AND p.state = 1 AND p.lease_owner <> :owner
  AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = p.lease_owner)

-- name: pending_standing
SELECT seq, state, lease_epoch, cancel_at, queue
FROM pending
WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(:seqs AS json)) AS k(value))

-- name: pending_finish
DELETE FROM pending
WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(:seqs AS json)) AS k(value))

-- name: pending_lease
UPDATE pending
SET state = 1, attempt = attempt + 1, lease_epoch = lease_epoch + 1, lease_owner = :owner, lease_until = :until,
    started_at = :now
WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(:seqs AS json)) AS k(value))

-- name: pending_called_off
-- Of a node's own. What lost its queue runs to its end, and so do messages that are no tasks.
SELECT p.seq
FROM pending p
JOIN messages m ON m.seq = p.seq
JOIN queues q ON q.id = p.queue
WHERE p.lease_owner = :owner AND p.cancel_at IS NOT NULL AND p.state = 1
  AND m.task_id IS NOT NULL AND NOT (q.kind = 1 AND m.queue IS NOT NULL)

-- name: claim_for_others
SELECT 1
FROM pending
WHERE queue = :queue AND state = 0 AND app IS NOT NULL AND app IS DISTINCT FROM CAST(:app AS TEXT)
LIMIT 1
