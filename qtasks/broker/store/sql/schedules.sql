-- name: schedule_save
INSERT INTO schedules (id, cron, destination, options, body, caller_ip, created_at, next_at)
VALUES (:id, :cron, :destination, :options, :body, :caller_ip, :now, :next_at)
ON CONFLICT (id) DO UPDATE SET cron = excluded.cron, destination = excluded.destination,
  options = excluded.options, body = excluded.body, caller_ip = excluded.caller_ip, paused = 0,
  next_at = excluded.next_at, error = NULL

-- name: schedule_find
SELECT id, cron, destination, options, body, caller_ip, created_at, paused, next_at, last_at, last_messages, error
FROM schedules
WHERE id = :id

-- name: schedule_list
SELECT id, cron, destination, options, body, caller_ip, created_at, paused, next_at, last_at, last_messages, error
FROM schedules
ORDER BY id

-- name: schedule_due
SELECT id, cron, destination, options, body, caller_ip, created_at, paused, next_at, last_at, last_messages, error
FROM schedules
WHERE next_at <= :now AND paused = 0
ORDER BY next_at
LIMIT :count

-- name: schedule_next
SELECT next_at
FROM schedules
WHERE next_at IS NOT NULL AND paused = 0
ORDER BY next_at
LIMIT 1

-- name: schedule_take_turn
-- Whoever moves a schedule on makes the messages of that fire; nobody else does (promise P15).
UPDATE schedules
SET next_at = :next_at
WHERE id = :id AND next_at = :was AND paused = 0

-- name: schedule_tell_run
UPDATE schedules
SET last_at = :at, last_messages = :messages, error = :error
WHERE id = :id

-- name: schedule_tell_skipped
UPDATE schedules
SET error = :reason
WHERE id = :id

-- name: schedule_pause
UPDATE schedules
SET paused = :paused, next_at = coalesce(:next_at, next_at)
WHERE id = :id

-- name: schedule_delete
DELETE FROM schedules
WHERE id = :id

-- name: schedule_count
SELECT count(*)
FROM schedules

-- name: schedule_run_state
SELECT EXISTS (SELECT 1 FROM pending p WHERE p.seq = m.seq),
       (SELECT l.kind FROM log l WHERE l.message = m.seq ORDER BY l.epoch DESC LIMIT 1)
FROM messages m
WHERE m.id = :id
