-- Grants by state; a token that could be renewed and has ended is counted as ended.
SELECT
\ir ../grants/counted_state.sql
    AS counted_as, count(*)
FROM token_status WHERE tenant = ANY(:tenants) GROUP BY counted_as ORDER BY counted_as
