-- A transaction that is still open may yet add records of a lower number: what is below all open ones is complete.
SELECT xact, id, at, source, consumer, role, tenant, connection, user_id, account, outcome, request_id, reason, reads
FROM audit_records
WHERE (xact, id) > (:shipped_xact, :shipped_id)
    AND xact < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
ORDER BY xact, id LIMIT :limit
