INSERT INTO users_to_sync (tenant, user_id)
SELECT DISTINCT :tenant, e.user_id
FROM exported e LEFT JOIN (
    SELECT user_id, min(coalesce(observed_updated_at, '-infinity')) AS shown,
        bool_or(missing_since < :until) AS seems_gone
    FROM grants
    WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' GROUP BY user_id
) held ON held.user_id = e.user_id
WHERE e.updated_at IS NULL OR e.updated_at > coalesce(held.shown, :since) OR held.seems_gone
ON CONFLICT DO NOTHING
