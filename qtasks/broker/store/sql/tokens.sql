-- name: token_insert
INSERT INTO tokens (name, digest, scope, created_at)
VALUES (:name, :digest, :scope, :created_at)
ON CONFLICT (name) DO NOTHING

-- name: token_list
SELECT name, digest, scope, created_at
FROM tokens
ORDER BY name

-- name: token_delete
DELETE FROM tokens
WHERE name = :name
