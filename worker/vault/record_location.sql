INSERT INTO vault_location (is_only, system_identifier, database_oid, recorded_at, recorded_by)
SELECT true, cluster_identifier(), oid, now(), mod(CAST(CAST(pg_current_xact_id() AS text) AS bigint), 4294967296)
FROM pg_database WHERE datname = current_database()
ON CONFLICT (is_only) DO UPDATE SET
    system_identifier = excluded.system_identifier, database_oid = excluded.database_oid,
    recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by
