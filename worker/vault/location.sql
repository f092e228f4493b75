-- What differs between the recorded location and this database; null where the vault is at home.
-- A promoted standby keeps all three. A dump that is restored writes the row in a transaction of its own, so that its
-- xmin is not the recorded one, also where the cluster cannot be told.
SELECT CASE
    WHEN recorded.is_only IS NULL THEN 'unrecorded'
    WHEN recorded.system_identifier <> here.system_identifier THEN 'cluster'
    WHEN recorded.database_oid <> here.database_oid THEN 'database'
    WHEN recorded.recorded_by <> CAST(CAST(recorded.xmin AS text) AS bigint) THEN 'restored'
END AS difference
FROM (
    SELECT CAST(oid AS bigint) AS database_oid, cluster_identifier() AS system_identifier
    FROM pg_database WHERE datname = current_database()
) here
LEFT JOIN vault_location recorded ON true
