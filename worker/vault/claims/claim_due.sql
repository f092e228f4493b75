-- Claims due grants of these connections, each within its quota, so that no connection's backlog or slow provider
-- crowds out the others. The lateral join reads each connection's range of the due index: a tick costs what is due.
-- An open circuit whose pause is over gets one probe; moving its pause on in this statement keeps other workers from
-- probing too. SKIP LOCKED lets workers claim side by side: none waits for a row that another is just claiming.
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
RETURNING
    \ir claim_columns.sql
