SELECT at, source, consumer, role, tenant, connection, user_id, account, outcome, request_id, reason, reads
FROM audit_records
WHERE (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
    AND (CAST(:consumer AS text) IS NULL OR consumer = :consumer)
    AND (CAST(:connection AS text) IS NULL OR connection = :connection)
    AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
ORDER BY at DESC, id DESC LIMIT :limit
