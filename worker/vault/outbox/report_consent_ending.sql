-- One range of the partial index for each connection: it costs what is due.
WITH ending AS (
    SELECT g.id FROM connections c CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = c.tenant AND grants.connection = c.name
            AND consent_report_due_at <= CAST(:now AS timestamptz)
        ORDER BY consent_report_due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) g
    WHERE c.tenant = ANY(:tenants) LIMIT :limit
)
UPDATE grants SET consent_reported_days = CASE
    WHEN consent_expires_at <= CAST(:now AS timestamptz) + interval '1 day' THEN 1
    WHEN consent_expires_at <= CAST(:now AS timestamptz) + interval '7 days' THEN 7
    ELSE 30 END
FROM ending WHERE grants.id = ending.id RETURNING grants.id
