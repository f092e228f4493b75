-- A user without tokens has no row here, and is asked for only if changed since everybody was last read. A user who has
-- seemed gone for a while and is named all the same is asked for too, which takes the mark off.
INSERT INTO users_to_sync (tenant, user_id)
SELECT DISTINCT :tenant, e.user_id
FROM exported e LEFT JOIN (
    SELECT user_id, min(coalesce(observed_updated_at, '-infinity')) AS observed,
        bool_or(missing_since < :until) AS seems_gone
    FROM grants
    WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' GROUP BY user_id
) stored ON stored.user_id = e.user_id
WHERE e.updated_at IS NULL OR e.updated_at > coalesce(stored.observed, :since) OR stored.seems_gone
ON CONFLICT DO NOTHING
