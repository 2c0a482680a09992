-- name: result_settled
-- Of some tasks those that there is nothing to wait for: each has a result, or nothing pending.
SELECT k.value
FROM json_array_elements_text(CAST(:task_ids AS json)) AS k(value)
WHERE EXISTS (SELECT 1 FROM results r WHERE r.task_id = k.value AND r.expires_at > :now)
   OR NOT EXISTS (SELECT 1
                  FROM pending p
                  WHERE p.seq = (SELECT max(seq)
                                 FROM (SELECT seq FROM messages
                                       WHERE id = 'msg_' || substr(k.value, 5) AND task_id = k.value
                                       UNION ALL
                                       SELECT seq FROM messages
                                       WHERE task_id = k.value AND substr(task_id, 5) <> substr(id, 5)) AS m))
