-- What is in a store: whole counts, which a running broker never makes.

-- name: messages
SELECT count(*) FROM messages

-- name: ready
SELECT count(*) FROM pending WHERE state = 0

-- name: active
SELECT count(*) FROM pending WHERE state = 1

-- name: waiting
SELECT count(*) FROM pending WHERE state >= 2

-- name: dead_letters
SELECT count(*) FROM dead_letters

-- name: log_entries
SELECT count(*) FROM log

-- name: results
SELECT count(*) FROM results

-- name: deduplication_ids
SELECT count(*) FROM dedup

-- name: queues
SELECT count(*) FROM queues WHERE kind = 0

-- name: flow_control_keys
SELECT count(*) FROM queues WHERE kind = 2

-- name: schedules
SELECT count(*) FROM schedules

-- name: url_groups
SELECT count(*) FROM url_groups
