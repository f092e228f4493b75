-- In the order of ids, as every statement that locks several grants.
SELECT g.id, g.tenant, g.connection, g.user_id, g.provider_user_id, g.state, g.reason, g.access_version,
    g.refresh_version, g.refresh_ciphertext IS NOT NULL AS has_refresh, g.claim_until, g.last_renewed_at,
    g.obtained_from, g.attempts, g.observed_refresh, g.imported_refresh, g.imported_at
FROM grants g
JOIN
    \ir ../grants/identities.sql
    USING (user_id, connection, tenant, provider_user_id)
ORDER BY g.id FOR UPDATE OF g
