-- What must hold in every store, whoever wrote last: each gives examples of where it does not.

-- name: unfinished messages without content
SELECT p.seq
FROM pending p
LEFT JOIN messages m ON m.seq = p.seq
WHERE m.seq IS NULL
LIMIT :most

-- name: unfinished messages of a queue that is not there
SELECT p.seq
FROM pending p
LEFT JOIN queues q ON q.id = p.queue
WHERE q.id IS NULL
LIMIT :most

-- name: unfinished messages in no known state
SELECT seq
FROM pending
WHERE state NOT IN (0, 1, 2, 3)
LIMIT :most

-- name: deliveries in flight that no node has leased
SELECT seq
FROM pending
WHERE state = 1 AND (lease_owner IS NULL OR lease_until IS NULL OR started_at IS NULL)
LIMIT :most

-- name: messages that wait and are leased
SELECT seq
FROM pending
WHERE state <> 1 AND lease_owner IS NOT NULL
LIMIT :most

-- name: dead letters without content
SELECT d.message
FROM dead_letters d
LEFT JOIN messages m ON m.seq = d.message
WHERE m.seq IS NULL
LIMIT :most

-- name: dead letters that are also to be delivered
SELECT d.message
FROM dead_letters d
JOIN pending p ON p.seq = d.message
LIMIT :most

-- name: entries of the log without a message
SELECT l.message
FROM log l
LEFT JOIN messages m ON m.seq = l.message
WHERE m.seq IS NULL
LIMIT :most

-- name: messages that were created after one with a higher number
SELECT seq
FROM (SELECT seq, created_at, lag(created_at) OVER (ORDER BY seq) AS before_at FROM messages) AS pairs
WHERE before_at > created_at
LIMIT :most
