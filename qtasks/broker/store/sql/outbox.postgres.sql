-- name: identity
SELECT id FROM identity

-- name: outbox_leave
-- On the caller's own connection, whatever its search_path is, so the schema is named. All in one round trip:
-- nothing is written where the database is another one, and the wake-up comes with the caller's commit.
WITH known AS (SELECT 1 FROM {schema}.identity WHERE id = CAST(:store AS TEXT)),
left_there AS (
  INSERT INTO {schema}.outbox (app, message)
  SELECT CAST(:app AS TEXT), CAST(each.value AS TEXT)
  FROM known, json_array_elements(CAST(:messages AS JSON)) WITH ORDINALITY AS each (value, place)
  ORDER BY each.place
  RETURNING id
)
SELECT count(*), pg_notify('{channel}', '{word}') FROM left_there

-- name: outbox_has_rows
SELECT 1 FROM outbox WHERE problem IS NULL LIMIT 1

-- name: outbox_take
-- Whoever takes holds the lock of writers, so no two nodes see the same rows. Callers only insert, and wait
-- for nobody.
DELETE FROM outbox
WHERE id IN (SELECT id FROM outbox WHERE problem IS NULL ORDER BY id LIMIT :count)
RETURNING id, app, message

-- name: outbox_set_aside
INSERT INTO outbox (id, app, message, problem)
OVERRIDING SYSTEM VALUE
VALUES (:id, :app, :message, :problem)
