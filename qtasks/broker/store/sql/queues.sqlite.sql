-- Finding a text in another has a name of its own in each database.

-- name: flow_list
SELECT q.name, q.parallelism, q.rate, q.period_ms, q.window_at, q.window_count, q.pins, q.paused,
       (SELECT count(*) FROM pending p WHERE p.queue = q.id AND p.state = 0),
       (SELECT count(*) FROM pending p WHERE p.queue = q.id AND p.state = 1)
FROM queues q
WHERE q.kind = 2 AND (CAST(:name AS TEXT) IS NULL OR q.name = :name)
  AND (:search = '' OR instr(substr(q.name, :from), :search) > 0)
ORDER BY q.name
