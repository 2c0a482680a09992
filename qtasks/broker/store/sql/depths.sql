-- How deep the queues are. Each count ends at :most rows of an index.

-- name: depth_list
SELECT q.id, q.name, q.kind, q.paused,
       (SELECT count(*)
        FROM (SELECT 1 FROM pending p WHERE p.queue = q.id AND p.state = 0 LIMIT :most) AS few),
       (SELECT count(*)
        FROM (SELECT 1 FROM pending p WHERE p.queue = q.id AND p.state = 1 LIMIT :most) AS few),
       (SELECT count(*)
        FROM (SELECT 1 FROM pending p WHERE p.queue = q.id AND p.state >= 2 LIMIT :most) AS few),
       (SELECT CASE WHEN p.due_at > m.created_at THEN p.due_at ELSE m.created_at END
        FROM pending p
        JOIN messages m ON m.seq = p.seq
        WHERE p.queue = q.id AND p.state = 0
        ORDER BY p.due_at, p.seq
        LIMIT 1)
FROM queues q
ORDER BY q.id
LIMIT :count

-- name: depth_rest
-- Of all queues after these, by the index that begins with the queue.
SELECT coalesce(sum(CASE WHEN few.state = 0 THEN 1 END), 0), coalesce(sum(CASE WHEN few.state = 1 THEN 1 END), 0),
       coalesce(sum(CASE WHEN few.state >= 2 THEN 1 END), 0)
FROM (SELECT p.state FROM pending p WHERE p.queue > :after LIMIT :most) AS few

-- name: depth_dead
SELECT count(*)
FROM (SELECT 1 FROM dead_letters LIMIT :most) AS few
