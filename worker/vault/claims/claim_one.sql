-- Claims one grant whatever its due time. It is due at the end of its claim at the latest, should its worker be killed.
UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until,
    due_at = CASE WHEN state = 'reauthorization_required' AND due_at IS NULL THEN NULL ELSE least(due_at, CAST(:until AS timestamptz)) END,
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END,
    forced_at = CASE WHEN state = 'reauthorization_required' THEN :now ELSE forced_at END
WHERE id = :id AND state <> 'erased'
    AND NOT EXISTS (SELECT FROM revocations r WHERE r.grant_id = grants.id AND r.taken_at IS NULL)
    AND (claim_until IS NULL OR claim_until <= :now)
    AND access_version = coalesce(CAST(:expected_access_version AS bigint), access_version)
    AND NOT EXISTS (
        SELECT FROM pauses p WHERE p.tenant IN ('', grants.tenant) AND p.connection IN ('', grants.connection))
    AND (:by_operator OR CASE WHEN state = 'reauthorization_required'
        THEN :force AND (forced_at IS NULL OR forced_at <= :forced_before)
        ELSE attempts = 0 OR due_at <= :now END)
RETURNING
    \ir claim_columns.sql
