WITH released AS (
    UPDATE grants SET
        claim_owner = NULL, claimed_at = NULL, claim_until = NULL, awaited = false,
        state = coalesce(CAST(:state AS text), state),
        reason = CASE WHEN CAST(:state AS text) IS NULL THEN reason ELSE :reason END,
        reason_since = CASE WHEN CAST(:state AS text) IS NULL THEN reason_since ELSE CAST(:reason_since AS timestamptz) END,
        in_doubt_since = CASE WHEN :doubt_resolved THEN NULL ELSE coalesce(in_doubt_since, CAST(:in_doubt_since AS timestamptz)) END,
        -- Without a time for a grant that lives: it was dead when it was claimed, and an answer has come in since.
        due_at = CASE coalesce(CAST(:state AS text), state)
            WHEN 'reauthorization_required' THEN CAST(:due_at AS timestamptz)
            WHEN 'active' THEN coalesce(CAST(:due_at AS timestamptz), due_at, now())
            WHEN 'in_doubt' THEN coalesce(CAST(:due_at AS timestamptz), due_at, now()) END,
        refused_client = coalesce(CAST(:refused_client AS bytea), refused_client),
        -- A count that begins anew begins with this failure.
        failing_since = CASE WHEN CAST(:attempts AS integer) = 0 THEN NULL
            WHEN attempts = 0 THEN claimed_at ELSE coalesce(failing_since, claimed_at) END,
        expiry_reported_version = CASE WHEN :is_failing THEN access_version ELSE expiry_reported_version END,
        attempts = :attempts, last_error = coalesce(:last_error, last_error)
    FROM (SELECT id AS locked_id, awaited AS was_awaited FROM grants WHERE id = :id FOR UPDATE) locked
    WHERE id = locked_id AND claim_owner = :owner
        AND refresh_version = :refresh_version AND access_version >= :access_version AND state <> 'erased'
    RETURNING id, was_awaited
)
SELECT id, was_awaited FROM released
