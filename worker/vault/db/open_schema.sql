-- What closes the vault's schema where everybody may create in it, as in schemas public of Postgres before 15, also
-- after an upgrade: a function of theirs could stand in for one that workers call. Who migrates needs the right itself.
WITH open_schema AS (
    SELECT n.oid, n.nspname, n.nspacl FROM pg_namespace n
    WHERE n.nspname = current_schema() AND EXISTS (
        SELECT FROM aclexplode(n.nspacl) WHERE grantee = 0 AND privilege_type = 'CREATE')
)
SELECT format('GRANT CREATE ON SCHEMA %I TO %I', nspname, current_user) FROM open_schema
UNION ALL SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', nspname) FROM open_schema
