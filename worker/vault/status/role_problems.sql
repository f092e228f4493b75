-- What is wrong with the roles of the vault and of its consumers: which kind, whose, and what.
WITH reading AS (
    SELECT r.oid, r.rolname, r.rolsuper, r.rolcreaterole, r.rolbypassrls, r.rolconnlimit FROM pg_roles r
    WHERE r.rolcanlogin AND r.rolname <> current_user AND (
        r.rolname IN (SELECT role FROM consumers)
        OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = to_regrole('vault_reader')))
), tables AS (
    SELECT c.oid, c.relname FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
), schema AS (
    SELECT oid, nspname, EXISTS (SELECT FROM aclexplode(nspacl) WHERE grantee = 0 AND privilege_type = 'CREATE') AS is_open
    FROM pg_namespace WHERE nspname = current_schema()
), excess AS (
    SELECT rolname, 'is a superuser' AS what FROM reading WHERE rolsuper
    UNION ALL SELECT rolname, 'may make roles' FROM reading WHERE rolcreaterole AND NOT rolsuper
    UNION ALL SELECT rolname, 'passes row security' FROM reading WHERE rolbypassrls AND NOT rolsuper
    UNION ALL SELECT rolname, 'may create in the schema ' || nspname FROM reading, schema
    WHERE NOT rolsuper AND NOT is_open AND has_schema_privilege(reading.oid, schema.oid, 'CREATE')
    -- A schema named after the workers' role would come before the vault's, with functions that they call.
    UNION ALL SELECT rolname, 'may create schemas' FROM reading
    WHERE NOT rolsuper AND has_database_privilege(reading.oid, current_database(), 'CREATE')
    UNION ALL SELECT rolname, 'is a member of ' || wider.role FROM reading, (VALUES ('vault_worker'), ('vault_operator')) AS wider (role)
    WHERE NOT rolsuper AND pg_has_role(reading.oid, to_regrole(wider.role)::oid, 'MEMBER')
    UNION ALL SELECT rolname, 'has rights on the table ' || relname FROM reading, tables
    WHERE NOT rolsuper AND NOT coalesce(pg_has_role(reading.oid, to_regrole('vault_worker')::oid, 'MEMBER'), false)
        AND (has_table_privilege(reading.oid, tables.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
            OR relname = 'grants' AND has_column_privilege(reading.oid, tables.oid, 'access_ciphertext', 'SELECT'))
)
SELECT 'missing' AS kind, name AS role, NULL AS what FROM unnest(CAST(:roles AS text[])) AS name WHERE to_regrole(name) IS NULL
UNION ALL SELECT 'superuser', rolname, NULL FROM pg_roles WHERE rolname = session_user AND rolsuper
UNION ALL SELECT 'absent', role, name FROM consumers WHERE role IS NOT NULL AND to_regrole(quote_ident(role)) IS NULL
UNION ALL SELECT 'open_schema', 'PUBLIC', nspname FROM schema WHERE is_open
UNION ALL SELECT 'excess', rolname, string_agg(what, ', ' ORDER BY what) FROM excess GROUP BY rolname
UNION ALL SELECT 'unlimited', rolname, NULL FROM reading WHERE rolconnlimit < 0 AND NOT rolsuper
ORDER BY kind, role
