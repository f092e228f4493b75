WITH asked AS (
    SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:quotas AS integer[]))
        AS asked(tenant, name, quota)
), probing AS (
    UPDATE connections c SET circuit_until = :until FROM asked
    WHERE c.tenant = asked.tenant AND c.name = asked.name AND c.circuit_until <= :now
    RETURNING c.tenant, c.name
), open_connections AS (
    SELECT tenant, name, 1 AS quota FROM probing
    UNION ALL
    SELECT tenant, name, quota FROM asked JOIN connections USING (tenant, name) WHERE circuit_until IS NULL
), due AS (
    SELECT g.id FROM open_connections o CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = o.tenant AND grants.connection = o.name AND due_at <= :due_by
        ORDER BY due_at LIMIT o.quota FOR UPDATE SKIP LOCKED
    ) g
    LIMIT :limit
)
UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until, due_at = :until,
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END
FROM due WHERE grants.id = due.id
RETURNING grants.id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at, last_read_at
