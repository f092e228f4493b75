SELECT g.id, g.tenant, g.connection, g.user_id, g.provider_user_id, g.state, g.reason, g.reason_since,
    g.access_version, g.access_ciphertext IS NOT NULL AS has_access, g.refresh_version,
    g.expires_at, g.refresh_expires_at, g.consent_expires_at, g.scopes, g.obtained_at,
    g.obtained_from, g.observed_access, g.observed_refresh, g.observed_updated_at, g.user_created_at, g.imported_at, g.due_at,
    g.claim_owner, g.claimed_at, g.claim_until, g.awaited, g.in_doubt_since, g.attempts, g.last_error, g.last_read_at
FROM grants g
JOIN
    \ir ../grants/identities.sql
    USING (user_id, connection, tenant, provider_user_id)
ORDER BY g.id FOR UPDATE OF g
