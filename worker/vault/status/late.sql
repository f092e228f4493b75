-- Due renewals: those that are late, by how much, and those that something holds back. While a provider is away its
-- grants are both: nobody stopped them, and each waits for the probe.
SELECT count(*) FILTER (WHERE
\ir ../grants/is_late.sql
    ) AS grants,
    max(now() - next_renewal_at) FILTER (WHERE
\ir ../grants/is_late.sql
    ) AS behind,
    count(*) FILTER (WHERE blocked_until IS NOT NULL AND
\ir ../grants/is_late.sql
    ) AS away,
    count(*) FILTER (WHERE state = 'blocked') AS blocked, count(*) FILTER (WHERE state = 'paused') AS paused
FROM token_status WHERE tenant = ANY(:tenants) AND next_renewal_at < now() - interval '1 minute'
