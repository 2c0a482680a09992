-- name: dead_letter_insert
INSERT INTO dead_letters (message, died_at, attempts, status, error, headers, body)
VALUES (:message, :died_at, :attempts, :status, :error, :headers, :body)

-- name: dead_letter_page
-- Large bodies are left where they are: there may be no room for all of them at once.
SELECT d.message, d.died_at, d.attempts, d.status, d.error, d.headers,
       CASE WHEN length(d.body) <= 65536 THEN d.body END
FROM dead_letters d
WHERE d.died_at < :before_at OR (d.died_at = :before_at AND d.message < :before_seq)
ORDER BY d.died_at DESC, d.message DESC
LIMIT :count

-- name: dead_letter_find
SELECT d.message, d.died_at, d.attempts, d.status, d.error, d.headers, d.body
FROM dead_letters d
WHERE d.message = :message AND d.died_at = :died_at

-- name: dead_letter_body
SELECT body
FROM dead_letters
WHERE message = :message

-- name: dead_letter_prune
DELETE FROM dead_letters
WHERE message IN (SELECT message FROM dead_letters WHERE died_at <= :before ORDER BY died_at LIMIT :count)

-- name: dead_letter_delete
DELETE FROM dead_letters
WHERE message = :message

-- name: message_to_replay
SELECT id, task_id, queue, url, method, headers, body, created_at, max_retries, retry_delay, timeout_ms, labels,
       caller_ip, result_ttl_ms, extras
FROM messages
WHERE seq = :seq
