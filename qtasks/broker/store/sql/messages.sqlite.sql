-- The messages of a call are looked up together: a statement for each would cost as much as storing it.

-- name: dedup_find
SELECT d.key, d.message_id, m.task_id, p.state, p.attempt, m.extras
FROM json_each(:keys) AS k
CROSS JOIN dedup AS d ON d.key = k.value
LEFT JOIN messages AS m ON m.id = d.message_id
LEFT JOIN pending AS p ON p.seq = m.seq
WHERE d.expires_at > :now

-- name: dedup_find_tasks
-- A task's id is its deduplication id too, and no second row is kept for it: two indexes have it between them.
SELECT m.seq, m.task_id, m.id, m.created_at
FROM json_each(:task_ids) AS k
CROSS JOIN messages AS m ON m.id = 'msg_' || substr(k.value, 5)
UNION ALL
SELECT m.seq, m.task_id, m.id, m.created_at
FROM json_each(:task_ids) AS k
CROSS JOIN messages AS m ON m.task_id = k.value AND substr(m.task_id, 5) <> substr(m.id, 5)

-- name: look_for_key
-- The first half of `look_around`, for the one writer that knows the rest.
SELECT 0, d.key, d.message_id, m.task_id, p.state, p.attempt, m.extras
FROM dedup AS d
LEFT JOIN messages AS m ON m.id = d.message_id
LEFT JOIN pending AS p ON p.seq = m.seq
WHERE d.key = :key AND d.expires_at > :now
UNION ALL
SELECT 1, m.task_id, m.id, NULL, m.seq, m.created_at, NULL
FROM messages AS m
WHERE m.id = 'msg_' || substr(:dedup_id, 5)
UNION ALL
SELECT 1, m.task_id, m.id, NULL, m.seq, m.created_at, NULL
FROM messages AS m
WHERE m.task_id = :dedup_id AND substr(m.task_id, 5) <> substr(m.id, 5)

-- name: message_insert
-- Two statements: each is run for all rows.
INSERT INTO messages (seq, id, task_id, queue, url, method, headers, body, created_at, not_before,
                      max_retries, retry_delay, timeout_ms, labels, caller_ip, result_ttl_ms, extras)
VALUES (:seq, :id, :task_id, :queue, :url, :method, :headers, :body, :created_at, :not_before,
        :max_retries, :retry_delay, :timeout_ms, :labels, :caller_ip, :result_ttl_ms, :extras);
INSERT INTO pending (seq, queue, app, state, due_at, source)
VALUES (:seq, :place, :app, :state, :due_at, :source)

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

-- name: pending_standing
SELECT seq, state, lease_epoch, cancel_at, queue
FROM pending
WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: pending_finish
DELETE FROM pending
WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: pending_lease
UPDATE pending
SET state = 1, attempt = attempt + 1, lease_epoch = lease_epoch + 1, lease_owner = :owner, lease_until = :until,
    started_at = :now
WHERE seq IN (SELECT value FROM json_each(:seqs))
