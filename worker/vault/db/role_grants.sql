-- The statements that give the vault's roles their rights, in order; each role first loses what it had.
-- A worker may do to the tables what its work needs: it cannot say who reads what, change what was recorded of reads,
-- or remove the vault's own secrets. A role may be missing, where whoever migrates may not make it: then all that it
-- needs is here too, for the operator to run.
WITH roles AS (
    SELECT rolname, to_regrole(rolname) AS oid
    FROM (VALUES ('vault_worker'), ('vault_reader'), ('vault_operator')) AS names (rolname)
), here AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = current_schema()
), relations AS (
    SELECT c.oid, c.relname, format('%I.%I', h.nspname, c.relname) AS name, c.relkind
    FROM pg_class c JOIN here h ON h.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
), functions AS (
    SELECT p.proname, p.oid::regprocedure::text AS name FROM pg_proc p JOIN here h ON h.oid = p.pronamespace
    WHERE p.prosecdef
), wanted AS (
    SELECT 'vault_worker' AS role, 3 AS step,
        CASE
            WHEN relname IN ('alembic_version', 'consumers', 'audit_state') OR relkind = 'v' THEN 'SELECT'
            WHEN relname = 'audit_records' THEN 'SELECT, INSERT'
            WHEN relname = 'vault_secrets' THEN 'SELECT, INSERT, UPDATE'
            ELSE 'SELECT, INSERT, UPDATE, DELETE'
        END || ' ON ' || name AS privilege
    FROM relations
    UNION ALL SELECT 'vault_worker', 4, 'UPDATE (shipped_xact, shipped_id) ON ' || name
    FROM relations WHERE relname = 'audit_state'
    UNION ALL SELECT 'vault_worker', 5, 'EXECUTE ON FUNCTION ' || name FROM functions
    UNION ALL SELECT 'vault_reader', 3, 'SELECT ON ' || name FROM relations
    WHERE relkind = 'v' AND (relname LIKE 'served\_%' OR relname = 'token_status')
    UNION ALL SELECT 'vault_reader', 5, 'EXECUTE ON FUNCTION ' || name FROM functions
    WHERE proname IN ('record_reads', 'report_rejected', 'request_refresh')
    UNION ALL SELECT 'vault_operator', 3,
        CASE WHEN relname = 'consumers' THEN 'SELECT, INSERT, UPDATE, DELETE' ELSE 'SELECT' END || ' ON ' || name
    FROM relations WHERE relname IN (
        'alembic_version', 'audit_records', 'audit_state', 'consumers', 'deliveries', 'outbox', 'pauses', 'renewal_counts', 'sync_runs',
        'token_status')
    UNION ALL SELECT 'vault_operator', 4, 'UPDATE (keep) ON ' || name FROM relations WHERE relname = 'audit_state'
    -- Whoever may read the ids of grants sees all rows of token_status.
    UNION ALL SELECT 'vault_operator', 4, 'SELECT (id) ON ' || name FROM relations WHERE relname = 'grants'
)
SELECT statement FROM (
    SELECT rolname AS role, 1 AS step, format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', nspname, rolname) AS statement
    FROM roles, here WHERE roles.oid IS NOT NULL
    UNION ALL SELECT rolname, 1, format('REVOKE ALL ON ALL ROUTINES IN SCHEMA %I FROM %I', nspname, rolname) FROM roles, here
    WHERE roles.oid IS NOT NULL
    UNION ALL SELECT rolname, 2, format('GRANT USAGE ON SCHEMA %I TO %I', nspname, rolname) FROM roles, here
    UNION ALL SELECT role, step, format('GRANT %s TO %I', privilege, role) FROM wanted
    -- Where connections are reserved, they are so for those that renew.
    UNION ALL SELECT rolname, 6, format('GRANT pg_use_reserved_connections TO %I', rolname) FROM roles
    WHERE rolname = 'vault_worker' AND current_setting('reserved_connections', true)::integer > 0
        AND (oid IS NULL OR NOT pg_has_role(oid, 'pg_use_reserved_connections', 'USAGE'))
) statements
ORDER BY role, step, statement
