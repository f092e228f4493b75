-- One statement, so that nothing comes between an answer and its commit. Each token is compared by itself: a login
-- that brought only a newer access token must not cost us the rotated refresh token. Whoever took the claim over holds
-- it on the token that is replaced here, so that claim is void. They, or an attempt whose own outcome was unknown, may
-- have presented the spent token again, and the provider may have revoked the new pair for it: the pair is stored all
-- the same, and tried at once, in doubt. Where only a refresh token came, the access token stays as it was.
WITH stored AS (
    UPDATE grants SET
        refresh_ciphertext = CASE WHEN NOT fresh_refresh THEN refresh_ciphertext ELSE :refresh_ciphertext END,
        refresh_version = refresh_version + CAST(fresh_refresh AS integer),
        refresh_expires_at = coalesce(CAST(:refresh_expires_at AS timestamptz), CASE WHEN NOT fresh_refresh THEN refresh_expires_at END),
        consent_expires_at = coalesce(CAST(:consent_expires_at AS timestamptz),
            CASE WHEN consent_is_counted THEN CAST(:counted_consent_end AS timestamptz) END, consent_expires_at),
        consent_is_counted = consent_is_counted AND CAST(:consent_expires_at AS timestamptz) IS NULL,
        extra_ciphertext = CASE WHEN fresh_access THEN coalesce(CAST(:extra_ciphertext AS bytea), extra_ciphertext)
            ELSE extra_ciphertext END,
        access_ciphertext = CASE WHEN fresh_access THEN :access_ciphertext ELSE access_ciphertext END,
        access_version = access_version + CAST(fresh_access AS integer),
        expires_at = CASE WHEN fresh_access THEN :expires_at ELSE expires_at END,
        obtained_at = CASE WHEN fresh_access THEN :obtained_at ELSE obtained_at END,
        obtained_from = CASE WHEN fresh_access THEN 'renewal' ELSE obtained_from END,
        scopes = CASE WHEN same_access THEN coalesce(CAST(:scopes AS text[]), scopes) ELSE scopes END,
        due_at = CASE WHEN presented_again THEN :obtained_at WHEN same_access OR NOT :is_own THEN :due_at ELSE least(due_at, :due_at) END,
        state = CASE WHEN presented_again THEN 'in_doubt' ELSE 'active' END,
        reason = CASE WHEN presented_again THEN 'reused' END,
        reason_since = CASE WHEN presented_again THEN coalesce(claimed_at, reason_since, :obtained_at) END,
        in_doubt_since = CASE WHEN presented_again THEN coalesce(claimed_at, reason_since, :obtained_at) END,
        failing_since = CASE WHEN NOT CAST(:lacks_access AS boolean) THEN failing_since
            WHEN attempts = 0 THEN :obtained_at ELSE coalesce(failing_since, :obtained_at) END,
        expiry_reported_version = CASE WHEN :is_failing THEN access_version ELSE expiry_reported_version END,
        attempts = CASE WHEN CAST(:lacks_access AS boolean) THEN attempts + 1 WHEN same_refresh THEN 0 ELSE attempts END,
        last_error = CASE WHEN CAST(:lacks_access AS boolean) THEN 'no_access_token' WHEN NOT same_refresh THEN last_error END,
        last_renewed_at = :obtained_at, renewal_ordered_at = NULL,
        claim_owner = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claim_owner END,
        claimed_at = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claimed_at END,
        claim_until = CASE WHEN claim_owner = :owner OR is_replaced THEN NULL ELSE claim_until END,
        awaited = false
    FROM (
        SELECT id AS locked_id, awaited AS was_awaited,
            CAST(:refresh_ciphertext AS bytea) IS NOT NULL AND claim_owner IS DISTINCT FROM :owner
                AND (claim_owner IS NOT NULL OR in_doubt_since IS NOT NULL OR coalesce(reason = 'lost_in_rotation', false))
                AS presented_again,
            refresh_version = :refresh_version AS same_refresh,
            refresh_version = :refresh_version AND CAST(:refresh_ciphertext AS bytea) IS NOT NULL AS fresh_refresh,
            refresh_version = :refresh_version AND access_version = :access_version AND :is_own AS same_access,
            access_version = :access_version AS is_unchanged,
            refresh_version = :refresh_version AND access_version = :access_version AND :is_own AND NOT CAST(:lacks_access AS boolean) AS fresh_access,
            -- The token that was sent: without a refresh token it is the access token.
            refresh_version = :refresh_version AND (CAST(:refresh_ciphertext AS bytea) IS NOT NULL
                OR refresh_ciphertext IS NULL AND access_version = :access_version) AS is_replaced
        FROM grants WHERE id = :id AND user_id = :user_id FOR UPDATE
    ) locked
    WHERE id = locked_id AND same_refresh AND state <> 'erased'
        AND (same_access OR fresh_refresh OR claim_owner = :owner)  -- else the answer says nothing of the grant as it is now
    RETURNING id, was_awaited, same_access, is_unchanged
), stored_resource AS (
    -- Where the grant's own token has changed meanwhile, its tokens may be about to be revoked: this one is asked for anew.
    INSERT INTO resource_tokens AS r (grant_id, resource, scope, ciphertext, version, expires_at, scopes, obtained_at)
    SELECT id, :resource, :scope, CAST(:access_ciphertext AS bytea), CAST(:target_version AS bigint),
        CAST(:expires_at AS timestamptz), CAST(:scopes AS text[]), CAST(:obtained_at AS timestamptz)
    FROM stored WHERE NOT :is_own AND is_unchanged AND CAST(:access_ciphertext AS bytea) IS NOT NULL
    ON CONFLICT (grant_id, resource, scope) DO UPDATE SET
        ciphertext = excluded.ciphertext, version = excluded.version, expires_at = excluded.expires_at,
        scopes = excluded.scopes, obtained_at = excluded.obtained_at, refusal = NULL, refusal_blame = NULL, refused_at = NULL
    WHERE r.version < excluded.version
), evicted AS (
    DELETE FROM resource_tokens r USING (
        SELECT t.grant_id, t.resource, t.scope FROM resource_tokens t JOIN stored ON stored.id = t.grant_id
        WHERE NOT :is_own AND (t.resource, t.scope) <> (:resource, :scope)
        ORDER BY t.ciphertext IS NULL, greatest(t.obtained_at, t.refused_at) DESC OFFSET :max_resource_tokens - 1
    ) old
    WHERE r.grant_id = old.grant_id AND r.resource = old.resource AND r.scope = old.scope
)
SELECT same_access, was_awaited FROM stored
