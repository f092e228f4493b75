SELECT * FROM token_status
WHERE tenant = ANY(:tenants) AND id > :after
    AND (CAST(:user_id AS text) IS NULL OR id IN (SELECT id FROM grants WHERE user_id = :user_id))
    AND (CAST(:connection AS text) IS NULL OR connection = :connection)
    AND (CAST(:state AS text) IS NULL OR state = :state)
ORDER BY id LIMIT :limit
