-- Grants of a scope by why an export leaves them out, and those that it writes though their connection has a problem.
SELECT why, tenant, connection, problem_message, count(*) FROM (
    SELECT
\ir left_out.sql
        AS why, g.tenant, g.connection, c.problem_message
    FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection
    WHERE g.state <> 'erased'
        AND (:tenant = '' OR g.tenant = :tenant) AND (:connection = '' OR g.connection = :connection)
) judged
WHERE why IS NOT NULL OR problem_message IS NOT NULL
GROUP BY why, tenant, connection, problem_message ORDER BY tenant, connection, why
