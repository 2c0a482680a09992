-- name: outbox_create
CREATE TABLE IF NOT EXISTS qtasks_outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  message TEXT NOT NULL,
  problem TEXT
)

-- name: outbox_leave
INSERT INTO qtasks_outbox (message)
SELECT value FROM json_each(:messages) ORDER BY key
RETURNING json_array_length(:messages)

-- name: outbox_turn
-- Nobody is kept out: what two processes send both is one message for the broker.
SELECT :turn

-- name: outbox_done
DELETE FROM qtasks_outbox
WHERE id IN (SELECT value FROM json_each(:ids))

-- name: inbox_create
CREATE TABLE IF NOT EXISTS qtasks_inbox (
  id TEXT PRIMARY KEY,
  result TEXT,
  created_at INTEGER NOT NULL
)
