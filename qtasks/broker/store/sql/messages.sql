-- Accepting, claiming and settling messages. States of a pending row: 0 ready, 1 active,
-- 2 waiting for its instant, 3 the same but keeping its place in an ordered queue.

-- name: look_around
-- What storing one message must know before, in one statement: who has its deduplication key, and of whom
-- its task's id is the key (that needs no second row: two indexes have it between them); its queue; the
-- newest message.
SELECT 0, d.key, d.message_id, m.task_id, p.state, p.attempt, 0, 0, 0, m.extras
FROM dedup AS d
LEFT JOIN messages AS m ON m.id = d.message_id
LEFT JOIN pending AS p ON p.seq = m.seq
WHERE d.key = :key AND d.expires_at > :now
UNION ALL
SELECT 1, m.task_id, m.id, NULL, m.seq, m.created_at, 0, 0, 0, NULL
FROM messages AS m
WHERE m.id = 'msg_' || substr(:dedup_id, 5)
UNION ALL
SELECT 1, m.task_id, m.id, NULL, m.seq, m.created_at, 0, 0, 0, NULL
FROM messages AS m
WHERE m.task_id = :dedup_id AND substr(m.task_id, 5) <> substr(m.id, 5)
UNION ALL
SELECT 2, q.name, NULL, NULL, q.id, q.parallelism, q.ordered, q.paused, CASE WHEN q.turn IS NULL THEN 0 ELSE 1 END, NULL
FROM queues AS q
WHERE q.name = :queue
UNION ALL
SELECT 3, NULL, NULL, NULL, m.seq, m.created_at, 0, 0, 0, NULL
FROM messages AS m
WHERE m.seq = (SELECT max(seq) FROM messages)

-- name: dedup_insert
INSERT INTO dedup (key, message_id, expires_at)
VALUES (:key, :message_id, :expires_at)
ON CONFLICT (key) DO UPDATE SET message_id = excluded.message_id, expires_at = excluded.expires_at

-- name: pending_due
SELECT p.seq, p.queue, q.ordered
FROM pending p
JOIN queues q ON q.id = p.queue
WHERE p.state >= 2 AND p.due_at <= :now
ORDER BY p.due_at
LIMIT :count

-- name: pending_promote
UPDATE pending
SET state = 0, due_at = CASE WHEN :ordered = 1 THEN 0 ELSE due_at END
WHERE seq = :seq

-- name: pending_shift_retries
UPDATE pending
SET due_at = due_at + :by_ms
WHERE state >= 2 AND due_at > 0 AND attempt > 0

-- name: pending_hasten
UPDATE pending
SET due_at = :now
WHERE state >= 2 AND due_at > :now

-- name: claim_outlook
-- The next instants of messages and of queues, and whether anything stands in line.
SELECT (SELECT due_at FROM pending WHERE state >= 2 ORDER BY due_at LIMIT 1),
       (SELECT wake_at FROM queues WHERE wake_at IS NOT NULL ORDER BY wake_at LIMIT 1),
       (SELECT 1 FROM queues WHERE turn IS NOT NULL AND paused = 0 AND is_full = 0 ORDER BY turn LIMIT 1)

-- name: queue_taken
-- Active ones; in an ordered queue also those that wait for a retry (:held is 3 there, else 1 again). And
-- finished ones whose callbacks are not.
SELECT (SELECT count(*) FROM pending WHERE queue = :queue AND state IN (1, :held)),
       (SELECT count(DISTINCT source) FROM pending WHERE slot_queue = :queue)

-- name: pending_keep_slot
-- A message has finished: its callbacks that have not keep its slot.
UPDATE pending
SET slot_queue = :queue
WHERE source = :source

-- name: pending_slot
SELECT slot_queue
FROM pending
WHERE seq = :seq

-- name: pending_forget_slots
UPDATE pending
SET slot_queue = NULL
WHERE slot_queue = :queue

-- name: claim_ready
-- Large bodies are left where they are: there may be no room for all of them at once.
SELECT p.seq, p.attempt, p.lease_epoch, p.interrupted, p.guard_until,
       p.app, m.id, m.task_id, m.queue, m.url, m.method, m.headers,
       CASE WHEN length(m.body) <= 65536 THEN m.body END, m.created_at,
       m.max_retries, m.retry_delay, m.timeout_ms, m.caller_ip, m.result_ttl_ms, m.not_before, m.extras, p.source,
       CASE WHEN length(m.body) > 65536 THEN length(m.body) ELSE 0 END
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = :queue AND p.state = 0 AND (p.app IS NULL OR p.app = :app)
ORDER BY p.due_at, p.seq
LIMIT :count

-- name: claim_ready_skipping_suspects
SELECT p.seq, p.attempt, p.lease_epoch, p.interrupted, p.guard_until,
       p.app, m.id, m.task_id, m.queue, m.url, m.method, m.headers,
       CASE WHEN length(m.body) <= 65536 THEN m.body END, m.created_at,
       m.max_retries, m.retry_delay, m.timeout_ms, m.caller_ip, m.result_ttl_ms, m.not_before, m.extras, p.source,
       CASE WHEN length(m.body) > 65536 THEN length(m.body) ELSE 0 END
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = :queue AND p.state = 0 AND (p.app IS NULL OR p.app = :app) AND p.interrupted < 2
ORDER BY p.due_at, p.seq
LIMIT :count

-- name: claim_ahead
-- Who is ready, and where they lead, without reading what they carry.
SELECT p.seq, m.url, p.app, p.interrupted, p.due_at
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = :queue AND p.state = 0 AND (p.app IS NULL OR p.app = :app)
ORDER BY p.due_at, p.seq
LIMIT :count

-- name: pending_put_back
UPDATE pending
SET due_at = :due_at
WHERE seq = :seq

-- name: message_body
SELECT body
FROM messages
WHERE seq = :seq

-- name: pending_again
UPDATE pending
SET state = :state, due_at = :due_at, attempt = :attempt, interrupted = :interrupted, guard_until = :guard_until,
    lease_owner = NULL, lease_until = NULL, started_at = NULL
WHERE seq = :seq

-- name: pending_of_message
SELECT p.seq, p.queue, p.state, p.attempt, p.lease_epoch, p.cancel_at, m.task_id, m.result_ttl_ms, m.created_at,
       p.slot_queue, m.queue IS NOT NULL AND m.extras IS NOT NULL
FROM messages m
JOIN pending p ON p.seq = m.seq
WHERE m.id = :id

-- name: pending_page
-- What filters look at, without bodies.
SELECT m.seq, m.id, m.queue, m.url, m.method, m.headers, :nothing, m.created_at, m.not_before, m.max_retries,
       m.retry_delay, m.timeout_ms, m.labels, m.caller_ip, m.extras
FROM pending p
JOIN messages m ON m.seq = p.seq
WHERE p.seq > :after AND p.cancel_at IS NULL
ORDER BY p.seq
LIMIT :count

-- name: message_call
-- Only of what has a task id: other bodies are nothing that this broker understands.
SELECT body
FROM messages
WHERE seq = :seq AND task_id IS NOT NULL

-- name: pending_request_cancel
UPDATE pending
SET cancel_at = :now
WHERE seq = :seq

-- name: pending_delete
DELETE FROM pending
WHERE seq = :seq

-- name: message_by_id
SELECT m.id, m.queue, m.url, m.method, m.headers, m.body, m.created_at, m.not_before,
       m.max_retries, m.retry_delay, m.timeout_ms, m.labels, m.caller_ip, m.extras, p.state,
       (SELECT max(l.ended_at) FROM log l WHERE l.message = m.seq)
FROM messages m
LEFT JOIN pending p ON p.seq = m.seq
WHERE m.id = :id

-- name: message_prune_candidates
-- A message is as old as its last attempt: 1 for what may go, 0 for what stays. Of one that was made later, NULL,
-- nothing else is looked up: what follows it was made later too.
SELECT m.seq,
       CASE WHEN m.created_at > :before THEN NULL
            WHEN EXISTS (SELECT 1 FROM pending p WHERE p.seq = m.seq) THEN 0
            WHEN EXISTS (SELECT 1 FROM dead_letters d WHERE d.message = m.seq) THEN 0
            WHEN (SELECT max(l.ended_at) FROM log l WHERE l.message = m.seq) > :before THEN 0
            ELSE 1 END
FROM messages m
WHERE m.seq > :after
ORDER BY m.seq
LIMIT :count

-- name: message_delete
DELETE FROM messages
WHERE seq = :seq

-- name: log_delete
DELETE FROM log
WHERE message = :seq

-- name: dedup_walk
-- Pruning walks along the key, which spares every enqueue an index by time.
SELECT d.key, d.expires_at,
       d.expires_at = :no_window AND EXISTS
       (SELECT 1 FROM messages m JOIN pending p ON p.seq = m.seq WHERE m.id = d.message_id)
FROM dedup d
WHERE d.key > :after
ORDER BY d.key
LIMIT :count

-- name: dedup_delete
DELETE FROM dedup
WHERE key = :key

-- name: message_newest
SELECT seq, created_at
FROM messages
WHERE seq <= :seq
ORDER BY seq DESC
LIMIT 1

-- name: pending_own
-- By way of the queues, so that a large backlog is not read: the index begins with queue and state.
SELECT q.id, q.ordered, p.started_at,
       p.seq, p.attempt - 1, p.lease_epoch - 1, p.interrupted, p.guard_until, p.app,
       m.id, m.task_id, m.queue, m.url, m.method, m.headers, m.body, m.created_at,
       m.max_retries, m.retry_delay, m.timeout_ms, m.caller_ip, m.result_ttl_ms, m.not_before, m.extras, p.source, 0
FROM queues q
CROSS JOIN pending p
JOIN messages m ON m.seq = p.seq
WHERE p.queue = q.id AND p.state = 1 AND p.lease_owner = :owner
