-- Living grants whose consent has a known hard end, by the week (from Monday, UTC) in which that is.
SELECT tenant, connection, CAST(date_trunc('week', consent_expires_at AT TIME ZONE 'UTC') AS date) AS week,
    count(*) AS grants
FROM grants
WHERE tenant = ANY(:tenants) AND consent_expires_at > now() AND state IN ('active', 'in_doubt', 'unrenewable')
GROUP BY tenant, connection, week ORDER BY week, tenant, connection
