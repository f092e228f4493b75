SELECT c.tenant, c.name, c.strategy, c.provider, c.problem, c.problem_message, c.notes, c.circuit_code, c.circuit_blame,
    c.circuit_opened_at, c.circuit_until, s.counted_as AS state, s.grants, s.next_expiry, s.without_access_token
FROM connections c
LEFT JOIN (
    SELECT tenant, connection,
\ir ../grants/counted_state.sql
        AS counted_as,
        count(*) AS grants, min(expires_at) FILTER (WHERE expires_at > now()) AS next_expiry,
        count(*) FILTER (WHERE last_error = 'no_access_token') AS without_access_token
    FROM token_status GROUP BY tenant, connection, counted_as
) s ON s.tenant = c.tenant AND s.connection = c.name
WHERE c.tenant = ANY(:tenants)
ORDER BY c.tenant, c.name, s.counted_as
