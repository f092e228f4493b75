-- Claims tokens of one connection to revoke. A claim that runs out is harmless: revoking twice is revoking once.
UPDATE revocations SET claimed_until = :until
FROM (
    SELECT id AS chosen_id FROM revocations
    WHERE tenant = :tenant AND connection = :connection AND finished_at IS NULL AND taken_at IS NOT NULL
        AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
        AND next_at <= :now AND (claimed_until IS NULL OR claimed_until <= :now)
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
) chosen
WHERE id = chosen_id
RETURNING id, grant_id, tenant, connection, user_id, provider_user_id, in_doubt, access_ciphertext, access_version,
    access_expires_at, refresh_ciphertext, refresh_version, attempts
