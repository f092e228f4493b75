UPDATE grants SET
    claim_owner = :owner, claimed_at = :now, claim_until = :until,
    due_at = CASE WHEN state = 'reauthorization_required' THEN NULL ELSE CAST(:until AS timestamptz) END,
    in_doubt_since = CASE WHEN claim_owner IS NULL THEN in_doubt_since ELSE coalesce(in_doubt_since, claimed_at) END,
    forced_at = CASE WHEN state = 'reauthorization_required' THEN :now ELSE forced_at END
WHERE id = :id AND state <> 'erased' AND (claim_until IS NULL OR claim_until <= :now)
    AND access_version = coalesce(CAST(:seen AS bigint), access_version)
    AND (:by_operator OR CASE WHEN state = 'reauthorization_required'
        THEN :force AND (forced_at IS NULL OR forced_at <= :forced_before)
        ELSE attempts = 0 OR due_at <= :now END)
RETURNING id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at, last_read_at
