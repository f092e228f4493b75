-- A claim under way keeps its deadline: once it has ended without a new pair, the grant is due again by itself.
WITH chosen AS (
    SELECT id FROM grants
    WHERE tenant = ANY(:tenants) AND id > :after AND state IN ('active', 'in_doubt') AND renewal_ordered_at IS NULL
        AND (CAST(:connection AS text) IS NULL OR connection = :connection)
    ORDER BY id LIMIT :limit FOR UPDATE
)
UPDATE grants SET
    renewal_ordered_at = :now, due_at = CASE WHEN claim_owner IS NULL THEN least(due_at, :now) ELSE due_at END
FROM chosen WHERE grants.id = chosen.id
RETURNING grants.id
