WITH released AS (
    UPDATE grants SET
        claim_owner = NULL, claimed_at = NULL, claim_until = NULL, awaited = false,
        due_at = CASE WHEN state IN ('active', 'in_doubt') OR state = 'reauthorization_required' AND due_at IS NOT NULL
            THEN CAST(:due_at AS timestamptz) END
    FROM (SELECT id AS locked_id, awaited AS was_awaited FROM grants WHERE id = ANY(:ids) FOR UPDATE) locked
    WHERE id = locked_id AND claim_owner = :owner
    RETURNING id, was_awaited
)
SELECT id, was_awaited FROM released
