SELECT id, tenant, connection, user_id, provider_user_id, refresh_ciphertext, refresh_version, scopes FROM grants
WHERE id > :after AND (:tenant = '' OR tenant = :tenant) AND (:connection = '' OR connection = :connection)
    AND state IN ('active', 'in_doubt') AND refresh_ciphertext IS NOT NULL
    -- Its tokens are to be revoked, as soon as the call that has them has ended.
    AND NOT EXISTS (SELECT FROM revocations r WHERE r.grant_id = grants.id AND r.taken_at IS NULL)
ORDER BY id LIMIT :limit
