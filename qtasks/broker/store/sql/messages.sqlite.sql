-- name: message_last_seq
-- One process writes a SQLite file, so numbers read here are ours until we commit.
SELECT coalesce(max(seq), 0)
FROM sqlite_sequence
WHERE name = 'messages'
