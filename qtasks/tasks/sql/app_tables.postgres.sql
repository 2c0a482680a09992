-- name: outbox_create
CREATE TABLE IF NOT EXISTS qtasks_outbox (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message TEXT NOT NULL,
  problem TEXT
)

-- name: outbox_leave
-- The wake-up comes with the caller's commit.
WITH left_there AS (
  INSERT INTO qtasks_outbox (message)
  SELECT CAST(each.value AS TEXT)
  FROM json_array_elements(CAST(:messages AS JSON)) WITH ORDINALITY AS each (value, place)
  ORDER BY each.place
  RETURNING id
)
SELECT count(*), pg_notify('qtasks_outbox', '') FROM left_there

-- name: outbox_turn
-- One process relays at a time, so that the order is kept; it lets go at its commit, or when it dies.
SELECT pg_try_advisory_xact_lock(:turn)

-- name: outbox_listen
LISTEN qtasks_outbox

-- name: outbox_done
DELETE FROM qtasks_outbox
WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(:ids AS JSON)) AS each (value))

-- name: inbox_create
CREATE TABLE IF NOT EXISTS qtasks_inbox (
  id TEXT PRIMARY KEY,
  result TEXT,
  created_at BIGINT NOT NULL
)
