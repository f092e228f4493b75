-- Takes the refresh tokens whose calls have ended since: what the provider answered, or what was sent.
WITH ended AS (
    SELECT r.id, g.id AS grant_id, g.refresh_ciphertext, g.refresh_version, g.claim_owner IS NOT NULL AS in_doubt,
        g.user_id, g.provider_user_id
    FROM revocations r JOIN grants g ON g.id = r.grant_id
    WHERE r.taken_at IS NULL AND r.tenant = ANY(:tenants) AND (g.claim_until IS NULL OR g.claim_until <= :now)
    FOR UPDATE OF g
), recorded AS (
    UPDATE revocations r SET
        taken_at = :now, refresh_ciphertext = ended.refresh_ciphertext, refresh_version = ended.refresh_version,
        in_doubt = ended.in_doubt, user_id = ended.user_id, provider_user_id = ended.provider_user_id
    FROM ended WHERE r.id = ended.id
)
UPDATE grants SET
    refresh_ciphertext = NULL, refresh_version = grants.refresh_version + 1,
    state = 'reauthorization_required', reason = 'revoked', reason_since = :now, due_at = NULL, awaited = false,
    claim_owner = NULL, claimed_at = NULL, claim_until = NULL, in_doubt_since = NULL, attempts = 0, last_error = NULL, refused_client = NULL,
    renewal_ordered_at = NULL
FROM ended WHERE grants.id = ended.grant_id
RETURNING grants.id
