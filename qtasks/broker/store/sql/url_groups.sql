-- name: url_group_find
SELECT name, endpoints, headers, created_at, updated_at
FROM url_groups
WHERE name = :name

-- name: url_group_list
SELECT name, endpoints, headers, created_at, updated_at
FROM url_groups
ORDER BY name

-- name: url_group_save
INSERT INTO url_groups (name, endpoints, headers, created_at, updated_at)
VALUES (:name, :endpoints, :headers, :now, :now)
ON CONFLICT (name) DO UPDATE SET endpoints = excluded.endpoints, headers = excluded.headers,
  updated_at = excluded.updated_at

-- name: url_group_delete
DELETE FROM url_groups
WHERE name = :name

-- name: url_group_count
SELECT count(*)
FROM url_groups
