-- A batch takes seconds: what was due less than a minute ago is on time.
SELECT count(*) AS grants, max(now() - next_renewal_at) AS behind FROM token_status
WHERE tenant = ANY(:tenants) AND
\ir ../grants/is_late.sql
