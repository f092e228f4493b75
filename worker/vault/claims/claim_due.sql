-- Claims due grants of these connections, each within its quota, so that no connection's backlog or slow provider
-- crowds out the others. The lateral join reads each connection's range of the due index: a tick costs what is due.
-- An open circuit whose pause is over gets one probe; moving its pause on in this statement keeps other workers from
-- probing too. SKIP LOCKED lets workers claim side by side: none waits for a row that another is just claiming. A claim
-- leaves an earlier due time as it is: no indexed column changes, so Postgres writes no index (HOT), and a grant whose
-- worker was killed is due as soon as its claim has ended.
WITH asked AS (
    SELECT * FROM jsonb_to_recordset(CAST(:quotas AS jsonb)) AS asked(tenant text, name text, quota integer)
    -- What the operator has paused is left alone, probes included.
    WHERE NOT EXISTS (
        SELECT FROM pauses p WHERE p.tenant IN ('', asked.tenant) AND p.connection IN ('', asked.name))
), probing AS (
    UPDATE connections c SET circuit_until = :until FROM asked
    WHERE c.tenant = asked.tenant AND c.name = asked.name AND c.circuit_until <= :now
    RETURNING c.tenant, c.name, c.circuit_blame, c.renewed_at
), closed AS (
    SELECT tenant, name, quota FROM asked JOIN connections USING (tenant, name) WHERE circuit_until IS NULL
), due AS (
    SELECT g.id FROM closed o CROSS JOIN LATERAL (
        SELECT id FROM grants
        WHERE grants.tenant = o.tenant AND grants.connection = o.name AND due_at <= :due_by
            AND (claim_until IS NULL OR claim_until <= :now)
            -- Its tokens are to be revoked, as soon as the call that has them has ended.
            AND NOT EXISTS (SELECT FROM revocations r WHERE r.grant_id = grants.id AND r.taken_at IS NULL)
        ORDER BY due_at LIMIT o.quota FOR UPDATE SKIP LOCKED
    ) g
    LIMIT :limit
), probes AS (
    -- A probe takes a grant that was never refused, if need be before it is due: one that is dead itself proves
    -- nothing of the client. In an outage nothing is put at risk early. The one that is due last was renewed last:
    -- where several grants died, those that are left over come first in the other order.
    SELECT coalesce(
        (SELECT id FROM grants g
         WHERE g.tenant = probing.tenant AND g.connection = probing.name AND g.state IN ('active', 'in_doubt')
            AND g.due_at IS NOT NULL
            AND (g.due_at <= :due_by OR circuit_blame = 'operator' AND g.state = 'active' AND g.claim_owner IS NULL)
            AND (g.claim_until IS NULL OR g.claim_until <= :now)
            AND NOT EXISTS (SELECT FROM refusals WHERE grant_id = g.id)
            AND NOT EXISTS (SELECT FROM revocations r WHERE r.grant_id = g.id AND r.taken_at IS NULL)
         ORDER BY g.due_at DESC LIMIT 1 FOR UPDATE SKIP LOCKED),
        -- Where all were refused, each in turn: any of them may be dead itself, most of all those that were refused
        -- while the client still renewed others.
        (SELECT id FROM grants g JOIN refusals r ON r.grant_id = g.id
         WHERE r.tenant = probing.tenant AND r.connection = probing.name AND g.state = 'active'
            AND g.claim_owner IS NULL AND (g.due_at <= :due_by OR circuit_blame = 'operator')
         ORDER BY r.first_at < probing.renewed_at, r.last_at, g.last_renewed_at DESC NULLS LAST
         LIMIT 1 FOR UPDATE OF g SKIP LOCKED),
        (SELECT id FROM grants g
         WHERE g.tenant = probing.tenant AND g.connection = probing.name AND g.due_at <= :due_by
            AND (g.claim_until IS NULL OR g.claim_until <= :now)
         ORDER BY g.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    ) AS id
    FROM probing
)
UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until, due_at = least(due_at, :until),
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END
FROM (SELECT id AS found_id FROM due UNION ALL SELECT id FROM probes) found WHERE grants.id = found_id
RETURNING
    \ir claim_columns.sql
