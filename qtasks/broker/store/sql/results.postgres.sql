-- name: result_settled
-- Of some tasks those that there is nothing to wait for: each has a result, or nothing pending.
SELECT k.value
FROM json_array_elements_text(CAST(:task_ids AS json)) AS k(value)
WHERE EXISTS (SELECT 1 FROM results r WHERE r.task_id = k.value AND r.expires_at > :now)
   OR NOT EXISTS (SELECT 1
                  FROM pending p
                  WHERE p.seq = (SELECT max(m.seq) FROM messages m WHERE m.task_id = k.value))
