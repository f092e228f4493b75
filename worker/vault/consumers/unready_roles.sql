-- Roles that consumers name, and which are not there, or may not read through the views.
SELECT c.role, r.oid IS NOT NULL FROM consumers c LEFT JOIN pg_roles r ON r.rolname = c.role
WHERE c.role IS NOT NULL AND (
    r.oid IS NULL
    OR NOT has_table_privilege(r.oid, to_regclass('served_tokens'), 'SELECT')
    OR NOT has_table_privilege(r.oid, to_regclass('token_status'), 'SELECT')
    OR NOT has_function_privilege(r.oid, to_regprocedure('record_reads(jsonb)'), 'EXECUTE'))
ORDER BY c.role
