-- One range of the index for each connection, but for those whose own event says it all.
-- A token that ended before its grant came to the vault is no news, and neither is one that ended long ago.
WITH ending AS (
    SELECT g.id FROM connections c CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = c.tenant AND grants.connection = c.name
            AND state = 'unrenewable' AND expiry_reported_version IS DISTINCT FROM access_version
            AND expires_at <= CAST(:ahead AS timestamptz) AND expires_at > CAST(:since AS timestamptz) AND expires_at > created_at
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) g
    WHERE c.tenant = ANY(:tenants) AND coalesce(c.problem IN ('not_shown', 'unsupported_strategy'), true) LIMIT :limit
)
UPDATE grants SET expiry_reported_version = access_version FROM ending WHERE grants.id = ending.id RETURNING grants.id
