SELECT * FROM token_status
WHERE tenant = ANY(:tenants) AND id > :after
    AND (CAST(:user_id AS text) IS NULL OR id IN (SELECT id FROM grants WHERE user_id = :user_id))
    AND (CAST(:connection AS text) IS NULL OR connection = :connection)
    AND (CAST(:state AS text) IS NULL OR :state =
        CASE WHEN state IN ('active', 'in_doubt', 'paused') AND expires_at <= now() THEN 'ended' ELSE state END)
ORDER BY id LIMIT :limit
