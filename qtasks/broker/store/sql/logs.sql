-- A page of the log is put together from sources that are each read newest first by an index:
-- messages (CREATED), ends of attempts, starts of attempts (ACTIVE), and what is in flight.

-- name: log_insert
-- A late success replaces what was recorded when its lease was given up for lost.
INSERT INTO log (message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error,
                 headers, body)
VALUES (:message, :epoch, :kind, :started_at, :ended_at, :next_at, :cancel_at, :status, :error,
        :headers, :body)
ON CONFLICT (message, epoch) DO UPDATE SET kind = excluded.kind, ended_at = excluded.ended_at,
  next_at = excluded.next_at, status = excluded.status, error = excluded.error, headers = excluded.headers,
  body = excluded.body

-- name: log_created
SELECT seq, created_at
FROM messages
WHERE seq <= :created_seq
ORDER BY seq DESC
LIMIT :count

-- name: log_body
SELECT body
FROM log
WHERE message = :seq AND epoch = :epoch

-- name: log_ended
-- Large bodies are left where they are, here and below: there may be no room for all of them at once.
SELECT message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error, headers,
       CASE WHEN length(body) <= 65536 THEN body END, length(body) > 65536
FROM log
WHERE (ended_at, message, epoch) <= (:time, :seq, :epoch)
ORDER BY ended_at DESC, message DESC, epoch DESC
LIMIT :count

-- name: log_started
SELECT message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error, headers,
       CASE WHEN length(body) <= 65536 THEN body END, length(body) > 65536
FROM log
WHERE (started_at, message, epoch) <= (:time, :seq, :epoch)
ORDER BY started_at DESC, message DESC, epoch DESC
LIMIT :count

-- name: log_cancelled
SELECT message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error, headers,
       CASE WHEN length(body) <= 65536 THEN body END, length(body) > 65536
FROM log
WHERE cancel_at IS NOT NULL AND (cancel_at, message, epoch) <= (:time, :seq, :epoch)
ORDER BY cancel_at DESC, message DESC, epoch DESC
LIMIT :count

-- name: log_active
SELECT p.seq, p.lease_epoch, p.started_at, p.cancel_at
FROM queues q
CROSS JOIN pending p
WHERE p.queue = q.id AND p.state = 1

-- name: active_count
SELECT count(*)
FROM queues q
CROSS JOIN pending p
WHERE p.queue = q.id AND p.state = 1

-- name: log_of_message
SELECT message, epoch, kind, started_at, ended_at, next_at, cancel_at, status, error, headers,
       CASE WHEN length(body) <= 65536 THEN body END, length(body) > 65536
FROM log
WHERE message = :seq
ORDER BY epoch

-- name: log_active_of_message
SELECT seq, lease_epoch, started_at, cancel_at
FROM pending
WHERE seq = :seq AND state = 1

-- name: log_seq_of_message
SELECT seq, created_at
FROM messages
WHERE id = :id

-- name: log_message
SELECT id, queue, url, method, headers, body, created_at, not_before, max_retries, retry_delay,
       timeout_ms, labels, caller_ip, extras
FROM messages
WHERE seq = :seq
