-- Takes the tokens of these grants away from readers and renewal, a batch at a time. Where a call has the refresh token
-- just now, the token stays until the call has ended: its answer would otherwise be thrown away, and nobody could
-- revoke the new token in it. No new claim is made meanwhile.
WITH chosen AS (
    SELECT id, claim_until IS NOT NULL AND claim_until > :now AS is_claimed FROM grants
    WHERE tenant = ANY(:tenants) AND id > :after AND state <> 'erased'
        AND (access_ciphertext IS NOT NULL OR refresh_ciphertext IS NOT NULL)
        AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
        AND (CAST(:connection AS text) IS NULL OR connection = :connection)
        AND NOT EXISTS (SELECT FROM revocations r WHERE r.grant_id = grants.id AND r.taken_at IS NULL)
    ORDER BY id LIMIT :limit FOR UPDATE
), recorded AS (
    INSERT INTO revocations (grant_id, tenant, connection, user_id, provider_user_id, requested_at, taken_at, in_doubt,
        access_ciphertext, access_version, access_expires_at, refresh_ciphertext, refresh_version, next_at)
    SELECT g.id, tenant, connection, user_id, provider_user_id, :now, CASE WHEN NOT is_claimed THEN :now END,
        claim_owner IS NOT NULL OR in_doubt_since IS NOT NULL,
        access_ciphertext, access_version, expires_at,
        CASE WHEN NOT is_claimed THEN refresh_ciphertext END, refresh_version, :now
    FROM grants g JOIN chosen ON chosen.id = g.id
), taken AS (
    UPDATE grants SET
        access_ciphertext = NULL, access_version = access_version + 1, extra_ciphertext = NULL,
        refresh_ciphertext = CASE WHEN is_claimed THEN refresh_ciphertext END,
        refresh_version = refresh_version + CAST(NOT is_claimed AS integer),
        state = 'reauthorization_required', reason = 'revoked', reason_since = :now, due_at = NULL, awaited = false,
        claim_owner = CASE WHEN is_claimed THEN claim_owner END,
        claimed_at = CASE WHEN is_claimed THEN claimed_at END,
        claim_until = CASE WHEN is_claimed THEN claim_until END,
        in_doubt_since = NULL, attempts = 0, last_error = NULL, refused_client = NULL,
        renewal_ordered_at = NULL
    FROM chosen WHERE grants.id = chosen.id
    RETURNING grants.id
)
SELECT id FROM taken ORDER BY id
